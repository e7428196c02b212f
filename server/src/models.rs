//! Models at hand: the demo model that ships with the page, the newest checkpoint of every run, and models that were
//! pulled from a hub.
//!
//! The page gets small numbers in pieces ([`crate::page_store`]), whatever the model's files hold; the server decodes
//! from the files themselves.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use hilda_engine::{
    data::{DataError, FREQUENCIES, Frequencies, Tokenizer},
    model::{
        LoadedModel, Serving,
        checkpoint::{self, Format},
        inspect::{CacheFacts, Facts, inspect},
        page::{self, Fit},
        session::Weights,
    },
    record::Estimate,
};
use hilda_kernels::Cpu;
use serde::Serialize;
use serde_json::Value;

use crate::{
    http::{memory, objective_text, page_files},
    library, pull,
    storage::{DataDir, RunFolder, StorageError, io_error, valid_id, write_atomic},
    writer::Writer,
};

/// What a model consists of in the page's format.
pub const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// The model that ships with the page.
pub const DEMO: &str = "hilda-tiny";

/// A card of `GET /api/models`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModelCard {
    /// what `model` is in `/v1/completions`: a run's id, a pulled model's name, or the demo model's
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
    /// address of the files that the page loads, below the server's
    pub base: String,
    /// of the weights as they lie here
    pub disk_bytes: Option<u64>,
    /// number formats of the weights
    pub formats: Vec<String>,
    /// the card beside the weights, without its front matter
    pub card: Option<String>,
    /// the repository and commit that a pulled model came from
    pub source: Option<String>,
    pub memory: Option<Memory>,
    /// what it is in the page
    pub page: Option<Fit>,
    /// what keeps it from being used
    pub problems: Vec<String>,
}

/// What a model needs on this machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// bytes to decode 256 positions, and to train whole rows of that length one at a time
    pub decode_bytes: u64,
    pub train_bytes: u64,
    /// keys and values of a text that fills the context
    pub cache: CacheFacts,
    #[serde(flatten)]
    pub fits: Fits,
}

/// Does the memory that is free now suffice?
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fits {
    pub decode: bool,
    pub train: bool,
    pub memory_free: u64,
}

impl Fits {
    /// `None` where the system does not say what is free, or the model's shape is not known.
    pub fn new(facts: &Facts) -> Option<Fits> {
        let (_, free) = memory()?;
        let (decode, train) = (facts.decode_bytes? <= free, facts.train_bytes? <= free);
        Some(Fits { decode, train, memory_free: free })
    }
}

/// Facts of models, read again when their files were replaced.
#[derive(Default)]
pub struct Inspected(Mutex<HashMap<PathBuf, (SystemTime, Arc<Facts>)>>);

impl Inspected {
    fn get(&self, place: &Path) -> Option<Arc<Facts>> {
        let changed = std::fs::metadata(place).and_then(|m| m.modified()).ok()?;
        let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((at, facts)) = known.get(place)
            && *at == changed
        {
            return Some(facts.clone());
        }
        let facts = Arc::new(inspect(place).ok()?);
        known.retain(|path, _| path.exists());
        known.insert(place.into(), (changed, facts.clone()));
        Some(facts)
    }
}

/// Characters of a card that are sent.
const MOST_CARD: usize = 6000;

/// The card beside a model's weights, without front matter.
fn card_text(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("README.md")).ok()?;
    let body = match text.strip_prefix("---\n").and_then(|t| t.split_once("\n---")) {
        Some((_, body)) => body.trim_start_matches('-').trim(),
        None => text.trim(),
    };
    let mut card: String = body.chars().take(MOST_CARD).collect();
    if card.len() < body.len() {
        card.push_str("\n...");
    }
    Some(card).filter(|c| !c.is_empty())
}

impl ModelCard {
    /// The same with what its files say.
    fn with(self, facts: &Facts, folder: &Path) -> ModelCard {
        let bytes = (facts.decode_bytes, facts.train_bytes, facts.cache, Fits::new(facts));
        ModelCard {
            parameters: facts.parameters,
            context: facts.shape.as_ref().map(|c| c.context as u64),
            serving: facts.serving,
            licence: self.licence.or(facts.licence.clone()),
            bytes: facts.page.map(|p| p.bytes),
            disk_bytes: Some(facts.bytes),
            formats: facts.formats.keys().cloned().collect(),
            card: card_text(folder),
            memory: match bytes {
                (Some(decode_bytes), Some(train_bytes), Some(cache), Some(fits)) => {
                    Some(Memory { decode_bytes, train_bytes, cache, fits })
                }
                _ => None,
            },
            page: facts.page,
            // people elsewhere need not know where the data folder is
            problems: facts
                .problems
                .iter()
                .map(|p| p.to_string().replace(&format!("{}/", folder.display()), ""))
                .collect(),
            ..self
        }
    }
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

/// Copies the token frequencies of a checkpoint folder, where it has them, beside the `config.json` of a folder made from it,
/// and has that say so: the page asks for no file that is not named.
pub fn take_frequencies(from: &Path, to: &Path) -> Result<(), StorageError> {
    let file = from.join(FREQUENCIES);
    if !file.is_file() {
        return Ok(());
    }
    let config = to.join("config.json");
    let said = page::naming_frequencies(&String::from_utf8_lossy(&read(&config)?));
    let said = said.map_err(|e| format_error(&config, "a configuration")(e.to_string()))?;
    write_atomic(&to.join(FREQUENCIES), &read(&file)?)?;
    write_atomic(&config, said.as_bytes())
}

/// Newest first, the demo model before all. Runs without a checkpoint that reads are left out; pulled models are not:
/// their card says what is wrong.
pub fn cards(data: &DataDir, known: &Inspected) -> Vec<ModelCard> {
    let runs = data.run_ids();
    let runs = runs.iter().filter_map(|id| run_card(&data.run(id).ok()?, known));
    let pulled = library::installed(data.root());
    let mut all: Vec<ModelCard> =
        runs.chain(pulled.iter().filter_map(|name| pulled_card(data, name, known))).collect();
    all.sort_by(|a, b| b.created.total_cmp(&a.created).then_with(|| b.id.cmp(&a.id)));
    all.splice(0..0, demo_card());
    all
}

fn run_card(run: &RunFolder, known: &Inspected) -> Option<ModelCard> {
    let folder = run.newest_checkpoint()?;
    let step = run.checkpoints().last()?.step;
    let facts = known.get(&folder).filter(|f| f.shape.is_some())?;
    let recipe = run.config().ok()?;
    let status = run.status().ok().flatten();
    let d = &recipe.data;
    let file = |p: &String| Path::new(p).file_name().map(|n| n.to_string_lossy().into_owned());
    let card = ModelCard {
        id: run.id.clone(),
        name: recipe.name.clone(),
        run: Some(run.id.clone()),
        family: format!("HILDA ({})", objective_text(&recipe)),
        about: recipe.about.clone(),
        data: d.corpus.clone().or(d.train.as_ref().and_then(file)).unwrap_or_default(),
        tokens: status.as_ref().map(|s| s.tokens),
        likelihood: status.and_then(|s| s.headline),
        step: Some(step),
        created: run.job().ok()?.created,
        base: format!("/api/runs/{}/model/", run.id),
        ..Default::default()
    };
    Some(card.with(&facts, &folder))
}

fn pulled_card(data: &DataDir, name: &str, known: &Inspected) -> Option<ModelCard> {
    let folder = library::folder(data.root(), name)?;
    let facts = known.get(&folder)?;
    let family = facts.family.map(|f| serde_json::to_value(f).expect("plain data"));
    let since = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).ok();
    let changed = std::fs::metadata(&folder).and_then(|m| m.modified()).ok().and_then(since);
    let source = pull::read_manifest(&folder).map(|m| format!("{} at {}", m.repository, m.commit));
    let card = ModelCard {
        id: name.into(),
        name: name.into(),
        family: family.as_ref().and_then(Value::as_str).unwrap_or("").into(),
        created: changed.map_or(0.0, |d| d.as_secs_f64()),
        base: format!("/api/models/{name}/"),
        source,
        ..Default::default()
    };
    Some(card.with(&facts, &folder))
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
        base: format!("/models/{DEMO}/"),
        card: file("README.md").map(|b| String::from_utf8_lossy(b).into_owned()),
        page: Some(Fit::new(&config)),
        ..Default::default()
    })
}

/// A model ready to decode.
pub struct Ready {
    pub weights: Arc<Weights<Cpu>>,
    pub serving: Serving,
    pub tokenizer: Tokenizer,
    /// what the policy `switch` decides by
    pub switch: Option<Arc<hilda_engine::decode::Switch>>,
    pub name: String,
    /// writes its texts
    pub writer: Arc<Writer>,
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
    #[error("model \"{name}\" is too large for the page: {fit}")]
    TooLarge { name: String, fit: String },
}

/// Where the files of a run's newest checkpoint, or of a pulled model, lie; `None` for the demo model, which is part of
/// the page.
pub fn place(data: &DataDir, id: &str) -> Result<Option<PathBuf>, ModelError> {
    let unknown = || ModelError::Unknown(id.chars().take(120).collect());
    if let Some(folder) = library::folder(data.root(), id) {
        return if folder.is_dir() { Ok(Some(folder)) } else { Err(unknown()) };
    }
    if !valid_id(id) {
        return Err(unknown());
    }
    match data.run(id) {
        Ok(run) => Ok(Some(run.newest_checkpoint().ok_or_else(unknown)?)),
        Err(_) if id == DEMO => Ok(None),
        Err(_) => Err(unknown()),
    }
}

impl Loaded {
    /// Reads a model, unless it was used a moment ago.
    pub fn get(&self, data: &DataDir, id: &str) -> Result<Arc<Ready>, ModelError> {
        let folder = place(data, id)?;
        let key = folder.clone().unwrap_or_else(|| DEMO.into());
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(i) = kept.iter().position(|(k, _)| *k == key) {
            let found = kept.remove(i);
            let model = found.1.clone();
            kept.insert(0, found);
            return Ok(model);
        }
        // room first: two large models side by side may be more than the machine has
        kept.truncate(KEEP - 1);
        let model = Arc::new(load(id, folder.as_deref())?);
        kept.insert(0, (key, model.clone()));
        Ok(model)
    }
}

fn load(id: &str, folder: Option<&Path>) -> Result<Ready, ModelError> {
    let unusable = |message: String| ModelError::Unusable { name: id.into(), message };
    let (model, tokenizer) = match folder {
        Some(folder) => library::open(folder).map_err(|e| unusable(e.to_string()))?,
        None => demo_model(id)?,
    };
    let switch = match folder {
        Some(folder) => library::switch(folder).map_err(|e| unusable(e.to_string()))?,
        None => None,
    };
    let serving = model.serving;
    let (weights, writer) = (Arc::new(Weights::of_shipped(model)), Arc::default());
    Ok(Ready { weights, serving, tokenizer, switch, name: id.into(), writer })
}

fn demo_model(id: &str) -> Result<(LoadedModel, Tokenizer), ModelError> {
    let unusable = |message: String| ModelError::Unusable { name: id.into(), message };
    let files = page_files();
    let bytes = |name: &str| {
        let path = format!("models/{DEMO}/{name}");
        files.iter().find(|(p, _)| *p == path).map(|(_, b)| b).ok_or_else(|| ModelError::Unknown(id.into()))
    };
    let read = |e: DataError| unusable(e.to_string());
    let mut tokenizer = Tokenizer::from_bytes(bytes(FILES[1])?).map_err(read)?;
    let config = String::from_utf8_lossy(bytes(FILES[0])?).into_owned();
    let model = checkpoint::load(&config, bytes(FILES[2])?).map_err(|e| unusable(e.to_string()))?;
    if page::has_frequencies(&config) {
        let frequencies = Frequencies::read(bytes(FREQUENCIES)?, model.config.vocab).map_err(read)?;
        tokenizer = tokenizer.with_frequencies(frequencies);
    }
    Ok((model, tokenizer))
}
