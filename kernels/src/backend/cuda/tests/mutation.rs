//! Can these tests fail? Kernels with one barrier removed or one index shifted must not pass them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::Cuda;
use super::super::kernels::{SOURCES, Source};
use super::super::shim::Shim;
use super::{attention, head, ops};
use crate::attention::reference;
use crate::attention::rule::Base;
use crate::attention::tests::{fused, sequence};
use crate::backend::{Backend, Train};
use crate::fixtures::values;
use crate::norm::{NormKind, NormShape};
use crate::tolerance::{ATTENTION, ATTENTION_BACKWARD, HEAD_BACKWARD, REDUCE, assert_close};

/// What fails when a kernel is wrong.
type Test<'a> = &'a dyn Fn(&Cuda<Shim>);

fn source(name: &str) -> &'static Source {
    SOURCES.iter().find(|s| s.name == name).expect("an operation with kernels")
}

/// `text` without its `n`-th barrier.
fn without_barrier(text: &str, n: usize) -> Option<String> {
    let at = text.match_indices("__syncthreads();").nth(n)?.0;
    Some(format!("{}{}", &text[..at], &text[at + "__syncthreads();".len()..]))
}

/// Does `test` notice that `text` replaces the operation's file?
fn notices(name: &'static str, text: &str, test: Test) -> bool {
    let source = source(name);
    let shim = Shim::with(source.name, text, source.kernels).expect("a mutated kernel compiles");
    let cuda = Cuda::new(shim);
    catch_unwind(AssertUnwindSafe(|| test(&cuda))).is_err()
}

fn products(cuda: &Cuda<Shim>) {
    for seed in 0..2 {
        ops::products(cuda, 140, 132, 48, seed);
        ops::products(cuda, 70, 66, 40, seed);
    }
}

fn attention(cuda: &Cuda<Shim>) {
    attention_of(cuda, &[32, 64, 128]);
}

fn attention_in_slices(cuda: &Cuda<Shim>) {
    attention_of(cuda, &[256]);
}

fn attention_of(cuda: &Cuda<Shim>, head_dims: &[usize]) {
    for head_dim in head_dims.iter().copied() {
        let (rule, s) = (Base::Causal.into(), fused(1, 150, (2, 1), head_dim, 0));
        let places = sequence(150, rule, 1, 1);
        let (qkv, d_out) = (values(1, 150 * s.q_stride), values(2, 150 * s.heads * head_dim));
        let (out, d) = attention::both(cuda, &qkv, &d_out, rule, &places, &places, s);
        assert_close("out", &out, &reference::attention(&qkv, &qkv, rule, &places, &places, s), ATTENTION);
        let (dq, dkv) = reference::attention_backward(&d_out, &qkv, &qkv, rule, &places, &places, s);
        let want: Vec<f32> = dq.iter().zip(&dkv).map(|(a, b)| a + b).collect();
        assert_close("d_qkv", &d, &want, ATTENTION_BACKWARD);
    }
}

fn rows_of_the_head(cuda: &Cuda<Shim>) {
    for seed in 0..2 {
        head::loss(cuda, 3, 5, 700, seed, HEAD_BACKWARD);
        head::distill(cuda, 3, [5, 4], 700, 1.5, seed);
        for temperature in [0.0, 1.0] {
            head::statistics(cuda, 3, 5, 700, 4, temperature, seed);
        }
    }
}

fn rows(cuda: &Cuda<Shim>) {
    let ids: Vec<u32> = (0..300).map(|r| r * 7 % 5).collect();
    let (mut table, d) = (vec![0.0; 5 * 40], values(1, 300 * 40));
    let (gd, gi, mut out) = (cuda.f32s(&d), cuda.u32s(&ids), cuda.buf(5 * 40));
    for _ in 0..2 {
        cuda.scatter(&gd, &gi, &mut out, 300, 40);
        table.fill(0.0);
        crate::embed::reference::scatter_add(&d, &ids, 1.0, &mut table, 40);
        assert_close("scatter", &cuda.all(&out), &table, crate::tolerance::SCATTER.times(10.0));
    }
    ops::mixtures(cuda, 60, 5, 5, 40, 1);
}

fn sums(cuda: &Cuda<Shim>) {
    for seed in 0..2 {
        let x = values(seed, 300 * 4096);
        let want: f64 = x.iter().map(|x| (*x as f64).powi(2)).sum();
        assert_close("sum of squares", &[cuda.sum_squares(&cuda.f32s(&x))], &[want], REDUCE);
    }
}

fn norms(cuda: &Cuda<Shim>) {
    for (kind, width) in [(NormKind::Rms, 36), (NormKind::Layer, 35)] {
        for seed in 0..2 {
            ops::norm(cuda, NormShape::packed(kind, 40, width, 1e-2), true, false, seed);
        }
    }
}

/// Every barrier of every kernel whose tests are cheap enough to run once for each.
#[test]
fn a_removed_barrier_is_noticed() {
    if let Err(e) = super::super::shim::compiler() {
        println!("SKIPPED a_removed_barrier_is_noticed: {e}");
        return;
    }
    let tests: &[(&'static str, Test)] = &[
        ("gemm", &products),
        ("attention", &attention),
        ("attention_slices", &attention_in_slices),
        ("head", &rows_of_the_head),
        ("embed", &rows),
        ("reduce", &sums),
        ("norm", &norms),
    ];
    for (name, test) in tests {
        let text = source(name).cuda;
        assert!(!notices(name, text, test), "{name}: the test fails on the kernel as it is");
        let barriers = text.matches("__syncthreads();").count();
        let missed: Vec<usize> = (0..barriers)
            .filter(|n| !notices(name, &without_barrier(text, *n).expect("counted"), test))
            .collect();
        println!("{name}: {} of {barriers} removed barriers noticed", barriers - missed.len());
        assert!(missed.is_empty(), "{name}: nothing noticed that barrier {missed:?} is gone");
    }
}

#[test]
fn a_shifted_index_is_noticed() {
    if let Err(e) = super::super::shim::compiler() {
        println!("SKIPPED a_shifted_index_is_noticed: {e}");
        return;
    }
    let shifts: &[(&'static str, &str, &str, Test)] = &[
        ("gemm", "row0 + my_row + i % 4", "row0 + my_row + (i + 1) % 4", &products),
        ("gemm", "half ^= 1;", "half ^= 0;", &products),
        ("gemm", "lane % 8 * 4", "lane % 8 * 4 + 1", &products),
        ("attention", "tx * STEP + c % STEP", "tx * STEP + (c + 1) % STEP", &attention),
        ("attention", "k0 % MASK_TILE + tx", "k0 % MASK_TILE + tx + 1", &attention),
        ("attention", "(c / 4 ^ swap<WIDTH>(r))", "(c / 4 ^ swap<WIDTH>(r + 1))", &attention),
        ("attention_slices", "c * SLICE + 4 * g", "c / 2 * SLICE + 4 * g", &attention_in_slices),
        ("attention_slices", "whole + c * WHOLE_ROWS", "whole + (c ^ 1) * WHOLE_ROWS", &attention_in_slices),
        ("head", "float c = rows[1]", "float c = rows[2]", &rows_of_the_head),
        ("embed", "__ffs(left) - 1", "__ffs(left)", &rows),
        ("reduce", "begin + CHUNK", "begin + CHUNK - 4", &sums),
        ("norm", "memory[i * width + c]", "memory[i * width + c / 2]", &norms),
    ];
    for (name, from, to, test) in shifts {
        let text = source(name).cuda;
        assert_eq!(text.matches(from).count(), 1, "{name}: {from}");
        assert!(notices(name, &text.replace(from, to), test), "{name}: nothing noticed {to}");
    }
}
