//! GELU against the formula, finite differences and candle.

use super::{backward, forward, reference};
use crate::fixtures::{differences, flat, gradients, leaf, values, weighted};
use crate::tolerance::{FINITE_DIFFERENCE, GLU, assert_close};

#[test]
fn matches_the_formula_everywhere() {
    let x: Vec<f32> = (-20_000..=20_000).map(|i| i as f32 * 1e-3).chain([-3e4, -1e30, 1e30, 3e4]).collect();
    let (mut y, mut d) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
    forward(&x, &mut y);
    backward(&vec![1.0; x.len()], &x, &mut d);
    let want: Vec<f64> = x.iter().map(|x| reference::value(*x as f64)).collect();
    let slopes: Vec<f64> = x
        .iter()
        .map(|x| if x.abs() > 1e3 { f64::from(*x > 0.0) } else { reference::slope(*x as f64) })
        .collect();
    assert_close("y", &y, &want, GLU.times(2.0));
    assert_close("slope", &d, &slopes, GLU.times(4.0));
}

#[test]
fn gradient_is_the_slope_and_candles() -> candle_core::Result<()> {
    let (x, dy) = (values(1, 40_000), values(2, 40_000));
    let mut d = vec![f32::NAN; x.len()];
    backward(&dy, &x, &mut d);
    let l = leaf(&x, &[x.len()]);
    let y = l.gelu()?;
    let mut got = vec![f32::NAN; x.len()];
    forward(&x, &mut got);
    assert_close("y", &got, &flat(&y), GLU);
    assert_close("d", &d, &gradients(&y, &dy, &[&l])?[0], GLU.times(2.0));
    let (x, dy) = (&x[..17], &dy[..17]);
    let slope = differences(x, |x| {
        let mut y = vec![0f32; x.len()];
        forward(x, &mut y);
        weighted(&y, dy)
    });
    assert_close("slope", &d[..17], &slope, FINITE_DIFFERENCE);
    Ok(())
}
