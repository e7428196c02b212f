//! One decoding's complete input: the same configuration, model and back end give the same trajectory.

use std::sync::Arc;

use hilda_kernels::{Base, MaskRule, head::MAX_TOP_K};
use serde::{Deserialize, Serialize};

use crate::data::Frequencies;
use crate::model::cache::Surrogate;

use super::{
    DecodeError,
    policy::{Compression, Eos, Method, PolicySpec, Press, Score},
    switch::Switch,
};

/// Longest sequence a decoder or a replay sets up (trajectories come from strangers).
pub const MAX_LENGTH: u32 = 1 << 20;

/// What a position may see, and therefore what can be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// positions before it: exact cache, one token a forward, left to right
    Causal,
    /// its own block and the blocks before it: exact cache of finished blocks
    BlockCausal,
    /// everything: no exact cache, every forward computes all positions
    Bidirectional,
}

impl Attention {
    /// The rule a forward runs under.
    pub fn rule(self) -> MaskRule {
        match self {
            Attention::Causal => Base::Causal.into(),
            Attention::BlockCausal => Base::BlockCausal.into(),
            Attention::Bidirectional => Base::Bidirectional.into(),
        }
    }

    /// The rule of a forward with a shadow, whose rows leave out the token `ahead` positions after their own; causal text
    /// has none.
    pub fn shadow(self, ahead: u32) -> Option<Base> {
        match self {
            Attention::Causal => None,
            Attention::BlockCausal => Some(Base::Shadow { blocks: true, ahead }),
            Attention::Bidirectional => Some(Base::Shadow { blocks: false, ahead }),
        }
    }
}

/// Input of a [`super::Decoder`]; the head of every trajectory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecodeConfig {
    /// token ids at positions 0..prompt.len()
    pub prompt: Vec<u32>,
    /// (position, id) set by the user outside the prompt: known from step 0, never changed by a policy
    #[serde(default)]
    pub fixed: Vec<(u32, u32)>,
    /// positions in all, prompt included
    pub length: u32,
    /// tokens per block, counted from position 0 (so the prompt's tail is the head of the first generated
    /// block); 0 = one block. Ignored by causal models.
    pub block_size: u32,
    pub attention: Attention,
    /// row n - 1 predicts position n (models grown from autoregressive ones)
    #[serde(default)]
    pub shift: bool,
    pub vocab: u32,
    pub mask_id: u32,
    #[serde(default)]
    pub eos_id: Option<u32>,
    /// ids never written, besides the mask
    #[serde(default)]
    pub forbid: Vec<u32>,
    pub policy: PolicySpec,
    /// of the token draw; 0 = the most probable token
    #[serde(default)]
    pub temperature: f32,
    #[serde(default)]
    pub seed: u64,
    /// the request's own index (24 bits), part of every random key
    #[serde(default)]
    pub sequence: u32,
    /// alternatives kept per row
    #[serde(default)]
    pub top_k: usize,
    /// stop once an end-of-text token is written and nothing before it is masked; the rest is filled with it
    #[serde(default)]
    pub early_stop: bool,
    /// denoising forwards after which every remaining block is filled with argmaxes in one forward (not for
    /// causal models, whose length is their limit)
    #[serde(default)]
    pub max_steps: Option<u32>,
    /// of the corpus, for the score `pc`; the model's, as its weights are, so no record carries them
    #[serde(skip)]
    pub frequencies: Option<Frequencies>,
    /// for the press `kvzap`; the model's as well
    #[serde(skip)]
    pub surrogate: Option<Arc<Surrogate>>,
    /// what the method `switch` decides by; the model's, and no record carries it
    #[serde(skip)]
    pub switch: Option<Arc<Switch>>,
    /// keep the statistics rows in the trajectory
    #[serde(default = "yes")]
    pub rows: bool,
}
fn yes() -> bool {
    true
}

impl DecodeConfig {
    /// Is the row that predicts `pos` computed from the token at `pos` under `attention`? With the logit shift it is the row
    /// before, which sees `pos` inside its own block only.
    pub fn informed(&self, attention: Attention, pos: u32) -> bool {
        !self.shift
            || match attention {
                Attention::Causal => false,
                Attention::BlockCausal => !pos.is_multiple_of(self.block()),
                Attention::Bidirectional => true,
            }
    }
    /// Greedy threshold decoding of a bidirectional model in one block; change the fields you care about.
    pub fn new(prompt: Vec<u32>, length: u32, vocab: u32, mask_id: u32) -> DecodeConfig {
        DecodeConfig {
            prompt,
            fixed: Vec::new(),
            length,
            block_size: 0,
            attention: Attention::Bidirectional,
            shift: false,
            vocab,
            mask_id,
            eos_id: None,
            forbid: Vec::new(),
            policy: PolicySpec::default(),
            temperature: 0.0,
            seed: 0,
            sequence: 0,
            top_k: 0,
            early_stop: false,
            max_steps: None,
            frequencies: None,
            surrogate: None,
            switch: None,
            rows: true,
        }
    }

    /// Tokens per block as decoding uses it: never 0.
    pub fn block(&self) -> u32 {
        let caching = self.policy.caching;
        match (self.attention, self.block_size) {
            (Attention::Bidirectional, _) if caching.approximate() => {
                caching.cache_block.min(self.length.max(1))
            }
            (Attention::Causal, _) | (_, 0) => self.length.max(1),
            (_, b) => b.min(self.length.max(1)),
        }
    }

    /// How finished blocks are kept, the model's own ones or those that a causal text is divided into.
    pub fn compression(&self) -> Compression {
        let block = if self.attention == Attention::Causal { 0 } else { self.block() };
        self.policy.caching.compression(block, self.surrogate.as_ref())
    }

    /// May `id` be written?
    pub fn writable(&self, id: u32) -> bool {
        id < self.vocab && id != self.mask_id && !self.forbid.contains(&id)
    }

    /// Positions whose fixed token cannot be seen by some position that is still to be generated: the token
    /// stays, but the text before it is written without knowing it (block-causal and causal models).
    pub fn unseen_fixed(&self) -> Vec<u32> {
        let known = |p: u32| (p as usize) < self.prompt.len() || self.fixed.iter().any(|f| f.0 == p);
        let first_open = (0..self.length).find(|p| !known(*p));
        let Some(open) = first_open else { return Vec::new() };
        let block = self.block();
        let mut unseen: Vec<u32> = self
            .fixed
            .iter()
            .map(|f| f.0)
            .filter(|p| match self.attention {
                Attention::Bidirectional => false,
                Attention::BlockCausal => p / block > open / block,
                Attention::Causal => *p > open,
            })
            .collect();
        unseen.sort_unstable();
        unseen
    }

    /// Refuses what needs a file that the model's folder does not have.
    pub fn servable(&self) -> Result<(), DecodeError> {
        if self.policy.build()?.score == Score::Pc && self.frequencies.is_none() {
            return Err(DecodeError::NoFrequencies);
        }
        if self.policy.caching.cache_press == Press::Kvzap && self.surrogate.is_none() {
            return Err(DecodeError::NoSurrogate);
        }
        Ok(())
    }

    /// Refuses what cannot be decoded.
    pub fn validate(&self) -> Result<(), DecodeError> {
        let in_range = |what, id| {
            if id < self.vocab {
                Ok(())
            } else {
                Err(DecodeError::IdOutOfRange { what, id, vocab: self.vocab })
            }
        };
        if self.length == 0 || self.length > MAX_LENGTH {
            return Err(DecodeError::Length { length: self.length, max: MAX_LENGTH });
        }
        if self.prompt.len() > self.length as usize {
            return Err(DecodeError::PromptTooLong { prompt: self.prompt.len(), length: self.length });
        }
        for id in &self.prompt {
            in_range("prompt token", *id)?;
        }
        in_range("mask_id", self.mask_id)?;
        if let Some(eos) = self.eos_id {
            in_range("eos_id", eos)?;
        } else if self.early_stop {
            return Err(DecodeError::NoEos);
        }
        match (self.eos_id, self.policy.candidate.eos) {
            (None, Eos::Last) => return Err(DecodeError::EosControl { eos: "last" }),
            (None, Eos::Never) => return Err(DecodeError::EosControl { eos: "never" }),
            _ => {}
        }
        for id in &self.forbid {
            in_range("forbidden token", *id)?;
        }
        for (i, (pos, id)) in self.fixed.iter().enumerate() {
            if *pos >= self.length {
                return Err(DecodeError::PositionOutOfRange { pos: *pos, length: self.length });
            }
            if (*pos as usize) < self.prompt.len() {
                return Err(DecodeError::PromptPosition { pos: *pos });
            }
            if self.fixed[..i].iter().any(|f| f.0 == *pos) {
                return Err(DecodeError::FixedTwice { pos: *pos });
            }
            in_range("fixed token", *id)?;
            if *id == self.mask_id {
                return Err(DecodeError::ForbiddenToken { id: *id });
            }
        }
        if self.shift && self.prompt.is_empty() && self.fixed.iter().all(|f| f.0 != 0) {
            return Err(DecodeError::NothingBeforeFirst);
        }
        if self.attention == Attention::Causal {
            if !self.shift {
                return Err(DecodeError::Causal {
                    needed: "the logit shift (row n - 1 predicts position n)",
                });
            }
            if !matches!(self.policy.method, Method::LeftToRight {}) {
                return Err(DecodeError::Causal { needed: "the policy left_to_right" });
            }
            if self.max_steps.is_some() {
                return Err(DecodeError::Causal { needed: "no max_steps: its length is its limit" });
            }
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(DecodeError::Temperature { temperature: self.temperature });
        }
        if matches!(self.policy.method, Method::EntropyBound { .. }) && self.temperature > 1.0 {
            return Err(DecodeError::EntropyBoundTemperature { temperature: self.temperature });
        }
        if self.top_k > MAX_TOP_K {
            return Err(DecodeError::TopK { top_k: self.top_k, max: MAX_TOP_K });
        }
        self.policy.validate()?;
        let (caching, guidance) = (self.policy.caching, self.policy.candidate.guidance);
        let needed = match self.attention {
            Attention::Bidirectional if caching.compressed() => Some(
                "cache_storage = f32 and cache_press = none: where every position sees the whole text no block is ever finished",
            ),
            _ => caching.refusal(self.policy.method, guidance),
        };
        if let Some(needed) = needed {
            return Err(DecodeError::Unserved { policy: self.policy.kind(), needed });
        }
        match self.policy.method {
            Method::OrderTokenSearch { .. } if self.attention != Attention::Bidirectional => {
                return Err(DecodeError::Unserved {
                    policy: "order_token_search",
                    needed: "attention to the whole text: without later blocks in sight its score says nothing new",
                });
            }
            _ if self.policy.caching.approximate() && self.attention != Attention::Bidirectional => {
                return Err(DecodeError::Unserved {
                    policy: self.policy.kind(),
                    needed: "cache = exact: this model's finished blocks cannot change, its own cache is exact",
                });
            }
            Method::Wino { .. } if self.policy.caching.cache.holds_the_block() => {
                return Err(DecodeError::Unserved {
                    policy: "wino",
                    needed: "cache = exact or prefix: it asks for each token's probability without the token, and this cache holds the block's own keys and values",
                });
            }
            Method::OrderTokenSearch { .. } | Method::BestOf { .. } | Method::DraftRefine { .. }
                if self.policy.caching.approximate() =>
            {
                return Err(DecodeError::Unserved {
                    policy: self.policy.kind(),
                    needed: "cache = exact: it compares or rewrites whole texts",
                });
            }
            _ if self.policy.caching.approximate() && self.policy.candidate.guidance != 0.0 => {
                return Err(DecodeError::Unserved {
                    policy: self.policy.kind(),
                    needed: "cache = exact or guidance 0: two texts share no cache",
                });
            }
            Method::Switch { .. } if self.policy.candidate.guidance != 0.0 => {
                return Err(DecodeError::Unserved {
                    policy: self.policy.kind(),
                    needed: "guidance 0: it was measured without",
                });
            }
            Method::OrderTokenSearch { .. } | Method::BestOf { .. }
                if self.policy.candidate.guidance != 0.0 =>
            {
                return Err(DecodeError::Unserved {
                    policy: self.policy.kind(),
                    needed: "guidance 0: its scores are those of the model alone",
                });
            }
            Method::OrderTokenSearch { .. } | Method::BestOf { .. }
                if self.policy.candidate.credit != 0.0 =>
            {
                return Err(DecodeError::Unserved {
                    policy: self.policy.kind(),
                    needed: "credit 0: its scores are those of the model alone",
                });
            }
            Method::Edit { window: 2.., .. }
                if self.policy.caching.approximate() || self.policy.candidate.guidance != 0.0 =>
            {
                return Err(DecodeError::Unserved {
                    policy: "edit",
                    needed: "window = 1 with guidance or an approximate cache: passes over a window see their text alone, exactly",
                });
            }
            _ => {}
        }
        Ok(())
    }
}
