//! Rows by index: token embedding out[r] = scale table[ids[r]] and its gradient, gathering and scattering rows.
//! Gemma scales its embedding by sqrt(width); everyone else by 1.

use crate::par;

mod mix;
pub mod reference;

pub use mix::{mix, mix_table, mix_weights};

/// out[r] = scale table[ids[r]], [rows, width]. Ids must be inside the table (checked).
pub fn gather(table: &[f32], ids: &[u32], scale: f32, out: &mut [f32], width: usize) {
    assert_eq!(out.len(), ids.len() * width, "gather: out must be [{}, {width}]", ids.len());
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&table[*id as usize * width..][..width]);
        if scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// table[ids[r]] += scale d[r]. Threads own columns, rows are added in order: the same bits for any thread count.
pub fn scatter_add(d: &[f32], ids: &[u32], scale: f32, table: &mut [f32], width: usize) {
    assert_eq!(d.len(), ids.len() * width, "scatter_add: d must be [{}, {width}]", ids.len());
    let rows = table.len() / width;
    let cols = 64.min(width);
    let out = par::Shared::new(table);
    par::each(width.div_ceil(cols), |c| {
        let (at, n) = (c * cols, cols.min(width - c * cols));
        for (r, id) in ids.iter().enumerate() {
            assert!((*id as usize) < rows, "scatter_add: row {id} outside {rows}");
            // SAFETY: every task writes its own columns.
            let t = unsafe { out.range(*id as usize * width + at, n) };
            for (t, d) in t.iter_mut().zip(&d[r * width + at..][..n]) {
                *t += d * scale;
            }
        }
    });
}

#[cfg(test)]
mod tests;
