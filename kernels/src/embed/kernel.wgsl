// out[r, i] = scale table[ids[r], i], [rows, width]; a row outside the table gives zeros. One thread a value.
// Binding 0 (the table) comes with `entry(row, column)`, which the host prepends.

struct Params { rows: u32, width: u32, table_rows: u32, scale: f32 }
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

fn each(i: u32) {
    if (i >= p.rows * p.width) {
        return;
    }
    let id = ids[i / p.width];
    out[i] = p.scale * select(0.0, entry(min(id, p.table_rows - 1u), i % p.width), id < p.table_rows);
}
