//! An ablation: several arms that differ in one thing, each trained under the same paired seeds at equal cost.
//!
//! A plan is a `base` recipe (without name, seed and phases), `[[arm]]`s that set fields and bring their phases, and
//! optionally `[[start]]` phases: one model a seed that arms go on from, whose tokens count as theirs. Every run of the
//! plan is an ordinary run, `NAME-ARM-sSEED`.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{ConfigError, Phase, RunConfig};

/// What all arms have the same amount of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// clean data tokens, start included
    Tokens,
    /// model FLOPs, forward and backward, start included: an arm's own phases are shortened or lengthened in
    /// proportion until it costs what the baseline costs
    Flops,
}

/// What an arm goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Start,
    Scratch,
}

/// One arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    pub name: String,
    /// [default: start, if the plan has one]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// shown, but not held to the budget
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unequal: bool,
    /// fields of the base recipe that this arm changes
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub set: Table,
    pub phase: Vec<Phase>,
}

/// What is measured on every finished run, on its validation rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// own (the phase's estimator), nelbo_n, exact (ar, or nll_l2r of a masked model), duel (ar, or nll_duel(p_max))
    #[serde(default = "own")]
    pub likelihoods: Vec<String>,
    #[serde(default = "eight")]
    pub k: usize,
    /// validation rows, 0 = all
    #[serde(default)]
    pub rows: usize,
}
fn own() -> Vec<String> {
    vec!["own".into()]
}
fn eight() -> usize {
    8
}
impl Default for Measure {
    fn default() -> Self {
        Measure { likelihoods: own(), k: 8, rows: 0 }
    }
}

/// A plan of runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ablation {
    pub name: String,
    /// the question, in one sentence
    pub about: String,
    pub seeds: Vec<u64>,
    pub equal: Budget,
    /// arm that the others are compared with
    pub baseline: String,
    #[serde(default)]
    pub measure: Measure,
    pub base: Table,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub start: Vec<Phase>,
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
}

/// Sets every leaf of `over` in `base`.
fn merge(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(b)), Value::Table(o)) => merge(b, o),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

impl Ablation {
    /// Names of likelihoods a plan may ask for.
    pub const LIKELIHOODS: [&'static str; 4] = ["own", "nelbo_n", "exact", "duel"];

    /// Reads a plan and resolves every run of it.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field, or the arm and the field of its recipe.
    pub fn from_toml(text: &str) -> Result<Ablation, ConfigError> {
        let plan: Ablation = toml::from_str(text).map_err(|e| ConfigError::Parse(e.to_string()))?;
        plan.validate()?;
        Ok(plan)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let bad = |f: &str, m: String| Err(ConfigError::field(f, m));
        if self.seeds.is_empty() || self.seeds.len() > 31 {
            return bad("seeds", format!("{} seeds, it must be 1 to 31", self.seeds.len()));
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.len() < self.seeds.len() {
            return bad("seeds", "a seed comes twice".into());
        }
        if self.arms.is_empty() || !self.arms.iter().any(|a| a.name == self.baseline) {
            let names: Vec<&str> = self.arms.iter().map(|a| a.name.as_str()).collect();
            return bad(
                "baseline",
                format!("\"{}\" is none of the arms {}", self.baseline, names.join(", ")),
            );
        }
        for (i, a) in self.arms.iter().enumerate() {
            if a.name == "start" || self.arms[..i].iter().any(|b| b.name == a.name) {
                return bad(&format!("arm[{i}].name"), format!("\"{}\" is taken", a.name));
            }
            if a.from == Some(Origin::Start) && self.start.is_empty() {
                return bad(&format!("arm[{i}].from"), "there is no [[start]]".into());
            }
        }
        if let Some(l) = self.measure.likelihoods.iter().find(|l| !Self::LIKELIHOODS.contains(&l.as_str())) {
            let known = Self::LIKELIHOODS.join(", ");
            return bad("measure.likelihoods", format!("\"{l}\" is none of {known}"));
        }
        if self.measure.likelihoods.is_empty() || !(1..=4096).contains(&self.measure.k) {
            return bad("measure", "at least one likelihood, and k in 1..4096".into());
        }
        let seed = self.seeds[0];
        if !self.start.is_empty() {
            self.start_recipe(seed)?;
        }
        let budget = self.tokens(self.arm(&self.baseline), seed)?;
        for a in &self.arms {
            let tokens = self.tokens(a, seed)?;
            let step =
                self.recipe(a, seed)?.data.packing.length as u64 * self.recipe(a, seed)?.batch.rows as u64;
            // whole steps: phases round down
            let slack = step * (a.phase.len() + self.start.len() + 1) as u64;
            if self.equal == Budget::Tokens && !a.unequal && tokens.abs_diff(budget) > slack {
                return bad(
                    &format!("arm \"{}\"", a.name),
                    format!(
                        "sees {tokens} tokens and the baseline {budget}; make them equal, or say unequal = true"
                    ),
                );
            }
        }
        Ok(())
    }

    pub fn arm(&self, name: &str) -> &Arm {
        self.arms.iter().find(|a| a.name == name).expect("checked when the plan was read")
    }
    /// Does it go on from the shared start?
    pub fn starts(&self, arm: &Arm) -> bool {
        arm.from.unwrap_or(if self.start.is_empty() { Origin::Scratch } else { Origin::Start })
            == Origin::Start
    }
    /// Tokens of an arm under a seed, start included.
    pub fn tokens(&self, arm: &Arm, seed: u64) -> Result<u64, ConfigError> {
        let of = |c: RunConfig| c.total_steps() * (c.batch.rows * c.data.packing.length) as u64;
        let start = if self.starts(arm) { of(self.start_recipe(seed)?) } else { 0 };
        Ok(start + of(self.recipe(arm, seed)?))
    }

    /// Name of a run.
    pub fn run_name(&self, arm: &str, seed: u64) -> String {
        format!("{}-{arm}-s{seed}", self.name)
    }
    /// Recipe of the shared start.
    pub fn start_recipe(&self, seed: u64) -> Result<RunConfig, ConfigError> {
        self.build("start", &Table::new(), &self.start, seed)
    }
    /// Recipe of an arm; `model.from` is left to whoever knows where runs are.
    pub fn recipe(&self, arm: &Arm, seed: u64) -> Result<RunConfig, ConfigError> {
        self.build(&arm.name, &arm.set, &arm.phase, seed)
    }

    fn build(&self, name: &str, set: &Table, phases: &[Phase], seed: u64) -> Result<RunConfig, ConfigError> {
        let mut t = self.base.clone();
        merge(&mut t, set);
        for key in ["name", "seed", "phase"] {
            if t.contains_key(key) {
                let message = format!("arm \"{name}\": set by the plan, not by base or set");
                return Err(ConfigError::field(key, message));
            }
        }
        t.insert("name".into(), self.run_name(name, seed).into());
        t.insert("seed".into(), Value::Integer(seed as i64));
        t.insert("about".into(), self.about.clone().into());
        t.insert("phase".into(), Value::try_from(phases).expect("phases are plain data"));
        let text = toml::to_string(&t).expect("a table is TOML");
        RunConfig::from_toml(&text).map_err(|e| match e {
            ConfigError::Parse(m) => ConfigError::Parse(format!("arm \"{name}\": {m}")),
            ConfigError::Field { field, message } => {
                ConfigError::Field { field: format!("arm \"{name}\": {field}"), message }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
name = "a"
about = "Does it work?"
seeds = [1, 2]
equal = "tokens"
baseline = "ar"
[base]
data = { train = "x", packing = { length = 16 } }
batch = { rows = 4 }
[[start]]
objective = "ar"
tokens = 640
lr = { peak = 1e-3 }
[[arm]]
name = "ar"
from = "scratch"
[[arm.phase]]
objective = "ar"
tokens = 1280
lr = { peak = 1e-3 }
[[arm]]
name = "mdlm"
set = { optimiser = { weight_decay = 0.5 } }
[[arm.phase]]
objective = "mdlm"
tokens = 640
lr = { peak = 1e-3 }
"#;

    #[test]
    fn arms_are_recipes_at_equal_tokens() {
        let p = Ablation::from_toml(PLAN).unwrap();
        let (ar, mdlm) = (p.arm("ar"), p.arm("mdlm"));
        assert_eq!((p.tokens(ar, 1).unwrap(), p.tokens(mdlm, 1).unwrap()), (1280, 1280));
        let c = p.recipe(mdlm, 2).unwrap();
        assert_eq!((c.name.as_str(), c.seed, c.optimiser.weight_decay), ("a-mdlm-s2", 2, 0.5));
        assert!(p.starts(mdlm) && !p.starts(ar));
    }

    #[test]
    fn plans_are_refused_by_arm_and_field() {
        for (from, to, word) in [
            ("tokens = 1280", "tokens = 2560", "arm \"mdlm\""),
            ("baseline = \"ar\"", "baseline = \"arr\"", "baseline"),
            ("seeds = [1, 2]", "seeds = [1, 1]", "seeds"),
            ("weight_decay = 0.5", "weight_decay = 50.0", "arm \"mdlm\": optimiser"),
            ("weight_decay = 0.5", "wait_decay = 0.5", "wait_decay"),
            ("name = \"mdlm\"", "name = \"start\"", "arm[1].name"),
            ("equal = \"tokens\"", "equal = \"time\"", "equal"),
            ("[base]", "[measure]\nlikelihoods = [\"best\"]\n[base]", "measure.likelihoods"),
            ("batch = { rows = 4 }", "batch = { rows = 4 }\nseed = 3", "seed"),
        ] {
            let e = Ablation::from_toml(&PLAN.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(e.contains(word), "{to}: {e}");
        }
    }
}
