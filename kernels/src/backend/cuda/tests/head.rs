//! The head with the checks of the operation's own tests: statistics, races, loss and gradients.

use proptest::prelude::*;

use super::super::{Cuda, Device};
use super::{check, on_every_device};
use crate::backend::{At, Backend, HeadJob, TeacherRows, Train};
use crate::fixtures::{size, values, width};
use crate::head::tests::{check as check_row, forbidden, requests, table};
use crate::head::{MAX_TOP_K, RowHead, STATS, Teacher, reference};
use crate::rng::{Rng, Stream};
use crate::tolerance::{HEAD, HEAD_BACKWARD, HEAD_MIXED, assert_close};

on_every_device!(
    statistics_match,
    a_thousand_races_end_as_in_the_reference,
    loss_and_gradients_match,
    distillation_matches,
    rows_are_split_over_tiles_of_logits,
    rows_without_a_choice_have_an_answer,
    jobs_side_by_side_are_each_as_alone,
);

fn vocabulary() -> impl Strategy<Value = usize> {
    prop_oneof![width(), Just(1), Just(2), Just(513)]
}

fn run<D: Device>(
    cuda: &Cuda<D>,
    hidden: &[f32],
    table: &[f32],
    keys: &[u32],
    job: &HeadJob,
) -> Vec<RowHead> {
    let mut params = vec![5.0; 64];
    params.extend_from_slice(table);
    let (h, p, k) = (cuda.f32s(hidden), cuda.f32s(&params), cuda.u32s(keys));
    let stride = STATS + 2 * job.top_k;
    let mut out = cuda.f32s(&vec![f32::NAN; job.rows * stride]);
    cuda.head(&h, &p, At::new(64, table.len()), &k, &mut out, job);
    cuda.all(&out).chunks_exact(stride).map(|row| RowHead::decode(row, job.top_k)).collect()
}

/// Jobs over consecutive rows and several tiles of logits, each to the bit as alone.
fn jobs_side_by_side_are_each_as_alone<D: Device>(cuda: &Cuda<D>) {
    let (width, vocab) = (2, 40_000);
    let job = |rows, top_k, temperature, seed| HeadJob {
        rows,
        width,
        vocab,
        top_k,
        temperature,
        seed,
        forbid: vec![7],
    };
    let jobs = [job(3, 0, 0.0, 1), job(0, 2, 1.0, 2), job(64, 4, 0.8, 3), job(1, 4, 0.8, 4)];
    let (hidden, table) = (values(1, 68 * width), values(2, vocab * width));
    let keys: Vec<u32> = (0..68u32).flat_map(|r| [r + 3, 17, 5 + r % 3, r]).collect();
    let (h, p, k) = (cuda.f32s(&hidden), cuda.f32s(&table), cuda.u32s(&keys));
    let mut out = cuda.f32s(&vec![f32::NAN; jobs.iter().map(HeadJob::values).sum()]);
    cuda.heads(&h, &p, At::new(0, table.len()), &k, &mut out, &jobs);
    let (all, mut row, mut at) = (cuda.all(&out), 0, 0);
    for job in &jobs {
        let (h, keys) = (&hidden[row * width..][..job.rows * width], &keys[4 * row..][..4 * job.rows]);
        let alone = run(cuda, h, &table, keys, job);
        let stride = STATS + 2 * job.top_k;
        let rows = all[at..][..job.values()].chunks_exact(stride);
        assert_eq!(rows.map(|r| RowHead::decode(r, job.top_k)).collect::<Vec<_>>(), alone, "{job:?}");
        (row, at) = (row + job.rows, at + job.values());
    }
}

fn compare<D: Device>(cuda: &Cuda<D>, job: &HeadJob, hidden: &[f32], table: &[f32]) {
    let rng = Rng::new(job.seed, Stream::Test, 6);
    // the current token may lie outside the vocabulary (none)
    let current = |r| rng.below(0, r, 0, job.vocab as u64 + 2) as u32;
    let keys: Vec<u32> = (0..job.rows as u32).flat_map(|r| [r, 3, 9, current(r)]).collect();
    let got = run(cuda, hidden, table, &keys, job);
    assert_eq!(got.len(), job.rows);
    for (r, row) in got.iter().enumerate() {
        let z = reference::logits(&hidden[r * job.width..][..job.width], table, &job.forbid, job.width);
        check_row(row, &z, &keys[4 * r..][..4], job);
    }
}

fn statistics_match<D: Device>(cuda: &Cuda<D>) {
    let temperature = prop_oneof![Just(0f32), Just(1.0), Just(0.1), 0.3f32..2.0];
    let strategy = (size(), width(), vocabulary(), 0..=MAX_TOP_K, temperature, any::<u64>());
    check(24, strategy, |(rows, width, vocab, top_k, temperature, seed)| {
        statistics(cuda, rows, width, vocab, top_k, temperature, seed);
    });
}

pub(super) fn statistics<D: Device>(
    cuda: &Cuda<D>,
    rows: usize,
    width: usize,
    vocab: usize,
    top_k: usize,
    temperature: f32,
    seed: u64,
) {
    let (hidden, table) = (values(seed, rows * width), table(seed ^ 1, vocab, width));
    let forbid = forbidden(seed, vocab);
    compare(cuda, &HeadJob { rows, width, vocab, top_k, temperature, seed, forbid }, &hidden, &table);
}

/// Nearly flat distributions, where the noise decides.
fn a_thousand_races_end_as_in_the_reference<D: Device>(cuda: &Cuda<D>) {
    for seed in [0x1_0000_0003, u64::MAX] {
        let job =
            HeadJob { rows: 500, width: 4, vocab: 300, top_k: 0, temperature: 3.0, seed, forbid: vec![7] };
        compare(cuda, &job, &values(seed, 2000), &values(seed ^ 1, 1200));
    }
}

fn loss_and_gradients_match<D: Device>(cuda: &Cuda<D>) {
    check(24, (size(), width(), vocabulary(), any::<u64>()), |(rows, width, vocab, seed)| {
        let near = if seed % 2 == 1 { HEAD_MIXED } else { HEAD_BACKWARD };
        loss(cuda, rows, width, vocab, seed, near);
    });
}

pub(super) fn loss<D: Device>(
    cuda: &Cuda<D>,
    rows: usize,
    width: usize,
    vocab: usize,
    seed: u64,
    tolerance: crate::tolerance::Tolerance,
) {
    let (hidden, table) = (values(seed, rows * width), values(seed ^ 1, vocab * width));
    let forbid = forbidden(seed, vocab);
    let asked = requests(seed, rows, vocab, &forbid);
    let want = reference::loss(&hidden, &table, &asked, &forbid, width);
    let mut params = vec![5.0; 64];
    params.extend_from_slice(&table);
    let at = At::new(64, table.len());
    let (h, p) = (cuda.f32s(&hidden), cuda.f32s(&params));
    let got = cuda.head_loss(&h, &p, at, &asked, &forbid, width, None);
    assert_close("log p", &got.log_p, &want.0.log_p, HEAD);
    assert_close("entropy", &got.entropy, &want.0.entropy, HEAD);
    assert_close("divergence", &got.divergence, &want.0.divergence, HEAD_MIXED);
    let mut dh = cuda.f32s(&vec![f32::NAN; rows * width]);
    let mut grads = values(seed ^ 2, params.len());
    let mut g = cuda.f32s(&grads);
    let again = cuda.head_loss(&h, &p, at, &asked, &forbid, width, Some((&mut dh, &mut g)));
    assert_eq!(again, got, "with gradient");
    assert_close("d_hidden", &cuda.all(&dh), &want.1, tolerance);
    grads[64..].iter_mut().zip(&want.2).for_each(|(g, d)| *g += d);
    assert_close("d_table accumulates", &cuda.all(&g), &grads, tolerance);
}

fn distillation_matches<D: Device>(cuda: &Cuda<D>) {
    let temperature = prop_oneof![Just(1f32), 0.5f32..3.0];
    check(16, (size(), width(), width(), vocabulary(), temperature, any::<u64>()), |input| {
        let (rows, width, theirs, vocab, temperature, seed) = input;
        distill(cuda, rows, [width, theirs], vocab, temperature, seed);
    });
}

pub(super) fn distill<D: Device>(
    cuda: &Cuda<D>,
    rows: usize,
    [width, theirs]: [usize; 2],
    vocab: usize,
    temperature: f32,
    seed: u64,
) {
    let (hidden, table) = (values(seed, rows * width), values(seed ^ 1, vocab * width));
    let (th, tt) = (values(seed ^ 21, rows * theirs), values(seed ^ 22, vocab * theirs));
    let (forbid, slopes) = (forbidden(seed, vocab), values(seed ^ 3, rows));
    let teacher = Teacher { hidden: &th, table: &tt, width: theirs };
    let want = reference::distill(&hidden, &table, width, teacher, &slopes, &forbid, temperature);
    let behind = |t: &[f32]| [vec![5.0; 64], t.to_vec()].concat();
    let (params, own) = (behind(&table), At::new(64, table.len()));
    let (h, p) = (cuda.f32s(&hidden), cuda.f32s(&params));
    let (their_h, their_p) = (cuda.f32s(&th), cuda.f32s(&behind(&tt)));
    let teacher =
        TeacherRows { hidden: &their_h, params: &their_p, table: At::new(64, tt.len()), width: theirs };
    let far = 1.0 + 1.0 / temperature as f64;
    let plain = cuda.head_distill(&h, &p, own, width, teacher, &slopes, &forbid, temperature, None);
    assert_close("divergence", &plain, &want.0, HEAD.times(4.0 * far));
    let mut dh = cuda.f32s(&vec![f32::NAN; rows * width]);
    let mut grads = values(seed ^ 2, params.len());
    let mut g = cuda.f32s(&grads);
    let backward = Some((&mut dh, &mut g));
    let again = cuda.head_distill(&h, &p, own, width, teacher, &slopes, &forbid, temperature, backward);
    assert_eq!(again, plain, "with gradient");
    assert_close("d_hidden", &cuda.all(&dh), &want.1, HEAD_BACKWARD.times(far));
    grads[64..].iter_mut().zip(&want.2).for_each(|(g, d)| *g += d);
    assert_close("d_table accumulates", &cuda.all(&g), &grads, HEAD_BACKWARD.times(far));
}

/// More rows than the scratch memory holds logits of.
fn rows_are_split_over_tiles_of_logits<D: Device>(cuda: &Cuda<D>) {
    let (rows, vocab) = (70, 40_000);
    assert_eq!(super::super::ops::head_rows(rows, vocab), 64);
    loss(cuda, rows, 1, vocab, 4, HEAD_BACKWARD.times(4.0));
}

fn rows_without_a_choice_have_an_answer<D: Device>(cuda: &Cuda<D>) {
    for temperature in [0.0, 1.0] {
        let job = HeadJob { rows: 1, width: 1, vocab: 2, top_k: 3, temperature, seed: 1, forbid: vec![0, 1] };
        let none = &run(cuda, &[1.0], &[1.0, 2.0], &[0; 4], &job)[0];
        assert_eq!((none.argmax, none.candidate, none.top.len()), (0, 0, 0));
        assert_eq!(none.candidate_logit, f32::NEG_INFINITY);
        let job = HeadJob { forbid: vec![], ..job };
        let broken = &run(cuda, &[f32::NAN], &[1.0, 2.0], &[0; 4], &job)[0];
        assert!(broken.candidate < 2 && broken.candidate_logit.is_nan());
    }
    let job = HeadJob { rows: 1, width: 2, vocab: 1, top_k: 4, temperature: 0.7, seed: 1, forbid: vec![] };
    let row = &run(cuda, &[0.5, 1.0], &[1.0, 1.0], &[0; 4], &job)[0];
    assert_eq!((row.candidate, row.entropy, row.margin), (0, 0.0, f32::INFINITY));
    assert_eq!((row.p_max(), row.p_second(), row.p_current()), (1.0, 0.0, 1.0));
}
