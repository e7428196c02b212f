//! Embed, norm, bias, linear, rope, attention, gated units and GELU against the f64 references.
//!
//! Tolerances |a - b| <= abs + rel |ref|: copies exact; norm, rope and activations up to 4e-6, 5e-6; sums of k products
//! 1e-6 sqrt k (operands of unit variance), 1e-5; attention 5e-6, 2e-5, above 160 values a head, whose scores are longer
//! sums, 5e-6 sqrt(head_dim / 64).

use super::{close, normals, web};
use crate::attention::rule::{Base, MaskRule, Place};
use crate::backend::{At, AttentionShape, Backend, RopeShape};
use crate::glu::Gate;
use crate::norm::{NormKind, NormShape};
use crate::{attention, embed, gelu, gemm, glu, norm, rope};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Runs `property` over `cases` draws of `strategy`.
fn check<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&strategy, |value| {
        property(value);
        Ok(())
    });
    run.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn embed_and_gather_copy_rows() {
    let Some(web) = web("embed_and_gather_copy_rows") else { return };
    for (rows, width, table_rows) in [(0, 3, 2), (1, 1, 1), (5, 7, 4), (33, 96, 50), (300, 257, 9)] {
        let mut data = vec![0.0; 64];
        data.extend(normals(1, table_rows * width, 1.0));
        let table = At::new(64, table_rows * width);
        let ids: Vec<u32> = (0..rows).map(|r| (r * 7 % table_rows) as u32).collect();
        let (params, gpu_ids) = (web.f32s(&data), web.u32s(&ids));
        let want: Vec<f32> =
            ids.iter().flat_map(|id| &data[64 + *id as usize * width..][..width]).copied().collect();
        let mut out = web.buf(rows * width);
        web.embed(&gpu_ids, &params, table, 1.0, &mut out, rows, width);
        assert_eq!(web.all(&out), want);
        web.embed(&gpu_ids, &params, table, 8.0, &mut out, rows, width);
        assert_eq!(web.all(&out), want.iter().map(|x| 8.0 * x).collect::<Vec<_>>());
        let (x, mut out) = (web.f32s(&data[64..]), web.buf(rows * width));
        web.gather(&x, &gpu_ids, &mut out, rows, width);
        assert_eq!(web.all(&out), want);
    }
}

#[test]
fn mixtures_of_rows_match() {
    let Some(web) = web("mixtures_of_rows_match") else { return };
    for (rows, k, width, table_rows) in
        [(0, 2, 3, 2), (1, 0, 5, 1), (5, 1, 7, 4), (33, 4, 96, 50), (70, 9, 65, 9)]
    {
        let mut data = vec![0.0; 64];
        data.extend(normals(1, table_rows * width, 1.0));
        let table = At::new(64, table_rows * width);
        let ids: Vec<u32> = (0..rows * k).map(|r| (r * 7 % table_rows) as u32).collect();
        let weights = normals(2, rows * k, 1.0);
        let (params, gpu_ids, gpu_weights) = (web.f32s(&data), web.u32s(&ids), web.f32s(&weights));
        let mut out = web.buf(rows * width);
        web.embed_mix(&gpu_ids, &gpu_weights, &params, table, 0.5, &mut out, rows, k, width);
        let want = embed::reference::mix(&data[64..], &ids, &weights, 0.5, rows, width);
        close("mix", &web.all(&out), &want, 2e-6, 1e-5);
    }
}

#[test]
fn norms_match() {
    let Some(web) = web("norms_match") else { return };
    let shapes = (0..40usize, 1..4usize, 1..200usize, 0..3usize, any::<[bool; 3]>(), any::<u64>());
    check(40, shapes, |(rows, groups, width, pad, [layer, bias, accumulate], seed)| {
        let s = NormShape {
            kind: if layer { NormKind::Layer } else { NormKind::Rms },
            rows,
            groups,
            width,
            eps: 1e-3,
            x_stride: groups * width + pad,
            x_col: pad,
            y_stride: groups * width + 2 * pad,
            y_col: pad,
        };
        let x = normals(seed, rows * s.x_stride, 3.0);
        let mut w = normals(seed ^ 1, width, 1.0);
        w.resize(width.next_multiple_of(64), 0.0);
        let at = |offset| At::new(offset, width);
        let b = at(w.len());
        w.extend(normals(seed ^ 2, width, 1.0));
        let mut want = normals(seed ^ 3, rows * s.y_stride, 1.0);
        let mut gy = web.f32s(&want);
        norm::reference::norm(
            &x,
            &w[..width],
            if bias { &w[b.offset..] } else { &[] },
            &mut want,
            s,
            accumulate,
        );
        let (gx, gw) = (web.f32s(&x), web.f32s(&w));
        web.norm(&gx, &gw, at(0), bias.then_some(b), &mut gy, s, accumulate);
        close("norm", &web.all(&gy), &want, 4e-6, 5e-6);
    });
}

#[test]
fn biases_match() {
    let Some(web) = web("biases_match") else { return };
    check(12, (0..40usize, 1..300usize, any::<u64>()), |(rows, width, seed)| {
        let (b, y) = (normals(seed, width, 1.0), normals(seed ^ 1, rows * width, 1.0));
        let want: Vec<f32> = y.iter().enumerate().map(|(i, y)| y + b[i % width]).collect();
        let (gb, mut gy) = (web.f32s(&b), web.f32s(&y));
        web.add_bias(&mut gy, &gb, At::new(0, width), rows, width);
        assert_eq!(web.all(&gy), want);
    });
}

fn linear(web: &super::Web, m: usize, n: usize, k: usize, accumulate: bool, seed: u64) {
    let (x, y) = (normals(seed, m * k, 1.0), normals(seed ^ 2, m * n, 1.0));
    let mut params = vec![9.0; 64];
    params.extend(normals(seed ^ 1, n * k, 1.0));
    let mut want = y.clone();
    let (a, b) = (gemm::Mat::rows(&x, k), gemm::Mat::rows(&params[64..], k).t());
    gemm::reference::gemm(m, n, k, 1.0, a, b, &mut want, n, accumulate);
    let (gx, gp, mut gy) = (web.f32s(&x), web.f32s(&params), web.f32s(&y));
    web.linear(&gx, &gp, At::new(64, n * k), &mut gy, m, n, k, accumulate);
    let what = format!("linear {m} {n} {k} {accumulate}");
    close(&what, &web.all(&gy), &want, 1e-6 * (k as f32).sqrt(), 1e-5);
}

#[test]
fn linear_matches_on_ragged_shapes() {
    let Some(web) = web("linear_matches_on_ragged_shapes") else { return };
    for (m, n, k) in [(0, 5, 4), (1, 0, 4), (3, 2, 0), (1, 1, 1), (8, 64, 32), (64, 96, 48), (700, 700, 68)] {
        linear(&web, m, n, k, false, 7);
        linear(&web, m, n, k, true, 8);
    }
    check(40, (0..80usize, 0..150usize, 0..140usize, any::<bool>(), any::<u64>()), |(m, n, k, acc, seed)| {
        linear(&web, m, n, k, acc, seed);
    });
}

#[test]
fn activations_match() {
    let Some(web) = web("activations_match") else { return };
    check(16, (0..30usize, 1..300usize, any::<u64>()), |(rows, width, seed)| {
        let mut x = normals(seed, 2 * rows * width, 4.0);
        // far tails
        x.iter_mut().step_by(13).for_each(|v| *v *= 50.0);
        let gx = web.f32s(&x);
        for gate in [Gate::Silu, Gate::Gelu] {
            let mut want = vec![0.0; rows * width];
            glu::reference::glu(gate, &x, &mut want, width);
            let mut gy = web.buf(rows * width);
            web.glu(gate, &gx, &mut gy, rows, width);
            close("glu", &web.all(&gy), &want, 4e-6, 5e-6);
        }
        let want: Vec<f32> = x.iter().map(|x| gelu::reference::value(*x as f64) as f32).collect();
        let mut gy = web.buf(x.len());
        web.gelu(&gx, &mut gy, x.len());
        close("gelu", &web.all(&gy), &want, 4e-6, 5e-6);
    });
}

#[test]
fn more_values_than_one_dimension_of_workgroups_holds() {
    let Some(web) = web("more_values_than_one_dimension_of_workgroups_holds") else { return };
    let (rows, width) = (66_000, 257);
    let (x, ids, mut y) = (web.f32s(&vec![1.0; width]), web.ids(rows), web.buf(rows * width));
    web.gather(&x, &ids, &mut y, rows, width);
    assert!(web.all(&y).iter().all(|v| *v == 1.0));
    let (x, one) = (web.buf(70_000), web.f32s(&[1.0]));
    let mut y = web.f32s(&vec![1.0; 70_000]);
    let s = NormShape::packed(NormKind::Rms, 70_000, 1, 1e-5);
    web.norm(&x, &one, At::new(0, 1), None, &mut y, s, false);
    assert!(web.all(&y).iter().all(|v| *v == 0.0));
}

#[test]
fn rope_matches_far_out() {
    let Some(web) = web("rope_matches_far_out") else { return };
    let strategy = (0..20usize, 1..5usize, 1..40usize, 0..3usize, 0..70_000u32, any::<u64>());
    check(24, strategy, |(rows, heads, half, col, start, seed)| {
        let stride = col + heads * 2 * half + 1;
        let theta = [10_000.0, 500_000.0, 100.0][seed as usize % 3];
        let shape = RopeShape { rows, stride, col, heads, head_dim: 2 * half, theta };
        let mut x = normals(seed, rows * stride, 1.0);
        let positions: Vec<u32> = (0..rows as u32).map(|r| start + r * 3).collect();
        let (mut gx, gp) = (web.f32s(&x), web.u32s(&positions));
        web.rope(&mut gx, &gp, shape);
        rope::reference::rope(&mut x, &positions, shape, 1.0);
        close("rope", &web.all(&gx), &x, 2e-6, 5e-6);
    });
}

fn rules() -> impl Strategy<Value = MaskRule> {
    let base = prop_oneof![
        Just(Base::Bidirectional),
        Just(Base::Causal),
        Just(Base::BlockCausal),
        any::<bool>().prop_map(|causal_clean| Base::BlockDiffusion { causal_clean }),
        Just(Base::ComplementaryViews),
        (any::<bool>(), 0..2u32).prop_map(|(blocks, ahead)| Base::Shadow { blocks, ahead }),
        (prop_oneof![Just(0.0f32), Just(1.0), 0.0..1.0f32], any::<u64>(), any::<u32>())
            .prop_map(|(r, seed, step)| Base::Annealed { r, seed, step }),
    ];
    (base, prop_oneof![3 => Just(None), 1 => (0..40u32).prop_map(Some)])
        .prop_map(|(base, window)| MaskRule { base, window })
}

/// Places of `n` rows: documents of `document`, blocks of `block`, streams dealt by position in the row set.
fn places(n: usize, document: u32, block: u32, streams: u32, start: u32) -> Vec<Place> {
    (0..n as u32)
        .map(|i| Place {
            position: start + i / streams % document,
            document: i / streams / document,
            block: (start + i / streams % document) / block,
            stream: i % streams,
        })
        .collect()
}

#[test]
fn attention_matches_under_every_rule() {
    let Some(web) = web("attention_matches_under_every_rule") else { return };
    let head =
        (1..40usize, any::<bool>()).prop_map(|(d, aligned)| (if aligned { 4 * d } else { d }, aligned));
    attention_matches(&web, 60, head);
}

/// Gemma's 256 among them.
#[test]
fn attention_matches_for_large_heads() {
    let Some(web) = web("attention_matches_for_large_heads") else { return };
    let head_dim = prop_oneof![129..300usize, Just(192), Just(256)];
    let head =
        (head_dim, any::<bool>()).prop_map(|(d, aligned)| (if aligned { d / 4 * 4 } else { d }, aligned));
    attention_matches(&web, 16, head);
}

/// `head` gives head_dim and whether rows allow 16-byte accesses.
fn attention_matches(web: &super::Web, cases: u32, head: impl Strategy<Value = (usize, bool)>) {
    let sizes = (0..3usize, 0..50usize, 0..150usize, 1..3usize, 1..4usize, head);
    let layout = (1..90u32, 1..20u32, 1..4u32, 0..3usize);
    check(cases, (rules(), sizes, layout, any::<u64>()), |(rule, sizes, layout, seed)| {
        let (batch, q_len, k_len, kv_heads, grouping, (head_dim, aligned)) = sizes;
        let (document, block, streams, gap) = layout;
        let row = seed as usize % 3;
        let gap = if aligned { 4 * gap } else { gap };
        let heads = kv_heads * grouping;
        let shape = AttentionShape {
            row,
            batch,
            q_len,
            k_len,
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            q_stride: heads * head_dim + gap,
            q_col: gap,
            kv_stride: 2 * kv_heads * head_dim + 2 * gap,
            k_col: gap,
            v_col: kv_heads * head_dim + 2 * gap,
        };
        let whole = normals(seed, (row + batch * q_len) * shape.q_stride, 1.5);
        let q = &whole[row * shape.q_stride..];
        let kv = normals(seed ^ 1, batch * k_len * shape.kv_stride, 1.5);
        let queries: Vec<Place> =
            (0..batch).flat_map(|b| places(q_len, document, block, streams, b as u32)).collect();
        let keys: Vec<Place> =
            (0..batch).flat_map(|b| places(k_len, document, block, streams, b as u32)).collect();
        let want = attention::reference::attention(q, &kv, rule, &queries, &keys, shape);
        let (_, want_lse) = attention::reference::probabilities(q, &kv, rule, &queries, &keys, shape);
        let want_lse: Vec<f32> = want_lse.iter().map(|x| *x as f32).collect();

        let (gq, gkv) = (web.f32s(&whole), web.f32s(&kv));
        let mask = web.mask(rule, batch, &queries, &keys);
        // leftovers must be overwritten, and the rows before left alone
        let (before, above) = (row * heads * head_dim, row * heads);
        let mut out = web.f32s(&vec![7.0; before + want.len()]);
        let mut lse = web.f32s(&vec![7.0; above + want_lse.len()]);
        web.attention(&gq, &gkv, &mask, &mut out, &mut lse, shape);
        let what = format!("attention {rule:?} {shape:?}");
        let (out, lse) = (web.all(&out), web.all(&lse));
        let abs = if head_dim > 160 { 5e-6 * (head_dim as f32 / 64.0).sqrt() } else { 5e-6 };
        close(&what, &out[before..], &want, abs, 2e-5);
        close(&what, &lse[above..], &want_lse, abs, 2e-5);
        assert!(out[..before].iter().chain(&lse[..above]).all(|x| *x == 7.0), "{what}");
    });
}
