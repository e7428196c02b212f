//! A recorded decoding as it comes with a shared result, replayed by the playground's canvas. No model is loaded.

use std::collections::HashMap;

use hilda_engine::decode::Trajectory;
use leptos::prelude::*;
use serde_json::{Map, Value};

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
