//! What KVzap learns: how strongly each position of a context is looked at when its text is written again (KVzip+, arXiv
//! 2601.07891, section 3), and the regression on hidden states that predicts it.
//!
//! ```text
//! s+_i = max over j, and over the query heads of the group, of a_ji |W_O v_i| / |h_j|
//! ```
//! i a position of the context, j a row that writes the answer, a_ji its attention, W_O restricted to the query head's
//! columns, h_j the attention's input at j behind its norm. Block-causal models write block by block: the answer stands
//! twice behind the context, clean and with masks, and one forward under the rule of block diffusion has every block denoised
//! behind the clean ones; j are its noisy rows at the mask shares 1/4, 1/2, 3/4 and 1. Causal models write row by row.
//! The answer is the context itself (`repeat`) where the model can repeat it, else the text's own continuation.
//! The regression (ridge, alpha 1, per layer) is from h_i over clean tokens to ln s+_i of each head of keys.

use hilda_kernels::rng::{Rng, Stream};
use hilda_kernels::{Backend, Base, Cpu, MaskRule, Place};

use super::{Linear, Surrogate, Target};
use crate::decode::Attention;
use crate::decode::policy::SINKS;
use crate::model::session::Weights;
use crate::model::{Keep, Plan, Shape};

/// Below this s+ counts as this: ln needs a floor.
const FLOOR: f64 = 1e-12;
/// Share of a copy that the model must write right for the copy to be the answer.
pub const REPEATS: f64 = 0.9;
/// Contexts on which that is tried.
const TRIED: usize = 8;

/// A regression that cannot be fitted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OracleError {
    #[error("kvzap is for models whose finished blocks stay as they are: block-causal and causal ones")]
    Attention,
    #[error(
        "a context of {context} tokens and its answer need {needed} positions, the model has {has}; with blocks of {block} at least {block} are needed"
    )]
    Context { context: usize, needed: usize, has: usize, block: usize },
    #[error("{found} documents have {tokens} tokens, at least 2 are needed: one to fit, one held out")]
    Documents { found: usize, tokens: usize },
}

/// How a model writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    pub attention: Attention,
    /// tokens a block; of causal models 1
    pub block: usize,
    pub shift: bool,
}

/// One context seen by the oracle.
pub struct Seen {
    /// per layer ln s+ [context, kv_heads]
    pub y: Vec<Vec<f32>>,
    /// per layer [context, D]
    pub h: Vec<Vec<f32>>,
    /// tokens of the answer written right, of how many
    pub right: [usize; 2],
}

/// Rows of a forward over context and answer.
struct Rows {
    ids: Vec<u32>,
    places: Vec<Place>,
    rule: MaskRule,
    /// rows that write the answer
    writers: std::ops::Range<usize>,
}

fn rows(w: &Writer, mask: u32, context: &[u32], answer: &[u32], share: f64, seed: u64) -> Rows {
    let text: Vec<u32> = context.iter().chain(answer).copied().collect();
    let (t, n) = (context.len(), text.len());
    let place = |p: usize, stream: u32| Place {
        position: p as u32,
        document: 0,
        block: (p / w.block) as u32,
        stream,
    };
    let clean: Vec<Place> = (0..n).map(|p| place(p, 0)).collect();
    if w.attention == Attention::Causal {
        return Rows { ids: text, places: clean, rule: Base::Causal.into(), writers: t..n };
    }
    let rng = Rng::new(seed, Stream::Mask, 0);
    let masked = |p: usize| rng.uniform((share * 4.0) as u32, p as u32, 0) < share;
    let noisy = (t..n).map(|p| if masked(p) { mask } else { text[p] });
    let ids = text.iter().copied().chain(noisy).collect();
    let places = clean.into_iter().chain((t..n).map(|p| place(p, 1))).collect();
    Rows {
        ids,
        places,
        rule: Base::BlockDiffusion { causal_clean: false }.into(),
        writers: n..n + answer.len(),
    }
}

/// The oracle for one context.
pub fn see(
    weights: &Weights<Cpu>,
    w: &Writer,
    plan: &mut Plan<Cpu>,
    context: &[u32],
    answer: &[u32],
    seed: u64,
) -> Seen {
    let c = &weights.trunk.config;
    let shares: &[f64] = if w.attention == Attention::Causal { &[1.0] } else { &[0.25, 0.5, 0.75, 1.0] };
    let mut best = vec![vec![0f64; context.len() * c.kv_heads]; c.layers];
    let mut seen = Seen { y: vec![], h: vec![], right: [0, 0] };
    for share in shares {
        let rows = rows(w, c.mask_id, context, answer, *share, seed);
        forward(weights, plan, &rows);
        let first = share == &shares[0];
        for (layer, best) in best.iter_mut().enumerate() {
            let h = inputs(weights, plan, layer, rows.ids.len());
            look(weights, plan, layer, &rows, &h, best, context.len());
            if first {
                seen.h.push(h[..context.len() * c.width].to_vec());
            }
        }
        let [right, of] = repeated(weights, w, plan, &rows, context.len(), answer);
        seen.right = [seen.right[0] + right, seen.right[1] + of];
    }
    seen.y = best.iter().map(|s| s.iter().map(|s| s.max(FLOOR).ln() as f32).collect()).collect();
    seen
}

fn forward(weights: &Weights<Cpu>, plan: &mut Plan<Cpu>, rows: &Rows) {
    let positions: Vec<u32> = rows.places.iter().map(|p| p.position).collect();
    let masks = weights.trunk.masks(&Cpu, rows.rule, 1, &rows.places, &rows.places);
    let shape = Shape { batch: 1, len: rows.ids.len() };
    weights.trunk.forward(&Cpu, &weights.params, plan, &rows.ids, &positions, &masks, shape);
}

/// Inputs of a layer's attention, behind the norm, [rows, D].
fn inputs(weights: &Weights<Cpu>, plan: &Plan<Cpu>, layer: usize, n: usize) -> Vec<f32> {
    let (trunk, at) = (&weights.trunk, &weights.trunk.layout.layers[layer]);
    let mut h = vec![0.0; n * trunk.config.width];
    let shape = trunk.norm_shape(n);
    Cpu.norm(&plan.inputs[layer], &weights.params, at.norm1, at.norm1_bias, &mut h, shape, false);
    h
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| *x as f64 * *x as f64).sum::<f64>().sqrt()
}

/// Raises `best` [context, kv_heads] to what the writers of this forward pay.
fn look(
    weights: &Weights<Cpu>,
    plan: &Plan<Cpu>,
    layer: usize,
    rows: &Rows,
    h: &[f32],
    best: &mut [f64],
    context: usize,
) {
    let (trunk, c) = (&weights.trunk, &weights.trunk.config);
    let (d, group, rule) = (c.head_dim, c.heads / c.kv_heads, trunk.rule_of(rows.rule, layer));
    let out = trunk.layout.layers[layer].out;
    let qkv = &plan.layers[layer].qkv;
    let part = |row: usize, head: usize| &qkv[row * c.qkv() + head * d..][..d];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() as f64;
    for head in 0..c.heads {
        let kv = head / group;
        // |W_O v| of every position of the context
        let mut alone = vec![0.0; context * c.heads * d];
        for (i, row) in alone.chunks_exact_mut(c.heads * d).enumerate() {
            row[head * d..][..d].copy_from_slice(part(i, c.heads + c.kv_heads + kv));
        }
        let mut paid = vec![0.0; context * c.width];
        Cpu.linear(&alone, &weights.params, out, &mut paid, context, c.width, c.heads * d, false);
        let sizes: Vec<f64> = paid.chunks_exact(c.width).map(norm).collect();
        for j in rows.writers.clone() {
            let q = part(j, head);
            let mut z: Vec<f64> = (0..rows.ids.len())
                .map(|i| match rule.allowed(rows.places[j], rows.places[i]) {
                    true => dot(q, part(i, c.heads + kv)) * c.attention_scale() as f64,
                    false => f64::NEG_INFINITY,
                })
                .collect();
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            z.iter_mut().for_each(|z| *z = (*z - top).exp());
            let scale = 1.0 / (z.iter().sum::<f64>() * norm(&h[j * c.width..][..c.width]));
            for (i, size) in sizes.iter().enumerate() {
                let best = &mut best[i * c.kv_heads + kv];
                *best = best.max(z[i] * size * scale);
            }
        }
    }
}

/// Masked tokens of the answer that the forward writes right, of how many.
fn repeated(
    weights: &Weights<Cpu>,
    w: &Writer,
    plan: &Plan<Cpu>,
    rows: &Rows,
    context: usize,
    answer: &[u32],
) -> [usize; 2] {
    let (trunk, c) = (&weights.trunk, &weights.trunk.config);
    let width = c.head_width();
    let causal = w.attention == Attention::Causal;
    let mut read = vec![];
    for (i, token) in answer.iter().enumerate() {
        let (row, p) = (rows.writers.start + i, context + i);
        if !causal && rows.ids[row] != c.mask_id {
            continue;
        }
        // with the logit shift a block's first token is read from the clean row before it
        let from = match (w.shift, p % w.block) {
            (false, _) => row,
            (true, 0) => p - 1,
            (true, _) => row - 1,
        };
        read.push((from, *token));
    }
    let mut logits = vec![0.0; c.vocab];
    let mut right = 0;
    for (from, token) in &read {
        let hidden = plan.hidden[from * width..][..width].to_vec();
        Cpu.linear(&hidden, &weights.params, trunk.layout.head, &mut logits, 1, c.vocab, width, false);
        c.forbid.iter().for_each(|id| logits[*id as usize] = f32::NEG_INFINITY);
        let top = (0..c.vocab).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        right += usize::from(top == Some(*token as usize));
    }
    [right, read.len()]
}

/// Ridge regression of y [heads] on h [D], from sums.
struct Sums {
    width: usize,
    heads: usize,
    n: f64,
    h: Vec<f64>,
    y: Vec<f64>,
    hh: Vec<f64>,
    hy: Vec<f64>,
}

impl Sums {
    fn new(width: usize, heads: usize) -> Sums {
        let zeros = |n: usize| vec![0f64; n];
        Sums {
            width,
            heads,
            n: 0.0,
            h: zeros(width),
            y: zeros(heads),
            hh: zeros(width * width),
            hy: zeros(width * heads),
        }
    }

    fn add(&mut self, h: &[f32], y: &[f32]) {
        self.n += 1.0;
        for (i, x) in h.iter().enumerate() {
            let x = *x as f64;
            self.h[i] += x;
            self.hh[i * self.width..][..=i].iter_mut().zip(h).for_each(|(s, z)| *s += x * *z as f64);
            self.hy[i * self.heads..][..self.heads].iter_mut().zip(y).for_each(|(s, y)| *s += x * *y as f64);
        }
        self.y.iter_mut().zip(y).for_each(|(s, y)| *s += *y as f64);
    }

    /// Weights with the constant behind them, [heads, D + 1]: (C + alpha 1) w = c of the centred sums, by Cholesky.
    fn solve(&self, alpha: f64) -> Vec<Vec<f32>> {
        let d = self.width;
        let mut l = vec![0f64; d * d];
        for i in 0..d {
            for j in 0..=i {
                let centred = self.hh[i * d + j] - self.h[i] * self.h[j] / self.n;
                let (above, below) = l.split_at(i * d);
                let before: f64 = match j == i {
                    true => below[..j].iter().map(|x| x * x).sum(),
                    false => below[..j].iter().zip(&above[j * d..][..j]).map(|(a, b)| a * b).sum(),
                };
                l[i * d + j] = match i == j {
                    true => (centred + alpha - before).max(1e-12).sqrt(),
                    false => (centred - before) / l[j * d + j],
                };
            }
        }
        (0..self.heads)
            .map(|head| {
                let mut w: Vec<f64> = (0..d)
                    .map(|i| self.hy[i * self.heads + head] - self.h[i] * self.y[head] / self.n)
                    .collect();
                for i in 0..d {
                    let before: f64 = (0..i).map(|j| l[i * d + j] * w[j]).sum();
                    w[i] = (w[i] - before) / l[i * d + i];
                }
                for i in (0..d).rev() {
                    let after: f64 = (i + 1..d).map(|j| l[j * d + i] * w[j]).sum();
                    w[i] = (w[i] - after) / l[i * d + i];
                }
                let at_mean: f64 = w.iter().zip(&self.h).map(|(w, h)| w * h).sum();
                w.push((self.y[head] - at_mean) / self.n);
                w.iter().map(|w| *w as f32).collect()
            })
            .collect()
    }
}

/// Explained variance of ln s+, all heads of a layer together, each around its own mean.
fn r2(surrogate: &Surrogate, layer: usize, width: usize, seen: &[Seen]) -> f64 {
    let heads = surrogate.layers[layer].w.len();
    let mut mean = vec![0f64; heads];
    let rows = || seen.iter().flat_map(|s| s.y[layer].chunks_exact(heads).skip(SINKS as usize));
    let n = rows().count() as f64;
    rows().for_each(|y| mean.iter_mut().zip(y).for_each(|(m, y)| *m += *y as f64 / n));
    let (mut left, mut all) = (0.0, 0.0);
    for s in seen {
        let told = surrogate.scores(layer, &s.h[layer], width);
        for (y, g) in s.y[layer].chunks_exact(heads).zip(told.chunks_exact(heads)).skip(SINKS as usize) {
            for head in 0..heads {
                left += (y[head] as f64 - g[head] as f64).powi(2);
                all += (y[head] as f64 - mean[head]).powi(2);
            }
        }
    }
    1.0 - left / all.max(1e-300)
}

/// Fits the surrogate to texts (each from the beginning of a document, with the token that begins one); every eighth is held
/// out. `context` tokens are scored, rounded down to whole blocks; the first [`SINKS`], which a press never drops, do not
/// count. `seen` hears of every context.
///
/// # Errors
/// A model of another kind, a context that does not fit, too few texts of twice its length.
pub fn fit(
    weights: &Weights<Cpu>,
    w: Writer,
    texts: &[Vec<u32>],
    context: usize,
    seed: u64,
    mut seen: impl FnMut(usize),
) -> Result<Surrogate, OracleError> {
    let c = &weights.trunk.config;
    if w.attention == Attention::Bidirectional {
        return Err(OracleError::Attention);
    }
    let block = w.block.max(1);
    let w = Writer { block, ..w };
    let t = context / block * block;
    if t <= SINKS as usize || 2 * t > c.context {
        return Err(OracleError::Context { context, needed: 2 * context, has: c.context, block });
    }
    let texts: Vec<&Vec<u32>> = texts.iter().filter(|ids| ids.len() >= 2 * t).collect();
    if texts.len() < 2 {
        return Err(OracleError::Documents { found: texts.len(), tokens: 2 * t });
    }
    let mut plan = weights.trunk.plan_keeping(&Cpu, 3 * t, Keep::Activations);
    let mut right = [0, 0];
    for ids in texts.iter().take(TRIED) {
        let one = see(weights, &w, &mut plan, &ids[..t], &ids[..t], seed);
        right = [right[0] + one.right[0], right[1] + one.right[1]];
    }
    let repeat_accuracy = right[0] as f64 / right[1].max(1) as f64;
    let target = if repeat_accuracy >= REPEATS { Target::Repeat } else { Target::Continuation };
    let mut sums: Vec<Sums> = (0..c.layers).map(|_| Sums::new(c.width, c.kv_heads)).collect();
    let mut held_out = vec![];
    for (i, ids) in texts.iter().enumerate() {
        let answer = if target == Target::Repeat { &ids[..t] } else { &ids[t..2 * t] };
        let one = see(weights, &w, &mut plan, &ids[..t], answer, seed + i as u64);
        if i % 8 == 7 || i + 1 == texts.len() && held_out.is_empty() {
            held_out.push(one);
        } else {
            for (layer, sums) in sums.iter_mut().enumerate() {
                let rows = one.h[layer].chunks_exact(c.width).zip(one.y[layer].chunks_exact(c.kv_heads));
                rows.skip(SINKS as usize).for_each(|(h, y)| sums.add(h, y));
            }
        }
        seen(i + 1);
    }
    let layers = sums.iter().map(|s| Linear { w: s.solve(1.0), r2: 0.0 }).collect();
    let documents = [texts.len() - held_out.len(), held_out.len()];
    let mut fitted = Surrogate { target, repeat_accuracy, context: t, documents, layers };
    for layer in 0..c.layers {
        fitted.layers[layer].r2 = r2(&fitted, layer, c.width, &held_out);
    }
    Ok(fitted)
}

#[cfg(test)]
mod tests;
