//! Corruption and objective, read off the trainer's own micro-batches.
//!
//! For a part of L' tokens and a mask set S of n of them the NELBO gives every masked token the expected coefficient
//! w(n) = (n-1)! (L'-n)! / L'! (`methods/mdlm.md` 2.4). The trainer's coefficient is the integral over the schedule of
//! p^n (1 - p)^(L'-n) times its weight; draws of its batches must agree with that integral, and the integral with w(n)
//! if the loss is to be the bound. Tokens that are wrong but visible, or supervised without being masked, make the loss a
//! mixture that bounds nothing.

use std::collections::HashMap;

use super::laws::chi_square_z;
use super::process::{L, ROWS, Tiny};
use super::{Check, Finding};
use crate::config::{Claims, Standing};
use crate::data::{Packed, Row};
use crate::diffusion::Micro;
use crate::diffusion::likelihood::exact::weights;
use crate::diffusion::table::{MASK, sequences};
use crate::train::step::{corruption, micro_batches};

/// Batches that are drawn.
const STEPS: u64 = 300;
/// Largest relative distance of a coefficient from the bound's: rates below 1e-3 are not drawn.
const CLOSE: f64 = 3e-3;

/// What was counted over all batches.
#[derive(Default)]
struct Seen {
    /// parts seen by (size, mask set)
    sets: HashMap<(usize, u32), f64>,
    /// by (size, masked): sum of coefficients times counted tokens, and of their squares, one a supervised token
    coefficients: HashMap<(usize, usize), (f64, f64)>,
    parts: HashMap<usize, f64>,
    /// supervised tokens that were not masked
    visible: f64,
    /// visible tokens that were wrong
    wrong: f64,
    /// largest distance of a causal coefficient from 1
    causal: f64,
    /// targets that were not the clean token
    bad_targets: f64,
}

/// Findings about corruption and objective of a tiny phase.
pub fn audit(tiny: &Tiny, claims: &Claims) -> Vec<Finding> {
    let seen = draw(tiny);
    let targets = Check::at_most("targets that are not the clean token", seen.bad_targets, 0.0);
    if tiny.causal() {
        let checks =
            vec![targets, Check::at_most("distance of a token's coefficient from 1", seen.causal, 1e-5)];
        let says = "mean cross-entropy of every next token".to_string();
        return vec![tiny.finding(
            "objective",
            "training loss",
            Standing::Exact,
            claims.objective,
            says,
            checks,
        )];
    }

    let (process, _) = corruption(&tiny.config, &tiny.trunk, &tiny.phase, 0);
    // integral over the schedule of f(p, weight)
    let integral = |f: &dyn Fn(f64, f64) -> f64| {
        let n = 40_000;
        (0..n)
            .map(|i| {
                let v = (i as f64 + 0.5) / n as f64;
                // most of the weight lies at small rates: u = lo + (hi - lo) v^3
                let u = process.t[0] + (process.t[1] - process.t[0]) * v.powi(3);
                f(process.schedule.rate(u), process.weight(u)) * 3.0 * v * v / n as f64
            })
            .sum::<f64>()
    };
    let views = if tiny.phase.complementary { 2.0 } else { 1.0 };
    let (mut law, mut worst_z, mut worst_w) = (0.0f64, 0.0f64, 0.0f64);
    let mut sizes: Vec<usize> = seen.parts.keys().copied().collect();
    sizes.sort_unstable();
    for size in &sizes {
        let w = weights(*size);
        // the second view's rate is 1 - p, with the weight of its own density
        let chance = |n: usize| {
            let of = |p: f64| p.powi(n as i32) * (1.0 - p).powi((size - n) as i32);
            let both = move |p: f64, _: f64| if views == 2.0 { 0.5 * (of(p) + of(1.0 - p)) } else { of(p) };
            integral(&both)
        };
        let all: Vec<u32> = (0..1 << size).collect();
        let p: Vec<f64> = all.iter().map(|s| chance(s.count_ones() as usize)).collect();
        let counts: Vec<f64> =
            all.iter().map(|s| seen.sets.get(&(*size, *s)).copied().unwrap_or(0.0)).collect();
        // two views are one draw: their sets come in pairs
        let half = |v: &[f64]| v.iter().map(|x| x / views).collect::<Vec<_>>();
        law = law.max(chi_square_z(&half(&counts), &p));
        for n in 1..=*size {
            let of = |p: f64| p.powi(n as i32) * (1.0 - p).powi((size - n) as i32);
            let low = process.schedule.rate(process.t[0]);
            let expected = integral(&|p, weight| match views as usize {
                1 => of(p) * weight,
                _ => {
                    let unweighted = process.weighting == crate::config::Weighting::Uniform;
                    let other = if unweighted { 1.0 } else { weight * p / (1.0 - p).max(low) };
                    0.5 * (of(p) * weight + of(1.0 - p) * other)
                }
            });
            // every mask set of n, every token in it
            let terms = n as f64 * binomial(*size, n);
            let draws = seen.parts[size];
            let (sum, square) = seen.coefficients.get(&(*size, n)).copied().unwrap_or_default();
            let mean = sum / draws;
            let error = ((square / draws - mean * mean).max(0.0) / draws).sqrt();
            worst_z = worst_z.max((mean - terms * expected).abs() / error.max(1e-6 * terms));
            worst_w = worst_w.max((expected / w[n] - 1.0).abs());
        }
    }
    let limits = vec![Check::at_most("mask sets against their law, in standard deviations", law, 4.0)];
    let replaced = seen.wrong > 0.0;
    let kind = if replaced { "masked and wrong visible tokens" } else { "masks only" };
    let corrupting =
        tiny.finding("corruption", kind, Standing::Exact, None, "drawn as declared".into(), limits);

    let mixed = seen.visible > 0.0;
    let edges = sizes.iter().all(|s| *s == 1);
    let (proved, says) = match () {
        () if mixed || replaced => (
            Standing::Neither,
            "a mixture with terms at visible tokens; read the headline, and hybrid bounds beside it"
                .to_string(),
        ),
        () if worst_w > CLOSE => (
            Standing::Neither,
            format!(
                "weights leave the bound's by up to {:.0} %; a training signal, read the headline",
                100.0 * worst_w
            ),
        ),
        () if edges => (Standing::Exact, "every token masked alone: the exact factorisation".into()),
        () => (Standing::Bound, "the NELBO, weight by weight".into()),
    };
    let coefficients = Check::at_most(
        "coefficients of the batches against the schedule's integral, in standard errors",
        worst_z,
        5.0,
    );
    let checks = vec![targets, coefficients];
    vec![corrupting, tiny.finding("objective", "training loss", proved, claims.objective, says, checks)]
}

fn binomial(n: usize, k: usize) -> f64 {
    (1..=k).map(|i| (n - k + i) as f64 / i as f64).product()
}

/// Calls `f(rows, micro-batch)` with batches as a training step draws them.
pub(super) fn batches(tiny: &Tiny, mut f: impl FnMut(&[Row], &Micro)) {
    let texts = sequences(super::process::V, L);
    let rows: Vec<u32> = (0..ROWS).flat_map(|r| texts[(7 * r + 5) % texts.len()].clone()).collect();
    let data = Packed { rows, length: L, eos: u32::MAX, documents: ROWS, tokens: ROWS * L, answers: vec![] };
    let rows: Vec<_> = (0..ROWS).map(|r| data.row(r)).collect();
    for step in 0..STEPS {
        for micro in micro_batches(&tiny.config, &tiny.trunk, &tiny.phase, &rows, step) {
            f(&rows, &micro);
        }
    }
}

/// Counts what the batches hold.
fn draw(tiny: &Tiny) -> Seen {
    let shift = usize::from(tiny.shift());
    let mut seen = Seen::default();
    batches(tiny, |rows, micro| {
        let streams = micro.ids.len() / (ROWS * L);
        let noisy = if tiny.block.is_some() && !tiny.causal() { streams - 1 } else { streams };
        let counted = (ROWS * (L - shift) * if tiny.causal() { 1 } else { noisy }) as f64;
        // coefficient of each token of each view
        let mut c = vec![[0.0f64; L]; ROWS * noisy];
        for (hidden, row) in micro.hidden_rows.iter().zip(&micro.rows) {
            let sequence = *hidden as usize / L / streams;
            let column = *hidden as usize % L + shift;
            let text = rows[sequence].tokens;
            seen.bad_targets += f64::from(u8::from(row.target != text[column]));
            let value = -row.d_log_p as f64 * counted;
            if tiny.causal() {
                seen.causal = seen.causal.max((value - 1.0).abs());
                continue;
            }
            let view = (0..noisy).find(|v| micro.ids[(sequence * streams + v) * L + column] == MASK);
            match view {
                Some(v) => c[sequence * noisy + v][column] += value,
                None => seen.visible += 1.0,
            }
        }
        if tiny.causal() {
            return;
        }
        for (at, c) in c.iter().enumerate() {
            let (sequence, view) = (at / noisy, at % noisy);
            let ids = &micro.ids[(sequence * streams + view) * L..][..L];
            let text = rows[sequence].tokens;
            let wrong = (shift..L).filter(|i| ids[*i] != MASK && ids[*i] != text[*i]).count();
            seen.wrong += wrong as f64;
            for start in (0..L).step_by(tiny.block.unwrap_or(L)) {
                let part: Vec<usize> =
                    (start..start + tiny.block.unwrap_or(L)).filter(|i| *i >= shift).collect();
                if part.is_empty() {
                    continue;
                }
                let set: u32 = part.iter().enumerate().map(|(i, c)| u32::from(ids[*c] == MASK) << i).sum();
                let sum: f64 = part.iter().map(|i| c[*i]).sum();
                *seen.sets.entry((part.len(), set)).or_default() += 1.0;
                *seen.parts.entry(part.len()).or_default() += 1.0;
                let e = seen.coefficients.entry((part.len(), set.count_ones() as usize)).or_default();
                *e = (e.0 + sum, e.1 + sum * sum);
            }
        }
    });
    seen
}
