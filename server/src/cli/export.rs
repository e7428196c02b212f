//! `hilda models export`: a model in a format that others read.

use std::path::PathBuf;

use hilda_engine::config::Family;
use hilda_engine::model::export::{ExportError, to_folder, to_gguf};
use hilda_engine::model::lora::{self, Adapter};
use hilda_engine::model::{Layout, LoadedModel, checkpoint::Format, gguf::GgufFormat};
use hilda_kernels::Cpu;

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
    /// number format of matrices; vectors of a GGUF file stay F32
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
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
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
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
    let format = match a.dtype {
        Dtype::F32 => (Format::F32, GgufFormat::F32),
        Dtype::F16 => (Format::F16, GgufFormat::F16),
        Dtype::Q8_0 if a.to == To::Hf => {
            let message = "--dtype q8_0 is a GGUF format; a folder holds f32 or f16";
            return Err(CliError::BadInput(message.into()));
        }
        Dtype::Q8_0 => (Format::F32, GgufFormat::Q8_0),
    };
    let (mut model, tokenizer) = open_model(&a.model)?;
    if let Some(dir) = &a.adapter {
        merge(&mut model, dir)?;
    }
    match a.to {
        To::Gguf => to_gguf(&model, Some(&tokenizer), format.1, &a.out)?,
        To::Hf => {
            if model.config.arch.family == Family::Dit {
                eprintln!("a DiT is written with its modulation folded in, which only HILDA reads");
            }
            let name = a.out.file_name().unwrap_or_default().to_string_lossy();
            to_folder(&model, Some(&tokenizer), format.0, &card(&name, &model), &a.out)?;
        }
    }
    let bytes =
        if a.out.is_dir() { folder_bytes(&a.out) } else { std::fs::metadata(&a.out).map_or(0, |m| m.len()) };
    if a.json {
        println!("{}", serde_json::json!({ "out": a.out, "bytes": bytes }));
    } else {
        eprintln!("{}: {}", a.out.display(), bytes_text(bytes));
    }
    Ok(())
}

fn merge(model: &mut LoadedModel, dir: &std::path::Path) -> Result<(), CliError> {
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
