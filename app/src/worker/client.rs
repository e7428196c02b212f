//! The interface's side of the worker: starts it, queues what is asked until it listens, hands on what it tells.

use std::cell::RefCell;
use std::rc::Rc;

use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use web_sys::{ErrorEvent, MessageEvent, Worker, WorkerOptions, WorkerType};

use super::{Ask, Tell};
use crate::dom;

/// What came from the worker: a message, or its end (a fault in the module or no memory left).
pub enum Heard {
    Tell(Tell),
    Died(String),
}

/// A running worker. Dropping it ends the worker.
pub struct Client {
    worker: Worker,
    /// asks that came before the worker listened; `None` once it does
    early: Rc<RefCell<Option<Vec<JsValue>>>>,
    _message: Closure<dyn FnMut(MessageEvent)>,
    _error: Closure<dyn FnMut(ErrorEvent)>,
}

impl Client {
    /// Starts a worker. `boot.js` has left the address of its script in the root element.
    pub fn start(heard: impl Fn(Heard) + 'static) -> Result<Client, String> {
        let root = dom::document().document_element().ok_or("the document is empty")?;
        let script = root.get_attribute("data-worker").unwrap_or_else(|| dom::site("/worker.js"));
        let options = WorkerOptions::new();
        options.set_type(WorkerType::Module);
        options.set_name("hilda-model");
        let worker = Worker::new_with_options(&script, &options).map_err(|e| dom::message(&e))?;
        let heard = Rc::new(heard);
        let early: Rc<RefCell<Option<Vec<JsValue>>>> = Rc::new(RefCell::new(Some(Vec::new())));
        let message = {
            let (heard, early, worker) = (heard.clone(), early.clone(), worker.clone());
            Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
                let Some(text) = event.data().as_string() else { return };
                match serde_json::from_str::<Tell>(&text) {
                    Ok(Tell::Hello) => {
                        for ask in early.take().unwrap_or_default() {
                            drop(worker.post_message(&ask));
                        }
                    }
                    Ok(tell) => heard(Heard::Tell(tell)),
                    Err(error) => {
                        heard(Heard::Died(format!("a message from the worker cannot be read: {error}")))
                    }
                }
            })
        };
        let error = Closure::<dyn FnMut(ErrorEvent)>::new(move |event: ErrorEvent| {
            let text = event.message();
            heard(Heard::Died(if text.is_empty() { "its script could not be loaded".into() } else { text }));
        });
        worker.set_onmessage(Some(message.as_ref().unchecked_ref()));
        worker.set_onerror(Some(error.as_ref().unchecked_ref()));
        Ok(Client { worker, early, _message: message, _error: error })
    }

    pub fn ask(&self, ask: &Ask) {
        self.ask_with(ask, &[]);
    }

    /// Asks, with files that travel as they are.
    pub fn ask_with(&self, ask: &Ask, files: &[web_sys::File]) {
        let Ok(text) = serde_json::to_string(ask) else { return };
        let message = js_sys::Array::of1(&JsValue::from_str(&text));
        for file in files {
            message.push(file);
        }
        match self.early.borrow_mut().as_mut() {
            Some(early) => early.push(message.into()),
            None => drop(self.worker.post_message(&message)),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.worker.terminate();
    }
}
