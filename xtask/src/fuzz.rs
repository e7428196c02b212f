//! `cargo xtask fuzz [SECONDS] [--seed N]`: damaged files for every reader, for a while.

use std::process::ExitCode;

use crate::shell::{self, Result};
use crate::test::FEATURES;

pub const USAGE: &str = "\
cargo xtask fuzz [SECONDS] [--seed N]
    damages files and reads them, SECONDS (60) for each reader; every file follows from a seed, counted from N (0) on.
    A failure prints its seed and writes the file; HILDA_FUZZ_SEED=SEED repeats that one
";

pub fn command(args: &[String]) -> Result<ExitCode> {
    let (mut seconds, mut start) = (60u64, 0u64);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match (arg.as_str(), arg.parse()) {
            ("--seed", _) => {
                let given = args.next().and_then(|n| n.parse().ok());
                start = given.ok_or("--seed needs a number")?;
            }
            (_, Ok(n)) => seconds = n,
            _ => return Err(format!("`fuzz` has no option {arg}\n{USAGE}").into()),
        }
    }
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--test", "fuzz"]).args(FEATURES).args(["--", "--nocapture"]);
    cargo.env("HILDA_FUZZ_SECONDS", seconds.to_string()).env("HILDA_FUZZ_START", start.to_string());
    shell::run(cargo)?;
    Ok(ExitCode::SUCCESS)
}
