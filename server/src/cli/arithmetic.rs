//! `--arithmetic`: in which numbers a command that decodes or evaluates multiplies; one flag for all of them.

use hilda_engine::model::{Arithmetic, LoadedModel, Weights};
use hilda_kernels::{Backend, Cpu};

use super::CliError;

#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// f32, or int8: products of int8 weights with activations rounded to 14 bits, in exact integer sums (CPU; a float32 model
    /// is rounded as its int8 export)
    #[arg(long, value_name = "NUMBERS", default_value_t)]
    pub arithmetic: Arithmetic,
}

impl Numbers {
    /// Weights on `b`.
    ///
    /// # Errors
    /// Numbers that it does not compute in.
    pub fn weights<B: Backend>(self, b: &B, model: &LoadedModel) -> Result<Weights<B>, CliError> {
        let weights = Weights::computing(b, model, self.arithmetic);
        weights.map_err(|e| CliError::BadInput(format!("--arithmetic {}: {e}", self.arithmetic)))
    }

    /// Weights on the CPU, which multiplies in all of them.
    pub fn on_cpu(self, model: LoadedModel) -> Weights<Cpu> {
        Weights::of_computing(model, self.arithmetic)
    }
}
