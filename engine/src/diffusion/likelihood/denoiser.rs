//! What an estimator asks: ln p(x_i | state) at chosen positions of corrupted rows. The estimators are written once
//! against [`Denoiser`]; a network answers, or a table on a tiny vocabulary, so that what the tests and the audit prove
//! is the code that measures models.
//!
//! Whole rows: a state is one sequence. Blocks: the states of a row are views [x_t^1 ; ... ; x_t^v ; x_0] of one forward
//! that share its clean rows, (v + 1) L positions instead of 2 v L; views never see each other, so the values are those
//! of one forward each (`ComplementaryViews`).

use hilda_kernels::head::{RowHead, STATS};
use hilda_kernels::{Base, HeadJob, Train};

use crate::config::{ModelConfig, PackingSpec};
use crate::data::Row;
use crate::diffusion::batch::{Micro, Normaliser, blocks, whole};
use crate::diffusion::corruption::{Kind, Pick, RowPlan};
use crate::model::{Plan, Trunk};

/// The ids a process works with.
#[derive(Clone, Debug, PartialEq)]
pub struct Alphabet {
    pub mask_id: u32,
    pub eos_id: u32,
    pub vocab: usize,
    /// ids that are never predicted: the mask and unused specials
    pub forbid: Vec<u32>,
}

impl Alphabet {
    pub fn of(c: &ModelConfig) -> Alphabet {
        Alphabet { mask_id: c.mask_id, eos_id: c.eos_id, vocab: c.vocab, forbid: c.forbid.clone() }
    }
    /// Ids that can be predicted, ascending: the N symbols of uniform noise.
    pub fn symbols(&self) -> Vec<u32> {
        (0..self.vocab as u32).filter(|v| *v != self.mask_id && !self.forbid.contains(v)).collect()
    }
}

/// One corrupted row and the columns that are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub row: usize,
    /// [L]
    pub noisy: Vec<u32>,
    pub asked: Vec<u32>,
    /// time of the process, where one is defined; networks here read none
    pub time: f64,
}

/// The true token at an asked column, and the shape of the distribution it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    pub log_p: f64,
    /// nats
    pub entropy: f64,
    /// largest and second largest probability; only where ranks were asked for
    pub p_max: f64,
    pub p_second: f64,
}

/// A number from one distribution.
pub type Reader<'a> = dyn Fn(usize, usize, &[f32]) -> f64 + Sync + 'a;

/// Anything that predicts tokens from corrupted rows.
pub trait Denoiser {
    fn alphabet(&self) -> Alphabet;
    /// One answer per asked column of every state. `ranks` fills the two largest probabilities too.
    fn score(&mut self, states: &[State], ranks: bool) -> Vec<Vec<Scored>>;
    /// `f(state, column of its list, ln p over the vocabulary)` of every asked column; forbidden ids are minus infinity.
    fn distributions(&mut self, states: &[State], f: &Reader) -> Vec<Vec<f64>>;
}

/// A trained network on rows of text.
pub struct Net<'a, B: Train> {
    pub backend: &'a B,
    pub trunk: &'a Trunk,
    pub params: &'a B::Buf,
    pub plan: &'a mut Plan<B>,
    pub rows: &'a [Row<'a>],
    pub packing: PackingSpec,
    /// None: whole rows under bidirectional attention
    pub block: Option<usize>,
    pub shift: bool,
}

/// Hidden rows whose logits are on the host at once.
const TILE: usize = 64;

impl<B: Train> Net<'_, B> {
    /// How many of `states` fit into the next forward, and the views of each row in it.
    fn fit(&self, states: &[State]) -> (usize, usize) {
        let budget = (self.plan.capacity() / self.rows[0].tokens.len()).max(1);
        let Some(first) = states.first() else { return (0, 1) };
        if self.block.is_none() {
            return (states.len().min(budget), 1);
        }
        let run = |from: usize, row: usize| states[from..].iter().take_while(|s| s.row == row).count();
        let views = run(0, first.row).min(budget - 1).max(1);
        let mut n = 0;
        while n < states.len() && (n / views + 1) * (views + 1) <= budget && run(n, states[n].row) >= views {
            n += views;
        }
        (n.max(views), views)
    }

    /// Forward of the next states: (states computed, the batch with one row per asked column, in their order).
    fn forward(&mut self, states: &[State]) -> (usize, Micro) {
        let (n, views) = self.fit(states);
        let norm = Normaliser { masked: 1.0, replaced: 0.0, kept: 0.0 };
        let plan = |s: &State| {
            let pick = |c: &u32| Pick { column: *c, kind: Kind::Masked, weight: 1.0 };
            RowPlan { noisy: s.noisy.clone(), picks: s.asked.iter().map(pick).collect(), counted: 0 }
        };
        let plans: Vec<Vec<RowPlan>> =
            (0..views).map(|v| states[v..n].iter().step_by(views).map(plan).collect()).collect();
        let plans: Vec<&[RowPlan]> = plans.iter().map(Vec::as_slice).collect();
        let rows: Vec<Row> = states[..n].iter().step_by(views).map(|s| self.rows[s.row].clone()).collect();
        let micro = match self.block {
            None => whole(&rows, &plans, &self.packing, Base::Bidirectional, self.shift, norm),
            Some(b) => {
                let one = Base::BlockDiffusion { causal_clean: false };
                let base = if views == 1 { one } else { Base::ComplementaryViews };
                blocks(&rows, &plans, &self.packing, b, base, self.shift, norm)
            }
        };
        forward(self.backend, self.trunk, self.params, self.plan, &micro);
        (n, micro)
    }

    /// The hidden rows of a batch in tiles of at most `size`: `f(first row, rows, gathered)`.
    fn tiles(&self, micro: &Micro, size: usize, mut f: impl FnMut(usize, usize, &B::Buf)) {
        let (b, width) = (self.backend, self.trunk.config.head_width());
        for start in (0..micro.rows.len()).step_by(size) {
            let n = size.min(micro.rows.len() - start);
            let mut index = b.ids(n);
            b.write_ids(&mut index, &micro.hidden_rows[start..start + n]);
            let mut gathered = b.buf(n * width);
            b.gather(&self.plan.hidden, &index, &mut gathered, n, width);
            f(start, n, &gathered);
        }
    }

    /// Log-probabilities, entropies and the two largest probabilities.
    fn ranked(&self, micro: &Micro, out: &mut Vec<Scored>) {
        let (b, c) = (self.backend, &self.trunk.config);
        self.tiles(micro, 1024, |start, n, gathered| {
            let mut keys = b.ids(4 * n);
            let key = |r: &hilda_kernels::head::LossRow| [0, 0, 0, r.target];
            b.write_ids(&mut keys, &micro.rows[start..start + n].iter().flat_map(key).collect::<Vec<_>>());
            let mut stats = b.buf(n * STATS);
            let job = HeadJob {
                rows: n,
                width: c.head_width(),
                vocab: c.vocab,
                top_k: 0,
                temperature: 0.0,
                seed: 0,
                forbid: c.forbid.clone(),
            };
            b.head(gathered, self.params, self.trunk.layout.head, &keys, &mut stats, &job);
            for row in b.read_range(&stats, 0, n * STATS).chunks_exact(STATS) {
                let h = RowHead::decode(row, 0);
                out.push(Scored {
                    log_p: (h.current - h.lse) as f64,
                    entropy: h.entropy as f64,
                    p_max: h.p_max() as f64,
                    p_second: h.p_second() as f64,
                });
            }
        });
    }
}

/// Fills `plan.hidden` for a batch.
pub fn forward<B: Train>(b: &B, trunk: &Trunk, params: &B::Buf, plan: &mut Plan<B>, micro: &Micro) {
    let (mut ids, mut positions) = (b.ids(micro.ids.len()), b.ids(micro.ids.len()));
    b.write_ids(&mut ids, &micro.ids);
    b.write_ids(&mut positions, &micro.positions());
    let masks = trunk.masks(b, micro.rule, micro.shape.batch, &micro.places, &micro.places);
    trunk.forward(b, params, plan, &ids, &positions, &masks, micro.shape);
}

impl<B: Train> Denoiser for Net<'_, B> {
    fn alphabet(&self) -> Alphabet {
        Alphabet::of(&self.trunk.config)
    }

    fn score(&mut self, states: &[State], ranks: bool) -> Vec<Vec<Scored>> {
        let mut out = Vec::with_capacity(states.len());
        while out.len() < states.len() {
            let rest = &states[out.len()..];
            let (n, micro) = self.forward(rest);
            let mut flat = Vec::with_capacity(micro.rows.len());
            if ranks {
                self.ranked(&micro, &mut flat);
            } else {
                let rows = (&micro.hidden_rows, &micro.rows);
                let (log_p, entropy) =
                    self.trunk.log_probs(self.backend, self.params, self.plan, rows.0, rows.1);
                flat.extend(log_p.iter().zip(&entropy).map(|(l, h)| Scored {
                    log_p: *l as f64,
                    entropy: *h as f64,
                    ..Scored::default()
                }));
            }
            let mut flat = flat.into_iter();
            out.extend(rest[..n].iter().map(|s| flat.by_ref().take(s.asked.len()).collect::<Vec<_>>()));
        }
        out
    }

    fn distributions(&mut self, states: &[State], f: &Reader) -> Vec<Vec<f64>> {
        let mut out = Vec::with_capacity(states.len());
        while out.len() < states.len() {
            let done = out.len();
            let (n, micro) = self.forward(&states[done..]);
            let states = &states[done..done + n];
            let asked: Vec<(usize, usize)> = states
                .iter()
                .enumerate()
                .flat_map(|(i, s)| (0..s.asked.len()).map(move |j| (done + i, j)))
                .collect();
            let (b, c) = (self.backend, &self.trunk.config);
            let mut flat = Vec::with_capacity(asked.len());
            self.tiles(&micro, TILE, |start, rows, gathered| {
                let mut logits = b.buf(rows * c.vocab);
                let (w, k) = (self.trunk.layout.head, c.head_width());
                b.linear(gathered, self.params, w, &mut logits, rows, c.vocab, k, false);
                let logits = b.read_range(&logits, 0, rows * c.vocab);
                flat.extend(hilda_kernels::par::map(rows, |i| {
                    let mut z = logits[i * c.vocab..(i + 1) * c.vocab].to_vec();
                    log_softmax(&mut z, &c.forbid);
                    let (state, at) = asked[start + i];
                    f(state, at, &z)
                }));
            });
            let mut flat = flat.into_iter();
            out.extend(states.iter().map(|s| flat.by_ref().take(s.asked.len()).collect::<Vec<_>>()));
        }
        out
    }
}

/// Logits to log-probabilities in place; forbidden ids get none.
pub fn log_softmax(z: &mut [f32], forbid: &[u32]) {
    forbid.iter().for_each(|id| z[*id as usize] = f32::NEG_INFINITY);
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let lse = max as f64 + z.iter().map(|x| ((*x - max) as f64).exp()).sum::<f64>().ln();
    z.iter_mut().for_each(|x| *x = (*x as f64 - lse) as f32);
}
