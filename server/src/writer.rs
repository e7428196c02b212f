//! One worker a model writes all texts of that model: in every round each of them takes one step, all in one forward
//! ([`round`]). A text that arrives joins the next round, a text that ends or whose reader has left is gone after its step,
//! and with the last of them the worker goes too, with its buffers. No text waits for another, and none depends on another.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use hilda_engine::{
    decode::{Decoder, StepEvent},
    model::{
        Batch, Weights,
        together::{Turn, Writing, round},
    },
};
use hilda_kernels::Cpu;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
};

/// Rows that a worker begins with; its buffers grow with what comes.
const ROWS: usize = 64;

/// Sees every step of a text; false ends it.
pub type Step = Box<dyn FnMut(&Decoder, &StepEvent) -> bool + Send>;

/// A text that was written, and what it took.
pub struct Written {
    pub decoder: Decoder,
    /// from joining to leaving; others were written in the same time
    pub seconds: f64,
    /// mean number of texts in the forwards that wrote it
    pub batch: f64,
}

struct Text {
    writing: Writing<Cpu>,
    step: Step,
    joined: Instant,
    forwards: usize,
    /// texts in these forwards, summed up
    mates: usize,
    ended: oneshot::Sender<Result<Written, String>>,
}

impl Text {
    /// Tells the reader of a step.
    fn next(&mut self, turn: Turn, mates: usize) -> Next {
        match turn {
            Turn::Stepped(event) => {
                (self.forwards, self.mates) = (self.forwards + 1, self.mates + mates);
                let wanted = (self.step)(&self.writing.decoder, &event);
                if wanted && self.writing.decoder.stop().is_none() { Next::Stays } else { Next::Ends }
            }
            Turn::Ended => Next::Ends,
            Turn::Failed(e) => Next::Fails(e.to_string()),
        }
    }

    fn end(self) {
        let written = Written {
            decoder: self.writing.decoder,
            seconds: self.joined.elapsed().as_secs_f64(),
            batch: self.mates as f64 / self.forwards.max(1) as f64,
        };
        // whoever has left needs no answer
        drop(self.ended.send(Ok(written)));
    }
}

#[derive(Default)]
struct Desk {
    waiting: Vec<Text>,
    /// a worker is there
    busy: bool,
}

/// Where the texts of a model wait for its worker.
#[derive(Default)]
pub struct Writer(Mutex<Desk>);

impl Writer {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes `decoder`'s text to its end, or until `step` says no. Each forward holds the one permit of `turns`, which
    /// all models share, because a forward uses all threads.
    ///
    /// # Errors
    /// In words, where a forward fails.
    pub async fn write(
        self: &Arc<Self>,
        weights: &Arc<Weights<Cpu>>,
        turns: &Arc<Semaphore>,
        decoder: Decoder,
        step: Step,
    ) -> Result<Written, String> {
        let writing = Writing::new(&Cpu, weights, decoder);
        let (ended, end) = oneshot::channel();
        let text = Text { writing, step, joined: Instant::now(), forwards: 0, mates: 0, ended };
        let idle = {
            let mut desk = self.desk();
            desk.waiting.push(text);
            !std::mem::replace(&mut desk.busy, true)
        };
        if idle {
            Worker::start(self.clone(), weights.clone(), turns.clone());
        }
        end.await.unwrap_or_else(|_| Err("the text was lost with the worker that wrote it".into()))
    }
}

struct Worker {
    writer: Arc<Writer>,
    weights: Arc<Weights<Cpu>>,
    turns: Arc<Semaphore>,
    texts: Vec<Text>,
}

/// What becomes of a text after its step.
enum Next {
    Stays,
    Ends,
    Fails(String),
}

impl Worker {
    fn start(writer: Arc<Writer>, weights: Arc<Weights<Cpu>>, turns: Arc<Semaphore>) {
        let worker = Worker { writer, weights, turns, texts: vec![] };
        tokio::task::spawn_blocking(move || worker.run());
    }

    fn run(mut self) {
        let mut batch = Batch::new(&Cpu, self.weights.clone(), ROWS);
        let handle = Handle::current();
        loop {
            if self.texts.is_empty() {
                let mut desk = self.writer.desk();
                if desk.waiting.is_empty() {
                    desk.busy = false;
                    return;
                }
            }
            // closed: the server ends, and whoever waits learns so
            let Ok(turn) = handle.block_on(self.turns.acquire()) else { return };
            self.texts.append(&mut self.writer.desk().waiting);
            let mut writings: Vec<_> = self.texts.iter_mut().map(|t| &mut t.writing).collect();
            let turns = round(&Cpu, &mut batch, &mut writings);
            drop(turn);
            let mates = turns.iter().filter(|t| !matches!(t, Turn::Ended)).count();
            let next: Vec<Next> =
                self.texts.iter_mut().zip(turns).map(|(t, turn)| t.next(turn, mates)).collect();
            // whoever had no turn has the next
            let had: Vec<Text> = self.texts.drain(..next.len()).collect();
            for (text, next) in had.into_iter().zip(next) {
                match next {
                    Next::Stays => self.texts.push(text),
                    Next::Ends => text.end(),
                    Next::Fails(e) => drop(text.ended.send(Err(e))),
                }
            }
        }
    }
}

impl Drop for Worker {
    /// A worker that is lost loses the texts it was writing; those that were still waiting get another one. The desk is in
    /// order before any client hears of it.
    fn drop(&mut self) {
        let mut desk = self.writer.desk();
        if self.turns.is_closed() {
            (desk.busy, desk.waiting) = (false, Vec::new());
        } else if std::thread::panicking() {
            desk.busy = !desk.waiting.is_empty();
            if desk.busy {
                Worker::start(self.writer.clone(), self.weights.clone(), self.turns.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hilda_engine::{
        config::ModelSpec,
        decode::{Attention, DecodeConfig},
        model::{Layout, LoadedModel, Serving},
    };

    use super::*;

    fn weights() -> Arc<Weights<Cpu>> {
        let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
        let config = spec.resolve(70, 69, 68, vec![69]).unwrap();
        let params = Layout::new(&config).init(&config, 3);
        let attention = Attention::BlockCausal;
        let serving =
            Serving { attention, block_size: 8, shift: true, infill: false, edits: false, uniform: false };
        Arc::new(Weights::of(LoadedModel { config, serving, params }))
    }

    fn decoder(seed: u64) -> Decoder {
        let mut c = DecodeConfig::new(vec![68, 1, 2], 27, 70, 69);
        (c.attention, c.block_size, c.shift, c.seed, c.temperature) =
            (Attention::BlockCausal, 8, true, seed, 0.9);
        c.policy = serde_json::from_str(r#"{"kind": "top_prob", "steps_per_block": 0}"#).unwrap();
        Decoder::new(c).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn texts_share_forwards_and_the_worker_leaves_with_the_last() {
        let (weights, turns) = (weights(), Arc::new(Semaphore::new(1)));
        let writer = Arc::new(Writer::default());
        // all are waiting when the first forward may begin
        let gate = turns.clone().acquire_owned().await.unwrap();
        let write = |seed: u64, steps: usize| {
            let (writer, weights, turns) = (writer.clone(), weights.clone(), turns.clone());
            let mut left = steps;
            let step = move |_: &Decoder, _: &StepEvent| {
                left -= 1;
                left > 0
            };
            tokio::spawn(async move { writer.write(&weights, &turns, decoder(seed), Box::new(step)).await })
        };
        let texts: Vec<_> = (0..4).map(|seed| write(seed, if seed == 3 { 2 } else { 1000 })).collect();
        while writer.desk().waiting.len() < 4 {
            tokio::task::yield_now().await;
        }
        drop(gate);
        let mut all = vec![];
        for text in texts {
            all.push(text.await.unwrap().unwrap());
        }
        assert_eq!(all[3].batch, 4.0);
        assert!(all[3].decoder.stop().is_none() && all[3].decoder.ledger().forwards == 2);
        for (seed, text) in all.iter().enumerate().take(3) {
            assert!(text.batch > 3.0 && text.batch < 4.0, "{}", text.batch);
            let alone = write(seed as u64, 1000).await.unwrap().unwrap();
            assert_eq!((alone.batch, alone.decoder.trajectory()), (1.0, text.decoder.trajectory()));
        }
        let began = Instant::now();
        while writer.desk().busy || Arc::strong_count(&writer) > 1 {
            assert!(began.elapsed().as_secs() < 20, "the worker stays");
            tokio::task::yield_now().await;
        }
    }

    /// A step that panics takes the worker with it: its texts fail, the next text has a new worker.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_lost_worker_is_replaced() {
        let (weights, turns) = (weights(), Arc::new(Semaphore::new(1)));
        let writer = Arc::new(Writer::default());
        let broken = writer.write(&weights, &turns, decoder(1), Box::new(|_, _| panic!("on purpose"))).await;
        assert!(broken.is_err_and(|e| e.contains("lost")));
        let whole = writer.write(&weights, &turns, decoder(1), Box::new(|_, _| true)).await.unwrap();
        assert!(whole.decoder.stop().is_some());
        turns.close();
        let closed = writer.write(&weights, &turns, decoder(1), Box::new(|_, _| true)).await;
        assert!(closed.is_err());
    }
}
