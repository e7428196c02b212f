//! SwiGLU and GeGLU against the plain loop, finite differences and candle.

use proptest::prelude::*;

use super::{Gate, glu, glu_backward, reference};
use crate::fixtures::{differences, flat, gradients, leaf, size, values, weighted, width};
use crate::tolerance::{FINITE_DIFFERENCE, GLU, assert_close};

const GATES: [Gate; 2] = [Gate::Silu, Gate::Gelu];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matches_the_loop(rows in size(), width in width(), scale in 1u32..20, gelu: bool, seed: u64) {
        let gate = GATES[gelu as usize];
        let x: Vec<f32> = values(seed, 2 * rows * width).iter().map(|x| x * scale as f32).collect();
        let dy = values(seed ^ 1, rows * width);
        let (mut got, mut want) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * width]);
        glu(gate, &x, &mut got, width);
        reference::glu(gate, &x, &mut want, width);
        assert_close("y", &got, &want, GLU.times(scale as f64));
        let (mut got, mut want) = (vec![f32::NAN; 2 * rows * width], vec![f32::NAN; 2 * rows * width]);
        glu_backward(gate, &dy, &x, &mut got, width);
        reference::glu_backward(gate, &dy, &x, &mut want, width);
        assert_close("d", &got, &want, GLU.times(scale as f64));
    }
}

#[test]
fn gradient_is_the_slope() {
    let (rows, width) = (3, 5);
    let (x, dy) = (values(1, 2 * rows * width), values(2, rows * width));
    for gate in GATES {
        let slope = differences(&x, |x| {
            let mut y = vec![0f32; rows * width];
            reference::glu(gate, x, &mut y, width);
            weighted(&y, &dy)
        });
        let mut d = vec![0f32; x.len()];
        glu_backward(gate, &dy, &x, &mut d, width);
        assert_close("d", &d, &slope, FINITE_DIFFERENCE);
    }
}

#[test]
fn matches_candle() -> candle_core::Result<()> {
    let (rows, width) = (19, 33);
    let (x, dy) = (values(3, 2 * rows * width), values(4, rows * width));
    for gate in GATES {
        let leaf = leaf(&x, &[rows, 2 * width]);
        let (g, u) = (leaf.narrow(1, 0, width)?, leaf.narrow(1, width, width)?);
        let f = match gate {
            Gate::Silu => (&g / (g.neg()?.exp()? + 1.0)?)?,
            Gate::Gelu => g.gelu()?,
        };
        let y = f.mul(&u)?;
        let (mut got, mut d) = (vec![0f32; rows * width], vec![0f32; x.len()]);
        glu(gate, &x, &mut got, width);
        glu_backward(gate, &dy, &x, &mut d, width);
        assert_close("y", &got, &flat(&y), GLU);
        assert_close("d", &d, &gradients(&y, &dy, &[&leaf])?[0], GLU);
    }
    Ok(())
}

#[test]
fn extreme_gates_stay_finite() {
    let x = [-3e4f32, -100.0, 100.0, 3e4, 1.0, 1.0, 1.0, 1.0];
    for gate in GATES {
        let (mut y, mut d) = ([f32::NAN; 4], [f32::NAN; 8]);
        glu(gate, &x, &mut y, 4);
        glu_backward(gate, &[1.0; 4], &x, &mut d, 4);
        assert_close("y", &y, &[0f32, 0.0, 100.0, 3e4], GLU);
        assert_close("d", &d, &[0f32, 0.0, 1.0, 1.0, 0.0, 0.0, 100.0, 3e4], GLU);
    }
}
