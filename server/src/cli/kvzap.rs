//! `hilda models kvzap MODEL --data TEXT`: fits the regression that the press `kvzap` scores cached positions with, and writes it
//! into the model's folder ([`hilda_engine::model::cache::oracle`]).

use std::path::PathBuf;

use hilda_engine::data::DataError;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::decode::Attention;
use hilda_engine::files;
use hilda_engine::model::cache::oracle::{Writer, fit};
use hilda_engine::model::cache::{KVZAP, Target};
use hilda_engine::model::session::Weights;
use hilda_engine::model::source::Source;

use super::progress::Progress;
use super::sample::open_model;
use super::{CliError, data_dir};
use crate::library;

#[derive(clap::Args)]
pub struct Args {
    /// model folder, run folder for its newest checkpoint, or the name of a pulled model
    model: PathBuf,
    /// text or JSONL file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// tokens whose importance is learned; each document needs twice as many
    #[arg(long, default_value_t = 96)]
    context: usize,
    /// most documents; every eighth is held out
    #[arg(long, default_value_t = 64)]
    documents: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(a: &Args) -> Result<(), CliError> {
    let bad = |e: &dyn std::fmt::Display| CliError::BadInput(e.to_string());
    let place = library::place(&data_dir(), &a.model);
    let folder = match Source::open(&place).map_err(|e| bad(&e))? {
        Source::Folder(folder) => folder,
        Source::Gguf(file) => {
            let message =
                format!("{}: {KVZAP} lies in a model's folder, and this is one file", file.display());
            return Err(CliError::BadInput(message));
        }
    };
    let (model, tokenizer) = open_model(&a.model)?;
    let in_data = |e: DataError| CliError::BadInput(format!("--data {}: {e}", a.data.display()));
    let mut texts = vec![];
    for document in read_documents(&a.data, &guess_format(&a.data).map_err(in_data)?).map_err(in_data)? {
        if texts.len() == a.documents {
            break;
        }
        // as a document begins when it is decoded
        let mut ids = vec![tokenizer.specials().eos];
        ids.extend(tokenizer.encode(&document).map_err(in_data)?);
        if ids.len() >= 2 * a.context {
            texts.push(ids);
        }
    }
    let (serving, all) = (model.serving, texts.len());
    let block = if serving.attention == Attention::Causal { 1 } else { serving.block_size };
    let writer = Writer { attention: serving.attention, block, shift: serving.shift };
    let weights = Weights::of(model);
    let mut bar = Progress::new("context");
    let fitted = fit(&weights, writer, &texts, a.context, a.seed, |n| bar.pass(n as u64, all as u64));
    bar.finish();
    let fitted = fitted.map_err(|e| bad(&e))?;
    let path = folder.join(KVZAP);
    let json = serde_json::to_vec(&fitted).expect("plain data");
    files::replace(&path, &json).map_err(|e| CliError::Failure(format!("{}: {e}", path.display())))?;
    let by = match fitted.target {
        Target::Repeat => "their repetition",
        Target::Continuation => "their continuation",
    };
    println!(
        "{}: {} contexts of {} tokens, scored by {by} (the model repeats {:.1} % of masked tokens right), {} held out",
        path.display(),
        fitted.documents[0],
        fitted.context,
        100.0 * fitted.repeat_accuracy,
        fitted.documents[1]
    );
    for (layer, linear) in fitted.layers.iter().enumerate() {
        println!("layer {layer}: R2 {:.3} on the held-out contexts", linear.r2);
    }
    Ok(())
}
