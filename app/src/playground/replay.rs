//! A recorded text without a model: what shared results and run pages show.

use std::collections::HashMap;

use hilda_engine::decode::Trajectory;
use leptos::prelude::*;

use super::canvas::Canvas;
use super::deeper::Deeper;
use super::inspector::Inspector;
use super::narration::Narration;
use super::player::{Pieces, Player};
use super::strip::{Legend, Overlays, Strip};
use super::tape::Tape;
use super::transport::{Counters, Transport, Voice};

/// Canvas, what the step did, transport, strip and (once a word is chosen) inspector for one trajectory. `pieces` holds the text of every
/// token id that occurs. Shows the end at first, or plays from the beginning.
#[component]
pub fn Replay(
    trajectory: Trajectory,
    pieces: HashMap<u32, String>,
    #[prop(optional)] play: bool,
) -> impl IntoView {
    let player = Player::new(None);
    let eos = trajectory.header.config.eos_id;
    player.load(Tape::of(&trajectory), Pieces::new(pieces, eos));
    if play {
        player.timeline.restart();
    } else {
        player.timeline.seek(usize::MAX);
    }
    let device = trajectory.header.model.backend.clone();
    let rate =
        Signal::derive(
            move || if device.is_empty() { String::new() } else { format!("computed on {device}") },
        );
    let voices = Signal::derive(move || vec![Voice::alone(player)]);
    view! {
        <div class="replay">
            <Canvas player/>
            <Narration player/>
            <Transport timeline=player.timeline voices=voices/>
            <Counters player rate/>
            <Strip player/>
            <Overlays player/>
            <Legend/>
            <Deeper texts=voices focus=Signal::derive(move || player)/>
            <Show when=move || player.selected.get().is_some()><Inspector player/></Show>
        </div>
    }
}
