//! What `hilda decode-bench` measured, as lines of a table and of a CSV file.

use std::fmt::Write;

use hilda_engine::decode::PolicySpec;
use hilda_engine::eval::decoders::Point;

/// A policy's parameters on one line, without its kind: "tau 0.9".
pub fn parameters(policy: &PolicySpec) -> String {
    let value = serde_json::to_value(policy).unwrap_or_default();
    let known = PolicySpec::parameters().iter().find(|i| i.kind == policy.kind());
    let mut out = String::new();
    let candidate = PolicySpec::common_parameters();
    let own = known.map(|i| i.parameters).unwrap_or_default();
    for (i, p) in own.iter().chain(candidate).enumerate() {
        let told = &value[p.name];
        let default = serde_json::from_str::<serde_json::Value>(p.default).unwrap_or_default();
        // the first parameter names the point, the others only where they are not as usual
        if (i > 0 || own.is_empty())
            && told.as_f64().map(|v| v as f32) == default.as_f64().map(|v| v as f32)
            && told.is_number()
        {
            continue;
        }
        if told == &default && (i > 0 || own.is_empty()) {
            continue;
        }
        let shown = match told.as_f64() {
            Some(v) => format!("{}", (v * 1e4).round() / 1e4),
            None if told == &serde_json::Value::Bool(true) => "on".into(),
            None => told.as_str().map_or_else(|| "off".into(), String::from),
        };
        let _ = write!(out, "{}{} {shown}", if out.is_empty() { "" } else { ", " }, p.name);
    }
    out
}

pub fn csv(points: &[Point]) -> String {
    let mut out = String::from(
        "kind,parameters,temperature,texts,judge_nll,judge_nll_stderr,unigram_entropy,unigram_entropy_stderr,excess,accuracy,accuracy_stderr,tokens,forwards,tokens_per_forward,positions,edits,forced,finished,short,seconds\n",
    );
    for p in points {
        let _ = writeln!(
            out,
            "{},\"{}\",{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            p.policy.kind(),
            parameters(&p.policy),
            p.temperature,
            p.texts,
            p.nll,
            p.nll_stderr,
            p.entropy,
            p.entropy_stderr,
            p.excess.map(|e| e.to_string()).unwrap_or_default(),
            p.accuracy.map(|a| a.0.to_string()).unwrap_or_default(),
            p.accuracy.map(|a| a.1.to_string()).unwrap_or_default(),
            p.tokens,
            p.forwards,
            p.tokens_per_forward,
            p.positions,
            p.edits,
            p.forced,
            p.finished,
            p.short,
            p.seconds
        );
    }
    out
}

pub fn table(points: &[Point]) -> String {
    let mut out = format!(
        "{:<44} {:>4} {:>15} {:>8} {:>8} {:>9} {:>6}\n",
        "decoder", "T", "nats per token", "entropy", "excess", "tokens/fw", "edits"
    );
    for p in points {
        let excess = p.excess.map_or_else(|| "-".into(), |e| format!("{e:+.3}"));
        let decoder = format!("{} {}", p.policy.kind(), parameters(&p.policy));
        let _ = writeln!(
            out,
            "{decoder:<44} {:>4.1} {:>7.3} ± {:<5.3} {:>8.3} {excess:>8} {:>9.2} {:>6}",
            p.temperature, p.nll, p.nll_stderr, p.entropy, p.tokens_per_forward, p.edits
        );
        if let Some((share, error)) = p.accuracy {
            let _ = writeln!(out, "{:<44} {:.1} ± {:.1} % solved", "", 100.0 * share, 100.0 * error);
        }
    }
    out
}
