//! Soft embeddings: out[r] = scale sum_k w[r, k] table[ids[r, k]], K rows of the table a place, and the gradients
//!
//! ```text
//! d w[r, k] = scale <d[r], table[ids[r, k]]>        d table[ids[r, k]] += scale w[r, k] d[r]
//! ```
//!
//! ids and w are [rows, K], d and out [rows, width]. Weights need not sum to one; an id may stand in a row more than once.
//! A mixture over the whole vocabulary is a matrix product with the table and needs no operation of its own.

use crate::{par, simd};

simd! {
    fn add_scaled(to: &mut [f32], from: &[f32], c: f32) {
        for (t, f) in to.iter_mut().zip(from) {
            *t += f * c;
        }
    }
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        simd::dot(a, b)
    }
}

fn check(op: &str, table: &[f32], ids: &[u32], weights: &[f32], rows: usize, width: usize) {
    assert_eq!(ids.len(), weights.len(), "{op}: an id for every weight");
    assert!(rows == 0 || ids.len() % rows == 0, "{op}: {} ids over {rows} rows", ids.len());
    let have = table.len() / width;
    if let Some(id) = ids.iter().find(|id| **id as usize >= have) {
        panic!("{op}: row {id} outside {have}");
    }
}

/// out[r] = scale sum_k w[r, k] table[ids[r, k]], in the order of k.
pub fn mix(table: &[f32], ids: &[u32], weights: &[f32], scale: f32, out: &mut [f32], width: usize) {
    let rows = out.len() / width;
    check("mix", table, ids, weights, rows, width);
    let k = ids.len() / rows.max(1);
    par::light(out, width, |r, out| {
        out.fill(0.0);
        for (id, w) in ids[r * k..][..k].iter().zip(&weights[r * k..][..k]) {
            add_scaled(out, &table[*id as usize * width..][..width], w * scale);
        }
    });
}

/// d_weights[r, k] = scale <d[r], table[ids[r, k]]>
pub fn mix_weights(table: &[f32], ids: &[u32], d: &[f32], scale: f32, d_weights: &mut [f32], width: usize) {
    let rows = d.len() / width;
    check("mix_weights", table, ids, d_weights, rows, width);
    let k = ids.len() / rows.max(1);
    par::light(d_weights, k.max(1), |r, d_weights| {
        for (to, id) in d_weights.iter_mut().zip(&ids[r * k..][..k]) {
            *to = scale * dot(&d[r * width..][..width], &table[*id as usize * width..][..width]);
        }
    });
}

/// table[ids[r, k]] += scale w[r, k] d[r], in chunks of 64 of the ids ([`super::add_chunks`]).
pub fn mix_table(ids: &[u32], weights: &[f32], d: &[f32], scale: f32, table: &mut [f32], width: usize) {
    let rows = d.len() / width;
    check("mix_table", table, ids, weights, rows, width);
    let k = ids.len() / rows.max(1);
    super::add_chunks(ids, table, width, |i, at, sum| {
        let n = sum.len();
        add_scaled(sum, &d[i / k * width + at..][..n], weights[i] * scale);
    });
}
