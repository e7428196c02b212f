//! `cargo xtask ptx`: compiles every `.cu` kernel with NVRTC 12.9 for `compute_61`, the last version to know Pascal,
//! lowers the PTX's version to 6.0, so that drivers from CUDA 9 on read it, and writes `kernels/src/ptx/`. `ptxas`
//! then says what each kernel needs on the reference GPU: spills and kernels above `budget.toml` are errors.
//!
//! Both programs come as Python wheels and are unpacked below the target directory; no CUDA toolkit is needed.

mod budget;
#[cfg_attr(not(target_os = "linux"), path = "elsewhere.rs")]
mod nvrtc;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use budget::Usage;
use nvrtc::Nvrtc;

use crate::shell::{self, Result};

const VERSION: &str = "12.9.86";
const WHEELS: [&str; 2] = ["nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvcc-cu12"];
const OPTIONS: &[&str] = &["--gpu-architecture=compute_61", "--std=c++17"];
/// PTX ISA of the oldest driver that is served.
const PTX_VERSION: &str = "6.0";

pub const USAGE: &str = "\
cargo xtask ptx [--check]
    compiles the CUDA kernels to kernels/src/ptx/ and checks registers and spills (ptxas, sm_61)
    --check      writes nothing: fails if the PTX in the repository is not what the kernels give
";

pub fn command(args: &[String]) -> Result<ExitCode> {
    let check = match args {
        [] => false,
        [only] if only == "--check" => true,
        _ => return Err(format!("usage:\n{USAGE}").into()),
    };
    let tools = tools()?;
    if let Some(code) = nvrtc::at_fixed_addresses()? {
        return Ok(code);
    }
    run(&tools, check)?;
    Ok(ExitCode::SUCCESS)
}

/// This program as it checks the PTX, in a process of its own.
pub fn checking() -> Result<Command> {
    let mut check = Command::new(std::env::current_exe()?);
    check.args(["ptx", "--check"]);
    Ok(check)
}

fn kernels() -> PathBuf {
    shell::root().join("kernels/src")
}

/// A file of kernels, and what the host puts before its text.
struct Source {
    name: String,
    file: PathBuf,
    before: Vec<PathBuf>,
}

impl Source {
    fn text(&self) -> Result<String> {
        let files = self.before.iter().chain([&self.file]);
        Ok(files.map(std::fs::read_to_string).collect::<std::io::Result<String>>()?)
    }
}

/// Every file of kernels: `OP/kernel.cu` is OP, `OP/part.cu` is OP_part, the back end's own have their own names. Each
/// follows the `.cuh` files of its operation.
fn sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(kernels())? {
        let folder = entry?.path();
        let op = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let before = files(&folder, "cuh")?;
        for file in files(&folder, "cu")? {
            let part = stem(&file);
            let name = if part == "kernel" { op.clone() } else { format!("{op}_{part}") };
            found.push(Source { name, file, before: before.clone() });
        }
    }
    for file in files(&kernels().join("backend/cuda"), "cu")? {
        found.push(Source { name: stem(&file), file, before: vec![] });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Files of `folder` with this extension, by name; none of what is no folder.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let paths = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let mut found: Vec<PathBuf> =
        paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    Ok(found)
}

/// Compiles everything; with `check` compares, else writes.
fn run(tools: &Path, check: bool) -> Result<()> {
    let nvrtc = Nvrtc::new(&tools.join("nvidia/cuda_nvrtc/lib"))?;
    let header = std::fs::read_to_string(kernels().join("backend/cuda/cuda.cuh"))?;
    let folder = kernels().join("ptx");
    std::fs::create_dir_all(&folder)?;
    let mut usage: Vec<Usage> = Vec::new();
    let mut problems = Vec::new();
    let mut names = Vec::new();
    for source in sources()? {
        let name = &source.name;
        let ptx = nvrtc.compile(&format!("{name}.cu"), &source.text()?, ("cuda.cuh", &header), OPTIONS)?;
        let ptx = lowered(&ptx)?;
        let to = folder.join(format!("{name}.ptx"));
        if check && std::fs::read_to_string(&to).unwrap_or_default() != ptx {
            problems.push(format!("kernels/src/ptx/{name}.ptx is not what {} gives", source.file.display()));
        }
        if !check {
            std::fs::write(&to, &ptx)?;
        }
        usage.extend(ptxas(tools, name, &ptx)?);
        names.push(format!("{name}.ptx"));
    }
    for entry in std::fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ptx") && !names.contains(&name) {
            problems.push(format!("kernels/src/ptx/{name} belongs to no kernel"));
        }
    }
    usage.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    let budget = budget::read(&std::fs::read_to_string(folder.join("budget.toml"))?)?;
    problems.extend(budget::violations(&usage, &budget));
    problems.extend(table::update(&usage, check)?);
    println!(
        "{} kernels in {} files, at most {} registers, no spills",
        usage.len(),
        names.len(),
        most(&usage)
    );
    match problems.is_empty() {
        true => Ok(()),
        false => {
            Err(format!("{}\n  `cargo xtask ptx` writes PTX and table anew", problems.join("\n  ")).into())
        }
    }
}

fn most(usage: &[Usage]) -> u32 {
    usage.iter().map(|u| u.registers).max().unwrap_or(0)
}

/// The text with `.version` lowered. Nothing in the kernels needs a newer one, and `ptxas` checks that.
fn lowered(ptx: &str) -> Result<String> {
    let mut found = false;
    let lines = ptx.lines().map(|line| match line.starts_with(".version ") {
        true => {
            found = true;
            format!(".version {PTX_VERSION}\n")
        }
        false => format!("{}\n", line.trim_end()),
    });
    let text: String = lines.collect();
    if found { Ok(text) } else { Err("the PTX has no .version".into()) }
}

fn ptxas(tools: &Path, name: &str, ptx: &str) -> Result<Vec<Usage>> {
    let folder = shell::target_dir().join("ptx");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.ptx"));
    std::fs::write(&file, ptx)?;
    let mut ptxas = Command::new(tools.join("nvidia/cuda_nvcc/bin/ptxas"));
    ptxas.args(["-v", "-arch=sm_61", "-o"]).arg(folder.join(format!("{name}.cubin"))).arg(&file);
    let out = ptxas.output().map_err(|e| format!("{}: {e}", shell::describe(&ptxas)))?;
    let report = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        return Err(format!("{name}.ptx: {report}").into());
    }
    Ok(budget::parse(&report))
}

/// Folder with NVRTC and ptxas, filled from the package index when missing.
pub fn tools() -> Result<PathBuf> {
    let folder = shell::target_dir().join(format!("cuda-{VERSION}"));
    let done = folder.join("complete");
    if done.is_file() {
        return Ok(folder);
    }
    let python = ["python3", "python"].iter().find_map(|p| shell::which(p));
    let python = python.ok_or("Python with pip is missing: NVRTC and ptxas come as its packages")?;
    eprintln!("fetching NVRTC and ptxas {VERSION} below {}", folder.display());
    std::fs::create_dir_all(&folder)?;
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]);
    pip.arg("--target").arg(&folder).args(WHEELS.map(|w| format!("{w}=={VERSION}")));
    shell::run(pip)?;
    std::fs::write(done, "")?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_lowered_and_nothing_else() {
        let ptx = "//\n.version 8.8\n.target sm_61\nret;  \n";
        assert_eq!(lowered(ptx).expect("a version"), "//\n.version 6.0\n.target sm_61\nret;\n");
        assert!(lowered(".target sm_61\n").is_err());
    }

    #[test]
    fn every_operation_with_a_kernel_is_found() {
        let names: Vec<String> = sources().expect("a repository").into_iter().map(|s| s.name).collect();
        assert_eq!(
            names,
            [
                "adam",
                "attention",
                "attention_slices",
                "bias",
                "copy",
                "embed",
                "gelu",
                "gemm",
                "glu",
                "head",
                "norm",
                "reduce",
                "rope"
            ]
        );
    }
}
