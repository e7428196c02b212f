//! `--arithmetic`: in which numbers a command that decodes or evaluates multiplies; one flag for all of them.

use hilda_engine::model::{Arithmetic, LoadedModel, Weights};
use hilda_kernels::{Backend, Cpu};

use super::CliError;

#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// f32, or int8: products of int8 weights with activations rounded to 14 bits, in exact integer sums (CPU; a float32 model
    /// is rounded as its int8 export). Without it sample and decode-bench compute a model that is shipped in int8 in integers,
    /// and all else is float32
    #[arg(long, value_name = "NUMBERS")]
    arithmetic: Option<Arithmetic>,
}

impl Numbers {
    /// What was asked for, float32 where nothing was.
    pub fn arithmetic(self) -> Arithmetic {
        self.arithmetic.unwrap_or_default()
    }

    /// Weights on `b`.
    ///
    /// # Errors
    /// Numbers that it does not compute in.
    pub fn weights<B: Backend>(self, b: &B, model: &LoadedModel) -> Result<Weights<B>, CliError> {
        let weights = Weights::computing(b, model, self.arithmetic());
        weights.map_err(|e| CliError::BadInput(format!("--arithmetic {}: {e}", self.arithmetic())))
    }

    /// Weights on the CPU, in the numbers that the model was shipped in where nothing else was asked for; no second copy of
    /// them.
    pub fn on_cpu(self, model: LoadedModel) -> Weights<Cpu> {
        match self.arithmetic {
            Some(arithmetic) => Weights::of_computing(model, arithmetic),
            None => Weights::of_shipped(model),
        }
    }
}
