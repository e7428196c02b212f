//! Gathering and scattering rows, with repeated ids.

use proptest::prelude::*;

use super::{gather, mix, mix_table, mix_weights, reference, scatter_add};
use crate::fixtures::{differences, flat, gradients, leaf, size, values, weighted, width};
use crate::rng::{Rng, Stream};
use crate::tolerance::{EXACT, FINITE_DIFFERENCE, SCATTER, assert_close};

fn ids(seed: u64, rows: usize, vocab: usize) -> Vec<u32> {
    let rng = Rng::new(seed, Stream::Test, 2);
    (0..rows).map(|r| rng.below(0, r as u32, 0, vocab as u64) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn match_the_loops(rows in size(), vocab in 1usize..40, width in width(), scale in prop_oneof![Just(1.0f32), 0.1f32..30.0], seed: u64) {
        let ids = ids(seed, rows, vocab);
        let table = values(seed, vocab * width);
        let mut out = vec![f32::NAN; rows * width];
        gather(&table, &ids, scale, &mut out, width);
        assert_close("gather", &out, &reference::gather(&table, &ids, scale, width), EXACT);
        let d = values(seed ^ 1, rows * width);
        let (mut got, mut want) = (table.clone(), table);
        scatter_add(&d, &ids, scale, &mut got, width);
        reference::scatter_add(&d, &ids, scale, &mut want, width);
        assert_close("scatter_add", &got, &want, SCATTER.times(10.0 * scale.max(1.0) as f64));
    }
}

#[test]
fn scattering_is_the_gradient_of_gathering() -> candle_core::Result<()> {
    let (rows, vocab, width) = (23, 7, 5);
    let ids = ids(1, rows, vocab);
    let (table, d) = (values(1, vocab * width), values(2, rows * width));
    let mut got = vec![0f32; vocab * width];
    scatter_add(&d, &ids, 1.0, &mut got, width);
    let slope = differences(&table, |t| weighted(&reference::gather(t, &ids, 1.0, width), &d));
    assert_close("slope", &got, &slope, FINITE_DIFFERENCE);
    let lt = leaf(&table, &[vocab, width]);
    let index = candle_core::Tensor::from_vec(ids.clone(), rows, &candle_core::Device::Cpu)?;
    let y = lt.index_select(&index, 0)?;
    assert_close("gather", &reference::gather(&table, &ids, 1.0, width), &flat(&y), EXACT);
    assert_close("candle", &got, &gradients(&y, &d, &[&lt])?[0], SCATTER.times(10.0));
    Ok(())
}

#[test]
#[should_panic(expected = "scatter_add: row 3 outside 3")]
fn an_id_outside_the_table_is_named() {
    scatter_add(&[1.0, 1.0], &[3], 1.0, &mut [0.0; 6], 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn mixtures_match_the_loops(
        rows in size(), k in 0usize..9, vocab in 1usize..40, width in width(), scale in prop_oneof![Just(1.0f32), 0.1f32..3.0], seed: u64,
    ) {
        let ids = ids(seed, rows * k, vocab);
        let (table, weights, d) = (values(seed, vocab * width), values(seed ^ 1, rows * k), values(seed ^ 2, rows * width));
        let mut out = vec![f32::NAN; rows * width];
        mix(&table, &ids, &weights, scale, &mut out, width);
        let want = reference::mix(&table, &ids, &weights, scale, rows, width);
        assert_close("mix", &out, &want, SCATTER.times(10.0));
        let want = reference::mix_backward(&table, &ids, &weights, &d, scale, width);
        let mut dw = vec![f32::NAN; rows * k];
        mix_weights(&table, &ids, &d, scale, &mut dw, width);
        assert_close("mix_weights", &dw, &want.0, SCATTER.times(40.0));
        let mut dt = table.clone();
        mix_table(&ids, &weights, &d, scale, &mut dt, width);
        let sum: Vec<f32> = table.iter().zip(&want.1).map(|(a, b)| a + b).collect();
        assert_close("mix_table accumulates", &dt, &sum, SCATTER.times(40.0));
    }
}

/// Weights of one at one id are a hard embedding, bit for bit.
#[test]
fn a_mixture_of_one_is_the_row() {
    let (table, ids) = (values(3, 9 * 7), ids(3, 20, 9));
    let (mut hard, mut soft) = (vec![0f32; 20 * 7], vec![0f32; 20 * 7]);
    gather(&table, &ids, 1.0, &mut hard, 7);
    mix(&table, &ids, &[1.0; 20], 1.0, &mut soft, 7);
    assert_close("one row", &soft, &hard, EXACT);
}

#[test]
fn mixtures_have_the_slopes_of_candle_and_of_differences() -> candle_core::Result<()> {
    let (rows, k, vocab, width, scale) = (11, 3, 7, 5, 1.5f32);
    let ids = ids(5, rows * k, vocab);
    let (table, weights, d) = (values(1, vocab * width), values(2, rows * k), values(3, rows * width));
    let (mut dw, mut dt) = (vec![0f32; rows * k], vec![0f32; vocab * width]);
    mix_weights(&table, &ids, &d, scale, &mut dw, width);
    mix_table(&ids, &weights, &d, scale, &mut dt, width);
    let total = |t: &[f32], w: &[f32]| weighted(&reference::mix(t, &ids, w, scale, rows, width), &d);
    assert_close("d_weights", &dw, &differences(&weights, |w| total(&table, w)), FINITE_DIFFERENCE);
    assert_close("d_table", &dt, &differences(&table, |t| total(t, &weights)), FINITE_DIFFERENCE);
    let (t, w) = (leaf(&table, &[vocab, width]), leaf(&weights, &[rows * k, 1]));
    let index = candle_core::Tensor::new(ids.clone(), &candle_core::Device::Cpu)?;
    let rows_of = t.index_select(&index, 0)?.broadcast_mul(&w)?.reshape((rows, k, width))?;
    let y = (rows_of.sum(1)? * scale as f64)?;
    let grads = gradients(&y, &d, &[&t, &w])?;
    let mut out = vec![0f32; rows * width];
    mix(&table, &ids, &weights, scale, &mut out, width);
    assert_close("mix", &out, &flat(&y), SCATTER.times(10.0));
    assert_close("candle d_table", &dt, &grads[0], SCATTER.times(20.0));
    assert_close("candle d_weights", &dw, &grads[1], SCATTER.times(20.0));
    Ok(())
}
