//! Training checkpoints: `ckpt/step-N/{config.json, model.safetensors, trainer.safetensors, tokenizer.json,
//! README.md}`, written beside and renamed. Resuming from one continues bit for bit.
//!
//! `model.safetensors` holds the weights that are evaluated (the average if it is on; with adapters the merged ones);
//! `trainer.safetensors` the raw weights, both moments and the counters. A run that trains adapters also keeps them
//! apart, in PEFT's layout in `adapter/`; its raw weights are those that stay.

use std::fs;
use std::path::{Path, PathBuf};

use hilda_kernels::Train;
use safetensors::Dtype;

use super::folder::{FolderError, io};
use super::step::Learner;
use crate::model::Serving;
use crate::model::checkpoint::{self as model, CheckpointError, Format, MODEL};
use crate::model::lora;
use crate::model::source::{Source, SourceError};

const TRAINER: &str = "trainer.safetensors";
/// Folder of a checkpoint's adapters.
pub const ADAPTER: &str = "adapter";

/// Counters of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    pub step: u64,
    pub tokens: u64,
    pub updates: u64,
    pub ema_updates: u64,
    pub ema: bool,
    /// best validation value so far, and where
    pub best: Option<(f64, u64)>,
    pub seconds: f64,
}

/// Errors of saving and resuming.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Source(#[from] SourceError),
    /// what was read from the device is not what it computed
    #[error("{0}")]
    Device(String),
    /// the source names the file in the folder
    #[error("{}/{source}", path.display())]
    Checkpoint { path: PathBuf, source: CheckpointError },
}

/// Steps with a complete checkpoint, ascending.
pub fn list(run: &Path) -> Vec<u64> {
    let names = fs::read_dir(run.join("ckpt")).into_iter().flatten().flatten();
    let mut steps: Vec<u64> =
        names.filter_map(|e| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// Folder of a checkpoint.
pub fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("ckpt").join(format!("step-{step}"))
}

fn flat(name: &str, values: &[f32]) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    (name.into(), Dtype::F32, vec![values.len()], bytemuck::cast_slice(values).to_vec())
}

/// Writes a checkpoint and removes older ones beyond the last two and the best. Returns its size in bytes. `base` is the
/// name of the model that adapters belong to.
pub fn save<B: Train>(
    run: &Path,
    learner: &Learner<B>,
    counters: &Counters,
    serving: Serving,
    tokenizer: &[u8],
    card: &str,
    base: &str,
) -> Result<u64, SaveError> {
    let c = &learner.trunk.config;
    let b = &learner.backend;
    let to = folder(run, counters.step);
    let beside = run.join("ckpt").join(format!(".step-{}.new", counters.step));
    let failed = |file| {
        let to = to.clone();
        move |e: CheckpointError| SaveError::Checkpoint { path: to, source: e.of(file) }
    };
    let _ = fs::remove_dir_all(&beside);
    io(&beside, fs::create_dir_all(&beside))?;
    let evaluated = b.read(learner.evaluated());
    let counters_json = serde_json::to_vec(counters).expect("plain data");
    let mut state = vec![
        flat("params", &b.read(learner.lora.as_ref().map_or(&learner.params, |l| &l.base))),
        flat("m", &b.read(&learner.m)),
        flat("v", &b.read(&learner.v)),
        ("counters".into(), Dtype::U8, vec![counters_json.len()], counters_json),
    ];
    state.extend(learner.lora.as_ref().map(|l| flat("lora", &l.adapter.theta)));
    let state = model::serialize(&state).map_err(failed(TRAINER))?;
    if let Some(failure) = b.failure() {
        let _ = fs::remove_dir_all(&beside);
        return Err(SaveError::Device(failure));
    }
    let mut files: Vec<(String, Vec<u8>)> = [
        ("config.json", model::config_json(c, serving).into_bytes()),
        (MODEL, model::save(c, &evaluated, Format::F32).map_err(failed(MODEL))?),
        (TRAINER, state),
        ("tokenizer.json", tokenizer.to_vec()),
        ("README.md", card.as_bytes().to_vec()),
    ]
    .map(|(name, bytes)| (name.to_string(), bytes))
    .into();
    if let Some(l) = &learner.lora {
        let (config, weights) = l.adapter.to_peft(base).map_err(failed(TRAINER))?;
        io(&beside, fs::create_dir_all(beside.join(ADAPTER)))?;
        files.push((format!("{ADAPTER}/{}", lora::CONFIG), config));
        files.push((format!("{ADAPTER}/{}", lora::WEIGHTS), weights));
    }
    let bytes = files.iter().map(|(_, b)| b.len() as u64).sum();
    let write = || -> std::io::Result<()> {
        for (name, data) in &files {
            let mut f = fs::File::create(beside.join(name))?;
            std::io::Write::write_all(&mut f, data)?;
            f.sync_all()?;
        }
        let _ = fs::remove_dir_all(&to);
        fs::rename(&beside, &to)?;
        crate::files::sync_folder(&to)
    };
    io(
        &to,
        write().inspect_err(|_| {
            let _ = fs::remove_dir_all(&beside);
        }),
    )?;
    let steps = list(run);
    let best = counters.best.map(|b| b.1);
    for old in steps.iter().rev().skip(2).filter(|s| Some(**s) != best) {
        let _ = fs::remove_dir_all(folder(run, *old));
    }
    Ok(bytes)
}

/// Restores weights, moments, average and counters.
pub fn resume<B: Train>(dir: &Path, learner: &mut Learner<B>) -> Result<Counters, SaveError> {
    let failed =
        |source: CheckpointError| SaveError::Checkpoint { path: dir.into(), source: source.of(TRAINER) };
    let path = dir.join(TRAINER);
    let bytes = io(&path, fs::read(&path))?;
    let st = model::tensors(&bytes).map_err(failed)?;
    let view =
        st.tensor("counters").map_err(|_| failed(CheckpointError::Missing { name: "counters".into() }))?;
    let counters: Counters = serde_json::from_slice(view.data())
        .map_err(|e| failed(CheckpointError::Format(format!("counters do not read: {e}"))))?;
    let n = learner.trunk.layout.total;
    let trained = learner.lora.as_ref().map_or(n, |l| l.adapter.theta.len());
    for (name, n) in [("params", n), ("m", trained), ("v", trained)] {
        let mut values = vec![0f32; n];
        model::read_tensor(&st, name, &[n], &mut values).map_err(failed)?;
        let to = match (name, &mut learner.lora) {
            ("params", None) => &mut learner.params,
            ("params", Some(l)) => &mut l.base,
            ("m", _) => &mut learner.m,
            _ => &mut learner.v,
        };
        learner.backend.write(to, 0, &values);
    }
    if let Some(l) = &mut learner.lora {
        model::read_tensor(&st, "lora", &[trained], &mut l.adapter.theta).map_err(failed)?;
    }
    learner.merge();
    if counters.ema {
        let loaded = Source::Folder(dir.into()).load()?;
        let mut ema = learner.backend.buf(n);
        learner.backend.write(&mut ema, 0, &loaded.params);
        learner.ema = Some(ema);
    }
    (learner.updates, learner.ema_updates) = (counters.updates, counters.ema_updates);
    Ok(counters)
}
