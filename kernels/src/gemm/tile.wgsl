// One tile of x w^T: workgroup memory holds BK columns of BM rows of x and BN rows of w, every thread keeps a
// 4 x 4 block in registers. Shared by gemm/kernel.wgsl and head/kernel.wgsl.
//
// Prepended by the host: BM, BN, BK (multiples of 4) and `load_x(i, n)`, `load_w(i, n)`: the n <= 4 values from
// index i on, zeros after them; a vector load where k is a multiple of 4, else scalar loads. w may be in int8 (codes.wgsl).

const THREADS = BM / 4u * (BN / 4u);
// [BK, BM / 4] and [BK, BN / 4]: a vector is four rows at one k
var<workgroup> x_tile: array<vec4<f32>, BK * BM / 4u>;
var<workgroup> w_tile: array<vec4<f32>, BK * BN / 4u>;

// Rows row..row+3 of x times rows col..col+3 of w, where row = row0 + 4 (thread / (BN / 4)) and
// col = col0 + 4 (thread % (BN / 4)); result[i] = row + i. Rows from `rows` on and columns from `cols` on are zero.
fn product(row0: u32, rows: u32, col0: u32, cols: u32, k: u32, thread: u32) -> mat4x4<f32> {
    let ty = thread / (BN / 4u);
    let tx = thread % (BN / 4u);
    var a0 = vec4<f32>();
    var a1 = vec4<f32>();
    var a2 = vec4<f32>();
    var a3 = vec4<f32>();
    for (var k0 = 0u; k0 < k; k0 += BK) {
        // every task moves a 4 x 4 block and transposes it on the way
        for (var task = thread; task < (BM + BN) / 4u * (BK / 4u); task += THREADS) {
            let kk = task % (BK / 4u) * 4u;
            var r = task / (BK / 4u);
            let n = min(max(k, k0 + kk) - (k0 + kk), 4u);
            var block = mat4x4<f32>();
            if (r < BM / 4u) {
                for (var i = 0u; i < 4u; i++) {
                    let row = row0 + r * 4u + i;
                    if (row < rows && n > 0u) {
                        block[i] = load_x(row * k + k0 + kk, n);
                    }
                }
                block = transpose(block);
                for (var i = 0u; i < 4u; i++) {
                    x_tile[(kk + i) * (BM / 4u) + r] = block[i];
                }
            } else {
                r -= BM / 4u;
                for (var i = 0u; i < 4u; i++) {
                    let col = col0 + r * 4u + i;
                    if (col < cols && n > 0u) {
                        block[i] = load_w(col * k + k0 + kk, n);
                    }
                }
                block = transpose(block);
                for (var i = 0u; i < 4u; i++) {
                    w_tile[(kk + i) * (BN / 4u) + r] = block[i];
                }
            }
        }
        workgroupBarrier();
        for (var kk = 0u; kk < BK; kk++) {
            let x = x_tile[kk * (BM / 4u) + ty];
            let w = w_tile[kk * (BN / 4u) + tx];
            a0 = fma(vec4<f32>(x.x), w, a0);
            a1 = fma(vec4<f32>(x.y), w, a1);
            a2 = fma(vec4<f32>(x.z), w, a2);
            a3 = fma(vec4<f32>(x.w), w, a3);
        }
        workgroupBarrier();
    }
    return mat4x4<f32>(a0, a1, a2, a3);
}
