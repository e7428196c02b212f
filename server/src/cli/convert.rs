//! `hilda convert --from MODEL`: an autoregressive model goes on as a diffusion model.
//!
//! A conversion is a run like any other, with `model.from` and phases of a diffusion objective (recipes/convert): it is
//! followed, stopped and resumed (`hilda train --run DIR`) in the same way. This command finds the recipe, fills in model
//! and text, and starts it.

use std::path::{Path, PathBuf};

use hilda_engine::config::{Objective, RunConfig};

use super::train::{Show, plan, read_recipe, start, use_threads};
use super::{CliError, data_dir};
use crate::{http::RECIPES, library};

#[derive(clap::Args)]
pub struct Args {
    /// the model to convert: folder, GGUF file, run, or a pulled model's name [default: the recipe's]
    #[arg(long, value_name = "MODEL")]
    from: Option<PathBuf>,
    /// a .toml file, or the name of a recipe that comes with the program
    #[arg(long, value_name = "RECIPE", default_value = "convert-block")]
    recipe: String,
    /// text to train on, in place of the recipe's
    #[arg(long, value_name = "FILE", conflicts_with = "corpus")]
    data: Option<PathBuf>,
    /// registered corpus to train on, in place of the recipe's
    #[arg(long, value_name = "NAME")]
    corpus: Option<String>,
    /// clean data tokens of the whole conversion; the phases keep their shares
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// run folder to create [default: a new one under the data folder]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// print the final status as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), CliError> {
    use_threads(args.threads)?;
    let (mut config, base) = recipe(&args.recipe)?;
    if config.phases.iter().all(|p| p.objective == Objective::Ar) {
        let message = format!("{}: has no phase of a diffusion objective", args.recipe);
        return Err(CliError::BadInput(message));
    }
    let here = std::env::current_dir().map_err(|e| CliError::Failure(e.to_string()))?;
    let whole = |p: &Path| here.join(p).display().to_string();
    if let Some(from) = &args.from {
        let place = library::place(&data_dir(), from);
        if !place.exists() {
            let named = from.display();
            let hint = match library::valid_name(&named.to_string()) {
                true => format!("; fetch it with: hilda pull {named}"),
                false => String::new(),
            };
            return Err(CliError::BadInput(format!("--from {named}: there is no such model here{hint}")));
        }
        config.model.from = Some(whole(&place));
    }
    if config.model.from.is_none() {
        return Err(CliError::BadInput("name the model to convert with --from MODEL".into()));
    }
    if let Some(data) = &args.data {
        (config.data.corpus, config.data.valid) = (None, None);
        config.data.train = Some(whole(data));
    }
    if let Some(corpus) = args.corpus {
        (config.data.train, config.data.valid) = (None, None);
        config.data.corpus = Some(corpus);
    }
    if let Some(tokens) = args.tokens {
        scale(&mut config, tokens);
    }
    config.validate()?;
    let (run, config) = plan(config, &base, args.run)?;
    let last = start(run, config, true, Show::Bar)?;
    if args.json
        && let Some(s) = last
    {
        println!("{}", serde_json::to_string(&s).expect("plain data"));
    }
    Ok(())
}

/// A recipe by file or by name, and the folder that its paths start from.
fn recipe(named: &str) -> Result<(RunConfig, PathBuf), CliError> {
    let path = Path::new(named);
    if path.exists() || named.ends_with(".toml") {
        return Ok((read_recipe(path)?, path.parent().unwrap_or(Path::new(".")).into()));
    }
    let found = RECIPES.iter().find(|(name, _)| *name == named).ok_or_else(|| {
        let known: Vec<&str> = RECIPES.iter().map(|r| r.0).filter(|n| n.starts_with("convert")).collect();
        CliError::BadInput(format!("no recipe \"{named}\" comes with the program ({})", known.join(", ")))
    })?;
    Ok((RunConfig::from_toml(found.1)?, ".".into()))
}

/// Phases, warm-ups and openings take their shares of `tokens`, at least a step each.
fn scale(config: &mut RunConfig, tokens: u64) {
    let step = (config.batch.rows * config.data.packing.length) as u64;
    let all: u64 = config.phases.iter().map(|p| p.tokens).sum();
    let share = |n: u64| (n as u128 * tokens as u128 / all.max(1) as u128) as u64;
    for p in &mut config.phases {
        p.tokens = share(p.tokens).max(step);
        (p.lr.warmup, p.anneal) = (share(p.lr.warmup).max(p.lr.warmup.min(1)), share(p.anneal));
        p.lr.horizon = p.lr.horizon.map(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_engine::config::BlockSizes;

    #[test]
    fn shipped_conversions_are_recipes_of_every_kind() {
        let all: Vec<(&str, RunConfig)> = RECIPES
            .iter()
            .filter(|r| r.0.starts_with("convert"))
            .map(|(name, text)| (*name, RunConfig::from_toml(text).unwrap_or_else(|e| panic!("{name}: {e}"))))
            .collect();
        assert!(all.iter().all(|(name, c)| c.name == *name && c.model.from.is_some() && !c.model.shaped()));
        let has = |f: &dyn Fn(&hilda_engine::config::Phase) -> bool| {
            all.iter().any(|(_, c)| c.phases.iter().any(f))
        };
        assert!(has(&|p| p.objective == Objective::Mdlm && p.shift && p.anneal == 0));
        assert!(has(&|p| p.objective == Objective::Mdlm && !p.shift));
        assert!(has(&|p| p.anneal > 0) && has(&|p| p.complementary));
        assert!(all.iter().any(|(_, c)| c.phases.len() > 4) && all.iter().any(|(_, c)| c.lora.is_some()));
        let (default, _) = recipe("convert-block").unwrap();
        assert_eq!(default.phases[0].block_size, Some(BlockSizes::One(32)));
        assert!(recipe("convert-nothing").unwrap_err().to_string().contains("convert-block"));
    }

    #[test]
    fn fewer_tokens_keep_the_shares() {
        let (mut c, _) = recipe("convert-wsd").unwrap();
        let before: Vec<f64> = c.phases.iter().map(|p| p.tokens as f64).collect();
        let all: f64 = before.iter().sum();
        scale(&mut c, all as u64 / 4);
        for (p, b) in c.phases.iter().zip(before) {
            assert!((p.tokens as f64 / b - 0.25).abs() < 0.01, "{} of {b}", p.tokens);
        }
        scale(&mut c, 1);
        c.validate().unwrap();
    }
}
