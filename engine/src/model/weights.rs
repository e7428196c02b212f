//! Weights on a device, shared by everything that decodes with them.

use std::borrow::Cow;

use hilda_kernels::{Backend, Form};

use super::repack::Int8;
use super::{Arithmetic, ArithmeticError, LoadedModel, Trunk};

/// A model's parameters as a device is to hold them, still in the host's memory.
pub struct Parameters<'a> {
    trunk: Trunk,
    shift: bool,
    values: Cow<'a, [f32]>,
}

impl<'a> Parameters<'a> {
    /// In int8 rows where the model has them and the device reads them, else as they are.
    pub fn new<B: Backend>(b: &B, model: &'a LoadedModel) -> Self {
        let mut parameters = Parameters::plain(model);
        let trunk = &mut parameters.trunk;
        if b.reads_rows8() && trunk.shipped_in_int8(&model.params).any(|int8| int8) {
            parameters.values = Cow::Owned(trunk.in_int8(&model.params, Int8::Rows).0);
        }
        parameters
    }

    pub(super) fn plain(model: &'a LoadedModel) -> Self {
        let trunk = Trunk::new(model.config.clone());
        Parameters { trunk, shift: model.serving.shift, values: Cow::Borrowed(&model.params) }
    }

    /// Bytes of all, and of the largest tensor.
    pub fn bytes(&self) -> [usize; 2] {
        let l = &self.trunk.layout;
        let layers = l.layers.iter().flat_map(|w| [w.qkv, w.out, w.gate_up, w.down]);
        let largest = layers.chain([l.embed, l.head]).map(|at| at.len).max();
        [self.values.len(), largest.unwrap_or(0)].map(|words| 4 * words)
    }
}

/// Weights on a device.
pub struct Weights<B: Backend> {
    pub trunk: Trunk,
    pub shift: bool,
    /// as this trunk's products read them ([`Trunk::prepare`]), not as a file has them
    pub params: B::Buf,
}

impl<B: Backend> Weights<B> {
    pub fn new(b: &B, model: &LoadedModel) -> Self {
        Weights::upload(b, Parameters::new(b, model))
    }

    pub fn upload(b: &B, parameters: Parameters) -> Self {
        let Parameters { mut trunk, shift, values } = parameters;
        let mut params = b.buf(values.len());
        b.write(&mut params, 0, &values);
        trunk.prepare(b, &mut params);
        Weights { trunk, shift, params }
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
        let (packed, _) = trunk.in_int8(&model.params, Int8::Panels(width));
        let mut params = b.buf(packed.len());
        b.write(&mut params, 0, &packed);
        Ok(Weights { trunk, shift: model.serving.shift, params })
    }

    /// In which numbers its products are computed.
    pub fn arithmetic(&self) -> Arithmetic {
        match self.trunk.layout.embed.form {
            Form::Codes { .. } => Arithmetic::Int8,
            _ => Arithmetic::F32,
        }
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

    /// For products in integers where all matrices of the model are int8 rows already, so that no weight is rounded.
    fn shipped(model: &LoadedModel) -> Option<Self> {
        let trunk = Trunk::new(model.config.clone());
        let told = trunk.shipped_in_int8(&model.params).all(|int8| int8);
        let (weights, exact) = told.then(|| Weights::in_panels(model))?;
        exact.then_some(weights)
    }

    /// [`Weights::shipped`], or in float32.
    pub fn of_shipped(model: LoadedModel) -> Self {
        Weights::shipped(&model).unwrap_or_else(|| Weights::of(model))
    }

    /// For products in these numbers; what float32 takes is given back.
    pub fn of_computing(model: LoadedModel, arithmetic: Arithmetic) -> Self {
        match arithmetic {
            Arithmetic::F32 => Weights::of(model),
            Arithmetic::Int8 => Weights::in_panels(&model).0,
        }
    }

    /// For products in integers; true if no weight was rounded.
    fn in_panels(model: &LoadedModel) -> (Self, bool) {
        let mut trunk = Trunk::new(model.config.clone());
        let (params, exact) = trunk.in_int8(&model.params, Int8::Panels(hilda_kernels::quant::width()));
        (Weights { trunk, shift: model.serving.shift, params }, exact)
    }
}
