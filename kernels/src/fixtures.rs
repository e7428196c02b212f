//! What the operations' tests share: keyed inputs, ragged sizes, finite differences, candle leaves.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use crate::rng::{Rng, Stream};

/// Multiples of 1/256 in [-1, 1], so that a finite-difference step of 1/64 is exact in f32.
pub fn values(seed: u64, n: usize) -> Vec<f32> {
    let rng = Rng::new(seed, Stream::Test, 0);
    (0..n).map(|i| (rng.below(0, i as u32, 0, 513) as f32 - 256.0) / 256.0).collect()
}

/// Sizes that break loops: nothing, one, around the vector width and around a tile.
pub fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0usize), Just(1), 2usize..20, Just(16), Just(64), 62usize..67, 120usize..150]
}

/// As [`size`], at least one.
pub fn width() -> impl Strategy<Value = usize> {
    size().prop_map(|n| n.max(1))
}

/// sum(y * w) in f64: the scalar loss of every gradient test.
pub fn weighted(y: &[f32], w: &[f32]) -> f64 {
    y.iter().zip(w).map(|(a, b)| *a as f64 * *b as f64).sum()
}

/// Fourth-order central differences of `loss` at every coordinate of `x`.
pub fn differences(x: &[f32], loss: impl Fn(&[f32]) -> f64) -> Vec<f64> {
    let h = 1.0 / 64.0;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            let mut f = |d: f32| {
                x[i] = at + d;
                loss(&x)
            };
            let d = 8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h));
            x[i] = at;
            d / (12.0 * h as f64)
        })
        .collect()
}

/// A float64 variable of candle on the CPU.
pub fn leaf(data: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&constant(data, shape)).expect("a tensor becomes a variable")
}

/// A float64 tensor of candle on the CPU.
pub fn constant(data: &[f32], shape: &[usize]) -> Tensor {
    let data: Vec<f64> = data.iter().map(|x| *x as f64).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).expect("shape holds the data")
}

/// Flat f64 values of a tensor.
pub fn flat(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(DType::F64).and_then(|t| t.flatten_all()).expect("a CPU tensor");
    t.to_vec1().expect("rank one")
}

/// d sum(y * w) / d leaf for every leaf. A leaf without a gradient fails: fused candle operations drop it silently.
pub fn gradients(y: &Tensor, w: &[f32], leaves: &[&Var]) -> candle_core::Result<Vec<Vec<f64>>> {
    let loss = y.mul(&constant(w, y.dims()))?.sum_all()?;
    let store = loss.backward()?;
    Ok(leaves.iter().map(|v| flat(store.get(v).expect("every leaf has a gradient"))).collect())
}
