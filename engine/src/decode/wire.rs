//! A forward asked of another machine. The request travels as JSON; its rule by the name of the attention, because
//! decoding knows three of them, and two with a shadow. The answer is the statistics as the session left them, f32 little endian
//! ([`crate::model::session::Pending::decode`] reads them), because JSON has no infinities.

use hilda_kernels::{MaskRule, attention::rule::Base};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use super::{Attention, ForwardRequest};

/// What the page sends to `POST /api/models/forward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemoteForward {
    /// a run's id, a pulled model's name, or the demo model's
    pub model: String,
    /// whoever asks chooses it; keys and values are kept under it
    pub session: String,
    /// positions whose keys and values the caller believes to be kept
    pub cached: u32,
    pub request: ForwardRequest,
}

/// The header in which the answer says what is cached now ([`super::Held`] as JSON).
pub const HELD: &str = "x-hilda-held";

#[derive(Serialize, Deserialize)]
struct Rule {
    attention: Attention,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    /// beside a shadow: how far ahead the token that its rows leave out stands
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shadow: Option<u32>,
}

/// For `#[serde(with)]`.
pub(super) fn serialize<S: Serializer>(rule: &MaskRule, s: S) -> Result<S::Ok, S::Error> {
    let (attention, shadow) = match rule.base {
        Base::Bidirectional => (Attention::Bidirectional, None),
        Base::Causal => (Attention::Causal, None),
        Base::BlockCausal => (Attention::BlockCausal, None),
        Base::Shadow { blocks: false, ahead } => (Attention::Bidirectional, Some(ahead)),
        Base::Shadow { blocks: true, ahead } => (Attention::BlockCausal, Some(ahead)),
        _ => return Err(S::Error::custom("a rule of training")),
    };
    Rule { attention, window: rule.window, shadow }.serialize(s)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<MaskRule, D::Error> {
    let Rule { attention, window, shadow } = Rule::deserialize(d)?;
    if window == Some(0) {
        return Err(D::Error::custom("a window of 0 positions"));
    }
    let base = match shadow {
        None => attention.rule().base,
        Some(ahead) => {
            attention.shadow(ahead).ok_or_else(|| D::Error::custom("a shadow beside causal text"))?
        }
    };
    Ok(MaskRule { window, base })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{CacheOp, Shadow, Want};

    #[test]
    fn a_request_comes_back_as_it_was() {
        for (base, cache) in [
            (Base::Bidirectional, CacheOp::None),
            (Base::Causal, CacheOp::Store),
            (Base::BlockCausal, CacheOp::Truncate { keep: 8 }),
            (Base::Shadow { blocks: false, ahead: 0 }, CacheOp::None),
            (Base::Shadow { blocks: true, ahead: 1 }, CacheOp::None),
        ] {
            let shadow = matches!(base, Base::Shadow { .. }).then(|| Shadow {
                positions: vec![8, 9],
                mask: 1,
                rows: vec![9],
            });
            let request = ForwardRequest {
                sequence: 1,
                step: 2,
                query_positions: vec![8, 9],
                ids: vec![3, 4],
                rule: base.into(),
                block_size: 8,
                cache,
                compression: Default::default(),
                want: Want {
                    rows: vec![9],
                    top_k: 4,
                    temperature: 0.7,
                    seed: u64::MAX,
                    whole: vec![9],
                    shadow,
                },
            };
            let sent = RemoteForward { model: "a/b".into(), session: "s".into(), cached: 8, request };
            let text = serde_json::to_string(&sent).unwrap();
            assert_eq!(serde_json::from_str::<RemoteForward>(&text).unwrap(), sent);
            if base == Base::Causal {
                let none = text.replace("\"attention\":\"causal\"", "\"attention\":\"causal\",\"window\":0");
                assert!(none != text && serde_json::from_str::<RemoteForward>(&none).is_err(), "{text}");
            }
        }
    }
}
