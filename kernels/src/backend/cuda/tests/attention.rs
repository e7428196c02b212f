//! Attention under every rule, forward and backward, with the inputs of the operation's own tests.

use proptest::prelude::*;

use super::super::{Cuda, Device};
use super::{check, on_every_device};
use crate::attention::reference;
use crate::attention::rule::{Base, MaskRule, Place};
use crate::attention::tests::{RULES, fused, keys, queries, rule, sequence};
use crate::backend::{AttentionShape, Backend, Train};
use crate::fixtures::{size, values};
use crate::tolerance::{ATTENTION, ATTENTION_BACKWARD, EXACT, assert_close};

on_every_device!(
    forward_matches_under_every_rule,
    forward_matches_for_large_heads,
    backward_matches_under_every_rule,
    backward_matches_for_large_heads,
    a_query_that_sees_nothing_yields_zeros,
    large_scores_do_not_overflow,
);

fn head_dim() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(2), Just(7), Just(16), Just(32), Just(64), Just(65), Just(96), Just(128)]
}

/// Those of the kernels that take rows in slices of 64 columns; whole slices and parts, 16-byte accesses and single ones.
fn large_head_dim() -> impl Strategy<Value = usize> {
    prop_oneof![Just(129usize), Just(160), Just(191), Just(192), Just(194), Just(255), Just(256), Just(256)]
}

fn forward_matches_under_every_rule<D: Device>(cuda: &Cuda<D>) {
    forward_matches(cuda, 48, head_dim());
}

fn forward_matches_for_large_heads<D: Device>(cuda: &Cuda<D>) {
    forward_matches(cuda, 32, large_head_dim());
}

fn forward_matches<D: Device>(cuda: &Cuda<D>, cases: u32, head_dim: impl Strategy<Value = usize>) {
    let sizes = (size(), size(), 0usize..3, 1usize..4, 1usize..3, head_dim);
    let layout = (0..RULES, 1u32..40, 0usize..5, any::<bool>());
    check(cases, (sizes, layout, any::<u64>()), |(sizes, (which, block, pad, ragged), seed)| {
        let (q_len, k_len, batch, group, kv_heads, head_dim) = sizes;
        let (rule, heads, row) = (rule(which), group * kv_heads, seed as usize % 3);
        let keys = keys(batch, k_len, rule, block, ragged);
        let queries = queries(seed, batch, q_len, &keys);
        let kw = kv_heads * head_dim;
        let s = AttentionShape {
            row,
            batch,
            q_len,
            k_len,
            heads,
            kv_heads,
            head_dim,
            scale: 2.0 / (head_dim as f32).sqrt(),
            q_stride: heads * head_dim + 2 * pad,
            q_col: pad,
            // values before keys: no order may be assumed
            kv_stride: 2 * kw + 2 * pad,
            k_col: kw + pad,
            v_col: 0,
        };
        let whole = values(seed, (row + batch * q_len) * s.q_stride);
        let (q, kv) = (&whole[row * s.q_stride..], values(seed ^ 1, batch * k_len * s.kv_stride));
        let (gq, gkv) = (cuda.f32s(&whole), cuda.f32s(&kv));
        let mask = cuda.mask(rule, batch, &queries, &keys);
        let want = reference::attention(q, &kv, rule, &queries, &keys, s);
        let (_, want_lse) = reference::probabilities(q, &kv, rule, &queries, &keys, s);
        // the rows before are left alone
        let (before, above) = (row * heads * head_dim, row * heads);
        let mut out = cuda.f32s(&[vec![7.0; before], vec![f32::NAN; want.len()]].concat());
        let mut lse = cuda.f32s(&[vec![7.0; above], vec![f32::NAN; want_lse.len()]].concat());
        cuda.attention(&gq, &gkv, &mask, &mut out, &mut lse, s);
        let (out, lse) = (cuda.all(&out), cuda.all(&lse));
        assert_close("out", &out[before..], &want, ATTENTION);
        assert_close("lse", &lse[above..], &want_lse, ATTENTION);
        assert!(out[..before].iter().chain(&lse[..above]).all(|x| *x == 7.0));
    });
}

/// Forward, then backward; (out, d_qkv).
pub(super) fn both<D: Device>(
    cuda: &Cuda<D>,
    qkv: &[f32],
    d_out: &[f32],
    rule: MaskRule,
    queries: &[Place],
    keys: &[Place],
    s: AttentionShape,
) -> (Vec<f32>, Vec<f32>) {
    let (g, gd) = (cuda.f32s(qkv), cuda.f32s(d_out));
    let mask = cuda.mask(rule, s.batch, queries, keys);
    let mut out = cuda.f32s(&vec![f32::NAN; d_out.len()]);
    let mut lse = cuda.f32s(&vec![f32::NAN; s.batch * s.q_len * s.heads]);
    let mut d = cuda.f32s(&vec![f32::NAN; qkv.len()]);
    cuda.attention(&g, &g, &mask, &mut out, &mut lse, s);
    cuda.attention_backward(&gd, &g, &out, &lse, &mask, &mut d, s);
    (cuda.all(&out), cuda.all(&d))
}

fn backward_matches_under_every_rule<D: Device>(cuda: &Cuda<D>) {
    backward_matches(cuda, 48, head_dim());
}

fn backward_matches_for_large_heads<D: Device>(cuda: &Cuda<D>) {
    backward_matches(cuda, 32, large_head_dim());
}

fn backward_matches<D: Device>(cuda: &Cuda<D>, cases: u32, head_dim: impl Strategy<Value = usize>) {
    let sizes = (size(), 0usize..3, 1usize..4, 1usize..3, head_dim);
    let layout = (0..RULES, 1u32..40, 0usize..5, any::<bool>(), any::<bool>());
    check(cases, (sizes, layout, any::<u64>()), |(sizes, (which, block, pad, ragged, shuffled), seed)| {
        let (len, batch, group, kv_heads, head_dim) = sizes;
        let rule = rule(which);
        let keys = keys(batch, len, rule, block, ragged);
        // shuffled queries include some that see nothing
        let queries = if shuffled { queries(seed, batch, len, &keys) } else { keys.clone() };
        let s = fused(batch, len, (group, kv_heads), head_dim, pad);
        let qkv = values(seed, batch * len * s.q_stride);
        let d_out = values(seed ^ 1, batch * len * s.heads * head_dim);
        let (_, mut d) = both(cuda, &qkv, &d_out, rule, &queries, &keys, s);
        for row in d.chunks_exact_mut(s.q_stride.max(1)) {
            for (c, x) in row.iter_mut().enumerate() {
                let used = c < s.heads * head_dim || (s.k_col..s.v_col + kv_heads * head_dim).contains(&c);
                assert_eq!(x.is_nan(), !used, "column {c}");
                *x = if used { *x } else { 0.0 };
            }
        }
        let (dq, dkv) = reference::attention_backward(&d_out, &qkv, &qkv, rule, &queries, &keys, s);
        let want: Vec<f32> = dq.iter().zip(&dkv).map(|(a, b)| a + b).collect();
        assert_close("d_qkv", &d, &want, ATTENTION_BACKWARD);
    });
}

fn a_query_that_sees_nothing_yields_zeros<D: Device>(cuda: &Cuda<D>) {
    for head_dim in [2, 256] {
        let s = fused(1, 3, (1, 1), head_dim, 0);
        let rule = Base::Causal.into();
        let keys = sequence(3, rule, 1, 1);
        let mut queries = keys.clone();
        queries[1].document = 7;
        let qkv = values(1, 3 * s.q_stride);
        let (out, d) = both(cuda, &qkv, &vec![1.0; 3 * head_dim], rule, &queries, &keys, s);
        assert_close("out", &out[head_dim..2 * head_dim], &vec![0f32; head_dim], EXACT);
        assert_close("dq", &d[s.q_stride..][..head_dim], &vec![0f32; head_dim], EXACT);
        assert!(d.iter().all(|x| x.is_finite()));
    }
}

fn large_scores_do_not_overflow<D: Device>(cuda: &Cuda<D>) {
    for head_dim in [2, 256] {
        let mut s = fused(1, 5, (1, 1), head_dim, 0);
        s.scale = 1e4;
        let rule = Base::Bidirectional.into();
        let places = sequence(5, rule, 1, 1);
        let qkv = values(3, 5 * s.q_stride);
        let (out, d) = both(cuda, &qkv, &vec![1.0; 5 * head_dim], rule, &places, &places, s);
        let want = reference::attention(&qkv, &qkv, rule, &places, &places, s);
        assert_close("out", &out, &want, ATTENTION.times(100.0));
        assert!(d.iter().all(|x| x.is_finite()));
    }
}
