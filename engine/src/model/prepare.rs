//! Weights of a model that only decodes, laid out as its device's products read them best.

use hilda_kernels::{At, Backend};

use super::Trunk;

impl Trunk {
    /// Lays the weights of all layers out anew, in `params` itself: no second copy. From then on they are this trunk's, for
    /// forward passes. The embedding stays as it is, because its rows are read by token, and so does a head.
    pub fn prepare<B: Backend>(&mut self, b: &B, params: &mut B::Buf) {
        let c = &self.config;
        let (d, a) = (c.width, c.heads * c.head_dim);
        let mut lay = |at: &mut At, n: usize, k: usize| *at = b.prepare(params, *at, n, k);
        for w in &mut self.layout.layers {
            lay(&mut w.qkv, c.qkv(), d);
            lay(&mut w.out, d, a);
            lay(&mut w.gate_up, c.mlp_in(), d);
            lay(&mut w.down, d, c.mlp);
        }
    }
}
