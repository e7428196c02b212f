//! `hilda doctor`: what works on this machine and what does not, each with what to do about it.

use serde::Serialize;

use super::{CliError, bytes_text, data_dir};
use crate::{
    agreement,
    device::{self, Gpu, Needs, gpu},
    estimate::corpus_names,
    http::{self, VERSION},
    storage::{DataDir, Index, disk_space, write_atomic},
};

#[derive(clap::Args)]
pub struct Args {
    /// train a step of every kind of model on this device and on the CPU and compare: auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", num_args = 0..=1, default_missing_value = "auto")]
    compute: Option<String>,
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    /// ok, note (works, something is missing) or bad
    result: &'static str,
    detail: String,
}

pub fn run(args: Args) -> Result<(), CliError> {
    let mut checks = checks();
    if let Some(name) = &args.compute {
        checks.extend(compute(name)?);
    }
    let bad = checks.iter().filter(|c| c.result == "bad").count();
    if args.json {
        let v = serde_json::json!({ "ok": bad == 0, "checks": checks });
        println!("{}", serde_json::to_string_pretty(&v).expect("plain data"));
    } else {
        for c in &checks {
            println!("{:<5} {:<14} {}", c.result, c.name, c.detail);
        }
    }
    match bad {
        0 => Ok(()),
        n => Err(CliError::Failure(format!("{n} of {} checks failed", checks.len()))),
    }
}

/// One check a comparison, and the device they ran on.
fn compute(name: &str) -> Result<Vec<Check>, CliError> {
    let device = device::ready(name, Needs::default())?;
    let on = Check { name: "computing on", result: "ok", detail: device.name() };
    let each = agreement::compare(&device).into_iter().map(|c| Check {
        name: "a step",
        result: if c.agrees() { "ok" } else { "bad" },
        detail: format!(
            "{}: loss {:.5}, on the CPU {:.5}; of their lengths apart: gradient {:.1e}, update {:.1e}",
            c.what, c.loss, c.loss_on_cpu, c.gradient, c.update
        ),
    });
    Ok(std::iter::once(on).chain(each).collect())
}

fn checks() -> Vec<Check> {
    let mut out = vec![];
    let mut add = |name, result, detail: String| out.push(Check { name, result, detail });
    add("version", "ok", VERSION.into());
    add("processor", "ok", http::device());
    let simd = simd();
    add(
        "vectors",
        if simd.is_empty() { "note" } else { "ok" },
        match simd.is_empty() {
            true => "no wide vector instructions: training will be slow".into(),
            false => simd.join(", "),
        },
    );
    match gpu() {
        Gpu::Works(what) => add("GPU", "ok", what),
        Gpu::Absent(why) => add("GPU", "ok", format!("none: {why}; training computes on the processor")),
        Gpu::Unusable(why) => add("GPU", "note", why),
    }
    if let Some((total, free)) = http::memory() {
        add("memory", "ok", format!("{} of {} free", bytes_text(free), bytes_text(total)));
    }
    let root = data_dir();
    match DataDir::open(&root) {
        Err(e) => add("data folder", "bad", e.to_string()),
        Ok(data) => {
            let probe = data.root().join(".doctor");
            match write_atomic(&probe, b"x").and_then(|()| {
                std::fs::remove_file(&probe).map_err(|source| crate::storage::StorageError::Io {
                    what: "removing",
                    path: probe.display().to_string(),
                    source,
                })
            }) {
                Ok(()) => add("data folder", "ok", format!("{}, writable", data.root().display())),
                Err(e) => add("data folder", "bad", e.to_string()),
            }
            if let Some((_, free)) = disk_space(data.root()) {
                let low = free < 2_000_000_000;
                let detail = format!("{} free", bytes_text(free));
                add("disk", if low { "note" } else { "ok" }, if low { detail + ": little" } else { detail });
            }
            match Index::open(&data.root().join("hilda.sqlite")) {
                Ok(_) => add("index", "ok", "SQLite opens".into()),
                Err(e) => add("index", "bad", e.to_string()),
            }
            let corpora = corpus_names(&data);
            add(
                "corpora",
                if corpora.is_empty() { "note" } else { "ok" },
                match corpora.is_empty() {
                    true => "none registered; `hilda data add NAME PATH` registers one".into(),
                    false => corpora.join(", "),
                },
            );
            add("runs", "ok", data.run_ids().len().to_string());
        }
    }
    let files = http::page_files();
    let has = |p: &str| files.iter().any(|(f, _)| f == p);
    match has("index.html") {
        true => add("page", "ok", format!("{} files", files.len())),
        false => add("page", "note", "not part of this build; `cargo xtask page` builds it".into()),
    }
    match has("models/hilda-tiny/config.json") {
        true => add("demo model", "ok", "hilda-tiny".into()),
        false => add("demo model", "note", "not part of this build".into()),
    }
    out
}

/// Vector instructions that the kernels can use here.
fn simd() -> Vec<&'static str> {
    let mut found = vec![];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push("AVX2");
        }
        if is_x86_feature_detected!("avx512f") {
            found.push("AVX-512");
        }
    }
    #[cfg(target_arch = "aarch64")]
    found.push("NEON");
    found
}
