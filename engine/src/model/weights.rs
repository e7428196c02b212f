//! Weights on a device, shared by everything that decodes with them.

use hilda_kernels::Backend;

use super::{LoadedModel, Trunk};

/// Weights on a device.
pub struct Weights<B: Backend> {
    pub trunk: Trunk,
    pub shift: bool,
    /// as this trunk's products read them ([`Trunk::prepare`]), not as a file has them
    pub params: B::Buf,
}

impl<B: Backend> Weights<B> {
    pub fn new(b: &B, model: &LoadedModel) -> Self {
        let mut trunk = Trunk::new(model.config.clone());
        let mut params = b.buf(trunk.layout.total);
        b.write(&mut params, 0, &model.params);
        trunk.prepare(b, &mut params);
        Weights { trunk, shift: model.serving.shift, params }
    }
}

impl Weights<hilda_kernels::Cpu> {
    /// The same without a second copy of the weights.
    pub fn of(model: LoadedModel) -> Self {
        let (mut trunk, mut params) = (Trunk::new(model.config), model.params);
        trunk.prepare(&hilda_kernels::Cpu, &mut params);
        Weights { trunk, shift: model.serving.shift, params }
    }
}
