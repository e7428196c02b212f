//! A model in the formats that others read: a Hugging Face folder, one GGUF file, or pieces for the page. Whole or absent: written beside its
//! place and renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::checkpoint::{self, CheckpointError, Format, MODEL};
use super::gguf::{self, GgufFormat};
use super::page::{self, PageDtype};
use super::shards::INDEX;
use super::{LoadedModel, Serving};
use crate::config::{Family, ModelConfig};
use crate::data::{FREQUENCIES, Tokenizer};
use crate::decode::Attention;
use crate::files;

/// An export that was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path} is there already")]
    Exists { path: String },
    #[error(transparent)]
    Model(#[from] CheckpointError),
}

fn io<T>(path: &Path, r: std::io::Result<T>) -> Result<T, ExportError> {
    r.map_err(|source| ExportError::Io { path: path.display().to_string(), source })
}

/// Where the export goes, under a name of its own until it is whole.
fn beside(out: &Path) -> Result<std::path::PathBuf, ExportError> {
    if out.exists() {
        return Err(ExportError::Exists { path: out.display().to_string() });
    }
    if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        io(parent, fs::create_dir_all(parent))?;
    }
    Ok(files::partial(out))
}

/// Writes one GGUF file: weights, `diffusion.*` keys, tokenizer.
///
/// Errors: something lies at `out`, a family or a tokenizer that GGUF has no name for, a disk that is full.
pub fn to_gguf(
    model: &LoadedModel,
    tokenizer: Option<&Tokenizer>,
    format: GgufFormat,
    out: &Path,
) -> Result<(), ExportError> {
    let partial = beside(out)?;
    let write = || -> Result<(), ExportError> {
        let mut file = BufWriter::new(io(&partial, File::create(&partial))?);
        gguf::save(&mut file, model, format, tokenizer.map(Tokenizer::json))?;
        io(&partial, file.flush().and_then(|()| file.get_ref().sync_all()))?;
        io(out, fs::rename(&partial, out).and_then(|()| files::sync_folder(out)))
    };
    write().inspect_err(|_| drop(fs::remove_file(&partial)))
}

/// Writes a folder that transformers loads: `config.json`, `model.safetensors`, tokenizer, card.
///
/// Errors: something lies at `out`, a disk that is full.
pub fn to_folder(
    model: &LoadedModel,
    tokenizer: Option<&Tokenizer>,
    format: Format,
    card: &str,
    out: &Path,
) -> Result<(), ExportError> {
    let partial = beside(out)?;
    let c = &model.config;
    let mut contents = vec![
        ("config.json", published_config(c, model.serving, format)),
        (MODEL, checkpoint::save(c, &model.params, format)?),
        ("README.md", card.as_bytes().to_vec()),
    ];
    if let Some(t) = tokenizer {
        contents.push(("tokenizer.json", t.json().to_vec()));
        contents.push(("tokenizer_config.json", tokenizer_config(t, c)));
        contents.extend(t.frequencies().map(|f| (FREQUENCIES, f.json())));
    }
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(&partial)?;
        for (name, bytes) in &contents {
            put(&partial.join(name), bytes)?;
        }
        fs::rename(&partial, out)?;
        files::sync_folder(out)
    };
    io(out, write().inspect_err(|_| drop(fs::remove_dir_all(&partial))))
}

fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes a folder that the page opens, in pieces ([`page`]); `more` are files beside them, such as a card. They are made
/// from the folder as it will be, so that what is measured is what was written.
///
/// Errors: something lies at `out`, a disk that is full, what `more` says.
pub fn to_page<E: From<ExportError>>(
    model: &LoadedModel,
    tokenizer: &Tokenizer,
    dtype: PageDtype,
    out: &Path,
    more: impl FnOnce(&Path) -> Result<Vec<(&'static str, Vec<u8>)>, E>,
) -> Result<(), E> {
    let partial = beside(out)?;
    let write = || -> Result<(), E> {
        io(&partial, fs::create_dir_all(&partial))?;
        let one = |name: &str, bytes: &[u8]| io(&partial, put(&partial.join(name), bytes));
        let index = page::pieces(model, dtype, &one)?;
        one(INDEX, &serde_json::to_vec_pretty(&index).expect("plain data"))?;
        let frequencies = tokenizer.frequencies();
        let config = page::config_json(&model.config, model.serving, frequencies.is_some());
        one("config.json", config.as_bytes())?;
        one("tokenizer.json", tokenizer.json())?;
        if let Some(frequencies) = frequencies {
            one(FREQUENCIES, &frequencies.json())?;
        }
        for (name, bytes) in more(&partial)? {
            one(name, &bytes)?;
        }
        io(out, fs::rename(&partial, out).and_then(|()| files::sync_folder(out)))?;
        Ok(())
    };
    write().inspect_err(|_| drop(fs::remove_dir_all(&partial)))
}

fn published_config(c: &ModelConfig, serving: Serving, format: Format) -> Vec<u8> {
    let mut v: serde_json::Value =
        serde_json::from_str(&checkpoint::config_json(c, serving)).expect("it was just written");
    if format == Format::F16 {
        v["torch_dtype"] = "float16".into();
    }
    if serving.attention != Attention::Causal && c.arch.family != Family::Dit {
        v["mask_token_id"] = c.mask_id.into();
    }
    serde_json::to_vec_pretty(&v).expect("plain data")
}

fn tokenizer_config(t: &Tokenizer, c: &ModelConfig) -> Vec<u8> {
    let s = t.specials();
    let v = serde_json::json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": c.context,
        "eos_token": t.piece(s.eos), "bos_token": t.piece(s.eos), "mask_token": t.piece(s.mask),
        "pad_token": t.piece(s.pad.unwrap_or(s.eos)), "clean_up_tokenization_spaces": false});
    serde_json::to_vec_pretty(&v).expect("plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelSpec;
    use crate::data::bpe;
    use crate::model::inspect::inspect;
    use crate::model::source::Source;
    use crate::model::{Layout, checkpoint::parse_config};

    fn model(kind: &str) -> (LoadedModel, Tokenizer) {
        let t = bpe::train(&["it saw a cat, and 12 dogs, on a mat".repeat(20)], 270).unwrap();
        let s = t.specials();
        let own = ModelSpec { size: Some("tiny".into()), ..Default::default() };
        let own = own.resolve(t.vocab(), s.mask, s.eos, t.forbid()).unwrap();
        let serving = Serving {
            attention: Attention::BlockCausal,
            block_size: 8,
            shift: true,
            infill: false,
            edits: false,
            uniform: false,
        };
        let json = checkpoint::config_json(&own, serving).replace("\"llama\"", &format!("{kind:?}"));
        let (mut config, serving) = parse_config(&json).unwrap();
        config.take_roles(&t);
        let params = Layout::new(&config).init(&config, 3);
        (LoadedModel { config, serving, params }, t)
    }

    #[test]
    fn what_is_written_is_read_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        for kind in ["llama", "qwen2", "qwen3", "gemma3_text"] {
            let (m, t) = model(kind);
            let near =
                |params: &[f32]| params.iter().zip(&m.params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let file = dir.path().join(format!("{kind}.gguf"));
            for (format, most) in [(GgufFormat::F32, 0.0), (GgufFormat::F16, 1e-4), (GgufFormat::Q8_0, 5e-4)]
            {
                to_gguf(&m, Some(&t), format, &file).unwrap();
                let source = Source::open(&file).unwrap();
                let back = source.load().unwrap();
                assert_eq!((back.serving, &back.config.arch), (m.serving, &m.config.arch), "{kind}");
                assert_eq!((back.config.mask_id, back.config.eos_id), (m.config.mask_id, m.config.eos_id));
                assert!(near(&back.params) <= most, "{kind} {format:?}");
                let tokens = source.tokenizer().unwrap().unwrap();
                let text = "a cat, 12 dogs <|mask|>";
                assert_eq!(tokens.encode(text).unwrap(), t.encode(text).unwrap());
                assert_eq!(tokens.specials(), t.specials());
                assert_eq!(inspect(&file).unwrap().problems, [], "{kind} {format:?}");
                assert!(matches!(to_gguf(&m, None, format, &file), Err(ExportError::Exists { .. })));
                fs::remove_file(&file).unwrap();
            }
            let folder = dir.path().join(kind);
            to_folder(&m, Some(&t), Format::F32, "# card", &folder).unwrap();
            let back = Source::open(&folder).unwrap().load().unwrap();
            assert_eq!(
                (back.serving, &back.config, near(&back.params)),
                (m.serving, &m.config, 0.0),
                "{kind}"
            );
            assert_eq!(inspect(&folder).unwrap().problems, [], "{kind}");
        }
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 4, "nothing half-written stays");
    }

    #[test]
    fn a_page_folder_is_a_model_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (m, t) = model("llama");
        for dtype in [PageDtype::Int8, PageDtype::Q4_0] {
            let out = dir.path().join(dtype.name());
            let more = |at: &Path| {
                // what is measured is what was written
                let inside = Source::open(at).unwrap().load().unwrap();
                assert!(inside.params != m.params && inside.config == m.config);
                Ok::<_, ExportError>(vec![("README.md", b"# card".to_vec())])
            };
            to_page(&m, &t, dtype, &out, more).unwrap();
            let facts = inspect(&out).unwrap();
            assert_eq!(facts.problems, [], "{dtype:?}");
            let want: &[&str] =
                if dtype == PageDtype::Int8 { &["F32", "I8"] } else { &["F32", "I8", "Q4_0"] };
            assert_eq!(facts.formats.keys().collect::<Vec<_>>(), want);
            assert!(facts.page.unwrap().fits);
            assert!(fs::read(out.join("README.md")).is_ok());
            let index = fs::read(out.join(INDEX)).unwrap();
            let first = &page::Index::parse(&index).unwrap().metadata.pieces[0].file;
            fs::remove_file(out.join(first)).unwrap();
            assert!(!inspect(&out).unwrap().problems.is_empty());
        }
        let failing = |_: &Path| Err(ExportError::Exists { path: "x".into() });
        assert!(to_page(&m, &t, PageDtype::Int8, &dir.path().join("no"), failing).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing half-written stays");
    }

    #[test]
    fn a_file_cut_short_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let (m, t) = model("llama");
        let file = dir.path().join("m.gguf");
        to_gguf(&m, Some(&t), GgufFormat::F32, &file).unwrap();
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 1000]).unwrap();
        let problems = inspect(&file).unwrap().problems;
        assert!(problems.iter().any(|p| p.to_string().contains("cut short")), "{problems:?}");
        assert!(Source::open(&file).unwrap().load().is_err());
    }
}
