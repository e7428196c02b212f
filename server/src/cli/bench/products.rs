//! `hilda bench gemm`: the three products of a linear layer (y = x w^T, its input gradient, its weight gradient) in the
//! shapes of a preset and as cubes, by each way a device has.

use hilda_engine::config::ModelConfig;
use hilda_kernels::{At, Train};
use serde_json::{Value, json};

use super::peak::{each, median};

/// Rows of activations: a decoding step, a micro-batch on the CPU, one on a GPU.
const ROWS: [usize; 3] = [128, 2048, 8192];

/// GFLOP/s of y = x w^T, of the input gradient and of the weight gradient, x [m, k], w [n, k].
fn three<B: Train>(b: &B, m: usize, n: usize, k: usize, repeat: usize) -> [f64; 3] {
    let fill = |len: usize| {
        let mut buf = b.buf(len);
        b.write(&mut buf, 0, &(0..len).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect::<Vec<_>>());
        buf
    };
    let (x, w, at) = (fill(m * k), fill(n * k), At::new(0, n * k));
    let (mut y, dy, mut dx, mut dw) = (b.buf(m * n), fill(m * n), b.buf(m * k), b.buf(n * k));
    let probe = b.buf(1);
    let wait = || drop(b.read_range(&probe, 0, 1));
    let rate = |times: Vec<f64>| 2.0 * (m * n * k) as f64 / median(times) / 1e9;
    [
        rate(each(repeat, || b.linear(&x, &w, at, &mut y, m, n, k, false), wait)),
        rate(each(repeat, || b.linear_backward_input(&dy, &w, at, &mut dx, m, n, k), wait)),
        rate(each(repeat, || b.linear_backward_weight(&dy, &x, &mut dw, at, m, n, k), wait)),
    ]
}

/// One row a shape and product, with the GFLOP/s of every way by its name.
pub fn run<B: Train>(ways: &[(&'static str, B)], c: &ModelConfig, repeat: usize) -> Vec<Value> {
    let layers = [c.qkv(), c.mlp_in(), c.vocab].map(|n| (n, c.width));
    let shapes = ROWS.iter().flat_map(|m| layers.iter().map(move |(n, k)| (*m, *n, *k)));
    let shapes: Vec<_> = shapes.chain([(2048, 2048, 2048)]).collect();
    let mut out = vec![];
    for (m, n, k) in shapes {
        let rates: Vec<[f64; 3]> = ways.iter().map(|(_, b)| three(b, m, n, k, repeat)).collect();
        for (i, name) in ["y = x w^T", "input gradient", "weight gradient"].into_iter().enumerate() {
            let mut row = json!({ "product": name, "rows": m, "out": n, "in": k });
            for ((way, _), rate) in ways.iter().zip(&rates) {
                row[format!("{}_gflops", way.replace(' ', "_"))] = rate[i].into();
            }
            out.push(row);
        }
    }
    out
}
