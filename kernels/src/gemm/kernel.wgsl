// y[m, n] = x[m, k] w[n, k]^T (+ y if accumulate). One workgroup a tile of BM x BN (gemm/tile.wgsl).
// Bindings 0 (x) and 1 (w) come with the loaders the host prepends.

struct Params { m: u32, n: u32, k: u32, accumulate: u32 }
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

fn inner() -> u32 {
    return p.k;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let block = product(group.y * BM, p.m, group.x * BN, p.n, p.k, thread);
    let row = group.y * BM + thread / (BN / 4u) * 4u;
    let col = group.x * BN + thread % (BN / 4u) * 4u;
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            if (row + i < p.m && col + j < p.n) {
                let at = (row + i) * p.n + col + j;
                y[at] = select(0.0, y[at], p.accumulate == 1u) + block[i][j];
            }
        }
    }
}
