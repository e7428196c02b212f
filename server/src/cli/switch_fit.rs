//! `hilda switch fit`: AUROC of what could decide, out of fold and with intervals; what a switch at d would have given and
//! cost; the switch itself into the model's folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use hilda_engine::decode::Feature;
use hilda_engine::decode::switch::SWITCH;
use hilda_engine::eval::insight::fit::{InsightError, Row, Set, Target, frontier, values};
use hilda_engine::eval::insight::split::Range;
use hilda_engine::eval::insight::{Header, Problem};
use hilda_engine::files;
use hilda_engine::model::source::Source;
use hilda_kernels::rng::{Rng, Stream};
use serde::Serialize;

use super::progress::Progress;
use super::{CliError, data_dir, switch::read};
use crate::library;

#[derive(clap::Args)]
pub struct Fit {
    /// what `hilda switch measure` wrote
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// write switch.json into this model's folder
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// what the switch decides by: one of known, near, open (whose keys and values), entropy, or both, with commas
    #[arg(long, default_value = "near,entropy", value_delimiter = ',')]
    features: Vec<String>,
    /// what d is the chance of: gains (the slow policy is better) or wrong (the fast one is)
    #[arg(long, default_value = "gains")]
    target: String,
    /// gains: by more than this
    #[arg(long, default_value_t = 0.0)]
    margin: f64,
    /// wrong: quality below this
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    below: f64,
    /// parts of the documents, each judged by a fit on the others
    #[arg(long, default_value_t = 5)]
    folds: usize,
    /// d at which the switch is tried
    #[arg(long, value_delimiter = ',', default_values_t = [2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0])]
    at: Vec<f64>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long)]
    json: bool,
}

/// How well something tells labels apart; none where it is undefined or cannot be had.
#[derive(Serialize)]
struct Told {
    name: String,
    /// problems it is defined for
    problems: usize,
    auroc: Option<Range>,
}

#[derive(Serialize)]
struct Report {
    header: Header,
    problems: usize,
    documents: usize,
    folds: usize,
    target: String,
    /// share of problems with the label
    share: f64,
    quality_fast: f64,
    quality_slow: f64,
    /// problems in which the slow policy was better, and in which the fast one was
    slow_better: usize,
    fast_better: usize,
    /// of the label, from the prompt
    decides: Vec<Told>,
    /// of a fast text that is right (or better than the median), from the finished text
    right: Vec<Told>,
    features: Vec<Feature>,
    frontier: Vec<Row>,
    saved: Option<PathBuf>,
}

/// Fits over all folds that a report takes.
const FITS: u64 = 8;

fn wrong(e: InsightError) -> CliError {
    CliError::BadInput(e.to_string())
}

pub fn run(a: &Fit) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    let target = match a.target.as_str() {
        "gains" if a.margin.is_finite() => Target::Gains { margin: a.margin },
        "wrong" if a.below.is_finite() => Target::Wrong { below: a.below },
        other => {
            return Err(bad(format!("--target {other}: gains or wrong, with a finite --margin or --below")));
        }
    };
    if !(2..=20).contains(&a.folds) {
        return Err(bad(format!("--folds {} is outside 2..20", a.folds)));
    }
    if let Some(at) = a.at.iter().find(|d| !(0.0..=100.0).contains(*d)) {
        return Err(bad(format!("--at {at} is outside 0..100")));
    }
    let feature = |name: &String| {
        serde_json::from_value::<Feature>(name.as_str().into())
            .map_err(|_| bad(format!("--features {name}: known, near, open or entropy")))
    };
    let features = a.features.iter().map(feature).collect::<Result<Vec<_>, _>>()?;
    let embeddings = features.iter().filter(|f| **f != Feature::Entropy).count();
    if embeddings > 1 || features.len() > embeddings + 1 {
        return Err(bad("--features: at most one of known, near, open, and entropy".into()));
    }
    // where it goes is checked before the work
    let folder = match &a.model {
        None => None,
        Some(named) => match Source::open(&library::place(&data_dir(), named)) {
            Ok(Source::Folder(folder)) => Some(folder),
            Ok(Source::Gguf(file)) => {
                return Err(bad(format!(
                    "{}: a switch lies in a model's folder, and this is one file",
                    file.display()
                )));
            }
            Err(e) => return Err(bad(e.to_string())),
        },
    };
    let (header, problems) = read(&a.from)?;
    let set = Set::new(&problems, target, a.folds, a.seed).map_err(wrong)?;
    let rows = values(&problems, &features).map_err(wrong)?;
    let mut bar = Progress::new("fit");
    let p = set.out_of_fold(&rows).map_err(wrong)?;
    bar.pass(1, FITS);
    let d: Vec<f64> = p.iter().map(|p| 100.0 * p).collect();
    let n = problems.len() as f64;
    let mean = |f: fn(&Problem) -> f64| problems.iter().map(f).sum::<f64>() / n;
    let count = |f: fn(&Problem) -> bool| problems.iter().filter(|p| f(p)).count();
    let mut report = Report {
        problems: problems.len(),
        documents: set.documents,
        folds: a.folds,
        target: a.target.clone(),
        share: set.labels.iter().filter(|l| **l).count() as f64 / n,
        quality_fast: mean(|p| p.fast.quality),
        quality_slow: mean(|p| p.slow.quality),
        slow_better: count(|p| p.slow.quality > p.fast.quality),
        fast_better: count(|p| p.slow.quality < p.fast.quality),
        decides: decides(&problems, &set, a.seed, &mut bar)?,
        right: right(&problems, &set),
        frontier: frontier(&problems, &set, &d, &a.at),
        features: features.clone(),
        saved: None,
        header,
    };
    if let Some(folder) = folder {
        let note = format!(
            "{} problems of {} documents, {} ({}); d is the chance of: {}",
            report.problems, report.documents, report.header.task, report.header.note, report.target
        );
        let switch = set.switch(&rows, &features, &report.header, note).map_err(wrong)?;
        let path = folder.join(SWITCH);
        files::replace(&path, &switch.json())
            .map_err(|e| CliError::Failure(format!("{}: {e}", path.display())))?;
        report.saved = Some(path);
    }
    if a.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        print(&report);
    }
    Ok(())
}

/// Everything that could decide, out of fold where it is fitted.
fn decides(problems: &[Problem], set: &Set, seed: u64, bar: &mut Progress) -> Result<Vec<Told>, CliError> {
    let told = |name: &str, scores: &[f64]| Told {
        name: name.into(),
        problems: scores.len(),
        auroc: set.auroc(scores, &set.labels),
    };
    let plain = |f: fn(&Problem) -> f64| problems.iter().map(f).collect::<Vec<f64>>();
    let mut all = vec![
        told("constant", &plain(|_| 0.0)),
        told("known tokens (baseline)", &plain(|p| f64::from(p.known))),
        told("tokens to write (baseline)", &plain(|p| f64::from(p.open))),
        told("entropy of the first forward (baseline)", &plain(|p| p.entropy)),
    ];
    let rng = Rng::new(seed, Stream::Test, 0);
    let noise: Vec<Vec<f32>> =
        (0..problems.len() as u32).map(|i| (0..32).map(|j| rng.normal(0, i, j) as f32).collect()).collect();
    all.push(told("32 random values, fitted", &set.out_of_fold(&noise).map_err(wrong)?));
    bar.pass(2, FITS);
    for (i, features) in [
        &[Feature::Known][..],
        &[Feature::Near],
        &[Feature::Open],
        &[Feature::Known, Feature::Entropy],
        &[Feature::Near, Feature::Entropy],
        &[Feature::Open, Feature::Entropy],
    ]
    .into_iter()
    .enumerate()
    {
        // a forward of one block has no masks that a prefill saw, a full one may have nothing near
        let Ok(rows) = values(problems, features) else { continue };
        let names: Vec<String> = features
            .iter()
            .map(|f| serde_json::to_value(f).expect("plain data").as_str().unwrap_or("").into())
            .collect();
        all.push(told(&format!("{}, fitted", names.join(" + ")), &set.out_of_fold(&rows).map_err(wrong)?));
        bar.pass(i as u64 + 3, FITS);
    }
    bar.finish();
    Ok(all)
}

/// Signs of the finished fast text, higher = more likely right.
fn right(problems: &[Problem], set: &Set) -> Vec<Told> {
    let mut sorted: Vec<f64> = problems.iter().map(|p| p.fast.quality).collect();
    sorted.sort_by(f64::total_cmp);
    // right and wrong are 1 and 0
    let binary = sorted.iter().all(|q| *q == 0.0 || *q == 1.0);
    let above = if binary { 0.5 } else { sorted[sorted.len() / 2] };
    let labels: Vec<bool> = problems.iter().map(|p| p.fast.quality >= above).collect();
    let names: BTreeSet<&String> = problems.iter().flat_map(|p| p.fast.signs.keys()).collect();
    let mut scores: BTreeMap<String, Vec<f64>> = names
        .into_iter()
        .map(|n| {
            (n.clone(), problems.iter().map(|p| p.fast.signs.get(n).copied().unwrap_or(f64::NAN)).collect())
        })
        .collect();
    scores.insert("low entropy of the first forward".into(), problems.iter().map(|p| -p.entropy).collect());
    scores
        .into_iter()
        .map(|(name, s)| Told {
            name,
            problems: s.iter().filter(|s| !s.is_nan()).count(),
            auroc: set.auroc(&s, &labels),
        })
        .collect()
}

fn range(r: &Option<Range>, digits: usize) -> String {
    r.as_ref()
        .map_or("-".into(), |r| format!("{:.digits$} ({:.digits$} to {:.digits$})", r.value, r.low, r.high))
}

fn print(r: &Report) {
    println!(
        "{} problems of {} documents, {} folds; label {} in {:.1} %; quality fast {:.4}, slow {:.4}; slow better in {}, fast in {}",
        r.problems,
        r.documents,
        r.folds,
        r.target,
        100.0 * r.share,
        r.quality_fast,
        r.quality_slow,
        r.slow_better,
        r.fast_better
    );
    println!("\nAUROC of the label, from the first forward");
    r.decides.iter().for_each(|t| println!("{:<42} {}", t.name, range(&t.auroc, 3)));
    println!("\nAUROC of a good fast text, from the finished text");
    r.right.iter().for_each(|t| println!("{:<42} {}  ({} problems)", t.name, range(&t.auroc, 3), t.problems));
    println!("\nd from {:?}", r.features);
    println!("{:<36} {:>7} {:>9}  {:<28} above a lot", "", "slow %", "forwards", "quality");
    for f in &r.frontier {
        let (quality, over) = (range(&Some(f.quality), 4), range(&f.over_lot, 4));
        println!("{:<36} {:>7.1} {:>9.3}  {quality:<28} {over}", f.name, 100.0 * f.slow, f.forwards);
    }
    if let Some(path) = &r.saved {
        println!("\n{}", path.display());
    }
}
