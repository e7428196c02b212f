//! `hilda models average A B C --out DIR`: the arithmetic mean of checkpoints of one run (WSM; LLaDA 2.0, arXiv 2512.15745,
//! section 3: the best few by validation, of one block-size stage). Offline, distinct from the average kept in training.

use std::path::PathBuf;

use hilda_engine::model::Serving;
use hilda_engine::model::checkpoint::Format;
use hilda_engine::model::export::to_folder;

use super::CliError;
use super::sample::open_model;

#[derive(clap::Args)]
pub struct Average {
    /// two or more models of the same shape, stage and tokenizer
    #[arg(required = true, num_args = 2..)]
    models: Vec<PathBuf>,
    /// folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(a: Average) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    if a.out.exists() {
        return Err(bad(format!("--out {}: is there already", a.out.display())));
    }
    let (mut first, tokenizer) = open_model(&a.models[0])?;
    // sums in f64, in the order they were named
    let mut sums: Vec<f64> = first.params.iter().map(|p| *p as f64).collect();
    let stage = |s: Serving| (s.attention, s.block_size, s.shift);
    for path in &a.models[1..] {
        let (next, other) = open_model(path)?;
        let what = |what: &str| {
            bad(format!("{}: has another {what} than {}", path.display(), a.models[0].display()))
        };
        if next.config != first.config {
            return Err(what("shape"));
        }
        if stage(next.serving) != stage(first.serving) {
            return Err(what("attention, block size or shift; average checkpoints of one stage"));
        }
        if other.hash() != tokenizer.hash() {
            return Err(what("tokenizer"));
        }
        sums.iter_mut().zip(&next.params).for_each(|(s, p)| *s += *p as f64);
    }
    let n = a.models.len() as f64;
    first.params.iter_mut().zip(&sums).for_each(|(p, s)| *p = (s / n) as f32);
    let names: Vec<String> =
        a.models.iter().map(|m| m.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
    let card = format!("# Average of {} checkpoints\n\n{}\n", names.len(), names.join("\n"));
    to_folder(&first, Some(&tokenizer), Format::F32, &card, &a.out)?;
    println!("{}", a.out.display());
    Ok(())
}
