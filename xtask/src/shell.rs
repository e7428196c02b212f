//! Starting programs: where the repository is, where cargo builds, what ran and how it ended.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo builds: `CARGO_TARGET_DIR`, else `target/` in the repository.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that started this program, in the root of the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    // Set by `cargo run` for this program; a package's build script must not take them for its own.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command
}

/// As it would be typed.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs to the end; an error unless it succeeds.
pub fn run(mut command: Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("`{}`: {error}", describe(&command)))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("`{}` ended with {status}", describe(&command)).into()),
    }
}

/// Becomes this program, so that signals and the exit code are its own. Returns only when it could not be started.
#[cfg(unix)]
pub fn become_program(mut command: Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let error = command.exec();
    Err(format!("`{}`: {error}", describe(&command)).into())
}

/// Runs to the end and passes its exit code on.
#[cfg(not(unix))]
pub fn become_program(mut command: Command) -> Result<ExitCode> {
    let status = command.status().map_err(|error| format!("`{}`: {error}", describe(&command)))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Standard output of a program that succeeded.
pub fn output(mut command: Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output();
    let out = out.map_err(|error| format!("`{}`: {error}", describe(&command)))?;
    if !out.status.success() {
        return Err(format!("`{}` ended with {}", describe(&command), out.status).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// First program of this name on `PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
