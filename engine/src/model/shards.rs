//! The tensors of a model folder: one `model.safetensors`, or several files that `model.safetensors.index.json` lists.
//!
//! The index is `{"weight_map": {tensor: file}}`. It is checked against the files before a value is read: a file that
//! is not there, a file outside the folder, and a tensor that its file does not hold are errors of their own.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use super::checkpoint::{CheckpointError, tensors};

/// The file that names the files of weights.
pub const INDEX: &str = "model.safetensors.index.json";

/// Where tensors are looked up by name.
pub trait Tensors {
    fn view(&self, name: &str) -> Option<TensorView<'_>>;
    /// bytes of all files together
    fn bytes(&self) -> usize;
}

impl Tensors for SafeTensors<'_> {
    fn view(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensor(name).ok()
    }
    fn bytes(&self) -> usize {
        self.iter().map(|(_, t)| t.data().len()).sum()
    }
}

/// One entry of the index that does not hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("tensor {tensor}: {message}")]
pub struct IndexFault {
    pub tensor: String,
    pub file: String,
    pub message: String,
}

/// Tensor to file, as `model.safetensors.index.json` says.
///
/// Errors: no such object, or a name that is not that of a file in the same folder.
pub fn weight_map(json: &[u8]) -> Result<BTreeMap<String, String>, CheckpointError> {
    let bad = |m: String| CheckpointError::Format(m).of(INDEX);
    let value: Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
    let map = value["weight_map"].as_object().ok_or_else(|| bad("it has no weight_map".into()))?;
    let mut out = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| bad(format!("the file of {tensor} is {file}")))?;
        let plain = !file.is_empty() && !file.starts_with('.') && !file.contains(['/', '\\', '\0']);
        if !plain {
            return Err(bad(format!("the file of {tensor} is {file:?}, not a file of this folder")));
        }
        out.insert(tensor.clone(), file.to_string());
    }
    Ok(out)
}

/// Tensors of one or several files.
pub struct Shards<'a> {
    files: Vec<(String, SafeTensors<'a>)>,
    /// tensor to its file; `None`: whichever file holds it
    map: Option<BTreeMap<String, usize>>,
    bytes: usize,
}

impl<'a> Shards<'a> {
    /// One file.
    pub fn one(bytes: &'a [u8]) -> Result<Shards<'a>, CheckpointError> {
        Ok(Shards { files: vec![(String::new(), tensors(bytes)?)], map: None, bytes: bytes.len() })
    }

    /// Files under their names and the index over them; entries of the index that do not hold.
    pub fn many(
        index: &BTreeMap<String, String>,
        contents: &[(String, &'a [u8])],
    ) -> Result<(Shards<'a>, Vec<IndexFault>), CheckpointError> {
        let mut files = vec![];
        for (name, bytes) in contents {
            let read = tensors(bytes).map_err(|e| CheckpointError::Format(format!("{name}: {e}")))?;
            files.push((name.clone(), read));
        }
        let (mut map, mut faults) = (BTreeMap::new(), vec![]);
        for (tensor, file) in index {
            let fault = |message: &str| IndexFault {
                tensor: tensor.clone(),
                file: file.clone(),
                message: message.replace("{}", file),
            };
            match files.iter().position(|(name, _)| name == file) {
                None => faults.push(fault("its file {} is not here")),
                Some(i) if files[i].1.tensor(tensor).is_err() => {
                    faults.push(fault("the index says {}, which does not hold it"))
                }
                Some(i) => drop(map.insert(tensor.clone(), i)),
            }
        }
        let bytes = contents.iter().map(|c| c.1.len()).sum();
        Ok((Shards { files, map: Some(map), bytes }, faults))
    }

    /// Every tensor of every file: name, type, shape, bytes.
    pub fn all(&self) -> Vec<(String, safetensors::Dtype, Vec<usize>, usize)> {
        let of = |(name, t): (String, TensorView)| (name, t.dtype(), t.shape().to_vec(), t.data().len());
        self.files.iter().flat_map(|(_, f)| f.tensors().into_iter().map(of).collect::<Vec<_>>()).collect()
    }
}

impl Tensors for Shards<'_> {
    fn view(&self, name: &str) -> Option<TensorView<'_>> {
        match &self.map {
            Some(map) => {
                // a scale of int8 rows may stand beside its tensor without an entry of its own
                let file = map.get(name).or_else(|| map.get(name.strip_suffix(".scale")?))?;
                self.files[*file].1.tensor(name).ok()
            }
            None => self.files.iter().find_map(|(_, f)| f.tensor(name).ok()),
        }
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::serialize;
    use safetensors::Dtype;

    fn file(name: &str) -> Vec<u8> {
        serialize(&[(name.into(), Dtype::F32, vec![1], 2f32.to_le_bytes().to_vec())]).unwrap()
    }

    #[test]
    fn an_index_is_held_against_its_files() {
        let (a, b) = (file("x"), file("y"));
        let contents = [("a.safetensors".to_string(), a.as_slice()), ("b.safetensors".into(), &b)];
        let json = br#"{"weight_map":{"x":"a.safetensors","y":"a.safetensors","z":"c.safetensors"}}"#;
        let (shards, faults) = Shards::many(&weight_map(json).unwrap(), &contents).unwrap();
        assert!(shards.view("x").is_some() && shards.view("y").is_none() && shards.view("z").is_none());
        let said: Vec<String> = faults.iter().map(|f| f.to_string()).collect();
        assert_eq!(
            said,
            [
                "tensor y: the index says a.safetensors, which does not hold it",
                "tensor z: its file c.safetensors is not here"
            ]
        );
        assert_eq!(shards.all().len(), 2);
    }

    #[test]
    fn an_index_stays_in_its_folder() {
        for file in ["../a", "/etc/passwd", "a/b", "", ".hidden", "a\\b"] {
            let json = serde_json::json!({ "weight_map": { "x": file } }).to_string();
            let e = weight_map(json.as_bytes()).unwrap_err().to_string();
            assert!(e.starts_with("model.safetensors.index.json: ") && e.contains("not a file of"), "{e}");
        }
        for json in ["", "{}", "[]", r#"{"weight_map":{"x":3}}"#] {
            assert!(weight_map(json.as_bytes()).is_err());
        }
    }
}
