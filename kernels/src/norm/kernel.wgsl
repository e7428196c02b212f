// y = (x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b (+ y), mean = 0 for RMS norm. A row holds `groups` of
// `width` values, each normalised by itself. One workgroup a group, sums in fixed order.

struct Params {
    rows: u32, groups: u32, width: u32, eps: f32,
    x_stride: u32, x_col: u32, y_stride: u32, y_col: u32,
    // 1 = layer norm, 2 = a bias, 4 = accumulate
    flags: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

const THREADS = 64u;
var<workgroup> sums: array<f32, THREADS>;

fn total(thread: u32, mine: f32) -> f32 {
    workgroupBarrier();
    sums[thread] = mine;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if (thread < half) {
            sums[thread] += sums[thread + half];
        }
        workgroupBarrier();
    }
    return sums[0];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group.y * groups.x + group.x;
    if (i >= p.rows * p.groups) {
        return;
    }
    let row = i / p.groups;
    let column = i % p.groups * p.width;
    let source = row * p.x_stride + p.x_col + column;
    let target_at = row * p.y_stride + p.y_col + column;
    var mean = 0.0;
    var s = 0.0;
    if ((p.flags & 1u) != 0u) {
        for (var j = thread; j < p.width; j += THREADS) {
            s += x[source + j];
        }
        mean = total(thread, s) / f32(p.width);
        s = 0.0;
    }
    for (var j = thread; j < p.width; j += THREADS) {
        let d = x[source + j] - mean;
        s += d * d;
    }
    let scale = 1.0 / sqrt(total(thread, s) / f32(p.width) + p.eps);
    for (var j = thread; j < p.width; j += THREADS) {
        var v = (x[source + j] - mean) * scale * w[j];
        if ((p.flags & 2u) != 0u) {
            v += b[j];
        }
        if ((p.flags & 4u) != 0u) {
            v += y[target_at + j];
        }
        y[target_at + j] = v;
    }
}
