//! A shared result: everything that a reader needs to judge and repeat a run, in one value.
//!
//! It is read from the run whenever somebody looks, so a link made while training shows how far training is.

use hilda_engine::{
    config::RunConfig,
    decode::Trajectory,
    record::{Estimate, Metric, SampleFile, Status},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    http::VERSION,
    storage::{Index, RunFolder, StorageError, index::TrainPoint, ingest, run::queued_status, shares::Share},
};

/// Points of the loss curve that are sent at most.
pub const CURVE_POINTS: usize = 1000;

#[derive(Clone, Debug, Serialize)]
pub struct RunName {
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct ValidPoint {
    pub step: u64,
    /// clean data tokens seen
    pub tokens: u64,
    pub estimate: Estimate,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// training only
    pub seconds: f64,
    pub tokens: u64,
    /// model FLOPs, forward and backward
    pub flops: f64,
    pub device: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct SharedResult {
    pub slug: String,
    pub title: String,
    pub note: String,
    pub created: f64,
    pub run: RunName,
    pub config: RunConfig,
    pub toml: String,
    pub config_hash: String,
    pub status: Status,
    /// [step, loss, tokens, seconds since the start of training], thinned
    pub train: Vec<(u64, f64, u64, f64)>,
    pub valid: Vec<ValidPoint>,
    pub samples: Vec<SampleFile>,
    pub trajectory: Option<Trajectory>,
    /// text of each token id that the trajectory mentions
    pub tokenizer_pieces: serde_json::Map<String, Value>,
    pub cost: Cost,
    pub command: String,
    pub version: String,
}

/// Keeps at most `limit` points: of each stretch the mean loss, at its last step. The last point stays exact.
fn thin(points: &[TrainPoint], limit: usize) -> Vec<(u64, f64, u64, f64)> {
    let mut seconds = 0.0;
    let with_time: Vec<_> = points
        .iter()
        .map(|p| {
            seconds += p.seconds;
            (p.step, p.loss, p.tokens, seconds)
        })
        .collect();
    let stretch = with_time.len().div_ceil(limit).max(1);
    with_time
        .chunks(stretch)
        .filter_map(|c| {
            let last = c.last()?;
            let finite: Vec<f64> = c.iter().map(|p| p.1).filter(|l| l.is_finite()).collect();
            if finite.is_empty() {
                return None;
            }
            Some((last.0, finite.iter().sum::<f64>() / finite.len() as f64, last.2, last.3))
        })
        .collect()
}

/// Reads the result of a run as its share shows it.
pub fn build(index: &Index, run: &RunFolder, share: &Share) -> Result<SharedResult, StorageError> {
    ingest::ingest(index, run)?;
    let config = run.config()?;
    let status = match run.status()? {
        Some(s) => s,
        None => queued_status(&config, share.created),
    };
    let points = index.train_points(&run.id)?;
    let (seconds, flops) = index.cost(&run.id)?;
    let valid = index
        .validations(&run.id)?
        .into_iter()
        .filter_map(|m| match m {
            Metric::Valid { step, tokens, estimate, .. } => Some(ValidPoint { step, tokens, estimate }),
            _ => None,
        })
        .collect();
    let mut samples = run.samples();
    // the newest record is shown; the others stay in the run
    let trajectory = samples.iter().rev().flat_map(|f| &f.samples).find_map(|s| s.trajectory.clone());
    for s in samples.iter_mut().flat_map(|f| &mut f.samples) {
        s.trajectory = None;
    }
    let tokenizer_pieces = match &trajectory {
        Some(t) => pieces(run, t),
        None => Default::default(),
    };
    Ok(SharedResult {
        slug: share.slug.clone(),
        title: share.title.clone(),
        note: share.note.clone(),
        created: share.created,
        run: RunName { id: run.id.clone(), name: config.name.clone() },
        toml: run.toml()?,
        config_hash: config.hash(),
        train: thin(&points, CURVE_POINTS),
        valid,
        samples,
        trajectory,
        tokenizer_pieces,
        cost: Cost { seconds, tokens: status.tokens, flops, device: status.device.clone() },
        command: format!("hilda train {}.toml", config.name),
        version: VERSION.into(),
        config,
        status,
    })
}

/// Texts of the token ids that occur in a trajectory, from the newest checkpoint's tokenizer.
fn pieces(run: &RunFolder, trajectory: &Trajectory) -> serde_json::Map<String, Value> {
    let mut ids = std::collections::BTreeSet::new();
    collect_ids(&serde_json::to_value(trajectory).unwrap_or(Value::Null), &mut ids);
    let Some(path) = run.newest_checkpoint().map(|p| p.join("tokenizer.json")) else {
        return Default::default();
    };
    let Some(texts) = std::fs::read(path).ok().and_then(|b| token_texts(&b)) else {
        return Default::default();
    };
    ids.into_iter().filter_map(|id| Some((id.to_string(), Value::String(texts.get(&id)?.clone())))).collect()
}

/// Every whole number in a value: ids are among them, the rest costs a few entries.
fn collect_ids(v: &Value, out: &mut std::collections::BTreeSet<u64>) {
    match v {
        Value::Number(n) => out.extend(n.as_u64().filter(|n| *n < 1 << 24)),
        Value::Array(a) => a.iter().for_each(|v| collect_ids(v, out)),
        Value::Object(o) => o.values().for_each(|v| collect_ids(v, out)),
        _ => {}
    }
}

/// Id to text of a byte-level BPE `tokenizer.json`. A piece that is not whole UTF-8 shows the replacement sign.
pub fn token_texts(tokenizer: &[u8]) -> Option<std::collections::HashMap<u64, String>> {
    let v: Value = serde_json::from_slice(tokenizer).ok()?;
    let mut out = std::collections::HashMap::new();
    for (piece, id) in v.get("model")?.get("vocab")?.as_object()? {
        let bytes: Option<Vec<u8>> = piece.chars().map(byte_of).collect();
        let text = match bytes {
            Some(b) => String::from_utf8_lossy(&b).into_owned(),
            None => piece.clone(),
        };
        out.insert(id.as_u64()?, text);
    }
    for t in v.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        if let (Some(id), Some(text)) =
            (t.get("id").and_then(Value::as_u64), t.get("content").and_then(Value::as_str))
        {
            out.insert(id, text.into());
        }
    }
    Some(out)
}

/// The byte that GPT-2's printable alphabet writes as `c`: printable Latin-1 stands for itself, the 68 others follow
/// from U+0100 on in order.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let n = c as u32;
    if n < 256 {
        return printable(n as u8).then_some(n as u8);
    }
    (0..=255u8).filter(|b| !printable(*b)).nth((n - 256) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_end_and_the_mean() {
        let points: Vec<_> = (1..=2500)
            .map(|step| TrainPoint { step, loss: 1.0 + (step % 2) as f64, tokens: step * 8, seconds: 0.5 })
            .collect();
        let t = thin(&points, 1000);
        assert!(t.len() <= 1000 && t.len() > 800);
        assert_eq!((t.last().unwrap().0, t.last().unwrap().2, t.last().unwrap().3), (2500, 20000, 1250.0));
        let mean = t.iter().map(|p| p.1).sum::<f64>() / t.len() as f64;
        assert!((mean - 1.5).abs() < 0.01);
        assert_eq!(thin(&points[..10], 1000).len(), 10);
        assert!(thin(&[], 1000).is_empty());
    }

    #[test]
    fn byte_level_pieces_become_text() {
        let json = r#"{"model":{"vocab":{"Ġthe":5,"Ċ":6,"Ã©":7,"Ã":8}},
            "added_tokens":[{"id":9,"content":"<mask>"}]}"#;
        let t = token_texts(json.as_bytes()).unwrap();
        assert_eq!((t[&5].as_str(), t[&6].as_str(), t[&7].as_str()), (" the", "\n", "é"));
        assert_eq!((t[&8].as_str(), t[&9].as_str()), ("\u{fffd}", "<mask>"));
        assert_eq!(byte_of('\u{0143}'), Some(0xad));
        assert_eq!(byte_of('\u{0144}'), None);
    }
}
