//! Logits of a checkpoint against those a reference implementation computed from the same weights.
//!
//! A golden folder holds `config.json`, `model.safetensors` and `golden.safetensors`: input ids [B, L] and logits
//! [B, L, V] under the causal mask, under full attention and under a block-causal mask of 8; for a DiT logits at given
//! noise levels and SUBS log-probabilities (`methods/mdlm.md` 2.2). Only the causal case uses a family's sliding
//! window: the reference gave the other two masks to every layer.

use hilda_kernels::{Backend, Base, MaskRule, Place};
use safetensors::SafeTensors;
use serde::Serialize;

use crate::config::{Family, ModelConfig};
use crate::model::family::Dit;
use crate::model::{CheckpointError, LoadedModel, Masks, Shape, Trunk, checkpoint};

/// Agreement asked of a float32 implementation on the tiny models.
pub const TOLERANCE: f32 = 2e-4;
/// Block of the block-causal golden.
const BLOCK: u32 = 8;
/// What stands for minus infinity in a golden.
const NEVER: f32 = -1e6;

/// Copies the first values of a buffer to the host.
pub type Read<'a, B> = &'a mut dyn FnMut(&B, &<B as Backend>::Buf, usize) -> Vec<f32>;

/// One golden tensor and how far we are from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    pub tensor: String,
    pub values: usize,
    /// largest absolute difference
    pub largest: f32,
    pub tolerance: f32,
    pub within: bool,
}

impl Case {
    /// Compares two lists of values; a value that is not finite is infinitely far.
    pub fn new(tensor: &str, got: &[f32], want: &[f32], tolerance: f32) -> Case {
        let far = |(a, b): (&f32, &f32)| {
            let d = (a - b).abs();
            if d.is_finite() { d } else { f32::INFINITY }
        };
        let mut largest = got.iter().zip(want).map(far).fold(0f32, f32::max);
        if got.len() != want.len() {
            largest = f32::INFINITY;
        }
        Case { tensor: tensor.into(), values: want.len(), largest, tolerance, within: largest < tolerance }
    }
}

/// A golden file.
pub struct Golden<'a>(SafeTensors<'a>);

impl<'a> Golden<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Golden<'a>, CheckpointError> {
        SafeTensors::deserialize(bytes).map(Golden).map_err(|e| CheckpointError::Format(e.to_string()))
    }
    /// Shape and values of a tensor in F32.
    pub fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), CheckpointError> {
        let view = self.0.tensor(name).map_err(|_| CheckpointError::Missing { name: name.into() })?;
        let mut out = vec![0f32; view.shape().iter().product()];
        checkpoint::read_tensor(&self.0, name, view.shape(), &mut out)?;
        Ok((view.shape().to_vec(), out))
    }
    /// Shape and values of a tensor of token ids in I64.
    pub fn ids(&self, name: &str) -> Result<(Vec<usize>, Vec<u32>), CheckpointError> {
        let view = self.0.tensor(name).map_err(|_| CheckpointError::Missing { name: name.into() })?;
        if view.dtype() != safetensors::Dtype::I64 {
            let got = format!("{:?}", view.dtype());
            return Err(CheckpointError::Dtype { name: name.into(), got });
        }
        let id = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Ok((view.shape().to_vec(), view.data().chunks_exact(8).map(id).collect()))
    }
}

/// Positions 0..len of every sequence, in blocks.
pub fn places(batch: usize, len: usize, block: u32) -> Vec<Place> {
    let place = |p: u32| Place { position: p, document: 0, block: p / block, stream: 0 };
    (0..batch).flat_map(|_| (0..len as u32).map(place)).collect()
}

/// Logits [rows, vocab] of final hidden rows, in f64 sums on the host.
pub fn logits(c: &ModelConfig, head: &[f32], hidden: &[f32]) -> Vec<f32> {
    let w = c.head_width();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() as f32;
    hidden.chunks_exact(w).flat_map(|h| head.chunks_exact(w).map(move |t| dot(h, t))).collect()
}

fn upload<B: Backend>(b: &B, params: &[f32]) -> B::Buf {
    let mut weights = b.buf(params.len());
    b.write(&mut weights, 0, params);
    weights
}

/// ln sum exp of a row of logits.
fn log_sum(z: &[f32]) -> f64 {
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    max + z.iter().map(|z| (*z as f64 - max).exp()).sum::<f64>().ln()
}

/// Final hidden rows [batch * len, head_width] of whole sequences under one mask. With `windows` sliding layers see
/// their window.
#[allow(clippy::too_many_arguments)]
pub fn hidden<B: Backend>(
    b: &B,
    read: Read<B>,
    trunk: &Trunk,
    weights: &B::Buf,
    ids: &[u32],
    shape: Shape,
    (rule, block, windows): (MaskRule, u32, bool),
) -> Vec<f32> {
    let places = places(shape.batch, shape.len, block);
    let positions: Vec<u32> = places.iter().map(|p| p.position).collect();
    let masks = match windows {
        true => trunk.masks(b, rule, shape.batch, &places, &places),
        false => Masks { full: b.mask(rule, shape.batch, &places, &places), local: None },
    };
    let mut plan = trunk.plan(b, shape.rows(), false);
    let (mut gpu_ids, mut gpu_positions) = (b.ids(ids.len()), b.ids(ids.len()));
    b.write_ids(&mut gpu_ids, ids);
    b.write_ids(&mut gpu_positions, &positions);
    trunk.forward(b, weights, &mut plan, &gpu_ids, &gpu_positions, &masks, shape);
    read(b, &plan.hidden, shape.rows() * trunk.config.head_width())
}

/// Every golden tensor of a folder, from the bytes of its three files.
pub fn compare<B: Backend>(
    b: &B,
    read: Read<B>,
    config: &str,
    tensors: &[u8],
    golden: &[u8],
) -> Result<Vec<Case>, CheckpointError> {
    let golden = Golden::open(golden)?;
    let (shape, ids) = golden.ids("input_ids")?;
    let [batch, len] = shape[..] else {
        return Err(CheckpointError::Shape { name: "input_ids".into(), got: shape, want: vec![0, 0] });
    };
    let shape = Shape { batch, len };
    let (c, _) = checkpoint::parse_config(config)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= c.vocab) {
        return Err(CheckpointError::Format(format!(
            "input_ids: {id} is outside the vocabulary of {}",
            c.vocab
        )));
    }
    if c.arch.family == Family::Dit {
        return dit(b, read, &c, tensors, &golden, &ids, shape);
    }
    let model = checkpoint::load(config, tensors)?;
    let trunk = Trunk::new(model.config.clone());
    let weights = upload(b, &model.params);
    let head = &model.params[trunk.layout.head.offset..][..trunk.layout.head.len];
    let mut cases = vec![];
    for (name, base, block, windows) in [
        ("logits_causal", Base::Causal, 1, true),
        ("logits_bidirectional", Base::Bidirectional, 1, false),
        ("logits_block_causal_8", Base::BlockCausal, BLOCK, false),
    ] {
        let (_, want) = golden.floats(name)?;
        let h = hidden(b, read, &trunk, &weights, &ids, shape, (base.into(), block, windows));
        cases.push(Case::new(name, &logits(&c, head, &h), &want, TOLERANCE));
    }
    Ok(cases)
}

/// Agreement asked of SmolLM2-135M: 30 layers, logits near 15.
pub const LARGE_TOLERANCE: f32 = 5e-3;

/// A whole published model against a golden without weights of its own: logits of some positions, causal and
/// bidirectional, the mean causal NLL of a sentence and a greedy continuation.
pub fn published<B: Backend>(
    b: &B,
    read: Read<B>,
    model: &LoadedModel,
    causal_nll: f64,
    golden: &[u8],
) -> Result<Vec<Case>, CheckpointError> {
    let golden = Golden::open(golden)?;
    let (_, ids) = golden.ids("input_ids")?;
    let (_, rows) = golden.ids("rows")?;
    let (_, greedy) = golden.ids("greedy_ids")?;
    let (c, trunk) = (&model.config, Trunk::new(model.config.clone()));
    let len = ids.len();
    if ids.iter().chain(&greedy).any(|id| *id as usize >= c.vocab) || rows.iter().any(|r| *r as usize >= len)
    {
        return Err(CheckpointError::Format("golden ids are outside the vocabulary or the text".into()));
    }
    let weights = upload(b, &model.params);
    let head = &model.params[trunk.layout.head.offset..][..trunk.layout.head.len];
    let w = c.head_width();
    let mut run = |ids: &[u32], base: Base| {
        let shape = Shape { batch: 1, len: ids.len() };
        hidden(b, read, &trunk, &weights, ids, shape, (base.into(), 1, base == Base::Causal))
    };
    let causal = run(&ids, Base::Causal);
    let open = run(&ids, Base::Bidirectional);
    let pick = |h: &[f32]| -> Vec<f32> {
        let chosen: Vec<f32> = rows.iter().flat_map(|r| &h[*r as usize * w..][..w]).copied().collect();
        logits(c, head, &chosen)
    };
    let all = logits(c, head, &causal);
    let nll = all.chunks_exact(c.vocab).zip(&ids[1..]).map(|(z, id)| log_sum(z) - z[*id as usize] as f64);
    let nll = nll.sum::<f64>() / (len - 1) as f64;
    // greedy: one causal pass over the reference's own continuation checks every choice at once
    let start = greedy.len() - GREEDY.min(greedy.len() - 1);
    let after = run(&greedy, Base::Causal);
    let chosen = logits(c, head, &after[(start - 1) * w..(greedy.len() - 1) * w]);
    let differ =
        chosen.chunks_exact(c.vocab).zip(&greedy[start..]).filter(|(z, want)| argmax(z) != **want).count();
    Ok(vec![
        Case::new(
            "logits_causal_rows",
            &pick(&causal),
            &golden.floats("logits_causal_rows")?.1,
            LARGE_TOLERANCE,
        ),
        Case::new(
            "logits_bidirectional_rows",
            &pick(&open),
            &golden.floats("logits_bidirectional_rows")?.1,
            LARGE_TOLERANCE,
        ),
        Case::new("causal_nll", &[nll as f32], &[causal_nll as f32], LARGE_TOLERANCE),
        Case { values: greedy.len() - start, ..Case::new("greedy_ids", &[differ as f32], &[0.0], 0.5) },
    ])
}

/// Tokens of the greedy golden.
const GREEDY: usize = 24;

/// The largest logit's id; ties to the lower.
fn argmax(z: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in z.iter().enumerate() {
        if *v > z[best] {
            best = i;
        }
    }
    best as u32
}

fn dit<B: Backend>(
    b: &B,
    read: Read<B>,
    c: &ModelConfig,
    tensors: &[u8],
    golden: &Golden,
    ids: &[u32],
    shape: Shape,
) -> Result<Vec<Case>, CheckpointError> {
    let dit = Dit::open(c, tensors)?
        .ok_or_else(|| CheckpointError::Missing { name: "vocab_embed.embedding".into() })?;
    let trunk = Trunk::new(c.clone());
    let one = Shape { batch: 1, len: shape.len };
    // folded weights hold one noise level, so sequences run one by one
    let mut run = |sigmas: &[f32]| -> Result<Vec<f32>, CheckpointError> {
        let mut all = vec![];
        for (sigma, ids) in sigmas.iter().zip(ids.chunks_exact(shape.len)) {
            let params = dit.fold(*sigma)?;
            let h = hidden(
                b,
                read,
                &trunk,
                &upload(b, &params),
                ids,
                one,
                (Base::Bidirectional.into(), 1, false),
            );
            all.extend(logits(c, &params[trunk.layout.head.offset..][..trunk.layout.head.len], &h));
        }
        Ok(all)
    };
    let (_, sigma) = golden.floats("sigma")?;
    let at_zero = run(&vec![0.0; shape.batch])?;
    let mut subs = at_zero.clone();
    for (row, id) in subs.chunks_exact_mut(c.vocab).zip(ids) {
        substitute(row, *id, c.mask_id);
    }
    Ok(vec![
        Case::new("logits", &run(&sigma)?, &golden.floats("logits")?.1, TOLERANCE),
        Case::new("logits_sigma0", &at_zero, &golden.floats("logits_sigma0")?.1, TOLERANCE),
        Case::new("subs_log_x", &subs, &golden.floats("subs_log_x")?.1, TOLERANCE),
    ])
}

/// SUBS (arXiv 2406.07524, section 3.2.3): no mass on the mask; a visible token is copied.
fn substitute(row: &mut [f32], id: u32, mask: u32) {
    if id != mask {
        row.fill(NEVER);
        row[id as usize] = 0.0;
        return;
    }
    row[mask as usize] = f32::NEG_INFINITY;
    let sum = log_sum(row);
    row.iter_mut().for_each(|z| *z = ((*z as f64 - sum) as f32).max(NEVER));
}
