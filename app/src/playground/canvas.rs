//! The text: one element per position, placed by [`super::layout`], wearing its mark.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use hilda_engine::decode::StepRecord;
use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;

use super::blocks::{Use, used};
use super::deal::Dealt;
use super::layout::{Measure, Piece, Place, layout, line_starts};
use super::player::{Overlay, Player};
use super::tape::{Cell, Frame, Mark};
use crate::dom;

/// Measures words in the canvas font; every word is measured once.
struct Font {
    context: web_sys::CanvasRenderingContext2d,
    em: f64,
    widths: RefCell<HashMap<String, f64>>,
}

impl Font {
    /// The font that `element` is set in.
    fn of(element: &web_sys::Element) -> Option<Font> {
        let style = dom::window().get_computed_style(element).ok().flatten()?;
        let size = style.get_property_value("font-size").ok()?;
        let family = style.get_property_value("font-family").ok()?;
        let canvas: web_sys::HtmlCanvasElement =
            dom::document().create_element("canvas").ok()?.unchecked_into();
        let context: web_sys::CanvasRenderingContext2d = canvas.get_context("2d").ok()??.unchecked_into();
        context.set_font(&format!("{size} {family}"));
        Some(Font { context, em: size.trim_end_matches("px").parse().ok()?, widths: RefCell::default() })
    }
}

impl Measure for Font {
    fn width(&self, text: &str) -> f64 {
        if let Some(width) = self.widths.borrow().get(text) {
            return *width;
        }
        let width = self.context.measure_text(text).map_or(0.0, |m| m.width());
        self.widths.borrow_mut().insert(text.to_string(), width);
        width
    }
    fn em(&self) -> f64 {
        self.em
    }
}

/// Steps for which an edit shows the word it struck.
const NEWS: usize = 4;
/// Widths, in em, of the blocks that stand where a text will be.
const SKELETON: [f64; 28] = [
    2.2, 1.4, 3.1, 0.9, 2.6, 1.8, 3.4, 1.1, 2.4, 2.9, 1.3, 2.0, 3.2, 0.8, 1.9, 2.7, 1.5, 3.0, 2.1, 1.0, 2.5,
    1.7, 2.8, 1.2, 3.3, 2.3, 1.6, 2.0,
];

/// The layout of the newest text.
#[derive(Clone, Debug, Default, PartialEq)]
struct Places {
    places: Arc<Vec<Place>>,
    lines: usize,
    /// width it was made for
    column: f64,
}
type FontHandle = StoredValue<Option<Font>, LocalStorage>;

/// Everything that the looks of all positions follow from.
struct Scene {
    frame: Option<Arc<Frame>>,
    places: Arc<Vec<Place>>,
    at: usize,
    selected: Option<u32>,
    /// first position after the prompt
    first: usize,
    /// tokens in a block and the step shown, where blocks are drawn
    blocks: Option<(usize, Option<Arc<StepRecord>>)>,
    /// what the words are tinted by
    tint: Option<Overlay>,
    lettering: u32,
}

/// How a position looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Look {
    cell: Option<Cell>,
    place: Place,
    selected: bool,
    /// where the tabulator key enters the text
    entry: bool,
    /// block, counted from 1, where this is the first of it
    edge: Option<usize>,
    /// what the step's forward did with it, where blocks are drawn
    used: Option<Use>,
    /// an edit is loud while it is news; later the underline stays and the old word waits for a look
    recent: bool,
    /// strength of the tint, percent
    level: Option<u8>,
    /// changes with the text of the tokens
    lettering: u32,
}

impl Scene {
    /// Whether `pos` is the first of its block that is shown: what stands before a document is not.
    fn begins(&self, pos: usize, size: usize) -> bool {
        let cells = self.frame.as_ref().map(|f| f.cells.as_slice()).unwrap_or_default();
        let hidden = pos < 2 && cells.first().is_some_and(|c| c.mark == Mark::Filled);
        if hidden && size > 1 { pos == 1 } else { pos.is_multiple_of(size) }
    }

    fn look(&self, pos: usize) -> Look {
        let cell = self.frame.as_ref().and_then(|f| f.cells.get(pos).copied());
        let steps = self.frame.as_ref().map_or(0, |f| f.forwards).max(1);
        let tint = cell.zip(self.tint).and_then(|(cell, overlay)| level(&cell, overlay, steps));
        let selected = self.selected == Some(pos as u32);
        Look {
            cell,
            place: self.places.get(pos).copied().unwrap_or_default(),
            selected,
            entry: selected || self.selected.is_none() && pos == self.first,
            edge: self
                .blocks
                .as_ref()
                .filter(|(size, _)| self.begins(pos, *size))
                .map(|(size, _)| pos / size + 1),
            used: self.blocks.as_ref().and_then(|(_, step)| used(step.as_ref()?, pos as u32)),
            recent: cell.is_some_and(|c| c.mark == Mark::Edited && c.step as usize + NEWS > self.at),
            level: tint.map(|l| (l * 100.0).round() as u8),
            lettering: self.lettering,
        }
    }
}

#[component]
pub fn Canvas(player: Player) -> impl IntoView {
    let node = NodeRef::<html::Div>::new();
    let width = RwSignal::new(0.0f64);
    let font: FontHandle = StoredValue::new_local(None);
    watch_width(node, width, font);

    let places = Memo::new(move |before: Option<&Places>| -> Places {
        let column = width.get();
        player.tape.track();
        let pieces = player.pieces.get();
        let (last, whole) = player.tape.with_untracked(|t| (t.last().cloned(), t.is_one_block()));
        let (Some(last), true) = (last, column > 0.0) else { return Places::default() };
        // blocks settle from left to right, so that filling lines anew never moves what is written
        let kept = before.filter(|b| whole && b.column == column && b.places.len() == last.cells.len());
        let starts = kept.map(|b| line_starts(&b.places)).unwrap_or_default();
        let (places, lines) = font.with_value(|font| match font {
            Some(font) => layout(&last, |id| pieces.get(id), font, column, &starts),
            None => (Vec::new(), 0),
        });
        // the box never shrinks while a text is being written
        let lines = match before {
            Some(b) if player.live.get_untracked() && b.places.len() == places.len() => lines.max(b.lines),
            _ => lines,
        };
        Places { places: Arc::new(places), lines, column }
    });
    let count = Memo::new(move |_| player.tape.with(|t| t.last().map_or(0, |f| f.cells.len())));
    let lettering = Memo::new(move |before: Option<&u32>| {
        player.pieces.track();
        before.map_or(0, |n| n.wrapping_add(1))
    });
    let scene = move || {
        let (first, size) = player.tape.with(|t| (t.prompt, t.block_size as usize));
        Scene {
            frame: player.frame.get(),
            places: places.with(|p| p.places.clone()),
            at: player.at.get(),
            selected: player.selected.get(),
            first,
            blocks: (player.overlay.get() == Overlay::Blocks).then(|| {
                let step = player.at.get().checked_sub(1);
                (size.max(1), step.and_then(|i| player.tape.with(|t| t.steps.get(i).cloned())))
            }),
            tint: player.tint.get().then(|| player.overlay.get()),
            lettering: lettering.get(),
        }
    };
    let looks = Dealt::new(count, scene, Scene::look);
    follow_selection(node, player);

    view! {
        <div
            class="canvas"
            class:tint=move || player.tint.get() && player.overlay.get() != Overlay::Blocks
            class:blocks=move || player.overlay.get() == Overlay::Blocks
            role="group"
            aria-label="The text. Arrow up and down choose a word, enter inspects it"
        >
            <div
                class="tokens"
                node_ref=node
                style:height=move || format!("calc({} * var(--line-height))", places.with(|p| p.lines).max(6))
            >
                <For each=move || 0..looks.shown.get() key=|pos| *pos let:pos>
                    <Token player look=looks.at(pos) pos font/>
                </For>
            </div>
            <p class="visually-hidden">{move || plain_text(player)}</p>
            <Show when=move || count.get() == 0>
                <div class="skeleton" aria-hidden="true">
                    {SKELETON.map(|w| view! { <i style:width=format!("{w}em")></i> })}
                </div>
            </Show>
        </div>
    }
}

/// The text of the frame shown, masks as low lines.
pub fn plain_text(player: Player) -> String {
    player.pieces.with(|pieces| {
        player.frame.with(|frame| {
            let cells = frame.as_ref().map(|f| f.cells.as_slice()).unwrap_or_default();
            let shown = cells
                .iter()
                .filter(|c| c.mark != Mark::Filled && (c.token != pieces.eos || c.token.is_none()));
            shown.map(|c| c.token.map_or(" _", |id| pieces.get(id))).collect()
        })
    })
}

#[component]
fn Token(player: Player, look: RwSignal<Look>, pos: usize, font: FontHandle) -> impl IntoView {
    let cell = move || look.with(|l| l.cell);
    let word =
        move |id: u32| player.pieces.with_untracked(|pieces| Piece::of(pieces.get(id)).word.to_string());
    let shown = move || {
        let cell = cell()?;
        match cell.mark {
            Mark::Filled => None,
            Mark::Remasked => cell.old.map(word),
            Mark::Masked => cell.guess.map(word),
            _ => cell.token.map(word),
        }
    };
    // a word wider than its place is drawn narrower: nothing else moves
    let squeeze = move || {
        let (text, place) = (shown()?, look.with(|l| l.place.width));
        let natural = font.with_value(|font| font.as_ref().map(|f| f.width(&text)))?;
        (natural > place + 1.0 && place > 0.0).then(|| format!("scaleX({:.3})", (place / natural).max(0.5)))
    };
    let classes = move || {
        let Look { cell, recent, selected, edge, used, .. } = look.get();
        let mut classes = format!("tok {}", cell.map_or("", |c| class(c.mark)));
        let more = [("recent", recent), ("sel", selected), ("edge", edge.is_some())];
        let used = used.map(Use::class);
        for name in more.iter().filter(|c| c.1).map(|c| c.0).chain(used) {
            classes.push(' ');
            classes.push_str(name);
        }
        classes
    };
    view! {
        <span
            class=classes
            style:transform=move || {
                let Place { x, line, .. } = look.with(|l| l.place);
                format!("translate({x:.1}px, calc({line} * var(--line-height)))")
            }
            style:width=move || format!("{:.1}px", look.with(|l| l.place.width))
            style:--level=move || look.with(|l| l.level).map(|l| format!("{l}%")).unwrap_or_default()
            role="button"
            tabindex=move || if look.with(|l| l.entry) { "0" } else { "-1" }
            aria-pressed=move || look.with(|l| l.selected).to_string()
            data-block=move || look.with(|l| l.edge)
            aria-label=move || {
                let mut label = cell().map(|c| label(player, pos, &c)).unwrap_or_default();
                if let Some(used) = look.with(|l| l.used) {
                    label.push_str(", ");
                    label.push_str(used.words());
                }
                label
            }
            on:click=move |_| player.selected.update(|s| *s = if *s == Some(pos as u32) { None } else { Some(pos as u32) })
            on:keydown=move |event| {
                if event.key() == "Enter" {
                    player.selected.set(Some(pos as u32));
                    if let Some(panel) = dom::document().get_element_by_id("inspector") {
                        let panel: web_sys::HtmlElement = panel.unchecked_into();
                        drop(panel.focus());
                    }
                    event.prevent_default();
                }
            }
        >
            {move || {
                let cell = cell()?;
                (cell.mark == Mark::Edited).then(|| cell.old.map(|old| view! { <s>{word(old)}</s> }))
            }}
            <span class="w" style:transform=move || squeeze().unwrap_or_default()>
                {move || shown().unwrap_or_default()}
            </span>
        </span>
    }
}

fn class(mark: Mark) -> &'static str {
    match mark {
        Mark::Prompt => "given",
        Mark::Masked => "masked",
        Mark::New => "new",
        Mark::Plain => "plain",
        Mark::Edited => "edited",
        Mark::Remasked => "masked again",
        Mark::Fixed => "fixed",
        Mark::Filled => "filled",
    }
}

/// What a screen reader says about a position.
fn label(player: Player, pos: usize, cell: &Cell) -> String {
    player.pieces.with_untracked(|pieces| {
        let word = cell.token.map(|id| pieces.shown(id)).unwrap_or_default();
        match cell.mark {
            Mark::Masked => format!("position {pos}, masked"),
            Mark::Remasked => format!("position {pos}, masked again"),
            Mark::Prompt => format!("{word}, prompt"),
            Mark::Fixed => format!("{word}, fixed by you"),
            Mark::Filled => String::new(),
            Mark::New => format!("{word}, just written"),
            Mark::Plain => format!("{word}, written at step {}", cell.step),
            Mark::Edited => {
                let old = cell.old.map(|id| pieces.shown(id)).unwrap_or_default();
                format!("{word}, replaced {old} at step {}", cell.step)
            }
        }
    })
}

/// Height of a bar and strength of a tint, 0..1: the probability as it is; entropies against 4 nats (a vocabulary of
/// 4096 tokens has at most 8.3, but a written token rarely more than half); steps against all steps so far.
pub fn level(cell: &Cell, overlay: Overlay, steps: u32) -> Option<f64> {
    if !cell.is_written() {
        return None;
    }
    Some(match overlay {
        Overlay::Confidence => f64::from(cell.p),
        Overlay::Entropy if cell.entropy < 0.0 => return None,
        Overlay::Entropy => (f64::from(cell.entropy) / 4.0).min(1.0),
        Overlay::Blocks => return None,
        Overlay::Order => f64::from(cell.step) / f64::from(steps.max(cell.step).max(1)),
    })
}

/// The keyboard's focus stays on the word that is chosen, if it is in the text.
fn follow_selection(node: NodeRef<html::Div>, player: Player) {
    Effect::new(move |_| {
        let (Some(pos), Some(tokens)) = (player.selected.get(), node.get_untracked()) else { return };
        let active = dom::document().active_element();
        if active.is_some_and(|e| e.closest(".tokens").ok().flatten().is_some())
            && let Ok(Some(token)) = tokens.query_selector(&format!(":scope > .tok:nth-of-type({})", pos + 1))
        {
            // focusing an element that is gone does nothing
            drop(token.unchecked_into::<web_sys::HtmlElement>().focus());
        }
    });
}

/// Keeps `width` at the column's width and `font` at its font. The observer's first call comes with the first layout;
/// asking before would force one in the middle of building the page.
fn watch_width(node: NodeRef<html::Div>, width: RwSignal<f64>, font: FontHandle) {
    Effect::new(move |_| {
        let Some(element) = node.get() else { return };
        let element: web_sys::Element = (*element).clone().unchecked_into();
        let measured = element.clone();
        let measure = move || {
            let column = f64::from(measured.client_width());
            // the font changes with the width of the window, and not otherwise
            if (column - width.get_untracked()).abs() >= 1.0 {
                font.set_value(Font::of(&measured));
                width.set(column);
            }
        };
        let closure = Closure::<dyn FnMut()>::new(measure);
        if let Ok(observer) = web_sys::ResizeObserver::new(closure.as_ref().unchecked_ref()) {
            observer.observe(&element);
            let kept = StoredValue::new_local((observer, closure));
            on_cleanup(move || kept.with_value(|(observer, _)| observer.disconnect()));
        }
    });
}
