//! A mask rule compiled to tiles of 64 queries x 64 keys.

use super::rule::{MaskRule, Place};
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

fn compile(rule: MaskRule, queries: &[Place], keys: &[Place]) -> Vec<QueryTile> {
    queries
        .chunks(TILE)
        .map(|qs| {
            let mut tile = QueryTile::default();
            for (kt, ks) in keys.chunks(TILE).enumerate() {
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
                let start = kt * TILE;
                match tile.runs.last_mut() {
                    Some(r) if r.start + r.len == start => r.len += ks.len(),
                    _ => tile.runs.push(Run { start, len: ks.len() }),
                }
                tile.keys += ks.len();
            }
            tile
        })
        .collect()
}
