//! Denoisers on a tiny vocabulary, where every claim can be enumerated: exact conditionals of a random joint, a random
//! distribution for every state (no joint is behind it, like a network's), and posteriors under mask and uniform noise.
//!
//! Ids: 0 ends a text, 1 is the mask, 2 .. 2 + V are the symbols. A sequence has L symbols; its index counts in base V,
//! position 0 first.

use std::collections::HashMap;

use hilda_kernels::rng::{Rng, Stream};

use super::hybrid::Hybrid;
use super::likelihood::denoiser::Reader;
use super::likelihood::{Alphabet, Denoiser, Scored, State};

/// First symbol.
pub const FIRST: u32 = 2;
/// The mask.
pub const MASK: u32 = 1;

/// What a table believes.
#[derive(Clone, Debug)]
pub enum Beliefs {
    /// conditionals of this joint, [V^L]
    Joint(Vec<f64>),
    /// softmax of `scale` N(0, 1) logits, drawn anew for every state and position
    Random { seed: u64, scale: f64 },
    /// posterior of the token given the noisy text under [`Hybrid`] noise; `included` lets the visible token at the
    /// position count as evidence
    Noisy { joint: Vec<f64>, p_uniform: f64, included: bool },
}

/// A table over sequences of L symbols.
#[derive(Clone, Debug)]
pub struct Table {
    pub symbols: usize,
    pub length: usize,
    /// None: whole rows
    pub block: Option<usize>,
    pub beliefs: Beliefs,
    /// clean rows, for the earlier blocks
    pub rows: Vec<Vec<u32>>,
    known: HashMap<(Vec<Option<u32>>, usize), Vec<f64>>,
}

/// A random joint over V^L sequences: softmax of `scale` N(0, 1).
pub fn joint(symbols: usize, length: usize, seed: u64, scale: f64) -> Vec<f64> {
    let rng = Rng::new(seed, Stream::Test, 0);
    let w: Vec<f64> =
        (0..symbols.pow(length as u32) as u32).map(|i| (scale * rng.normal(0, i, 0)).exp()).collect();
    let sum: f64 = w.iter().sum();
    w.iter().map(|x| x / sum).collect()
}

/// Every sequence, by index.
pub fn sequences(symbols: usize, length: usize) -> Vec<Vec<u32>> {
    let digits = |mut i: usize| {
        (0..length)
            .map(|_| {
                let d = i % symbols;
                i /= symbols;
                FIRST + d as u32
            })
            .collect()
    };
    (0..symbols.pow(length as u32)).map(digits).collect()
}

impl Table {
    pub fn new(symbols: usize, length: usize, block: Option<usize>, beliefs: Beliefs) -> Table {
        Table { symbols, length, block, beliefs, rows: sequences(symbols, length), known: HashMap::new() }
    }

    /// Vocabulary: the two specials and the symbols.
    pub fn vocab(&self) -> usize {
        self.symbols + FIRST as usize
    }

    /// What the token at `column` may see of row `row` in a noisy state.
    pub fn visible(&self, row: usize, noisy: &[u32], column: usize) -> Vec<Option<u32>> {
        let block = |c: usize| self.block.map_or(0, |b| c / b);
        (0..noisy.len())
            .map(|c| match block(c).cmp(&block(column)) {
                std::cmp::Ordering::Less => Some(self.rows[row][c]),
                std::cmp::Ordering::Equal => Some(noisy[c]).filter(|id| *id != MASK),
                std::cmp::Ordering::Greater => None,
            })
            .collect()
    }

    /// p of each symbol at `column`, given what is visible, [V].
    pub fn belief(&mut self, visible: &[Option<u32>], column: usize, time: f64) -> Vec<f64> {
        let key = (visible.to_vec(), column);
        let timeless = !matches!(self.beliefs, Beliefs::Noisy { .. });
        if timeless && let Some(p) = self.known.get(&key) {
            return p.clone();
        }
        let p = self.compute(visible, column, time);
        if timeless {
            self.known.insert(key, p.clone());
        }
        p
    }

    fn compute(&self, visible: &[Option<u32>], column: usize, time: f64) -> Vec<f64> {
        let mut p = vec![0.0; self.symbols];
        match &self.beliefs {
            Beliefs::Random { seed, scale } => {
                let mix = |h: u64, x: u64| {
                    let z = (h ^ x).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
                };
                let code = |v: &Option<u32>| v.map_or(0, |id| id as u64 + 1);
                let h = visible.iter().fold(column as u64 + 1, |h, v| mix(h, code(v)));
                let rng = Rng::new(*seed ^ h, Stream::Test, 1);
                p.iter_mut().enumerate().for_each(|(v, x)| *x = (scale * rng.normal(0, v as u32, 0)).exp());
            }
            Beliefs::Joint(joint) => {
                for (x, weight) in self.rows_of(joint) {
                    let fits = |(v, x): (&Option<u32>, &u32)| v.is_none_or(|v| v == *x);
                    if visible.iter().zip(x).all(fits) {
                        p[(x[column] - FIRST) as usize] += weight;
                    }
                }
            }
            Beliefs::Noisy { joint, p_uniform, included } => {
                let h = Hybrid::at(time, *p_uniform, self.symbols);
                for (x, weight) in self.rows_of(joint) {
                    let mut w = weight;
                    for (c, v) in visible.iter().enumerate().filter(|(c, _)| *included || *c != column) {
                        w *= match v {
                            None => h.q_mask,
                            Some(id) if *id == x[c] => h.q_truth,
                            Some(_) => h.q_other,
                        };
                    }
                    p[(x[column] - FIRST) as usize] += w;
                }
            }
        }
        let sum: f64 = p.iter().sum();
        p.iter().map(|x| x / sum).collect()
    }

    /// Sequences of full length beside their probabilities.
    fn rows_of<'a>(&'a self, joint: &'a [f64]) -> impl Iterator<Item = (&'a Vec<u32>, f64)> {
        // rows may have been replaced by others: the joint is over all sequences, in order
        self.rows.iter().take(joint.len()).zip(joint.iter().copied())
    }

    fn answers(&mut self, states: &[State], mut f: impl FnMut(usize, usize, &[f64])) {
        for (s, state) in states.iter().enumerate() {
            for (i, c) in state.asked.iter().enumerate() {
                let visible = self.visible(state.row, &state.noisy, *c as usize);
                let p = self.belief(&visible, *c as usize, state.time);
                f(s, i, &p);
            }
        }
    }
}

impl Denoiser for Table {
    fn alphabet(&self) -> Alphabet {
        Alphabet { mask_id: MASK, eos_id: 0, vocab: self.vocab(), forbid: vec![0, MASK] }
    }

    fn score(&mut self, states: &[State], _: bool) -> Vec<Vec<Scored>> {
        let mut out: Vec<Vec<Scored>> = states.iter().map(|_| vec![]).collect();
        let rows = self.rows.clone();
        self.answers(states, |s, i, p| {
            let state = &states[s];
            let truth = rows[state.row][state.asked[i] as usize] - FIRST;
            let mut sorted = p.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            out[s].push(Scored {
                log_p: p[truth as usize].ln(),
                entropy: -p.iter().map(|p| p * p.ln()).sum::<f64>(),
                p_max: sorted[0],
                p_second: sorted[1],
            });
        });
        out
    }

    fn distributions(&mut self, states: &[State], f: &Reader) -> Vec<Vec<f64>> {
        let vocab = self.vocab();
        let mut out: Vec<Vec<f64>> = states.iter().map(|_| vec![]).collect();
        self.answers(states, |s, i, p| {
            let mut log_p = vec![f32::NEG_INFINITY; vocab];
            p.iter().enumerate().for_each(|(v, p)| log_p[v + FIRST as usize] = p.ln() as f32);
            out[s].push(f(s, i, &log_p));
        });
        out
    }
}
