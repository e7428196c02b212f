//! A judge that reads text: an autoregressive model with its own tokenizer, so that the writer's does not matter. It
//! scores one text at a time; figures over sets of texts are [`super::text::judge`]'s.

use hilda_kernels::{Backend, Cpu};

use super::text::judge::Judge;
use crate::data::{DataError, Tokenizer};
use crate::decode::Attention;
use crate::model::{LoadedModel, Trunk};

/// A model that cannot judge.
#[derive(Debug, thiserror::Error)]
#[error("a judge must be autoregressive: this model's attention is {0:?}, its likelihood is only bounded")]
pub struct NotCausal(pub Attention);

/// Log-probability of one text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// nats, of all tokens after the leading end-of-text token
    pub log_p: f64,
    /// of the judge
    pub tokens: usize,
}

impl Score {
    /// Of what follows `prefix` (a text this one begins with): nats and tokens. Where the border cuts a token of the
    /// judge in two, that token counts as following.
    pub fn after(self, prefix: Score) -> Score {
        Score { log_p: self.log_p - prefix.log_p, tokens: self.tokens - prefix.tokens.min(self.tokens) }
    }
}

/// An autoregressive model, ready to score texts on the CPU.
pub struct TextJudge {
    trunk: Trunk,
    params: <Cpu as Backend>::Buf,
    tokenizer: Tokenizer,
}

impl TextJudge {
    /// # Errors
    /// [`NotCausal`] for a diffusion model.
    pub fn new(model: &LoadedModel, tokenizer: Tokenizer) -> Result<TextJudge, NotCausal> {
        if model.serving.attention != Attention::Causal {
            return Err(NotCausal(model.serving.attention));
        }
        let trunk = Trunk::new(model.config.clone());
        let mut params = Cpu.buf(trunk.layout.total);
        Cpu.write(&mut params, 0, &model.params);
        Ok(TextJudge { trunk, params, tokenizer })
    }

    /// Scores a text behind an end-of-text token; a text longer than the context in windows half a context apart.
    ///
    /// # Errors
    /// Text that the judge's tokenizer refuses.
    pub fn score(&self, text: &str) -> Result<Score, DataError> {
        let mut ids = vec![self.trunk.config.eos_id];
        ids.extend(self.tokenizer.encode(text)?);
        let judge = Judge { backend: &Cpu, trunk: &self.trunk, params: &self.params };
        let nats = judge.nats(&ids);
        Ok(Score { log_p: -nats.iter().sum::<f64>(), tokens: nats.len() })
    }
}
