//! The head against plain loops: statistics, race, loss and gradients.
//!
//! Inputs are multiples of 1/256 and rows at most 150 wide, so that logits are exact in f32: ties are real ties.

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::{LossRow, MAX_TOP_K, RowHead, STATS, loss, reference, statistics};
use crate::backend::HeadJob;
use crate::fixtures::{differences, flat, gradients, leaf, size, values, width};
use crate::rng::{Rng, Stream};
use crate::tolerance::{EXACT, FINITE_DIFFERENCE, HEAD, HEAD_BACKWARD, RACE_MARGIN, assert_close};

/// Token rows with repetitions, so that several ids have the same logit.
pub(crate) fn table(seed: u64, vocab: usize, width: usize) -> Vec<f32> {
    let (rng, rows) = (Rng::new(seed, Stream::Test, 4), values(seed, vocab * width));
    (0..vocab)
        .flat_map(|v| {
            let source = if v > 0 && rng.below(0, v as u32, 0, 3) == 0 {
                rng.below(1, v as u32, 0, v as u64)
            } else {
                v as u64
            };
            rows[source as usize * width..][..width].to_vec()
        })
        .collect()
}

/// Up to three ids that are never chosen, fewer than `vocab`.
pub(crate) fn forbidden(seed: u64, vocab: usize) -> Vec<u32> {
    let rng = Rng::new(seed, Stream::Test, 5);
    let mut ids: Vec<u32> =
        (0..3.min(vocab - 1) as u32).map(|i| rng.below(0, i, 0, vocab as u64) as u32).collect();
    ids.dedup();
    ids
}

fn run(hidden: &[f32], table: &[f32], keys: &[u32], job: &HeadJob) -> Vec<RowHead> {
    let stride = STATS + 2 * job.top_k;
    let mut out = vec![f32::NAN; job.rows * stride];
    statistics(hidden, table, keys, &mut out, job);
    out.chunks_exact(stride).map(|row| RowHead::decode(row, job.top_k)).collect()
}

/// Everything a row of statistics claims, from f64 logits.
pub(crate) fn check(row: &RowHead, z: &[f64], key: &[u32], job: &HeadJob) {
    let lp = reference::log_softmax(z);
    let lse = z.iter().zip(&lp).find(|(z, _)| z.is_finite()).map(|(z, l)| z - l).expect("a token is allowed");
    let mut order: Vec<usize> = (0..z.len()).filter(|v| z[*v].is_finite()).collect();
    order.sort_by(|a, b| z[*b].partial_cmp(&z[*a]).expect("numbers").then(a.cmp(b)));
    let second = order.get(1).map_or(f64::NEG_INFINITY, |v| z[*v]);
    assert_eq!(row.argmax as usize, order[0], "argmax: ties to the lower id");
    assert_close("max, second", &[row.max, row.second], &[z[order[0]], second], EXACT);
    assert_close("lse, entropy", &[row.lse, row.entropy], &[lse, reference::entropy(&lp)], HEAD);
    let current = z.get(key[3] as usize).copied().unwrap_or(f64::NEG_INFINITY);
    assert_close("current", &[row.current], &[current], EXACT);

    let top = &order[..job.top_k.min(order.len())];
    let ids: Vec<usize> = row.top.iter().map(|(v, _)| *v as usize).collect();
    assert_eq!(ids, top, "top {}", job.top_k);
    let p: Vec<f64> = top.iter().map(|v| lp[*v].exp()).collect();
    assert_close("top p", &row.top.iter().map(|(_, p)| *p).collect::<Vec<_>>(), &p, HEAD);

    let candidate = row.candidate as usize;
    assert_close("candidate logit", &[row.candidate_logit], &[z[candidate]], EXACT);
    if job.temperature == 0.0 {
        assert_eq!(candidate, order[0]);
        assert_close("margin", &[row.margin], &[z[order[0]] - second], HEAD);
        assert_close("lse_t", &[row.lse_t], &[lse], HEAD);
        assert_eq!(row.q_candidate(0.0), 1.0);
        return;
    }
    let t = job.temperature as f64;
    let (winner, margin) = reference::race(z, t, job.seed, [key[0], key[1], key[2]]);
    assert_close("margin", &[row.margin], &[margin], RACE_MARGIN.times(1.0 + 0.1 / t));
    if margin > 1e-3 {
        assert_eq!(row.candidate, winner, "race won by {margin}");
    }
    let tempered = reference::log_softmax(&z.iter().map(|z| z / t).collect::<Vec<_>>());
    assert_close("lse_t", &[row.lse_t], &[z[candidate] / t - tempered[candidate]], HEAD.times(1.0 + 1.0 / t));
    assert_close(
        "q",
        &[row.q_candidate(job.temperature)],
        &[tempered[candidate].exp()],
        HEAD.times(1.0 + 1.0 / t),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn statistics_match_the_loops(
        rows in size(),
        width in width(),
        vocab in prop_oneof![width(), Just(1), Just(2), Just(513)],
        top_k in 0..=MAX_TOP_K,
        temperature in prop_oneof![Just(0f32), Just(1.0), Just(0.1), 0.3f32..2.0],
        seed: u64,
    ) {
        let (hidden, table) = (values(seed, rows * width), table(seed ^ 1, vocab, width));
        let rng = Rng::new(seed, Stream::Test, 6);
        // the current token may lie outside the vocabulary (none)
        let keys: Vec<u32> = (0..rows as u32)
            .flat_map(|r| [r, 3, 9, rng.below(0, r, 0, vocab as u64 + 2) as u32])
            .collect();
        let job = HeadJob { rows, width, vocab, top_k, temperature, seed, forbid: forbidden(seed, vocab) };
        let got = run(&hidden, &table, &keys, &job);
        prop_assert_eq!(got.len(), rows);
        for (r, row) in got.iter().enumerate() {
            let z = reference::logits(&hidden[r * width..][..width], &table, &job.forbid, width);
            check(row, &z, &keys[4 * r..][..4], &job);
        }
    }

    #[test]
    fn loss_and_gradients_match_the_loops(
        rows in size(),
        width in width(),
        vocab in prop_oneof![width(), Just(1), Just(2), Just(513)],
        forbid_target: bool,
        seed: u64,
    ) {
        let (hidden, table) = (values(seed, rows * width), values(seed ^ 1, vocab * width));
        let mut forbid = forbidden(seed, vocab);
        let mut asked = requests(seed, rows, vocab, &forbid);
        if forbid_target && rows > 1 && vocab > 4 {
            forbid.push(asked[0].target);
            forbid.dedup();
            asked.iter_mut().skip(1).for_each(|r| r.target = allowed(r.target, vocab, &forbid));
        }
        let want = reference::loss(&hidden, &table, &asked, &forbid, width);
        let (mut lp, mut en) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
        loss(&hidden, &table, &asked, &forbid, width, &mut lp, &mut en, None);
        assert_close("log p", &lp, &want.0, HEAD);
        assert_close("entropy", &en, &want.1, HEAD);
        let (mut dh, mut dt) = (vec![f32::NAN; rows * width], values(seed ^ 2, vocab * width));
        let before = dt.clone();
        let (mut lp2, mut en2) = (lp.clone(), en.clone());
        loss(&hidden, &table, &asked, &forbid, width, &mut lp2, &mut en2, Some((&mut dh, &mut dt)));
        assert_close("log p with gradient", &lp2, &lp, EXACT);
        assert_close("entropy with gradient", &en2, &en, EXACT);
        assert_close("d_hidden", &dh, &want.2, HEAD_BACKWARD);
        let sum: Vec<f32> = before.iter().zip(&want.3).map(|(a, b)| a + b).collect();
        assert_close("d_table accumulates", &dt, &sum, HEAD_BACKWARD);
    }
}

/// The next id from `v` that is not forbidden.
fn allowed(v: u32, vocab: usize, forbid: &[u32]) -> u32 {
    (0..vocab as u32).map(|i| (v + i) % vocab as u32).find(|v| !forbid.contains(v)).unwrap_or(v)
}

pub(crate) fn requests(seed: u64, rows: usize, vocab: usize, forbid: &[u32]) -> Vec<LossRow> {
    let (rng, c) = (Rng::new(seed, Stream::Test, 7), values(seed ^ 7, 2 * rows));
    (0..rows)
        .map(|r| LossRow {
            target: allowed(rng.below(0, r as u32, 0, vocab as u64) as u32, vocab, forbid),
            d_log_p: c[2 * r],
            d_entropy: c[2 * r + 1],
        })
        .collect()
}

#[test]
fn gradients_are_the_slopes() {
    let (rows, width, vocab, forbid) = (4, 5, 9, [2u32, 7]);
    let (hidden, table) = (values(1, rows * width), values(2, vocab * width));
    let asked = requests(3, rows, vocab, &forbid);
    let total = |h: &[f32], t: &[f32]| {
        let (lp, en, ..) = reference::loss(h, t, &asked, &forbid, width);
        asked
            .iter()
            .zip(lp.iter().zip(en))
            .map(|(r, (l, e))| (r.d_log_p * l) as f64 + (r.d_entropy * e) as f64)
            .sum()
    };
    let (mut dh, mut dt) = (vec![0f32; hidden.len()], vec![0f32; table.len()]);
    let (mut lp, mut en) = (vec![0f32; rows], vec![0f32; rows]);
    loss(&hidden, &table, &asked, &forbid, width, &mut lp, &mut en, Some((&mut dh, &mut dt)));
    assert_close("d_hidden", &dh, &differences(&hidden, |h| total(h, &table)), FINITE_DIFFERENCE);
    assert_close("d_table", &dt, &differences(&table, |t| total(&hidden, t)), FINITE_DIFFERENCE);
}

#[test]
fn matches_candle() -> candle_core::Result<()> {
    let (rows, width, vocab, forbid) = (37, 16, 101, [0u32, 50, 100]);
    let (hidden, table) = (values(4, rows * width), values(5, vocab * width));
    let asked = requests(6, rows, vocab, &forbid);
    let (h, t) = (leaf(&hidden, &[rows, width]), leaf(&table, &[vocab, width]));
    let kept: Vec<u32> = (0..vocab as u32).filter(|v| !forbid.contains(v)).collect();
    let column = |r: &LossRow| kept.iter().position(|v| *v == r.target).expect("target is allowed") as u32;
    let targets = Tensor::from_vec(asked.iter().map(column).collect::<Vec<_>>(), (rows, 1), &Device::Cpu)?;
    let z = h.matmul(&t.index_select(&Tensor::new(kept.clone(), &Device::Cpu)?, 0)?.t()?)?;
    let z = z.broadcast_sub(&z.max_keepdim(1)?.detach())?;
    let lp = z.broadcast_sub(&z.exp()?.sum_keepdim(1)?.log()?)?;
    let entropy = lp.exp()?.mul(&lp)?.sum_keepdim(1)?.neg()?;
    let y = Tensor::cat(&[lp.gather(&targets, 1)?, entropy], 1)?;
    let weights: Vec<f32> = asked.iter().flat_map(|r| [r.d_log_p, r.d_entropy]).collect();
    let grads = gradients(&y, &weights, &[&h, &t])?;

    let (mut dh, mut dt) = (vec![0f32; hidden.len()], vec![0f32; table.len()]);
    let (mut lps, mut ens) = (vec![0f32; rows], vec![0f32; rows]);
    loss(&hidden, &table, &asked, &forbid, width, &mut lps, &mut ens, Some((&mut dh, &mut dt)));
    let pairs: Vec<f32> = lps.iter().zip(&ens).flat_map(|(l, e)| [*l, *e]).collect();
    assert_close("log p and entropy", &pairs, &flat(&y), HEAD);
    assert_close("d_hidden", &dh, &grads[0], HEAD_BACKWARD);
    assert_close("d_table", &dt, &grads[1], HEAD_BACKWARD);
    Ok(())
}

/// A vocabulary so large that two rows fill the scratch buffer: rows are split over several tiles.
#[test]
fn rows_are_split_over_tiles_of_logits() {
    let (rows, width, vocab) = (5, 1, 1 << 20);
    let (hidden, table) = (values(1, rows), values(2, vocab));
    let keys: Vec<u32> = (0..rows as u32).flat_map(|r| [r, 0, 0, r]).collect();
    let job = HeadJob { rows, width, vocab, top_k: 3, temperature: 1.0, seed: 1, forbid: vec![5] };
    for (r, row) in run(&hidden, &table, &keys, &job).iter().enumerate() {
        let z = reference::logits(&hidden[r..=r], &table, &job.forbid, 1);
        assert_close("current", &[row.current], &[z[r]], EXACT);
        let lp = reference::log_softmax(&z);
        assert_close("entropy", &[row.entropy], &[reference::entropy(&lp)], HEAD.times(3.0));
        assert_eq!(row.candidate, reference::race(&z, 1.0, 1, [r as u32, 0, 0]).0);
    }
    let asked = requests(3, rows, vocab, &job.forbid);
    let want = reference::loss(&hidden, &table, &asked, &job.forbid, 1);
    let (mut lp, mut en) = (vec![0f32; rows], vec![0f32; rows]);
    let (mut dh, mut dt) = (vec![0f32; rows], vec![0f32; vocab]);
    loss(&hidden, &table, &asked, &job.forbid, 1, &mut lp, &mut en, Some((&mut dh, &mut dt)));
    assert_close("log p", &lp, &want.0, HEAD);
    assert_close("d_hidden", &dh, &want.2, HEAD_BACKWARD);
    assert_close("d_table", &dt, &want.3, HEAD_BACKWARD);
}

/// What a broken model or a wrong configuration produces must not stop a server.
#[test]
fn rows_without_a_choice_do_not_panic() {
    let keys = [0, 0, 0, 0];
    for temperature in [0.0, 1.0] {
        let job = HeadJob { rows: 1, width: 1, vocab: 2, top_k: 3, temperature, seed: 1, forbid: vec![0, 1] };
        let none = &run(&[1.0], &[1.0, 2.0], &keys, &job)[0];
        assert_eq!((none.argmax, none.candidate, none.top.len()), (0, 0, 0));
        assert_eq!(none.candidate_logit, f32::NEG_INFINITY);
        let job = HeadJob { forbid: vec![], ..job };
        let broken = &run(&[f32::NAN], &[1.0, 2.0], &keys, &job)[0];
        assert!(broken.candidate < 2 && broken.candidate_logit.is_nan());
    }
}

#[test]
fn a_single_token_is_certain() {
    let job = HeadJob { rows: 1, width: 2, vocab: 1, top_k: 4, temperature: 0.7, seed: 1, forbid: vec![] };
    let row = &run(&[0.5, 1.0], &[1.0, 1.0], &[0, 0, 0, 0], &job)[0];
    assert_eq!((row.candidate, row.entropy, row.margin), (0, 0.0, f32::INFINITY));
    assert_eq!((row.p_max(), row.p_second(), row.p_current()), (1.0, 0.0, 1.0));
    assert_eq!(row.top, [(0, 1.0)]);
}
