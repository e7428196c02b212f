//! `cargo xtask page`: app -> WASM -> `dist/`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::setup;
use crate::shell::{self, Result};

/// Binaryen's version from npm; Debian's older wasm-opt breaks what current compilers emit.
const BINARYEN: (&str, &str) = ("binaryen", "132.0.0");

pub fn command(args: &[String]) -> Result<ExitCode> {
    let mut wasm_opt = false;
    for arg in args {
        match arg.as_str() {
            "--wasm-opt" => wasm_opt = true,
            _ => return Err(format!("`page` has no option {arg}").into()),
        }
    }
    build(wasm_opt)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the page is built.
pub fn dist() -> PathBuf {
    shell::root().join("dist")
}

/// Builds the page. With `wasm_opt`, Binaryen is installed from npm and shrinks the module further.
pub fn build(wasm_opt: bool) -> Result<()> {
    setup::wasm_target()?;
    eprintln!("page: compiling to WASM");
    let mut cargo = shell::cargo();
    cargo.args([
        "build",
        "--package",
        "hilda-page",
        "--bin",
        "hilda-app",
        "--features",
        "web",
        "--profile",
        "wasm",
    ]);
    cargo.args(["--target", setup::WASM_TARGET]);
    shell::run(cargo)?;
    eprintln!("page: packing");
    let mut pack = shell::cargo();
    pack.args(["build", "--package", "xtask-bindgen"]);
    shell::run(pack)?;
    let target = shell::target_dir();
    let mut pack = Command::new(target.join("debug/xtask-bindgen"));
    pack.arg("--wasm").arg(target.join(setup::WASM_TARGET).join("wasm/hilda-app.wasm"));
    pack.arg("--public").arg(shell::root().join("public")).arg("--dist").arg(dist());
    if wasm_opt {
        let folder = setup::npm(BINARYEN.0, BINARYEN.1)?;
        pack.arg("--wasm-opt").arg(folder.join("node_modules/.bin/wasm-opt"));
    }
    shell::run(pack)
}
