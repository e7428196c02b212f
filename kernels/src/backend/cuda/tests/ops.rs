//! Everything but attention and the head, with the strategies and tolerances of the operations' own tests.

use proptest::prelude::*;

use super::super::{Cuda, Device, Product};
use super::{check, on_every_device};
use crate::adam::{self, AdamStep};
use crate::backend::{At, Backend, RopeShape, Train};
use crate::fixtures::{size, values, width};
use crate::gemm::{self, Mat};
use crate::glu::Gate;
use crate::norm::{NormKind, NormShape};
use crate::rng::{Rng, Stream};
use crate::tolerance::{ADAM, EXACT, GEMM, GLU, NORM, NORM_BACKWARD, REDUCE, ROPE, SCATTER, assert_close};
use crate::{embed, gelu, glu, norm, rope};

on_every_device!(
    products_match,
    products_of_large_matrices_match,
    long_sums_are_split_and_still_match,
    rows_by_index_match,
    mixtures_of_rows_match,
    norms_match,
    biases_match,
    rotations_match,
    gated_units_match,
    the_optimiser_matches,
    sums_and_copies_match,
);

/// A tensor behind 64 other values, as parameters lie in a buffer.
fn behind(data: &[f32]) -> (Vec<f32>, At) {
    let mut all = vec![9.0; 64];
    all.extend_from_slice(data);
    (all, At::new(64, data.len()))
}

fn ids(seed: u64, rows: usize, below: usize) -> Vec<u32> {
    let rng = Rng::new(seed, Stream::Test, 2);
    (0..rows).map(|r| rng.below(0, r as u32, 0, below as u64) as u32).collect()
}

/// The three products of a linear layer and their accumulation.
pub(super) fn products<D: Device>(cuda: &Cuda<D>, m: usize, n: usize, k: usize, seed: u64) {
    let (x, w, dy) = (values(seed, m * k), values(seed ^ 1, n * k), values(seed ^ 2, m * n));
    let (params, at) = behind(&w);
    let (gx, gp, gdy) = (cuda.f32s(&x), cuda.f32s(&params), cuda.f32s(&dy));
    for accumulate in [false, true] {
        let mut want = if accumulate { dy.clone() } else { vec![f32::NAN; m * n] };
        let mut got = cuda.f32s(&want);
        let (a, b) = (Mat::rows(&x, k), Mat::rows(&w, k).t());
        gemm::reference::gemm(m, n, k, 1.0, a, b, &mut want, n, accumulate);
        cuda.linear(&gx, &gp, at, &mut got, m, n, k, accumulate);
        assert_close(&format!("y {m} {n} {k} {accumulate}"), &cuda.all(&got), &want, GEMM);
    }
    let (mut want, mut got) = (vec![f32::NAN; m * k], cuda.f32s(&vec![f32::NAN; m * k]));
    gemm::reference::gemm(m, k, n, 1.0, Mat::rows(&dy, n), Mat::rows(&w, k), &mut want, k, false);
    cuda.linear_backward_input(&gdy, &gp, at, &mut got, m, n, k);
    assert_close(&format!("dx {m} {n} {k}"), &cuda.all(&got), &want, GEMM);
    let (mut want, mut got) = (params.clone(), cuda.f32s(&params));
    gemm::reference::gemm(n, k, m, 1.0, Mat::rows(&dy, n).t(), Mat::rows(&x, k), &mut want[64..], k, true);
    cuda.linear_backward_weight(&gdy, &gx, &mut got, at, m, n, k);
    assert_close(&format!("dw {m} {n} {k}"), &cuda.all(&got), &want, GEMM);
}

fn products_match<D: Device>(cuda: &Cuda<D>) {
    check(24, (size(), size(), size(), any::<u64>()), |(m, n, k, seed)| products(cuda, m, n, k, seed));
}

/// Whole and ragged tiles of 128, rows aligned and not.
fn products_of_large_matrices_match<D: Device>(cuda: &Cuda<D>) {
    for (m, n, k) in [(256, 256, 24), (257, 131, 20), (129, 260, 33)] {
        products(cuda, m, n, k, 7);
    }
}

fn long_sums_are_split_and_still_match<D: Device>(cuda: &Cuda<D>) {
    let shape = Product {
        a_transposed: true,
        b_transposed: false,
        a: 0,
        b: 0,
        c: 0,
        m: 70,
        n: 66,
        k: 1000,
        accumulate: true,
    };
    assert!(super::super::launch::plan(2, &shape).parts > 1);
    products(cuda, 1000, 70, 66, 3);
    products(cuda, 5, 6, 1000, 4);
}

/// An id in half of the rows, as the mask is: over many chunks, and with the CPU's bits.
fn a_heavy_id<D: Device>(cuda: &Cuda<D>) {
    for (rows, width) in [(64, 4), (65, 33), (500, 36)] {
        let ids: Vec<u32> = (0..rows as u32).map(|r| if r % 2 == 0 { 3 } else { 4 + r % 7 }).collect();
        let (d, start) = (values(1, rows * width), values(2, 11 * width));
        let (params, at) = behind(&start);
        let (gd, gi, mut grads) = (cuda.f32s(&d), cuda.u32s(&ids), cuda.f32s(&params));
        cuda.embed_backward(&gi, &gd, &mut grads, at, 1.0, rows, width);
        let mut cpu = params.clone();
        embed::scatter_add(&d, &ids, 1.0, &mut cpu[64..], width);
        assert_close("heavy id, CPU", &cuda.all(&grads), &cpu, EXACT);
        let mut want = params;
        embed::reference::scatter_add(&d, &ids, 1.0, &mut want[64..], width);
        assert_close("heavy id", &cuda.all(&grads), &want, SCATTER.times(40.0));
    }
}

fn rows_by_index_match<D: Device>(cuda: &Cuda<D>) {
    a_heavy_id(cuda);
    check(24, (size(), 1usize..40, width(), any::<u64>()), |(rows, table_rows, width, seed)| {
        let ids = ids(seed, rows, table_rows);
        let table = values(seed, table_rows * width);
        let (params, at) = behind(&table);
        let (gp, gi) = (cuda.f32s(&params), cuda.u32s(&ids));
        let mut out = cuda.f32s(&vec![f32::NAN; rows * width]);
        let want = embed::reference::gather(&table, &ids, 1.0, width);
        cuda.embed(&gi, &gp, at, 1.0, &mut out, rows, width);
        assert_close("embed", &cuda.all(&out), &want, EXACT);
        let x = cuda.f32s(&table);
        cuda.gather(&x, &gi, &mut out, rows, width);
        assert_close("gather", &cuda.all(&out), &want, EXACT);

        let d = values(seed ^ 1, rows * width);
        let (gd, mut grads, mut want) = (cuda.f32s(&d), cuda.f32s(&params), params.clone());
        embed::reference::scatter_add(&d, &ids, 1.0, &mut want[64..], width);
        cuda.embed_backward(&gi, &gd, &mut grads, at, 1.0, rows, width);
        assert_close("embed_backward", &cuda.all(&grads), &want, SCATTER.times(10.0));
        // the same order of additions as on the CPU: the same bits
        let mut cpu = params.clone();
        embed::scatter_add(&d, &ids, 1.0, &mut cpu[64..], width);
        assert_close("embed_backward, CPU", &cuda.all(&grads), &cpu, EXACT);
        // scaled as Gemma's
        let (mut out, mut want) = (cuda.f32s(&vec![f32::NAN; rows * width]), params.clone());
        cuda.embed(&gi, &gp, at, 1.5, &mut out, rows, width);
        let scaled = embed::reference::gather(&table, &ids, 1.5, width);
        assert_close("scaled embed", &cuda.all(&out), &scaled, EXACT);
        let mut grads = cuda.f32s(&params);
        embed::reference::scatter_add(&d, &ids, 1.5, &mut want[64..], width);
        cuda.embed_backward(&gi, &gd, &mut grads, at, 1.5, rows, width);
        assert_close("scaled embed_backward", &cuda.all(&grads), &want, SCATTER.times(15.0));
        let (mut out, mut want) = (cuda.f32s(&table), vec![0.0; table.len()]);
        embed::reference::scatter_add(&d, &ids, 1.0, &mut want, width);
        cuda.scatter(&gd, &gi, &mut out, rows, width);
        assert_close("scatter", &cuda.all(&out), &want, SCATTER.times(10.0));
    });
}

/// Groups inside wider rows, with and without a bias, adding to y or not.
pub(super) fn norm<D: Device>(cuda: &Cuda<D>, s: NormShape, bias: bool, accumulate: bool, seed: u64) {
    let (nx, ny) = s.need();
    let (x, dy) = (values(seed, nx), values(seed ^ 2, ny));
    let (w, b) = (values(seed ^ 1, s.width), values(seed ^ 5, if bias { s.width } else { 0 }));
    // 64 others, the weight, the bias at the next multiple of 64
    let (mut params, at) = behind(&w);
    params.resize(params.len().next_multiple_of(64), 9.0);
    let bias_at = bias.then_some(At::new(params.len(), s.width));
    params.extend_from_slice(&b);
    let (gx, gp, gdy) = (cuda.f32s(&x), cuda.f32s(&params), cuda.f32s(&dy));
    let mut want = values(seed ^ 6, ny);
    let mut y = cuda.f32s(&want);
    norm::reference::norm(&x, &w, &b, &mut want, s, accumulate);
    cuda.norm(&gx, &gp, at, bias_at, &mut y, s, accumulate);
    assert_close("y", &cuda.all(&y), &want, NORM.times(2.0));
    // all gradients accumulate; what lies between the groups stays
    let (mut dx, mut grads) = (values(seed ^ 3, nx), params.clone());
    let (mut gdx, mut gg) = (cuda.f32s(&dx), cuda.f32s(&grads));
    let (head, tail) = grads.split_at_mut(params.len() - b.len());
    norm::reference::norm_backward(&dy, &x, &w, &mut dx, &mut head[64..64 + s.width], tail, s);
    cuda.norm_backward(&gdy, &gx, &gp, at, bias_at, &mut gdx, &mut gg, s);
    assert_close("dx", &cuda.all(&gdx), &dx, NORM_BACKWARD);
    assert_close("dw and db", &cuda.all(&gg), &grads, NORM_BACKWARD.times(5.0));
}

fn mixtures_of_rows_match<D: Device>(cuda: &Cuda<D>) {
    check(
        24,
        (size(), 0usize..6, 1usize..40, width(), any::<u64>()),
        |(rows, k, table_rows, width, seed)| {
            mixtures(cuda, rows, k, table_rows, width, seed);
        },
    );
}

pub(super) fn mixtures<D: Device>(
    cuda: &Cuda<D>,
    rows: usize,
    k: usize,
    table_rows: usize,
    width: usize,
    seed: u64,
) {
    let (ids, scale) = (ids(seed, rows * k, table_rows), 1.5);
    let (table, weights) = (values(seed, table_rows * width), values(seed ^ 1, rows * k));
    let (params, at) = behind(&table);
    let (gp, gi, gw) = (cuda.f32s(&params), cuda.u32s(&ids), cuda.f32s(&weights));
    let mut out = cuda.f32s(&vec![f32::NAN; rows * width]);
    cuda.embed_mix(&gi, &gw, &gp, at, scale, &mut out, rows, k, width);
    let want = embed::reference::mix(&table, &ids, &weights, scale, rows, width);
    assert_close("embed_mix", &cuda.all(&out), &want, SCATTER.times(10.0));
    let d = values(seed ^ 2, rows * width);
    let (gd, mut dw) = (cuda.f32s(&d), cuda.f32s(&vec![f32::NAN; rows * k]));
    let mut grads = cuda.f32s(&params);
    cuda.embed_mix_backward(&gi, &gw, &gd, &gp, at, scale, &mut dw, &mut grads, rows, k, width);
    let want = embed::reference::mix_backward(&table, &ids, &weights, &d, scale, width);
    assert_close("d_weights", &cuda.all(&dw), &want.0, SCATTER.times(40.0));
    let sum: Vec<f32> =
        params.iter().enumerate().map(|(i, p)| p + if i < 64 { 0.0 } else { want.1[i - 64] }).collect();
    assert_close("d_table accumulates", &cuda.all(&grads), &sum, SCATTER.times(40.0));
}

fn norms_match<D: Device>(cuda: &Cuda<D>) {
    let kind = prop_oneof![Just(NormKind::Rms), Just(NormKind::Layer)];
    let rows = prop_oneof![size(), 250usize..300];
    let sizes = (kind, rows, 1usize..4, width(), 0usize..5);
    check(32, (sizes, any::<bool>(), any::<bool>(), any::<u64>()), |(sizes, bias, accumulate, seed)| {
        let (kind, rows, groups, width, pad) = sizes;
        // as in the operation's tests: a large eps bounds 1 / s on rows of a few tiny values
        let (x_stride, y_stride) = (groups * width + 2 * pad, groups * width + pad);
        let s = NormShape { kind, rows, groups, width, eps: 1e-2, x_stride, x_col: pad, y_stride, y_col: 0 };
        norm(cuda, s, bias, accumulate, seed);
    });
    // rows so wide that a block has fewer warps
    norm(cuda, NormShape::packed(NormKind::Rms, 5, 4096, 1e-2), false, false, 1);
    norm(cuda, NormShape::packed(NormKind::Layer, 3, 6144, 1e-2), true, false, 2);
}

fn biases_match<D: Device>(cuda: &Cuda<D>) {
    let rows = prop_oneof![size(), 200usize..300];
    check(24, (rows, width(), any::<u64>()), |(rows, width, seed)| {
        let (b, y) = (values(seed, width), values(seed ^ 1, rows * width));
        let (params, at) = behind(&b);
        let (gp, mut gy) = (cuda.f32s(&params), cuda.f32s(&y));
        cuda.add_bias(&mut gy, &gp, at, rows, width);
        let want: Vec<f32> = y.iter().enumerate().map(|(i, y)| y + b[i % width]).collect();
        assert_close("y", &cuda.all(&gy), &want, EXACT);
        let (gdy, mut grads) = (cuda.f32s(&y), cuda.f32s(&params));
        cuda.add_bias_backward(&gdy, &mut grads, at, rows, width);
        let sum = |i: usize| b[i] as f64 + (0..rows).map(|r| y[r * width + i] as f64).sum::<f64>();
        let sums: Vec<f64> = (0..width).map(sum).collect();
        assert_close("db", &cuda.all(&grads)[64..], &sums, SCATTER.times(100.0));
    });
}

fn rotations_match<D: Device>(cuda: &Cuda<D>) {
    let half = prop_oneof![1usize..5, Just(16usize), 30usize..34];
    let strategy = (size(), 1usize..4, half, (0usize..5, 0usize..5), 0u32..70_000, any::<u64>());
    check(24, strategy, |(rows, heads, half, (col, pad), start, seed)| {
        let stride = col + heads * 2 * half + pad;
        let theta = [10_000.0, 500_000.0, 100.0][seed as usize % 3];
        let shape = RopeShape { rows, stride, col, heads, head_dim: 2 * half, theta };
        let positions: Vec<u32> = ids(seed, rows, 500).iter().map(|p| start + p).collect();
        let x = values(seed, (rows + 2) * stride);
        let gp = cuda.u32s(&positions);
        for inverse in [false, true] {
            let (mut got, mut want) = (cuda.f32s(&x), x.clone());
            rope::reference::rope(&mut want, &positions, shape, if inverse { -1.0 } else { 1.0 });
            match inverse {
                false => cuda.rope(&mut got, &gp, shape),
                true => cuda.rope_backward(&mut got, &gp, shape),
            }
            // two roundings of the fraction of a turn more than the table of the CPU
            assert_close("rope", &cuda.all(&got), &want, ROPE.times(2.0));
        }
    });
}

fn gated_units_match<D: Device>(cuda: &Cuda<D>) {
    let gate = prop_oneof![Just(Gate::Silu), Just(Gate::Gelu)];
    check(32, (gate, size(), width(), 1u32..20, any::<u64>()), |(gate, rows, width, scale, seed)| {
        let x: Vec<f32> = values(seed, 2 * rows * width).iter().map(|x| x * scale as f32).collect();
        let dy = values(seed ^ 1, rows * width);
        let (gx, gdy) = (cuda.f32s(&x), cuda.f32s(&dy));
        let (mut y, mut want) = (cuda.f32s(&vec![f32::NAN; rows * width]), vec![f32::NAN; rows * width]);
        glu::reference::glu(gate, &x, &mut want, width);
        cuda.glu(gate, &gx, &mut y, rows, width);
        assert_close("y", &cuda.all(&y), &want, GLU.times(scale as f64));
        let (mut d, mut want) = (cuda.f32s(&vec![f32::NAN; x.len()]), vec![f32::NAN; x.len()]);
        glu::reference::glu_backward(gate, &dy, &x, &mut want, width);
        cuda.glu_backward(gate, &gdy, &gx, &mut d, rows, width);
        assert_close("d", &cuda.all(&d), &want, GLU.times(scale as f64));
        // gelu alone, over the same values
        let (n, dy) = (x.len(), values(seed ^ 2, x.len()));
        let (mut y, mut d, gdy) =
            (cuda.f32s(&vec![f32::NAN; n]), cuda.f32s(&vec![f32::NAN; n]), cuda.f32s(&dy));
        cuda.gelu(&gx, &mut y, n);
        cuda.gelu_backward(&gdy, &gx, &mut d, n);
        let want: Vec<f64> = x.iter().map(|x| gelu::reference::value(*x as f64)).collect();
        assert_close("gelu", &cuda.all(&y), &want, GLU.times(scale as f64));
        let want: Vec<f64> =
            x.iter().zip(&dy).map(|(x, d)| *d as f64 * gelu::reference::slope(*x as f64)).collect();
        assert_close("gelu'", &cuda.all(&d), &want, GLU.times(scale as f64));
    });
    let x = [-3e4f32, -100.0, 100.0, 3e4, 1.0, 1.0, 1.0, 1.0];
    for gate in [Gate::Silu, Gate::Gelu] {
        let (gx, mut y) = (cuda.f32s(&x), cuda.buf(4));
        cuda.glu(gate, &gx, &mut y, 1, 4);
        assert_close("extreme gates", &cuda.all(&y), &[0f32, 0.0, 100.0, 3e4], GLU);
    }
}

fn the_optimiser_matches<D: Device>(cuda: &Cuda<D>) {
    let strategy =
        (prop_oneof![size(), Just(20_005usize)], 0.1f32..2.0, 0.0f64..0.2, any::<bool>(), any::<u64>());
    check(16, strategy, |(n, clip, decay, averaged, seed)| {
        let (mut w, mut m, mut v) = (values(seed, n), vec![0f32; n], vec![0f32; n]);
        let mut average: Vec<f64> = w.iter().map(|x| *x as f64).collect();
        let (mut gw, mut ge) = (cuda.f32s(&w), cuda.f32s(&w));
        let (mut gm, mut gv) = (cuda.buf(n), cuda.buf(n));
        for t in 1..=4 {
            let g = values(seed ^ t, n);
            let mut step = AdamStep::new(1e-2, [0.9, 0.95], 1e-8, decay, t);
            (step.grad_scale, step.ema) = (clip, averaged.then_some(0.9));
            let ema = averaged.then_some(&mut ge);
            // whole, or in pieces as more weights than 31 bits count
            match seed % 2 {
                0 => cuda.adamw(&mut gw, &cuda.f32s(&g), &mut gm, &mut gv, ema, step),
                _ => cuda.adamw_in(4096, &mut gw, &cuda.f32s(&g), &mut gm, &mut gv, ema, step),
            }
            adam::reference::adamw(&mut w, &g, &mut m, &mut v, step);
            average.iter_mut().zip(&w).for_each(|(a, w)| *a = 0.9 * *a + 0.1 * *w as f64);
        }
        assert_close("w", &cuda.all(&gw), &w, ADAM);
        assert_close("m", &cuda.all(&gm), &m, ADAM);
        assert_close("v", &cuda.all(&gv), &v, ADAM);
        if averaged {
            assert_close("average", &cuda.all(&ge), &average, ADAM);
        }
    });
}

fn sums_and_copies_match<D: Device>(cuda: &Cuda<D>) {
    for n in [0usize, 1, 5, 4096, 4099, 50_001] {
        let x = values(n as u64, n);
        let want: f64 = x.iter().map(|x| (*x as f64).powi(2)).sum();
        let (x, whole) = (cuda.f32s(&x), cuda.sum_squares(&cuda.f32s(&x)));
        assert_close("sum of squares", &[whole], &[want], REDUCE);
        assert_eq!(cuda.squares_in(&x, 8192), whole, "in pieces");
    }
    let src: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let (x, mut y) = (cuda.f32s(&src), cuda.f32s(&[-1.0; 15]));
    // columns 1..3 of three rows of 4 into columns 3..5 of rows of 5
    cuda.copy_columns(&x, 4, 1, &mut y, 5, 3, 0, 3, 2);
    let want = [-1.0, -1.0, -1.0, 1.0, 2.0, -1.0, -1.0, -1.0, 5.0, 6.0, -1.0, -1.0, -1.0, 9.0, 10.0f32];
    assert_close("columns", &cuda.all(&y), &want, EXACT);
    cuda.copy(&x, 5, &mut y, 1, 3);
    assert_close("copy", &cuda.read_range(&y, 0, 5), &[-1.0, 5.0, 6.0, 7.0, 2.0f32], EXACT);
    let (x, mut y) = (cuda.f32s(&values(1, 240)), cuda.buf(360));
    cuda.copy_columns(&x, 24, 8, &mut y, 36, 4, 0, 10, 12);
    let (x, y) = (cuda.all(&x), cuda.all(&y));
    for r in 0..10 {
        assert_close("wide columns", &y[36 * r + 4..][..12], &x[24 * r + 8..][..12], EXACT);
    }
    assert_eq!(
        y.iter().filter(|y| **y != 0.0).count(),
        x.chunks(24).flat_map(|r| &r[8..20]).filter(|x| **x != 0.0).count()
    );
}
