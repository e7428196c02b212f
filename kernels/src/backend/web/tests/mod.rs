//! Proofs of the WebGPU back end: shaders against WebGPU's rules without a GPU, operations against the references
//! on whatever adapter there is (lavapipe counts).

mod codes;
mod device;
mod head;
mod ops;
mod shaders;

use super::{Web, WebBuf, WebIds};
use crate::backend::Backend;
use crate::rng::{Rng, Stream};

/// A device, or a printed line that says that `test` did not run.
fn web(test: &str) -> Option<Web> {
    match pollster::block_on(Web::new()) {
        Ok(web) => Some(web),
        Err(e) => {
            println!("SKIPPED {test}: no WebGPU adapter ({e})");
            None
        }
    }
}

/// `n` standard normal values times `scale`, keyed by `seed`.
fn normals(seed: u64, n: usize, scale: f64) -> Vec<f32> {
    let rng = Rng::new(seed, Stream::Test, 1);
    (0..n).map(|i| (rng.normal(0, i as u32, 0) * scale) as f32).collect()
}

impl Web {
    fn f32s(&self, data: &[f32]) -> WebBuf {
        let mut buf = self.buf(data.len());
        self.write(&mut buf, 0, data);
        buf
    }
    fn u32s(&self, data: &[u32]) -> WebIds {
        let mut ids = self.ids(data.len());
        self.write_ids(&mut ids, data);
        ids
    }
    fn all(&self, buf: &WebBuf) -> Vec<f32> {
        pollster::block_on(self.read(buf, 0, buf.len())).expect("read")
    }
}

/// |got - want| <= abs + rel |want| for every value; equal infinities are equal.
fn close(what: &str, got: &[f32], want: &[f32], abs: f32, rel: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g == w || (g - w).abs() <= abs + rel * w.abs(), "{what}[{i}]: {g}, want {w}");
    }
}
