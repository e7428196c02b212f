//! `hilda models export`: a model in a format that others read.

use std::path::{Path, PathBuf};

use hilda_engine::config::Family;
use hilda_engine::data::Tokenizer;
use hilda_engine::model::export::{ExportError, to_folder, to_gguf, to_page};
use hilda_engine::model::lora::{self, Adapter};
use hilda_engine::model::page::{self, PageDtype};
use hilda_engine::model::source::Source;
use hilda_engine::model::{Layout, LoadedModel, checkpoint::Format, gguf::GgufFormat};
use hilda_engine::record::Estimate;
use hilda_kernels::Cpu;
use serde::Serialize;
use serde_json::json;

use super::likelihood::{Measure, likelihood};
use super::sample::open_model;
use super::{CliError, bytes_text};
use crate::storage::folder_bytes;

#[derive(clap::Args)]
pub struct Export {
    /// model folder, GGUF file, run folder, or the name of a pulled model
    model: PathBuf,
    #[arg(long, value_enum)]
    to: To,
    /// file or folder to write; must not exist
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// number format of matrices; vectors of a GGUF file and of a page folder stay F32 [default: f32; for the page int8]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// also measure what the numbers of a page folder cost on this text, against float32, and say it in the card
    #[arg(long, value_name = "FILE")]
    measure: Option<PathBuf>,
    /// rows of the measurement (0 = all), of 256 tokens or the model's context
    #[arg(long, default_value_t = 32, requires = "measure")]
    rows: usize,
    /// draws a row of the measurement
    #[arg(long, default_value_t = 8, requires = "measure")]
    k: usize,
    /// merge this LoRA adapter (a folder in PEFT's layout) into the weights
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum To {
    /// a folder that transformers loads
    Hf,
    /// one file for llama.cpp and its kin
    Gguf,
    /// a folder in pieces that the page opens and keeps
    Page,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    Int8,
    #[value(name = "q4_0")]
    Q4_0,
}

impl From<ExportError> for CliError {
    fn from(e: ExportError) -> Self {
        match e {
            ExportError::Io { .. } => CliError::Failure(e.to_string()),
            e => CliError::BadInput(e.to_string()),
        }
    }
}

pub fn run(a: Export) -> Result<(), CliError> {
    let dtype = a.dtype.unwrap_or(if a.to == To::Page { Dtype::Int8 } else { Dtype::F32 });
    let refused = |takes: &str| {
        let value = clap::ValueEnum::to_possible_value(&dtype);
        let name = value.map(|v| v.get_name().to_string()).unwrap_or_default();
        CliError::BadInput(format!("--dtype {name} does not go there; {takes}"))
    };
    if a.measure.is_some() && a.to != To::Page {
        return Err(CliError::BadInput("--measure is for --to page".into()));
    }
    let write: Write = match (a.to, dtype) {
        (To::Hf, Dtype::F32) => Write::Folder(Format::F32),
        (To::Hf, Dtype::F16) => Write::Folder(Format::F16),
        (To::Hf, _) => return Err(refused("a folder holds f32 or f16")),
        (To::Gguf, Dtype::F32) => Write::Gguf(GgufFormat::F32),
        (To::Gguf, Dtype::F16) => Write::Gguf(GgufFormat::F16),
        (To::Gguf, Dtype::Q8_0) => Write::Gguf(GgufFormat::Q8_0),
        (To::Gguf, _) => return Err(refused("a GGUF file holds f32, f16 or q8_0")),
        (To::Page, Dtype::Int8) => Write::Page(PageDtype::Int8),
        (To::Page, Dtype::Q4_0) => Write::Page(PageDtype::Q4_0),
        (To::Page, _) => return Err(refused("the page reads int8 or q4_0")),
    };
    let (mut model, tokenizer) = open_model(&a.model)?;
    if let Some(dir) = &a.adapter {
        merge(&mut model, dir)?;
    }
    let name = a.out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut cost = None;
    match write {
        Write::Gguf(format) => to_gguf(&model, Some(&tokenizer), format, &a.out)?,
        Write::Folder(format) => {
            if model.config.arch.family == Family::Dit {
                eprintln!("a DiT is written with its modulation folded in, which only HILDA reads");
            }
            to_folder(&model, Some(&tokenizer), format, &card(&name, &model), &a.out)?;
        }
        Write::Page(dtype) => {
            let fit = (page::bytes(&model.config, dtype), page::memory(&model.config));
            if fit.0 > page::MOST_BYTES || fit.1 > page::MOST_MEMORY {
                eprintln!(
                    "too large for the page: {} of files and {} of memory, where it opens up to {} and {}",
                    bytes_text(fit.0),
                    bytes_text(fit.1),
                    bytes_text(page::MOST_BYTES),
                    bytes_text(page::MOST_MEMORY)
                );
            }
            to_page(&model, &tokenizer, dtype, &a.out, |written| {
                cost = a
                    .measure
                    .as_deref()
                    .map(|text| measure(&a, text, &model, &tokenizer, written))
                    .transpose()?;
                let readme = page_card(&name, &model, dtype, cost.as_ref());
                let card = json!({
                    "name": name, "family": model.config.arch.family, "weights": dtype.name(),
                    "parameters": model.config.parameters(), "memory": fit.1, "quantisation": cost,
                    "likelihood": cost.as_ref().map(|c| &c.quantised),
                });
                let card = serde_json::to_vec_pretty(&card).expect("plain data");
                Ok::<_, CliError>(vec![("README.md", readme.into_bytes()), ("card.json", card)])
            })?;
        }
    }
    let bytes =
        if a.out.is_dir() { folder_bytes(&a.out) } else { std::fs::metadata(&a.out).map_or(0, |m| m.len()) };
    if a.json {
        println!("{}", json!({ "out": a.out, "bytes": bytes, "quantisation": cost }));
    } else {
        eprintln!("{}: {}", a.out.display(), bytes_text(bytes));
        if let Some(cost) = &cost {
            println!("{cost}");
        }
    }
    Ok(())
}

enum Write {
    Folder(Format),
    Gguf(GgufFormat),
    Page(PageDtype),
}

/// What quantisation costs: one text, the same rows and draws, both weights.
#[derive(Serialize)]
struct Cost {
    text: String,
    length: usize,
    float32: Estimate,
    quantised: Estimate,
    /// (quantised - float32) / float32
    relative: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (a, b) = (&self.float32, &self.quantised);
        write!(
            f,
            "{} = {:.4} nats per token, {:+.3} % against float32 ({:.4} \u{b1} {:.4}; {}, {} rows of {}, {} tokens, \
             the same draws, seed {})",
            b.estimator,
            b.value,
            100.0 * self.relative,
            a.value,
            a.stderr,
            self.text,
            a.rows,
            self.length,
            a.tokens,
            a.seed
        )
    }
}

/// Longest rows of a measurement.
const MEASURED: usize = 256;

/// The likelihood under the float32 weights and under those of the written folder.
fn measure(
    a: &Export,
    text: &Path,
    model: &LoadedModel,
    tokenizer: &Tokenizer,
    written: &Path,
) -> Result<Cost, CliError> {
    let length = model.config.context.min(MEASURED);
    let m = Measure {
        estimator: None,
        block: None,
        k: a.k,
        seed: 0,
        documents: false,
        length: Some(length),
        limit: a.rows,
    };
    let read = |e: hilda_engine::model::source::SourceError| CliError::Failure(e.to_string());
    let (float32, length) = likelihood(model, tokenizer, text, &m)?;
    let small = Source::open(written).and_then(|s| s.load()).map_err(read)?;
    let (quantised, _) = likelihood(&small, tokenizer, text, &m)?;
    let relative = (quantised.value - float32.value) / float32.value;
    let text = text.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Cost { text, length, float32, quantised, relative })
}

fn page_card(name: &str, model: &LoadedModel, dtype: PageDtype, cost: Option<&Cost>) -> String {
    let numbers = match dtype {
        PageDtype::Int8 => "int8 rows",
        PageDtype::Q4_0 => "4-bit blocks of 32 (Q4_0; embedding and head int8 rows)",
    };
    let cost = cost.map_or("What they cost in likelihood was not measured.".to_string(), |c| {
        format!("With these weights: {c}.")
    });
    let memory = bytes_text(page::memory(&model.config));
    format!(
        "{}\nMatrices are {numbers}; in memory they are float32, {memory} in the page. {cost}\n",
        card(name, model)
    )
}

fn merge(model: &mut LoadedModel, dir: &Path) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(format!("{}: {m}", dir.display()));
    let read = |name: &str| std::fs::read(dir.join(name)).map_err(|e| bad(format!("{name}: {e}")));
    let layout = Layout::new(&model.config);
    let adapter = Adapter::from_peft(&model.config, &layout, &read(lora::CONFIG)?, &read(lora::WEIGHTS)?);
    let base = model.params.clone();
    adapter.map_err(|e| bad(e.to_string()))?.merge(&Cpu, &base, &mut model.params, layout.total);
    Ok(())
}

fn card(name: &str, model: &LoadedModel) -> String {
    let s = model.serving;
    let block = if s.block_size > 1 { format!(", blocks of {}", s.block_size) } else { String::new() };
    let shift = if s.shift { "token n is read from row n - 1" } else { "token n is read from its own row" };
    let attention = format!("{:?}", s.attention).to_lowercase();
    format!(
        "# {name}\n\nWritten by HILDA. Attention is {attention}{block}; {shift}; the mask token has id {}. \
         `config.json` says the same under `hilda`. Whoever runs the model with causal attention gets another model.\n",
        model.config.mask_id
    )
}
