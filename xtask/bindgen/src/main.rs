//! `xtask-bindgen --wasm FILE --public DIR --dist DIR [--wasm-opt PROGRAM] [--budget BYTES]`
//!
//! WASM module + `public/` -> `dist/`: bindings by wasm-bindgen's own library (its version is locked to the
//! `wasm-bindgen` crate in the workspace, so the two cannot drift apart), names by content, a `.br` twin beside every
//! text and WASM file, sizes on standard error. The module comes twice, with relaxed SIMD and without ([`lower`]): a
//! visit loads one of the two. Exits 1 when the bundle (everything a first visit loads except the model) is over budget. A crate of its own, so that `cargo xtask test` starts without compiling a WASM toolchain.

mod assets;
mod html;
mod lower;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use assets::Files;

struct Options {
    wasm: PathBuf,
    public: PathBuf,
    dist: PathBuf,
    wasm_opt: Option<PathBuf>,
    budget: usize,
}

fn main() -> ExitCode {
    match options().and_then(|options| pack(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("xtask-bindgen: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options> {
    let (mut wasm, mut public, mut dist, mut wasm_opt, mut budget) = (None, None, None, None, 1_000_000);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--wasm" => wasm = Some(value.into()),
            "--public" => public = Some(value.into()),
            "--dist" => dist = Some(value.into()),
            "--wasm-opt" => wasm_opt = Some(value.into()),
            "--budget" => budget = value.parse().context("--budget takes bytes")?,
            _ => bail!("unknown option {flag}"),
        }
    }
    Ok(Options {
        wasm: wasm.context("--wasm is required")?,
        public: public.context("--public is required")?,
        dist: dist.context("--dist is required")?,
        wasm_opt,
        budget,
    })
}

/// Builds `dist/`; true when the bundle is within budget.
fn pack(options: &Options) -> Result<bool> {
    // Cargo names the module after the binary or the library; the page knows it by one name.
    let stem = "hilda-app";
    let mut files = bindings(&options.wasm, stem, options.wasm_opt.as_deref())?;
    read_tree(&options.public, &options.public, &mut files)?;
    let index = files.get("index.html").context("public/index.html is missing")?;
    let index = html::from_trunk(std::str::from_utf8(index).context("index.html is not UTF-8")?, stem);
    files.insert("index.html".into(), index.into_bytes());
    files.insert(html::BOOT.into(), html::boot_script(stem).into_bytes());

    let files = assets::hash_names(files)?;
    let mut wanted = BTreeSet::new();
    let (mut raw, mut packed) = (0, 0);
    for (path, bytes) in &files {
        write_if_changed(&options.dist.join(path), bytes)?;
        wanted.insert(options.dist.join(path));
        let twin = compresses(path).then(|| twin(&options.dist, path, bytes)).transpose()?;
        let shipped = twin.as_ref().map_or(bytes.len(), |(_, size)| *size);
        if let Some((twin, _)) = twin {
            wanted.insert(twin);
        }
        let is_bundle = !path.starts_with("models/");
        // one of the two modules is loaded: the larger one counts
        let is_twin = path.ends_with(".wasm") && path.contains("_plain");
        if is_bundle && !is_twin {
            raw += bytes.len();
            packed += shipped;
        }
        if is_bundle || bytes.len() > 1_000_000 {
            eprintln!("  {:>10} B  {:>10} B shipped  {path}", bytes.len(), shipped);
        }
    }
    remove_others(&options.dist, &wanted)?;
    eprintln!("  bundle {raw} B, {packed} B compressed (budget {} B)", options.budget);
    if packed > options.budget {
        eprintln!("xtask-bindgen: the bundle is {} B over its budget", packed - options.budget);
    }
    Ok(packed <= options.budget)
}

/// What `wasm-bindgen --target web` makes of the module: `{stem}.js` and snippets, `{stem}_bg.wasm`, and
/// `{stem}_plain.wasm`, which is the same without relaxed SIMD.
fn bindings(wasm: &Path, stem: &str, wasm_opt: Option<&Path>) -> Result<Files> {
    let scratch = wasm.with_extension("bindings");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    wasm_bindgen_cli_support::Bindgen::new()
        .input_path(wasm)
        .out_name(stem)
        .web(true)?
        .typescript(false)
        .remove_producers_section(true)
        .remove_name_section(true)
        .generate(&scratch)
        .with_context(|| format!("bindings for {}", wasm.display()))?;
    if let Some(program) = wasm_opt {
        let module = scratch.join(format!("{stem}_bg.wasm"));
        let status = Command::new(program)
            .args([
                "-O3",
                "--enable-simd",
                "--enable-relaxed-simd",
                "--enable-bulk-memory",
                "--enable-reference-types",
            ])
            .args(["--enable-nontrapping-float-to-int", "--enable-sign-ext", "--enable-mutable-globals"])
            .args(["--enable-multivalue", "-o"])
            .args([&module, &module])
            .status()
            .with_context(|| format!("starting {}", program.display()))?;
        if !status.success() {
            bail!("{} ended with {status}", program.display());
        }
    }
    let mut files = Files::new();
    read_tree(&scratch, &scratch, &mut files)?;
    let relaxed = files.get(&format!("{stem}_bg.wasm")).context("wasm-bindgen wrote no module")?;
    let (plain, changed) = lower::without_relaxed_simd(relaxed)?;
    if changed == 0 {
        bail!("{} was compiled without relaxed SIMD: see .cargo/config.toml", wasm.display());
    }
    files.insert(format!("{stem}_plain.wasm"), plain);
    // The bindings import snippets relative to themselves, so they move to assets/ together with them.
    Ok(files
        .into_iter()
        .map(|(path, bytes)| match path.starts_with("snippets/") {
            true => (format!("assets/{path}"), bytes),
            false => (path, bytes),
        })
        .collect())
}

fn read_tree(root: &Path, folder: &Path, files: &mut Files) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            read_tree(root, &path, files)?;
        } else {
            let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(())
}

/// Text and WASM shrink; weights and pictures do not.
fn compresses(path: &str) -> bool {
    let text = ["html", "js", "mjs", "css", "wasm", "json", "svg", "txt", "webmanifest"];
    text.iter().any(|extension| path.ends_with(&format!(".{extension}")))
}

/// Writes `path.br` (quality 11) unless one made from the same bytes is there; its path and size.
fn twin(dist: &Path, path: &str, bytes: &[u8]) -> Result<(PathBuf, usize)> {
    let twin = dist.join(format!("{path}.br"));
    if let Ok(existing) = fs::read(&twin) {
        let mut plain = Vec::with_capacity(bytes.len());
        if brotli::BrotliDecompress(&mut existing.as_slice(), &mut plain).is_ok() && plain == bytes {
            return Ok((twin, existing.len()));
        }
    }
    let mut packed = Vec::new();
    {
        let mut writer = brotli::CompressorWriter::new(&mut packed, 1 << 16, 11, 24);
        writer.write_all(bytes)?;
    }
    write_if_changed(&twin, &packed)?;
    Ok((twin, packed.len()))
}

/// Leaves an equal file alone, so that the server, which embeds `dist/`, is not rebuilt for nothing.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|existing| existing == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Removes what earlier builds left in `dist/`.
fn remove_others(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
            if fs::read_dir(&path)?.next().is_none() {
                fs::remove_dir(&path)?;
            }
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
