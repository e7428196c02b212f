// First pass of the head: every workgroup streams `chunk` vocabulary ids past BM hidden rows, tile by tile
// (gemm/tile.wgsl), and keeps of each row only what can be merged: four partial states of WORDS words, one for each
// thread that shares a row. Logits live in workgroup memory. head/merge.wgsl joins the partial states.
//
// A state: largest logit m and its id, second largest, sum of e^(z - m), sum of e^(z - m) (z - m), sum of
// e^((z - m) / T), the two smallest race keys ln E - z / T with the winner's id and logit, the current token's
// logit, then TOP_K ids and TOP_K logits in falling order. Ties go to the lower id (ids are visited in order).
//
// Prepended by the host: BM, BN, BK, TOP_K, TOP_SLOTS = max(TOP_K, 1), loaders with bindings 0 (hidden) and 1 (table).

struct Params {
    rows: u32,
    width: u32,
    // ids covered by binding 1: [first, last); `first` is a multiple of BN
    first: u32,
    last: u32,
    chunk: u32,
    // partial states of a row: all of them, and where this dispatch starts
    slots: u32,
    slot: u32,
    race: u32,
    inverse_temperature: f32,
    stream: u32,
    seed: vec2<u32>,
    // where the rows begin among those of bindings 0 and 2
    row: u32,
}
// (position, step, sequence, current token) of every row
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
// one bit an id
@group(0) @binding(3) var<storage, read> forbidden: array<u32>;
@group(0) @binding(4) var<storage, read_write> states: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

fn inner() -> u32 {
    return p.width;
}

const WORDS = 11u + 2u * TOP_K;
// threads that share a row
const LANES = BN / 4u / 4u;

// [BN, BM / 4]: a vector is one id's logit for four rows
var<workgroup> logits: array<vec4<f32>, BN * BM / 4u>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let r = thread % BM;
    let lane = thread / BM;
    let row = group.y * BM + r;
    let key = keys[p.row + min(row, p.rows - 1u)];
    let tail = (p.stream << 24u) | (key.z & 0xffffffu);

    var top = LOWEST;
    var second = LOWEST;
    var arg = 0u;
    var sum = 0.0;
    var moment = 0.0;
    var sum_t = 0.0;
    var best = -LOWEST;
    var runner_up = -LOWEST;
    var candidate = 0u;
    var candidate_logit = LOWEST;
    var current = LOWEST;
    var ids: array<u32, TOP_SLOTS>;
    var values: array<f32, TOP_SLOTS>;
    for (var i = 0u; i < TOP_SLOTS; i++) {
        values[i] = LOWEST;
    }

    let ids_here = p.last - p.first;
    let begin = group.x * p.chunk;
    let end = min(begin + p.chunk, ids_here);
    for (var col0 = begin; col0 < end; col0 += BN) {
        let block = transpose(product(p.row + group.y * BM, p.row + p.rows, col0, ids_here, p.width, thread));
        for (var j = 0u; j < 4u; j++) {
            logits[(thread % (BN / 4u) * 4u + j) * (BM / 4u) + thread / (BN / 4u)] = block[j];
        }
        workgroupBarrier();
        if (row < p.rows) {
            // one draw of 128 bits serves an even id and the odd one after it
            for (var pair = lane; pair < BN / 2u; pair += LANES) {
                var bits = vec4<u32>();
                if (p.race == 1u && col0 + 2u * pair < end) {
                    bits = philox(p.seed, vec4<u32>((p.first + col0) / 2u + pair, key.x, key.y, tail));
                }
                for (var half = 0u; half < 2u; half++) {
                    let col = 2u * pair + half;
                    let id = p.first + col0 + col;
                    if (col0 + col >= end || ((forbidden[id / 32u] >> (id % 32u)) & 1u) == 1u) {
                        continue;
                    }
                    let z = logits[col * (BM / 4u) + r / 4u][r % 4u];
                    if (id == key.w) {
                        current = z;
                    }
                    if (z > top) {
                        let d = top - z;
                        let shrink = exp(d);
                        moment = shrink * (moment + d * sum);
                        sum = shrink * sum + 1.0;
                        sum_t = sum_t * exp(d * p.inverse_temperature) + 1.0;
                        second = top;
                        top = z;
                        arg = id;
                    } else {
                        let d = z - top;
                        let e = exp(d);
                        sum += e;
                        moment += e * d;
                        sum_t += exp(d * p.inverse_temperature);
                        second = max(second, z);
                    }
                    if (p.race == 1u) {
                        let draw = select(bits.xy, bits.zw, half == 1u);
                        let u = race_uniform(draw);
                        // E >= u: most ids cannot win, and take no logarithm
                        if (ln_bound(u) - z * p.inverse_temperature < runner_up) {
                            let time = ln(race_exponential(draw, u)) - z * p.inverse_temperature;
                            if (time < best) {
                                runner_up = best;
                                best = time;
                                candidate = id;
                                candidate_logit = z;
                            } else {
                                runner_up = min(runner_up, time);
                            }
                        }
                    }
                    if (TOP_K > 0u && z > values[TOP_SLOTS - 1u]) {
                        var moved = false;
                        var value = z;
                        var value_id = id;
                        for (var i = 0u; i < TOP_SLOTS; i++) {
                            if (moved || value > values[i]) {
                                let v = values[i];
                                let n = ids[i];
                                values[i] = value;
                                ids[i] = value_id;
                                value = v;
                                value_id = n;
                                moved = true;
                            }
                        }
                    }
                }
            }
        }
        workgroupBarrier();
    }

    if (row < p.rows) {
        let at = (row * p.slots + p.slot + group.x * LANES + lane) * WORDS;
        states[at] = bitcast<u32>(top);
        states[at + 1u] = arg;
        states[at + 2u] = bitcast<u32>(second);
        states[at + 3u] = bitcast<u32>(sum);
        states[at + 4u] = bitcast<u32>(moment);
        states[at + 5u] = bitcast<u32>(sum_t);
        states[at + 6u] = bitcast<u32>(best);
        states[at + 7u] = bitcast<u32>(runner_up);
        states[at + 8u] = candidate;
        states[at + 9u] = bitcast<u32>(candidate_logit);
        states[at + 10u] = bitcast<u32>(current);
        for (var i = 0u; i < TOP_K; i++) {
            states[at + 11u + i] = ids[i];
            states[at + 11u + TOP_K + i] = bitcast<u32>(values[i]);
        }
    }
}
