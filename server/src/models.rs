//! Models at hand: the demo model that ships with the page, and the newest checkpoint of every run.
//!
//! The page gets int8 rows (`X` I8 with `X.scale` F32 [rows]), whatever the checkpoint holds; the server decodes from
//! the checkpoint itself.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use hilda_engine::{
    data::Tokenizer,
    model::{
        Layout, LoadedModel, Serving,
        checkpoint::{self, Format},
        session::Weights,
    },
    record::Estimate,
};
use hilda_kernels::Cpu;
use serde::Serialize;
use serde_json::Value;

use crate::{
    http::{objective_text, page_files},
    storage::{DataDir, RunFolder, StorageError, io_error, valid_id},
};

/// What a model consists of in the page's format.
pub const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// The model that ships with the page.
pub const DEMO: &str = "hilda-tiny";

/// A card of `GET /api/models`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModelCard {
    /// what `model` is in `/v1/completions`: a run's id, or the demo model's name
    pub id: String,
    pub name: String,
    /// the run that trained it
    pub run: Option<String>,
    pub family: String,
    pub about: String,
    pub parameters: Option<u64>,
    /// longest text, tokens
    pub context: Option<u64>,
    /// what it was trained on
    pub data: String,
    /// clean training tokens
    pub tokens: Option<u64>,
    pub likelihood: Option<Estimate>,
    pub licence: Option<String>,
    /// of the files that the page would load
    pub bytes: Option<u64>,
    /// step of the checkpoint
    pub step: Option<u64>,
    /// how it wants to be decoded
    pub serving: Option<Serving>,
    /// Unix seconds
    pub created: f64,
}

fn format_error(path: &Path, what: &'static str) -> impl FnOnce(String) -> StorageError {
    let path = path.display().to_string();
    move |message| StorageError::Format { path, what, message }
}

fn read(path: &Path) -> Result<Vec<u8>, StorageError> {
    std::fs::read(path).map_err(io_error("reading", path))
}

/// One of [`FILES`] of a checkpoint folder, in the page's format.
pub fn page_file(checkpoint: &Path, name: &str) -> Result<Vec<u8>, StorageError> {
    let bytes = read(&checkpoint.join(name))?;
    if name != "model.safetensors" {
        return Ok(bytes);
    }
    let bad = || format_error(checkpoint, "a checkpoint");
    let config = String::from_utf8_lossy(&read(&checkpoint.join("config.json"))?).into_owned();
    let model = checkpoint::load(&config, &bytes).map_err(|e| bad()(e.to_string()))?;
    checkpoint::save(&model.config, &model.params, Format::Int8).map_err(|e| bad()(e.to_string()))
}

/// Bytes of `model.safetensors` with int8 rows, without its header.
fn int8_bytes(c: &hilda_engine::config::ModelConfig) -> u64 {
    let sizes = Layout::new(c).named(c).into_iter().map(|t| match t.shape.len() {
        2 => t.at.len + 4 * t.shape[0],
        _ => 4 * t.at.len,
    });
    sizes.sum::<usize>() as u64
}

/// Newest first, the demo model before all. Checkpoints that do not read are left out.
pub fn cards(data: &DataDir) -> Vec<ModelCard> {
    let mut all: Vec<ModelCard> =
        data.run_ids().iter().filter_map(|id| run_card(&data.run(id).ok()?)).collect();
    all.sort_by(|a, b| b.created.total_cmp(&a.created).then_with(|| b.id.cmp(&a.id)));
    all.splice(0..0, demo_card());
    all
}

fn run_card(run: &RunFolder) -> Option<ModelCard> {
    let folder = run.newest_checkpoint()?;
    let step = run.checkpoints().last()?.step;
    let text = std::fs::read_to_string(folder.join("config.json")).ok()?;
    let (config, serving) = checkpoint::parse_config(&text).ok()?;
    let recipe = run.config().ok()?;
    let status = run.status().ok().flatten();
    let d = &recipe.data;
    let file = |p: &String| Path::new(p).file_name().map(|n| n.to_string_lossy().into_owned());
    Some(ModelCard {
        id: run.id.clone(),
        name: recipe.name.clone(),
        run: Some(run.id.clone()),
        family: format!("HILDA ({})", objective_text(&recipe)),
        about: recipe.about.clone(),
        parameters: Some(config.parameters() as u64),
        context: Some(config.context as u64),
        data: d.corpus.clone().or(d.train.as_ref().and_then(file)).unwrap_or_default(),
        tokens: status.as_ref().map(|s| s.tokens),
        likelihood: status.and_then(|s| s.headline),
        licence: None,
        bytes: Some(int8_bytes(&config)),
        step: Some(step),
        serving: Some(serving),
        created: run.job().ok()?.created,
    })
}

/// The card of the demo model, from its `card.json` where that has the fields.
fn demo_card() -> Option<ModelCard> {
    let files = page_files();
    let file = |name: &str| {
        let path = format!("models/{DEMO}/{name}");
        files.iter().find(|(p, _)| *p == path).map(|(_, b)| b)
    };
    let (config, serving) = checkpoint::parse_config(std::str::from_utf8(file("config.json")?).ok()?).ok()?;
    let card: Value = file("card.json").and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
    let text = |key: &str| card[key].as_str().unwrap_or("").to_string();
    let named = |key: &str, other: &str| if card[key].is_string() { text(key) } else { other.into() };
    Some(ModelCard {
        id: DEMO.into(),
        name: named("name", DEMO),
        family: named("family", "HILDA"),
        about: text("about"),
        parameters: Some(config.parameters() as u64),
        context: Some(config.context as u64),
        data: text("data"),
        tokens: card["tokens"].as_u64(),
        likelihood: serde_json::from_value(card["likelihood"].clone()).ok(),
        licence: card["licence"].as_str().or(card["license"].as_str()).map(String::from),
        bytes: file("model.safetensors").map(|b| b.len() as u64),
        step: card["step"].as_u64(),
        serving: Some(serving),
        ..Default::default()
    })
}

/// A model ready to decode.
pub struct Ready {
    pub weights: Arc<Weights<Cpu>>,
    pub serving: Serving,
    pub tokenizer: Tokenizer,
    pub name: String,
}

/// Keeps the models used last: which checkpoint, and the model.
#[derive(Default)]
pub struct Loaded(Mutex<Vec<(PathBuf, Arc<Ready>)>>);

/// Models kept in memory.
const KEEP: usize = 2;

/// A model that cannot be used for decoding.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("no model \"{0}\"; /v1/models lists them")]
    Unknown(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("model \"{name}\": {message}")]
    Unusable { name: String, message: String },
}

impl Loaded {
    /// Reads the newest checkpoint of a run, or the demo model.
    pub fn get(&self, data: &DataDir, id: &str) -> Result<Arc<Ready>, ModelError> {
        let unknown = || ModelError::Unknown(id.chars().take(120).collect());
        if !valid_id(id) {
            return Err(unknown());
        }
        let folder = match data.run(id) {
            Ok(run) => Some(run.newest_checkpoint().ok_or_else(unknown)?),
            Err(_) if id == DEMO => None,
            Err(_) => return Err(unknown()),
        };
        let key = folder.clone().unwrap_or_else(|| DEMO.into());
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(i) = kept.iter().position(|(k, _)| *k == key) {
            let found = kept.remove(i);
            let model = found.1.clone();
            kept.insert(0, found);
            return Ok(model);
        }
        let model = Arc::new(load(id, folder.as_deref())?);
        kept.insert(0, (key, model.clone()));
        kept.truncate(KEEP);
        Ok(model)
    }
}

fn load(id: &str, folder: Option<&Path>) -> Result<Ready, ModelError> {
    let unusable = |message: String| ModelError::Unusable { name: id.into(), message };
    let bytes = |name: &str| -> Result<Vec<u8>, ModelError> {
        match folder {
            Some(f) => Ok(read(&f.join(name))?),
            None => {
                let path = format!("models/{DEMO}/{name}");
                let found = page_files().into_iter().find(|(p, _)| *p == path);
                found.map(|(_, b)| b.into_owned()).ok_or_else(|| ModelError::Unknown(id.into()))
            }
        }
    };
    let [config, tokenizer, tensors] = [bytes(FILES[0])?, bytes(FILES[1])?, bytes(FILES[2])?];
    let tokenizer = Tokenizer::from_bytes(&tokenizer).map_err(|e| unusable(e.to_string()))?;
    let config = String::from_utf8_lossy(&config).into_owned();
    let model: LoadedModel = checkpoint::load(&config, &tensors).map_err(|e| unusable(e.to_string()))?;
    if !model.config.takes_tokenizer(tokenizer.vocab()) {
        let (t, m) = (tokenizer.vocab(), model.config.vocab);
        return Err(unusable(format!("its tokenizer has {t} tokens, its weights {m}")));
    }
    Ok(Ready {
        weights: Arc::new(Weights::new(&Cpu, &model)),
        serving: model.serving,
        tokenizer,
        name: id.into(),
    })
}
