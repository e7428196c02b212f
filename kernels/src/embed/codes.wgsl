// `entry` of a table in int8 rows (backend/web/codes.wgsl).

@group(0) @binding(0) var<storage, read> table: array<u32>;

fn entry(row: u32, column: u32) -> f32 {
    let at = row * code_row(p.width);
    return bitcast<f32>(table[at + p.width / 4u]) * four_codes(table[at + column / 4u])[column % 4u];
}
