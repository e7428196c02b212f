//! What the commands need beyond cargo: the WASM target, Debian packages, npm packages. Installed where that is
//! possible without asking, otherwise an error that names the exact command.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::shell::{self, Result};

pub const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// Makes sure that the active toolchain has the standard library for WASM.
pub fn wasm_target() -> Result<()> {
    let sysroot = shell::output({
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc.args(["--print", "sysroot"]).current_dir(shell::root());
        rustc
    })?;
    let library = PathBuf::from(sysroot.trim()).join("lib/rustlib").join(WASM_TARGET).join("lib");
    if library.is_dir() {
        return Ok(());
    }
    eprintln!("adding the Rust target {WASM_TARGET}");
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", WASM_TARGET]).current_dir(shell::root());
    shell::run(rustup).map_err(|error| {
        format!(
            "the page needs Rust's standard library for {WASM_TARGET}, which is not in {} and could not be added \
             ({error}).\n  With rustup and a network: rustup target add {WASM_TARGET}\n  With a distribution's Rust: \
             its package for WASM (Debian and Ubuntu: apt-get install libstd-rust-dev-wasm32; Fedora: dnf install \
             rust-std-static-wasm32-unknown-unknown) of the same version as rustc",
            library.display()
        )
        .into()
    })
}

/// Installs Debian packages when this is Debian or Ubuntu and we are root; an error that says what to do otherwise.
pub fn apt(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let typed = format!("apt-get install {}", missing.join(" "));
    if shell::which("apt-get").is_none() {
        return Err(format!("needs the equivalent of `{typed}` on this system").into());
    }
    if !is_root() {
        return Err(format!("needs `sudo {typed}`").into());
    }
    eprintln!("installing {}", missing.join(", "));
    let apt_get = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        shell::run(command)
    };
    apt_get(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    apt_get(&install).map_err(|error| format!("{error}; by hand: {typed}").into())
}

/// Whether [`apt`] can install here.
pub fn can_apt() -> bool {
    shell::which("apt-get").is_some() && is_root()
}

fn installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).ends_with("ok installed"))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// Folder with `node_modules/NAME` at exactly `version`, installed below the target directory when missing.
pub fn npm(name: &str, version: &str) -> Result<PathBuf> {
    let folder = shell::target_dir().join("node").join(format!("{name}-{version}"));
    if folder.join("node_modules").join(name).join("package.json").is_file() {
        return Ok(folder);
    }
    if shell::which("npm").is_none() {
        apt(&["nodejs", "npm"])
            .map_err(|error| format!("Node.js 18 or newer with npm is missing: {error}"))?;
    }
    eprintln!("installing {name} {version} below {}", folder.display());
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--prefix"]);
    npm.arg(&folder).arg(format!("{name}@{version}")).stdin(Stdio::null());
    shell::run(npm)?;
    Ok(folder)
}
