//! `cargo xtask serve`: page and server in release, then the server on 127.0.0.1. Cargo and the packer both leave
//! alone what did not change, so a second start takes seconds.

use std::process::ExitCode;

use crate::page;
use crate::shell::{self, Result};

pub fn command(args: &[String]) -> Result<ExitCode> {
    page::build(false)?;
    server()?;
    let mut serve = std::process::Command::new(binary());
    serve.arg("serve").args(args);
    shell::become_program(serve)
}

/// Builds the `hilda` program, which embeds `dist/`.
pub fn server() -> Result<()> {
    eprintln!("server: compiling");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--package", "hilda-server", "--bin", "hilda"]);
    shell::run(cargo)
}

/// Where [`server`] puts the program.
pub fn binary() -> std::path::PathBuf {
    shell::target_dir().join("release/hilda")
}
