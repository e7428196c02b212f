// Second pass of the head: joins the partial states of a row (head/kernel.wgsl) and writes its statistics in the
// layout of head/mod.rs. One workgroup a row, one thread a state, so at most THREADS states; sums in fixed order.
//
// Prepended by the host: THREADS (64 or 256), TOP_K.

// `at`: where the rows' statistics begin
struct Params { rows: u32, slots: u32, race: u32, inverse_temperature: f32, at: u32 }
@group(0) @binding(0) var<storage, read> states: array<u32>;
// words and not floats: ids are not always representable where subnormal numbers are flushed
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

const WORDS = 11u + 2u * TOP_K;
const STATS = 12u;

struct State {
    top: f32,
    arg: u32,
    second: f32,
    sum: f32,
    moment: f32,
    sum_t: f32,
    best: f32,
    runner_up: f32,
    candidate: u32,
    candidate_logit: f32,
    current: f32,
}
var<workgroup> joined: array<State, THREADS>;
var<workgroup> leader: array<f32, THREADS>;
var<workgroup> leader_id: array<u32, THREADS>;
var<workgroup> leader_thread: array<u32, THREADS>;

fn join(a: State, b: State) -> State {
    var c: State;
    let a_first = a.top > b.top || (a.top == b.top && a.arg <= b.arg);
    c.top = select(b.top, a.top, a_first);
    c.arg = select(b.arg, a.arg, a_first);
    c.second = select(max(b.second, a.top), max(a.second, b.top), a_first);
    let da = a.top - c.top;
    let db = b.top - c.top;
    let ea = exp(da);
    let eb = exp(db);
    c.sum = ea * a.sum + eb * b.sum;
    c.moment = ea * (a.moment + da * a.sum) + eb * (b.moment + db * b.sum);
    c.sum_t = exp(da * p.inverse_temperature) * a.sum_t + exp(db * p.inverse_temperature) * b.sum_t;
    let a_wins = a.best < b.best || (a.best == b.best && a.candidate <= b.candidate);
    c.best = select(b.best, a.best, a_wins);
    c.candidate = select(b.candidate, a.candidate, a_wins);
    c.candidate_logit = select(b.candidate_logit, a.candidate_logit, a_wins);
    c.runner_up = select(min(b.runner_up, a.best), min(a.runner_up, b.best), a_wins);
    c.current = max(a.current, b.current);
    return c;
}

// the bits of a logit; "none" is minus infinity
fn logit(z: f32) -> u32 {
    return select(bitcast<u32>(z), NEG_INFINITY, z <= LOWEST);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if (row >= p.rows) {
        return;
    }
    let at = (row * p.slots + thread) * WORDS;
    var s = State(LOWEST, 0xffffffffu, LOWEST, 0.0, 0.0, 0.0, -LOWEST, -LOWEST, 0xffffffffu, LOWEST, LOWEST);
    if (thread < p.slots) {
        s.top = bitcast<f32>(states[at]);
        s.arg = states[at + 1u];
        s.second = bitcast<f32>(states[at + 2u]);
        s.sum = bitcast<f32>(states[at + 3u]);
        s.moment = bitcast<f32>(states[at + 4u]);
        s.sum_t = bitcast<f32>(states[at + 5u]);
        s.best = bitcast<f32>(states[at + 6u]);
        s.runner_up = bitcast<f32>(states[at + 7u]);
        s.candidate = states[at + 8u];
        s.candidate_logit = bitcast<f32>(states[at + 9u]);
        s.current = bitcast<f32>(states[at + 10u]);
    }
    joined[thread] = s;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if (thread < half) {
            joined[thread] = join(joined[thread], joined[thread + half]);
        }
        workgroupBarrier();
    }

    let base = p.at + row * (STATS + 2u * TOP_K);
    if (thread == 0u) {
        let t = joined[0];
        // a row whose ids are all forbidden: id 0, and the log-sum-exp of nothing
        let some = t.sum > 0.0;
        let ln_sum = ln(max(t.sum, 1e-37));
        out[base] = select(NEG_INFINITY, bitcast<u32>(t.top + ln_sum), some);
        out[base + 1u] = logit(t.top);
        out[base + 2u] = select(0u, t.arg, some);
        out[base + 3u] = logit(t.second);
        out[base + 4u] = bitcast<u32>(max(ln_sum - t.moment / max(t.sum, 1e-37), 0.0));
        out[base + 5u] = logit(t.current);
        out[base + 6u] = select(0u, select(t.arg, t.candidate, p.race == 1u), some);
        out[base + 7u] = logit(select(t.top, t.candidate_logit, p.race == 1u));
        let lse_t = t.top * p.inverse_temperature + ln(max(t.sum_t, 1e-37));
        out[base + 8u] = select(NEG_INFINITY, bitcast<u32>(select(t.top + ln_sum, lse_t, p.race == 1u)), some);
        let alone = select(t.second <= LOWEST, t.runner_up >= -LOWEST, p.race == 1u);
        let margin = select(t.top - t.second, t.runner_up - t.best, p.race == 1u);
        out[base + 9u] = select(bitcast<u32>(margin), POS_INFINITY, alone);
        out[base + 10u] = 0u;
        out[base + 11u] = 0u;
    }

    // the lists are sorted: the next of the best is the best of their heads
    var taken = 0u;
    for (var rank = 0u; rank < TOP_K; rank++) {
        leader[thread] = LOWEST;
        leader_id[thread] = 0u;
        leader_thread[thread] = thread;
        if (thread < p.slots && taken < TOP_K) {
            leader_id[thread] = states[at + 11u + taken];
            leader[thread] = bitcast<f32>(states[at + 11u + TOP_K + taken]);
        }
        workgroupBarrier();
        for (var half = THREADS / 2u; half > 0u; half /= 2u) {
            if (thread < half) {
                let a = leader[thread];
                let b = leader[thread + half];
                if (b > a || (b == a && leader_id[thread + half] < leader_id[thread])) {
                    leader[thread] = b;
                    leader_id[thread] = leader_id[thread + half];
                    leader_thread[thread] = leader_thread[thread + half];
                }
            }
            workgroupBarrier();
        }
        if (leader_thread[0] == thread) {
            taken++;
        }
        if (thread == 0u) {
            out[base + STATS + rank] = leader_id[0];
            out[base + STATS + TOP_K + rank] = logit(leader[0]);
        }
        workgroupBarrier();
    }
}
