//! The audit: do corruption, objective, estimator and sampler of a configuration belong to one process, and is a number
//! what it is called? (`methods/rl_common.md` 10, `methods/evaluation.md` 6.)
//!
//! A recipe is audited on its tiny counterpart, sequences of four of three symbols with blocks of at most two, by the
//! trainer's own code: [`process`] builds it, [`objective`] reads the coefficients that training would use, [`estimator`]
//! enumerates what the headline estimates, [`hybrid`] does both for phases under mask and uniform noise, [`sampler`] decodes with the real decoder. A trained model is audited on short
//! rows of text with Monte Carlo error bars ([`checkpoint`]).
//!
//! Each finding says what is proved, exact, bound or neither, and what the recipe claims; claiming more than is proved
//! fails the audit, and so does a check that every process must pass.

pub mod checkpoint;
pub mod estimator;
pub mod hybrid;
pub mod laws;
pub mod objective;
pub mod process;
pub mod sampler;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::config::{Claims, ConfigError, RunConfig, Standing};
use crate::train::trainer::{estimator as headline, serving_of};

/// One measured statement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub what: String,
    /// measured, and what it may be at most
    pub value: f64,
    pub limit: f64,
    pub holds: bool,
}

impl Check {
    /// Holds while `value` <= `limit` (NaN never does).
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Check {
        Check { what: what.into(), value, limit, holds: value <= limit }
    }
}

/// What one part of a configuration was found to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// "phase 2: block 8, logit shift"
    pub feature: String,
    /// corruption, objective, estimator or sampler
    pub part: &'static str,
    /// what the statement is about: an estimator's or policy's name
    pub subject: String,
    pub proved: Standing,
    /// None: nothing is claimed
    pub claimed: Option<Standing>,
    /// why, and what to use instead
    pub says: String,
    /// identities that must hold whatever the standing
    pub checks: Vec<Check>,
}

impl Finding {
    pub fn passes(&self) -> bool {
        self.checks.iter().all(|c| c.holds) && self.claimed.is_none_or(|c| c <= self.proved)
    }
}

/// An audit's result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// the recipe's or the model's name
    pub subject: String,
    pub passed: bool,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn new(subject: impl Into<String>, findings: Vec<Finding>) -> Report {
        Report { subject: subject.into(), passed: findings.iter().all(Finding::passes), findings }
    }

    /// Plain text for a terminal: one line a finding, its checks that fail below it (all of them with `all`).
    pub fn table(&self, all: bool) -> String {
        let mut out = format!("{}\n", self.subject);
        let mut feature = "";
        for f in &self.findings {
            if f.feature != feature {
                feature = &f.feature;
                out += &format!("\n{feature}\n");
            }
            let claim = f.claimed.map_or("-", Standing::text);
            let mark = if f.passes() { "ok  " } else { "FAIL" };
            out += &format!(
                "  {mark} {:<10} {:<26} proved {:<8} claimed {:<8} {}\n",
                f.part,
                f.subject,
                f.proved.text(),
                claim,
                f.says
            );
            for c in f.checks.iter().filter(|c| all || !c.holds) {
                let mark = if c.holds { "holds" } else { "BROKEN" };
                out += &format!("         {mark}: {} ({:.3e}, at most {:.3e})\n", c.what, c.value, c.limit);
            }
        }
        out += if self.passed { "\npassed\n" } else { "\nfailed: more is claimed than proved\n" };
        out
    }
}

/// Audits every phase of a recipe.
///
/// # Errors
/// [`ConfigError`] where the recipe itself does not hold.
pub fn recipe(config: &RunConfig) -> Result<Report, ConfigError> {
    config.validate()?;
    let mut findings = vec![];
    for p in 0..config.phases.len() {
        for tiny in process::tiny(config, p) {
            let mixed = tiny.phase.hybrid;
            findings.extend(match &mixed {
                Some(spec) => hybrid::objective(&tiny, spec, &config.claims),
                None => objective::audit(&tiny, &config.claims),
            });
            // a phase that draws several block sizes is judged by one of them
            if headline(config, p).block().unwrap_or(0) == tiny.stands_for {
                let claimed = claimed(&config.claims, config, p);
                findings.push(match &mixed {
                    Some(spec) => hybrid::estimator(&tiny, spec, config, p, claimed),
                    None => estimator::audit(&tiny, config, p, claimed),
                });
            }
            findings.extend(estimator::editing(&tiny));
        }
    }
    // the last phase is what is served
    let last = config.phases.len() - 1;
    let serving = serving_of(config, last);
    for tiny in process::tiny(config, last) {
        if tiny.serves(serving) {
            findings.extend(sampler::audit(&tiny, config, &config.claims));
        }
    }
    Ok(Report::new(config.name.clone(), findings))
}

/// What the headline of phase `p` is called: `ar` is exact, every `nelbo` a bound.
fn claimed(claims: &Claims, config: &RunConfig, p: usize) -> Standing {
    let name = headline(config, p).name();
    claims.headline.unwrap_or(if name == "ar" { Standing::Exact } else { Standing::Bound })
}
