//! What a visitor sets before writing: the policy and its parameters, temperature, length, seed, what a position sees.

use hilda_engine::decode::PolicySpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A choice of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    Quality,
    Speedy,
    Custom,
}

impl Preset {
    pub const ALL: [(Preset, &str, &str); 3] = [
        (
            Preset::Quality,
            "Quality",
            "write what is likely, replace what is clearly wrong (LLaDA 2.1, quality mode)",
        ),
        (
            Preset::Speedy,
            "Speedy",
            "write early, replace whenever another word is more likely (LLaDA 2.1, speed mode)",
        ),
        (Preset::Custom, "Custom", "any policy with any parameters"),
    ];
}

/// See the module comment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub preset: Preset,
    pub policy: PolicySpec,
    pub temperature: f32,
    pub length: u32,
    pub seed: u64,
    /// every position sees the whole text
    pub whole: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            preset: Preset::Quality,
            policy: PolicySpec::quality(),
            temperature: 0.0,
            length: 128,
            seed: 42,
            whole: false,
        }
    }
}

impl Settings {
    /// The same with another preset; Custom keeps the parameters that are set.
    pub fn with_preset(self, preset: Preset) -> Settings {
        let policy = match preset {
            Preset::Quality => PolicySpec::quality(),
            Preset::Speedy => PolicySpec::speedy(),
            Preset::Custom => self.policy,
        };
        Settings { preset, policy, ..self }
    }

    /// The same with a policy's defaults.
    pub fn with_kind(self, kind: &str) -> Settings {
        let mut value = serde_json::Map::new();
        value.insert("kind".into(), kind.into());
        match serde_json::from_value(Value::Object(value)) {
            Ok(policy) => Settings { preset: Preset::Custom, policy, ..self },
            Err(_) => self,
        }
    }

    /// A parameter of the policy by name.
    pub fn parameter(&self, name: &str) -> Value {
        serde_json::to_value(self.policy).ok().and_then(|v| v.get(name).cloned()).unwrap_or(Value::Null)
    }

    /// The same with one parameter changed; a value that the policy refuses changes nothing. Whatever is changed by
    /// hand is no preset any more.
    pub fn with_parameter(self, name: &str, value: Value) -> Settings {
        let Ok(mut object) = serde_json::to_value(self.policy) else { return self };
        object[name] = value;
        match serde_json::from_value::<PolicySpec>(object) {
            Ok(policy) if policy.validate().is_ok() => {
                let preset = match policy {
                    p if p == PolicySpec::quality() => Preset::Quality,
                    p if p == PolicySpec::speedy() => Preset::Speedy,
                    _ => Preset::Custom,
                };
                Settings { preset, policy, ..self }
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn presets_are_recognised_when_parameters_return_to_them() {
        let quality = Settings::default();
        let other = quality.with_parameter("tau_mask", json!(0.6));
        assert_eq!(other.preset, Preset::Custom);
        assert_eq!(other.with_parameter("tau_mask", json!(0.7)).preset, Preset::Quality);
    }

    #[test]
    fn refused_values_change_nothing() {
        let settings = Settings::default();
        assert_eq!(settings.with_parameter("tau_mask", json!(7)), settings);
        assert_eq!(settings.with_parameter("tau_mask", json!("x")), settings);
        assert_eq!(settings.with_kind("no such policy"), settings);
    }

    #[test]
    fn every_listed_parameter_is_found() {
        for info in PolicySpec::parameters() {
            let settings = Settings::default().with_kind(info.kind);
            assert_eq!(settings.policy.kind(), info.kind);
            for parameter in info.parameters.iter().filter(|p| !p.optional) {
                assert!(!settings.parameter(parameter.name).is_null(), "{}.{}", info.kind, parameter.name);
            }
        }
    }
}
