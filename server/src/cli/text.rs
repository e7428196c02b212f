//! `hilda eval text`: samples of a model, their entropy, repetition and story checks, a judge's perplexity and distance,
//! and the cost of writing them, with the same figures of real text beside them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hilda_engine::data::Tokenizer;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::decode::Attention;
use hilda_engine::eval::text::judge::{Judge, Opinion};
use hilda_engine::eval::text::stories::{stories, vocabulary};
use hilda_engine::eval::text::surface::{surface, words};
use hilda_engine::eval::text::{cost, law, sample};
use hilda_engine::model::generate::{GenerateError, Request, default_policy};
use hilda_engine::model::{LoadedModel, Trunk};
use hilda_kernels::{Backend, Cpu};
use serde_json::{Value, json};

use super::CliError;
use super::arithmetic::Numbers;
use super::progress::Progress;
use super::sample::{open_model, open_switch, parse_policy};

#[derive(clap::Args)]
pub struct Args {
    /// model folder, GGUF file, pulled model's name, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// an autoregressive model that the text is judged by
    #[arg(long, value_name = "DIR")]
    pub judge: Option<PathBuf>,
    /// real text to stand beside (text or JSONL)
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// training text, for words that it does not hold
    #[arg(long, value_name = "FILE")]
    pub train: Option<PathBuf>,
    /// texts
    #[arg(long, default_value_t = 64)]
    pub count: u32,
    /// tokens of each
    #[arg(long, default_value_t = 128)]
    pub length: usize,
    /// tokens per sample of the entropy
    #[arg(long, default_value_t = 64)]
    pub n: usize,
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// name or JSON [default: the model's own]
    #[arg(long)]
    pub policy: Option<String>,
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f32,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub numbers: Numbers,
    #[arg(long)]
    pub json: bool,
}

struct Judging {
    model: LoadedModel,
    tokenizer: Tokenizer,
    trunk: Trunk,
    params: Vec<f32>,
}

impl Judging {
    fn open(path: &Path) -> Result<Judging, CliError> {
        let (model, tokenizer) = open_model(path)?;
        if model.serving.attention != Attention::Causal {
            return Err(CliError::BadInput(format!(
                "--judge {}: a judge is autoregressive; this model has no left-to-right likelihood in one forward",
                path.display()
            )));
        }
        let trunk = Trunk::new(model.config.clone());
        let mut params = Cpu.buf(trunk.layout.total);
        Cpu.write(&mut params, 0, &model.params);
        Ok(Judging { model, tokenizer, trunk, params })
    }
    fn judge(&self) -> Judge<'_, Cpu> {
        Judge { backend: &Cpu, trunk: &self.trunk, params: &self.params }
    }
    /// Opinion of (text, ended).
    fn opinion(&self, texts: &[(String, bool)]) -> Result<Opinion, CliError> {
        let bad = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
        let mut all = vec![];
        for (text, ended) in texts {
            all.push((self.tokenizer.encode(text).map_err(bad)?, *ended, text.len()));
        }
        Ok(self.judge().opinion(&all))
    }
}

pub fn run(a: Args) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    if !(2..=65536).contains(&a.count) {
        return Err(bad(format!("--count {} is outside 2..65536", a.count)));
    }
    if !(0.0..=10.0).contains(&a.temperature) {
        return Err(bad(format!("--temperature {} is outside 0..10", a.temperature)));
    }
    if a.n == 0 || a.n > a.length {
        return Err(bad(format!("--n {} is outside 1..{} (the length of a text)", a.n, a.length)));
    }
    let read = |path: &Path| {
        let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
        read_documents(path, &guess_format(path).map_err(data)?).map_err(data)
    };
    let known = a.train.as_deref().map(read).transpose()?.map(|t| vocabulary(&t));
    let reference = a.data.as_deref().map(read).transpose()?;
    let judging = a.judge.as_deref().map(Judging::open).transpose()?;
    let policy = a.policy.as_deref().map(parse_policy).transpose()?;
    let (model, tokenizer) = open_model(&a.model)?;
    let policy = policy.unwrap_or(default_policy(model.serving));
    let request = Request {
        policy: Some(policy),
        temperature: a.temperature,
        seed: a.seed,
        top_k: 0,
        switch: open_switch(&a.model, Some(policy))?,
        ..Request::new(a.prompt.as_str(), a.length)
    };
    let weights = Arc::new(a.numbers.weights(&Cpu, &model)?);
    let mut bar = Progress::new("text");
    let began = std::time::Instant::now();
    let samples = sample(&Cpu, &weights, model.serving, &tokenizer, &request, a.count, |n| {
        bar.update(n as u64, a.count as u64, "");
        true
    })
    .map_err(|e| match e {
        GenerateError::Session(_) => CliError::Failure(e.to_string()),
        e => bad(e.to_string()),
    })?;
    bar.finish();
    let seconds = began.elapsed().as_secs_f64();
    let eos = model.config.eos_id;
    let tokens: usize = samples.iter().map(|s| s.tokens(eos).len()).sum();
    let own: Vec<(String, Vec<u32>)> =
        samples.iter().map(|s| (s.text.clone(), s.tokens(eos).to_vec())).collect();
    let texts: Vec<String> = own.iter().map(|t| t.0.clone()).collect();

    // real text under the same cut: as many documents, each at most as long
    let mut real: Vec<(String, Vec<u32>)> = vec![];
    for d in reference.iter().flatten().take(a.count as usize) {
        let mut ids = tokenizer.encode(d).map_err(|e| bad(e.to_string()))?;
        ids.truncate(a.length);
        real.push((tokenizer.decode(&ids), ids));
    }
    let count = |t: &[(String, Vec<u32>)]| t.iter().map(|t| words(&t.0).len()).sum::<usize>();
    let most = if real.is_empty() { count(&own) } else { count(&own).min(count(&real)) };

    let mut out = json!({
        "model": a.model.display().to_string(), "policy": policy, "temperature": a.temperature, "seed": a.seed,
        "count": samples.len(), "length": a.length, "prompt": a.prompt,
        "surface": surface(&own, a.n, most), "stories": stories(&texts, known.as_ref()),
        "unfinished": samples.iter().filter(|s| !s.finished).count() as f64 / samples.len() as f64,
        "cost": cost(&samples, &model.config), "tokens_per_s": tokens as f64 / seconds, "law": law(policy, a.temperature),
    });
    if !real.is_empty() {
        let texts: Vec<String> = real.iter().map(|t| t.0.clone()).collect();
        out["reference"] =
            json!({"surface": surface(&real, a.n, most), "stories": stories(&texts, known.as_ref())});
    }
    if let Some(j) = &judging {
        let ended: Vec<(String, bool)> = samples.iter().map(|s| (s.text.clone(), s.finished)).collect();
        out["judge"] = json!(j.opinion(&ended)?);
        if !real.is_empty() {
            let ended: Vec<(String, bool)> =
                real.iter().map(|(t, ids)| (t.clone(), ids.len() < a.length)).collect();
            out["reference"]["judge"] = json!(j.opinion(&ended)?);
            // an anchor at the other end: the words of each text in alphabetical order
            let shuffled: Vec<(String, bool)> = ended
                .iter()
                .map(|(t, e)| {
                    let mut w: Vec<&str> = t.split_whitespace().collect();
                    w.sort_unstable();
                    (w.join(" "), *e)
                })
                .collect();
            out["reference"]["judge_of_sorted_words"] = json!(j.opinion(&shuffled)?);
        }
        let same = j.tokenizer.hash() == tokenizer.hash();
        let fits = j.model.config.vocab == model.config.vocab;
        let mut prompt = vec![eos];
        prompt.extend(tokenizer.encode(&a.prompt).map_err(|e| bad(e.to_string()))?);
        out["kl_judge"] = match (
            same && fits,
            j.judge().divergence(&prompt, &samples, law(policy, a.temperature)),
        ) {
            (true, Some(d)) => json!(d),
            (false, _) => json!({"absent": "the judge has another tokenizer"}),
            (true, None) => {
                json!({"absent": "this policy has no known law at this temperature; left_to_right, top_prob by \
                                    margin or entropy, entropy_bound and ancestral at temperature 1 have one"})
            }
        };
    }
    if a.json {
        println!("{out}");
    } else {
        print(&out);
    }
    Ok(())
}

fn print(out: &Value) {
    let get = |v: &Value, path: &str| path.split('.').fold(v.clone(), |v, k| v[k].clone());
    let row = |name: &str, path: &str| {
        let text = |v: Value| v.as_f64().map_or("-".to_string(), |x| format!("{x:.4}"));
        let reference = text(get(&out["reference"], path));
        println!("{name:<44} {:>12} {reference:>12}", text(get(out, path)));
    };
    println!("{:<44} {:>12} {:>12}", "", "model", "real text");
    row("unigram entropy, nats (mean)", "surface.entropy");
    row("unigram entropy, nats (10 % quantile)", "surface.entropy_tenth");
    row("unigram entropy, nats (all texts)", "surface.entropy_pooled");
    for (i, n) in [1, 2, 4].iter().enumerate() {
        let of = |v: &Value| v["surface"]["distinct"][i].as_f64().map_or("-".into(), |x| format!("{x:.4}"));
        println!("{:<44} {:>12} {:>12}", format!("distinct-{n}"), of(out), of(&out["reference"]));
    }
    row("repeated 4-grams inside a text", "surface.repetition");
    row("texts that loop", "surface.loops");
    row("words that repeat their neighbour", "surface.stutter");
    row("unknown words", "stories.unknown_words");
    row("quotes closed", "stories.quotes_closed");
    row("ends in . ! ? or a quote", "stories.ends_well");
    row("starts with Once upon a time", "stories.once_upon");
    row("names a text", "stories.names");
    row("bytes a text", "stories.bytes");
    row("judge: nats per token", "judge.nats_per_token");
    row("judge: perplexity (genppl_v1)", "judge.perplexity");
    row("judge: nats per byte", "judge.nats_per_byte");
    row("KL from the judge, nats per token", "kl_judge.nats_per_token");
    row("unfinished texts", "unfinished");
    row("forwards a text", "cost.forwards_per_text");
    row("tokens per forward", "cost.tokens_per_forward");
    row("positions per token", "cost.positions_per_token");
    row("edits a text", "cost.edits_per_text");
    row("tokens per second", "tokens_per_s");
    if let Some(why) = out["kl_judge"]["absent"].as_str() {
        println!("no kl_judge: {why}");
    }
}
