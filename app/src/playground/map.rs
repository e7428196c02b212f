//! The whole decoding at a glance: one column a position, one row a step, as dark as the model was sure (or unsure) of
//! that position in that step. A dot is a word written, a cross a word replaced, a ring a word masked again; what a step did
//! not compute stays empty.
//!
//! The picture has 3 x 3 pixels a cell and is scaled by the browser, so that a step costs one row of pixels whatever
//! the size on the screen.

use std::fmt::Write;

use hilda_engine::decode::{ActionKind, trajectory::RowRecord};
use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::{Clamped, JsCast};

use super::player::Player;
use super::tape::{Tape, row};
use crate::dom;

/// Pixels of a cell, each way.
const CELL: usize = 3;
/// Entropy at which a cell is full, nats.
const MOST_NATS: f32 = 4.0;
/// Height of a row on the screen, CSS pixels, where the steps are few.
const TALL: f64 = 9.0;
/// Height of the map on the screen, CSS pixels, at most.
const MOST: f64 = 420.0;

/// What the map shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shade {
    Confidence,
    Entropy,
}

/// 0..1 for a computed position.
fn shade(r: &RowRecord, of: Shade) -> f32 {
    match of {
        Shade::Confidence => r.p_max.clamp(0.0, 1.0),
        Shade::Entropy => (r.entropy / MOST_NATS).clamp(0.0, 1.0),
    }
}

/// Which of the nine pixels of a cell an action marks.
fn mark(kind: ActionKind) -> Option<[bool; CELL * CELL]> {
    const O: bool = false;
    const X: bool = true;
    match kind {
        ActionKind::Commit | ActionKind::Fix => Some([O, O, O, O, X, O, O, O, O]),
        ActionKind::Edit => Some([X, O, X, O, X, O, X, O, X]),
        ActionKind::Remask | ActionKind::Reopen => Some([X, X, X, X, O, X, X, X, X]),
        ActionKind::Unfix | ActionKind::Fill => None,
    }
}

/// Colours of the picture: red, green, blue.
struct Inks {
    level: [u8; 3],
    written: [u8; 3],
    changed: [u8; 3],
}

/// RGBA pixels of all steps, row by row: [steps * CELL, positions * CELL].
fn pixels(tape: &Tape, of: Shade, inks: &Inks) -> Vec<u8> {
    let positions = tape.last().map_or(0, |f| f.cells.len());
    let wide = positions * CELL;
    let mut out = vec![0; wide * CELL * tape.steps.len() * 4];
    let mut put = |x: usize, y: usize, ink: [u8; 3], alpha: u8| {
        out[4 * (y * wide + x)..][..4].copy_from_slice(&[ink[0], ink[1], ink[2], alpha]);
    };
    for (s, step) in tape.steps.iter().enumerate() {
        for r in step.rows.iter().filter(|r| (r.pos as usize) < positions) {
            // a faint floor, so that what was computed differs from what was not
            let (pos, alpha) = (r.pos, (20.0 + 200.0 * shade(r, of)) as u8);
            for i in 0..CELL * CELL {
                put(pos as usize * CELL + i % CELL, s * CELL + i / CELL, inks.level, alpha);
            }
        }
        for action in step.actions.iter().filter(|a| (a.pos as usize) < positions) {
            let Some(mark) = mark(action.kind) else { continue };
            let changed = matches!(action.kind, ActionKind::Edit | ActionKind::Remask | ActionKind::Reopen);
            let ink = if changed { inks.changed } else { inks.written };
            for i in (0..CELL * CELL).filter(|i| mark[*i]) {
                put(action.pos as usize * CELL + i % CELL, s * CELL + i / CELL, ink, 255);
            }
        }
    }
    out
}

/// The map's numbers: step, position, largest probability, entropy (nats), what happened.
fn csv(tape: &Tape) -> String {
    let mut out = String::from("step,position,p_max,entropy,action\n");
    for (s, step) in tape.steps.iter().enumerate() {
        for r in &step.rows {
            let action = step.actions.iter().find(|a| a.pos == r.pos);
            let name = action.map_or("", |a| a.kind.name());
            // a text takes what is written to it
            let _ = writeln!(out, "{},{},{},{},{name}", s + 1, r.pos, r.p_max, r.entropy);
        }
    }
    out
}

/// "rgb(28, 27, 25)"
fn rgb(colour: &str) -> Option<[u8; 3]> {
    let inside = colour.split_once('(')?.1.trim_end_matches(')');
    let mut parts = inside.split([',', ' ', '/']).filter(|p| !p.is_empty()).map(|p| p.parse::<f32>().ok());
    Some([parts.next()??.round() as u8, parts.next()??.round() as u8, parts.next()??.round() as u8])
}

/// Draws the tape as it is; nothing where the browser has no canvas.
fn draw(canvas: &web_sys::HtmlCanvasElement, tape: &Tape, of: Shade) -> Option<()> {
    let positions = tape.last()?.cells.len();
    let (wide, high) = (positions * CELL, tape.steps.len() * CELL);
    canvas.set_width(wide as u32);
    canvas.set_height(high.max(1) as u32);
    if wide * high == 0 {
        return None;
    }
    let inks: Vec<[u8; 3]> =
        dom::colours(&["--acc", "--ink", "--edit"]).iter().filter_map(|c| rgb(c)).collect();
    let &[level, written, changed] = inks.as_slice() else { return None };
    let pixels = pixels(tape, of, &Inks { level, written, changed });
    let image = web_sys::ImageData::new_with_u8_clamped_array(Clamped(&pixels), wide as u32).ok()?;
    let context: web_sys::CanvasRenderingContext2d = canvas.get_context("2d").ok()??.unchecked_into();
    context.put_image_data(&image, 0.0, 0.0).ok()
}

#[component]
pub fn Map(player: Player) -> impl IntoView {
    let node: NodeRef<html::Canvas> = NodeRef::new();
    let of = RwSignal::new(Shade::Confidence);
    let pointed = RwSignal::new(None::<(usize, u32)>);
    let size =
        Memo::new(move |_| player.tape.with(|t| (t.steps.len(), t.last().map_or(0, |f| f.cells.len()))));
    let theme = crate::theme::changes();
    Effect::new(move |_| {
        theme.track();
        let of = of.get();
        if let Some(canvas) = node.get() {
            player.tape.with(|tape| draw(&canvas, tape, of));
        }
    });
    let cell = move |event: &web_sys::MouseEvent| {
        let (steps, positions) = size.get_untracked();
        let canvas = node.get_untracked()?;
        let (w, h) = (f64::from(canvas.client_width()), f64::from(canvas.client_height()));
        let x = (f64::from(event.offset_x()) / w * positions as f64) as usize;
        let y = (f64::from(event.offset_y()) / h * steps as f64) as usize;
        (x < positions && y < steps).then_some((y + 1, x as u32))
    };
    let said = move || {
        let (steps, positions) = size.get();
        let Some((step, pos)) = pointed.get() else {
            return format!(
                "{steps} steps downwards, {positions} positions to the right. Choose a cell to go there."
            );
        };
        player.tape.with(|t| {
            let Some(record) = t.steps.get(step - 1) else { return String::new() };
            let word = t.frames.get(step).and_then(|f| f.cells.get(pos as usize)?.token);
            let word =
                word.map_or("masked".into(), |id| player.pieces.with(|p| format!("“{}”", p.shown(id))));
            match row(record, pos) {
                Some(r) => format!(
                    "Step {step}, position {pos}, {word}: largest probability {:.2}, entropy {:.2} nats",
                    r.p_max, r.entropy
                ),
                None => format!("Step {step}, position {pos}, {word}: not computed"),
            }
        })
    };
    let height = move || format!("{:.0}px", (size.get().0 as f64 * TALL).clamp(TALL, MOST));
    let part = |n: usize, of: usize| format!("{:.3}%", 100.0 * n as f64 / of.max(1) as f64);
    view! {
        <div class="caption">
            <div class="seg small" role="group" aria-label="What the map shows">
                {[(Shade::Confidence, "Confidence"), (Shade::Entropy, "Entropy")].map(|(shade, name)| view! {
                    <button aria-pressed=move || (of.get() == shade).to_string() on:click=move |_| of.set(shade)>{name}</button>
                })}
            </div>
            <span class="about">{move || match of.get() {
                Shade::Confidence => "dark = the best token has probability 1",
                Shade::Entropy => "dark = 4 nats or more",
            }}"; a dot is a word written, a cross one replaced, a ring one masked again"</span>
            <button class="link" on:click=move |_| {
                let text = player.tape.with_untracked(csv);
                // a browser that refuses a download says so itself
                drop(dom::download("decoding.csv", "text/csv", text.as_bytes()));
            }>"Save as CSV"</button>
        </div>
        <div class="map" style:height=height>
            <canvas
                node_ref=node
                role="img"
                aria-label=move || {
                    let (steps, positions) = size.get();
                    format!("Map of {steps} steps and {positions} positions; the word inspector tells the same of every position in words")
                }
                on:mousemove=move |e| pointed.set(cell(&e))
                on:mouseleave=move |_| pointed.set(None)
                on:click=move |e| {
                    if let Some((step, pos)) = cell(&e) {
                        player.timeline.seek(step);
                        player.selected.set(Some(pos));
                    }
                }
            ></canvas>
            <Show when=move || player.at.get() != 0>
                <i class="row" style:top=move || part(player.at.get() - 1, size.get().0) style:height=move || part(1, size.get().0)></i>
            </Show>
            {move || player.selected.get().map(|pos| view! {
                <i class="col" style:left=part(pos as usize, size.get().1) style:width=part(1, size.get().1)></i>
            })}
        </div>
        <p class="small mut said">{said}</p>
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_engine::decode::{Action, DecodeConfig, StepKind, StepRecord};

    fn tape() -> Tape {
        let mut tape = Tape::new(&DecodeConfig::new(vec![1], 3, 100, 99));
        let row = |pos, p_max, entropy| RowRecord {
            pos,
            masked: true,
            current: 99,
            candidate: 5,
            p: p_max,
            p_max,
            p_second: 0.0,
            entropy,
            p_current: 0.0,
            score: None,
            top: vec![],
            kl: None,
        };
        tape.push(StepRecord {
            step: 0,
            block: 0,
            kind: StepKind::Denoise,
            queries: 3,
            cache: Default::default(),
            rows: vec![row(1, 1.0, 0.0), row(2, 0.25, 9.0), row(77, 1.0, 0.0)],
            actions: vec![Action {
                kind: ActionKind::Commit,
                pos: 1,
                old: 99,
                new: 5,
                p: 1.0,
                logq: 0.0,
                margin: 1.0,
            }],
            rule: None,
            forced: false,
            ..Default::default()
        });
        tape
    }

    #[test]
    fn cells_are_as_dark_as_asked_and_carry_their_marks() {
        let inks = Inks { level: [1, 2, 3], written: [7, 8, 9], changed: [4, 5, 6] };
        let at = |image: &[u8], x: usize, y: usize| -> [u8; 4] {
            image[4 * (y * 3 * CELL + x)..][..4].try_into().unwrap()
        };
        let image = pixels(&tape(), Shade::Confidence, &inks);
        assert_eq!(image.len(), 4 * 3 * CELL * CELL);
        assert_eq!(at(&image, 0, 0), [0; 4], "the prompt was not computed");
        assert_eq!(at(&image, CELL, 0), [1, 2, 3, 220]);
        assert_eq!(at(&image, CELL + 1, 1), [7, 8, 9, 255], "the dot of a word written");
        assert_eq!(at(&image, 2 * CELL, 0), [1, 2, 3, 70]);
        // nine nats are not darker than four
        assert_eq!(at(&pixels(&tape(), Shade::Entropy, &inks), 2 * CELL, 0), [1, 2, 3, 220]);
    }

    #[test]
    fn colours_are_read_as_browsers_write_them() {
        assert_eq!(rgb("rgb(28, 27, 25)"), Some([28, 27, 25]));
        assert_eq!(rgb("rgba(28, 27, 25, 0.5)"), Some([28, 27, 25]));
        assert_eq!(rgb(""), None);
    }

    #[test]
    fn the_file_has_a_line_for_every_computed_position() {
        let text = csv(&tape());
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("1,1,1,0,commit\n") && text.contains("1,2,0.25,9,\n"), "{text}");
    }
}
