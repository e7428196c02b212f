//! Test binaries: built once for the whole workspace (one feature set, so no crate is compiled twice), then run one by
//! one, which lets the steps choose among tests without asking cargo again.
//!
//! A test that cannot run prints a line `SKIPPED name: why`; libtest counts it as passed, here it counts as skipped.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::report::{Counts, seconds};
use crate::shell::{self, Result};

/// Longer than any test binary takes; a hanging one must not take the whole run with it.
const LIMIT: Duration = Duration::from_secs(25 * 60);

pub struct Binary {
    pub package: String,
    /// `lib`, or the name of the integration test or program.
    pub target: String,
    executable: PathBuf,
    folder: PathBuf,
}

/// Compiles every test of the workspace; `Err` when something does not compile.
pub fn build(features: &[&str]) -> Result<Vec<Binary>> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(features);
    let messages = shell::output(cargo)?;
    Ok(messages.lines().filter_map(binary).collect())
}

/// The test binary that one of cargo's messages announces.
fn binary(message: &str) -> Option<Binary> {
    // The target says whether it can be tested, the profile whether this artifact is the test.
    let profile = &message[message.find("\"profile\":{")?..];
    let is_test = profile.split('}').next().is_some_and(|profile| profile.contains("\"test\":true"));
    let executable = PathBuf::from(string_field(message, "executable").filter(|_| is_test)?);
    let manifest = PathBuf::from(string_field(message, "manifest_path")?);
    let folder = manifest.parent()?.to_owned();
    let package = package_name(string_field(message, "package_id")?);
    let kind = message.contains("\"kind\":[\"lib\"]");
    let target = &message[message.find("\"target\":")?..];
    let target = if kind { "lib".into() } else { string_field(target, "name")?.to_owned() };
    Some(Binary { package, target, executable, folder })
}

/// `path+file:///home/me/hilda/xtask/bindgen#xtask-bindgen@0.1.0` or `path+file:///home/me/hilda/xtask#0.1.0`.
fn package_name(id: &str) -> String {
    let (place, name) = id.rsplit_once('#').unwrap_or((id, id));
    match name.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => place.rsplit('/').next().unwrap_or(place).to_owned(),
    }
}

/// Value of a string field in one line of JSON as cargo writes it. Paths with quotes in them are not understood.
fn string_field<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let key = format!("\"{name}\":\"");
    let start = message.find(&key)? + key.len();
    let length = message[start..].find('"')?;
    Some(&message[start..start + length])
}

impl Binary {
    /// Runs with libtest's own arguments; prints one line, and everything when a test failed.
    pub fn run(&self, args: &[&str], envs: &[(&str, String)]) -> Result<Counts> {
        let mut command = Command::new(&self.executable);
        command.args(args).arg("--show-output").current_dir(&self.folder).stdin(Stdio::null());
        command.env("CARGO_MANIFEST_DIR", &self.folder);
        command.envs(envs.iter().map(|(name, value)| (name, value)));
        let start = Instant::now();
        let (text, success) = capture(command)?;
        let (counts, skips) = parse(&text, success);
        if counts == Counts::default() {
            return Ok(counts);
        }
        println!("   {} {}: {} in {}", self.package, self.target, counts.line(), seconds(start.elapsed()));
        for skip in skips {
            println!("     {skip}");
        }
        if counts.failed > 0 {
            println!("{text}");
        }
        Ok(counts)
    }
}

/// Runs with both outputs in one text; whether it succeeded. Ended when it takes longer than [`LIMIT`].
fn capture(mut command: Command) -> Result<(String, bool)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let success = wait(&mut child)?;
    let mut text = out.join().unwrap_or_default();
    text.push_str(&err.join().unwrap_or_default());
    match success {
        Some(success) => Ok((text, success)),
        None => {
            text.push_str(&format!("\nended after {}\n", seconds(LIMIT)));
            Ok((text, false))
        }
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What arrived before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child) -> Result<Option<bool>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Counts in a libtest run, and its `SKIPPED` lines. A run that ended badly without a result line is one failure.
pub fn parse(text: &str, success: bool) -> (Counts, Vec<String>) {
    let mut counts = Counts::default();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
        let number = |word: &str| {
            let before = line.split(word).next().filter(|before| before.len() < line.len());
            before.and_then(|before| before.split_whitespace().last()?.parse::<usize>().ok()).unwrap_or(0)
        };
        counts.add(Counts {
            passed: number(" passed"),
            failed: number(" failed"),
            skipped: number(" ignored"),
        });
    }
    let mut skips: Vec<String> =
        text.lines().map(str::trim).filter(|line| line.starts_with("SKIPPED ")).map(str::to_owned).collect();
    skips.sort();
    skips.dedup();
    let claimed = skips.len().min(counts.passed);
    counts.passed -= claimed;
    counts.skipped += claimed;
    if !success && counts.failed == 0 {
        counts.failed = 1;
    }
    (counts, skips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_lines_are_not_passes() {
        let text = "\nrunning 4 tests\n....\nsuccesses:\n---- a stdout ----\nSKIPPED a: no GPU\n\n\
                    test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let (counts, skips) = parse(text, true);
        assert_eq!(counts, Counts { passed: 2, failed: 0, skipped: 2 });
        assert_eq!(skips, ["SKIPPED a: no GPU"]);
    }

    #[test]
    fn a_crash_without_a_result_is_a_failure() {
        assert_eq!(parse("running 4 tests\n", false).0, Counts::FAILED);
        let text = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse(text, false).0, Counts { passed: 3, failed: 2, skipped: 0 });
    }

    #[test]
    fn cargo_messages_name_test_binaries_only() {
        let message = |test: bool, executable: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"package_id\":\"path+file:///h/xtask/bindgen#xtask-bindgen@0.1.0\",\
                 \"manifest_path\":\"/h/xtask/bindgen/Cargo.toml\",\"target\":{{\"kind\":[\"bin\"],\
                 \"name\":\"xtask-bindgen\",\"test\":true}},\"profile\":{{\"opt_level\":\"1\",\"test\":{test}}},\
                 \"executable\":{executable},\"fresh\":true}}"
            )
        };
        let found = binary(&message(true, "\"/t/debug/deps/x-1\"")).unwrap();
        assert_eq!((found.package.as_str(), found.target.as_str()), ("xtask-bindgen", "xtask-bindgen"));
        assert_eq!(found.folder, PathBuf::from("/h/xtask/bindgen"));
        assert!(binary(&message(false, "\"/t/debug/x\"")).is_none());
        assert!(binary(&message(true, "null")).is_none());
        assert_eq!(package_name("path+file:///h/xtask#0.1.0"), "xtask");
    }
}
