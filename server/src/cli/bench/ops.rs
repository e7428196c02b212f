//! `hilda bench ops`: every operation of a training step of 8 x 256 rows and of a decoding step by itself, on any back end,
//! beside the peak that bounds it: GFLOP/s as a share of the matrix-product peak, GB/s as a share of the copy's (above 1
//! where the caches hold the operands).

use hilda_engine::config::ModelConfig;
use hilda_kernels::adam::AdamStep;
use hilda_kernels::head::{LossRow, Mixture, STATS};
use hilda_kernels::{At, AttentionShape, Base, Gate, HeadJob, NormKind, NormShape, Place, RopeShape, Train};
use serde_json::{Value, json};

use super::peak::{Peak, each, median};

/// What bounds an operation.
enum Work {
    /// multiplications and additions
    Flops(f64),
    /// bytes that must move at least
    Bytes(f64),
}

struct Bench<'a, 'p, B: Train> {
    b: &'a B,
    probe: B::Buf,
    peak: &'a mut Peak<'p>,
    repeat: usize,
    bandwidth: f64,
    /// name, median and least seconds
    rows: Vec<(String, f64, f64, Work)>,
}

impl<B: Train> Bench<'_, '_, B> {
    fn time(&mut self, name: &str, work: Work, once: impl FnMut()) {
        let (b, probe) = (self.b, &self.probe);
        let times = each(self.repeat.max(5), once, || drop(b.read_range(probe, 0, 1)));
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
    /// n values between -scale and scale.
    fn values(&self, n: usize, scale: f32) -> B::Buf {
        let data: Vec<f32> = (0..n).map(|i| scale * (((i * 7919) % 513) as f32 / 256.0 - 1.0)).collect();
        let mut buf = self.b.buf(n);
        self.b.write(&mut buf, 0, &data);
        buf
    }
    fn ids(&self, data: &[u32]) -> B::Ids {
        let mut ids = self.b.ids(data.len());
        self.b.write_ids(&mut ids, data);
        ids
    }
}

/// The first `len` values of a buffer.
fn first(len: usize) -> At {
    At::new(0, len)
}

pub fn run<B: Train>(b: &B, c: &ModelConfig, repeat: usize, peak: &mut Peak, bandwidth: f64) -> Value {
    let mut b = Bench { b, probe: b.buf(1), peak, repeat, bandwidth, rows: vec![] };
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
fn linear<B: Train>(t: &mut Bench<B>, c: &ModelConfig) {
    let b = t.b;
    let layers = [("qkv", c.qkv(), c.width), ("gate_up", c.mlp_in(), c.width), ("down", c.width, c.mlp)];
    for (name, n, k) in layers {
        let (w, at, mut dw) = (t.values(n * k, 1.0), first(n * k), b.buf(n * k));
        for m in [8, 128, 2048] {
            let (x, mut y) = (t.values(m * k, 1.0), b.buf(m * n));
            let flops = || Work::Flops(2.0 * (m * n * k) as f64);
            t.time(&format!("{name}, [{m}, {k}] to {n}"), flops(), || {
                b.linear(&x, &w, at, &mut y, m, n, k, false)
            });
            if m == 2048 {
                let mut dx = b.buf(m * k);
                t.time(&format!("{name}, input gradient"), flops(), || {
                    b.linear_backward_input(&y, &w, at, &mut dx, m, n, k)
                });
                t.time(&format!("{name}, weight gradient"), flops(), || {
                    b.linear_backward_weight(&y, &x, &mut dw, at, m, n, k)
                });
            }
        }
    }
}

fn attend<B: Train>(t: &mut Bench<B>, name: &str, c: &ModelConfig, batch: usize, len: usize, base: Base) {
    let (a, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let stride = a + 2 * kv;
    let s = AttentionShape {
        row: 0,
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
    let place = |i: usize| Place { position: (i % len) as u32, ..Place::default() };
    let places: Vec<Place> = (0..batch * len).map(place).collect();
    let b = t.b;
    let mask = b.mask(base.into(), batch, &places, &places);
    let flops = b.pairs(&mask, batch) as f64 * a as f64;
    let (qkv, d_out) = (t.values(batch * len * stride, 1.0), t.values(batch * len * a, 1.0));
    let (mut out, mut lse) = (b.buf(batch * len * a), b.buf(batch * len * c.heads));
    t.time(name, Work::Flops(4.0 * flops), || b.attention(&qkv, &qkv, &mask, &mut out, &mut lse, s));
    let mut d = b.buf(batch * len * stride);
    t.time(&format!("{name}, backward"), Work::Flops(10.0 * flops), || {
        b.attention_backward(&d_out, &qkv, &out, &lse, &mask, &mut d, s)
    });
}

/// Everything that touches rows of activations or weights once.
fn rows<B: Train>(t: &mut Bench<B>, c: &ModelConfig) {
    let (b, m, d) = (t.b, 2048, c.width);
    let bytes = |n: usize| Work::Bytes(4.0 * n as f64);
    let (x, w, mut y) = (t.values(m * d, 1.0), t.values(d, 1.0), b.buf(m * d));
    let s = NormShape::packed(NormKind::Rms, m, d, 1e-5);
    t.time("norm, 2048 rows", bytes(2 * m * d), || b.norm(&x, &w, first(d), None, &mut y, s, false));
    let mut dw = b.buf(d);
    t.time("norm, backward", bytes(4 * m * d), || {
        b.norm_backward(&x, &x, &w, first(d), None, &mut y, &mut dw, s)
    });
    let (gu, mut act) = (t.values(2 * m * c.mlp, 1.0), b.buf(m * c.mlp));
    t.time("swiglu, 2048 rows", bytes(3 * m * c.mlp), || b.glu(Gate::Silu, &gu, &mut act, m, c.mlp));
    let (dy, mut dgu) = (t.values(m * c.mlp, 1.0), b.buf(2 * m * c.mlp));
    t.time("swiglu, backward", bytes(5 * m * c.mlp), || {
        b.glu_backward(Gate::Silu, &dy, &gu, &mut dgu, m, c.mlp)
    });
    let shape = RopeShape {
        rows: m,
        stride: c.qkv(),
        col: 0,
        heads: c.heads + c.kv_heads,
        head_dim: c.head_dim,
        theta: 1e4,
    };
    let positions = t.ids(&(0..m as u32).map(|i| i % 256).collect::<Vec<_>>());
    let mut qkv = t.values(m * c.qkv(), 1.0);
    let rotated = m * (c.heads + c.kv_heads) * c.head_dim;
    t.time("rope, 2048 rows", bytes(2 * rotated), || b.rope(&mut qkv, &positions, shape));
    let spread = t.ids(&(0..m).map(|i| (i * 7919 % c.vocab) as u32).collect::<Vec<_>>());
    // half of the positions are the mask, as in a corrupted batch
    let masked =
        t.ids(&(0..m).map(|i| if i % 2 == 0 { 1 } else { (i * 7919 % c.vocab) as u32 }).collect::<Vec<_>>());
    let (mut table, at) = (t.values(c.vocab * d, 1.0), first(c.vocab * d));
    t.time("embed, 2048 rows", bytes(2 * m * d), || b.embed(&spread, &table, at, 1.0, &mut y, m, d));
    t.time("embed, backward", bytes(3 * m * d), || b.embed_backward(&spread, &x, &mut table, at, 1.0, m, d));
    t.time("embed, backward, half of them the mask", bytes(3 * m * d), || {
        b.embed_backward(&masked, &x, &mut table, at, 1.0, m, d)
    });
    let n = c.parameters();
    let (mut p, g, mut v1, mut v2) = (t.values(n, 1.0), t.values(n, 1.0), b.buf(n), b.buf(n));
    let step = AdamStep::new(1e-4, [0.9, 0.95], 1e-8, 0.1, 1);
    t.time("adamw, all parameters", bytes(7 * n), || b.adamw(&mut p, &g, &mut v1, &mut v2, None, step));
}

fn heads<B: Train>(t: &mut Bench<B>, c: &ModelConfig) {
    let (b, d, v) = (t.b, c.width, c.vocab);
    let (table, at, hidden) = (t.values(v * d, 0.05), first(v * d), t.values(512 * d, 1.0));
    for (name, top_k, temperature) in [("argmax", 0, 0.0), ("top 8", 8, 0.0), ("top 8, drawn", 8, 1.0)] {
        let job = HeadJob { rows: 128, width: d, vocab: v, top_k, temperature, seed: 1, forbid: vec![1] };
        let (keys, mut out) = (t.ids(&[3; 4 * 128]), b.buf(128 * (STATS + 2 * top_k)));
        t.time(&format!("head, 128 rows, {name}"), Work::Flops(2.0 * (128 * d * v) as f64), || {
            b.head(&hidden, &table, at, &keys, &mut out, &job)
        });
    }
    let asked = vec![LossRow { target: 5, d_log_p: -1.0, ..Default::default() }; 512];
    let (mut dh, mut dt) = (b.buf(512 * d), b.buf(v * d));
    t.time("head, loss and gradients, 512 rows", Work::Flops(6.0 * (512 * d * v) as f64), || {
        drop(b.head_loss(&hidden, &table, at, &asked, &[1], d, Some((&mut dh, &mut dt))))
    });
    let noise = Mixture { alpha: 0.5, beta: 1e-5, observed: Some(9), weight: 1.0 };
    let mixed = vec![LossRow { target: 5, mixture: Some(noise), ..Default::default() }; 512];
    t.time("head, mixed noise and gradients, 512 rows", Work::Flops(6.0 * (512 * d * v) as f64), || {
        drop(b.head_loss(&hidden, &table, at, &mixed, &[1], d, Some((&mut dh, &mut dt))))
    });
}
