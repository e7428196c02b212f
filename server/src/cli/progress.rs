//! Progress on standard error: a bar with the time left on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::duration_text;

/// A counted piece of work.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    spoken: Option<Instant>,
    began: Instant,
}

impl Progress {
    pub fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {pos}/{len} {bar:30} {msg}")
                .expect("a valid template");
            ProgressBar::new(0).with_style(style).with_prefix(what)
        });
        Progress { what, bar, spoken: None, began: Instant::now() }
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
    /// [`Progress::update`] with the time left, as if every part took as long as those done.
    pub fn pass(&mut self, done: u64, of: u64) {
        let each = self.began.elapsed().as_secs_f64() / done.max(1) as f64;
        let left = format!("{} left", duration_text(each * of.saturating_sub(done) as f64));
        self.update(done, of, &left);
    }
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
