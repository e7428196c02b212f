//! In which numbers the products of a forward pass are computed.
//!
//! `f32` multiplies floats. `int8` multiplies int8 weights (a scale an output row, [`super::quant`]) with activations rounded to
//! about 14 bits, in exact integer sums ([`hilda_kernels::quant`]): every linear layer, the embedding's rows and the head. Norms,
//! rotary embedding, attention, softmax and statistics stay float32. Every matrix is rounded as an int8 export rounds it, so a
//! float32 model computes what its int8 export does; rows that were int8 lose nothing ([`super::quant::to_int8`]). A head with a
//! bias, which stands in its table as a column, stays float32.
//!
//! The weights of a model then take a byte each where float32 takes four.

use std::fmt;
use std::str::FromStr;

use hilda_kernels::quant::{pack, words};
use hilda_kernels::{At, Form};
use serde::{Deserialize, Serialize};

use super::Trunk;
use super::quant::codes;

/// Numbers of products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    #[default]
    F32,
    /// int8 weights, integer sums; CPU and WebAssembly
    Int8,
}

impl Arithmetic {
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Int8 => "int8",
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Numbers that a device does not compute in, or that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArithmeticError {
    #[error("arithmetic \"{0}\": f32 or int8")]
    Unknown(String),
    #[error("int8 arithmetic needs the CPU or WebAssembly: this device multiplies float32 alone")]
    Device,
}

impl FromStr for Arithmetic {
    type Err = ArithmeticError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "f32" => Ok(Arithmetic::F32),
            "int8" => Ok(Arithmetic::Int8),
            other => Err(ArithmeticError::Unknown(other.into())),
        }
    }
}

/// A buffer of parameters as it grows.
struct Packed<'a> {
    from: &'a [f32],
    width: usize,
    to: Vec<f32>,
}

impl Packed<'_> {
    fn room(&mut self, len: usize, form: Form) -> At {
        let at = At { form, ..At::new(self.to.len(), len) };
        self.to.resize(self.to.len() + len.next_multiple_of(64), 0.0);
        at
    }
    fn plain(&mut self, at: &mut At) {
        let from = &self.from[at.offset..][..at.len];
        *at = self.room(at.len, Form::Plain);
        self.to[at.offset..][..at.len].copy_from_slice(from);
    }
    fn matrix(&mut self, at: &mut At, n: usize, k: usize) {
        let (codes, scales) = codes(&self.from[at.offset..][..at.len], k);
        *at = self.room(words(n, k), Form::Codes { width: self.width, n, k });
        pack(&codes, &scales, (n, k), self.width, &mut self.to[at.offset..][..at.len]);
    }
}

impl Trunk {
    /// Parameters for products in integers, in panels of `width` outputs, from `params` as a file has them. From then on they are
    /// this trunk's, for forward passes alone.
    pub(super) fn in_integers(&mut self, params: &[f32], width: usize) -> Vec<f32> {
        let c = self.config.clone();
        let (d, a, layout) = (c.width, c.heads * c.head_dim, &mut self.layout);
        let mut packed = Packed { from: params, width, to: vec![] };
        packed.matrix(&mut layout.embed, c.vocab, d);
        for l in &mut layout.layers {
            packed.matrix(&mut l.qkv, c.qkv(), d);
            packed.matrix(&mut l.out, d, a);
            packed.matrix(&mut l.gate_up, c.mlp_in(), d);
            packed.matrix(&mut l.down, d, c.mlp);
            let vectors = [&mut l.norm1_bias, &mut l.qkv_bias, &mut l.q_norm, &mut l.k_norm, &mut l.out_bias];
            let more = [&mut l.post1, &mut l.norm2_bias, &mut l.up_bias, &mut l.down_bias, &mut l.post2];
            let vectors = vectors.into_iter().chain(more).flatten();
            vectors.chain([&mut l.norm1, &mut l.norm2]).for_each(|at| packed.plain(at));
        }
        packed.plain(&mut layout.norm);
        layout.norm_bias.iter_mut().for_each(|at| packed.plain(at));
        match (c.arch.tied, c.arch.head_bias) {
            (true, _) => layout.head = layout.embed,
            (false, true) => packed.plain(&mut layout.head),
            (false, false) => packed.matrix(&mut layout.head, c.vocab, d),
        }
        layout.total = packed.to.len();
        packed.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelSpec;
    use crate::decode::Attention;
    use crate::model::checkpoint::{Format, config_json, load, save};
    use crate::model::{Layout, LoadedModel, Serving, Weights};
    use hilda_kernels::Cpu;

    fn model(tied: bool) -> LoadedModel {
        let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
        let mut config = spec.resolve(50, 1, 0, vec![1, 2]).unwrap();
        config.arch.tied = tied;
        let params = Layout::new(&config).init(&config, 3);
        let serving = Serving {
            attention: Attention::BlockCausal,
            block_size: 8,
            shift: true,
            infill: false,
            edits: false,
            uniform: false,
        };
        LoadedModel { config, serving, params }
    }

    /// A float32 model in integers is its int8 export in integers.
    #[test]
    fn a_float_model_computes_what_its_int8_export_does() {
        for tied in [true, false] {
            let m = model(tied);
            let bytes = save(&m.config, &m.params, Format::Int8).unwrap();
            let exported = load(&config_json(&m.config, m.serving), &bytes).unwrap();
            let bits = |m: &LoadedModel| {
                let w = Weights::computing(&Cpu, m, Arithmetic::Int8).unwrap();
                w.params.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            assert!(bits(&m) == bits(&exported), "tied {tied}");
        }
    }

    #[test]
    fn weights_take_a_byte_each() {
        let m = model(true);
        let w = Weights::computing(&Cpu, &m, Arithmetic::Int8).unwrap();
        assert_eq!(w.bytes(), 4 * w.params.len());
        let plain = Weights::computing(&Cpu, &m, Arithmetic::F32).unwrap();
        assert!(w.bytes() * 10 < plain.bytes() * 4, "{} of {}", w.bytes(), plain.bytes());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for a in [Arithmetic::F32, Arithmetic::Int8] {
            assert_eq!(a.to_string().parse(), Ok(a));
        }
        let e = "int4".parse::<Arithmetic>().unwrap_err().to_string();
        assert_eq!(e, "arithmetic \"int4\": f32 or int8");
    }
}
