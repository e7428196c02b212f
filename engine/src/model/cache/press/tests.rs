use super::*;
use hilda_kernels::rng::{Rng, Stream};

fn values(n: usize, salt: u32) -> Vec<f32> {
    let rng = Rng::new(3, Stream::Test, 0);
    (0..n as u32).map(|i| rng.normal(salt, i, 0) as f32).collect()
}

fn keys(n: usize, d: usize) -> Keys {
    Keys {
        positions: (0..n as u32).collect(),
        k: values(n * d, 1),
        v: values(n * d, 2),
        scores: vec![],
        width: d,
    }
}

/// One query and no spread: the scores of plain attention.
#[test]
fn expected_attention_of_one_query_is_attention() {
    let (n, d, scale) = (9, 6, 0.4f32);
    let (k, q) = (keys(n, d), values(d, 7));
    let mu: Vec<f64> = q.iter().map(|x| *x as f64).collect();
    let got = expected(&k, &mu, &vec![0.0; d * d], scale);
    let z: Vec<f64> = k.k.chunks(d).map(|k| (dot(&q, k) * scale as f64).exp()).collect();
    let sum: f64 = z.iter().sum();
    for (got, z) in got.iter().zip(&z) {
        assert!((got - z / sum).abs() < 1e-9);
    }
    // through the whole press: the query is turned to where the next positions stand, on average
    let one = Queries { rows: &q, positions: &[0], heads: 1, scale, theta: 100.0 };
    let mut turned = mu.clone();
    turn(&mut turned, 1, 30, d, 100.0);
    let want = expected(&k, &turned, &vec![0.0; d * d], scale);
    let press = expected_attention(&k, &one, 0..1, 30);
    for (i, p) in press.iter().enumerate() {
        assert!((p - want[i] * norm(&k.v[i * d..][..d])).abs() < 1e-9);
    }
}

/// The mean rotation is that of the positions, one by one.
#[test]
fn the_mean_rotation_is_a_mean() {
    let (d, theta, from) = (4, 30.0, 7);
    let x: Vec<f64> = values(d, 8).iter().map(|x| *x as f64).collect();
    let mut got = x.clone();
    turn(&mut got, 1, from, d, theta);
    for i in 0..d / 2 {
        let (mut a, mut b) = (0.0, 0.0);
        for p in 0..AHEAD {
            let (sin, cos) = angle(from as f64 + p as f64, i, d, theta).sin_cos();
            a += (x[i] * cos - x[i + d / 2] * sin) / AHEAD as f64;
            b += (x[i + d / 2] * cos + x[i] * sin) / AHEAD as f64;
        }
        assert!((got[i] - a).abs() < 1e-9 && (got[i + d / 2] - b).abs() < 1e-9);
    }
}

/// E exp(k q) of the queries' normal law is exp(k mu + k' Sigma k / 2): of two queries m + s and m - s the second order.
#[test]
fn the_spread_is_that_of_the_queries() {
    let d = 4;
    let (m, s) = (values(d, 3), values(d, 4));
    let rows: Vec<f32> =
        [1.0f32, -1.0].iter().flat_map(|e| m.iter().zip(&s).map(move |(m, s)| m + e * s)).collect();
    let (mu, sigma) =
        statistics(&Queries { rows: &rows, positions: &[0, 0], heads: 1, scale: 1.0, theta: 9.0 }, 0, d);
    for i in 0..d {
        assert!((mu[i] - m[i] as f64).abs() < 1e-6);
        for j in 0..d {
            assert!((sigma[i * d + j] - s[i] as f64 * s[j] as f64).abs() < 1e-5);
        }
    }
}

/// Queries behind the rotary embedding are turned back before their statistics are taken.
#[test]
fn queries_are_turned_back() {
    let (d, theta) = (6, 50.0);
    let plain = values(2 * d, 5);
    let mut turned = plain.clone();
    let shape = hilda_kernels::RopeShape { rows: 2, stride: d, col: 0, heads: 1, head_dim: d, theta };
    hilda_kernels::rope::rope(&mut turned, &[3, 11], shape, false);
    let of = |rows: &[f32], positions: &[u32]| {
        statistics(&Queries { rows, positions, heads: 1, scale: 1.0, theta }, 0, d)
    };
    let (a, b) = (of(&plain, &[0, 0]), of(&turned, &[3, 11]));
    for (x, y) in a.0.iter().chain(&a.1).zip(b.0.iter().chain(&b.1)) {
        assert!((x - y).abs() < 1e-5);
    }
}

/// Scores by hand: two keys alike and one apart; a query that looks at one of three.
#[test]
fn scores_by_hand() {
    let k = Keys {
        positions: vec![0, 1, 2],
        k: vec![2.0, 0.0, 1.0, 0.0, 0.0, 3.0],
        v: vec![1.0; 6],
        scores: vec![],
        width: 2,
    };
    assert_eq!(knorm(&k), [-2.0, -1.0, -3.0]);
    // the mean of the normalised keys points along (2, 1)
    let want = [-2.0 / 5f64.sqrt(), -2.0 / 5f64.sqrt(), -1.0 / 5f64.sqrt()];
    keydiff(&k).iter().zip(want).for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
    let q = Queries { rows: &[0.0, 9.0], positions: &[5], heads: 1, scale: 1.0, theta: 9.0 };
    // all of the attention is on the last key; five keys are averaged, beyond the ends are zeros
    snapkv(&k, &q, 0..1).iter().for_each(|p| assert!((p - 0.2).abs() < 1e-6));
}

#[test]
fn the_best_stay_and_the_protected_first() {
    let scores = [0.1, 0.9, 0.5, 0.5, 0.2];
    assert_eq!(best(&scores, |i| i == 4, 3), [1, 2, 4]);
    assert_eq!(best(&scores, |i| i < 2, 1), [0, 1]);
    assert_eq!(best(&scores, |_| false, 5), [0, 1, 2, 3, 4]);
}
