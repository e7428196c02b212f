//! What a recipe claims of itself, checked by `hilda audit` before any result is believed.

use serde::{Deserialize, Serialize};

/// How a number relates to -ln p of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// neither its value nor a bound: a training signal or a diagnostic
    Neither,
    /// never below it, in expectation over draws
    Bound,
    Exact,
}

impl Standing {
    /// For tables.
    pub fn text(self) -> &'static str {
        match self {
            Standing::Neither => "neither",
            Standing::Bound => "bound",
            Standing::Exact => "exact",
        }
    }
}

/// `[claims]` of a recipe. Without it a recipe claims what the names of its estimators say, and nothing of its
/// objective or sampler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// of the training loss of every phase
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Standing>,
    /// of the headline likelihood under the law it is named for
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<Standing>,
    /// of the headline likelihood under the law of the policy that the model is decoded with
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<Standing>,
}

impl Claims {
    pub fn is_empty(&self) -> bool {
        *self == Claims::default()
    }
}
