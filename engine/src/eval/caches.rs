//! What a way to keep finished blocks costs: a text is read through the cache, block by block, and the masked tokens of each
//! block are predicted from what the cache kept of the blocks before.
//!
//! Each block is predicted with all of its tokens masked and with about half of them (the same ones for every cache), then
//! stored. Before two blocks are stored nothing is ever dropped or rounded, so counting begins there. Causal models are read token
//! by token. The number is a mean of -ln p over masked tokens, to compare caches by; it is no bound on a likelihood, and nothing
//! else computes one through a cache that loses anything.

use hilda_kernels::Cpu;
use hilda_kernels::rng::{Rng, Stream};

use crate::decode::policy::Compression;
use crate::decode::{Attention, CacheOp, ForwardRequest, Want};
use crate::model::{Serving, Session, SessionError};

/// One text read through one cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// -ln p of each masked token, nats
    pub nats: Vec<f64>,
    /// the most probable token in its place
    pub top: Vec<u32>,
    /// held at the end
    pub bytes: u64,
    /// keys dropped, over layers and heads
    pub evicted: u64,
}

/// Shares of a block that are masked.
const SHARES: [f64; 2] = [1.0, 0.5];

/// Reads `text` (with the token that begins a document) through a cache kept as `how` says and predicts its tokens from
/// position `first` on.
///
/// # Errors
/// A text longer than the session's context; a way to keep blocks that the session refuses.
pub fn read(
    session: &mut Session<Cpu>,
    serving: Serving,
    text: &[u32],
    how: &Compression,
    first: usize,
    seed: u64,
) -> Result<Reading, SessionError> {
    session.forget();
    let causal = serving.attention == Attention::Causal;
    let (n, block) = (text.len(), if causal { 1 } else { serving.block_size });
    let c = session.weights().trunk.config.clone();
    let rng = Rng::new(seed, Stream::Eval, 0);
    let mut reading = Reading::default();
    let request = |positions: std::ops::Range<usize>, cache: CacheOp| ForwardRequest {
        sequence: 0,
        step: 0,
        ids: text[positions.clone()].to_vec(),
        query_positions: positions.map(|p| p as u32).collect(),
        rule: serving.attention.rule(),
        block_size: if causal { 0 } else { block as u32 },
        cache,
        compression: how.clone(),
        want: Want { seed, ..Want::default() },
    };
    let mut at = first.div_ceil(block) * block;
    let mut stored = 0;
    while at + block <= n {
        let mut told = vec![];
        if causal {
            // the row before the token predicts it
            let mut r = request(stored..at, CacheOp::Store);
            r.want.whole = vec![at as u32];
            let stats = session.answer(&r)?;
            reading.evicted += evicted(&stats.held);
            told.push((stats.logits, at));
        } else {
            let stats = session.answer(&request(stored..at, CacheOp::Store))?;
            reading.evicted += evicted(&stats.held);
            for (i, share) in SHARES.iter().enumerate() {
                let mut r = request(at..at + block, CacheOp::None);
                r.want.whole = r
                    .query_positions
                    .iter()
                    .copied()
                    .filter(|p| rng.uniform(i as u32, *p, 0) < *share)
                    .collect();
                for p in &r.want.whole {
                    r.ids[*p as usize - at] = c.mask_id;
                }
                if r.want.whole.is_empty() {
                    continue;
                }
                let stats = session.answer(&r)?;
                let rows = stats.logits.chunks_exact(c.vocab).map(<[f32]>::to_vec);
                told.extend(rows.zip(r.want.whole.iter().map(|p| *p as usize)));
            }
        }
        for (mut z, p) in told {
            c.forbid.iter().for_each(|id| z[*id as usize] = f32::NEG_INFINITY);
            let top = (0..z.len()).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap_or(0);
            let sum: f64 = z.iter().map(|x| (*x as f64 - z[top] as f64).exp()).sum();
            reading.nats.push(z[top] as f64 + sum.ln() - z[text[p] as usize] as f64);
            reading.top.push(top as u32);
        }
        (stored, at) = (at, at + block);
    }
    reading.bytes = session.held().bytes;
    Ok(reading)
}

fn evicted(held: &Option<crate::decode::Held>) -> u64 {
    held.iter().flat_map(|h| &h.evicted).map(|n| *n as u64).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::ModelSpec;
    use crate::decode::policy::{Press, Storage};
    use crate::model::session::Weights;
    use crate::model::{Layout, LoadedModel};

    /// What keeps everything reads as an exact cache does, to the bit; what loses something reads otherwise.
    #[test]
    fn exact_caches_read_alike() {
        for (attention, shift) in
            [(Attention::BlockCausal, false), (Attention::BlockCausal, true), (Attention::Causal, true)]
        {
            let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
            let mut config = spec.resolve(70, 69, 68, vec![69]).unwrap();
            config.layers = 2;
            let params = Layout::new(&config).init(&config, 3).iter().map(|x| 6.0 * x).collect();
            let serving =
                Serving { attention, block_size: 8, shift, infill: false, edits: false, uniform: false };
            let weights = Arc::new(Weights::of(LoadedModel { config, serving, params }));
            let mut session = Session::new(&Cpu, weights, 48);
            let text: Vec<u32> = (0..44).map(|i| (i * 7 + i * i) % 68).collect();
            let mut of = |storage, press, ratio| {
                let how = Compression { storage, press, ratio, block: 8, ..Default::default() };
                read(&mut session, serving, &text, &how, 16, 3).unwrap()
            };
            let exact = of(Storage::F32, Press::None, 0.5);
            assert!(exact.nats.len() >= 24 && exact.nats.iter().all(|x| *x > 0.0 && x.is_finite()));
            for same in [of(Storage::Offloaded, Press::None, 0.5), of(Storage::F32, Press::Knorm, 0.0)] {
                assert_eq!((&same.nats, &same.top, same.evicted), (&exact.nats, &exact.top, 0));
            }
            let lossy = [of(Storage::Q4, Press::None, 0.5), of(Storage::F32, Press::Knorm, 0.75)];
            assert!(lossy.iter().all(|l| l.nats != exact.nats && l.bytes < exact.bytes));
            assert!(lossy[1].evicted > 0);
        }
    }
}
