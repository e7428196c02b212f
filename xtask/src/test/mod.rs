//! `cargo xtask test`: every check, named and timed. The last line is `N passed, N failed, N skipped`.

mod libtest;
mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use libtest::Binary;
use report::{Counts, Outcome, Report};

use crate::shell::{self, Result};
use crate::{page, ptx, serve, setup};

/// Pinned: the newest version that still runs on Node.js 18.
const PLAYWRIGHT: (&str, &str) = ("playwright-core", "1.60.0");

/// Features of the one test build: the WebGPU back end comes with it, so WGSL needs no second build.
pub const FEATURES: &[&str] = &["--features", "hilda-kernels/web,hilda-engine/web,hilda-app/web"];

/// Tests whose path has a part that starts with one of these need a Vulkan driver and form the step `wgsl`.
const WGSL: &[&str] = &["web::", "wgsl"];

struct Step {
    name: &'static str,
    about: &'static str,
    /// Left out by `--fast`.
    slow: bool,
    run: fn(&mut State) -> Result<Outcome>,
}

#[rustfmt::skip]
const STEPS: &[Step] = &[
    Step { name: "fmt", about: "cargo fmt --check", slow: false, run: fmt },
    Step { name: "clippy", about: "clippy on every target, warnings denied", slow: false, run: clippy },
    Step { name: "clippy-wasm", about: "clippy on the page for WASM", slow: true, run: clippy_wasm },
    Step { name: "ptx", about: "CUDA kernels give the PTX in the repository, within their budgets", slow: true, run: ptx },
    Step { name: "page", about: "the page within its size budget", slow: true, run: page },
    Step { name: "server", about: "the hilda program in release", slow: false, run: server },
    Step { name: "unit", about: "unit and property tests", slow: false, run: unit },
    Step { name: "fuzz", about: "every reader on damaged files, ten seconds each", slow: true, run: fuzz },
    Step { name: "doc", about: "examples in the documentation", slow: true, run: doc },
    Step { name: "wgsl", about: "WGSL kernels on a software Vulkan driver", slow: false, run: wgsl },
    Step { name: "outside", about: "command line and HTTP from outside", slow: false, run: outside },
    Step { name: "browser", about: "the page in headless Chromium", slow: true, run: browser },
];

pub fn usage() -> String {
    let mut text = String::from(
        "cargo xtask test [--fast] [--only STEP]... [-- FILTER]\n    \
         every check; --fast leaves out what is marked *, FILTER chooses tests by name; STEP is one of\n",
    );
    for step in STEPS {
        let mark = if step.slow { "*" } else { " " };
        text.push_str(&format!("     {mark} {:12} {}\n", step.name, step.about));
    }
    text
}

/// What steps share: test binaries, built once, and the arguments after `--`.
#[derive(Default)]
struct State {
    binaries: Option<Vec<Binary>>,
    filter: Vec<String>,
}

impl State {
    fn binaries(&mut self) -> Result<&[Binary]> {
        if self.binaries.is_none() {
            self.binaries = Some(libtest::build(FEATURES)?);
        }
        Ok(self.binaries.as_deref().unwrap_or_default())
    }
}

pub fn command(args: &[String]) -> Result<ExitCode> {
    let mut fast = false;
    let mut only: Vec<&str> = Vec::new();
    let mut state = State::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--fast" => fast = true,
            "--only" => only.push(args.next().ok_or("--only needs the name of a step")?),
            "--" => state.filter = args.by_ref().cloned().collect(),
            _ => return Err(format!("`test` has no option {arg}\n{}", usage()).into()),
        }
    }
    if let Some(unknown) = only.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        return Err(format!("there is no step {unknown}\n{}", usage()).into());
    }
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| if only.is_empty() { !(fast && step.slow) } else { only.contains(&step.name) })
        .collect();

    let mut report = Report::default();
    for (index, step) in chosen.iter().enumerate() {
        println!("== {} ({}/{}): {}", step.name, index + 1, chosen.len(), step.about);
        let start = Instant::now();
        let needed = needs(step.name)
            .iter()
            .find(|name| chosen.iter().any(|other| other.name == **name) && !report.succeeded(name));
        let outcome = match needed {
            Some(name) => Outcome::Skipped(format!("the step {name} did not succeed")),
            None => (step.run)(&mut state).unwrap_or_else(|error| Outcome::Failed(error.to_string())),
        };
        report.add(step.name, outcome, start.elapsed());
    }
    Ok(report.finish())
}

/// Steps without which a step says nothing.
fn needs(step: &str) -> &'static [&'static str] {
    match step {
        "outside" => &["server"],
        "browser" => &["page", "server"],
        _ => &[],
    }
}

/// A check that is not a test binary counts as one test.
fn check(command: Command) -> Result<Outcome> {
    shell::run(command).map(|()| Outcome::Ran(Counts::PASSED))
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = shell::cargo();
    cargo.args(args);
    cargo
}

fn fmt(_: &mut State) -> Result<Outcome> {
    component("rustfmt")?;
    check(cargo(&["fmt", "--all", "--check"]))
}

fn clippy(_: &mut State) -> Result<Outcome> {
    component("clippy")?;
    let mut clippy = cargo(&["clippy", "--quiet", "--workspace", "--all-targets"]);
    clippy.args(FEATURES).args(["--", "-D", "warnings"]);
    check(clippy)
}

fn clippy_wasm(_: &mut State) -> Result<Outcome> {
    setup::wasm_target()?;
    let target = ["--target", setup::WASM_TARGET, "--", "-D", "warnings"];
    // The page's own profile, so that the build that follows finds its procedural macros compiled.
    let mut clippy = cargo(&[
        "clippy",
        "--quiet",
        "--package",
        "hilda-app",
        "--package",
        "hilda-page",
        "--features",
        "web",
        "--profile",
        "wasm",
    ]);
    clippy.args(target);
    check(clippy)
}

/// Toolchain components that a minimal rustup profile leaves out.
fn component(name: &str) -> Result<()> {
    let program = if name == "clippy" { "cargo-clippy" } else { "cargo-fmt" };
    let mut version = Command::new(program);
    version.arg("--version").current_dir(shell::root()).stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", name]).current_dir(shell::root());
    shell::run(rustup)
        .map_err(|error| format!("{name} is missing: rustup component add {name} ({error})").into())
}

fn ptx(_: &mut State) -> Result<Outcome> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Ok(Outcome::Skipped("NVRTC and ptxas are fetched for Linux on x86-64 only".into()));
    }
    match ptx::tools() {
        Ok(_) => check(ptx::checking()?),
        Err(error) => Ok(Outcome::Skipped(format!("NVRTC and ptxas cannot be had: {error}"))),
    }
}

fn page(_: &mut State) -> Result<Outcome> {
    page::build(false).map(|()| Outcome::Ran(Counts::PASSED))
}

fn server(_: &mut State) -> Result<Outcome> {
    serve::server().map(|()| Outcome::Ran(Counts::PASSED))
}

fn unit(state: &mut State) -> Result<Outcome> {
    let filter = state.filter.clone();
    let mut args: Vec<&str> = WGSL.iter().flat_map(|part| ["--skip", *part]).collect();
    args.extend(filter.iter().map(String::as_str));
    let mut counts = Counts::default();
    for binary in state.binaries()?.iter().filter(|binary| binary.package != "hilda-tests") {
        counts.add(binary.run(&args, &[])?);
    }
    Ok(Outcome::Ran(counts))
}

fn fuzz(state: &mut State) -> Result<Outcome> {
    let envs = [("HILDA_FUZZ_SECONDS", "10".to_string())];
    let mut counts = Counts::default();
    for binary in state.binaries()?.iter().filter(|binary| binary.target == "fuzz") {
        counts.add(binary.run(&[], &envs)?);
    }
    Ok(Outcome::Ran(counts))
}

fn doc(_: &mut State) -> Result<Outcome> {
    let mut doc = cargo(&["test", "--quiet", "--workspace", "--doc"]);
    doc.args(FEATURES).stdout(Stdio::piped());
    let out = doc.spawn()?.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        println!("{text}");
    }
    Ok(Outcome::Ran(libtest::parse(&text, out.status.success()).0))
}

/// Manifest of lavapipe, Mesa's Vulkan driver on the CPU.
fn lavapipe() -> Option<PathBuf> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> = files
        .map(|file| file.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lvp_icd")))
        .collect();
    // The 32-bit driver's manifest sorts first and is of no use here.
    found.sort_by_key(|path| !path.to_string_lossy().contains(std::env::consts::ARCH));
    found.into_iter().next()
}

fn wgsl(state: &mut State) -> Result<Outcome> {
    if lavapipe().is_none()
        && let Some(skipped) = install(&["mesa-vulkan-drivers", "libvulkan1"])?
    {
        return Ok(skipped);
    }
    let Some(driver) = lavapipe() else {
        return Ok(Outcome::Skipped(
            "no lvp_icd*.json under /usr/share/vulkan/icd.d (Mesa's lavapipe)".into(),
        ));
    };
    println!("   Vulkan driver {}", driver.display());
    let envs = [("VK_DRIVER_FILES", driver.display().to_string()), ("WGPU_BACKEND", "vulkan".into())];
    let mut counts = Counts::default();
    for binary in state.binaries()?.iter().filter(|binary| binary.package != "hilda-tests") {
        counts.add(binary.run(WGSL, &envs)?);
    }
    Ok(match counts == Counts::default() {
        true => Outcome::Failed(format!("no test has {} in its path", WGSL.join(" or "))),
        false => Outcome::Ran(counts),
    })
}

fn outside(state: &mut State) -> Result<Outcome> {
    let filter = state.filter.clone();
    let args: Vec<&str> = filter.iter().map(String::as_str).collect();
    let envs = [("HILDA_BIN", serve::binary().display().to_string())];
    let mut counts = Counts::default();
    for binary in state.binaries()?.iter().filter(|binary| binary.package == "hilda-tests") {
        counts.add(binary.run(&args, &envs)?);
    }
    Ok(Outcome::Ran(counts))
}

fn browser(state: &mut State) -> Result<Outcome> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let find = || {
        let chosen = std::env::var_os("CHROMIUM").map(PathBuf::from);
        chosen.or_else(|| names.iter().find_map(|name| shell::which(name)))
    };
    if find().is_none() {
        let hint = "Chromium is missing; CHROMIUM=/path names one that is installed elsewhere";
        match install(&["chromium"]).map_err(|error| format!("{hint}: {error}"))? {
            Some(Outcome::Skipped(why)) => return Ok(Outcome::Skipped(format!("{hint}: {why}"))),
            Some(outcome) => return Ok(outcome),
            None => {}
        }
    }
    let Some(chromium) = find() else {
        return Ok(Outcome::Skipped(format!("none of {} on PATH, and no CHROMIUM=/path", names.join(", "))));
    };
    if shell::which("node").is_none()
        && let Some(skipped) = install(&["nodejs", "npm"])?
    {
        return Ok(skipped);
    }
    let modules = setup::npm(PLAYWRIGHT.0, PLAYWRIGHT.1)?;
    let tap = shell::target_dir().join("browser.tap");
    let mut node = Command::new("node");
    node.args(["--test-reporter=spec", "--test-reporter-destination=stdout", "--test-reporter=tap"]);
    node.arg(format!("--test-reporter-destination={}", tap.display()));
    if !state.filter.is_empty() {
        node.arg(format!("--test-name-pattern={}", state.filter.join("|")));
    }
    node.arg(shell::root().join("tests/browser/journeys.mjs")).current_dir(shell::root());
    node.env("HILDA_BIN", serve::binary()).env("CHROMIUM", chromium).env("NODE_MODULES", modules);
    node.env("SHOTS", shell::target_dir().join("shots")).stdin(Stdio::null());
    // Stale counts must not stand in for a run that never got to write its own.
    let _ = std::fs::remove_file(&tap);
    let success = node.status()?.success();
    let counts = tap_counts(&std::fs::read_to_string(&tap).unwrap_or_default(), success);
    Ok(Outcome::Ran(counts))
}

/// Counts from the end of a TAP file as Node.js writes it.
fn tap_counts(tap: &str, success: bool) -> Counts {
    let number = |name: &str| {
        let line = tap.lines().rev().find_map(|line| line.strip_prefix(&format!("# {name} ")).map(str::trim));
        line.and_then(|number| number.parse::<usize>().ok()).unwrap_or(0)
    };
    // Tests that a FILTER leaves out were not asked for; older versions of Node.js call them skipped.
    let unasked = tap.matches("test name does not match pattern").count();
    let mut counts = Counts {
        passed: number("pass"),
        failed: number("fail") + number("cancelled"),
        skipped: (number("skipped") + number("todo")).saturating_sub(unasked),
    };
    if counts.failed == 0 && (!success || counts == Counts::default()) {
        counts.failed = 1;
    }
    counts
}

/// Installs packages; an outcome when this system cannot, an error when it should have been able to.
fn install(packages: &[&str]) -> Result<Option<Outcome>> {
    match setup::can_apt() {
        true => setup::apt(packages).map(|()| None),
        false => Ok(setup::apt(packages).err().map(|error| Outcome::Skipped(error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_is_counted_and_an_empty_run_is_a_failure() {
        let tap = "TAP version 13\nok 1 - a\n# tests 4\n# suites 0\n# pass 2\n# fail 0\n# cancelled 1\n# skipped 1\n# todo 0\n";
        assert_eq!(tap_counts(tap, false), Counts { passed: 2, failed: 1, skipped: 1 });
        let filtered = "ok 1 - a # SKIP test name does not match pattern\n# pass 1\n# fail 0\n# skipped 1\n";
        assert_eq!(tap_counts(filtered, true), Counts::PASSED);
        assert_eq!(tap_counts("", true), Counts::FAILED);
        assert_eq!(tap_counts("# pass 1\n# fail 0\n", true), Counts::PASSED);
    }

    #[test]
    fn every_needed_step_exists_and_comes_first() {
        for (index, step) in STEPS.iter().enumerate() {
            for name in needs(step.name) {
                let place = STEPS.iter().position(|other| other.name == *name);
                assert!(place.is_some_and(|place| place < index), "{} needs {name}", step.name);
            }
        }
    }
}
