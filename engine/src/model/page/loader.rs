//! Weights file after file: whoever loads them holds the float32 weights and one file.

use std::collections::HashMap;

use crate::config::ModelConfig;
use crate::model::checkpoint::{self, CheckpointError, LoadedModel, parse_config, read_tensor};
use crate::model::layout::Named;
use crate::model::{Layout, Serving, family};

/// Takes a model's weights file by file.
pub struct Loader {
    config: ModelConfig,
    serving: Serving,
    params: Vec<f32>,
    /// tensor by name, and how many of its rows have come
    tensors: HashMap<String, (Named, usize)>,
}

impl Loader {
    /// `bytes` is what all files together have, as far as it is known: a configuration may ask for more than they can
    /// hold, and more than there is memory.
    pub fn new(config: &str, bytes: Option<u64>) -> Result<Loader, CheckpointError> {
        let (config, serving) = parse_config(config)?;
        let layout = Layout::new(&config);
        if let Some(has) = bytes {
            checkpoint::can_hold(has as usize, layout.total)?;
        }
        let tensors = layout.named(&config).into_iter().map(|t| (t.name.clone(), (t, 0))).collect();
        Ok(Loader { params: vec![0f32; layout.total], config, serving, tensors })
    }

    /// The next file.
    ///
    /// Errors: no safetensors, tensors of another shape or type, rows that come twice or out of order. Tensors that the
    /// configuration does not know are passed over.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), CheckpointError> {
        let file = checkpoint::tensors(piece)?;
        let rows_of = |name: &str| name.rsplit_once(".rows").and_then(|(_, n)| n.parse::<usize>().ok());
        let mut names: Vec<&str> = file.names();
        // parts of one matrix in the order of their rows
        names.sort_by_key(|n| (rows_of(n).unwrap_or(0), *n));
        for name in names {
            let whole = self.tensors.contains_key(name);
            let (base, first) = match (whole, rows_of(name), name.rsplit_once(".rows")) {
                (false, Some(first), Some((base, _))) => (base, first),
                _ => (name, 0),
            };
            let Some((t, come)) = self.tensors.get_mut(base) else { continue };
            let shape =
                file.tensor(name).map_err(|e| CheckpointError::Format(e.to_string()))?.shape().to_vec();
            let rows = if whole { t.shape[0] } else { shape.first().copied().unwrap_or(0) };
            let left = t.shape[0] - *come;
            if first != *come || rows == 0 || rows > left {
                let message =
                    format!("{name}: {rows} rows from {first} on, where {come} of {} have come", t.shape[0]);
                return Err(CheckpointError::Format(message));
            }
            let cols: usize = t.shape[1..].iter().product();
            let out = &mut self.params[t.at.offset + first * cols..][..rows * cols];
            read_tensor(&file, name, &[&[rows], &t.shape[1..]].concat(), out)?;
            let offset = if t.norm { family::norm_offset(self.config.arch.family) } else { 0.0 };
            if offset != 0.0 {
                out.iter_mut().for_each(|w| *w += offset);
            }
            *come += rows;
        }
        Ok(())
    }

    /// The model, once every file was added.
    ///
    /// Errors: a tensor that did not come, or not whole.
    pub fn finish(self) -> Result<LoadedModel, CheckpointError> {
        let missing = self.tensors.values().filter(|(t, come)| *come < t.shape[0]);
        if let Some((t, _)) = missing.min_by_key(|(t, _)| t.at.offset) {
            return Err(CheckpointError::Missing { name: t.name.clone() });
        }
        Ok(LoadedModel { config: self.config, serving: self.serving, params: self.params })
    }
}
