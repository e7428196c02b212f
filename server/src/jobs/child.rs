//! Starting, watching and signalling one trainer.

use std::{
    fmt,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::storage::{DataDir, RunFolder};

/// A trainer: started here, or found alive by a restarted server.
pub enum Process {
    Own(Child),
    Adopted(RunFolder),
}

/// How it ended.
pub enum Exit {
    Status(ExitStatus),
    /// an adopted trainer released its lock; its exit code went to nobody
    Gone,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Gone => f.write_str("is gone"),
            Exit::Status(s) => match (s.code(), s.signal()) {
                (Some(0), _) => f.write_str("ended without finishing the run"),
                (Some(code), _) => write!(f, "ended with exit code {code}"),
                (None, Some(9)) => f.write_str("was killed (signal 9), perhaps because memory ran out"),
                (None, Some(signal)) => write!(f, "was ended by signal {signal}"),
                (None, None) => f.write_str("ended"),
            },
        }
    }
}

/// Starts `PROGRAM train --run DIR` in a process group of its own, output appended to `log.txt`.
pub fn spawn(program: &Path, data: &DataDir, run: &RunFolder) -> std::io::Result<Process> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(run.path.join("log.txt"))?;
    let child = Command::new(program)
        .arg("train")
        .arg("--run")
        .arg(&run.path)
        .env("HILDA_DATA", data.root())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(Process::Own(child))
}

impl Process {
    /// `Some` once it ended.
    pub fn poll(&mut self) -> Option<Exit> {
        match self {
            Process::Own(child) => child.try_wait().ok().flatten().map(Exit::Status),
            Process::Adopted(run) => (!run.lock_held()).then_some(Exit::Gone),
        }
    }
    /// SIGTERM: write a checkpoint and end.
    pub fn terminate(&mut self) {
        self.signal(libc::SIGTERM);
    }
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
    }
    fn signal(&mut self, signal: i32) {
        let pid = match self {
            // a child that was waited for has no id any more, so no stranger is hit
            Process::Own(child) => match child.try_wait() {
                Ok(None) => Some(child.id() as i32),
                _ => None,
            },
            Process::Adopted(run) if run.lock_held() => run.lock_pid(),
            Process::Adopted(_) => None,
        };
        if let Some(pid) = pid {
            // SAFETY: plain system call; a wrong pid is an error code, not undefined behaviour.
            unsafe { libc::kill(pid, signal) };
        }
    }
}
