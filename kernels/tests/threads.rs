//! The same bits for any number of threads, and, for what is no sum of products, for any SIMD level: every trainable
//! operation, forward and backward. Products are fused multiply-adds where the level has them, so their bits depend on it.

use std::sync::Mutex;

use hilda_kernels::adam::AdamStep;
use hilda_kernels::head::{LossRow, Mixture, STATS};
use hilda_kernels::rng::{Rng, Stream};
use hilda_kernels::{
    At, AttentionShape, Backend, Base, Cpu, Gate, HeadJob, NormKind, NormShape, Place, RopeShape,
    TeacherRows, Train, simd,
};

/// The SIMD level is the process's: a test that compares bits of products holds it, so that no other test lowers it.
static LEVEL: Mutex<()> = Mutex::new(());

fn values(seed: u64, n: usize) -> Vec<f32> {
    let rng = Rng::new(seed, Stream::Test, 0);
    (0..n).map(|i| rng.uniform(0, i as u32, 0) as f32 * 2.0 - 1.0).collect()
}

/// What products wrote, in order: kept by a first pass, put in place of a second one's own at another level, so that
/// everything else starts from the same numbers.
#[derive(Default)]
struct Products {
    kept: Vec<Vec<f32>>,
    at: usize,
    replay: bool,
}

impl Products {
    fn settle(&mut self, values: &mut [&mut Vec<f32>]) {
        for v in values {
            if self.replay {
                v.clone_from(&self.kept[self.at]);
                self.at += 1;
            } else {
                self.kept.push(v.clone());
            }
        }
    }
    fn again(self) -> Products {
        Products { at: 0, replay: true, ..self }
    }
}

/// One pass through every operation; what comes back is everything they wrote.
fn everything(p: &mut Products) -> Vec<(&'static str, Vec<f32>)> {
    let cpu = Cpu;
    let (batch, len, width, vocab) = (3usize, 131usize, 72usize, 517usize);
    let (heads, kv_heads, hd) = (6usize, 2usize, 12usize);
    let rows = batch * len;
    let stride = (heads + 2 * kv_heads) * hd;
    let mut results = vec![];

    let params = values(1, vocab * width + width + stride * width + 2 * width * width);
    let table = At::new(0, vocab * width);
    let norm = At::new(table.len, width);
    let project = At::new(norm.offset + norm.len, stride * width);
    let gate_up = At::new(project.offset + project.len, 2 * width * width);
    let mut grads = vec![0f32; params.len()];
    let rng = Rng::new(2, Stream::Test, 1);
    let ids: Vec<u32> = (0..rows as u32).map(|r| rng.below(0, r, 0, vocab as u64) as u32).collect();

    let (mut x, mut y, mut qkv) = (cpu.buf(rows * width), cpu.buf(rows * width), cpu.buf(rows * stride));
    cpu.embed(&ids, &params, table, 1.0, &mut x, rows, width);
    let packed = NormShape::packed(NormKind::Rms, rows, width, 1e-5);
    cpu.norm(&x, &params, norm, None, &mut y, packed, false);
    cpu.linear(&y, &params, project, &mut qkv, rows, stride, width, false);
    p.settle(&mut [&mut qkv]);
    let positions: Vec<u32> = (0..rows as u32).map(|r| r % len as u32).collect();
    let rope = RopeShape { rows, stride, col: 0, heads: heads + kv_heads, head_dim: hd, theta: 10_000.0 };
    cpu.rope(&mut qkv, &positions, rope);
    let places: Vec<Place> = (0..rows as u32)
        .map(|r| {
            let position = r % len as u32;
            Place { position, document: r / len as u32, block: position / 8, stream: position % 2 }
        })
        .collect();
    let mask = cpu.mask(Base::BlockDiffusion { causal_clean: false }.into(), batch, &places, &places);
    let shape = AttentionShape {
        row: 0,
        batch,
        q_len: len,
        k_len: len,
        heads,
        kv_heads,
        head_dim: hd,
        scale: 0.3,
        q_stride: stride,
        q_col: 0,
        kv_stride: stride,
        k_col: heads * hd,
        v_col: (heads + kv_heads) * hd,
    };
    let (mut out, mut lse) = (cpu.buf(rows * width), cpu.buf(rows * heads));
    cpu.attention(&qkv, &qkv, &mask, &mut out, &mut lse, shape);
    p.settle(&mut [&mut out, &mut lse]);
    let (mut gu, mut act) = (cpu.buf(rows * 2 * width), cpu.buf(rows * width));
    cpu.linear(&out, &params, gate_up, &mut gu, rows, 2 * width, width, false);
    p.settle(&mut [&mut gu]);
    cpu.glu(Gate::Silu, &gu, &mut act, rows, width);
    for (name, v) in
        [("embed", &x), ("norm", &y), ("qkv", &qkv), ("attention", &out), ("lse", &lse), ("glu", &act)]
    {
        results.push((name, v.clone()));
    }

    let job = HeadJob { rows, width, vocab, top_k: 8, temperature: 0.9, seed: 3, forbid: vec![4] };
    let keys: Vec<u32> = (0..rows as u32).flat_map(|r| [r, 1, 0, ids[r as usize]]).collect();
    let mut stats = cpu.buf(rows * (STATS + 16));
    cpu.head(&act, &params, table, &keys, &mut stats, &job);
    p.settle(&mut [&mut stats]);
    results.push(("head statistics", stats));

    let asked: Vec<LossRow> = (0..rows)
        .map(|r| {
            let noise = Mixture {
                alpha: 0.6,
                beta: 1e-3,
                observed: (r % 3 > 0).then(|| 5 + ids[r] % (250 * (r as u32 % 3))),
                weight: 1.0 / rows as f32,
            };
            LossRow {
                target: 5 + ids[r] % 500,
                d_log_p: -1.0 / rows as f32,
                d_entropy: 0.01,
                mixture: (r % 2 == 0).then_some(noise),
            }
        })
        .collect();
    let mut d = cpu.buf(rows * width);
    let mut losses = cpu.head_loss(&act, &params, table, &asked, &[4], width, Some((&mut d, &mut grads)));
    p.settle(&mut [&mut losses.log_p, &mut losses.entropy, &mut losses.divergence, &mut d, &mut grads]);
    results.extend([("log p", losses.log_p), ("entropy", losses.entropy), ("divergence", losses.divergence)]);
    results.push(("d hidden", d.clone()));
    let teacher = TeacherRows { hidden: &y, params: &params, table, width };
    let (slopes, mut d_student) = (vec![0.1; rows], cpu.buf(rows * width));
    let backward = Some((&mut d_student, &mut grads));
    let mut far = cpu.head_distill(&act, &params, table, width, teacher, &slopes, &[4], 1.3, backward);
    p.settle(&mut [&mut far, &mut d_student, &mut grads]);
    results.extend([("distillation", far), ("d student", d_student)]);
    // three rows of the table a place
    let mixed_ids: Vec<u32> = (0..3 * rows).map(|i| (ids[i % rows] + 7 * i as u32) % vocab as u32).collect();
    let (weights, mut d_weights) = (values(5, 3 * rows), cpu.buf(3 * rows));
    let mut mixed = cpu.buf(rows * width);
    cpu.embed_mix(&mixed_ids, &weights, &params, table, 1.5, &mut mixed, rows, 3, width);
    cpu.embed_mix_backward(
        &mixed_ids,
        &weights,
        &d,
        &params,
        table,
        1.5,
        &mut d_weights,
        &mut grads,
        rows,
        3,
        width,
    );
    results.extend([("mixtures", mixed), ("d weights", d_weights)]);

    let (mut d_gu, mut d_out, mut d_qkv) =
        (cpu.buf(rows * 2 * width), cpu.buf(rows * width), cpu.buf(rows * stride));
    cpu.glu_backward(Gate::Silu, &d, &gu, &mut d_gu, rows, width);
    cpu.linear_backward_weight(&d_gu, &out, &mut grads, gate_up, rows, 2 * width, width);
    cpu.linear_backward_input(&d_gu, &params, gate_up, &mut d_out, rows, 2 * width, width);
    p.settle(&mut [&mut grads, &mut d_out]);
    cpu.attention_backward(&d_out, &qkv, &out, &lse, &mask, &mut d_qkv, shape);
    p.settle(&mut [&mut d_qkv]);
    cpu.rope_backward(&mut d_qkv, &positions, rope);
    cpu.linear_backward_weight(&d_qkv, &y, &mut grads, project, rows, stride, width);
    let (mut dy, mut dx) = (cpu.buf(rows * width), cpu.buf(rows * width));
    cpu.linear_backward_input(&d_qkv, &params, project, &mut dy, rows, stride, width);
    p.settle(&mut [&mut grads, &mut dy]);
    cpu.norm_backward(&dy, &x, &params, norm, None, &mut dx, &mut grads, packed);
    // the other kinds, on whatever is there
    let layer = NormShape { kind: NormKind::Layer, groups: 6, width: 12, ..packed };
    let (w, b) = (At::new(0, 12), At::new(64, 12));
    let mut other = cpu.buf(rows * width);
    cpu.norm(&x, &params, w, Some(b), &mut other, layer, false);
    cpu.norm_backward(&dy, &x, &params, w, Some(b), &mut dx, &mut grads, layer);
    cpu.add_bias(&mut other, &params, norm, rows, width);
    cpu.add_bias_backward(&dy, &mut grads, norm, rows, width);
    let mut other_act = cpu.buf(rows * width);
    cpu.glu(Gate::Gelu, &gu, &mut other_act, rows, width);
    cpu.glu_backward(Gate::Gelu, &d, &gu, &mut d_gu, rows, width);
    let (mut g, mut dg) = (cpu.buf(rows * width), cpu.buf(rows * width));
    cpu.gelu(&other, &mut g, rows * width);
    cpu.gelu_backward(&dy, &other, &mut dg, rows * width);
    results.extend([("layer norm", other), ("geglu", other_act), ("gelu", g), ("d gelu", dg)]);
    cpu.embed_backward(&ids, &dx, &mut grads, table, 2.0, rows, width);
    results.extend([("d gate_up", d_gu), ("d qkv", d_qkv), ("d x", dx), ("gradients", grads.clone())]);
    results.push(("norm of gradients", vec![cpu.sum_squares(&grads) as f32]));

    let (mut w, mut m, mut v, mut ema) =
        (params.clone(), cpu.buf(params.len()), cpu.buf(params.len()), params);
    let mut step = AdamStep::new(1e-3, [0.9, 0.95], 1e-8, 0.1, 1);
    step.ema = Some(0.99);
    cpu.adamw(&mut w, &grads, &mut m, &mut v, Some(&mut ema), step);
    results.extend([("weights", w), ("average", ema)]);
    results
}

fn assert_same_bits(what: &str, a: &[(&str, Vec<f32>)], b: &[(&str, Vec<f32>)]) {
    for ((name, a), (_, b)) in a.iter().zip(b) {
        assert_eq!(a.len(), b.len());
        let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differ, 0, "{what}: {differ} of {} values of `{name}` differ", a.len());
    }
}

#[test]
fn one_two_and_three_threads_give_the_same_bits() {
    let _level = LEVEL.lock().unwrap_or_else(|broken| broken.into_inner());
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a thread pool");
    let one = pool(1).install(|| everything(&mut Products::default()));
    let finite = |(name, v): &(&str, Vec<f32>)| *name == "head statistics" || v.iter().all(|x| x.is_finite());
    assert!(one.iter().all(finite) && one.iter().any(|(_, v)| v.iter().any(|x| *x != 0.0)));
    for n in [2, 3] {
        assert_same_bits(
            &format!("{n} threads"),
            &pool(n).install(|| everything(&mut Products::default())),
            &one,
        );
    }
}

#[test]
fn every_simd_level_gives_the_same_bits_from_the_same_products() {
    let _level = LEVEL.lock().unwrap_or_else(|broken| broken.into_inner());
    let detected = simd::level();
    let mut products = Products::default();
    let best = everything(&mut products);
    for level in [simd::Level::V3, simd::Level::Base] {
        if level > detected {
            println!("SKIPPED level {level:?}: this machine has {detected:?} at most");
            continue;
        }
        simd::limit(level);
        assert_eq!(simd::level(), level);
        products = products.again();
        assert_same_bits(&format!("{level:?}"), &everything(&mut products), &best);
    }
    simd::limit(simd::Level::V4);
    assert_eq!(simd::level(), detected);
}
