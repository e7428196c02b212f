//! AdamW against the plain loop and candle-nn over several steps; the weights' average.

use candle_nn::Optimizer;
use proptest::prelude::*;

use super::{AdamStep, adamw, reference};
use crate::fixtures::{flat, leaf, size, values};
use crate::tolerance::{ADAM, assert_close};

const BETAS: [f64; 2] = [0.9, 0.95];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn matches_the_loop(
        n in prop_oneof![size(), Just((1usize << 15) + 5)],
        clip in 0.1f32..2.0,
        decay in 0.0f64..0.2,
        seed: u64,
    ) {
        let (mut w, mut m, mut v) = (values(seed, n), vec![0f32; n], vec![0f32; n]);
        let mut ema = w.clone();
        let (mut rw, mut rm, mut rv) = (w.clone(), m.clone(), v.clone());
        let mut average: Vec<f64> = w.iter().map(|x| *x as f64).collect();
        for t in 1..=6 {
            let g = values(seed ^ t, n);
            let mut step = AdamStep::new(1e-2, BETAS, 1e-8, decay, t);
            (step.grad_scale, step.ema) = (clip, Some(0.9));
            adamw(&mut w, &g, &mut m, &mut v, Some(&mut ema), step);
            reference::adamw(&mut rw, &g, &mut rm, &mut rv, step);
            average.iter_mut().zip(&rw).for_each(|(a, w)| *a = 0.9 * *a + 0.1 * *w as f64);
        }
        assert_close("w", &w, &rw, ADAM);
        assert_close("m", &m, &rm, ADAM);
        assert_close("v", &v, &rv, ADAM);
        assert_close("ema", &ema, &average, ADAM);
    }
}

#[test]
fn matches_candle_nn() -> candle_core::Result<()> {
    let n = 301;
    let start = values(1, n);
    let var = leaf(&start, &[n]);
    let params = candle_nn::ParamsAdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let mut oracle = candle_nn::AdamW::new(vec![var.clone()], params)?;
    let (mut w, mut m, mut v) = (start, vec![0f32; n], vec![0f32; n]);
    for t in 1..=10 {
        let g = values(10 + t, n);
        // the gradient of sum(w * g) is g
        let loss = var.mul(&crate::fixtures::constant(&g, &[n]))?.sum_all()?;
        oracle.step(&loss.backward()?)?;
        adamw(&mut w, &g, &mut m, &mut v, None, AdamStep::new(1e-2, BETAS, 1e-8, 0.1, t));
    }
    assert_close("w", &w, &flat(&var), ADAM);
    Ok(())
}

/// With bias correction the first step has size lr whatever the gradient's scale, and decay acts on the weight alone.
#[test]
fn the_first_step_is_the_sign_of_the_gradient() {
    let (mut w, mut m, mut v) = ([1f32; 3], [0f32; 3], [0f32; 3]);
    let step = AdamStep::new(1e-2, [0.9, 0.999], 1e-12, 0.5, 1);
    adamw(&mut w, &[1e-4, -3.0, 0.0], &mut m, &mut v, None, step);
    let kept = 1.0 - 1e-2 * 0.5;
    assert_close(
        "w",
        &w,
        &[kept - 1e-2, kept + 1e-2, kept],
        crate::tolerance::Tolerance { abs: 3e-8, rel: 1e-7 },
    );
}

/// A constant gradient must leave the corrected moments constant at any time: corrections and betas round alike.
#[test]
fn corrected_moments_of_a_constant_gradient_are_the_gradient() {
    for t in [1, 2, 10, 1000, 100_000] {
        let s = AdamStep::new(1.0, [0.9, 0.999], 0.0, 0.0, t);
        let exact = |beta: f32| 1.0 - (beta as f64).powf(t as f64);
        let want = [exact(s.beta1), exact(s.beta2)];
        assert_close(
            "corrections",
            &[s.correction1, s.correction2],
            &want,
            crate::tolerance::Tolerance { abs: 0.0, rel: 1e-7 },
        );
    }
}
