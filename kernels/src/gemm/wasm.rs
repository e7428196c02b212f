//! Matrix product for WASM, one thread: packs b into panels of 8 columns and keeps a 4 x 8 tile of c in
//! registers (8 of the 16 v128 registers an x86-64 engine has).

use super::Mat;

const NR: usize = 8;
const MR: usize = 4;

#[allow(clippy::too_many_arguments)]
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Mat,
    b: Mat,
    c: &mut [f32],
    c_row: usize,
    accumulate: bool,
) {
    let mut panel = vec![0f32; k * NR];
    let mut rows = vec![0f32; k * MR * m.div_ceil(MR)];
    for (i, tile) in rows.chunks_exact_mut(k * MR).enumerate() {
        for r in 0..MR.min(m - i * MR) {
            let base = (i * MR + r) * a.row;
            for p in 0..k {
                tile[p * MR + r] = alpha * a.data[base + p * a.col];
            }
        }
    }
    for j in (0..n).step_by(NR) {
        let nj = NR.min(n - j);
        for p in 0..k {
            for q in 0..NR {
                panel[p * NR + q] = if q < nj { b.data[p * b.row + (j + q) * b.col] } else { 0.0 };
            }
        }
        for (i, tile) in rows.chunks_exact(k * MR).enumerate() {
            let mut acc = [[0f32; NR]; MR];
            for (x, y) in tile.chunks_exact(MR).zip(panel.chunks_exact(NR)) {
                for r in 0..MR {
                    for q in 0..NR {
                        acc[r][q] += x[r] * y[q];
                    }
                }
            }
            for r in 0..MR.min(m - i * MR) {
                let out = &mut c[(i * MR + r) * c_row + j..][..nj];
                for q in 0..nj {
                    out[q] = if accumulate { out[q] + acc[r][q] } else { acc[r][q] };
                }
            }
        }
    }
}
