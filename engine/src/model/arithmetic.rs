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

use serde::{Deserialize, Serialize};

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

    /// What is shipped in int8 is computed in integers where nobody says otherwise, and nothing else is.
    #[test]
    fn models_shipped_in_int8_are_computed_in_integers() {
        for tied in [true, false] {
            let m = model(tied);
            let bytes = save(&m.config, &m.params, Format::Int8).unwrap();
            let exported = || load(&config_json(&m.config, m.serving), &bytes).unwrap();
            let shipped = Weights::of_shipped(exported());
            assert_eq!(shipped.arithmetic(), Arithmetic::Int8);
            // words of codes are no numbers
            let bits = |w: &Weights<Cpu>| w.params.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&shipped) == bits(&Weights::of_computing(exported(), Arithmetic::Int8)));
            // one weight of the last matrix that is no code
            let mut bent = exported();
            let at = crate::model::Trunk::new(bent.config.clone()).layout.layers.last().unwrap().down;
            bent.params[at.offset + at.len - 1] += 1e-4;
            assert_eq!(Weights::of_shipped(bent).arithmetic(), Arithmetic::F32);
            assert_eq!(Weights::of_shipped(model(tied)).arithmetic(), Arithmetic::F32);
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
