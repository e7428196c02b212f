//! `hilda parity --goldens DIR`: every checkpoint folder against its `golden.safetensors`, and a GGUF file against a
//! golden that has no weights beside it.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use hilda_engine::{
    eval::parity::{Case, compare, published},
    model::gguf,
};
use hilda_kernels::Cpu;
use serde::Serialize;

use super::CliError;

#[derive(clap::Args)]
pub struct Args {
    /// folder of folders with config.json, model.safetensors and golden.safetensors
    #[arg(long, value_name = "DIR")]
    goldens: PathBuf,
    /// weights of a golden folder that has none: FOLDER=FILE.gguf
    #[arg(long, value_name = "FOLDER=FILE", value_parser = pair)]
    weights: Vec<(String, PathBuf)>,
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, PathBuf), String> {
    let (folder, file) = text.split_once('=').ok_or("expected FOLDER=FILE.gguf")?;
    Ok((folder.to_string(), PathBuf::from(file)))
}

#[derive(Serialize)]
struct Report {
    folder: String,
    /// why nothing was compared
    skipped: Option<String>,
    cases: Vec<Case>,
}

pub fn run(args: Args) -> Result<(), CliError> {
    let listing = std::fs::read_dir(&args.goldens)
        .map_err(|e| CliError::BadInput(format!("{}: {e}", args.goldens.display())))?;
    let mut folders: Vec<PathBuf> =
        listing.flatten().map(|e| e.path()).filter(|p| p.join("golden.safetensors").is_file()).collect();
    folders.sort();
    if folders.is_empty() {
        let message = format!("{}: no folder in it holds a golden.safetensors", args.goldens.display());
        return Err(CliError::BadInput(message));
    }
    if let Some((name, _)) = args.weights.iter().find(|(n, _)| !folders.iter().any(|f| f.ends_with(n))) {
        return Err(CliError::BadInput(format!("--weights {name}: no such folder in the goldens")));
    }
    let mut reports = vec![];
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let weights = args.weights.iter().find(|(n, _)| *n == name).map(|(_, f)| f.as_path());
        let report = report(folder, &name, weights)?;
        if !args.json {
            print(&report);
        }
        reports.push(report);
    }
    let outside = reports.iter().flat_map(|r| &r.cases).filter(|c| !c.within).count();
    if args.json {
        let value = serde_json::json!({ "within": outside == 0, "folders": reports });
        println!("{}", serde_json::to_string_pretty(&value).expect("plain data"));
    }
    match outside {
        0 => Ok(()),
        n => Err(CliError::Failure(format!("{n} tensors differ by more than their tolerance"))),
    }
}

fn print(report: &Report) {
    if let Some(why) = &report.skipped {
        println!("SKIPPED {}: {why}", report.folder);
    }
    for c in &report.cases {
        let verdict = if c.within { "ok  " } else { "FAR " };
        println!(
            "{verdict} {:<20} {:<28} {:>9} values, largest difference {:.2e} (tolerance {:.0e})",
            report.folder, c.tensor, c.values, c.largest, c.tolerance
        );
    }
}

fn report(folder: &Path, name: &str, weights: Option<&Path>) -> Result<Report, CliError> {
    let file = |f: &str| {
        let path = folder.join(f);
        std::fs::read(&path).map_err(|e| CliError::BadInput(format!("{}: {e}", path.display())))
    };
    let bad = |path: &Path| {
        let path = path.display().to_string();
        move |e: hilda_engine::model::CheckpointError| CliError::BadInput(format!("{path}: {e}"))
    };
    let mut read = |_: &Cpu, x: &Vec<f32>, n: usize| x[..n].to_vec();
    let (config, golden) =
        (String::from_utf8_lossy(&file("config.json")?).into_owned(), file("golden.safetensors")?);
    if folder.join("model.safetensors").is_file() {
        let cases = compare(&Cpu, &mut read, &config, &file("model.safetensors")?, &golden);
        return Ok(Report { folder: name.into(), skipped: None, cases: cases.map_err(bad(folder))? });
    }
    let Some(weights) = weights else {
        let skipped = format!("no model.safetensors; give its weights with --weights {name}=FILE.gguf");
        return Ok(Report { folder: name.into(), skipped: Some(skipped), cases: vec![] });
    };
    let opened =
        File::open(weights).map_err(|e| CliError::BadInput(format!("{}: {e}", weights.display())))?;
    let model = gguf::load(&mut BufReader::new(opened)).map_err(bad(weights))?;
    let value: serde_json::Value = serde_json::from_str(&config)
        .map_err(|e| CliError::BadInput(format!("{}/config.json: {e}", folder.display())))?;
    let nll = value["causal_nll"].as_f64().ok_or_else(|| {
        CliError::BadInput(format!("{}/config.json: causal_nll is missing", folder.display()))
    })?;
    let cases = published(&Cpu, &mut read, &model, nll, &golden).map_err(bad(folder))?;
    Ok(Report { folder: name.into(), skipped: None, cases })
}
