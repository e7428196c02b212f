//! What came out of an ablation: per arm the mean with its interval over seeds, per pair of arms the paired difference and
//! one sentence that says no more than its interval (`methods/evaluation.md` 4.2, 4.4). Kept as
//! `ablations/NAME/result.json` and `result.md` in the data folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use hilda_engine::config::{Ablation, Budget};
use hilda_engine::eval::statistics::Interval;
use hilda_engine::record::Estimate;
use serde::{Deserialize, Serialize};

use crate::storage::{DataDir, StorageError, io_error, valid_id, write_atomic};

/// One run of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub run: String,
    pub seed: u64,
    /// start included
    pub tokens: u64,
    pub flops: f64,
    pub seconds: f64,
    /// by the plan's name of the likelihood
    pub likelihoods: BTreeMap<String, Estimate>,
}

/// One arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    pub arm: String,
    pub runs: Vec<RunResult>,
    /// over seeds
    pub likelihoods: BTreeMap<String, Interval>,
    pub estimators: BTreeMap<String, String>,
}

/// An arm against the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub arm: String,
    pub baseline: String,
    pub likelihood: String,
    /// arm minus baseline, seed by seed
    pub difference: Interval,
    pub verdict: String,
}

/// The result page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AblationResult {
    pub name: String,
    pub about: String,
    /// "tokens" or "flops"
    pub equal: String,
    pub seeds: Vec<u64>,
    pub finished: usize,
    pub planned: usize,
    pub arms: Vec<ArmResult>,
    pub comparisons: Vec<Comparison>,
    pub command: String,
}

/// Exact likelihoods may be compared with each other, bounds with themselves.
fn exact(estimator: &str) -> bool {
    estimator == "ar" || estimator.starts_with("nll_")
}

/// Collects a plan's runs; `runs` holds the finished ones of each arm in the order of the seeds.
pub fn collect(plan: &Ablation, runs: Vec<(String, Vec<RunResult>)>, command: String) -> AblationResult {
    let arms: Vec<ArmResult> = runs
        .into_iter()
        .map(|(arm, runs)| {
            let (mut likelihoods, mut estimators) = (BTreeMap::new(), BTreeMap::new());
            for name in &plan.measure.likelihoods {
                let values: Vec<f64> =
                    runs.iter().filter_map(|r| r.likelihoods.get(name)).map(|e| e.value).collect();
                if let Some(first) = runs.first().and_then(|r| r.likelihoods.get(name)) {
                    likelihoods.insert(name.clone(), Interval::of(&values));
                    estimators.insert(name.clone(), first.estimator.clone());
                }
            }
            ArmResult { arm, runs, likelihoods, estimators }
        })
        .collect();
    let mut comparisons = vec![];
    let base = arms.iter().find(|a| a.arm == plan.baseline);
    for arm in arms.iter().filter(|a| a.arm != plan.baseline) {
        for name in &plan.measure.likelihoods {
            if let Some(c) = base.and_then(|b| compare(arm, b, name, plan)) {
                comparisons.push(c);
            }
        }
    }
    AblationResult {
        name: plan.name.clone(),
        about: plan.about.clone(),
        equal: if plan.equal == Budget::Tokens { "tokens".into() } else { "flops".into() },
        seeds: plan.seeds.clone(),
        finished: arms.iter().map(|a| a.runs.len()).sum(),
        planned: plan.arms.len() * plan.seeds.len(),
        arms,
        comparisons,
        command,
    }
}

/// The paired difference of the seeds that both arms have.
fn compare(a: &ArmResult, b: &ArmResult, name: &str, plan: &Ablation) -> Option<Comparison> {
    let value = |arm: &ArmResult, seed: u64| {
        arm.runs.iter().find(|r| r.seed == seed)?.likelihoods.get(name).map(|e| e.value)
    };
    let pairs: Vec<(f64, f64)> =
        plan.seeds.iter().filter_map(|s| Some((value(a, *s)?, value(b, *s)?))).collect();
    if pairs.is_empty() {
        return None;
    }
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
    let difference = Interval::paired(&x, &y);
    let (ea, eb) = (a.estimators.get(name)?, b.estimators.get(name)?);
    let unequal = plan.arm(&a.arm).unequal || plan.arm(&b.arm).unequal;
    let verdict = verdict((&a.arm, ea), (&b.arm, eb), &difference, plan.equal, unequal);
    Some(Comparison {
        arm: a.arm.clone(),
        baseline: b.arm.clone(),
        likelihood: name.into(),
        difference,
        verdict,
    })
}

/// One sentence about a paired difference (arm minus baseline, nats per token, lower is better).
fn verdict(a: (&str, &str), b: (&str, &str), d: &Interval, equal: Budget, unequal: bool) -> String {
    let estimators = if a.1 == b.1 { a.1.to_string() } else { format!("{} against {}", a.1, b.1) };
    let n = d.values.len();
    let (Some(low), Some(high)) = (d.low, d.high) else {
        return format!(
            "{} and {} differ by {:+.4} nats per token ({estimators}) under one seed, which has no interval.",
            a.0, b.0, d.mean
        );
    };
    let budget = match (unequal, equal) {
        (true, _) => "not at equal cost",
        (false, Budget::Tokens) => "at equal tokens",
        (false, Budget::Flops) => "at equal FLOPs",
    };
    let basis =
        format!("{low:+.4} to {high:+.4} nats per token, 95 % over {n} paired seeds, {estimators}, {budget}");
    let mut text = if d.excludes_zero() {
        let word = if d.mean < 0.0 { "better" } else { "worse" };
        format!("{} is {word} than {} by {:.4} ({basis}).", a.0, b.0, d.mean.abs())
    } else {
        let resolution = (high - low) / 2.0;
        format!("No difference found between {} and {} (resolution {resolution:.4}; {basis}).", a.0, b.0)
    };
    let same_process = a.1 == b.1 || (exact(a.1) && exact(b.1));
    if !same_process {
        text += match (exact(a.1), exact(b.1)) {
            (false, true) => " A bound against an exact value: the difference includes the bound's gap.",
            (true, false) => " An exact value against a bound: the difference includes the bound's gap.",
            _ => " Bounds of different processes: their gaps differ, so this is no ranking.",
        };
    }
    text
}

impl AblationResult {
    /// For people: one table an ablation, the verdicts, the commands.
    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n{}\n\n", self.name, self.about);
        out += &format!(
            "{} of {} runs finished, seeds {:?}, equal {}. Nats per token on held-out text, lower is better; mean \
             (95 % interval by Student's t over seeds).\n\n| arm | tokens | model FLOPs |",
            self.finished, self.planned, self.seeds, self.equal
        );
        let names: Vec<String> = self
            .arms
            .iter()
            .flat_map(|a| a.likelihoods.keys().cloned())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        names.iter().for_each(|n| out += &format!(" {n} | estimator |"));
        out += &format!("\n|---|---|---|{}\n", "---|---|".repeat(names.len()));
        for a in &self.arms {
            let mean =
                |f: fn(&RunResult) -> f64| a.runs.iter().map(f).sum::<f64>() / a.runs.len().max(1) as f64;
            out += &format!("| {} | {:.0} | {:.3e} |", a.arm, mean(|r| r.tokens as f64), mean(|r| r.flops));
            for n in &names {
                match (a.likelihoods.get(n), a.estimators.get(n)) {
                    (Some(i), Some(e)) => out += &format!(" {} | {e} |", i.text()),
                    _ => out += " not yet | |",
                }
            }
            out.push('\n');
        }
        out += "\n";
        for c in &self.comparisons {
            out += &format!("- {}\n", c.verdict);
        }
        out += "\n| run | seed | values |\n|---|---|---|\n";
        for r in self.arms.iter().flat_map(|a| &a.runs) {
            let values: Vec<String> = r
                .likelihoods
                .values()
                .map(|e| {
                    format!("{} {:.4} ± {:.4} (K {}, seed {})", e.estimator, e.value, e.stderr, e.k, e.seed)
                })
                .collect();
            out += &format!("| {} | {} | {} |\n", r.run, r.seed, values.join(", "));
        }
        out += &format!("\nReproduce: `{}`\n", self.command);
        out
    }

    /// Writes both forms into the data folder. Returns the folder.
    pub fn save(&self, data: &DataDir) -> Result<PathBuf, StorageError> {
        let folder = data.root().join("ablations").join(&self.name);
        fs::create_dir_all(&folder).map_err(io_error("making", &folder))?;
        write_atomic(&folder.join("result.json"), &serde_json::to_vec_pretty(self).expect("plain data"))?;
        write_atomic(&folder.join("result.md"), self.markdown().as_bytes())?;
        Ok(folder)
    }
}

/// Results of the data folder by name; folders that do not read are left out.
pub fn list(data: &DataDir) -> Vec<AblationResult> {
    let entries = fs::read_dir(data.root().join("ablations")).into_iter().flatten().flatten();
    let mut all: Vec<AblationResult> = entries
        .filter(|e| e.file_name().to_str().is_some_and(valid_id))
        .filter_map(|e| serde_json::from_slice(&fs::read(e.path().join("result.json")).ok()?).ok())
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(a: &str, b: &str, x: &[f64], y: &[f64]) -> String {
        verdict(("new", a), ("old", b), &Interval::paired(x, y), Budget::Tokens, false)
    }

    #[test]
    fn verdicts_say_no_more_than_their_interval() {
        let clear = says("ar", "ar", &[1.0, 2.0, 3.0], &[1.5, 2.51, 3.49]);
        assert!(clear.starts_with("new is better than old by 0.5000 (-0.5248 to -0.4752"), "{clear}");
        assert!(clear.contains("3 paired seeds") && clear.contains("equal tokens"), "{clear}");
        let none = says("nelbo_t(8)", "nelbo_t(8)", &[1.0, 2.0, 3.0], &[1.1, 1.9, 3.0]);
        assert!(none.starts_with("No difference found") && none.contains("resolution"), "{none}");
        assert!(says("ar", "ar", &[1.0], &[2.0]).contains("one seed"));
        let (x, y) = ([3.0, 3.01, 3.02], [2.0, 2.01, 2.02]);
        assert!(says("nelbo_t(8)", "ar", &x, &y).contains("bound against an exact"));
        assert!(says("nelbo_t(8)", "nelbo_block(4,8)", &x, &y).contains("no ranking"));
        assert!(!says("nll_l2r", "ar", &x, &y).contains("gap"));
    }
}
