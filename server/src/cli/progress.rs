//! Progress on standard error: a bar with the time left on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Seconds in words: "42 s", "3 min 5 s", "2 h 7 min".
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

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

#[cfg(test)]
mod tests {
    #[test]
    fn durations() {
        assert_eq!(super::duration(41.6), "42 s");
        assert_eq!(super::duration(185.0), "3 min 5 s");
        assert_eq!(super::duration(7620.0), "2 h 7 min");
    }
}
