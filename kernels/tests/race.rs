//! The token race draws from softmax(z / T), and keeps rare tokens rare but present.

use hilda_kernels::head::{RowHead, STATS, statistics};
use hilda_kernels::{Backend, Cpu, HeadJob};

/// Candidates of `rows` positions that share the logits `z`.
fn draw(z: &[f32], rows: usize, temperature: f32, seed: u64, forbid: &[u32]) -> Vec<RowHead> {
    let job =
        HeadJob { rows, width: 1, vocab: z.len(), top_k: 0, temperature, seed, forbid: forbid.to_vec() };
    let keys: Vec<u32> = (0..rows as u32).flat_map(|r| [r, r / 1000, 1, 0]).collect();
    let mut out = vec![0f32; rows * STATS];
    statistics(&vec![1.0; rows], z, &keys, &mut out, std::slice::from_ref(&job));
    out.chunks_exact(STATS).map(|row| RowHead::decode(row, 0)).collect()
}

/// Pearson's statistic against the given law; zero-probability cells must be empty.
fn chi_square(counts: &[u64], p: &[f64]) -> f64 {
    let n: u64 = counts.iter().sum();
    counts
        .iter()
        .zip(p)
        .map(|(c, p)| {
            if *p == 0.0 {
                assert_eq!(*c, 0, "a forbidden token was drawn");
                return 0.0;
            }
            (*c as f64 - n as f64 * p).powi(2) / (n as f64 * p)
        })
        .sum()
}

#[test]
fn candidates_follow_the_softmax() {
    let (z, n) = ([0.3f32, -1.0, 2.0, 0.0, 1.2, -0.4, 0.3, 5.0], 200_000);
    for (i, temperature) in [1.0f32, 0.5, 2.0].into_iter().enumerate() {
        let mut counts = [0u64; 8];
        let rows = draw(&z, n, temperature, 11 + i as u64, &[7]);
        rows.iter().for_each(|r| counts[r.candidate as usize] += 1);
        let w: Vec<f64> =
            (0..8).map(|v| if v == 7 { 0.0 } else { (z[v] as f64 / temperature as f64).exp() }).collect();
        let total: f64 = w.iter().sum();
        let p: Vec<f64> = w.iter().map(|w| w / total).collect();
        // six degrees of freedom: 27.9 is exceeded once in 10,000
        let x2 = chi_square(&counts, &p);
        assert!(x2 < 27.9, "T = {temperature}: chi square {x2}, {counts:?}");
        for r in rows.iter().take(100) {
            assert!((r.q_candidate(temperature) as f64 - p[r.candidate as usize]).abs() < 1e-5);
        }
        // the same counts are far from the law at another temperature: the test can fail
        let other: Vec<f64> = z.iter().map(|z| (*z as f64 / (1.1 * temperature as f64)).exp()).collect();
        let total: f64 = other[..7].iter().sum();
        let mut other: Vec<f64> = other.iter().map(|w| w / total).collect();
        other[7] = 0.0;
        assert!(chi_square(&counts, &other) > 100.0);
    }
}

/// Draws at different positions, steps, sequences and seeds are unrelated; the same key repeats the draw.
#[test]
fn every_part_of_the_key_matters() {
    let z = [0f32; 64];
    let job =
        HeadJob { rows: 2000, width: 1, vocab: 64, top_k: 0, temperature: 1.0, seed: 5, forbid: vec![] };
    let table = z.to_vec();
    let run = |seed: u64, key: &dyn Fn(u32) -> [u32; 4]| -> Vec<u32> {
        let cpu = Cpu;
        let keys: Vec<u32> = (0..2000).flat_map(key).collect();
        let mut out = cpu.buf(2000 * STATS);
        let at = hilda_kernels::At::new(0, 64);
        cpu.head(&vec![1.0; 2000], &table, at, &keys, &mut out, &HeadJob { seed, ..job.clone() });
        out.chunks_exact(STATS).map(|r| RowHead::decode(r, 0).candidate).collect()
    };
    let base = run(5, &|r| [r, 2, 3, 0]);
    assert_eq!(base, run(5, &|r| [r, 2, 3, 63]), "the current token is no part of the key");
    let others = [
        run(6, &|r| [r, 2, 3, 0]),
        run(5, &|r| [r + 2000, 2, 3, 0]),
        run(5, &|r| [r, 4, 3, 0]),
        run(5, &|r| [r, 2, 4, 0]),
    ];
    for other in &others {
        let same = base.iter().zip(other).filter(|(a, b)| a == b).count();
        // 2000 / 64 = 31.25 expected by chance, deviation 5.5
        assert!((5..60).contains(&same), "{same} of 2000 agree");
    }
}

/// `methods/mdlm.md` 5.8: with uniforms on a grid of spacing g that excludes the end, the rare one of two tokens with
/// weights (w, 1) wins with g / (e^(g/w) - 1) instead of w / (1 + w).
#[test]
fn rare_tokens_keep_their_probability() {
    let (w, g) = (2e-4f64, 1.0 / 1024.0);
    // a race with 10-bit uniforms, enumerated: each side draws one of 1023 values, ties go to the lower id
    let exponential = |k: u32| -(-(k as f64) * g).ln_1p();
    let mut wins = 0u64;
    for a in 1..1024 {
        wins += (1..1024).filter(|b| exponential(a) / w <= exponential(*b)).count() as u64;
    }
    let coarse = wins as f64 / (1023.0 * 1023.0);
    let formula = g / ((g / w).exp() - 1.0);
    assert!((coarse / formula - 1.0).abs() < 0.15, "{coarse:e} {formula:e}");

    let n = 4_000_000usize;
    let mut won = 0;
    for part in 0..4u64 {
        let rows = draw(&[w.ln() as f32, 0.0], n / 4, 1.0, 100 + part, &[]);
        won += rows.iter().filter(|r| r.candidate == 0).count();
    }
    let p = w / (1.0 + w);
    let (expected, deviation) = (n as f64 * p, (n as f64 * p).sqrt());
    assert!((won as f64 - expected).abs() < 4.5 * deviation, "{won} of {n}, expected {expected}");
    assert!(won as f64 > 10.0 * n as f64 * coarse);
}
