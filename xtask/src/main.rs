//! `cargo xtask COMMAND`: everything people type in this repository. Each command installs what it needs where it can
//! (Debian and Ubuntu as root, rustup, npm) and otherwise says exactly what to install.

mod fuzz;
mod page;
mod ptx;
mod serve;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use shell::Result;

const USAGE: &str = "\
cargo xtask page [--wasm-opt]
    builds the page into dist/: WASM by profile `wasm`, hashed names, .br twins, at most 1.1 MB compressed
    --wasm-opt   also shrink the module with wasm-opt from the npm package binaryen
cargo xtask serve [--open] [--port N] [ARGS of `hilda serve`...]
    builds page and server in release, starts it on 127.0.0.1 and prints the address
cargo xtask bench [ARGS of `hilda bench`...]
    runs `hilda bench` in release
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let args: Vec<String> = args.collect();
    let outcome = match command.as_deref() {
        Some("page") => page::command(&args),
        Some("serve") => serve::command(&args),
        Some("test") => test::command(&args),
        Some("bench") => bench(&args),
        Some("fuzz") => fuzz::command(&args),
        Some("ptx") => ptx::command(&args),
        Some("help" | "--help" | "-h") | None => {
            print!("{USAGE}{}{}{}", ptx::USAGE, fuzz::USAGE, test::usage());
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            let all = format!("{USAGE}{}{}{}", ptx::USAGE, fuzz::USAGE, test::usage());
            Err(format!("there is no command `{other}`\n{all}").into())
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(2)
        }
    }
}

fn bench(args: &[String]) -> Result<ExitCode> {
    let mut command = shell::cargo();
    command
        .args(["run", "--release", "--package", "hilda-server", "--bin", "hilda", "--", "bench"])
        .args(args);
    shell::become_program(command)
}
