//! A denoising step of several texts in one forward, beside the same steps one after the other.
//!
//! Each text has all but its last block in the cache and asks for that block: rows of statistics, drawn at a temperature
//! with a seed of its own. Both ways are timed in turn, so that a machine shared with others is the same for both; the
//! ratios are those of pairs.

use std::sync::Arc;

use hilda_engine::decode::{Attention, CacheOp, ForwardRequest, Want};
use hilda_engine::model::{Batch, Sequence, SessionError, Weights};
use hilda_kernels::Train;

use super::peak::{Peak, median, seconds};
use crate::cli::CliError;

/// Texts of a forward.
const TEXTS: [usize; 4] = [1, 4, 8, 16];
/// Positions of a block.
const BLOCK: u32 = 8;

fn request(text: usize, positions: std::ops::Range<u32>, id: u32, cache: CacheOp) -> ForwardRequest {
    let store = cache == CacheOp::Store;
    ForwardRequest {
        sequence: text as u32,
        step: 0,
        ids: vec![id; positions.len()],
        rule: Attention::BlockCausal.rule(),
        block_size: BLOCK,
        cache,
        compression: Default::default(),
        want: Want {
            rows: if store { vec![] } else { positions.clone().collect() },
            top_k: 8,
            temperature: 0.7,
            seed: text as u64,
            ..Default::default()
        },
        query_positions: positions.collect(),
    }
}

/// Figures for every number of texts, over `positions` positions each.
///
/// # Errors
/// A text too short for two blocks.
pub fn run<B: Train>(
    b: &B,
    weights: &Arc<Weights<B>>,
    positions: usize,
    repeat: usize,
    peak: &mut Peak,
) -> Result<serde_json::Value, CliError> {
    let c = &weights.trunk.config;
    let end = positions as u32 / BLOCK * BLOCK;
    let start = end.saturating_sub(BLOCK);
    if start == 0 {
        let least = 2 * BLOCK;
        return Err(CliError::BadInput(format!("--positions {positions}: {least} at least, two blocks")));
    }
    let failed = |e: SessionError| CliError::Failure(e.to_string());
    let most = TEXTS[TEXTS.len() - 1];
    let mut batch = Batch::new(b, weights.clone(), most * BLOCK as usize);
    let mut texts: Vec<Sequence<B>> = (0..most).map(|_| Sequence::new(b, weights, positions)).collect();
    // a token that is no mask
    let token = (0..c.vocab as u32).find(|id| *id != c.mask_id && !c.forbid.contains(id)).unwrap_or(0);
    let asks: Vec<ForwardRequest> =
        (0..most).map(|i| request(i, start..end, c.mask_id, CacheOp::None)).collect();
    for (i, text) in texts.iter_mut().enumerate() {
        let prefix = request(i, 0..start, token, CacheOp::Store);
        for answer in batch.answer(b, &mut [(text, &prefix)]) {
            answer.map_err(failed)?;
        }
    }
    let mut step = |texts: &mut [Sequence<B>], asks: &[ForwardRequest]| {
        let mut all: Vec<_> = texts.iter_mut().zip(asks).collect();
        batch.answer(b, &mut all).into_iter().for_each(|answer| {
            answer.expect("a text that was stored");
        });
    };
    let flops = |n: usize| {
        let pairs = (BLOCK * end) as f64 * (c.layers * c.heads * c.head_dim) as f64;
        n as f64 * (2.0 * f64::from(BLOCK) * c.parameters() as f64 + 4.0 * pairs)
    };
    let mut figures = vec![];
    for n in TEXTS {
        let (mut together, mut alone) = (vec![], vec![]);
        step(&mut texts[..n], &asks[..n]);
        peak.around(repeat.max(5), || {
            together.push(seconds(|| step(&mut texts[..n], &asks[..n])));
            alone.push(seconds(|| (0..n).for_each(|i| step(&mut texts[i..=i], &asks[i..=i]))));
        });
        let ratio = median(alone.iter().zip(&together).map(|(a, t)| a / t).collect());
        let (together, alone) = (median(together), median(alone));
        let mut of = serde_json::json!({
            "texts": n, "rows": n * BLOCK as usize, "ms_per_step": together * 1e3, "ms_one_by_one": alone * 1e3,
            "positions_per_s": (n * BLOCK as usize) as f64 / together, "gain": ratio,
        });
        of.as_object_mut()
            .expect("an object")
            .extend(peak.share(flops(n), together).as_object().cloned().unwrap_or_default());
        figures.push(of);
    }
    Ok(figures.into())
}
