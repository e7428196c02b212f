// out[q, h] = softmax over allowed keys of (q k^T scale) v; lse[q, h] = log-sum-exp of the scores, minus infinity
// (and zeros in out) where nothing is allowed. Online softmax (Milakov and Gimelshein, arXiv 1805.02867) over tiles
// of KEYS keys; the rule is evaluated from the places, and a tile where it allows no pair costs only that.
//
// Prepended by the host: HEAD_DIM, and the loaders `load_q(i, n)`, `load_kv(i, n)` with bindings 0 and 1.
// One workgroup: QUERIES queries of one head of one sequence. Thread (ty, tx) owns queries 4 ty .. 4 ty + 3; of a
// score tile the keys 4 tx .. 4 tx + 3; of the output the columns 4 (tx + 16 c), c < COLUMNS.

struct Params {
    q_len: u32,
    k_len: u32,
    heads: u32,
    kv_heads: u32,
    q_stride: u32,
    q_col: u32,
    kv_stride: u32,
    k_col: u32,
    v_col: u32,
    scale: f32,
    // rule: base, window (only if windowed == 1), then what the annealed base draws with; of the shadow `step` is how
    // far ahead the token that a row leaves out stands
    base: u32,
    windowed: u32,
    window: u32,
    step: u32,
    stream: u32,
    always: u32,
    seed: vec2<u32>,
    // an edge is open if its 53-bit draw is below this (high 32 bits, low 21 bits)
    threshold: vec2<u32>,
    // first row of the queries, and of what they yield
    row: u32,
}
// places are (position, document, block, stream)
@group(0) @binding(2) var<storage, read> queries: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

const QUERIES = 16u;
const KEYS = 64u;
const CHUNK = 16u;
const COLUMNS = (HEAD_DIM + 63u) / 64u;

// [CHUNK, QUERIES / 4], [CHUNK, KEYS / 4], [KEYS, QUERIES / 4]
var<workgroup> q_tile: array<vec4<f32>, CHUNK * QUERIES / 4u>;
var<workgroup> k_tile: array<vec4<f32>, CHUNK * KEYS / 4u>;
var<workgroup> weights: array<vec4<f32>, KEYS * QUERIES / 4u>;
var<workgroup> exchange: array<vec4<f32>, 64>;
var<workgroup> seen: atomic<u32>;
var<workgroup> live: u32;

// attention/rule.rs, `MaskRule::allowed`
fn allowed(q: vec4<u32>, k: vec4<u32>) -> bool {
    if (q.y != k.y) {
        return false;
    }
    if (p.windowed == 1u && max(q.x, k.x) - min(q.x, k.x) >= p.window) {
        return false;
    }
    switch p.base {
        // causal
        case 1u: { return k.x <= q.x; }
        // block-causal
        case 2u: { return k.z <= q.z; }
        // block diffusion with a block-causal (3), causal (4) clean stream; complementary views (5)
        case 3u, 4u, 5u: {
            if (q.w == 0u) {
                return k.w == 0u && select(k.z <= q.z, k.x <= q.x, p.base == 4u);
            }
            if (k.w == 0u) {
                return k.z < q.z;
            }
            return k.z == q.z && (p.base != 5u || q.w == k.w);
        }
        // annealed
        case 6u: {
            if (k.x <= q.x || p.always == 1u) {
                return true;
            }
            let r = philox(p.seed, vec4<u32>(k.x / 2u, q.x, p.step, p.stream));
            let bits = select(r.xy, r.zw, (k.x & 1u) == 1u);
            return bits.x < p.threshold.x || (bits.x == p.threshold.x && (bits.y >> 11u) < p.threshold.y);
        }
        // shadow beside a text that sees all of itself (7) or its earlier blocks (8)
        case 7u, 8u: {
            let reaches = p.base == 7u || k.z <= q.z;
            if (k.w == 0u) {
                return reaches && (q.w == 0u || k.x != q.x + p.step);
            }
            return q.w != 0u && (p.base == 7u || k.z == q.z);
        }
        default: { return true; }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let ty = thread / 16u;
    let tx = thread % 16u;
    let head = group.y;
    let kv_head = head / (p.heads / p.kv_heads);
    let q0 = group.x * QUERIES;
    let q_row = group.z * p.q_len;
    let k_row = group.z * p.k_len;
    let q_at = p.q_col + head * HEAD_DIM;
    let k_at = p.k_col + kv_head * HEAD_DIM;
    let v_at = p.v_col + kv_head * HEAD_DIM;

    var places: array<vec4<u32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        places[i] = queries[q_row + min(q0 + ty * 4u + i, p.q_len - 1u)];
    }
    // component i belongs to query 4 ty + i; `total` covers this thread's keys only
    var top = vec4<f32>(LOWEST);
    var total = vec4<f32>();
    var acc: array<vec4<f32>, 4u * COLUMNS>;

    for (var k0 = 0u; k0 < p.k_len; k0 += KEYS) {
        var open: array<vec4<bool>, 4>;
        var any_open = false;
        for (var j = 0u; j < 4u; j++) {
            let key = k0 + tx * 4u + j;
            if (key < p.k_len) {
                let place = keys[k_row + key];
                for (var i = 0u; i < 4u; i++) {
                    open[i][j] = q0 + ty * 4u + i < p.q_len && allowed(places[i], place);
                    any_open = any_open || open[i][j];
                }
            }
        }
        if (any_open) {
            atomicOr(&seen, 1u);
        }
        workgroupBarrier();
        if (thread == 0u) {
            live = atomicExchange(&seen, 0u);
        }
        if (workgroupUniformLoad(&live) == 0u) {
            continue;
        }

        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var d0 = 0u; d0 < HEAD_DIM; d0 += CHUNK) {
            for (var task = thread; task < (QUERIES + KEYS) / 4u * (CHUNK / 4u); task += 64u) {
                let d = task % (CHUNK / 4u) * 4u;
                var r = task / (CHUNK / 4u);
                let n = min(max(HEAD_DIM, d0 + d) - (d0 + d), 4u);
                var block = mat4x4<f32>();
                if (r < QUERIES / 4u) {
                    for (var i = 0u; i < 4u; i++) {
                        let row = q0 + r * 4u + i;
                        if (row < p.q_len && n > 0u) {
                            block[i] = load_q((p.row + q_row + row) * p.q_stride + q_at + d0 + d, n);
                        }
                    }
                    block = transpose(block);
                    for (var i = 0u; i < 4u; i++) {
                        q_tile[(d + i) * (QUERIES / 4u) + r] = block[i];
                    }
                } else {
                    r -= QUERIES / 4u;
                    for (var i = 0u; i < 4u; i++) {
                        let row = k0 + r * 4u + i;
                        if (row < p.k_len && n > 0u) {
                            block[i] = load_kv((k_row + row) * p.kv_stride + k_at + d0 + d, n);
                        }
                    }
                    block = transpose(block);
                    for (var i = 0u; i < 4u; i++) {
                        k_tile[(d + i) * (KEYS / 4u) + r] = block[i];
                    }
                }
            }
            workgroupBarrier();
            for (var d = 0u; d < CHUNK; d++) {
                let q = q_tile[d * (QUERIES / 4u) + ty];
                let k = k_tile[d * (KEYS / 4u) + tx];
                s0 = fma(vec4<f32>(q.x), k, s0);
                s1 = fma(vec4<f32>(q.y), k, s1);
                s2 = fma(vec4<f32>(q.z), k, s2);
                s3 = fma(vec4<f32>(q.w), k, s3);
            }
            workgroupBarrier();
        }
        s0 = select(vec4<f32>(LOWEST), s0 * p.scale, open[0]);
        s1 = select(vec4<f32>(LOWEST), s1 * p.scale, open[1]);
        s2 = select(vec4<f32>(LOWEST), s2 * p.scale, open[2]);
        s3 = select(vec4<f32>(LOWEST), s3 * p.scale, open[3]);

        // largest score of every query over the sixteen threads that share it
        let scores = transpose(mat4x4<f32>(s0, s1, s2, s3));
        exchange[tx * 4u + ty] = max(max(scores[0], scores[1]), max(scores[2], scores[3]));
        workgroupBarrier();
        var new_top = top;
        for (var t = 0u; t < 16u; t++) {
            new_top = max(new_top, exchange[t * 4u + ty]);
        }
        let shrink = exp(top - new_top);
        top = new_top;
        total *= shrink;
        for (var j = 0u; j < 4u; j++) {
            let is_open = vec4<bool>(open[0][j], open[1][j], open[2][j], open[3][j]);
            let w = select(vec4<f32>(), exp(scores[j] - top), is_open);
            total += w;
            weights[(tx * 4u + j) * (QUERIES / 4u) + ty] = w;
        }
        for (var c = 0u; c < COLUMNS; c++) {
            acc[c * 4u] *= shrink.x;
            acc[c * 4u + 1u] *= shrink.y;
            acc[c * 4u + 2u] *= shrink.z;
            acc[c * 4u + 3u] *= shrink.w;
        }
        workgroupBarrier();

        let count = min(p.k_len - k0, KEYS);
        for (var c = 0u; c < COLUMNS; c++) {
            let col = (tx + 16u * c) * 4u;
            if (col < HEAD_DIM) {
                let n = min(HEAD_DIM - col, 4u);
                var o0 = acc[c * 4u];
                var o1 = acc[c * 4u + 1u];
                var o2 = acc[c * 4u + 2u];
                var o3 = acc[c * 4u + 3u];
                for (var key = 0u; key < count; key++) {
                    let w = weights[key * (QUERIES / 4u) + ty];
                    let v = load_kv((k_row + k0 + key) * p.kv_stride + v_at + col, n);
                    o0 = fma(vec4<f32>(w.x), v, o0);
                    o1 = fma(vec4<f32>(w.y), v, o1);
                    o2 = fma(vec4<f32>(w.z), v, o2);
                    o3 = fma(vec4<f32>(w.w), v, o3);
                }
                acc[c * 4u] = o0;
                acc[c * 4u + 1u] = o1;
                acc[c * 4u + 2u] = o2;
                acc[c * 4u + 3u] = o3;
            }
        }
    }

    exchange[tx * 4u + ty] = total;
    workgroupBarrier();
    var sum = vec4<f32>();
    for (var t = 0u; t < 16u; t++) {
        sum += exchange[t * 4u + ty];
    }
    for (var i = 0u; i < 4u; i++) {
        let query = q0 + ty * 4u + i;
        if (query < p.q_len) {
            let row = (p.row + q_row + query) * p.heads + head;
            let inverse = select(0.0, 1.0 / sum[i], sum[i] > 0.0);
            for (var c = 0u; c < COLUMNS; c++) {
                let o = acc[c * 4u + i] * inverse;
                for (var j = 0u; j < 4u; j++) {
                    let col = (tx + 16u * c) * 4u + j;
                    if (col < HEAD_DIM) {
                        out[row * HEAD_DIM + col] = o[j];
                    }
                }
            }
            if (tx == 0u) {
                lse[row] = select(NEG_INFINITY, bitcast<u32>(top[i] + ln(max(sum[i], 1e-37))), sum[i] > 0.0);
            }
        }
    }
}
