//! Gathering and scattering rows, with repeated ids.

use proptest::prelude::*;

use super::{gather, reference, scatter_add};
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
