//! Every change of mind of a decoding, in order: words replaced, masked again, and what the visitor did. Each leads to its
//! step and its place.

use hilda_engine::decode::{ActionKind, StepRecord};
use leptos::prelude::*;

use super::player::{Pieces, Player};

/// One change.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    /// number of the step, from 1
    step: usize,
    pos: u32,
    kind: ActionKind,
    old: u32,
    new: u32,
    p: f32,
}

impl Change {
    fn say(&self, pieces: &Pieces) -> String {
        let (old, new) = (pieces.shown(self.old), pieces.shown(self.new));
        match self.kind {
            ActionKind::Edit => format!("“{old}” became “{new}”, probability {:.2}", self.p),
            ActionKind::Remask => format!("“{old}” was masked again"),
            ActionKind::Reopen => format!("you masked “{old}”"),
            ActionKind::Fix => format!("you fixed “{new}”"),
            ActionKind::Unfix => format!("you let “{old}” change again"),
            ActionKind::Commit | ActionKind::Fill => String::new(),
        }
    }
}

fn changes(step: usize, record: &StepRecord) -> impl Iterator<Item = Change> {
    let changed = |kind| !matches!(kind, ActionKind::Commit | ActionKind::Fill);
    record.actions.iter().filter(move |a| changed(a.kind)).map(move |a| Change {
        step,
        pos: a.pos,
        kind: a.kind,
        old: a.old,
        new: a.new,
        p: a.p,
    })
}

#[component]
pub fn Changes(player: Player) -> impl IntoView {
    let all = Memo::new(move |_| {
        player.tape.with(|t| {
            t.steps.iter().enumerate().flat_map(|(i, s)| changes(i + 1, s)).collect::<Vec<Change>>()
        })
    });
    view! {
        <Show
            when=move || all.with(|c| !c.is_empty())
            fallback=|| view! { <p class="mut small">"No word was replaced or masked again."</p> }
        >
            <ol class="changes">
                <For each=move || all.get() key=|c| (c.step, c.pos, c.new) let:change>
                    {
                        let said = player.pieces.with_untracked(|p| change.say(p));
                        let (step, pos) = (change.step, change.pos);
                        view! {
                            <li class:now=move || player.at.get() == step>
                                <button class="link" on:click=move |_| {
                                    player.timeline.seek(step);
                                    player.selected.set(Some(pos));
                                }>
                                    {format!("Step {step}")}
                                </button>
                                <span>{said}</span>
                            </li>
                        }
                    }
                </For>
            </ol>
        </Show>
    }
}
