//! Order of writes and commands, copies, errors.

use super::super::WebError;
use super::web;
use crate::backend::{At, Backend, HeadJob};
use crate::glu::Gate;
use crate::norm::{NormKind, NormShape};

#[test]
fn a_write_after_a_recorded_use_does_not_overtake_it() {
    let Some(web) = web("a_write_after_a_recorded_use_does_not_overtake_it") else { return };
    let mut a = web.f32s(&[1.0, 2.0]);
    let mut b = web.buf(2);
    web.copy(&a, 0, &mut b, 0, 2);
    web.write(&mut a, 0, &[3.0, 4.0]);
    let mut c = web.buf(2);
    web.copy(&a, 0, &mut c, 0, 2);
    assert_eq!(web.all(&b), [1.0, 2.0]);
    assert_eq!(web.all(&c), [3.0, 4.0]);
}

#[test]
fn dropped_buffers_serve_the_commands_that_use_them() {
    let Some(web) = web("dropped_buffers_serve_the_commands_that_use_them") else { return };
    let params = web.f32s(&[2.0; 64]);
    let mut y = web.buf(64);
    for round in 1..4 {
        let x = web.f32s(&[round as f32; 64]);
        web.linear(&x, &params, At::new(0, 1), &mut y, 64, 1, 1, true);
        drop(x);
        web.submit().unwrap();
    }
    assert_eq!(web.all(&y), [12.0; 64]);
}

#[test]
fn parameters_of_many_dispatches_in_one_submission() {
    let Some(web) = web("parameters_of_many_dispatches_in_one_submission") else { return };
    // each round doubles: y += y * 1 through a copy
    let one = web.f32s(&[1.0]);
    let (mut x, mut y) = (web.f32s(&[1.0]), web.f32s(&[1.0]));
    for round in 0..100 {
        web.linear(&x, &one, At::new(0, 1), &mut y, 1, 1, 1, true);
        web.copy_columns(&y, 1, 0, &mut x, 1, 0, 0, 1, 1);
        if round % 10 == 9 {
            assert_eq!(web.all(&y)[0], 2f32.powi(round + 1));
        }
    }
}

#[test]
fn copies_of_columns_and_ranges() {
    let Some(web) = web("copies_of_columns_and_ranges") else { return };
    let src: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let x = web.f32s(&src);
    let mut y = web.f32s(&[-1.0; 15]);
    // columns 1..3 of three rows of 4 into columns 3..5 of rows of 5
    web.copy_columns(&x, 4, 1, &mut y, 5, 3, 0, 3, 2);
    assert_eq!(
        web.all(&y),
        [-1.0, -1.0, -1.0, 1.0, 2.0, -1.0, -1.0, -1.0, 5.0, 6.0, -1.0, -1.0, -1.0, 9.0, 10.0]
    );
    web.copy(&x, 5, &mut y, 1, 3);
    assert_eq!(web.all(&y)[..5], [-1.0, 5.0, 6.0, 7.0, 2.0]);
    web.copy_columns(&x, 4, 1, &mut y, 5, 0, 2, 1, 2);
    assert_eq!(web.all(&y)[10..13], [1.0, 2.0, -1.0]);
    assert_eq!(pollster::block_on(web.read(&y, 1, 2)).unwrap(), [5.0, 6.0]);
}

#[test]
fn wrong_shapes_are_errors_once() {
    let Some(web) = web("wrong_shapes_are_errors_once") else { return };
    let x = web.f32s(&[1.0; 8]);
    let mut y = web.buf(8);
    web.linear(&x, &x, At::new(0, 8), &mut y, 4, 4, 4, false);
    assert!(matches!(web.submit(), Err(WebError::Shape { op: "linear", .. })));
    assert_eq!(web.submit(), Ok(()));
    web.norm(&x, &x, At::new(3, 2), None, &mut y, NormShape::packed(NormKind::Rms, 4, 2, 1e-5), false);
    assert!(matches!(web.submit(), Err(WebError::Shape { op: "norm", .. })));
    let keys = web.u32s(&[0; 4]);
    let job = HeadJob { rows: 1, width: 2, vocab: 4, top_k: 17, temperature: 0.0, seed: 0, forbid: vec![] };
    web.head(&x, &x, At::new(0, 8), &keys, &mut y, &job);
    assert!(matches!(web.submit(), Err(WebError::Shape { op: "head", .. })));
    let out_of_range = pollster::block_on(web.read(&y, 7, 2));
    assert!(matches!(out_of_range, Err(WebError::Shape { op: "read", .. })));
    assert_eq!(web.all(&y), [0.0; 8]);
}

#[test]
fn an_impossible_buffer_is_an_error_and_not_a_panic() {
    let Some(web) = web("an_impossible_buffer_is_an_error_and_not_a_panic") else { return };
    let bytes = web.info().max_buffer;
    let _buf = web.buf(bytes as usize / 4 + 1024);
    assert!(web.submit().is_err());
    assert_eq!(web.submit(), Ok(()));
}

#[test]
fn a_lost_device_stays_lost_and_panics_nowhere() {
    let Some(web) = web("a_lost_device_stays_lost_and_panics_nowhere") else { return };
    let x = web.f32s(&[1.0; 8]);
    let mut y = web.buf(8);
    web.copy(&x, 0, &mut y, 0, 8);
    web.device.destroy();
    for _ in 0..2 {
        assert!(pollster::block_on(web.read(&y, 0, 8)).is_err());
    }
    web.glu(Gate::Silu, &x, &mut y, 1, 4);
    web.write(&mut y, 0, &[1.0]);
    let _more = web.buf(16);
    assert!(matches!(web.submit(), Err(WebError::Lost(_))));
}
