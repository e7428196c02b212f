//! A shared result as one self-contained HTML file: styles, curves, record and script inside, nothing fetched.
//! Without scripts everything but the replay works, and the final text is there.

use std::fmt::Write;

use hilda_engine::{
    decode::{Status, Trajectory},
    record::Estimate,
};
use serde_json::{Value, json};

use super::{
    SharedResult,
    svg::{Series, chart, number, smooth},
};
use crate::{
    cli::{bytes_text, duration_text},
    storage::date_text,
};

/// Samples that are printed, newest first.
const SAMPLES: usize = 12;

/// Text for HTML, also inside double quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// JSON that may stand inside a script element.
fn script_json(v: &Value) -> String {
    v.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// "nelbo_block(8,8) = 3.412 ± 0.021 nats per token"
fn estimate_text(e: &Estimate) -> String {
    format!("{} = {:.3} ± {:.3} nats per token", e.estimator, e.value, e.stderr)
}

/// One file, readable without the application.
pub fn page(r: &SharedResult) -> String {
    let mut s = String::with_capacity(1 << 16);
    let description = match &r.status.headline {
        Some(e) => format!("{} after {} tokens", estimate_text(e), number(r.cost.tokens as f64)),
        None => format!("{} tokens seen", number(r.cost.tokens as f64)),
    };
    let _ = write!(
        s,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'; img-src data:\">\
         <meta name=\"robots\" content=\"noindex\"><title>{title} · HILDA</title>\
         <meta name=\"description\" content=\"{about}\"><meta property=\"og:title\" content=\"{title}\">\
         <meta property=\"og:description\" content=\"{about}\"><meta property=\"og:type\" content=\"article\">\
         <style>{css}</style></head><body><main>",
        title = escape(&r.title),
        about = escape(&description),
        css = include_str!("style.css"),
    );
    heading(&mut s, r);
    replay(&mut s, r);
    curves(&mut s, r);
    likelihoods(&mut s, r);
    samples(&mut s, r);
    cost(&mut s, r);
    reproduce(&mut s, r);
    let _ = write!(
        s,
        "<p class=\"soft\">Written by HILDA {}, a studio for diffusion language models. Result {}.</p></main>",
        escape(&r.version),
        escape(&r.slug)
    );
    if r.trajectory.is_some() {
        let _ = write!(s, "<script>{}</script>", include_str!("replay.js"));
    }
    s + "</body></html>\n"
}

fn heading(s: &mut String, r: &SharedResult) {
    let _ = write!(s, "<h1>{}</h1>", escape(&r.title));
    let _ = write!(
        s,
        "<p class=\"soft\">Run {}, shared {}, {}</p>",
        escape(&r.run.id),
        date_text(r.created),
        match r.status.state {
            hilda_engine::record::State::Finished => "finished".to_string(),
            other => format!(
                "{} at step {} of {}",
                crate::jobs::state_name(Some(other)),
                r.status.step,
                r.status.total_steps
            ),
        }
    );
    for text in [&r.config.about, &r.note] {
        for paragraph in text.split("\n\n").filter(|p| !p.trim().is_empty()) {
            let _ = write!(s, "<p>{}</p>", escape(paragraph.trim()));
        }
    }
    if let Some(e) = &r.status.headline {
        let _ = write!(
            s,
            "<div class=\"answer\"><strong>{:.3} nats per token</strong>{}<p class=\"soft\">{}, standard error {:.3} \
             over {} rows, {} tokens, K = {}, seed {}</p></div>",
            e.value,
            e.bits_per_byte.map_or(String::new(), |b| format!(" · {b:.3} bits per byte")),
            escape(&e.estimator),
            e.stderr,
            e.rows,
            e.tokens,
            e.k,
            e.seed
        );
    }
}

/// What the script needs: first statuses, then the actions of every step.
fn replay_data(t: &Trajectory, pieces: &serde_json::Map<String, Value>) -> Option<Value> {
    let states = t.replay().ok()?;
    let initial = states.first()?;
    let status = |s: &Status| match s {
        Status::Prompt => "prompt",
        Status::Fixed => "fixed",
        Status::Masked => "masked",
        Status::Committed { .. } | Status::Filled => "written",
    };
    let cells: Vec<Value> =
        initial.statuses().iter().zip(initial.ids()).map(|(s, id)| json!([status(s), id])).collect();
    let frames: Vec<Value> = t
        .steps
        .iter()
        .filter(|step| !step.actions.is_empty())
        .map(|step| {
            let actions: Vec<Value> =
                step.actions.iter().map(|a| json!([a.kind, a.pos, a.old, a.new])).collect();
            json!({ "actions": actions })
        })
        .collect();
    let config = &t.header.config;
    Some(json!({
        "pieces": pieces, "initial": cells, "frames": frames, "mask": config.mask_id, "eos": config.eos_id,
        "prompt": config.prompt.len(),
    }))
}

fn replay(s: &mut String, r: &SharedResult) {
    let Some(t) = &r.trajectory else { return };
    let Some(data) = replay_data(t, &r.tokenizer_pieces) else {
        *s += "<p class=\"soft\">The recorded writing does not replay with this version.</p>";
        return;
    };
    // a text may begin with the token that ends the one before it
    let eos = t.header.config.eos_id;
    let prompt = t.header.config.prompt.len();
    let text: String = t
        .footer
        .ids
        .iter()
        .enumerate()
        .take_while(|(i, id)| *i < prompt || Some(**id) != eos)
        .filter(|(_, id)| Some(**id) != eos)
        .map(|(_, id)| id)
        .filter_map(|id| r.tokenizer_pieces.get(&id.to_string())?.as_str())
        .collect();
    let f = &t.footer;
    let _ = write!(
        s,
        "<h2>How it writes</h2><div id=\"canvas\">{}</div><div class=\"transport\">\
         <button id=\"play\" type=\"button\">Play</button><button id=\"back\" type=\"button\" aria-label=\"one step \
         back\">‹</button><button id=\"next\" type=\"button\" aria-label=\"one step on\">›</button>\
         <input id=\"scrub\" type=\"range\" min=\"0\" value=\"0\" aria-label=\"step\"></div>\
         <p id=\"log\" class=\"soft\" aria-live=\"polite\"></p>\
         <p class=\"soft\">{} tokens in {} forwards ({:.2} tokens per forward), {} edits, seed {}.</p>\
         <script type=\"application/json\" id=\"replay\">{}</script>",
        escape(&text),
        f.tokens,
        f.ledger.forwards,
        f.tokens_per_forward,
        f.ledger.edits,
        t.header.config.seed,
        script_json(&data)
    );
}

fn curves(s: &mut String, r: &SharedResult) {
    let raw: Vec<(f64, f64)> = r.train.iter().map(|p| (p.2 as f64, p.1)).collect();
    // each phase by itself: their objectives are different quantities
    let per_step = (r.config.batch.rows * r.config.data.packing.length) as u64;
    let (mut step, mut rest, mut smoothed) = (0, &raw[..], vec![]);
    for steps in r.config.phase_steps() {
        step += steps;
        let (phase, after) = rest.split_at(rest.partition_point(|p| p.0 <= (step * per_step) as f64));
        smoothed.push(smooth(phase, 0.95));
        rest = after;
    }
    let mut lines = vec![Series { points: &raw, class: "raw", dots: false }];
    lines.extend(smoothed.iter().map(|p| Series { points: p, class: "smooth", dots: false }));
    let picture = chart("Training objective against tokens", "training tokens", "objective", &lines);
    if !picture.is_empty() {
        let _ = write!(
            s,
            "<h2>Curves</h2><figure>{picture}<figcaption>Value of the training objective per step (faint) and \
             smoothed. It changes meaning between phases and is not a likelihood.</figcaption></figure>"
        );
    }
    let mut estimators: Vec<&str> = vec![];
    for v in &r.valid {
        if !estimators.contains(&v.estimate.estimator.as_str()) {
            estimators.push(&v.estimate.estimator);
        }
    }
    for name in estimators {
        let points: Vec<(f64, f64)> = r
            .valid
            .iter()
            .filter(|v| v.estimate.estimator == name)
            .map(|v| (v.tokens as f64, v.estimate.value))
            .collect();
        let title = format!("Validation {name} against tokens");
        let picture = chart(
            &title,
            "training tokens",
            "nats per token",
            &[
                Series { points: &points, class: "smooth", dots: false },
                Series { points: &points, class: "dot", dots: true },
            ],
        );
        let _ = write!(
            s,
            "<figure>{picture}<figcaption>Validation, {} (nats per token; lower is better).</figcaption></figure>",
            escape(name)
        );
    }
}

fn likelihoods(s: &mut String, r: &SharedResult) {
    if r.valid.is_empty() {
        return;
    }
    *s += "<h2>Likelihoods</h2><div class=\"wide\"><table><thead><tr><th>estimator</th><th>step</th><th>nats per \
           token</th><th>std. error</th><th>bits per byte</th><th>tokens</th><th>rows</th><th>K</th><th>seed</th>\
           </tr></thead><tbody>";
    let skip = r.valid.len().saturating_sub(40);
    for v in r.valid.iter().skip(skip).rev() {
        let e = &v.estimate;
        let _ = write!(
            s,
            "<tr><td>{}</td><td>{}</td><td>{:.4}</td><td>{:.4}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td></tr>",
            escape(&e.estimator),
            v.step,
            e.value,
            e.stderr,
            e.bits_per_byte.map_or("–".into(), |b| format!("{b:.4}")),
            e.tokens,
            e.rows,
            e.k,
            e.seed
        );
    }
    *s += "</tbody></table></div>";
    if skip > 0 {
        let _ = write!(s, "<p class=\"soft\">The last 40 of {}.</p>", r.valid.len());
    }
}

fn samples(s: &mut String, r: &SharedResult) {
    let all: Vec<_> =
        r.samples.iter().rev().flat_map(|f| f.samples.iter().map(move |x| (f.step, x))).collect();
    if all.is_empty() {
        return;
    }
    *s += "<h2>Samples</h2>";
    for (step, x) in all.iter().take(SAMPLES) {
        let rest = x.text.strip_prefix(&x.prompt);
        let (prompt, rest) = match rest {
            Some(rest) => (x.prompt.as_str(), rest),
            None => ("", x.text.as_str()),
        };
        let _ = write!(
            s,
            "<blockquote><span class=\"prompt\">{}</span>{}</blockquote><p class=\"soft\">step {step}, {}, {} \
             forwards, seed {}</p>",
            escape(prompt),
            escape(rest),
            escape(&x.policy),
            x.forwards,
            x.seed
        );
    }
}

fn cost(s: &mut String, r: &SharedResult) {
    let rate = if r.cost.seconds > 0.0 { r.cost.tokens as f64 / r.cost.seconds } else { 0.0 };
    let rows = [
        ("training time", duration_text(r.cost.seconds)),
        ("training tokens", number(r.cost.tokens as f64)),
        ("tokens per second", number(rate)),
        ("model FLOPs", format!("{:.3e}", r.cost.flops)),
        ("device", r.cost.device.clone()),
        ("parameters", number(r.status.parameters as f64)),
        ("weights, float32", bytes_text(r.status.parameters * 4)),
        ("attempts", r.status.attempt.to_string()),
    ];
    *s += "<h2>Cost</h2><table><tbody>";
    for (name, value) in rows {
        let _ = write!(s, "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", escape(&value));
    }
    *s += "</tbody></table>";
}

fn reproduce(s: &mut String, r: &SharedResult) {
    let file = format!("{}.toml", r.run.name);
    let _ = write!(
        s,
        "<h2>Reproduce</h2><p>Save the configuration below as <code>{file}</code> and run</p><pre>{command}</pre>\
         <p class=\"soft\">The hash of the configuration, <code>{hash}</code>, does not depend on names, prose or \
         device. HILDA {version}.</p><h2>Configuration</h2><pre>{toml}</pre>",
        file = escape(&file),
        command = escape(&r.command),
        hash = escape(&r.config_hash),
        version = escape(&r.version),
        toml = escape(&r.toml),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
        let j = script_json(&json!({ "a": "</script><script>alert(1)</script>" }));
        assert!(!j.contains('<'));
        assert_eq!(serde_json::from_str::<Value>(&j).unwrap()["a"], "</script><script>alert(1)</script>");
    }
}
