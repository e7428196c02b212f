//! Which distribution a policy samples, against an exact denoiser on a random joint (V = 4, L = 4).

use super::*;
use serde_json::json;
use std::collections::HashMap;

const V: usize = 4;
const L: usize = 4;
const MASK: u32 = 4;

/// All conditionals p(x_i | known tokens) of one joint table, by enumeration.
struct Table {
    joint: Vec<f64>,
    conditionals: HashMap<[u32; L], Vec<[f32; V + 1]>>,
}

fn digits(mut x: usize, base: usize) -> [u32; L] {
    let mut d = [0; L];
    for slot in &mut d {
        *slot = (x % base) as u32;
        x /= base;
    }
    d
}

impl Table {
    fn new(seed: u64) -> Table {
        let rng = Rng::new(seed, Stream::Test, 0);
        let n = V.pow(L as u32);
        let w: Vec<f64> = (0..n as u32).map(|i| (1.5 * rng.normal(0, i, 0)).exp()).collect();
        let sum: f64 = w.iter().sum();
        let joint: Vec<f64> = w.iter().map(|x| x / sum).collect();
        let mut conditionals = HashMap::new();
        for s in 0..(V + 1).pow(L as u32) {
            let known = digits(s, V + 1);
            let mut rows = vec![[0.0f64; V + 1]; L];
            for (i, p) in joint.iter().enumerate() {
                let x = digits(i, V);
                if (0..L).all(|j| known[j] == MASK || known[j] == x[j]) {
                    (0..L).for_each(|j| rows[j][x[j] as usize] += p);
                }
            }
            let rows = rows
                .iter()
                .map(|r| {
                    let sum: f64 = r.iter().sum();
                    r.map(|p| (p / sum).ln() as f32)
                })
                .collect();
            conditionals.insert(known, rows);
        }
        Table { joint, conditionals }
    }

    /// Chi-square of `samples` decodings against the joint (V^L - 1 = 255 degrees of freedom).
    fn chi_square(&self, spec: PolicySpec, samples: u32) -> f64 {
        let mut counts = vec![0u32; self.joint.len()];
        let mut c = DecodeConfig::new(vec![], L as u32, V as u32 + 1, MASK);
        (c.policy, c.temperature, c.seed, c.rows) = (spec, 1.0, 77, false);
        for sequence in 0..samples {
            c.sequence = sequence;
            let mut d = Decoder::new(c.clone()).unwrap();
            drive(&mut d, |r| {
                let known: [u32; L] = r.ids.as_slice().try_into().unwrap();
                let rows = &self.conditionals[&known];
                answer(r, |pos| rows[pos as usize].to_vec())
            })
            .unwrap();
            let index = d.state().ids().iter().rev().fold(0, |i, v| i * V + *v as usize);
            counts[index] += 1;
        }
        let expect = |p: &f64| p * samples as f64;
        counts.iter().zip(&self.joint).map(|(n, p)| (*n as f64 - expect(p)).powi(2) / expect(p)).sum()
    }
}

/// mean 255, standard deviation 22.6: five of them
const ACCEPT: f64 = 368.0;

#[test]
fn first_hitting_samples_the_joint() {
    let x = Table::new(1).chi_square(policy(json!({"kind": "ancestral"})), 200_000);
    assert!(x < ACCEPT, "chi-square {x}");
}

#[test]
fn a_fine_time_grid_samples_the_joint() {
    let spec = policy(json!({"kind": "ancestral", "form": "time_grid", "steps": 8192}));
    let x = Table::new(1).chi_square(spec, 200_000);
    assert!(x < ACCEPT, "chi-square {x}");
}

/// Whatever is masked again and rewritten, the law stays the joint's: sigma moves no marginal. `conf` is left out: its
/// chances follow from the tokens.
#[test]
fn remasking_samples_the_joint() {
    let table = Table::new(1);
    for spec in [
        json!({"kind": "remdm", "steps": 384, "eta": 0.0}),
        json!({"kind": "remdm", "steps": 384, "eta": 0.01}),
        json!({"kind": "remdm", "steps": 384, "variant": "rescale", "eta": 0.01}),
        json!({"kind": "remdm", "steps": 384, "variant": "loop", "eta": 0.02}),
        json!({"kind": "remdm", "steps": 384, "variant": "forward_backward"}),
    ] {
        let x = table.chi_square(policy(spec.clone()), 12_000);
        assert!(x < ACCEPT, "{spec}: chi-square {x}");
    }
}

/// At eta = 0 the capped and the rescaled sampler are the same, forward for forward, and mask nothing again.
#[test]
fn without_eta_nothing_is_masked_again() {
    let of = |variant: &str| {
        let mut c = DecodeConfig::new(vec![1], 20, 8, 7);
        c.policy = policy(json!({"kind": "remdm", "variant": variant, "eta": 0.0, "steps": 40}));
        (c.temperature, c.seed) = (1.0, 4);
        run(&c, 1.0).0
    };
    let (a, b) = (of("cap"), of("rescale"));
    assert_eq!(actions(&a), actions(&b));
    assert_eq!((a.ledger().remasks, a.ledger().commits, a.ledger().forced), (0, 19, 0));
    assert_eq!(of("loop").ledger().remasks, 0);
}

/// The opposite must fail: all four tokens at once ignore their dependence, and writing the surest of the sampled
/// tokens first selects against rare tokens.
#[test]
fn parallel_and_confidence_orders_do_not() {
    let table = Table::new(1);
    for spec in [
        json!({"kind": "ancestral", "tokens_per_forward": 4}),
        json!({"kind": "ancestral", "form": "time_grid", "steps": 1}),
        json!({"kind": "top_prob", "steps_per_block": 0}),
    ] {
        let x = table.chi_square(policy(spec.clone()), 20_000);
        assert!(x > 1000.0, "{spec}: chi-square {x}");
    }
}

/// With one cell for n masks the number of forwards is that of the occupied cells of n balls in N cells.
#[test]
fn empty_cells_cost_nothing() {
    let cells = 8u32;
    let mut c = DecodeConfig::new(vec![], 16, 6, 5);
    c.policy = policy(json!({"kind": "ancestral", "form": "time_grid", "steps": cells}));
    c.temperature = 1.0;
    let mut forwards = 0.0;
    let n = 2000;
    for sequence in 0..n {
        c.sequence = sequence;
        let (d, _) = run(&c, 1.0);
        assert_eq!(d.ledger().forced, 0);
        forwards += d.ledger().denoise as f64;
    }
    let want = cells as f64 * (1.0 - (1.0 - 1.0 / cells as f64).powi(16));
    assert!((forwards / n as f64 - want).abs() < 0.1, "{} {want}", forwards / n as f64);
}
