//! `hilda bench ops`: every operation of a training step of 8 x 256 rows and of a decoding step by itself, beside the peak
//! that bounds it: GFLOP/s as a share of the matrix-product peak, GB/s as a share of the triad's (above 1 where the
//! caches hold the operands).

use hilda_engine::config::ModelConfig;
use hilda_kernels::adam::{AdamStep, adamw};
use hilda_kernels::attention::{Tiles, attention, attention_backward};
use hilda_kernels::head::{self, LossRow, Mixture, STATS};
use hilda_kernels::norm::{norm, norm_backward};
use hilda_kernels::{
    AttentionShape, Base, Gate, HeadJob, NormKind, NormShape, Place, RopeShape, embed, gemm, glu, rope,
};
use serde_json::{Value, json};

use super::peak::{Peak, median, seconds};

/// What bounds an operation.
enum Work {
    /// multiplications and additions
    Flops(f64),
    /// bytes that must move at least
    Bytes(f64),
}

struct Bench<'a> {
    peak: &'a mut Peak,
    repeat: usize,
    bandwidth: f64,
    /// name, median and least seconds
    rows: Vec<(String, f64, f64, Work)>,
}

impl Bench<'_> {
    fn time(&mut self, name: &str, work: Work, mut once: impl FnMut()) {
        once();
        let times: Vec<f64> = (0..self.repeat.max(5)).map(|_| seconds(&mut once)).collect();
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        self.rows.push((name.into(), median(times), least, work));
    }
    fn report(&self) -> Vec<Value> {
        let row = |(name, t, least, work): &(String, f64, f64, Work)| match work {
            Work::Flops(f) => {
                let mut v =
                    json!({ "op": name, "ms": t * 1e3, "ms_least": least * 1e3, "gflops": f / t / 1e9 });
                v.as_object_mut()
                    .expect("an object")
                    .extend(self.peak.share(*f, *t).as_object().cloned().unwrap_or_default());
                v
            }
            Work::Bytes(b) => {
                let rate = b / t / 1e9;
                json!({ "op": name, "ms": t * 1e3, "ms_least": least * 1e3, "gb_s": rate, "bandwidth_share": rate / self.bandwidth })
            }
        };
        self.rows.iter().map(row).collect()
    }
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 513) as f32 / 256.0 - 1.0).collect()
}

pub fn run(c: &ModelConfig, repeat: usize, peak: &mut Peak, bandwidth: f64) -> Value {
    let mut b = Bench { peak, repeat, bandwidth, rows: vec![] };
    b.peak.five();
    linear(&mut b, c);
    attend(&mut b, "attention, 8 x 256 causal", c, 8, 256, Base::Causal);
    let one = ModelConfig { heads: 2, kv_heads: 2, head_dim: 64, ..c.clone() };
    attend(&mut b, "attention, 4096, 2 heads of 64", &one, 1, 4096, Base::Bidirectional);
    rows(&mut b, c);
    heads(&mut b, c);
    b.peak.five();
    json!({ "parameters": c.parameters(), "peak_bytes": super::memory::peak(), "ops": b.report() })
}

/// The products of a layer: few rows (a cached block), a decoding step, a training step and its gradients.
fn linear(b: &mut Bench, c: &ModelConfig) {
    let layers = [("qkv", c.qkv(), c.width), ("gate_up", c.mlp_in(), c.width), ("down", c.width, c.mlp)];
    for (name, n, k) in layers {
        let (w, mut dw) = (values(n * k), vec![0f32; n * k]);
        for m in [8, 128, 2048] {
            let (x, mut y) = (values(m * k), vec![0f32; m * n]);
            let flops = || Work::Flops(2.0 * (m * n * k) as f64);
            b.time(&format!("{name}, [{m}, {k}] to {n}"), flops(), || {
                gemm::nt(&x, &w, &mut y, m, n, k, false)
            });
            if m == 2048 {
                let mut dx = vec![0f32; m * k];
                b.time(&format!("{name}, input gradient"), flops(), || {
                    gemm::nn(&y, &w, &mut dx, m, n, k, false)
                });
                b.time(&format!("{name}, weight gradient"), flops(), || gemm::tn(&y, &x, &mut dw, m, n, k));
            }
        }
    }
}

fn attend(b: &mut Bench, name: &str, c: &ModelConfig, batch: usize, len: usize, base: Base) {
    let (a, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let stride = a + 2 * kv;
    let s = AttentionShape {
        batch,
        q_len: len,
        k_len: len,
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        scale: 1.0 / (c.head_dim as f32).sqrt(),
        q_stride: stride,
        q_col: 0,
        kv_stride: stride,
        k_col: a,
        v_col: a + kv,
    };
    let places: Vec<Place> =
        (0..batch * len).map(|i| Place { position: (i % len) as u32, ..Place::default() }).collect();
    let tiles = Tiles::new(base.into(), batch, &places, &places);
    let flops = tiles.pairs(batch) as f64 * a as f64;
    let (qkv, d_out) = (values(batch * len * stride), values(batch * len * a));
    let (mut out, mut lse) = (vec![0f32; batch * len * a], vec![0f32; batch * len * c.heads]);
    b.time(name, Work::Flops(4.0 * flops), || attention(&qkv, &qkv, &tiles, &mut out, &mut lse, s));
    let mut d = vec![0f32; qkv.len()];
    b.time(&format!("{name}, backward"), Work::Flops(10.0 * flops), || {
        attention_backward(&d_out, &qkv, &out, &lse, &tiles, &mut d, s)
    });
}

/// Everything that touches rows of activations or weights once.
fn rows(b: &mut Bench, c: &ModelConfig) {
    let (m, d) = (2048, c.width);
    let bytes = |n: usize| Work::Bytes(4.0 * n as f64);
    let (x, w, mut y) = (values(m * d), values(d), vec![0f32; m * d]);
    let s = NormShape::packed(NormKind::Rms, m, d, 1e-5);
    b.time("norm, 2048 rows", bytes(2 * m * d), || norm(&x, &w, &[], &mut y, s, false));
    let mut dw = vec![0f32; d];
    b.time("norm, backward", bytes(4 * m * d), || norm_backward(&x, &x, &w, &mut y, &mut dw, &mut [], s));
    let (gu, mut act) = (values(2 * m * c.mlp), vec![0f32; m * c.mlp]);
    b.time("swiglu, 2048 rows", bytes(3 * m * c.mlp), || glu::glu(Gate::Silu, &gu, &mut act, c.mlp));
    let (dy, mut dgu) = (values(m * c.mlp), vec![0f32; 2 * m * c.mlp]);
    b.time("swiglu, backward", bytes(5 * m * c.mlp), || {
        glu::glu_backward(Gate::Silu, &dy, &gu, &mut dgu, c.mlp)
    });
    let shape = RopeShape {
        rows: m,
        stride: c.qkv(),
        col: 0,
        heads: c.heads + c.kv_heads,
        head_dim: c.head_dim,
        theta: 1e4,
    };
    let (mut qkv, positions) = (values(m * c.qkv()), (0..m as u32).map(|i| i % 256).collect::<Vec<_>>());
    let rotated = m * (c.heads + c.kv_heads) * c.head_dim;
    b.time("rope, 2048 rows", bytes(2 * rotated), || rope::rope(&mut qkv, &positions, shape, false));
    let (ids, mut table): (Vec<u32>, _) =
        ((0..m).map(|i| (i * 7919 % c.vocab) as u32).collect(), values(c.vocab * d));
    b.time("embed, 2048 rows", bytes(2 * m * d), || embed::gather(&table, &ids, 1.0, &mut y, d));
    b.time("embed, backward", bytes(3 * m * d), || embed::scatter_add(&x, &ids, 1.0, &mut table, d));
    let n = c.parameters();
    let (mut p, g, mut v1, mut v2) = (values(n), values(n), vec![0f32; n], vec![0f32; n]);
    let step = AdamStep::new(1e-4, [0.9, 0.95], 1e-8, 0.1, 1);
    b.time("adamw, all parameters", bytes(7 * n), || adamw(&mut p, &g, &mut v1, &mut v2, None, step));
}

fn heads(b: &mut Bench, c: &ModelConfig) {
    let (d, v) = (c.width, c.vocab);
    let table: Vec<f32> = values(v * d).iter().map(|x| 0.05 * x).collect();
    let hidden = values(512 * d);
    for (name, top_k, temperature) in [("argmax", 0, 0.0), ("top 8", 8, 0.0), ("top 8, drawn", 8, 1.0)] {
        let job = HeadJob { rows: 128, width: d, vocab: v, top_k, temperature, seed: 1, forbid: vec![1] };
        let (keys, mut out) = (vec![3u32; 4 * 128], vec![0f32; 128 * (STATS + 2 * top_k)]);
        b.time(&format!("head, 128 rows, {name}"), Work::Flops(2.0 * (128 * d * v) as f64), || {
            head::statistics(&hidden, &table, &keys, &mut out, &job)
        });
    }
    let asked = vec![LossRow { target: 5, d_log_p: -1.0, ..Default::default() }; 512];
    let (mut dh, mut dt) = (vec![0f32; 512 * d], vec![0f32; v * d]);
    b.time("head, loss and gradients, 512 rows", Work::Flops(6.0 * (512 * d * v) as f64), || {
        drop(head::loss(&hidden, &table, &asked, &[1], d, Some((&mut dh, &mut dt))))
    });
    let noise = Mixture { alpha: 0.5, beta: 1e-5, observed: Some(9), weight: 1.0 };
    let mixed = vec![LossRow { target: 5, mixture: Some(noise), ..Default::default() }; 512];
    b.time("head, mixed noise and gradients, 512 rows", Work::Flops(6.0 * (512 * d * v) as f64), || {
        drop(head::loss(&hidden, &table, &mixed, &[1], d, Some((&mut dh, &mut dt))))
    });
}
