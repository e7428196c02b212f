//! Completions step by step, as server-sent events.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use futures::{future::join_all, stream};
use hilda_engine::decode::{ActionKind, DecodeConfig, Decoder, StepEvent, StepKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Frame, choice, finish,
    queue::Place,
    summary,
    text::{Text, Told},
    usage, write,
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
/// hundred of them. Those of several texts come as they are written, each with its index.
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
        let (text, frame) = (Arc::new(text), Arc::new(frame));
        let texts = configs.into_iter().enumerate().map(|(index, config)| {
            let told = Arc::new(Mutex::new(Told::default()));
            let one = One { text: text.clone(), frame: frame.clone(), index, told, send: send.clone() };
            one.write(&state, &place, config, trajectory)
        });
        // whoever leaves gives the place back, and ends what is being written by its next step
        let whole = tokio::select! {
            ended = join_all(texts) => ended.into_iter().all(|ended| ended),
            () = send.closed() => false,
        };
        if whole {
            // a client that has left needs no end
            drop(send.send(Event::default().data("[DONE]")));
        }
    });
    let events =
        stream::unfold(receive, |mut r| async move { r.recv().await.map(|e| (Ok::<_, Infallible>(e), r)) });
    Sse::new(events).keep_alive(KeepAlive::new()).into_response()
}

/// One text of a stream.
#[derive(Clone)]
struct One {
    text: Arc<Text>,
    frame: Arc<Frame>,
    index: usize,
    told: Arc<Mutex<Told>>,
    send: mpsc::UnboundedSender<Event>,
}

impl One {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Step by step; false once nobody listens or the text failed.
    async fn write(self, state: &AppState, place: &Place, config: DecodeConfig, trajectory: bool) -> bool {
        let steps = self.clone();
        let written = write(state, place, &self.text.model, config, move |d, e| steps.step(d, e)).await;
        let (last, ended) = match written {
            Ok(written) => {
                let (decoder, mut told) = (&written.decoder, self.told());
                let record = decoder.trajectory();
                let rest = if told.cut { String::new() } else { told.next(&self.text, decoder) };
                let finish = finish(told.cut, decoder);
                let mut v = self.frame.value(vec![choice(self.index, &rest, Some(finish))]);
                v["usage"] = usage(std::slice::from_ref(&record));
                v["diffusion"] = summary(&record, &self.text.model, &written, trajectory);
                (v, true)
            }
            Err(e) => (json!({ "error": { "message": e.detail, "type": "server_error" } }), false),
        };
        self.send.send(Event::default().data(last.to_string())).is_ok() && ended
    }

    /// Tells what a step did; false where the text should end.
    fn step(&self, d: &Decoder, e: &StepEvent) -> bool {
        // what fills caches, guides or searches in the background changes nothing that can be seen
        if e.record.kind != StepKind::Denoise && e.record.actions.is_empty() {
            return !self.send.is_closed();
        }
        let mut told = self.told();
        let mut v = self.frame.value(vec![choice(self.index, &told.next(&self.text, d), None)]);
        v["diffusion"] = step_event(&self.text, d, e);
        // nobody listens any more: stop computing
        self.send.send(Event::default().data(v.to_string())).is_ok() && !told.cut
    }
}
