//! What happened: counts per step, the closing table, the exit code.

use std::process::ExitCode;
use std::time::Duration;

/// Tests of one binary or step. A check that is not a test binary (format, clippy, a build) counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Counts {
    pub const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    pub const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    pub const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// `N passed, N failed, N skipped`
    pub fn line(self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// How a step ended. Skipping is never success: it is listed with its reason.
pub enum Outcome {
    Ran(Counts),
    Failed(String),
    Skipped(String),
}

#[derive(Default)]
pub struct Report {
    steps: Vec<(String, Outcome, Duration)>,
}

impl Report {
    pub fn add(&mut self, name: &str, outcome: Outcome, time: Duration) {
        match &outcome {
            Outcome::Ran(counts) => println!("   {} in {}", counts.line(), seconds(time)),
            Outcome::Failed(why) => println!("   FAILED after {}: {why}", seconds(time)),
            Outcome::Skipped(why) => println!("   SKIPPED {name}: {why}"),
        }
        self.steps.push((name.to_owned(), outcome, time));
    }

    /// Whether a step ran and nothing in it failed.
    pub fn succeeded(&self, name: &str) -> bool {
        let step = self.steps.iter().find(|(step, ..)| step == name);
        matches!(step, Some((_, Outcome::Ran(counts), _)) if counts.failed == 0)
    }

    /// Prints the table and the closing line that programs read; failure when anything failed or nothing ran.
    pub fn finish(self) -> ExitCode {
        let mut total = Counts::default();
        let width = self.steps.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        println!("\nsummary");
        for (name, outcome, time) in &self.steps {
            let (counts, text) = match outcome {
                Outcome::Ran(counts) if counts.failed == 0 => {
                    (*counts, format!("ok       {}", counts.line()))
                }
                Outcome::Ran(counts) => (*counts, format!("FAILED   {}", counts.line())),
                Outcome::Failed(why) => (Counts::FAILED, format!("FAILED   {}", first_line(why))),
                Outcome::Skipped(why) => (Counts::SKIPPED, format!("SKIPPED  {}", first_line(why))),
            };
            total.add(counts);
            println!("  {name:width$}  {:>8}  {text}", seconds(*time));
        }
        println!("{}", total.line());
        match total.failed == 0 && total.passed > 0 {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(1),
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
