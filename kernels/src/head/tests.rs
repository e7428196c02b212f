//! The head against plain loops: statistics, race, loss and gradients.
//!
//! Inputs are multiples of 1/256 and rows at most 150 wide, so that logits are exact in f32: ties are real ties.

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::{LossRow, MAX_TOP_K, Mixture, RowHead, STATS, Teacher, distill, loss, reference, statistics};
use crate::backend::HeadJob;
use crate::fixtures::{constant, differences, flat, gradients, leaf, size, values, width};
use crate::rng::{Rng, Stream};
use crate::tolerance::{
    EXACT, FINITE_DIFFERENCE, HEAD, HEAD_BACKWARD, HEAD_MIXED, RACE_MARGIN, assert_close,
};

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
    statistics(hidden, table, keys, &mut out, std::slice::from_ref(job));
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

    /// Jobs that share the products yield to the bit what each yields alone.
    #[test]
    fn jobs_side_by_side_are_each_as_alone(
        jobs in prop::collection::vec((0usize..12, 0..=MAX_TOP_K, prop_oneof![Just(0f32), 0.3f32..2.0], any::<u64>()), 1..5),
        width in width(),
        vocab in prop_oneof![width(), Just(1), Just(513)],
        seed: u64,
    ) {
        let forbid = forbidden(seed, vocab);
        let jobs: Vec<HeadJob> = jobs
            .into_iter()
            .map(|(rows, top_k, temperature, seed)| HeadJob { rows, width, vocab, top_k, temperature, seed, forbid: forbid.clone() })
            .collect();
        let rows: usize = jobs.iter().map(|j| j.rows).sum();
        let (hidden, table) = (values(seed, rows * width), table(seed ^ 1, vocab, width));
        let keys: Vec<u32> = (0..rows as u32).flat_map(|r| [r, 3, 9 + r % 2, r % vocab as u32]).collect();
        let mut all = vec![f32::NAN; jobs.iter().map(HeadJob::values).sum()];
        statistics(&hidden, &table, &keys, &mut all, &jobs);
        let (mut row, mut at) = (0, 0);
        for job in &jobs {
            let mut alone = vec![f32::NAN; job.values()];
            let (h, k) = (&hidden[row * width..][..job.rows * width], &keys[4 * row..][..4 * job.rows]);
            statistics(h, &table, k, &mut alone, std::slice::from_ref(job));
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            prop_assert_eq!(bits(&all[at..][..job.values()]), bits(&alone));
            (row, at) = (row + job.rows, at + job.values());
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
        let plain = loss(&hidden, &table, &asked, &forbid, width, None);
        assert_close("log p", &plain.log_p, &want.0.log_p, HEAD);
        assert_close("entropy", &plain.entropy, &want.0.entropy, HEAD);
        assert_close("divergence", &plain.divergence, &want.0.divergence, HEAD);
        let (mut dh, mut dt) = (vec![f32::NAN; rows * width], values(seed ^ 2, vocab * width));
        let before = dt.clone();
        let again = loss(&hidden, &table, &asked, &forbid, width, Some((&mut dh, &mut dt)));
        prop_assert_eq!(&again, &plain, "with a gradient");
        let near = if seed % 2 == 1 { HEAD_MIXED } else { HEAD_BACKWARD };
        assert_close("d_hidden", &dh, &want.1, near);
        let sum: Vec<f32> = before.iter().zip(&want.2).map(|(a, b)| a + b).collect();
        assert_close("d_table accumulates", &dt, &sum, near);
    }
}

/// The next id from `v` that is not forbidden.
fn allowed(v: u32, vocab: usize, forbid: &[u32]) -> u32 {
    (0..vocab as u32).map(|i| (v + i) % vocab as u32).find(|v| !forbid.contains(v)).unwrap_or(v)
}

/// Requests with any coefficients; of odd seeds half carry a mixture.
pub(crate) fn requests(seed: u64, rows: usize, vocab: usize, forbid: &[u32]) -> Vec<LossRow> {
    let (rng, c) = (Rng::new(seed, Stream::Test, 7), values(seed ^ 7, 2 * rows));
    (0..rows)
        .map(|r| {
            let (row, any) = (r as u32, |lane| rng.below(0, r as u32, lane, vocab as u64) as u32);
            let target = allowed(any(0), vocab, forbid);
            // masks, right and wrong symbols under noise of every size, beside rows without any
            let observed = match rng.below(1, row, 0, 3) {
                0 => None,
                1 => Some(target),
                _ => Some(allowed(any(4), vocab, forbid)),
            };
            let alpha = 0.05 + 0.9 * rng.uniform(1, row, 1) as f32;
            let beta = (1.0 - alpha) * 10f32.powf(-2.0 * rng.uniform(1, row, 2) as f32) / vocab as f32;
            // as in the process, a right symbol weighs less the larger its ratio can become
            let share = if observed == Some(target) { beta / (alpha + beta) } else { 1.0 };
            let mixture = Mixture { alpha, beta, observed, weight: c[2 * r] * share };
            let mixture = (seed % 2 == 1 && rng.below(1, row, 3, 2) == 0).then_some(mixture);
            LossRow { target, d_log_p: c[2 * r], d_entropy: c[2 * r + 1], mixture }
        })
        .collect()
}

#[test]
fn gradients_are_the_slopes() {
    let (rows, width, vocab, forbid) = (4, 5, 9, [2u32, 7]);
    let (hidden, table) = (values(1, rows * width), values(2, vocab * width));
    let asked = requests(3, rows, vocab, &forbid);
    let total = |h: &[f32], t: &[f32]| {
        let out = reference::loss(h, t, &asked, &forbid, width).0;
        let term = |(r, row): (usize, &LossRow)| {
            let mixed = row.mixture.map_or(0.0, |m| m.weight as f64 * out.divergence[r] as f64);
            (row.d_log_p * out.log_p[r]) as f64 + (row.d_entropy * out.entropy[r]) as f64 + mixed
        };
        asked.iter().enumerate().map(term).sum()
    };
    assert!(asked.iter().any(|r| r.mixture.is_some()) && asked.iter().any(|r| r.mixture.is_none()));
    let (mut dh, mut dt) = (vec![0f32; hidden.len()], vec![0f32; table.len()]);
    loss(&hidden, &table, &asked, &forbid, width, Some((&mut dh, &mut dt)));
    assert_close("d_hidden", &dh, &differences(&hidden, |h| total(h, &table)), FINITE_DIFFERENCE);
    assert_close("d_table", &dt, &differences(&table, |t| total(&hidden, t)), FINITE_DIFFERENCE);
}

/// D of each row from probabilities [rows, kept], 0 where nothing is mixed.
fn mixed(p: &Tensor, asked: &[LossRow], kept: &[u32]) -> candle_core::Result<Tensor> {
    let (rows, n) = p.dims2()?;
    let column = |id: u32| kept.iter().position(|v| *v == id).expect("allowed");
    let of = |f: &dyn Fn(usize, usize) -> f64| {
        let v: Vec<f64> = (0..rows * n).map(|i| f(i / n, i % n)).collect();
        Tensor::from_vec(v, (rows, n), &Device::Cpu)
    };
    let noise = |r: usize| asked[r].mixture.map_or((0.0, 1.0), |m| (m.alpha as f64, m.beta as f64));
    let truth = |r: usize, v: usize| noise(r).1 + if v == column(asked[r].target) { noise(r).0 } else { 0.0 };
    let q = (p * of(&|r, _| noise(r).0)?)?.add(&of(&|r, _| noise(r).1)?)?;
    let kl = (of(&truth)?.log()? - q.log()?)?.mul(&of(&truth)?)?;
    let seen = of(&|r, v| {
        let observed = asked[r].mixture.and_then(|m| m.observed);
        f64::from(u8::from(observed.is_some_and(|s| column(s) == v)))
    })?;
    let ratio = of(&truth)?.div(&q)?;
    let excess = ((&ratio - ratio.log()?)? - 1.0)?.mul(&seen)?;
    let live = of(&|r, _| f64::from(u8::from(asked[r].mixture.is_some())))?;
    (kl + excess)?.mul(&live)?.sum_keepdim(1)
}

#[test]
fn matches_candle() -> candle_core::Result<()> {
    let (rows, width, vocab, forbid) = (37, 16, 101, [0u32, 50, 100]);
    let (hidden, table) = (values(4, rows * width), values(5, vocab * width));
    let asked = requests(7, rows, vocab, &forbid);
    let (h, t) = (leaf(&hidden, &[rows, width]), leaf(&table, &[vocab, width]));
    let kept: Vec<u32> = (0..vocab as u32).filter(|v| !forbid.contains(v)).collect();
    let column = |r: &LossRow| kept.iter().position(|v| *v == r.target).expect("target is allowed") as u32;
    let targets = Tensor::from_vec(asked.iter().map(column).collect::<Vec<_>>(), (rows, 1), &Device::Cpu)?;
    let z = h.matmul(&t.index_select(&Tensor::new(kept.clone(), &Device::Cpu)?, 0)?.t()?)?;
    let z = z.broadcast_sub(&z.max_keepdim(1)?.detach())?;
    let lp = z.broadcast_sub(&z.exp()?.sum_keepdim(1)?.log()?)?;
    let entropy = lp.exp()?.mul(&lp)?.sum_keepdim(1)?.neg()?;
    let divergence = mixed(&lp.exp()?, &asked, &kept)?;
    let y = Tensor::cat(&[lp.gather(&targets, 1)?, entropy, divergence], 1)?;
    let weight = |r: &LossRow| r.mixture.map_or(0.0, |m| m.weight);
    let weights: Vec<f32> = asked.iter().flat_map(|r| [r.d_log_p, r.d_entropy, weight(r)]).collect();
    let grads = gradients(&y, &weights, &[&h, &t])?;

    let (mut dh, mut dt) = (vec![0f32; hidden.len()], vec![0f32; table.len()]);
    let out = loss(&hidden, &table, &asked, &forbid, width, Some((&mut dh, &mut dt)));
    let got: Vec<f32> = (0..rows)
        .flat_map(|r| {
            let mixed = asked[r].mixture.map_or(0.0, |_| out.divergence[r]);
            [out.log_p[r], out.entropy[r], mixed]
        })
        .collect();
    assert_close("log p, entropy and divergence", &got, &flat(&y), HEAD);
    assert_close("d_hidden", &dh, &grads[0], HEAD_MIXED);
    assert_close("d_table", &dt, &grads[1], HEAD_MIXED);
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
    let asked = requests(4, rows, vocab, &job.forbid);
    let want = reference::loss(&hidden, &table, &asked, &job.forbid, 1);
    let (mut dh, mut dt) = (vec![0f32; rows], vec![0f32; vocab]);
    let got = loss(&hidden, &table, &asked, &job.forbid, 1, Some((&mut dh, &mut dt)));
    assert_close("log p", &got.log_p, &want.0.log_p, HEAD);
    assert_close("d_hidden", &dh, &want.1, HEAD_BACKWARD);
    assert_close("d_table", &dt, &want.2, HEAD_BACKWARD);
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

/// A teacher of another width on the same vocabulary.
fn lessons(seed: u64, rows: usize, vocab: usize, width: usize) -> (Vec<f32>, Vec<f32>) {
    (values(seed ^ 21, rows * width), values(seed ^ 22, vocab * width))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn distillation_matches_the_loops(
        rows in size(),
        width in width(),
        teacher_width in width(),
        vocab in prop_oneof![width(), Just(1), Just(2), Just(513)],
        temperature in prop_oneof![Just(1f32), 0.3f32..4.0],
        seed: u64,
    ) {
        let (hidden, table) = (values(seed, rows * width), values(seed ^ 1, vocab * width));
        let (th, tt) = lessons(seed, rows, vocab, teacher_width);
        let teacher = Teacher { hidden: &th, table: &tt, width: teacher_width };
        let (forbid, slopes) = (forbidden(seed, vocab), values(seed ^ 3, rows));
        let want = reference::distill(&hidden, &table, width, teacher, &slopes, &forbid, temperature);
        let plain = distill(&hidden, &table, width, teacher, &slopes, &forbid, temperature, None);
        let near = HEAD.times(4.0 + 4.0 / temperature as f64);
        assert_close("divergence", &plain, &want.0, near);
        let (mut dh, mut dt) = (vec![f32::NAN; rows * width], values(seed ^ 2, vocab * width));
        let sum: Vec<f32> = dt.iter().zip(&want.2).map(|(a, b)| a + b).collect();
        let backward = Some((&mut dh[..], &mut dt[..]));
        let again = distill(&hidden, &table, width, teacher, &slopes, &forbid, temperature, backward);
        prop_assert_eq!(again, plain);
        let near = HEAD_BACKWARD.times(1.0 + 1.0 / temperature as f64);
        assert_close("d_hidden", &dh, &want.1, near);
        assert_close("d_table accumulates", &dt, &sum, near);
    }
}

#[test]
fn distillation_is_the_slope_of_its_divergence() {
    let (rows, width, vocab, forbid, temperature) = (3, 5, 9, [2u32, 7], 1.7);
    let (hidden, table) = (values(1, rows * width), values(2, vocab * width));
    let (th, tt) = lessons(3, rows, vocab, 4);
    let teacher = Teacher { hidden: &th, table: &tt, width: 4 };
    let slopes = values(4, rows);
    let total = |h: &[f32], t: &[f32]| {
        let d = reference::distill(h, t, width, teacher, &slopes, &forbid, temperature).0;
        d.iter().zip(&slopes).map(|(d, c)| *d as f64 * *c as f64).sum()
    };
    let (mut dh, mut dt) = (vec![0f32; hidden.len()], vec![0f32; table.len()]);
    let backward = Some((&mut dh[..], &mut dt[..]));
    distill(&hidden, &table, width, teacher, &slopes, &forbid, temperature, backward);
    assert_close("d_hidden", &dh, &differences(&hidden, |h| total(h, &table)), FINITE_DIFFERENCE);
    assert_close("d_table", &dt, &differences(&table, |t| total(&hidden, t)), FINITE_DIFFERENCE);
    // a student that is its own teacher has nothing to learn
    let own = Teacher { hidden: &hidden, table: &table, width };
    let (mut dh, mut dt) = (vec![1f32; hidden.len()], vec![0f32; table.len()]);
    let backward = Some((&mut dh[..], &mut dt[..]));
    let d = distill(&hidden, &table, width, own, &slopes, &forbid, temperature, backward);
    assert!(d.iter().chain(&dh).chain(&dt).all(|x| *x == 0.0));
}

#[test]
fn distillation_matches_candle() -> candle_core::Result<()> {
    let (rows, width, vocab, forbid, temperature) = (17, 16, 101, [0u32, 50, 100], 0.7f32);
    let (hidden, table) = (values(4, rows * width), values(5, vocab * width));
    let (th, tt) = lessons(6, rows, vocab, 12);
    let teacher = Teacher { hidden: &th, table: &tt, width: 12 };
    let slopes = values(7, rows);
    let kept: Vec<u32> = (0..vocab as u32).filter(|v| !forbid.contains(v)).collect();
    let kept = Tensor::new(kept, &Device::Cpu)?;
    let (h, t) = (leaf(&hidden, &[rows, width]), leaf(&table, &[vocab, width]));
    let soft = |h: &Tensor, t: &Tensor| {
        let z = (h.matmul(&t.index_select(&kept, 0)?.t()?)? / temperature as f64)?;
        let z = z.broadcast_sub(&z.max_keepdim(1)?.detach())?;
        z.broadcast_sub(&z.exp()?.sum_keepdim(1)?.log()?)
    };
    let lp = soft(h.as_tensor(), t.as_tensor())?;
    let lq = soft(&constant(&th, &[rows, 12]), &constant(&tt, &[vocab, 12]))?;
    let y = lq.exp()?.mul(&(&lq - &lp)?)?.sum_keepdim(1)?;
    let grads = gradients(&y, &slopes, &[&h, &t])?;
    let (mut dh, mut dt) = (vec![0f32; hidden.len()], vec![0f32; table.len()]);
    let backward = Some((&mut dh[..], &mut dt[..]));
    let d = distill(&hidden, &table, width, teacher, &slopes, &forbid, temperature, backward);
    assert_close("divergence", &d, &flat(&y), HEAD.times(4.0));
    assert_close("d_hidden", &dh, &grads[0], HEAD_BACKWARD.times(2.0));
    assert_close("d_table", &dt, &grads[1], HEAD_BACKWARD.times(2.0));
    Ok(())
}
