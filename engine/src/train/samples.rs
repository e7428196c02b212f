//! Samples written at checkpoints: the recipe's prompts, decoded as the current phase's model would be.

use std::sync::Arc;

use hilda_kernels::Train;

use super::input::Input;
use super::step::Learner;
use crate::config::RunConfig;
use crate::decode::Decoder;
use crate::model::generate::{GenerateError, Request, decode_config, run, text};
use crate::model::session::Weights;
use crate::model::{Serving, Session};
use crate::record::Sample;

/// Decodes with the evaluated weights. None where the recipe asks for no samples.
pub fn write<B: Train>(
    learner: &Learner<B>,
    config: &RunConfig,
    input: &Input,
    serving: Serving,
) -> Result<Option<Vec<Sample>>, GenerateError> {
    if config.sample.length == 0 || config.sample.prompts.is_empty() {
        return Ok(None);
    }
    let (b, model) = (&learner.backend, &learner.trunk.config);
    let mut params = b.buf(learner.trunk.layout.total);
    b.copy(learner.evaluated(), 0, &mut params, 0, learner.trunk.layout.total);
    let weights = Arc::new(Weights { trunk: learner.trunk.clone(), shift: serving.shift, params });
    let mut out = vec![];
    for prompt in &config.sample.prompts {
        let decode =
            decode_config(model, serving, &input.tokenizer, &Request::new(prompt, config.sample.length))?;
        let policy = serde_json::to_value(decode.policy).expect("plain data");
        let mut session = Session::new(b, weights.clone(), decode.length as usize);
        let mut decoder = Decoder::new(decode)?;
        run(b, &mut session, &mut decoder, |_| true)?;
        let body = text(&input.tokenizer, decoder.state().ids());
        let trajectory = decoder.trajectory();
        out.push(Sample {
            prompt: prompt.clone(),
            text: body,
            policy: policy["kind"].as_str().unwrap_or_default().into(),
            seed: 0,
            forwards: decoder.ledger().forwards as u64,
            trajectory: Some(trajectory),
        });
    }
    Ok(Some(out))
}
