//! A mask rule compiled to tiles of 64 queries x 64 keys.

use super::rule::{Base, MaskRule, Place};
use crate::par;

pub const TILE: usize = 64;

/// Consecutive live keys for one query tile.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub start: usize,
    pub len: usize,
}

/// What one query tile sees: runs of keys in order, and, for key tiles that are neither empty nor full, a bit
/// per (query, key) of the concatenated columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryTile {
    pub runs: Vec<Run>,
    /// total live keys
    pub keys: usize,
    /// (first column in the concatenation, number of columns, one u64 per query row)
    pub partial: Vec<(usize, usize, Vec<u64>)>,
}

/// A rule compiled for a batch of sequences of equal query and key length.
#[derive(Clone, Debug)]
pub struct Tiles {
    pub q_len: usize,
    pub k_len: usize,
    /// per sequence, or one entry if all sequences share it
    sequences: Vec<Vec<QueryTile>>,
}

impl Tiles {
    /// `queries` is [batch * q_len], `keys` [batch * k_len]. Sequences with equal places share one entry.
    pub fn new(rule: MaskRule, batch: usize, queries: &[Place], keys: &[Place]) -> Tiles {
        let (q_len, k_len) = (queries.len() / batch.max(1), keys.len() / batch.max(1));
        assert!(queries.len() == batch * q_len && keys.len() == batch * k_len, "mask: ragged batch");
        let same = (1..batch).all(|b| {
            queries[b * q_len..][..q_len] == queries[..q_len] && keys[b * k_len..][..k_len] == keys[..k_len]
        });
        let distinct = if same { batch.min(1) } else { batch };
        let sequences = par::map(distinct, |b| {
            compile(rule, &queries[b * q_len..][..q_len], &keys[b * k_len..][..k_len])
        });
        Tiles { q_len, k_len, sequences }
    }
    /// The query tiles of sequence `b`.
    pub fn of(&self, b: usize) -> &[QueryTile] {
        if self.sequences.len() == 1 { &self.sequences[0] } else { &self.sequences[b] }
    }
    /// How many sequences have lists of their own.
    pub fn distinct(&self) -> usize {
        self.sequences.len()
    }
    /// (query, key) pairs that the kernels compute, for FLOP counts: tiles skipped are not counted.
    pub fn pairs(&self, batch: usize) -> u64 {
        let of = |t: &[QueryTile]| -> u64 {
            t.iter().enumerate().map(|(i, t)| (TILE.min(self.q_len - i * TILE) * t.keys) as u64).sum()
        };
        if self.sequences.len() == 1 {
            batch as u64 * of(&self.sequences[0])
        } else {
            self.sequences.iter().map(|t| of(t)).sum()
        }
    }
}

/// Tiles whose pairs are worth another thread.
const PAIRS: usize = 1 << 15;

fn compile(rule: MaskRule, queries: &[Place], keys: &[Place]) -> Vec<QueryTile> {
    let spans: Vec<Span> = keys.chunks(TILE).map(Span::of).collect();
    let tile = |i: usize| {
        let qs = &queries[i * TILE..queries.len().min((i + 1) * TILE)];
        query_tile(rule, qs, keys, &spans)
    };
    let tiles = queries.len().div_ceil(TILE);
    if queries.len() * keys.len() < PAIRS { (0..tiles).map(tile).collect() } else { par::map(tiles, tile) }
}

fn query_tile(rule: MaskRule, qs: &[Place], keys: &[Place], spans: &[Span]) -> QueryTile {
    let (mut tile, span) = (QueryTile::default(), Span::of(qs));
    for (kt, ks) in keys.chunks(TILE).enumerate() {
        match uniform(rule, span, spans[kt]) {
            Some(false) => continue,
            Some(true) => {}
            None => {
                let bits: Vec<u64> = qs
                    .iter()
                    .map(|q| {
                        ks.iter().enumerate().fold(0, |m, (j, k)| m | (rule.allowed(*q, *k) as u64) << j)
                    })
                    .collect();
                let full = if ks.len() == 64 { u64::MAX } else { (1 << ks.len()) - 1 };
                if bits.iter().all(|b| *b == 0) {
                    continue;
                }
                if bits.iter().any(|b| *b != full) {
                    tile.partial.push((tile.keys, ks.len(), bits));
                }
            }
        }
        let start = kt * TILE;
        match tile.runs.last_mut() {
            Some(r) if r.start + r.len == start => r.len += ks.len(),
            _ => tile.runs.push(Run { start, len: ks.len() }),
        }
        tile.keys += ks.len();
    }
    tile
}

/// Smallest and largest document, position and block of some rows.
#[derive(Clone, Copy)]
struct Span {
    document: (u32, u32),
    position: (u32, u32),
    block: (u32, u32),
}

impl Span {
    fn of(places: &[Place]) -> Span {
        let range = |of: fn(&Place) -> u32| {
            places.iter().map(of).fold((u32::MAX, 0), |(low, high), x| (low.min(x), high.max(x)))
        };
        Span { document: range(|p| p.document), position: range(|p| p.position), block: range(|p| p.block) }
    }
}

/// What the rule says of every pair of two sets of rows, where their spans alone tell; a pair by itself costs a few
/// nanoseconds, a thousand positions have a million of them.
fn uniform(rule: MaskRule, q: Span, k: Span) -> Option<bool> {
    let apart = |a: (u32, u32), b: (u32, u32)| a.1 < b.0 || b.1 < a.0;
    if apart(q.document, k.document) {
        return Some(false);
    }
    let mut all = q.document.0 == q.document.1 && q.document == k.document;
    if let Some(window) = rule.window {
        let gap = q.position.0.saturating_sub(k.position.1).max(k.position.0.saturating_sub(q.position.1));
        if gap >= window {
            return Some(false);
        }
        let farthest =
            q.position.1.saturating_sub(k.position.0).max(k.position.1.saturating_sub(q.position.0));
        all &= farthest < window;
    }
    let before = |q: (u32, u32), k: (u32, u32)| match () {
        _ if k.0 > q.1 => Some(false),
        _ if k.1 <= q.0 => Some(true),
        _ => None,
    };
    let base = match rule.base {
        Base::Bidirectional => Some(true),
        Base::Causal => before(q.position, k.position),
        Base::BlockCausal => before(q.block, k.block),
        _ => None,
    };
    base.filter(|seen| !seen || all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What spans tell is what the pairs say.
        #[test]
        fn uniform_tiles_are_uniform(
            base in prop_oneof![Just(Base::Bidirectional), Just(Base::Causal), Just(Base::BlockCausal)],
            window in prop_oneof![Just(None), (1u32..40).prop_map(Some)],
            (q, k) in (places(), places()),
        ) {
            let rule = MaskRule { base, window };
            if let Some(seen) = uniform(rule, Span::of(&q), Span::of(&k)) {
                prop_assert!(q.iter().all(|q| k.iter().all(|k| rule.allowed(*q, *k) == seen)));
            }
        }
    }

    fn places() -> impl Strategy<Value = Vec<Place>> {
        let run = (0u32..60, 1u32..12, 0u32..2, 1u32..9, prop::bool::ANY);
        run.prop_map(|(first, len, document, block, mixed)| {
            let place = |p: u32| Place {
                position: p,
                document: document + u32::from(mixed && p % 2 == 0),
                block: p / block,
                stream: 0,
            };
            (first..first + len).map(place).collect()
        })
    }
}
