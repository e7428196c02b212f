//! Plain loops in f64.

use crate::backend::RopeShape;

/// In place; `sign` = 1 forward, -1 backward.
pub fn rope(x: &mut [f32], positions: &[u32], s: RopeShape, sign: f64) {
    for r in 0..s.rows {
        for h in 0..s.heads {
            for i in 0..s.head_dim / 2 {
                let angle =
                    sign * positions[r] as f64 * (s.theta as f64).powf(-2.0 * i as f64 / s.head_dim as f64);
                let at = r * s.stride + s.col + h * s.head_dim + i;
                let (a, b) = (x[at] as f64, x[at + s.head_dim / 2] as f64);
                x[at] = (a * angle.cos() - b * angle.sin()) as f32;
                x[at + s.head_dim / 2] = (b * angle.cos() + a * angle.sin()) as f32;
            }
        }
    }
}
