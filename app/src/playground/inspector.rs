//! One position under the lens: when, how surely and instead of what its token was written, and what to do about it.

use std::sync::Arc;

use leptos::prelude::*;
use wasm_bindgen::JsCast;

use hilda_engine::decode::{ActionKind, StepRecord, trajectory::RowRecord};

use super::player::{Pieces, Player, UserOp};
use super::tape::{Cell, Mark, row};

#[component]
pub fn Inspector(player: Player) -> impl IntoView {
    let cell = Memo::new(move |_| {
        let pos = player.selected.get()?;
        let cell = player.frame.with(|f| f.as_ref().and_then(|f| f.cells.get(pos as usize).copied()))?;
        Some((pos, cell, player.at.get()))
    });
    let all = RwSignal::new(false);
    view! {
        <section
            class="card inspector"
            class:open=move || cell.with(Option::is_some)
            id="inspector"
            tabindex="-1"
            aria-label="Word inspector"
        >
            {move || match cell.get() {
                None => view! {
                    <h3>"A word"</h3>
                    <p class="mut small">
                        "Choose a word in the text to see which step wrote it, how sure the model was and what else it considered."
                    </p>
                }.into_any(),
                Some((pos, cell, upto)) => view! {
                    <button class="quiet round close" aria-label="Close" on:click=move |_| player.selected.set(None)>"×"</button>
                    <Details player pos cell upto all/>
                }.into_any(),
            }}
        </section>
    }
}

#[component]
fn Details(
    player: Player,
    pos: u32,
    cell: Cell,
    /// frame shown
    upto: usize,
    /// every step is listed; kept while the details change
    all: RwSignal<bool>,
) -> impl IntoView {
    let pieces = player.pieces.get_untracked();
    let history: Vec<(usize, Arc<StepRecord>)> =
        player.tape.with_untracked(|t| t.history(pos, upto).map(|(n, s)| (n, s.clone())).collect());
    // the distribution behind the token, or the newest one where it is still masked
    let decisive = history
        .iter()
        .rev()
        .find(|(n, s)| row(s, pos).is_some() && (cell.is_masked() || *n as u32 <= cell.step))
        .and_then(|(n, s)| Some((*n, row(s, pos)?.clone())));
    let word = cell.token.map(|id| pieces.shown(id));
    let title = match &word {
        Some(word) => format!("“{word}”, position {pos}"),
        None => format!("Masked, position {pos}"),
    };
    let facts = facts(&cell, &pieces, decisive.as_ref().map(|d| &d.1));
    let changes = changes(&history, pos, &pieces);
    let decisive_missing = decisive.is_none() && cell.is_written();
    let others = decisive.map(|(step, row)| {
        let heading =
            if cell.is_masked() { format!("Considered at step {step}") } else { "Instead of".into() };
        view! {
            <h3>{heading}</h3>
            <Alternatives player pos row chosen=cell.token/>
        }
    });
    let rows: Vec<(usize, RowRecord)> =
        history.iter().filter_map(|(n, s)| Some((*n, row(s, pos)?.clone()))).collect();
    view! {
        <h3 class="title">{title}</h3>
        <dl class="facts">
            {facts.into_iter().map(|(name, value)| view! { <dt>{name}</dt><dd>{value}</dd> }).collect_view()}
        </dl>
        <Operations player pos cell/>
        {others}
        {decisive_missing.then(|| view! { <p class="meaning">"A link keeps the words and steps, not what else was considered. Write it again to see that."</p> })}
        {(!changes.is_empty()).then(|| view! {
            <h3>"Its history"</h3>
            <ol class="changes">
                {changes.into_iter().map(|(step, text)| view! {
                    <li><button class="link" on:click=move |_| player.timeline.seek(step)>{format!("step {step}")}</button>" "{text}</li>
                }).collect_view()}
            </ol>
        })}
        {(rows.len() > 1).then(|| view! {
            <details
                prop:open=move || all.get()
                on:toggle=move |e| if let Some(d) = e.target().and_then(|t| t.dyn_into::<web_sys::HtmlDetailsElement>().ok()) {
                    all.set(d.open());
                }
            >
                <summary>{format!("At every step ({})", rows.len())}</summary>
                <table class="every">
                    <thead><tr><th scope="col">"step"</th><th scope="col">"most probable"</th></tr></thead>
                    <tbody>
                        {rows.into_iter().map(|(step, row)| {
                            let words = row.top.iter().take(3).map(|(id, p)| {
                                let strength = format!("{:.0}%", 100.0 * p);
                                view! { <span class="mini" style=("--p", strength)>{pieces.shown(*id)}<small>{probability(*p)}</small></span> }
                            }).collect_view();
                            view! {
                                <tr>
                                    <td><button class="link" on:click=move |_| player.timeline.seek(step)>{step}</button></td>
                                    <td>{words}</td>
                                </tr>
                            }
                        }).collect_view()}
                    </tbody>
                </table>
            </details>
        })}
    }
}

fn facts(cell: &Cell, pieces: &Pieces, row: Option<&RowRecord>) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    match cell.mark {
        Mark::Prompt => facts.push(("part of the prompt".into(), String::new())),
        Mark::Fixed => facts.push(("fixed by you".into(), "never changed".into())),
        Mark::Filled => facts.push(("behind the end of the text".into(), String::new())),
        Mark::Masked | Mark::Remasked => {
            if row.is_none() {
                facts.push(("not computed yet".into(), "its block comes later".into()));
            }
        }
        Mark::New | Mark::Plain | Mark::Edited => {
            facts.push((format!("written at step {}", cell.step), format!("p = {}", probability(cell.p))));
            if cell.entropy >= 0.0 {
                facts.push(("entropy before".into(), format!("{:.2} nats", cell.entropy)));
            }
        }
    }
    if let (Mark::Edited | Mark::Remasked, Some(old)) = (cell.mark, cell.old) {
        facts.push(("replaced".into(), pieces.shown(old)));
    }
    if let (true, Some(row)) = (cell.is_masked(), row) {
        facts.push(("entropy now".into(), format!("{:.2} nats", row.entropy)));
    }
    if let Some(kl) = row.and_then(|r| r.kl) {
        let when = if cell.is_masked() { "moved since the step before" } else { "had moved by" };
        facts.push((when.into(), format!("{kl:.4} nats (KL)")));
    }
    facts
}

fn changes(history: &[(usize, Arc<StepRecord>)], pos: u32, pieces: &Pieces) -> Vec<(usize, String)> {
    let mut changes = Vec::new();
    for (n, step) in history {
        for action in step.actions.iter().filter(|a| a.pos == pos) {
            let word = |id: u32| pieces.shown(id);
            let text = match action.kind {
                ActionKind::Commit if step.forced => {
                    format!("wrote “{}” as the surest; nothing passed the test", word(action.new))
                }
                ActionKind::Commit => format!("wrote “{}”", word(action.new)),
                ActionKind::Edit => format!("“{}” became “{}”", word(action.old), word(action.new)),
                ActionKind::Remask => format!("masked “{}” again", word(action.old)),
                ActionKind::Fill => "the text had ended".into(),
                ActionKind::Fix => format!("you fixed “{}”", word(action.new)),
                ActionKind::Unfix => "you let go of it".into(),
                ActionKind::Reopen => "you masked it".into(),
            };
            changes.push((*n, text));
        }
    }
    changes
}

/// ".71", "1.00", "<.01"
pub fn probability(p: f32) -> String {
    if p < 0.005 {
        "<.01".into()
    } else {
        let text = format!("{p:.2}");
        text.strip_prefix('0').map(String::from).unwrap_or(text)
    }
}

/// Bars of the most probable tokens; with a live model each can be put in place.
#[component]
fn Alternatives(player: Player, pos: u32, row: RowRecord, chosen: Option<u32>) -> impl IntoView {
    let pieces = player.pieces.get_untracked();
    view! {
        <ul class="bars">
            {row.top.into_iter().map(|(id, p)| {
                let word = pieces.shown(id);
                let is_chosen = chosen == Some(id);
                let pick = player.ops.filter(|_| !is_chosen).map(|ops| view! {
                    <button
                        class="link pick"
                        title=format!("Put “{word}” here and write again what was written after it")
                        disabled=player.live
                        on:click=move |_| ops.run(UserOp::Pick { pos, token: id })
                    >
                        "pick"
                    </button>
                });
                view! {
                    <li class:chosen=is_chosen>
                        <span class="name">{word.clone()}</span>
                        <span class="bar"><i style:width=format!("{:.1}%", 100.0 * p)></i></span>
                        <span class="value">{probability(p)}</span>
                        {pick}
                    </li>
                }
            }).collect_view()}
        </ul>
    }
}

#[component]
fn Operations(player: Player, pos: u32, cell: Cell) -> impl IntoView {
    let ops = player.ops?;
    let fix = cell.token.filter(|_| cell.is_written()).map(|token| view! {
        <button class="small" title="Keep this word whatever is written around it" on:click=move |_| ops.run(UserOp::Fix { pos, token }) disabled=player.live>"Fix this"</button>
    });
    let unfix = (cell.mark == Mark::Fixed).then(|| view! {
        <button class="small" on:click=move |_| ops.run(UserOp::Unfix { pos }) disabled=player.live>"Let go"</button>
    });
    let reopen = (cell.is_written() || cell.mark == Mark::Fixed).then(|| view! {
        <button class="small" on:click=move |_| ops.run(UserOp::Reopen { positions: vec![pos] }) disabled=player.live>"Mask this and denoise again"</button>
    });
    Some(view! { <div class="ops">{fix}{unfix}{reopen}</div> })
}
