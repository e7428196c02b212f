//! Keys and values as an embedding of text that costs no forward ("Beyond Speedup", arXiv 2601.20326, KV-CoE; `methods/kv_cache.md` H):
//!
//! ```text
//! e_t = mean over layers l of [vec(K^{l,t}); vec(V^{l,t})]      2 kv_heads head_dim values
//! e   = mean of e_t over a set of positions
//! ```
//!
//! Caches hold keys after RoPE. There the same token points elsewhere at every position, and the angle between two
//! means would measure their distance in the text; so each key is turned back by its own position first.
//!
//! For devices whose buffers can be read at once (CPU, WebAssembly, CUDA). Nothing here changes a decoding.

use hilda_kernels::{Backend, Place, Train};

use super::plan::Keep;
use super::session::{Session, SessionError, Weights};
use super::{Plan, Sequence, Shape, Trunk};
use crate::config::ModelConfig;
use crate::decode::{Attention, CacheOp, Decoder, ForwardRequest, Want};

/// Values of an embedding.
pub fn width(c: &ModelConfig) -> usize {
    2 * c.kv_heads * c.head_dim
}

/// e of each set of positions, from the keys and values that the last forward over `sequence` found or left. None for an
/// empty set and for one with a position that it did not look at.
pub fn embeddings<B: Backend>(
    b: &B,
    trunk: &Trunk,
    sequence: &Sequence<B>,
    sets: &[Vec<u32>],
) -> Vec<Option<Vec<f32>>> {
    let (layers, w) = (trunk.config.layers, width(&trunk.config));
    let end = |set: &[u32]| set.iter().max().map_or(0, |p| *p as usize + 1);
    let mut sums: Vec<Option<Vec<f64>>> =
        sets.iter().map(|s| (!s.is_empty()).then(|| vec![0.0; w])).collect();
    let len = sets.iter().map(|s| end(s)).filter(|end| sequence.looked_at(*end)).max().unwrap_or(0);
    for layer in 0..layers {
        let rows = sequence.seen(b, trunk, layer, len).unwrap_or_default();
        for (set, sum) in sets.iter().zip(&mut sums) {
            if end(set) * w > rows.len() {
                *sum = None;
            }
            let Some(sum) = sum else { continue };
            for p in set {
                let row = &rows[*p as usize * w..][..w];
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
            }
        }
    }
    let mean = |(sum, set): (Option<Vec<f64>>, &Vec<u32>)| {
        let n = (layers * set.len()) as f64;
        sum.map(|s| s.into_iter().map(|x| (x / n) as f32).collect())
    };
    sums.into_iter().zip(sets).map(mean).collect()
}

/// Reads a text as it stands, so that [`embeddings`] finds its keys and values: what the store passes of a block-causal
/// decoding keep, and for a bidirectional model one clean forward. The session's text is forgotten.
///
/// # Errors
/// A text that the session cannot hold.
pub fn read_text<B: Train>(
    b: &B,
    session: &mut Session<B>,
    ids: &[u32],
    attention: Attention,
    block_size: u32,
) -> Result<(), SessionError> {
    session.forget();
    let request = ForwardRequest {
        sequence: 0,
        step: 0,
        query_positions: (0..ids.len() as u32).collect(),
        ids: ids.to_vec(),
        rule: attention.rule(),
        block_size: if attention == Attention::BlockCausal { block_size } else { 0 },
        cache: CacheOp::None,
        compression: Default::default(),
        want: Want::default(),
    };
    session.forward(b, &request).map(|_| ())
}

/// Tells a decoder that is to choose between two policies what it asks for, once its pending forward has run over
/// `sequence`. To be called before [`Decoder::apply`]; nothing where nothing is asked.
pub fn tell<B: Backend>(b: &B, trunk: &Trunk, sequence: &Sequence<B>, decoder: &mut Decoder) {
    if let Some(positions) = decoder.embedding_of() {
        let e = embeddings(b, trunk, sequence, &[positions]).pop().flatten();
        decoder.tell_embedding(e);
    }
}

/// Mean hidden states of a set of positions, one vector of the model's width for the embedding, each layer but the last and the
/// final norm: the chain that the original Chain-of-Embedding follows. `plan` from [`hidden_plan`].
pub fn hidden_means<B: Train>(
    b: &B,
    weights: &Weights<B>,
    plan: &mut Plan<B>,
    ids: &[u32],
    (attention, block_size): (Attention, u32),
    positions: &[u32],
) -> Vec<Vec<f32>> {
    let (trunk, n) = (&weights.trunk, ids.len());
    let c = &trunk.config;
    let block = if attention == Attention::BlockCausal { block_size } else { 0 };
    let place =
        |p: u32| Place { position: p, document: 0, block: p.checked_div(block).unwrap_or(0), stream: 0 };
    let places: Vec<Place> = (0..n as u32).map(place).collect();
    let masks = trunk.masks(b, attention.rule(), 1, &places, &places);
    let (mut on, mut at) = (b.ids(n), b.ids(n));
    b.write_ids(&mut on, ids);
    b.write_ids(&mut at, &(0..n as u32).collect::<Vec<_>>());
    trunk.forward(b, &weights.params, plan, &on, &at, &masks, Shape { batch: 1, len: n });
    let mean = |rows: Vec<f32>, stride: usize| -> Vec<f32> {
        let sum = |i: usize| positions.iter().map(|p| f64::from(rows[*p as usize * stride + i])).sum::<f64>();
        (0..c.width).map(|i| (sum(i) / positions.len() as f64) as f32).collect()
    };
    let inputs = plan.inputs.iter().map(|x| mean(b.read_range(x, 0, n * c.width), c.width));
    let mut all: Vec<Vec<f32>> = inputs.collect();
    all.push(mean(b.read_range(&plan.hidden, 0, n * c.head_width()), c.head_width()));
    all
}

/// A plan that keeps every layer's input.
pub fn hidden_plan<B: Train>(b: &B, weights: &Weights<B>, rows: usize) -> Plan<B> {
    weights.trunk.plan_keeping(b, rows, Keep::Inputs)
}

#[cfg(test)]
mod tests;
