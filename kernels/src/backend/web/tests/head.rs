//! The head against the f64 reference: statistics within tolerance, the same candidate and ranking wherever the
//! margin is above the tolerance.

use super::super::{Web, WebError};
use super::{close, normals, web};
use crate::backend::{At, Backend, HeadJob};
use crate::head::{RowHead, STATS, field, reference};

/// Logits of unit-variance rows of `width` err by about 1e-7 sqrt(width) times their size.
const LOGIT: f32 = 2e-5;
const MARGIN: f64 = 1e-4;

fn run(web: &Web, job: &HeadJob, hidden: &[f32], table: &[f32], keys: &[u32]) -> Vec<f32> {
    let mut params = vec![5.0; 64];
    params.extend_from_slice(table);
    let (h, p, k) = (web.f32s(hidden), web.f32s(&params), web.u32s(keys));
    let mut out = web.f32s(&vec![7.0; job.rows * (STATS + 2 * job.top_k)]);
    web.head(&h, &p, At::new(64, table.len()), &k, &mut out, job);
    web.all(&out)
}

/// Jobs over consecutive rows, each to the bit as alone.
#[test]
fn jobs_side_by_side_are_each_as_alone() {
    let Some(web) = web("jobs_side_by_side_are_each_as_alone") else { return };
    let (width, vocab) = (24, 300);
    let job = |rows, top_k, temperature, seed| HeadJob {
        rows,
        width,
        vocab,
        top_k,
        temperature,
        seed,
        forbid: vec![7],
    };
    let jobs = [job(3, 0, 0.0, 1), job(0, 2, 1.0, 2), job(40, 4, 0.8, 3), job(1, 4, 0.8, 4)];
    let (hidden, table) = (normals(1, 44 * width, 1.0), normals(2, vocab * width, 0.5));
    let keys: Vec<u32> = (0..44u32).flat_map(|r| [r + 3, 17, 5 + r % 3, r]).collect();
    let (h, p, k) = (web.f32s(&hidden), web.f32s(&table), web.u32s(&keys));
    let mut out = web.f32s(&vec![7.0; jobs.iter().map(HeadJob::values).sum()]);
    web.heads(&h, &p, At::new(0, table.len()), &k, &mut out, &jobs);
    let (all, mut row, mut at) = (web.all(&out), 0, 0);
    for job in &jobs {
        let alone = run(&web, job, &hidden[row * width..][..job.rows * width], &table, &keys[4 * row..]);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&all[at..][..job.values()]), bits(&alone[..job.values()]), "{job:?}");
        (row, at) = (row + job.rows, at + job.values());
    }
}

fn compare(web: &Web, job: HeadJob) {
    let HeadJob { rows, width, vocab, top_k, temperature, seed, .. } = job;
    let hidden = normals(seed, rows * width, 1.0);
    let table = normals(seed ^ 1, vocab * width, 3.0 / (width.max(1) as f64).sqrt());
    let keys: Vec<u32> =
        (0..rows as u32).flat_map(|r| [r + 3, 17, 5 + r % 3, r * 31 % vocab as u32]).collect();
    let got = run(web, &job, &hidden, &table, &keys);
    for (r, row) in got.chunks_exact(STATS + 2 * top_k).enumerate() {
        let what = |name| format!("{name} of row {r}, {job:?}");
        let z = reference::logits(&hidden[r * width..][..width], &table, &job.forbid, width);
        let lp = reference::log_softmax(&z);
        let mut order: Vec<usize> = (0..vocab).filter(|v| z[*v] > f64::NEG_INFINITY).collect();
        order.sort_by(|a, b| z[*b].total_cmp(&z[*a]).then(a.cmp(b)));
        let lse = (z[order[0]] - lp[order[0]]) as f32;
        let second = order.get(1).map_or(f32::NEG_INFINITY, |v| z[*v] as f32);
        let head = RowHead::decode(row, top_k);
        let near = |name, got: f32, want: f32| close(&what(name), &[got], &[want], LOGIT, 1e-5);
        near("lse", head.lse, lse);
        near("max", head.max, z[order[0]] as f32);
        near("second", head.second, second);
        near("entropy", head.entropy, reference::entropy(&lp) as f32);
        near("current", head.current, z[keys[4 * r + 3] as usize] as f32);
        near("logit of argmax", z[head.argmax as usize] as f32, head.max);
        near("logit of candidate", z[head.candidate as usize] as f32, head.candidate_logit);
        let (candidate, margin, lse_t) = if temperature == 0.0 {
            (order[0] as u32, z[order[0]] - second as f64, lse)
        } else {
            let key = [keys[4 * r], keys[4 * r + 1], keys[4 * r + 2]];
            let (candidate, margin) = reference::race(&z, temperature as f64, seed, key);
            let tempered: Vec<f64> = z.iter().map(|x| x / temperature as f64).collect();
            let lp = reference::log_softmax(&tempered);
            (candidate, margin, (tempered[order[0]] - lp[order[0]]) as f32)
        };
        near("lse_t", head.lse_t, lse_t);
        if margin > MARGIN {
            assert_eq!(head.candidate, candidate, "{}", what("candidate"));
        }
        close(&what("margin"), &[head.margin], &[margin as f32], 1e-4, 1e-4);
        for i in 0..top_k {
            let (id, logit) = (row[field::TOP + i].to_bits(), row[field::TOP + top_k + i]);
            match order.get(i) {
                None => assert_eq!(logit, f32::NEG_INFINITY, "{}", what("rank beyond the vocabulary")),
                Some(v) => {
                    near("ranked logit", logit, z[*v] as f32);
                    near("logit of ranked id", z[id as usize] as f32, logit);
                }
            }
        }
        assert_eq!(head.top.len(), top_k.min(order.len()));
    }
}

#[test]
fn statistics_match() {
    let Some(web) = web("head::statistics_match") else { return };
    let cases = [
        // rows, width, vocab, top_k, temperature, forbidden
        (0, 8, 10, 0, 0.0, vec![]),
        (1, 1, 1, 1, 0.0, vec![]),
        (1, 5, 2, 4, 1.0, vec![1]),
        (3, 12, 65, 16, 0.7, vec![0, 64]),
        (8, 64, 1000, 5, 0.0, vec![2, 3, 999]),
        (9, 33, 777, 0, 1.3, vec![]),
        (33, 48, 4099, 8, 1.0, vec![4098, 17]),
        (70, 16, 513, 3, 0.2, vec![100]),
        (5, 96, 20_000, 16, 1.0, vec![19_999]),
    ];
    for (seed, (rows, width, vocab, top_k, temperature, forbid)) in (1..).zip(cases) {
        compare(&web, HeadJob { rows, width, vocab, top_k, temperature, seed, forbid });
    }
}

#[test]
fn a_thousand_races_end_as_on_the_cpu() {
    let Some(web) = web("a_thousand_races_end_as_on_the_cpu") else { return };
    // tables of small scale: nearly flat distributions, where the noise decides
    for seed in [0x1_0000_0003, u64::MAX] {
        compare(
            &web,
            HeadJob { rows: 500, width: 4, vocab: 300, top_k: 0, temperature: 3.0, seed, forbid: vec![7] },
        );
    }
}

#[test]
fn ties_go_to_the_lower_id() {
    let Some(web) = web("ties_go_to_the_lower_id") else { return };
    let (vocab, top_k) = (700, 16);
    // ids 3 mod 7 share the largest logit
    let table: Vec<f32> = (0..vocab).map(|v| if v % 7 == 3 { 2.0 } else { 1.0 }).collect();
    let job = HeadJob { rows: 1, width: 1, vocab, top_k, temperature: 0.0, seed: 0, forbid: vec![3] };
    let head = RowHead::decode(&run(&web, &job, &[1.0], &table, &[0; 4]), top_k);
    assert_eq!((head.argmax, head.candidate, head.margin), (10, 10, 0.0));
    let ids: Vec<u32> = head.top.iter().map(|t| t.0).collect();
    assert_eq!(ids, (1..17).map(|i| 7 * i + 3).collect::<Vec<_>>());
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let Some(web) = web("a_row_does_not_depend_on_its_batch") else { return };
    let (width, vocab) = (20, 3000);
    let (hidden, table) = (normals(1, 40 * width, 1.0), normals(2, vocab * width, 1.0));
    let keys: Vec<u32> = (0..40).flat_map(|r| [r, 1, 2, 3]).collect();
    let job = |rows| HeadJob { rows, width, vocab, top_k: 4, temperature: 1.0, seed: 9, forbid: vec![] };
    let many = run(&web, &job(40), &hidden, &table, &keys);
    for r in [0, 39] {
        let one = run(&web, &job(1), &hidden[r * width..][..width], &table, &keys[4 * r..][..4]);
        let (many, one) = (RowHead::decode(&many[r * 20..][..20], 4), RowHead::decode(&one, 4));
        assert_eq!((many.candidate, many.argmax), (one.candidate, one.argmax));
        close("margin", &[many.margin], &[one.margin], 1e-5, 1e-5);
    }
}

#[test]
fn a_negative_temperature_is_refused() {
    let Some(web) = web("a_negative_temperature_is_refused") else { return };
    let (h, k, mut out) = (web.f32s(&[1.0]), web.u32s(&[0; 4]), web.buf(STATS));
    let job = HeadJob { rows: 1, width: 1, vocab: 1, top_k: 0, temperature: -1.0, seed: 0, forbid: vec![] };
    web.head(&h, &h, At::new(0, 1), &k, &mut out, &job);
    assert!(matches!(web.submit(), Err(WebError::Shape { op: "head", .. })));
}
