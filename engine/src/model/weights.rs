//! Weights on a device, shared by everything that decodes with them.

use hilda_kernels::Backend;

use super::{Arithmetic, ArithmeticError, LoadedModel, Trunk};

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

    /// For products in these numbers.
    ///
    /// # Errors
    /// Numbers that the device does not compute in.
    pub fn computing(b: &B, model: &LoadedModel, arithmetic: Arithmetic) -> Result<Self, ArithmeticError> {
        if arithmetic == Arithmetic::F32 {
            return Ok(Weights::new(b, model));
        }
        let width = b.codes_width().ok_or(ArithmeticError::Device)?;
        let mut trunk = Trunk::new(model.config.clone());
        let packed = trunk.in_integers(&model.params, width);
        let mut params = b.buf(packed.len());
        b.write(&mut params, 0, &packed);
        Ok(Weights { trunk, shift: model.serving.shift, params })
    }

    /// Bytes of the weights as they lie on the device.
    pub fn bytes(&self) -> usize {
        4 * self.trunk.layout.total
    }
}

impl Weights<hilda_kernels::Cpu> {
    /// The same without a second copy of the weights.
    pub fn of(model: LoadedModel) -> Self {
        let (mut trunk, mut params) = (Trunk::new(model.config), model.params);
        trunk.prepare(&hilda_kernels::Cpu, &mut params);
        Weights { trunk, shift: model.serving.shift, params }
    }

    /// For products in these numbers; what float32 takes is given back.
    pub fn of_computing(model: LoadedModel, arithmetic: Arithmetic) -> Self {
        if arithmetic == Arithmetic::F32 {
            return Weights::of(model);
        }
        let mut trunk = Trunk::new(model.config);
        let params = trunk.in_integers(&model.params, hilda_kernels::quant::width());
        Weights { trunk, shift: model.serving.shift, params }
    }
}
