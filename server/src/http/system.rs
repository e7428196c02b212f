//! What the server is and what it offers: health, machine, recipes, corpora.

use axum::{Json, extract::State, http::StatusCode};
use hilda_engine::{
    config::RunConfig,
    data::{DataError, Registry},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{AppState, Problem, RECIPES};
use crate::storage::{DataDir, disk_space};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// (total, available) bytes of memory.
pub fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|l| l.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// The processor's name, for people.
pub fn device() -> String {
    let name = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|t| {
        let line = t.lines().find(|l| l.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    });
    format!("{} ({} threads)", name.unwrap_or_else(|| std::env::consts::ARCH.to_string()), threads())
}

pub async fn healthz(State(state): State<AppState>) -> Result<Json<Value>, Problem> {
    state
        .blocking(|s| {
            let free = disk_space(s.data.root()).map(|d| d.1);
            Ok(Json(json!({
                "ok": true, "version": VERSION, "device": device(), "data_dir_free_bytes": free,
            })))
        })
        .await
}

pub async fn system(State(state): State<AppState>) -> Result<Json<Value>, Problem> {
    state
        .blocking(|s| {
            let (total, free) = memory().unzip();
            let mut v = json!({
                "version": VERSION,
                "device": device(),
                "threads": threads(),
                "memory_total": total,
                "memory_free": free,
                "disk_free": disk_space(s.data.root()).map(|d| d.1),
                "loopback": s.options.loopback() && s.options.public_url.is_none(),
                "token_required": s.options.token.is_some(),
                "page_built": s.assets.built(),
            });
            if let Some(url) = &s.options.public_url {
                v["public_url"] = url.clone().into();
            }
            Ok(Json(v))
        })
        .await
}

#[derive(Serialize)]
pub struct Recipe {
    name: String,
    about: String,
    toml: String,
    config: RunConfig,
}

/// The shipped recipes: models from nothing first, the cheapest at the head.
pub async fn recipes() -> Json<Vec<Recipe>> {
    let read = |(name, toml): &(&str, &str)| {
        let config = RunConfig::from_toml(toml).ok()?;
        Some(Recipe { name: name.to_string(), about: config.about.clone(), toml: toml.to_string(), config })
    };
    let mut all: Vec<Recipe> = RECIPES.iter().filter_map(read).collect();
    all.sort_by_key(|r| (r.config.model.from.is_some(), work(&r.config)));
    Json(all)
}

/// Parameters times tokens; what starts from another model counts its tokens.
fn work(config: &RunConfig) -> u64 {
    let tokens: u64 = config.phases.iter().map(|p| p.tokens).sum();
    let size = match config.model.from {
        Some(_) => 1,
        None => config
            .model
            .resolve(config.data.vocab.unwrap_or(4096), 0, 1, vec![])
            .map_or(u64::MAX, |m| m.parameters() as u64),
    };
    tokens.saturating_mul(size)
}

/// Cards of the registered corpora. `train_tokens` is what the tokenizer seen last made of the training split,
/// absent before its first use.
pub fn corpus_cards(data: &DataDir) -> Result<Vec<Value>, DataError> {
    let (cards, broken) = Registry::new(data.root()).list()?;
    broken.iter().for_each(|e| eprintln!("{e}"));
    Ok(cards
        .iter()
        .map(|card| {
            let mut v = serde_json::to_value(card).expect("plain data");
            v["tokens_by_tokenizer"] = v["train_tokens"].take();
            v["train_tokens"] = card.train_tokens.values().max().copied().into();
            v
        })
        .collect())
}

pub async fn corpora(State(state): State<AppState>) -> Result<Json<Vec<Value>>, Problem> {
    state
        .blocking(|s| {
            let internal = |e: DataError| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
            corpus_cards(&s.data).map(Json).map_err(internal)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_recipe_reads() {
        for (name, toml) in RECIPES {
            RunConfig::from_toml(toml).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[tokio::test]
    async fn the_cheapest_recipe_comes_first_and_conversions_last() {
        let Json(all) = recipes().await;
        assert_eq!(all.first().map(|r| r.name.as_str()), Some("quick"));
        let converted: Vec<bool> = all.iter().map(|r| r.config.model.from.is_some()).collect();
        assert!(converted.is_sorted() && converted.contains(&true), "{converted:?}");
    }
}
