//! Weights of a model that only decodes, laid out as its device's products read them best.

use hilda_kernels::Backend;

use super::Trunk;

impl Trunk {
    /// Lays the weights of all layers out anew, in `params` itself: no second copy. From then on they are this trunk's, for
    /// forward passes. The embedding stays as it is, because its rows are read by token, and so does a head.
    pub fn prepare<B: Backend>(&mut self, b: &B, params: &mut B::Buf) {
        for layer in &mut self.layout.layers {
            for (at, n, k) in layer.matrices(&self.config) {
                *at = b.prepare(params, *at, n, k);
            }
        }
    }
}
