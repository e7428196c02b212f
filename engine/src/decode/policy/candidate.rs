//! The candidate of a row: which token stands ready to be written there, and how sure the model counts as being.
//!
//! Temperature lives in the configuration; everything else that shapes the draw is here and goes with the policy, because
//! it changes which tokens are written and when. In this order, on the logits z of a row:
//!
//! 1. guidance (`methods/decoding.md` 2.2): z = z_u + (w + 1)(z_c - z_u), z_u from a second forward with the prompt masked;
//!    w = 0 is off and costs nothing, w = -1 ignores the prompt;
//! 2. repetition: lambda nats are taken from every token that is known within `repetition_window` positions of the row, on
//!    both sides or on its left (the `penalty_lambda` of SGLang's decoder of LLaDA 2.1 is window 1, left side);
//! 3. ids that are never written, and end-of-text with `eos = never`, at minus infinity;
//! 4. credit: of masked rows z + credit ln(1 + c), c how often and how surely a token was the most probable one in the
//!    block's forwards (CreditDecoding, arXiv 2510.06133); written rows are judged without it;
//! 5. what the record says of the row (probabilities, entropy) is taken here, at temperature 1, so with the credit; what
//!    `klass` compares are the model's own distributions;
//! 6. temperature, top-k, top-p ([`hilda_kernels::head::Filter`]), the draw.
//!
//! 1, 2, 4, 6 and `never` need the logits of the block's open rows on the host: rows x vocabulary values read back per
//! forward, one product with the embedding more, and the statistics computed once more there. Without them the head
//! reads nothing but statistics, as ever.

use serde::{Deserialize, Serialize};

use super::PolicyError;

/// Which probability of the candidate tests and scores look at (`conf_source`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// at temperature 1 and before any filter (LLaDA, Fast-dLLM)
    #[default]
    Raw,
    /// under the law it was drawn from (Dream); at temperature 0 nothing is drawn, and it is the raw one
    Drawn,
}

/// When end-of-text may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eos {
    /// like any other token
    #[default]
    Any,
    /// where it is the candidate, only once no other token is left to be written in the block: against the flood of
    /// end-of-text that confidence decoding of whole texts begins with
    Last,
    /// not at all: the text takes its full length
    Never,
}

/// Where known tokens count against their repetition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    #[default]
    Both,
    /// before the row
    Left,
}

/// See the module comment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Candidate {
    /// draw among so many of the most probable tokens; null = all
    pub top_k: Option<u32>,
    /// draw among the fewest most probable tokens of this mass; null = all
    pub top_p: Option<f32>,
    /// nats taken from tokens that stand near; 0 = off
    pub repetition: f32,
    /// what near is, positions
    pub repetition_window: u32,
    pub repetition_side: Side,
    /// w; 0 = off
    pub guidance: f32,
    /// weight of the credit; 0 = off
    pub credit: f32,
    /// share of it that is left after a forward
    pub credit_decay: f32,
    pub confidence: Confidence,
    pub eos: Eos,
}

impl Default for Candidate {
    fn default() -> Self {
        Candidate {
            top_k: None,
            top_p: None,
            repetition: 0.0,
            repetition_window: 1,
            repetition_side: Side::Both,
            guidance: 0.0,
            credit: 0.0,
            credit_decay: 0.8,
            confidence: Confidence::Raw,
            eos: Eos::Any,
        }
    }
}

impl Candidate {
    /// JSON names of the fields: how a policy's object is divided.
    pub(super) const NAMES: [&str; 10] = [
        "top_k",
        "top_p",
        "repetition",
        "repetition_window",
        "repetition_side",
        "guidance",
        "credit",
        "credit_decay",
        "confidence",
        "eos",
    ];

    /// Do candidates have to be computed from the logits of whole rows?
    pub fn needs_rows(&self, temperature: f32) -> bool {
        let filters = temperature > 0.0 && (self.top_k.is_some() || self.top_p.is_some());
        let shaped = self.repetition != 0.0 || self.guidance != 0.0 || self.credit != 0.0;
        filters || shaped || self.eos == Eos::Never
    }

    pub(super) fn validate(&self, policy: &'static str) -> Result<(), PolicyError> {
        let check = |parameter, value: f64, fits: bool, needed| {
            if fits { Ok(()) } else { Err(PolicyError::OutOfRange { policy, parameter, value, needed }) }
        };
        let top_k = self.top_k.unwrap_or(1);
        check("top_k", top_k as f64, top_k > 0, "at least 1, or null for all tokens")?;
        let p = self.top_p.unwrap_or(1.0);
        check("top_p", p as f64, p > 0.0 && p <= 1.0, "above 0 and at most 1, or null for all tokens")?;
        let fits = (0.0..=100.0).contains(&self.repetition);
        check("repetition", self.repetition as f64, fits, "from 0 to 100 nats")?;
        let window = self.repetition_window;
        check("repetition_window", window as f64, window > 0, "at least 1 position")?;
        let fits = (-1.0..=100.0).contains(&self.guidance);
        check("guidance", self.guidance as f64, fits, "from -1 to 100")?;
        let fits = (0.0..=100.0).contains(&self.credit);
        check("credit", self.credit as f64, fits, "from 0 to 100")?;
        let fits = (0.0..=1.0).contains(&self.credit_decay);
        check("credit_decay", self.credit_decay as f64, fits, "a share from 0 to 1")
    }
}
