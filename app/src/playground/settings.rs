//! What a visitor sets before writing: the policy and its parameters, temperature, length, seed, what a position sees.

use hilda_engine::decode::PolicySpec;
use hilda_engine::decode::policy::Preset as Published;
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

/// Below 1 texts hold together; at 0 small models repeat themselves, and have nothing to edit.
pub const TEMPERATURE: f32 = 0.7;

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
            preset: Preset::Speedy,
            policy: PolicySpec::speedy(),
            temperature: TEMPERATURE,
            length: 128,
            seed: 209,
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

    /// A policy to show beside this one: the other preset.
    pub fn other(self) -> Settings {
        self.with_preset(if self.preset == Preset::Speedy { Preset::Quality } else { Preset::Speedy })
    }

    /// The same with a policy's defaults; what every policy has stays.
    pub fn with_kind(self, kind: &str) -> Settings {
        let mut value = serde_json::Map::new();
        value.insert("kind".into(), kind.into());
        match serde_json::from_value::<PolicySpec>(Value::Object(value)) {
            Ok(policy) => {
                let policy = PolicySpec { method: policy.method, ..self.policy };
                Settings { preset: Preset::Custom, policy, ..self }
            }
            Err(_) => self,
        }
    }

    /// The same policy with the seed, length, temperature and sight of another text: what two texts that are compared
    /// have in common.
    pub fn sharing(self, common: &Settings) -> Settings {
        Settings { preset: self.preset, policy: self.policy, ..*common }
    }

    /// What the policy is called.
    pub fn name(&self) -> &'static str {
        match Preset::ALL.iter().find(|p| p.0 == self.preset && p.0 != Preset::Custom) {
            Some(preset) => preset.1,
            None => PolicySpec::parameters()
                .iter()
                .find(|i| i.kind == self.policy.kind())
                .map_or("Custom", |i| i.title),
        }
    }

    /// The choice of policy as an address carries it: a preset's name, or the policy with its parameters as JSON.
    pub fn choice(&self) -> String {
        match self.preset {
            Preset::Quality => "quality".into(),
            Preset::Speedy => "speedy".into(),
            // a policy is a struct of numbers and names
            Preset::Custom => serde_json::to_string(&self.policy).unwrap_or_default(),
        }
    }

    /// The name of the paper's preset that is set, if one is.
    pub fn published(&self) -> Option<&'static str> {
        Published::all().iter().find(|p| p.policy() == self.policy).map(|p| p.name)
    }

    /// The same with the policy of an address: what [`Settings::choice`] writes, or the name of a policy or of a paper's preset.
    pub fn with_choice(self, text: &str) -> Settings {
        match text {
            "quality" => self.with_preset(Preset::Quality),
            "speedy" => self.with_preset(Preset::Speedy),
            _ => match serde_json::from_str::<PolicySpec>(text) {
                Ok(policy) if policy.validate().is_ok() => {
                    Settings { preset: Preset::Custom, policy, ..self }
                }
                _ => match Published::all().iter().find(|p| p.name == text) {
                    Some(published) => {
                        Settings { preset: Preset::Custom, policy: published.policy(), ..self }
                    }
                    None => self.with_kind(text),
                },
            },
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
        let quality = Settings::default().with_preset(Preset::Quality);
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
    fn a_choice_survives_an_address() {
        let settings = Settings::default();
        let own = settings.with_kind("threshold").with_parameter("tau", json!(0.55));
        for chosen in [settings, settings.with_preset(Preset::Quality), own] {
            let back = Settings::default().with_preset(Preset::Quality).with_choice(&chosen.choice());
            assert_eq!(back, chosen);
        }
        assert_eq!(settings.with_choice("factor").policy.kind(), "factor");
        for wrong in ["", "none of them", "{}", r#"{"kind":"threshold","tau":7}"#] {
            assert_eq!(settings.with_choice(wrong), settings, "{wrong}");
        }
    }

    #[test]
    fn a_papers_preset_is_taken_by_name_and_recognised() {
        let settings = Settings::default();
        assert_eq!(settings.published(), Some("speedy"));
        for preset in Published::all() {
            let chosen = settings.with_choice(preset.name);
            assert_eq!((chosen.policy, chosen.published()), (preset.policy(), Some(preset.name)));
            assert_eq!(Settings::default().with_choice(&chosen.choice()).policy, chosen.policy);
        }
        let own = settings.with_choice("wino").with_parameter("tau_wide", json!(0.55));
        assert_eq!((own.published(), own.preset), (None, Preset::Custom));
    }

    #[test]
    fn what_is_shared_is_everything_but_the_policy() {
        let common = Settings { seed: 7, length: 40, temperature: 0.5, whole: true, ..Settings::default() };
        let own = Settings::default().with_preset(Preset::Speedy);
        let asked = own.sharing(&common);
        assert_eq!((asked.seed, asked.length, asked.temperature, asked.whole), (7, 40, 0.5, true));
        assert_eq!((asked.preset, asked.policy), (own.preset, own.policy));
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
