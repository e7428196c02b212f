// Soft embeddings: out[r, i] = scale sum_k weights[r, k] table[ids[r, k], i]; ids and weights [rows, k]. A row outside the
// table adds nothing. One thread a value.
// Binding 0 (the table) comes with `entry(row, column)`, which the host prepends.

struct Params { rows: u32, k: u32, width: u32, table_rows: u32, scale: f32 }
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

fn each(i: u32) {
    if (i >= p.rows * p.width) {
        return;
    }
    let first = i / p.width * p.k;
    var sum = 0.0;
    for (var j = 0u; j < p.k; j++) {
        let id = ids[first + j];
        let x = entry(min(id, p.table_rows - 1u), i % p.width);
        sum += select(0.0, x * (weights[first + j] * p.scale), id < p.table_rows);
    }
    out[i] = sum;
}
