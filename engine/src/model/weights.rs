//! Weights on a device, shared by everything that decodes with them.

use hilda_kernels::Backend;

use super::{LoadedModel, Trunk};

/// Weights on a device.
pub struct Weights<B: Backend> {
    pub trunk: Trunk,
    pub shift: bool,
    pub params: B::Buf,
}

impl<B: Backend> Weights<B> {
    pub fn new(b: &B, model: &LoadedModel) -> Self {
        let trunk = Trunk::new(model.config.clone());
        let mut params = b.buf(trunk.layout.total);
        b.write(&mut params, 0, &model.params);
        Weights { trunk, shift: model.serving.shift, params }
    }
}

impl Weights<hilda_kernels::Cpu> {
    /// The same without a second copy of the weights.
    pub fn of(model: LoadedModel) -> Self {
        let trunk = Trunk::new(model.config);
        Weights { trunk, shift: model.serving.shift, params: model.params }
    }
}
