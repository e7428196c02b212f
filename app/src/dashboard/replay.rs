//! Recorded decodings, replayed by the playground's canvas: the one that comes with a shared result, and those of a run's
//! samples. No model is loaded.

use std::collections::HashMap;

use hilda_engine::data::Tokenizer;
use hilda_engine::decode::Trajectory;
use leptos::prelude::*;
use serde_json::{Map, Value};

use crate::api;
use crate::playground::Replay;

/// Texts by token id, as the server sends them: {"17": " the"}.
fn pieces(texts: &Map<String, Value>) -> HashMap<u32, String> {
    texts.iter().filter_map(|(id, text)| Some((id.parse().ok()?, text.as_str()?.to_string()))).collect()
}

/// Replays `trajectory`; says so where this page cannot read it.
#[component]
pub fn Recorded(trajectory: Value, texts: Map<String, Value>) -> impl IntoView {
    match serde_json::from_value::<Trajectory>(trajectory) {
        Ok(record) => view! { <Replay trajectory=record pieces=pieces(&texts)/> }.into_any(),
        Err(e) => view! {
            <p class="mut">{format!("The recorded decoding has a format that this page cannot replay ({e}).")}</p>
        }
        .into_any(),
    }
}

/// A button that opens and closes the replay of a sample. The texts of its tokens come from the run's newest checkpoint,
/// once somebody wants to see them.
#[component]
pub fn SampleReplay(trajectory: Trajectory, run: String) -> impl IntoView {
    let open = RwSignal::new(false);
    let pieces = RwSignal::new(None::<Result<HashMap<u32, String>, String>>);
    let record = StoredValue::new(trajectory);
    let toggle = move |_| {
        open.update(|o| *o = !*o);
        if open.get_untracked() && !matches!(pieces.get_untracked(), Some(Ok(_))) {
            let path = format!("/api/runs/{run}/model/tokenizer.json");
            leptos::task::spawn_local(async move {
                let found = match api::get::<Value>(&path).await {
                    Ok(file) => Tokenizer::from_bytes(file.to_string().as_bytes())
                        .map(|t| (0..).zip(t.pieces()).collect())
                        .map_err(|e| e.to_string()),
                    Err(problem) => Err(problem.to_string()),
                };
                pieces.try_set(Some(found));
            });
        }
    };
    view! {
        <button class="small" aria-expanded=move || open.get().to_string() on:click=toggle>
            {move || if open.get() { "Close the replay" } else { "Replay" }}
        </button>
        {move || open.get().then(|| pieces.get()).flatten().map(|found| match found {
            Ok(pieces) => view! { <Replay trajectory=record.get_value() pieces play=true/> }.into_any(),
            Err(why) => view! { <p class="mut">{format!("The texts of its tokens cannot be had: {why}")}</p> }.into_any(),
        })}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_pieces_are_left_out() {
        let map = serde_json::json!({ "17": " the", "x": "no", "18": 3 });
        let p = pieces(map.as_object().expect("an object"));
        assert_eq!(p.into_iter().collect::<Vec<_>>(), [(17, " the".to_string())]);
    }
}
