// out[r, i] = scale table[ids[r], i], [rows, width]; a row outside the table gives zeros. One thread a value.

struct Params { rows: u32, width: u32, table_rows: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + thread;
    if (i >= p.rows * p.width) {
        return;
    }
    let id = ids[i / p.width];
    out[i] = p.scale * select(0.0, table[min(id, p.table_rows - 1u) * p.width + i % p.width], id < p.table_rows);
}
