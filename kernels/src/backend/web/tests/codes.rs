//! Weights in int8 rows: what a shader reads of them is what it reads of the same weights in f32, to the bit.

use super::{Web, normals, web};
use crate::backend::{At, Backend, Form, HeadJob};
use crate::quant::rows8;
use crate::rng::{Rng, Stream};

/// The same weight [n, k] at value 64 of a buffer, in f32 and in int8 rows.
struct Twins {
    floats: super::WebBuf,
    codes: super::WebBuf,
    float_at: At,
    code_at: At,
}

fn twins(web: &Web, seed: u64, n: usize, k: usize) -> Twins {
    let rng = Rng::new(seed, Stream::Test, 2);
    let code = |i: usize| rng.bits(0, i as u32, 0).0 as i8;
    let codes: Vec<i8> = (0..n * k).map(code).collect();
    let scales: Vec<f32> = normals(seed, n, 1e-2).iter().map(|s| s.abs()).collect();
    let mut floats = vec![0.0; 64];
    floats.extend(codes.iter().enumerate().map(|(i, c)| f32::from(*c) * scales[i / k]));
    let mut packed = vec![0.0; 64 + n * rows8::row_words(k)];
    rows8::pack(&codes, &scales, k, &mut packed[64..]);
    Twins {
        floats: web.f32s(&floats),
        codes: web.f32s(&packed),
        float_at: At::new(64, n * k),
        code_at: At { form: Form::Rows8, ..At::new(64, n * rows8::row_words(k)) },
    }
}

fn same(what: &str, a: &[f32], b: &[f32]) {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(a) == bits(b), "{what}");
}

#[test]
fn products_are_those_of_the_floats() {
    let Some(web) = web("products_are_those_of_the_floats") else { return };
    for (m, n, k) in [(1, 1, 4), (7, 65, 12), (8, 64, 32), (33, 100, 68), (64, 96, 48), (700, 700, 68)] {
        let (t, x) = (twins(&web, (m + n) as u64, n, k), normals(1, m * k, 1.0));
        let (x, start) = (web.f32s(&x), normals(2, m * n, 1.0));
        let (mut a, mut b) = (web.f32s(&start), web.f32s(&start));
        for accumulate in [true, false] {
            web.linear(&x, &t.floats, t.float_at, &mut a, m, n, k, accumulate);
            web.linear(&x, &t.codes, t.code_at, &mut b, m, n, k, accumulate);
            same(&format!("linear {m} {n} {k} {accumulate}"), &web.all(&a), &web.all(&b));
        }
    }
}

#[test]
fn rows_are_those_of_the_floats() {
    let Some(web) = web("rows_are_those_of_the_floats") else { return };
    for (rows, k, width, table_rows) in [(1, 1, 4, 1), (5, 2, 8, 4), (33, 4, 96, 50), (300, 3, 260, 9)] {
        let t = twins(&web, rows as u64, table_rows, width);
        let ids: Vec<u32> = (0..rows * k).map(|r| (r * 7 % (table_rows + 1)) as u32).collect();
        let (ids, weights) = (web.u32s(&ids), web.f32s(&normals(3, rows * k, 1.0)));
        let (mut a, mut b) = (web.buf(rows * width), web.buf(rows * width));
        web.embed(&ids, &t.floats, t.float_at, 3.0, &mut a, rows, width);
        web.embed(&ids, &t.codes, t.code_at, 3.0, &mut b, rows, width);
        same("embed", &web.all(&a), &web.all(&b));
        web.embed_mix(&ids, &weights, &t.floats, t.float_at, 0.5, &mut a, rows, k, width);
        web.embed_mix(&ids, &weights, &t.codes, t.code_at, 0.5, &mut b, rows, k, width);
        same("mix", &web.all(&a), &web.all(&b));
    }
}

#[test]
fn statistics_are_those_of_the_floats() {
    let Some(web) = web("statistics_are_those_of_the_floats") else { return };
    for (rows, width, vocab, top_k) in [(1, 8, 70, 0), (8, 64, 1000, 3), (40, 68, 4096, 16)] {
        let t = twins(&web, vocab as u64, vocab, width);
        let hidden = web.f32s(&normals(4, rows * width, 1.0));
        let keys: Vec<u32> = (0..rows as u32).flat_map(|r| [r, 2, 1, r % 7]).collect();
        let keys = web.u32s(&keys);
        for temperature in [0.0, 0.7] {
            let job = HeadJob { rows, width, vocab, top_k, temperature, seed: 5, forbid: vec![1, 9] };
            let (mut a, mut b) = (web.buf(job.values()), web.buf(job.values()));
            web.head(&hidden, &t.floats, t.float_at, &keys, &mut a, &job);
            web.head(&hidden, &t.codes, t.code_at, &keys, &mut b, &job);
            same(&format!("{job:?}"), &web.all(&a), &web.all(&b));
        }
    }
}

#[test]
fn a_row_lies_as_the_shader_reads_it() {
    let mut out = [9.0; 6];
    rows8::pack(&[1, -2, 127, -128, 5, 6, 7, 8, 0, 0, 0, -1, 3, 2, 1, 0], &[0.5, 2.0], 8, &mut out);
    let words = out.map(f32::to_bits);
    assert_eq!(words[..2], [0x807f_fe01, 0x0807_0605]);
    assert_eq!((out[2], words[3], words[4], out[5]), (0.5, 0xff00_0000, 0x0001_0203, 2.0));
}
