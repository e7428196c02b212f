// dst[(dst_row + r) * dst_stride + dst_col + c] = src[r * src_stride + src_col + c], r < rows, c < cols.
// One thread a value.

struct Params {
    rows: u32,
    cols: u32,
    src_stride: u32,
    src_col: u32,
    dst_stride: u32,
    dst_at: u32,
}
@group(0) @binding(0) var<storage, read> src: array<f32>;
@group(0) @binding(1) var<storage, read_write> dst: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

fn each(i: u32) {
    if (i >= p.rows * p.cols) {
        return;
    }
    let r = i / p.cols;
    let c = i % p.cols;
    dst[p.dst_at + r * p.dst_stride + c] = src[r * p.src_stride + p.src_col + c];
}
