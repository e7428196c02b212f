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

/// table[ids[r]] += scale d[r], in chunks of rows ([`add_chunks`]).
pub fn scatter_add(d: &[f32], ids: &[u32], scale: f32, table: &mut [f32], width: usize) {
    assert_eq!(d.len(), ids.len() * width, "scatter_add: d must be [{}, {width}]", ids.len());
    let rows = table.len() / width;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        panic!("scatter_add: row {id} outside {rows}");
    }
    add_chunks(ids, table, width, |r, at, sum| {
        for (s, d) in sum.iter_mut().zip(&d[r * width + at..]) {
            *s += d * scale;
        }
    });
}

/// Rows that are added among themselves before their sum is added to the table.
const CHUNK: usize = 64;
/// Columns of a task.
const COLUMNS: usize = 64;

/// table[ids[r]] += row r: rows of an id within a chunk of 64 in order, then chunk by chunk. Threads own columns, so any
/// number of them gives the same bits; a GPU adds in the same order, where an id in half of all rows (the mask) would
/// otherwise be one long chain. `add(r, column, sum)` adds row r from that column on to `sum`.
fn add_chunks(
    ids: &[u32],
    table: &mut [f32],
    width: usize,
    add: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    // of every row, where its id stands first in the chunk
    let first_of = |chunk: &[u32], id: &u32| chunk.iter().position(|other| other == id).unwrap_or(0);
    let first: Vec<usize> = ids.chunks(CHUNK).flat_map(|c| c.iter().map(move |id| first_of(c, id))).collect();
    let out = par::Shared::new(table);
    par::each(width.div_ceil(COLUMNS), |c| {
        let (at, n) = (c * COLUMNS, COLUMNS.min(width - c * COLUMNS));
        let mut sums = [0f32; CHUNK * COLUMNS];
        for (start, ids) in (0..).step_by(CHUNK).zip(ids.chunks(CHUNK)) {
            let first = &first[start..][..ids.len()];
            for (i, f) in first.iter().enumerate() {
                let sum = &mut sums[f * COLUMNS..][..n];
                if *f == i {
                    sum.fill(0.0);
                }
                add(start + i, at, sum);
            }
            for (i, id) in ids.iter().enumerate().filter(|(i, _)| first[*i] == *i) {
                // SAFETY: every task writes its own columns.
                let t = unsafe { out.range(*id as usize * width + at, n) };
                t.iter_mut().zip(&sums[i * COLUMNS..]).for_each(|(t, s)| *t += s);
            }
        }
    });
}

#[cfg(test)]
mod tests;
