//! Rotary position embedding (Su et al., arXiv 2104.09864), half-split layout: component i pairs with
//! i + d/2, angle = position * theta^(-2i/d). Heads start at column `col` of rows [rows, stride].
//!
//! The backward pass is the rotation by the opposite angle.

pub mod reference;

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

/// Sines and cosines of positions 0..=largest, [position][half], in f64 rounded once.
fn table(positions: &[u32], shape: RopeShape) -> (Vec<f32>, Vec<f32>) {
    let half = shape.head_dim / 2;
    let n = positions.iter().max().map_or(0, |m| *m as usize + 1);
    let freq: Vec<f64> =
        (0..half).map(|i| (shape.theta as f64).powf(-2.0 * i as f64 / shape.head_dim as f64)).collect();
    let angles = (0..n).flat_map(|p| freq.iter().map(move |f| p as f64 * f));
    angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip()
}

/// Rotates `shape.heads` heads of every row in place; `inverse` rotates back (the backward pass).
pub fn rope(x: &mut [f32], positions: &[u32], shape: RopeShape, inverse: bool) {
    assert!(x.len() >= shape.rows * shape.stride && positions.len() >= shape.rows, "rope: short buffers");
    let half = shape.head_dim / 2;
    let (sin, cos) = table(&positions[..shape.rows], shape);
    let sign = if inverse { -1.0 } else { 1.0 };
    let chunk = 64;
    par::chunks(&mut x[..shape.rows * shape.stride], chunk * shape.stride, |i, rows| {
        for (r, row) in rows.chunks_exact_mut(shape.stride).enumerate() {
            let at = positions[i * chunk + r] as usize * half;
            let part = &mut row[shape.col..][..shape.heads * shape.head_dim];
            rotate(part, &sin[at..at + half], &cos[at..at + half], half, sign);
        }
    });
}
