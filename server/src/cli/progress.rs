//! Progress on standard error: a bar with the time left on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A counted piece of work.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    spoken: Option<Instant>,
}

impl Progress {
    pub fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {pos}/{len} {bar:30} {msg}")
                .expect("a valid template");
            ProgressBar::new(0).with_style(style).with_prefix(what)
        });
        Progress { what, bar, spoken: None }
    }
    pub fn update(&mut self, done: u64, of: u64, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(of);
                bar.set_position(done);
                bar.set_message(message.to_string());
            }
            None if self.spoken.is_none_or(|t| t.elapsed() > Duration::from_secs(10)) || done == of => {
                eprintln!("{} {done}/{of}: {message}", self.what);
                self.spoken = Some(Instant::now());
            }
            None => {}
        }
    }
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
