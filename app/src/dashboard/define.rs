//! Definitions of the words that stand beside figures, one click away.

use leptos::prelude::*;

/// What an estimator's name means. `estimator` as written in metrics, e.g. "nelbo_block(8,8)".
pub fn estimator(estimator: &str) -> &'static str {
    let kind = estimator.split('(').next().unwrap_or("");
    match kind {
        "ar" => {
            "Exact negative log-likelihood of the validation text, read from left to right, in nats per counted token. Lower is better."
        }
        "nelbo_t" => {
            "Upper bound on the negative log-likelihood of masked diffusion over the whole row, averaged over K random mask rates per row. Nats per counted token; lower is better."
        }
        "nelbo_block" => {
            "Upper bound on the negative log-likelihood when text is written block by block (block size, then K draws per row). Nats per counted token; lower is better."
        }
        _ => "Likelihood of the validation text, nats per counted token. Lower is better.",
    }
}

pub const STDERR: &str = "The number after ± is the standard error over validation rows: how far the figure may be off by the choice of rows and random draws.";

/// A word with its definition behind it.
#[component]
pub fn Define(#[prop(into)] word: String, #[prop(into)] meaning: String) -> impl IntoView {
    view! {
        <details class="define" name="define">
            <summary>{word}</summary>
            <span class="meaning" role="note">{meaning}</span>
        </details>
    }
}
