//! Phases under mask and uniform noise ([`crate::diffusion::hybrid`]), by enumeration: every state of a part under every
//! token's law, integrated over time. The trainer's batches are read on a table without a joint, so that corruption, weights
//! and targets are checked at once: their mean is the enumerated bound or it is not. What the headline draws is compared
//! with the same enumeration.

use hilda_kernels::head::{Mixture, reference};

use super::laws::{chi_square_z, mean_error, rows};
use super::objective::batches;
use super::process::{L, ROWS, Tiny, V};
use super::{Check, Finding};
use crate::config::{Claims, HybridSpec, RunConfig, Standing};
use crate::diffusion::hybrid::{Hybrid, HybridWeighting, Seen};
use crate::diffusion::likelihood::groups::Layout;
use crate::diffusion::likelihood::{Denoiser, Estimator, nats};
use crate::diffusion::table::{FIRST, MASK, Table};
use crate::train::trainer;

/// Times of an integral, t = sin^2(pi u / 2) at midpoints of u.
const TIMES: usize = 96;
/// Draws of the headline, and designs of it.
const K: usize = 4000;
const DESIGNS: u64 = 6;

/// (process, dt) over all times.
fn times(p_uniform: f64) -> impl Iterator<Item = (Hybrid, f64)> {
    use std::f64::consts::{FRAC_PI_2, PI};
    (0..TIMES).map(move |i| {
        let u = (i as f64 + 0.5) / TIMES as f64;
        let t = (FRAC_PI_2 * u).sin().powi(2);
        (Hybrid::at(t, p_uniform, V), FRAC_PI_2 * (PI * u).sin() / TIMES as f64)
    })
}

/// What stands where `id` does and `truth` belongs.
fn seen(id: u32, truth: u32) -> Seen {
    match id {
        MASK => Seen::Mask,
        id if id == truth => Seen::Truth,
        _ => Seen::Other,
    }
}

fn q(h: &Hybrid, seen: Seen) -> f64 {
    match seen {
        Seen::Mask => h.q_mask,
        Seen::Truth => h.q_truth,
        Seen::Other => h.q_other,
    }
}

/// KL + r - ln r - 1 of a position from the table's probabilities of the symbols.
fn divergence(h: &Hybrid, p: &[f64], truth: u32, id: u32) -> f64 {
    let log_p: Vec<f64> = p.iter().map(|p| p.ln()).collect();
    let observed = (id != MASK).then(|| id - FIRST);
    let m = Mixture { alpha: h.alpha as f32, beta: h.q_other as f32, observed, weight: 1.0 };
    reference::divergence(&log_p, (truth - FIRST) as usize, &m).0
}

/// Parts of a row: columns that share a time.
fn parts(tiny: &Tiny) -> Vec<Vec<usize>> {
    let size = tiny.block.unwrap_or(L);
    let shift = usize::from(tiny.shift());
    (0..L)
        .step_by(size)
        .map(|s| (s.max(shift)..s + size).collect())
        .filter(|p: &Vec<_>| !p.is_empty())
        .collect()
}

/// The bound of text `row` of a table, enumerated, with the training weights of `weighting`.
fn enumerated(tiny: &Tiny, table: &mut Table, row: usize, spec: &HybridSpec) -> f64 {
    let text = table.rows[row].clone();
    let mut sum = 0.0;
    for part in parts(tiny) {
        for state in 0..(V + 1).pow(part.len() as u32) {
            let mut noisy = text.clone();
            let mut digits = state;
            for c in &part {
                let digit = digits % (V + 1);
                noisy[*c] = if digit == V { MASK } else { FIRST + digit as u32 };
                digits /= V + 1;
            }
            let beliefs: Vec<Vec<f64>> = part
                .iter()
                .map(|c| {
                    let visible = table.visible(row, &noisy, *c);
                    table.belief(&visible, *c, f64::NAN)
                })
                .collect();
            let stands: Vec<Seen> = part.iter().map(|c| seen(noisy[*c], text[*c])).collect();
            for (h, dt) in times(spec.p_uniform) {
                let chance: f64 = stands.iter().map(|s| q(&h, *s)).product();
                if chance == 0.0 {
                    continue;
                }
                for ((c, p), s) in part.iter().zip(&beliefs).zip(&stands) {
                    let w = h.training_weight(*s, spec.weighting);
                    sum += dt * chance * w * divergence(&h, p, text[*c], noisy[*c]);
                }
            }
        }
    }
    sum
}

/// Findings about corruption and objective.
pub fn objective(tiny: &Tiny, spec: &HybridSpec, claims: &Claims) -> Vec<Finding> {
    let shift = usize::from(tiny.shift());
    let parts = parts(tiny);
    let size = parts.iter().map(Vec::len).max().unwrap_or(0);
    let mut table = tiny.random();
    let texts = table.rows.clone();
    let mut counts = vec![0.0; 3usize.pow(size as u32)];
    let (mut means, mut bad_targets) = (vec![], 0.0);
    let mut used = vec![];
    batches(tiny, |rows, micro| {
        let streams = micro.ids.len() / (ROWS * L);
        if used.is_empty() {
            let index = |t: &[u32]| texts.iter().position(|x| x == t).expect("a text");
            used = rows.iter().map(|r| index(r.tokens)).collect();
        }
        let noisy = |s: usize| &micro.ids[s * streams * L..][..L];
        let mut sum = 0.0;
        for (hidden, row) in micro.hidden_rows.iter().zip(&micro.rows) {
            let sequence = *hidden as usize / L / streams;
            // a block's first token is read from the clean row before it
            let column = *hidden as usize % L + shift;
            bad_targets += f64::from(u8::from(row.target != rows[sequence].tokens[column]));
            let m = row.mixture.expect("a row under mixed noise");
            let visible = table.visible(used[sequence], noisy(sequence), column);
            let log_p: Vec<f64> = table.belief(&visible, column, f64::NAN).iter().map(|p| p.ln()).collect();
            let own = Mixture { observed: m.observed.map(|s| s - FIRST), ..m };
            sum += m.weight as f64 * reference::divergence(&log_p, (row.target - FIRST) as usize, &own).0;
        }
        // the loss is a mean over tokens
        means.push(sum * (ROWS * (L - shift)) as f64 / ROWS as f64);
        for s in 0..ROWS {
            for part in parts.iter().filter(|p| p.len() == size) {
                let class = |c: &usize| match seen(noisy(s)[*c], rows[s].tokens[*c]) {
                    Seen::Mask => 0,
                    Seen::Truth => 1,
                    Seen::Other => 2,
                };
                counts[part.iter().fold(0, |code, c| 3 * code + class(c))] += 1.0;
            }
        }
    });
    let law: Vec<f64> = (0..counts.len())
        .map(|code| {
            let digits: Vec<usize> = (0..size as u32).map(|i| code / 3usize.pow(i) % 3).collect();
            let chance = |h: &Hybrid| -> f64 {
                let of = [h.q_mask, h.q_truth, (V as f64 - 1.0) * h.q_other];
                digits.iter().map(|d| of[*d]).product()
            };
            times(spec.p_uniform).map(|(h, dt)| dt * chance(&h)).sum()
        })
        .collect();
    let want = used.iter().map(|r| enumerated(tiny, &mut table, *r, spec)).sum::<f64>() / used.len() as f64;
    let (mean, error) = mean_error(&means);
    let law = chi_square_z(&counts, &law);
    let checks = vec![Check::at_most(
        "what stands at a part's tokens against its law, in standard deviations",
        law,
        4.0,
    )];
    let corruption = tiny.finding(
        "corruption",
        "masks and uniform symbols",
        Standing::Exact,
        None,
        "drawn as declared".into(),
        checks,
    );
    let checks = vec![
        Check::at_most("targets that are not the clean token", bad_targets, 0.0),
        // times within 1e-4 of the ends are not drawn
        Check::at_most(
            "loss of the batches on a table against enumeration, in standard errors",
            ((mean - want).abs() - 2e-3 * want).max(0.0) / error,
            4.5,
        ),
    ];
    let (proved, says) = match spec.weighting {
        HybridWeighting::Nelbo => {
            (Standing::Bound, "the NELBO of mask and uniform noise, weight by weight".to_string())
        }
        kind => (
            Standing::Neither,
            format!("{kind:?} weights in place of the bound's; a training signal, read the headline")
                .to_lowercase(),
        ),
    };
    vec![corruption, tiny.finding("objective", "training loss", proved, claims.objective, says, checks)]
}

/// The headline of a phase against enumeration.
pub fn estimator(tiny: &Tiny, spec: &HybridSpec, config: &RunConfig, p: usize, claimed: Standing) -> Finding {
    let named = trainer::estimator(config, p);
    let exact = HybridSpec { weighting: HybridWeighting::Nelbo, ..*spec };
    let mut table = tiny.random();
    let want = enumerated(tiny, &mut table, 5, &exact);
    let text = vec![table.rows[5].clone()];
    let one = rows(&text);
    let mut single = tiny.random();
    single.rows = text.clone();
    let block = tiny.block.unwrap_or(0);
    let e = Estimator::Hybrid { p_uniform: spec.p_uniform, loo: false, block, k: K };
    let packing = tiny.config.data.packing;
    let layout = Layout::new(&one, &packing, e.block(), tiny.shift(), single.alphabet());
    let runs: Vec<f64> = (0..DESIGNS)
        .map(|seed| nats(&mut single, &layout, e, seed, &mut |_, _| true).expect("four tokens")[0].0)
        .collect();
    let (mean, error) = mean_error(&runs);
    Finding {
        feature: tiny.feature.clone(),
        part: "estimator",
        subject: named.name(),
        proved: Standing::Bound,
        claimed: Some(claimed),
        says: "bounds the process of masks and wrong symbols; not compared with bounds of masks alone, nor the decoders'"
            .into(),
        checks: vec![Check::at_most(
            format!("{} against enumeration, in standard errors of {DESIGNS} designs", e.name()),
            ((mean - want).abs() - 1e-3 * want).max(0.0) / error.max(1e-9),
            4.5,
        )],
    }
}
