//! A whole policy: a method, the candidates it works with, and how it caches. In JSON one object, or the name of a preset
//! ([`Preset`]) or of a kind.

use serde::de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Caching, Candidate, Method, Parts, PolicyError, Preset, Score};
use crate::decode::refine::Refine;

/// A decoding policy: a method and the candidates it works with. In JSON one object: `{"kind": "threshold", "tau": 0.7,
/// "top_p": 0.95}`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PolicySpec {
    #[serde(flatten)]
    pub method: Method,
    #[serde(flatten)]
    pub candidate: Candidate,
    #[serde(flatten)]
    pub caching: Caching,
}

impl From<Method> for PolicySpec {
    fn from(method: Method) -> Self {
        PolicySpec { method, candidate: Candidate::default(), caching: Caching::default() }
    }
}

impl<'de> Deserialize<'de> for PolicySpec {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = PolicySpec;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a policy's object or the name of a preset or a kind")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<PolicySpec, E> {
                PolicySpec::named(name).ok_or_else(|| {
                    let names = Preset::all().iter().map(|p| p.name);
                    let kinds = PolicySpec::parameters().iter().map(|i| i.kind);
                    let known: Vec<&str> = names.chain(kinds).collect();
                    E::custom(format!("no policy is called {name}; known: {}", known.join(", ")))
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PolicySpec, A::Error> {
                let object = serde_json::Map::deserialize(MapAccessDeserializer::new(map))?;
                PolicySpec::of(object).map_err(A::Error::custom)
            }
        }
        d.deserialize_any(Either)
    }
}

impl Default for PolicySpec {
    fn default() -> Self {
        Method::Threshold { tau: 0.9, score: Score::TopProb }.into()
    }
}

impl PolicySpec {
    /// From a policy's object.
    fn of(mut method: serde_json::Map<String, Value>) -> Result<PolicySpec, serde_json::Error> {
        let mut part = |names: &[&str]| {
            let known = names.iter().filter_map(|n| Some((n.to_string(), method.remove(*n)?)));
            Value::Object(known.collect())
        };
        let (candidate, caching) = (part(&Candidate::NAMES), part(&Caching::NAMES));
        Ok(PolicySpec {
            candidate: serde_json::from_value(candidate)?,
            caching: serde_json::from_value(caching)?,
            method: serde_json::from_value(method.into())?,
        })
    }

    /// The preset or the kind of this name, a kind with its defaults.
    pub fn named(name: &str) -> Option<PolicySpec> {
        let preset = Preset::all().iter().find(|p| p.name == name);
        preset.map(Preset::policy).or_else(|| {
            let kind = [("kind".to_string(), Value::from(name))];
            PolicySpec::of(kind.into_iter().collect()).ok()
        })
    }
    /// LLaDA 2.1, "Quality" (model card): tau_mask 0.7, tau_edit 0.5.
    pub fn quality() -> PolicySpec {
        PolicySpec::named("quality").expect("a preset")
    }
    /// LLaDA 2.1, "Speedy" (model card): tau_mask 0.5, tau_edit 0 (edit whenever the argmax differs).
    pub fn speedy() -> PolicySpec {
        PolicySpec::named("speedy").expect("a preset")
    }
    /// The name in recipes and URLs.
    pub fn kind(&self) -> &'static str {
        self.method.kind()
    }

    /// Refuses parameters out of range.
    pub fn validate(&self) -> Result<(), PolicyError> {
        self.method.validate()?;
        self.candidate.validate(self.kind())?;
        self.caching.validate(self.kind())
    }

    /// The pass behind the draft, if the method has one.
    pub(in crate::decode) fn refine(&self) -> Option<Refine> {
        match self.method {
            Method::DraftRefine { gamma, refine_tau: tau, choose, .. } => {
                let method = Method::Threshold { tau, score: Score::TopProb };
                let policy = Parts { eos: self.candidate.eos, ..method.parts() };
                Some(Refine { gamma, choose, policy, judging: false })
            }
            _ => None,
        }
    }

    /// The policy at work.
    pub fn build(&self) -> Result<Parts, PolicyError> {
        self.validate()?;
        Ok(Parts { eos: self.candidate.eos, ..self.method.parts() })
    }
}
