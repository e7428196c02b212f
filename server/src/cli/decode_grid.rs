//! Which decoders `hilda decode-bench` measures: those named one by one, or a grid. A parameter that is a list stands for
//! each of its values, and several lists for every combination: `{"kind": "threshold", "tau": [0.5, 0.7, 0.9]}` is three
//! decoders.

use std::fs;
use std::path::Path;

use hilda_engine::decode::PolicySpec;
use serde::Deserialize;
use serde_json::Value;

use super::CliError;
use super::sample::parse_policy;

/// Decoders of one grid at most: a list too many multiplies quickly.
const MOST: usize = 2000;

/// Exact samples of the model's own law: what the other decoders approximate.
pub const REFERENCE: &str = r#"{"kind": "ancestral", "tokens_per_forward": 1}"#;
/// The sampler's own cost and speed, and each rule from careful to hasty.
pub const GRID: [&str; 34] = [
    r#"{"kind": "ancestral", "tokens_per_forward": 2}"#,
    r#"{"kind": "ancestral", "tokens_per_forward": 4}"#,
    r#"{"kind": "top_prob", "steps_per_block": 0}"#,
    r#"{"kind": "top_prob", "steps_per_block": 4}"#,
    r#"{"kind": "top_prob", "steps_per_block": 2}"#,
    r#"{"kind": "top_prob", "steps_per_block": 4, "score": "margin"}"#,
    r#"{"kind": "threshold", "tau": 0.9}"#,
    r#"{"kind": "threshold", "tau": 0.7}"#,
    r#"{"kind": "threshold", "tau": 0.5}"#,
    r#"{"kind": "threshold", "tau": 0.3}"#,
    r#"{"kind": "threshold", "tau": 0.7, "score": "certainty_prior"}"#,
    r#"{"kind": "threshold", "tau": 0.5, "top_p": 0.9}"#,
    r#"{"kind": "threshold", "tau": 0.5, "top_k": 20}"#,
    r#"{"kind": "top_prob", "steps_per_block": 4, "schedule": "dream", "alg_temp": 0.1}"#,
    r#"{"kind": "klass", "tau": 0.6, "epsilon": 0.02}"#,
    r#"{"kind": "klass", "tau": 0.6, "epsilon": 0.2, "history": 1}"#,
    r#"{"kind": "factor", "f": 0.5}"#,
    r#"{"kind": "factor", "f": 1}"#,
    r#"{"kind": "factor", "f": 2}"#,
    r#"{"kind": "entropy_bound", "gamma": 0.1}"#,
    r#"{"kind": "entropy_bound", "gamma": 0.5}"#,
    r#"{"kind": "entropy_bound", "gamma": 1.5}"#,
    r#"{"kind": "edit", "tau_mask": 0.7, "tau_edit": 0.5}"#,
    r#"{"kind": "edit", "tau_mask": 0.5, "tau_edit": 0}"#,
    r#"{"kind": "edit", "tau_mask": 0.3, "tau_edit": 0.3}"#,
    r#"{"kind": "edit", "tau_mask": 0.3, "tau_edit": 0}"#,
    r#"{"kind": "remask", "tau_mask": 0.7, "tau_remask": 0.5}"#,
    r#"{"kind": "remask", "tau_mask": 0.5, "tau_remask": 0.3}"#,
    r#"{"kind": "remdm", "steps": 16, "eta": 0.04}"#,
    r#"{"kind": "remdm", "steps": 64, "eta": 0.04}"#,
    r#"{"kind": "remdm", "steps": 64, "variant": "conf"}"#,
    r#"{"kind": "draft_refine", "tau": 0.5, "gamma": 0.25, "refine_tau": 0.5}"#,
    r#"{"kind": "best_of", "n": 3, "tau": 0.5}"#,
    r#"{"kind": "left_to_right"}"#,
];

/// What needs sight of the whole text.
pub const WHOLE: [&str; 4] = [
    r#"{"kind": "threshold", "tau": 0.5, "cache": "prefix"}"#,
    r#"{"kind": "threshold", "tau": 0.5, "cache": "dual"}"#,
    r#"{"kind": "threshold", "tau": 0.5, "cache": "dual", "cache_refresh": 4}"#,
    r#"{"kind": "order_token_search", "beams": 3, "tokens_per_forward": 4}"#,
];

/// A grid file: policies by name or as objects with lists, and temperatures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GridFile {
    policies: Vec<Value>,
    #[serde(default)]
    temperatures: Vec<f32>,
}

/// Every combination of the values in lists; the last list varies fastest.
fn combinations(policy: &Value) -> Vec<Value> {
    let Value::Object(fields) = policy else { return vec![policy.clone()] };
    let mut all = vec![serde_json::Map::new()];
    for (name, value) in fields {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut next = Vec::new();
        for made in &all {
            for v in values.iter().take(MOST + 1) {
                let mut made = made.clone();
                made.insert(name.clone(), v.clone());
                next.push(made);
            }
            if next.len() > MOST {
                break;
            }
        }
        all = next;
    }
    all.into_iter().map(Value::Object).collect()
}

/// The decoders that `text` (a name, or JSON with or without lists) stands for.
///
/// # Errors
/// A policy that is refused, an empty list, more than 2,000 decoders.
pub fn policies(text: &str) -> Result<Vec<PolicySpec>, CliError> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::String(name)) => Ok(vec![parse_policy(&name)?]),
        Ok(value @ Value::Object(_)) => {
            let all = combinations(&value);
            if all.is_empty() {
                return Err(CliError::BadInput(format!("policy {text}: a list has no values")));
            }
            if all.len() > MOST {
                return Err(CliError::BadInput(format!("policy {text}: more than {MOST} decoders")));
            }
            all.iter().map(|v| parse_policy(&v.to_string())).collect()
        }
        // a name, or what `parse_policy` explains better
        _ => Ok(vec![parse_policy(text)?]),
    }
}

/// Decoders and temperatures of a grid file; no temperatures = those of the command line.
///
/// # Errors
/// A file that does not read, what [`policies`] refuses.
pub fn read(path: &Path) -> Result<(Vec<PolicySpec>, Vec<f32>), CliError> {
    let bad = |e: &dyn std::fmt::Display| CliError::BadInput(format!("--grid {}: {e}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| bad(&e))?;
    let file: GridFile = serde_json::from_str(&text).map_err(|e| bad(&e))?;
    let mut all = Vec::new();
    for (i, policy) in file.policies.iter().enumerate() {
        let found = policies(&policy.to_string()).map_err(|e| bad(&format!("policies[{i}]: {e}")))?;
        all.extend(found);
    }
    if all.is_empty() || all.len() > MOST {
        return Err(bad(&format!("{} decoders; a grid has 1 to {MOST}", all.len())));
    }
    Ok((all, file.temperatures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stand_for_every_combination() {
        let all =
            policies(r#"{"kind": "threshold", "tau": [0.5, 0.9], "score": ["top_prob", "margin"]}"#).unwrap();
        assert_eq!(all.len(), 4);
        assert!(all.iter().enumerate().all(|(i, p)| all.iter().skip(i + 1).all(|q| q != p)));
        assert_eq!(policies(r#"{"kind": "threshold", "tau": 0.5}"#).unwrap().len(), 1);
        assert_eq!(policies("threshold").unwrap(), policies("\"threshold\"").unwrap());
    }

    #[test]
    fn wrong_grids_are_refused_by_name() {
        let says = |text: &str| policies(text).unwrap_err().to_string();
        assert!(says(r#"{"kind": "threshold", "tau": []}"#).contains("no values"));
        let steps: Vec<String> = (1..=50).map(|i| i.to_string()).collect();
        let list = format!("[{}]", steps.join(","));
        let many = format!(r#"{{"kind": "remdm", "steps": {list}, "eta": {list}}}"#);
        assert!(says(&many).contains("more than 2000"));
        assert!(says(r#"{"kind": "threshold", "tau": [0.5, 7]}"#).contains("tau"));
        assert!(says(r#"{"kind": "thresh"}"#).contains("thresh"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grid.json");
        let reads = |text: &str| {
            fs::write(&file, text).unwrap();
            read(&file)
        };
        let (all, temperatures) =
            reads(r#"{"policies": ["edit", {"kind": "factor", "f": [1, 2]}], "temperatures": [0.5]}"#)
                .unwrap();
        assert_eq!((all.len(), temperatures), (3, vec![0.5]));
        let failed = reads(r#"{"policies": [{"kind": "factor", "g": 1}]}"#).unwrap_err().to_string();
        assert!(failed.contains("policies[0]"), "{failed}");
        assert!(reads(r#"{"policies": []}"#).is_err() && reads(r#"{"policy": []}"#).is_err());
    }
}
