//! Completions step by step, as server-sent events.

use std::{convert::Infallible, time::Instant};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use futures::stream;
use hilda_engine::decode::{ActionKind, DecodeConfig, Decoder, StepEvent, StepKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Frame, choice, decode, finish,
    queue::Place,
    summary,
    text::{Text, Told},
    usage,
};
use crate::http::AppState;

/// Steps between two events with the whole text.
const SNAPSHOT: u32 = 8;

/// What a step did, for people who follow a text: which tokens it wrote, replaced or masked again, how sure the model
/// was, how much is left.
fn step_event(text: &Text, d: &Decoder, e: &StepEvent) -> Value {
    let r = &e.record;
    let token = |id: u32| String::from_utf8_lossy(text.model.tokenizer.bytes(id)).into_owned();
    let edits: Vec<Value> = r
        .actions
        .iter()
        .map(|a| {
            let masks = matches!(a.kind, ActionKind::Remask | ActionKind::Reopen);
            let to = (!masks).then(|| token(a.new));
            let from = (a.kind != ActionKind::Commit).then(|| token(a.old));
            json!({
                "position": a.pos, "from": a.old, "to": a.new, "from_text": from, "to_text": to, "kind": a.kind.name(),
                "confidence": a.p,
            })
        })
        .collect();
    let masked: Vec<f64> = r.rows.iter().filter(|row| row.masked).map(|row| f64::from(row.entropy)).collect();
    let entropy = (!masked.is_empty()).then(|| masked.iter().sum::<f64>() / masked.len() as f64);
    let ledger = d.ledger();
    let finished = d.stop().is_some();
    let mut v = json!({
        "step": r.step, "block": r.block, "edits": edits, "forced": r.forced, "entropy": entropy, "finished": finished,
        "counts": {
            "masked": e.masked, "forwards": ledger.forwards, "written": ledger.commits, "edits": ledger.edits,
            "remasks": ledger.remasks,
        },
    });
    if finished || r.step % SNAPSHOT == 0 {
        v["text"] = text.shown(d).into();
    }
    v
}

/// Events wait in a channel without bound, so that a client that reads slowly keeps nobody else waiting; a text has a few
/// hundred of them.
pub(super) fn stream_steps(
    state: AppState,
    place: Place,
    text: Text,
    configs: Vec<DecodeConfig>,
    frame: Frame,
    trajectory: bool,
) -> Response {
    let (send, receive) = mpsc::unbounded_channel::<Event>();
    tokio::spawn(async move {
        // whoever leaves while waiting gives the place back
        let place = tokio::select! {
            place = place.turn() => place,
            () = send.closed() => return,
        };
        let Ok(place) = place else { return };
        tokio::task::spawn_blocking(move || {
            let _place = place;
            for (index, config) in configs.into_iter().enumerate() {
                if !write_steps(&state, &text, config, (&frame, index), trajectory, &send) {
                    return;
                }
            }
            // a client that has left needs no end
            drop(send.send(Event::default().data("[DONE]")));
        });
    });
    let events =
        stream::unfold(receive, |mut r| async move { r.recv().await.map(|e| (Ok::<_, Infallible>(e), r)) });
    Sse::new(events).keep_alive(KeepAlive::new()).into_response()
}

/// One text after the other, step by step; false once nobody listens or a text failed.
fn write_steps(
    state: &AppState,
    text: &Text,
    config: DecodeConfig,
    (frame, index): (&Frame, usize),
    trajectory: bool,
    send: &mpsc::UnboundedSender<Event>,
) -> bool {
    let start = Instant::now();
    let mut told = Told::default();
    let result = decode(state, &text.model, config, |d, e| {
        // what fills caches, guides or searches in the background changes nothing that can be seen
        if e.record.kind != StepKind::Denoise && e.record.actions.is_empty() {
            return !send.is_closed();
        }
        let mut v = frame.value(vec![choice(index, &told.next(text, d), None)]);
        v["diffusion"] = step_event(text, d, e);
        // nobody listens any more: stop computing
        send.send(Event::default().data(v.to_string())).is_ok() && !told.cut
    });
    let (last, ended) = match result {
        Ok(decoder) => {
            let record = decoder.trajectory();
            let rest = if told.cut { String::new() } else { told.next(text, &decoder) };
            let finish = finish(told.cut, &decoder);
            let mut v = frame.value(vec![choice(index, &rest, Some(finish))]);
            v["usage"] = usage(std::slice::from_ref(&record));
            v["diffusion"] = summary(&record, text.model.serving, start.elapsed().as_secs_f64(), trajectory);
            (v, true)
        }
        Err(e) => (json!({ "error": { "message": e, "type": "server_error" } }), false),
    };
    send.send(Event::default().data(last.to_string())).is_ok() && ended
}
