//! Attention against the full matrix under every rule, finite differences and candle.

use candle_core::Tensor;
use proptest::prelude::*;

use super::rule::{Base, MaskRule, Place};
use super::{Tiles, attention, attention_backward, reference};
use crate::backend::AttentionShape;
use crate::fixtures::{constant, differences, flat, gradients, leaf, size, values, weighted};
use crate::rng::{Rng, Stream};
use crate::tolerance::{ATTENTION, ATTENTION_BACKWARD, EXACT, FINITE_DIFFERENCE, assert_close};

pub(crate) const RULES: usize = 12;

pub(crate) fn rule(i: usize) -> MaskRule {
    let base = match i {
        0 => Base::Bidirectional,
        1 => Base::Causal,
        2 => Base::BlockCausal,
        3 => Base::BlockDiffusion { causal_clean: false },
        4 => Base::BlockDiffusion { causal_clean: true },
        5 => Base::ComplementaryViews,
        6 => Base::Annealed { r: 0.3, seed: 5, step: 7 },
        7 => Base::Shadow { blocks: false, ahead: 0 },
        8 => Base::Shadow { blocks: true, ahead: 1 },
        9 => return MaskRule { base: Base::Bidirectional, window: Some(5) },
        10 => return MaskRule { base: Base::Shadow { blocks: true, ahead: 0 }, window: Some(30) },
        _ => return MaskRule { base: Base::BlockDiffusion { causal_clean: false }, window: Some(70) },
    };
    base.into()
}

/// A sequence of `n` rows: the rule's noisy streams, then the clean one; `documents` in each.
pub(crate) fn sequence(n: usize, rule: MaskRule, block: u32, documents: usize) -> Vec<Place> {
    let streams = match rule.base {
        Base::BlockDiffusion { .. } | Base::Shadow { .. } => 2,
        Base::ComplementaryViews => 3,
        _ => 1,
    };
    let length = n.div_ceil(streams).max(1);
    (0..n)
        .map(|i| {
            let (stream, j) = (streams - 1 - i / length, i % length);
            let document = j * documents / length;
            let position = (j - (document * length).div_ceil(documents)) as u32;
            Place { position, document: document as u32, block: position / block, stream: stream as u32 }
        })
        .collect()
}

/// Keys of a batch whose sequences hold different numbers of documents if `ragged`.
pub(crate) fn keys(batch: usize, k_len: usize, rule: MaskRule, block: u32, ragged: bool) -> Vec<Place> {
    (0..batch).flat_map(|b| sequence(k_len, rule, block, 1 + if ragged { b } else { 1 })).collect()
}

/// Queries drawn from the keys of their sequence; about one in eight belongs to no document and sees nothing.
pub(crate) fn queries(seed: u64, batch: usize, q_len: usize, keys: &[Place]) -> Vec<Place> {
    let (rng, k_len) = (Rng::new(seed, Stream::Test, 3), keys.len() / batch.max(1));
    (0..batch * q_len)
        .map(|i| {
            let lost = k_len == 0 || rng.below(0, i as u32, 0, 8) == 0;
            if lost {
                return Place { document: 99, ..Place::default() };
            }
            keys[i / q_len * k_len + rng.below(1, i as u32, 0, k_len as u64) as usize]
        })
        .collect()
}

/// A fused projection [queries | pad | keys | values | pad].
pub(crate) fn fused(
    batch: usize,
    len: usize,
    groups: (usize, usize),
    head_dim: usize,
    pad: usize,
) -> AttentionShape {
    let (heads, kv_heads) = (groups.0 * groups.1, groups.1);
    let (qw, kw) = (heads * head_dim, kv_heads * head_dim);
    let stride = qw + 2 * kw + 2 * pad;
    AttentionShape {
        row: 0,
        batch,
        q_len: len,
        k_len: len,
        heads,
        kv_heads,
        head_dim,
        scale: 2.0 / (head_dim as f32).sqrt(),
        q_stride: stride,
        q_col: 0,
        kv_stride: stride,
        k_col: qw + pad,
        v_col: qw + pad + kw,
    }
}

/// Forward pass of the kernel: (out, lse).
fn forward(q: &[f32], kv: &[f32], tiles: &Tiles, s: AttentionShape) -> (Vec<f32>, Vec<f32>) {
    let mut out = vec![f32::NAN; s.batch * s.q_len * s.heads * s.head_dim];
    let mut lse = vec![f32::NAN; s.batch * s.q_len * s.heads];
    attention(q, kv, tiles, &mut out, &mut lse, s);
    (out, lse)
}

fn head_dim() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(2), Just(7), Just(16), Just(64), Just(65)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn tiles_say_what_the_rule_says(
        (q_len, k_len) in (size(), size()),
        batch in 0usize..4,
        which in 0..RULES,
        block in 1u32..40,
        ragged: bool,
        seed: u64,
    ) {
        let rule = rule(which);
        let keys = keys(batch, k_len, rule, block, ragged);
        let queries = queries(seed, batch, q_len, &keys);
        let tiles = Tiles::new(rule, batch, &queries, &keys);
        let mut pairs = 0;
        for b in 0..batch {
            prop_assert_eq!(tiles.of(b).len(), q_len.div_ceil(super::tiles::TILE));
            for (t, tile) in tiles.of(b).iter().enumerate() {
                let rows = super::tiles::TILE.min(q_len - t * super::tiles::TILE);
                let columns: Vec<usize> = tile.runs.iter().flat_map(|r| r.start..r.start + r.len).collect();
                prop_assert_eq!(columns.len(), tile.keys);
                pairs += (rows * tile.keys) as u64;
                for r in 0..rows {
                    let mut seen = vec![false; k_len];
                    for (c, j) in columns.iter().enumerate() {
                        let part = tile.partial.iter().find(|(col, n, _)| (*col..col + n).contains(&c));
                        seen[*j] = part.is_none_or(|(col, _, bits)| bits[r] >> (c - col) & 1 == 1);
                    }
                    let q = queries[b * q_len + t * super::tiles::TILE + r];
                    for j in 0..k_len {
                        prop_assert_eq!(seen[j], rule.allowed(q, keys[b * k_len + j]), "query {} key {}", r, j);
                    }
                }
            }
        }
        prop_assert_eq!(tiles.pairs(batch), pairs);
    }

    #[test]
    fn forward_matches_the_full_matrix(
        (q_len, k_len) in (size(), size()),
        (batch, group, kv_heads) in (0usize..3, 1usize..4, 1usize..3),
        head_dim in head_dim(),
        which in 0..RULES,
        block in 1u32..40,
        (pad, ragged) in (0usize..3, any::<bool>()),
        seed: u64,
    ) {
        let rule = rule(which);
        let (keys, heads) = (keys(batch, k_len, rule, block, ragged), group * kv_heads);
        let queries = queries(seed, batch, q_len, &keys);
        let kw = kv_heads * head_dim;
        let s = AttentionShape {
            row: 0, batch, q_len, k_len, heads, kv_heads, head_dim,
            scale: 2.0 / (head_dim as f32).sqrt(),
            q_stride: heads * head_dim + 2 * pad, q_col: pad,
            // values before keys: no order may be assumed
            kv_stride: 2 * kw + 2 * pad, k_col: kw + pad, v_col: 0,
        };
        let (q, kv) = (values(seed, batch * q_len * s.q_stride), values(seed ^ 1, batch * k_len * s.kv_stride));
        let (out, lse) = forward(&q, &kv, &Tiles::new(rule, batch, &queries, &keys), s);
        let (_, want_lse) = reference::probabilities(&q, &kv, rule, &queries, &keys, s);
        assert_close("out", &out, &reference::attention(&q, &kv, rule, &queries, &keys, s), ATTENTION);
        assert_close("lse", &lse, &want_lse, ATTENTION);
    }

    /// Sequences of different lengths, rules and keys, one call each into shared buffers: each to the bit as alone, and
    /// nothing else is written.
    #[test]
    fn sequences_of_one_forward_share_buffers(
        sequences in prop::collection::vec((1usize..40, size(), 0..RULES, 1u32..9), 1..5),
        (group, kv_heads, head_dim) in (1usize..3, 1usize..3, head_dim()),
        gap in 0usize..3,
        seed: u64,
    ) {
        let (heads, kw) = (group * kv_heads, kv_heads * head_dim);
        let rows: usize = sequences.iter().map(|s| s.0 + gap).sum();
        let (width, stride) = (heads * head_dim, heads * head_dim + 3);
        let q = values(seed, rows * stride);
        let (mut out, mut lse) = (vec![7f32; rows * width], vec![7f32; rows * heads]);
        let mut row = 0;
        for (i, (q_len, k_len, which, block)) in sequences.into_iter().enumerate() {
            let (rule, seed) = (rule(which), seed ^ i as u64);
            let keys = keys(1, k_len, rule, block, false);
            let tiles = Tiles::new(rule, 1, &queries(seed, 1, q_len, &keys), &keys);
            let kv = values(seed ^ 1, k_len * 2 * kw);
            let s = AttentionShape {
                row, batch: 1, q_len, k_len, heads, kv_heads, head_dim, scale: 0.3, q_stride: stride, q_col: 2,
                kv_stride: 2 * kw, k_col: 0, v_col: kw,
            };
            attention(&q, &kv, &tiles, &mut out, &mut lse, s);
            let (alone, alone_lse) = forward(&q[row * stride..], &kv, &tiles, AttentionShape { row: 0, ..s });
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            prop_assert_eq!(bits(&out[row * width..][..q_len * width]), bits(&alone));
            prop_assert_eq!(bits(&lse[row * heads..][..q_len * heads]), bits(&alone_lse));
            prop_assert!(out[(row + q_len) * width..].iter().all(|x| *x == 7.0));
            prop_assert!(lse[(row + q_len) * heads..].iter().all(|x| *x == 7.0));
            row += q_len + gap;
        }
    }

    #[test]
    fn backward_matches_the_full_matrix(
        len in size(),
        (batch, group, kv_heads) in (0usize..3, 1usize..4, 1usize..3),
        head_dim in head_dim(),
        which in 0..RULES,
        block in 1u32..40,
        (pad, ragged, shuffled) in (0usize..3, any::<bool>(), any::<bool>()),
        seed: u64,
    ) {
        let rule = rule(which);
        let keys = keys(batch, len, rule, block, ragged);
        // shuffled queries include some that see nothing
        let queries = if shuffled { queries(seed, batch, len, &keys) } else { keys.clone() };
        let s = fused(batch, len, (group, kv_heads), head_dim, pad);
        let (qkv, d_out) = (values(seed, batch * len * s.q_stride), values(seed ^ 1, batch * len * s.heads * head_dim));
        let tiles = Tiles::new(rule, batch, &queries, &keys);
        let (out, lse) = forward(&qkv, &qkv, &tiles, s);
        let mut d = vec![f32::NAN; qkv.len()];
        attention_backward(&d_out, &qkv, &out, &lse, &tiles, &mut d, s);
        let (dq, dkv) = reference::attention_backward(&d_out, &qkv, &qkv, rule, &queries, &keys, s);
        for (i, row) in d.chunks_exact_mut(s.q_stride.max(1)).enumerate() {
            for (c, x) in row.iter_mut().enumerate() {
                let used = c < s.heads * head_dim || (s.k_col..s.v_col + kv_heads * head_dim).contains(&c);
                prop_assert_eq!(x.is_nan(), !used, "row {} column {}", i, c);
                *x = if used { *x } else { 0.0 };
            }
        }
        let want: Vec<f32> = dq.iter().zip(&dkv).map(|(a, b)| a + b).collect();
        assert_close("d_qkv", &d, &want, ATTENTION_BACKWARD);
    }
}

#[test]
fn gradients_are_the_slopes_under_every_rule() {
    for which in 0..RULES {
        let (rule, s) = (rule(which), fused(2, 7, (2, 2), 2, 1));
        let keys = keys(2, 7, rule, 2, true);
        let mut queries = keys.clone();
        queries[3].document = 99;
        let (qkv, d_out) = (values(which as u64, 14 * s.q_stride), values(50, 14 * s.heads * s.head_dim));
        let slope =
            differences(&qkv, |x| weighted(&reference::attention(x, x, rule, &queries, &keys, s), &d_out));
        let tiles = Tiles::new(rule, 2, &queries, &keys);
        let (out, lse) = forward(&qkv, &qkv, &tiles, s);
        let mut d = vec![0f32; qkv.len()];
        attention_backward(&d_out, &qkv, &out, &lse, &tiles, &mut d, s);
        assert_close(&format!("{rule:?}"), &d, &slope, FINITE_DIFFERENCE);
    }
}

/// One head of one sequence from basic candle operations; a query without keys yields zeros.
fn head(q: &Tensor, k: &Tensor, v: &Tensor, allowed: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    let hidden = ((allowed - 1.0)? * 1e9)?;
    let z = ((q.matmul(&k.t()?)? * scale)? + hidden)?;
    let e = z.broadcast_sub(&z.max_keepdim(1)?.detach())?.exp()?.mul(allowed)?;
    // e sums to at least one unless nothing is seen
    let sum = e.sum_keepdim(1)?.maximum(1e-9)?;
    e.broadcast_div(&sum)?.matmul(v)
}

#[test]
fn matches_candle_under_every_rule() -> candle_core::Result<()> {
    for which in 0..RULES {
        let (batch, len, hd) = (2, 69, 8);
        let (rule, s) = (rule(which), fused(batch, len, (2, 2), hd, 0));
        let keys = keys(batch, len, rule, 4, true);
        let mut queries = keys.clone();
        queries[len + 1].document = 99;
        let (qkv, d_out) =
            (values(which as u64, batch * len * s.q_stride), values(60, batch * len * s.heads * hd));
        let x = leaf(&qkv, &[batch * len, s.q_stride]);
        let mut sequences = vec![];
        for b in 0..batch {
            let x = x.narrow(0, b * len, len)?;
            let bit = |i: usize, j: usize| rule.allowed(queries[b * len + i], keys[b * len + j]) as u8 as f32;
            let allowed: Vec<f32> = (0..len * len).map(|e| bit(e / len, e % len)).collect();
            let allowed = constant(&allowed, &[len, len]);
            let part = |col: usize, h: usize| x.narrow(1, col + h * hd, hd);
            let heads = (0..s.heads).map(|h| {
                let kh = h * s.kv_heads / s.heads;
                head(&part(0, h)?, &part(s.k_col, kh)?, &part(s.v_col, kh)?, &allowed, s.scale as f64)
            });
            sequences.push(Tensor::cat(&heads.collect::<candle_core::Result<Vec<_>>>()?, 1)?);
        }
        let y = Tensor::cat(&sequences, 0)?;
        let tiles = Tiles::new(rule, batch, &queries, &keys);
        let (out, lse) = forward(&qkv, &qkv, &tiles, s);
        let mut d = vec![0f32; qkv.len()];
        attention_backward(&d_out, &qkv, &out, &lse, &tiles, &mut d, s);
        assert_close(&format!("out, {rule:?}"), &out, &flat(&y), ATTENTION);
        assert_close(&format!("d, {rule:?}"), &d, &gradients(&y, &d_out, &[&x])?[0], ATTENTION_BACKWARD);
    }
    Ok(())
}

#[test]
fn a_query_that_sees_nothing_yields_zeros_and_no_gradient() {
    let s = fused(1, 3, (1, 1), 2, 0);
    let keys = sequence(3, Base::Causal.into(), 1, 1);
    let mut queries = keys.clone();
    queries[1].document = 7;
    let tiles = Tiles::new(Base::Causal.into(), 1, &queries, &keys);
    let qkv = values(1, 3 * s.q_stride);
    let (out, lse) = forward(&qkv, &qkv, &tiles, s);
    assert_eq!((&out[2..4], lse[1]), (&[0f32, 0.0][..], f32::NEG_INFINITY));
    let mut d = vec![f32::NAN; qkv.len()];
    attention_backward(&[1.0; 6], &qkv, &out, &lse, &tiles, &mut d, s);
    assert_close("dq", &d[s.q_stride..][..2], &[0f32; 2], EXACT);
    assert!(d.iter().all(|x| x.is_finite()));
}

/// Large scores: the softmax is shifted by its maximum, nothing overflows.
#[test]
fn large_scores_do_not_overflow() {
    let mut s = fused(1, 5, (1, 1), 2, 0);
    s.scale = 1e4;
    let places = sequence(5, Base::Bidirectional.into(), 1, 1);
    let tiles = Tiles::new(Base::Bidirectional.into(), 1, &places, &places);
    let qkv = values(3, 5 * s.q_stride);
    let (out, lse) = forward(&qkv, &qkv, &tiles, s);
    let want = reference::attention(&qkv, &qkv, Base::Bidirectional.into(), &places, &places, s);
    assert_close("out", &out, &want, ATTENTION.times(100.0));
    let mut d = vec![f32::NAN; qkv.len()];
    attention_backward(&[1.0; 10], &qkv, &out, &lse, &tiles, &mut d, s);
    assert!(d.iter().chain(&lse).all(|x| x.is_finite()));
}
