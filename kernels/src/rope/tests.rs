//! Rotary embedding against the plain loop and candle; what it must preserve.

use proptest::prelude::*;

use super::{reference, rope};
use crate::backend::RopeShape;
use crate::fixtures::{flat, gradients, leaf, size, values};
use crate::rng::{Rng, Stream};
use crate::tolerance::{EXACT, ROPE, assert_close};

fn positions(seed: u64, rows: usize, below: u64) -> Vec<u32> {
    let rng = Rng::new(seed, Stream::Test, 1);
    (0..rows).map(|r| rng.below(0, r as u32, 0, below) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matches_the_loop(
        rows in size(),
        heads in 1usize..4,
        half in prop_oneof![1usize..4, Just(16usize), 30usize..34],
        (col, pad) in (0usize..5, 0usize..5),
        largest in prop_oneof![Just(1u64), Just(50), Just(5000)],
        seed: u64,
    ) {
        let stride = col + heads * 2 * half + pad;
        let shape = RopeShape { rows, stride, col, heads, head_dim: 2 * half, theta: 10_000.0 };
        let positions = positions(seed, rows, largest);
        // the buffer may be longer than the rows asked for
        let x = values(seed, (rows + 2) * stride);
        for inverse in [false, true] {
            let (mut got, mut want) = (x.clone(), x.clone());
            rope(&mut got, &positions, shape, inverse);
            reference::rope(&mut want, &positions, shape, if inverse { -1.0 } else { 1.0 });
            assert_close("rope", &got, &want, ROPE);
            for r in 0..rows + 2 {
                let outside = if r < rows { col } else { stride };
                assert_close("left of the heads", &got[r * stride..][..outside], &x[r * stride..][..outside], EXACT);
            }
        }
    }
}

#[test]
fn far_positions_are_rotated_as_exactly_as_near_ones() {
    let shape = RopeShape { rows: 2, stride: 64, col: 0, heads: 1, head_dim: 64, theta: 1e6 };
    let (mut got, positions) = (values(1, 128), [4_000_000_000, 17]);
    let mut want = got.clone();
    rope(&mut got, &positions, shape, false);
    reference::rope(&mut want, &positions, shape, 1.0);
    assert_close("rope", &got, &want, ROPE);
}

/// <R_m q, R_n k> depends on m - n alone, and the backward pass undoes the rotation.
#[test]
fn scores_depend_on_the_distance_alone() {
    let shape = RopeShape { rows: 2, stride: 16, col: 0, heads: 1, head_dim: 16, theta: 10_000.0 };
    let x = values(2, 32);
    let score = |m: u32, n: u32| {
        let mut y = x.clone();
        rope(&mut y, &[m, n], shape, false);
        (0..16).map(|i| y[i] as f64 * y[16 + i] as f64).sum::<f64>()
    };
    assert_close("scores", &[score(3, 1), score(103, 101)], &[score(9, 7); 2], ROPE.times(10.0));
    assert!((score(3, 1) - score(3, 2)).abs() > 1e-3);
    let mut y = x.clone();
    rope(&mut y, &[5, 900], shape, false);
    rope(&mut y, &[5, 900], shape, true);
    assert_close("there and back", &y, &x, ROPE.times(2.0));
}

#[test]
fn matches_candle() -> candle_core::Result<()> {
    let (rows, heads, half) = (21, 3, 4);
    let hd = 2 * half;
    let shape = RopeShape { rows, stride: heads * hd, col: 0, heads, head_dim: hd, theta: 10_000.0 };
    let positions = positions(3, rows, 200);
    let (x, dy) = (values(3, rows * heads * hd), values(4, rows * heads * hd));
    let angle = |r: usize, i: usize| positions[r] as f64 * 10_000f64.powf(-2.0 * i as f64 / hd as f64);
    let angles: Vec<f64> =
        (0..rows).flat_map(|r| (0..half).map(move |i| (r, i))).map(|(r, i)| angle(r, i)).collect();
    let angles = candle_core::Tensor::from_vec(angles, (rows, 1, half), &candle_core::Device::Cpu)?;
    let (sin, cos) = (angles.sin()?, angles.cos()?);
    let lx = leaf(&x, &[rows, heads, hd]);
    let (a, b) = (lx.narrow(2, 0, half)?, lx.narrow(2, half, half)?);
    let y = candle_core::Tensor::cat(
        &[
            (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?,
            (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?,
        ],
        2,
    )?;
    let (mut got, mut dx) = (x.clone(), dy.clone());
    rope(&mut got, &positions, shape, false);
    rope(&mut dx, &positions, shape, true);
    assert_close("y", &got, &flat(&y), ROPE.times(2.0));
    assert_close("dx", &dx, &gradients(&y, &dy, &[&lx])?[0], ROPE.times(2.0));
    Ok(())
}
