//! The `hilda` program: where it is, running it to its end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What `HILDA_BIN` names, else the newest `hilda` that cargo built beside these tests.
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HILDA_BIN") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    // target/debug/deps/http-HASH -> target/{release,debug}/hilda
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.to_owned();
    let built = ["release", "debug"].map(|profile| target.join(profile).join("hilda"));
    built
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
}

/// The program, or a line that says that the test named `test` could not run.
#[macro_export]
macro_rules! hilda_or_skip {
    ($test:literal) => {
        match $crate::program::binary() {
            Some(path) => path,
            None => {
                println!("SKIPPED {}: no hilda program; cargo build --release -p hilda-server", $test);
                return;
            }
        }
    };
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    /// exit code; 128 + signal where a signal ended it
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Standard output as the one JSON document it must be.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("standard output is not one JSON document: {error}\n{self:#?}"))
    }

    /// Panics unless the program refused with `code` and said every one of `words` on standard error, without a panic.
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:#?}");
        for word in words {
            assert!(self.err.contains(word), "standard error does not mention {word:?}: {self:#?}");
        }
        assert!(!self.err.contains("panicked"), "{self:#?}");
    }
}

/// Runs `hilda ARGS` in `folder`, with its data in `folder/data`, for at most five minutes.
pub fn run(hilda: &Path, folder: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(hilda);
    command.args(args).current_dir(folder).env("HILDA_DATA", folder.join("data"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", hilda.display()));
    let pid = child.id();
    let waiting = thread::spawn(move || child.wait_with_output());
    let start = Instant::now();
    while !waiting.is_finished() {
        if start.elapsed() > Duration::from_secs(300) {
            signal(pid, "KILL");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let out = waiting.join().expect("the waiting thread").expect("the program's output");
    Ended {
        code: exit_code(out.status),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Sends a signal by name (`TERM`, `KILL`) to one process; false when there is none.
pub fn signal(pid: u32, name: &str) -> bool {
    let kill = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).stderr(Stdio::null()).status();
    kill.is_ok_and(|status| status.success())
}

/// Processes whose command line mentions `folder` (a temporary folder's name is unique). Linux only: empty elsewhere.
pub fn processes_on(folder: &Path) -> Vec<u32> {
    let needle = folder.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if pid != std::process::id() && String::from_utf8_lossy(&line).contains(&needle) {
            found.push(pid);
        }
    }
    found
}
