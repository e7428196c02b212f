//! What the headline estimates, by enumeration and by its own draws.
//!
//! - With the conditionals of a joint P the estimator's expectation is -ln P(x) for every x.
//! - With a table that has no joint (as networks have none) its K = 10,000 draws agree with the enumeration, the law of its
//!   sampler sums to one, and its expectation is never below -ln p of that sampler: exact where it is equal for every x.

use super::laws::{mean_error, rows, uniform_order};
use super::process::{L, Tiny, V};
use super::{Check, Finding};
use crate::config::{RunConfig, Standing};
use crate::diffusion::likelihood::groups::Layout;
use crate::diffusion::likelihood::{Denoiser, Estimator, nats};
use crate::diffusion::table::{Beliefs, Table, joint, sequences};
use crate::train::trainer;

/// Draws of the Monte Carlo check.
const K: usize = 10_000;
/// Replicates of it.
const R: u64 = 6;

/// The headline of phase `p` on its tiny counterpart.
pub fn audit(tiny: &Tiny, config: &RunConfig, p: usize, claimed: Standing) -> Finding {
    let named = trainer::estimator(config, p);
    let shift = tiny.shift();
    let block = tiny.table_block().unwrap_or(0);
    let texts = sequences(V, L);
    let rows = rows(&texts);
    let packing = tiny.config.data.packing;
    let value = |table: &mut Table, e: Estimator, seed: u64| -> Vec<f64> {
        let layout = Layout::new(&rows, &packing, e.block(), shift, table.alphabet());
        let parts = nats(table, &layout, e, seed, &mut |_, _| true).expect("four tokens");
        parts.into_iter().map(|p| p.0).collect()
    };
    let enumerated = Estimator::NelboExact { block };

    // true conditionals: the value itself, given the first token where it has no row
    let (mut table, p_x) = tiny.exact();
    let first = |x: &[u32]| -> f64 {
        let same = |(y, _): &(&Vec<u32>, &f64)| !shift || y[0] == x[0];
        texts.iter().zip(&p_x).filter(same).map(|(_, p)| p).sum()
    };
    let truth: Vec<f64> =
        texts.iter().zip(&p_x).map(|(x, p)| -(p / if shift { first(x) } else { 1.0 }).ln()).collect();
    let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let consistent = far(&value(&mut table, enumerated, 0), &truth);

    // without a joint
    let mut table = tiny.random();
    let exact = value(&mut table, enumerated, 0);
    let law: Vec<f64> = {
        let layout = Layout::new(&rows, &packing, tiny.table_block(), shift, table.alphabet());
        (0..rows.len()).map(|r| -uniform_order(&mut table, &layout, r).ln()).collect()
    };
    let starts = if shift { V as f64 } else { 1.0 };
    let total: f64 = law.iter().map(|n| (-n).exp()).sum::<f64>() / starts;
    let below = exact.iter().zip(&law).map(|(e, l)| l - e).fold(0.0, f64::max);
    let gap = exact.iter().zip(&law).map(|(e, l)| e - l).sum::<f64>() / exact.len() as f64;

    let mut checks = vec![
        Check::at_most("with true conditionals: distance from -ln P(x)", consistent, 1e-9),
        Check::at_most("the sampler's law: distance of its sum from 1", (total - 1.0).abs(), 1e-9),
        Check::at_most("below -ln p of its sampler, by", below, 1e-9),
    ];
    // the draws that the headline itself makes, on one text of the tiny rows
    if !tiny.causal() {
        let one = rows[5..6].to_vec();
        let mut single = tiny.random();
        single.rows = vec![texts[5].clone()];
        let drawn =
            if block > 0 { Estimator::NelboBlock { block, k: K } } else { Estimator::NelboT { k: K } };
        for (e, bias) in [(drawn, 1e-3 * exact[5]), (Estimator::NelboN { block, k: K }, 0.0)] {
            let layout = Layout::new(&one, &packing, e.block(), shift, single.alphabet());
            let runs: Vec<f64> = (0..R)
                .map(|seed| nats(&mut single, &layout, e, seed, &mut |_, _| true).expect("four tokens")[0].0)
                .collect();
            let (mean, error) = mean_error(&runs);
            let z = ((mean - exact[5]).abs() - bias).max(0.0) / error.max(1e-9);
            checks.push(Check::at_most(
                format!("{} against enumeration, in standard errors of {R} designs", e.name()),
                z,
                4.5,
            ));
        }
    }
    let whole = tiny.block.is_none();
    let (proved, says) = match gap {
        g if g.abs() < 1e-9 => (Standing::Exact, "equal to -ln p of left-to-right sampling".to_string()),
        _ => (
            Standing::Bound,
            format!(
                "bounds the uniform-order sampler{}, here by {gap:.3} nats a text; not the sampler by confidence",
                if whole { "" } else { " of each block" }
            ),
        ),
    };
    Finding {
        feature: tiny.feature.clone(),
        part: "estimator",
        subject: named.name(),
        proved: if below > 1e-9 { Standing::Neither } else { proved },
        claimed: Some(claimed),
        says,
        checks,
    }
}

/// What a phase with wrong visible tokens can be measured by: the hybrid bounds beside the mask-only one.
pub fn editing(tiny: &Tiny) -> Vec<Finding> {
    let p_uniform = match (tiny.phase.hybrid, tiny.phase.edit) {
        (Some(h), _) => h.p_uniform,
        (None, Some(_)) => 0.2,
        (None, None) => return vec![],
    };
    let (texts, k) = (sequences(V, 2), 1000);
    let p = joint(V, 2, 11, 1.5);
    let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
    let rows = rows(&texts);
    let packing = crate::config::PackingSpec { length: 2, ..tiny.config.data.packing };
    let run = |included: bool, loo: bool| {
        let beliefs = Beliefs::Noisy { joint: p.clone(), p_uniform, included };
        let mut table = Table::new(V, 2, None, beliefs);
        let e = Estimator::Hybrid { p_uniform, loo, block: 0, k };
        let layout = Layout::new(&rows, &packing, None, false, table.alphabet());
        let values: Vec<f64> = (0..12)
            .map(|seed| {
                let parts = nats(&mut table, &layout, e, seed, &mut |_, _| true).expect("two tokens");
                parts.iter().zip(&p).map(|(n, p)| n.0 * p).sum()
            })
            .collect();
        mean_error(&values)
    };
    let finding = |subject: &str, says: String, check: Check| Finding {
        feature: tiny.feature.clone(),
        part: "estimator",
        subject: subject.into(),
        proved: Standing::Bound,
        claimed: None,
        says,
        checks: vec![check],
    };
    let ((raw, raw_error), (converted, error)) = (run(true, false), run(true, true));
    vec![
        finding(
            "nelbo_hybrid",
            format!(
                "bounds mask and uniform noise, loose by {:.2} nats where visible evidence counts twice",
                raw - entropy
            ),
            Check::at_most("below the entropy, in standard errors", (entropy - raw) / raw_error, 4.0),
        ),
        finding(
            "nelbo_hybrid_loo",
            "the same after the leave-one-out conversion: tight for the ideal network".into(),
            Check::at_most(
                "distance from the entropy, in standard errors",
                (converted - entropy).abs() / error,
                4.0,
            ),
        ),
    ]
}
