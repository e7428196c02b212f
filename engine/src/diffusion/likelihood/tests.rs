//! Every estimator against enumeration, on sequences of four of three symbols.

use super::*;
use crate::data::Row;
use crate::diffusion::table::{Beliefs, Table, joint, sequences};

const V: usize = 3;
const L: usize = 4;
const STREAM: PackingSpec =
    PackingSpec { length: L, documents: false, restart_positions: false, restart_blocks: false };

fn random(block: Option<usize>) -> Table {
    Table::new(V, L, block, Beliefs::Random { seed: 5, scale: 1.5 })
}
fn exact(block: Option<usize>) -> (Table, Vec<f64>) {
    let p = joint(V, L, 3, 1.5);
    (Table::new(V, L, block, Beliefs::Joint(p.clone())), p)
}

/// (nats, counted) of every sequence.
fn all(table: &mut Table, estimator: Estimator, shift: bool) -> Vec<f64> {
    let texts = table.rows.clone();
    let rows: Vec<Row> = texts.iter().map(|x| Row::new(x, u32::MAX)).collect();
    let layout = Layout::new(&rows, &STREAM, estimator.block(), shift, table.alphabet());
    let parts = nats(table, &layout, estimator, 7, &mut |_, _| true).unwrap();
    assert!(parts.iter().all(|p| p.1 as usize == L - usize::from(shift)));
    parts.into_iter().map(|p| p.0).collect()
}

fn rules() -> Vec<Rule> {
    vec![
        Rule::Leftmost,
        Rule::PMax { k: 1 },
        Rule::PMax { k: 2 },
        Rule::Margin { k: 1 },
        Rule::Entropy { k: 1 },
        Rule::Entropy { k: 3 },
        Rule::Threshold { tau: 0.6 },
        Rule::Threshold { tau: 2.0 },
    ]
}

/// `methods/mdlm.md` 5.1, `methods/block_diffusion.md` 5.5: with consistent conditionals the bound and every chain are
/// -ln P(x), for every x and any block size.
#[test]
fn true_conditionals_leave_no_gap() {
    for block in [0, 1, 2, 3] {
        let (mut table, p) = exact((block > 0).then_some(block));
        let chains = [Rule::Leftmost, Rule::PMax { k: 1 }, Rule::Margin { k: 1 }, Rule::Entropy { k: 1 }];
        let mut estimators = vec![Estimator::NelboExact { block }];
        estimators.extend(chains.map(|rule| Estimator::Duel { rule, block }));
        for e in estimators {
            for (got, p) in all(&mut table, e, false).iter().zip(&p) {
                assert!((got + p.ln()).abs() < 1e-9, "{}: {got} {}", e.name(), -p.ln());
            }
        }
    }
}

/// `methods/evaluation.md` 6.2, 6.3: every admissible rule is a distribution, parallel ones included; a threshold that
/// nobody passes writes the best; one block of everything at once is the mean-field value; the bound is no less than the
/// entropy of its own process.
#[test]
fn chains_are_distributions() {
    for block in [0, 2] {
        for rule in rules() {
            let mut table = random((block > 0).then_some(block));
            let total: f64 =
                all(&mut table, Estimator::Duel { rule, block }, false).iter().map(|n| (-n).exp()).sum();
            assert!((total - 1.0).abs() < 1e-9, "{rule:?}, block {block}: {total}");
        }
    }
    let mut table = random(None);
    let l2r = all(&mut table, Estimator::LeftToRight { block: 0 }, false);
    assert_eq!(l2r, all(&mut table, Estimator::Duel { rule: Rule::Leftmost, block: 0 }, false));
    let never = all(&mut table, Estimator::Duel { rule: Rule::Threshold { tau: 2.0 }, block: 0 }, false);
    assert_eq!(never, all(&mut table, Estimator::Duel { rule: Rule::PMax { k: 1 }, block: 0 }, false));
    // blocks of one: the same as left to right behind clean tokens
    let mut one = random(Some(1));
    let bound = all(&mut one, Estimator::NelboExact { block: 1 }, false);
    let chain = all(&mut one, Estimator::LeftToRight { block: 1 }, false);
    assert!(bound.iter().zip(&chain).all(|(a, b)| (a - b).abs() < 1e-12));
}

/// K = 10,000 draws lie within three standard errors of the enumeration, for both forms, with and without blocks and
/// shift; the standard error comes from independent designs.
#[test]
fn monte_carlo_agrees_with_enumeration() {
    let k = 10_000;
    let x: Vec<u32> = vec![2, 4, 3, 2];
    let rows = [Row::new(&x, u32::MAX)];
    for (block, shift) in [(0, false), (0, true), (2, false), (2, true)] {
        let mut table = random((block > 0).then_some(block));
        table.rows = vec![x.clone()];
        let mut value = |e: Estimator, seed: u64| {
            let layout = Layout::new(&rows, &STREAM, e.block(), shift, table.alphabet());
            nats(&mut table, &layout, e, seed, &mut |_, _| true).unwrap()[0].0
        };
        let want = value(Estimator::NelboExact { block }, 0);
        let rate = if block > 0 { Estimator::NelboBlock { block, k } } else { Estimator::NelboT { k } };
        for e in [rate, Estimator::NelboN { block, k }] {
            let got: Vec<f64> = (0..8).map(|seed| value(e, seed)).collect();
            let (mean, error) = mean_error(&got);
            // rates below 1e-3 are never drawn: at most a thousandth
            let bias = if matches!(e, Estimator::NelboN { .. }) { 0.0 } else { 1e-3 * want };
            assert!((mean - want).abs() < 3.0 * error + bias, "{}: {mean} ± {error}, {want}", e.name());
            assert!(error < 0.01 * want, "{}: ± {error}", e.name());
        }
    }
}

fn mean_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (square / (n - 1.0) / n).sqrt())
}

/// Independent draws: the error falls as 1 / sqrt(K). On the ring of counts it is smaller.
#[test]
fn the_error_falls_with_the_root_of_k() {
    let x: Vec<u32> = vec![2, 4, 3, 2];
    let rows = [Row::new(&x, u32::MAX)];
    let mut table = random(None);
    table.rows = vec![x.clone()];
    let layout = Layout::new(&rows, &STREAM, None, false, table.alphabet());
    for counts in [false, true] {
        let mut spread = |k: usize, ring: bool| {
            let values: Vec<f64> = (0..200)
                .map(|seed| {
                    let draws = draws::Draws::new(&layout, seed, k, counts, ring);
                    let (s, w): (Vec<_>, Vec<_>) = (0..k).map(|j| draws.draw(0, j)).unzip();
                    weighted(&mut table, &s, &w).iter().sum::<f64>() / k as f64
                })
                .collect();
            mean_error(&values).1 * (values.len() as f64).sqrt()
        };
        let (a, b, c) = (spread(16, false), spread(64, false), spread(256, false));
        // 200 values give a spread within 5 %; rates have heavy tails
        let tolerance = if counts { 0.3 } else { 0.6 };
        assert!((a / b - 2.0).abs() < tolerance && (b / c - 2.0).abs() < tolerance, "{a} {b} {c}");
        if counts {
            assert!(spread(64, true) < 0.9 * b, "the ring has the smaller error");
        }
    }
}

/// `methods/evaluation.md` 6.6: the floor form of the ring gives every count the same chance, for any L and K.
#[test]
fn the_ring_of_counts_is_uniform() {
    for l in [1usize, 2, 4, 6, 17, 64] {
        for k in [1usize, 3, 4, 8, 64] {
            let fine = 2 * l * k;
            let mut seen = vec![0usize; l];
            for i in 0..fine {
                let u = (i as f64 + 0.5) / fine as f64;
                for j in 0..k {
                    let v = (u + j as f64 / k as f64).fract();
                    seen[((l as f64 * v) as usize).min(l - 1)] += 1;
                }
            }
            assert!(seen.iter().all(|n| n * l == fine * k), "L {l}, K {k}: {seen:?}");
        }
    }
}

/// The golden joint of `methods/llada21_editing.md`, GIDD 2.5: entropy 1.927565; leave-one-out at any p_u attains it,
/// the posterior that includes the visible token does not, and the conversion turns the one into the other.
#[test]
fn the_audit_of_editing_models() {
    let p = [[0.30, 0.05, 0.05], [0.02, 0.20, 0.08], [0.10, 0.15, 0.05]];
    // position 0 counts first in the index
    let joint: Vec<f64> = (0..9).map(|i| p[i % 3][i / 3]).collect();
    for (p_uniform, double) in [(0.05, 2.274745), (0.1, 2.451942), (0.2, 2.650086), (0.5, 2.842118)] {
        let plain = quadrature(&joint, p_uniform, false, false);
        let raw = quadrature(&joint, p_uniform, true, false);
        let converted = quadrature(&joint, p_uniform, true, true);
        assert!((plain - 1.927565).abs() < 1e-3, "p_u {p_uniform}: leave-one-out {plain}");
        assert!((raw - double).abs() < 2e-3, "p_u {p_uniform}: included {raw}, {double}");
        assert!((converted - plain).abs() < 1e-4, "p_u {p_uniform}: converted {converted}, {plain}");
    }
    // and the Monte Carlo form agrees with the quadrature
    let texts = sequences(3, 2);
    let packing = PackingSpec { length: 2, ..STREAM };
    let rows: Vec<Row> = texts.iter().map(|x| Row::new(x, u32::MAX)).collect();
    for (included, loo) in [(false, false), (true, false), (true, true)] {
        let p_uniform = 0.2;
        let beliefs = Beliefs::Noisy { joint: joint.clone(), p_uniform, included };
        let mut table = Table::new(3, 2, None, beliefs);
        let e = Estimator::Hybrid { p_uniform, loo, block: 0, k: 2000 };
        let layout = Layout::new(&rows, &packing, None, false, table.alphabet());
        let values: Vec<f64> = (0..12)
            .map(|seed| {
                let parts = nats(&mut table, &layout, e, seed, &mut |_, _| true).unwrap();
                parts.iter().zip(&joint).map(|(n, p)| n.0 * p).sum()
            })
            .collect();
        let (mean, error) = mean_error(&values);
        let want = quadrature(&joint, p_uniform, included, loo);
        assert!((mean - want).abs() < 3.5 * error, "{}: {mean} ± {error}, {want}", e.name());
    }
    // without uniform noise it is the mask bound
    let mut table = random(None);
    let hybrid = all(&mut table, Estimator::Hybrid { p_uniform: 0.0, loo: false, block: 0, k: 4000 }, false);
    let want = all(&mut table, Estimator::NelboExact { block: 0 }, false);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    assert!((mean(&hybrid) - mean(&want)).abs() < 0.02, "{} {}", mean(&hybrid), mean(&want));
}

/// The hybrid NELBO of a joint over two of three symbols, every state enumerated, t = sin^2(pi u / 2) on a grid.
fn quadrature(joint: &[f64], p_uniform: f64, included: bool, loo: bool) -> f64 {
    use crate::diffusion::hybrid::{Hybrid, Seen};
    use crate::diffusion::table::FIRST;
    let beliefs = Beliefs::Noisy { joint: joint.to_vec(), p_uniform, included };
    let mut table = Table::new(3, 2, None, beliefs);
    let (mut total, n) = (0.0, 4000);
    for i in 0..n {
        let u = (i as f64 + 0.5) / n as f64;
        let t = (std::f64::consts::FRAC_PI_2 * u).sin().powi(2);
        let jacobian = std::f64::consts::FRAC_PI_2 * (std::f64::consts::PI * u).sin();
        let h = Hybrid::at(t, p_uniform, 3);
        for state in 0..16u32 {
            let z: Vec<Option<u32>> =
                [state % 4, state / 4].iter().map(|d| (*d < 3).then_some(d + FIRST)).collect();
            for c in 0..2 {
                let p = table.belief(&z, c, t);
                let mut log_p: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
                let at = z[c].map_or(0, |id| (id - FIRST) as usize);
                if loo && z[c].is_some() {
                    h.leave_one_out(&mut log_p, Seen::Other, at);
                }
                for (x, weight) in table.rows.iter().zip(joint) {
                    let seen = |c: usize| match z[c] {
                        None => Seen::Mask,
                        Some(id) if id == x[c] => Seen::Truth,
                        Some(_) => Seen::Other,
                    };
                    let chance = |c: usize| match seen(c) {
                        Seen::Mask => h.q_mask,
                        Seen::Truth => h.q_truth,
                        Seen::Other => h.q_other,
                    };
                    let truth = (x[c] - FIRST) as usize;
                    let term = h.weight(seen(c)) * h.divergence(&log_p, truth, seen(c), at);
                    total += weight * chance(0) * chance(1) * jacobian * term / n as f64;
                }
            }
        }
    }
    total
}

#[test]
fn names_and_refusals() {
    use crate::decode::Attention;
    use crate::model::Serving;
    let serving = |attention, block_size, edits| Serving {
        attention,
        block_size,
        shift: true,
        infill: false,
        edits,
        uniform: false,
    };
    let names = [
        (Estimator::NelboN { block: 0, k: 8 }, "nelbo_n(8)"),
        (Estimator::NelboN { block: 4, k: 8 }, "nelbo_block_n(4,8)"),
        (Estimator::NelboExact { block: 8 }, "nelbo_block_exact(8)"),
        (Estimator::LeftToRight { block: 0 }, "nll_l2r"),
        (Estimator::LeftToRight { block: 8 }, "nll_l2r(8)"),
        (Estimator::Duel { rule: Rule::Threshold { tau: 0.9 }, block: 8 }, "nll_duel(threshold 0.9,8)"),
        (Estimator::Hybrid { p_uniform: 0.1, loo: true, block: 8, k: 4 }, "nelbo_hybrid_loo(0.1,8,4)"),
    ];
    for (e, name) in names {
        assert_eq!(e.name(), name);
    }
    let says = |e: Estimator, s: Serving| e.check(s).unwrap_err().to_string();
    let (causal, blocks) = (serving(Attention::Causal, 1, false), serving(Attention::BlockCausal, 8, false));
    assert!(says(Estimator::NelboT { k: 1 }, causal).contains("use ar"));
    assert!(says(Estimator::Ar, blocks).contains("nll_l2r"));
    let hybrid = Estimator::Hybrid { p_uniform: 0.1, loo: true, block: 8, k: 4 };
    assert!(says(hybrid, blocks).contains("edit = {"));
    assert!(hybrid.check(serving(Attention::BlockCausal, 8, true)).is_ok());
    // too long to enumerate
    let mut table = Table::new(2, 13, None, Beliefs::Random { seed: 1, scale: 1.0 });
    table.rows = vec![vec![2; 13]];
    let text = table.rows[0].clone();
    let rows = [Row::new(&text, u32::MAX)];
    let packing = PackingSpec { length: 13, ..STREAM };
    let layout = Layout::new(&rows, &packing, None, false, table.alphabet());
    let e = nats(&mut table, &layout, Estimator::NelboExact { block: 0 }, 0, &mut |_, _| true).unwrap_err();
    assert!(e.to_string().contains("nelbo_n"), "{e}");
}

/// `methods/evaluation.md` 1.1: one random order has the NELBO's expectation; more orders come closer to -ln p of the sampler in
/// uniformly random order, never below it in expectation; with true conditionals every order is -ln P(x).
#[test]
fn weighted_orders_lie_between_the_bound_and_the_likelihood() {
    let x: Vec<u32> = vec![2, 4, 3, 2];
    let rows = [Row::new(&x, u32::MAX)];
    for (block, shift) in [(0, false), (2, true)] {
        let mut table = random((block > 0).then_some(block));
        table.rows = vec![x.clone()];
        let layout = Layout::new(&rows, &STREAM, (block > 0).then_some(block), shift, table.alphabet());
        let mut value =
            |e: Estimator, seed: u64| nats(&mut table, &layout, e, seed, &mut |_, _| true).unwrap()[0].0;
        let bound = value(Estimator::NelboExact { block }, 0);
        let mut mean = |k: usize, seeds: u64| {
            mean_error(&(0..seeds).map(|s| value(Estimator::Weighted { block, k }, s)).collect::<Vec<_>>())
        };
        let (one, few, many) = (mean(1, 4000), mean(4, 1000), mean(256, 40));
        let truth = -crate::eval::audit::laws::uniform_order(&mut table, &layout, 0).ln();
        assert!((one.0 - bound).abs() < 4.0 * one.1, "block {block}: {one:?} {bound}");
        assert!(few.0 < one.0 && many.0 < few.0, "{one:?} {few:?} {many:?}");
        assert!(
            many.0 > truth - 4.0 * many.1 && (many.0 - truth) < 0.2 * (one.0 - truth),
            "{many:?} {truth}"
        );
    }
    let (mut table, p) = exact(None);
    for (got, p) in all(&mut table, Estimator::Weighted { block: 0, k: 3 }, false).iter().zip(&p) {
        assert!((got + p.ln()).abs() < 1e-9);
    }
    assert_eq!(Estimator::Weighted { block: 8, k: 3 }.name(), "nll_iw(8,3)");
}
