//! A decoding as a link of the playground: what the page writes when somebody presses Share, made here. The address
//! ends in `#w=` and base64url (RFC 4648 section 5) of raw deflate (RFC 1951) of the JSON of [`Recording`]. Deflate is
//! used in its stored form: the page reads either, and compresses when it writes the link itself.

use std::collections::{BTreeMap, BTreeSet};

use hilda_engine::base64url;
use hilda_engine::data::Tokenizer;
use hilda_engine::decode::{ActionKind, Trajectory};
use serde::Serialize;
use serde_json::{Value, json};

/// JSON of one recording at most; longer ones are not kept.
pub const MOST_BYTES: usize = 256 << 10;

/// A text, how it was asked for, and the actions that wrote it, without the statistics of rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recording {
    pub prompt: String,
    /// as the playground has them
    pub settings: Value,
    /// text of every token that occurs
    pub pieces: BTreeMap<u32, String>,
    pub trajectory: Trajectory,
    /// of its JSON
    #[serde(skip)]
    bytes: usize,
}

impl Recording {
    /// What is kept of a decoding; `None` if it is longer than [`MOST_BYTES`].
    pub fn new(
        prompt: &str,
        trajectory: &Trajectory,
        tokenizer: &Tokenizer,
        whole: bool,
    ) -> Option<Recording> {
        let mut trajectory = trajectory.clone();
        let config = &trajectory.header.config;
        let written = config.length as usize - config.prompt.len().min(config.length as usize);
        let settings = json!({
            "preset": "custom", "policy": config.policy, "temperature": config.temperature, "length": written,
            "seed": config.seed, "whole": whole,
        });
        let mut ids: BTreeSet<u32> = config.prompt.iter().copied().collect();
        ids.extend(config.fixed.iter().map(|f| f.1));
        ids.extend(&trajectory.footer.ids);
        let round = |p: f32| (p * 1000.0).round() / 1000.0;
        for step in &mut trajectory.steps {
            step.rows.clear();
            for a in &mut step.actions {
                (a.p, a.logq, a.margin) = (round(a.p), round(a.logq), round(a.margin));
                ids.insert(a.old);
                if !matches!(a.kind, ActionKind::Remask | ActionKind::Reopen) {
                    ids.insert(a.new);
                }
            }
        }
        let pieces = ids.into_iter().map(|id| (id, tokenizer.piece(id))).collect();
        let mut made = Recording { prompt: prompt.into(), settings, pieces, trajectory, bytes: 0 };
        made.bytes = made.json().len();
        (made.bytes <= MOST_BYTES).then_some(made)
    }

    /// Length of its JSON.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The end of the address, `#` included.
    pub fn fragment(&self) -> String {
        format!("#w={}", base64url::encode(&stored(&self.json())))
    }
}

/// Raw deflate in stored blocks: a byte that says whether it is the last, the length and its complement, the bytes.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 65_535 * 5 + 5);
    let count = bytes.len().div_ceil(65_535).max(1);
    for i in 0..count {
        let part = &bytes[i * 65_535..bytes.len().min((i + 1) * 65_535)];
        let length = part.len() as u16;
        out.push(u8::from(i + 1 == count));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_blocks_say_their_length_twice() {
        assert_eq!(stored(b"hi"), [1, 2, 0, 0xfd, 0xff, b'h', b'i']);
        assert_eq!(stored(b""), [1, 0, 0, 0xff, 0xff]);
        let long = stored(&vec![7; 65_536]);
        assert_eq!((long[0], &long[1..5]), (0, &[0xff, 0xff, 0, 0][..]));
        assert_eq!(&long[5 + 65_535..], [1, 1, 0, 0xfe, 0xff, 7]);
    }
}
