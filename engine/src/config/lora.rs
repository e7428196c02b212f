//! Low-rank adaptation (LoRA, arXiv 2106.09685): every chosen linear layer W becomes W + (alpha / rank) B A, and only A
//! and B are trained.

use serde::{Deserialize, Serialize};

use super::run::ConfigError;

/// Layers that can be adapted, by the name a recipe gives them.
pub const TARGETS: [&str; 7] = ["q", "k", "v", "o", "gate", "up", "down"];

/// `[lora]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// rows of A, columns of B
    pub rank: usize,
    /// the product counts alpha / rank times [default: twice the rank]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// some of q, k, v, o, gate, up, down [default: all]
    #[serde(default = "all")]
    pub targets: Vec<String>,
}
fn all() -> Vec<String> {
    TARGETS.map(String::from).into()
}

impl LoraSpec {
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }
    /// Factor of the product B A.
    pub fn scale(&self) -> f64 {
        self.alpha() / self.rank as f64
    }
    /// Impossible values, by field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |f: &str, m: String| Err(ConfigError::field(&format!("lora.{f}"), m));
        if !(1..=1024).contains(&self.rank) {
            return bad("rank", format!("{} is outside 1..1024", self.rank));
        }
        if !(self.alpha() > 0.0 && self.alpha().is_finite()) {
            return bad("alpha", format!("{} is not above 0", self.alpha()));
        }
        if self.targets.is_empty() {
            return bad("targets", format!("name some of {}", TARGETS.join(", ")));
        }
        for (i, t) in self.targets.iter().enumerate() {
            if !TARGETS.contains(&t.as_str()) {
                return bad("targets", format!("\"{t}\" is none of {}", TARGETS.join(", ")));
            }
            if self.targets[..i].contains(t) {
                return bad("targets", format!("\"{t}\" is named twice"));
            }
        }
        Ok(())
    }
}
