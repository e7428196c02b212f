//! Rotary position embedding (Su et al., arXiv 2104.09864), half-split layout: component i pairs with
//! i + d/2, angle = position * theta^(-2i/d). Heads start at column `col` of rows [rows, stride].
//!
//! The backward pass is the rotation by the opposite angle.

pub mod reference;

use std::sync::{Arc, Mutex};

use crate::{backend::RopeShape, par, simd};

simd! {
    fn rotate(row: &mut [f32], sin: &[f32], cos: &[f32], half: usize, sign: f32) {
        for head in row.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for i in 0..half {
                let (x, y, s) = (a[i], b[i], sign * sin[i]);
                a[i] = x * cos[i] - y * s;
                b[i] = y * cos[i] + x * s;
            }
        }
    }
}

/// Sines and cosines of one list of positions.
struct Table {
    positions: Vec<u32>,
    head_dim: usize,
    theta: f32,
    /// [entry][half]
    sin: Vec<f32>,
    cos: Vec<f32>,
    /// of every row
    entry: Vec<usize>,
}

/// Tables in use: every layer rotates the same rows, and sliding layers have a base of their own.
static KEPT: Mutex<[Option<Arc<Table>>; 2]> = Mutex::new([None, None]);

/// The table of these positions, computed once for all layers of a forward (and its backward pass).
fn shared(positions: &[u32], shape: RopeShape) -> Arc<Table> {
    let fits =
        |t: &Arc<Table>| t.head_dim == shape.head_dim && t.theta == shape.theta && t.positions == positions;
    let mut kept = KEPT.lock().unwrap_or_else(|e| e.into_inner());
    let at = kept.iter().position(|t| t.as_ref().is_some_and(fits));
    let table = at.and_then(|i| kept[i].take()).unwrap_or_else(|| Arc::new(table(positions, shape)));
    // the one used last stands first
    if at != Some(0) {
        kept.swap(0, 1);
    }
    kept[0] = Some(table.clone());
    table
}

/// Sines and cosines in f64, rounded once: one entry per position where rows share positions (a batch), one per row
/// where few rows stand far apart or far out (a block behind a cache).
fn table(positions: &[u32], shape: RopeShape) -> Table {
    let first = positions.iter().min().copied().unwrap_or(0);
    let last = positions.iter().max().copied().unwrap_or(0);
    let (distinct, entry): (Vec<u32>, Vec<usize>) = if (last - first) as usize <= positions.len() {
        ((first..=last).collect(), positions.iter().map(|p| (p - first) as usize).collect())
    } else {
        (positions.to_vec(), (0..positions.len()).collect())
    };
    let freq: Vec<f64> = (0..shape.head_dim / 2)
        .map(|i| (shape.theta as f64).powf(-2.0 * i as f64 / shape.head_dim as f64))
        .collect();
    let angles = distinct.iter().flat_map(|p| freq.iter().map(move |f| *p as f64 * f));
    let (sin, cos) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
    Table { positions: positions.to_vec(), head_dim: shape.head_dim, theta: shape.theta, sin, cos, entry }
}

/// Rotates `shape.heads` heads of every row in place; `inverse` rotates back (the backward pass).
pub fn rope(x: &mut [f32], positions: &[u32], shape: RopeShape, inverse: bool) {
    assert!(x.len() >= shape.rows * shape.stride && positions.len() >= shape.rows, "rope: short buffers");
    let half = shape.head_dim / 2;
    let table = shared(&positions[..shape.rows], shape);
    let sign = if inverse { -1.0 } else { 1.0 };
    let chunk = 64;
    par::light(&mut x[..shape.rows * shape.stride], chunk * shape.stride, |i, rows| {
        for (r, row) in rows.chunks_exact_mut(shape.stride).enumerate() {
            let at = table.entry[i * chunk + r] * half;
            let part = &mut row[shape.col..][..shape.heads * shape.head_dim];
            rotate(part, &table.sin[at..at + half], &table.cos[at..at + half], half, sign);
        }
    });
}

#[cfg(test)]
mod tests;
