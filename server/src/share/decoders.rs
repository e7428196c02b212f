//! Decoders compared, as one self-contained page: nats of the judge against tokens a forward, the table, and every
//! decoder's first text, each word as dark as it was written early, with a link that replays it in a playground. No
//! script, nothing fetched: a mark is a link to its text, so that mouse, touch and keyboard choose alike.

use std::collections::BTreeMap;
use std::fmt::Write;

use hilda_engine::data::Tokenizer;
use hilda_engine::decode::{ActionKind, PolicySpec};
use hilda_engine::eval::decoders::{Point, Sample};
use serde_json::Value;

use super::html::escape;
use super::recording::Recording;
use super::svg::{number, ticks};
use crate::cli::decode_table::parameters;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

const CSS: &str = ".mark{stroke:var(--ink);stroke-width:1.4;fill:var(--paper)}.mark.best{fill:var(--accent);stroke:var(--accent)}\
.stairs{fill:none;stroke:var(--accent)}.chart a:is(:focus-visible,:hover) .mark{stroke-width:3.5}.hit{fill:transparent}\
h3:target{background:color-mix(in srgb,var(--accent) 14%,transparent);outline:.3rem solid color-mix(in srgb,var(--accent) 14%,transparent)}.say{margin:.4rem 0}.kinds{display:flex;flex-wrap:wrap;gap:.2rem 1rem}\
.kinds svg{width:1rem;height:1rem;vertical-align:-.15em}main{max-width:60rem}.w{border-bottom:2px solid}";

/// The outline of a kind of decoder around (x, y): kinds differ in form, not in colour.
fn mark(kind: &str, x: f64, y: f64, class: &str) -> String {
    let r = 5.0;
    let polygon = |points: &[(f64, f64)]| {
        let list: Vec<String> =
            points.iter().map(|(a, b)| format!("{:.1},{:.1}", x + r * a, y + r * b)).collect();
        format!("<polygon class=\"mark {class}\" points=\"{}\"/>", list.join(" "))
    };
    match kind {
        "ancestral" => format!("<circle class=\"mark {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"/>"),
        "top_prob" => polygon(&[(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
        "threshold" => polygon(&[(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)]),
        "factor" => polygon(&[(0.0, 1.2), (1.1, -0.9), (-1.1, -0.9)]),
        "entropy_bound" => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        "edit" => polygon(&[
            (0.0, -1.4),
            (0.4, -0.4),
            (1.4, 0.0),
            (0.4, 0.4),
            (0.0, 1.4),
            (-0.4, 0.4),
            (-1.4, 0.0),
            (-0.4, -0.4),
        ]),
        _ => polygon(&[(-1.2, -0.4), (1.2, -0.4), (1.2, 0.4), (-1.2, 0.4)]),
    }
}

/// Places of the points than which no other writes as many tokens a forward at lower nats, fastest last.
fn frontier(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).filter(|i| points[*i].nll.is_finite()).collect();
    order.sort_by(|a, b| {
        points[*b]
            .tokens_per_forward
            .total_cmp(&points[*a].tokens_per_forward)
            .then(points[*a].nll.total_cmp(&points[*b].nll))
    });
    let mut best = f64::INFINITY;
    order.retain(|i| {
        let lower = points[*i].nll < best;
        best = best.min(points[*i].nll);
        lower
    });
    order.reverse();
    order
}

fn picture(s: &mut String, points: &[Point]) {
    let range = |f: &dyn Fn(&Point) -> f64| {
        let v: Vec<f64> = points.iter().map(f).filter(|v| v.is_finite()).collect();
        let (low, high) =
            (v.iter().copied().fold(f64::INFINITY, f64::min), v.iter().copied().fold(0.0, f64::max));
        let pad = 0.05 * (high - low).max(0.05);
        (low - pad, high + pad)
    };
    let (x0, x1) = range(&|p| p.tokens_per_forward.max(1e-3).log2());
    let (x0, x1) = if points.iter().any(|p| p.tokens_per_forward < 1.0) {
        let least =
            points.iter().map(|p| p.tokens_per_forward.max(1e-3).log2()).fold(f64::INFINITY, f64::min);
        (least - 0.1, x1)
    } else {
        (x0, x1)
    };
    let (y0, y1) = range(&|p| p.nll);
    let px =
        |p: &Point| LEFT + (p.tokens_per_forward.max(1e-3).log2() - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let py = |v: f64| HEIGHT - BOTTOM - (v - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let best = frontier(points);
    let _ = write!(
        s,
        "<figure><svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"group\" aria-label=\"Nats per token of the judge against tokens a forward, one mark a decoder and temperature\">"
    );
    for v in ticks(y0, y1, 6) {
        let y = py(v);
        let _ = write!(
            s,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            number(v)
        );
    }
    for v in [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0]
        .into_iter()
        .filter(|v: &f64| (x0..=x1).contains(&v.log2()))
    {
        let x = LEFT + (v.log2() - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
        let _ = write!(
            s,
            "<path class=\"grid\" d=\"M{x:.1} {}v4\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
            number(v)
        );
    }
    let _ = write!(
        s,
        "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"end\">tokens a forward (log)</text><text class=\"label\" x=\"{LEFT}\" y=\"{}\">nats per token of the judge</text>",
        WIDTH - RIGHT,
        HEIGHT - 6.0,
        HEIGHT - 6.0
    );
    let mut stairs = String::new();
    for (n, i) in best.iter().enumerate() {
        let (x, y) = (px(&points[*i]), py(points[*i].nll));
        let _ = if n == 0 { write!(stairs, "M{x:.1} {y:.1}") } else { write!(stairs, "V{y:.1}H{x:.1}") };
    }
    let _ = write!(s, "<path class=\"stairs\" d=\"{stairs}\"/>");
    for (i, p) in points.iter().enumerate().filter(|(_, p)| p.nll.is_finite()) {
        let class = if best.contains(&i) { "best" } else { "" };
        let _ = write!(
            s,
            "<a href=\"#d{i}\"><circle class=\"hit\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"11\"/>{}<title>{} {}, T {}: {:.3} ± {:.3} nats, entropy {:.2}, {:.2} tokens a forward</title></a>",
            px(p),
            py(p.nll),
            mark(p.policy.kind(), px(p), py(p.nll), class),
            p.policy.kind(),
            escape(&parameters(&p.policy)),
            p.temperature,
            p.nll,
            p.nll_stderr,
            p.entropy,
            p.tokens_per_forward
        );
    }
    *s += "</svg><figcaption>Lower and further right is better. Filled: no other decoder writes as fast at fewer nats; the frontier carries no interval. Low temperature lowers entropy and nats alike: compare at equal entropy (excess, below).</figcaption></figure><p class=\"kinds sans soft\">";
    for info in PolicySpec::parameters().iter().filter(|i| points.iter().any(|p| p.policy.kind() == i.kind)) {
        let _ = write!(
            s,
            "<span><svg viewBox=\"0 0 16 16\" aria-hidden=\"true\">{}</svg> {}</span>",
            mark(info.kind, 8.0, 8.0, ""),
            escape(info.title)
        );
    }
    *s += "</p>";
}

fn table(s: &mut String, points: &[Point]) {
    let checked = points.iter().any(|p| p.accuracy.is_some());
    *s += "<h2>Every decoder</h2><div class=\"wide\"><table><thead><tr><th>decoder</th><th>T</th><th>nats / token</th><th>entropy</th><th>excess</th><th>tokens / forward</th><th>positions / token</th><th>edits</th><th>finished</th>";
    *s += if checked { "<th>solved, %</th></tr></thead><tbody>" } else { "</tr></thead><tbody>" };
    for (i, p) in points.iter().enumerate() {
        let _ = write!(
            s,
            "<tr><td><a href=\"#d{i}\">{} {}</a></td><td>{}</td><td>{:.3} ± {:.3}</td><td>{:.2}</td><td>{}</td><td>{:.2}</td><td>{:.1}</td><td>{}</td><td>{} of {}</td>",
            p.policy.kind(),
            escape(&parameters(&p.policy)),
            p.temperature,
            p.nll,
            p.nll_stderr,
            p.entropy,
            p.excess.map_or_else(|| "outside".into(), |e| format!("{e:+.3}")),
            p.tokens_per_forward,
            p.positions as f64 / p.tokens.max(1) as f64,
            p.edits,
            p.finished,
            p.texts
        );
        if checked {
            let told = |a: (f64, f64)| format!("{:.1} ± {:.1}", 100.0 * a.0, 100.0 * a.1);
            let _ = write!(s, "<td>{}</td>", p.accuracy.map_or_else(String::new, told));
        }
        *s += "</tr>";
    }
    *s += "</tbody></table></div>";
}

/// A text whose words say when they were written: the darker the underline, the earlier in the text's own decoding.
fn ordered(s: &mut String, sample: &Sample, tokenizer: &Tokenizer) {
    let t = &sample.trajectory;
    let mut when: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for step in &t.steps {
        for a in &step.actions {
            let entry = when.entry(a.pos).or_insert((step.step, 0));
            match a.kind {
                ActionKind::Commit => entry.0 = step.step,
                ActionKind::Edit => entry.1 += 1,
                _ => {}
            }
        }
    }
    let steps = t.footer.ledger.forwards.max(1);
    let end = t.header.config.prompt.len() + t.footer.tokens as usize;
    *s += "<blockquote>";
    for (pos, id) in t.footer.ids.iter().enumerate().take(end) {
        let word = escape(&tokenizer.decode(std::slice::from_ref(id)));
        match when.get(&(pos as u32)) {
            None => {
                let _ = write!(s, "<span class=\"prompt\">{word}</span>");
            }
            Some((step, edits)) => {
                let block = t.header.config.block().max(1);
                // within its block: blocks come one after another anyway
                let inside: Vec<u32> =
                    when.iter().filter(|(p, _)| *p / block == pos as u32 / block).map(|(_, w)| w.0).collect();
                let (low, high) = (
                    inside.iter().min().copied().unwrap_or(0),
                    inside.iter().max().copied().unwrap_or(steps),
                );
                let late = if high > low { f64::from(step - low) / f64::from(high - low) } else { 0.0 };
                let edited = if *edits > 0 { format!(", edited {edits} times") } else { String::new() };
                let colour = if *edits > 0 { "--edit" } else { "--new" };
                let _ = write!(
                    s,
                    "<span class=\"w\" style=\"border-color:color-mix(in srgb,var({colour}) {:.0}%,transparent)\" title=\"forward {}{edited}\">{word}</span>",
                    100.0 - 85.0 * late,
                    step + 1
                );
            }
        }
    }
    *s += "</blockquote>";
}

/// Links to a point's recordings.
fn replays(s: &mut String, kept: &[Recording], playground: Option<&str>) {
    let Some(playground) = playground.map(|p| p.split('#').next().unwrap_or(p)) else { return };
    if kept.is_empty() {
        *s += "<p class=\"soft\">No recording of this decoder was kept.</p>";
        return;
    }
    *s += "<p class=\"sans\">";
    for (n, recording) in kept.iter().enumerate() {
        let what = if n == 0 { "Replay in the playground".to_string() } else { format!("text {}", n + 1) };
        let gap = if n == 0 { "" } else { " · " };
        let _ = write!(s, "{gap}<a href=\"{}{}\">{what}</a>", escape(playground), recording.fragment());
    }
    *s += "</p>";
}

/// The page. `report` is what `results.json` holds; `first` has the first text of every point, `kept` its recordings.
/// `playground` is the address of one that replays them.
pub fn page(
    report: &Value,
    points: &[Point],
    first: &[Sample],
    kept: &[Vec<Recording>],
    playground: Option<&str>,
    tokenizer: &Tokenizer,
) -> String {
    let of = |key: &str| report[key].as_str().map_or_else(|| report[key].to_string(), String::from);
    let mut s = String::with_capacity(1 << 17);
    let _ = write!(
        s,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Decoders of {model} · HILDA</title><style>{}{CSS}</style></head><body><main><h1>Decoders of {model}</h1>\
         <p>{} prompts of {} tokens, up to {} tokens written after each; judge {}; entropy over the first {} tokens; seed {}. \
         Excess: nats above the reference decoder ({}) at the same entropy, by interpolation over its temperatures.</p>",
        include_str!("style.css"),
        of("texts"),
        of("prompt"),
        of("length"),
        escape(&of("judge")),
        of("window"),
        of("seed"),
        points
            .first()
            .map(|p| format!("{} {}", p.policy.kind(), escape(&parameters(&p.policy))))
            .unwrap_or_default(),
        model = escape(&of("model")),
    );
    picture(&mut s, points);
    table(&mut s, points);
    s += "<h2>The first text of each</h2><p class=\"soft\">The stronger a word's line, the earlier in its block it was written. Point at a word for its forward.</p>";
    for (i, (p, sample)) in points.iter().zip(first).enumerate() {
        let _ = write!(
            s,
            "<h3 id=\"d{i}\" class=\"sans say\">{} {}, T {}</h3>",
            p.policy.kind(),
            escape(&parameters(&p.policy)),
            p.temperature
        );
        ordered(&mut s, sample, tokenizer);
        replays(&mut s, kept.get(i).map_or(&[][..], Vec::as_slice), playground);
    }
    s += "<p class=\"soft\">Written by HILDA, a studio for diffusion language models.</p></main></body></html>\n";
    s
}
