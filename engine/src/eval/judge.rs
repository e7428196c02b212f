//! An autoregressive model as a judge of texts that others wrote: ln p(text) in nats, under the judge's own tokenizer,
//! after an end-of-text token (generative perplexity, `methods/evaluation.md` 2). The judge reads text, so the writer's
//! tokenizer does not matter.

use hilda_kernels::{Backend, Cpu};

use crate::config::PackingSpec;
use crate::data::{DataError, Row, Tokenizer};
use crate::decode::Attention;
use crate::diffusion::batch::causal;
use crate::model::{LoadedModel, Plan, Trunk};

/// Why a model cannot judge, or a text not be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    #[error(
        "a judge must be autoregressive: this model's attention is {0:?}, its likelihood is only bounded"
    )]
    NotCausal(Attention),
    #[error("the text has {tokens} tokens of the judge, whose context is {context}")]
    TooLong { tokens: usize, context: usize },
    #[error(transparent)]
    Tokenizer(#[from] DataError),
}

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
pub struct Judge {
    trunk: Trunk,
    params: <Cpu as Backend>::Buf,
    plan: Plan<Cpu>,
    /// tokens `plan` has room for
    room: usize,
    tokenizer: Tokenizer,
}

impl Judge {
    /// # Errors
    /// [`JudgeError::NotCausal`] for a diffusion model.
    pub fn new(model: &LoadedModel, tokenizer: Tokenizer) -> Result<Judge, JudgeError> {
        if model.serving.attention != Attention::Causal {
            return Err(JudgeError::NotCausal(model.serving.attention));
        }
        let trunk = Trunk::new(model.config.clone());
        let mut params = Cpu.buf(trunk.layout.total);
        Cpu.write(&mut params, 0, &model.params);
        let plan = trunk.plan(&Cpu, 1, false);
        Ok(Judge { trunk, params, plan, room: 1, tokenizer })
    }

    /// Scores a text.
    ///
    /// # Errors
    /// A text longer than the judge's context.
    pub fn score(&mut self, text: &str) -> Result<Score, JudgeError> {
        let mut ids = vec![self.trunk.config.eos_id];
        ids.extend(self.tokenizer.encode(text)?);
        let (tokens, context) = (ids.len(), self.trunk.config.context);
        if tokens > context {
            return Err(JudgeError::TooLong { tokens, context });
        }
        if tokens == 1 {
            return Ok(Score::default());
        }
        if tokens > self.room {
            (self.plan, self.room) = (self.trunk.plan(&Cpu, tokens, false), tokens);
        }
        let packing =
            PackingSpec { length: tokens, documents: false, restart_positions: false, restart_blocks: false };
        let micro = causal(&[Row::new(&ids, self.trunk.config.eos_id)], &packing, 1.0);
        let (mut input, mut positions) = (Cpu.ids(tokens), Cpu.ids(tokens));
        Cpu.write_ids(&mut input, &micro.ids);
        Cpu.write_ids(&mut positions, &micro.positions());
        let masks = self.trunk.masks(&Cpu, micro.rule, 1, &micro.places, &micro.places);
        let (params, plan) = (&self.params, &mut self.plan);
        self.trunk.forward(&Cpu, params, plan, &input, &positions, &masks, micro.shape, None);
        let (log_p, _) = self.trunk.log_probs(&Cpu, params, plan, &micro.hidden_rows, &micro.rows);
        Ok(Score { log_p: log_p.iter().map(|l| f64::from(*l)).sum(), tokens: tokens - 1 })
    }
}
