//! What a dial is: a policy and a parameter as people meet them, and the short forms that the tables are written in.

use serde::Serialize;

use super::Score;

/// One policy as people meet it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyInfo {
    /// the `kind` in recipes and URLs
    pub kind: &'static str,
    pub title: &'static str,
    /// one line
    pub meaning: &'static str,
    pub paper: &'static str,
    /// what is written in a forward, as a formula
    pub rule: &'static str,
    pub parameters: &'static [Parameter],
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parameter {
    pub name: &'static str,
    /// "" for plain numbers and choices
    pub unit: &'static str,
    /// as JSON: a number, a quoted choice, or null
    pub default: &'static str,
    /// inclusive range of numbers, meant for a slider
    pub range: Option<(f64, f64)>,
    /// step of the slider; 1 for whole numbers
    pub step: f64,
    /// null is allowed and means "off"
    pub optional: bool,
    /// names to choose from instead of a number; without them and without a range it is yes or no
    pub choices: &'static [&'static str],
    pub meaning: &'static str,
}

pub(super) const fn number(
    name: &'static str,
    unit: &'static str,
    default: &'static str,
    range: (f64, f64),
    step: f64,
    meaning: &'static str,
) -> Parameter {
    Parameter { name, unit, default, range: Some(range), step, optional: false, choices: &[], meaning }
}
pub(super) const fn optional(p: Parameter) -> Parameter {
    Parameter { optional: true, ..p }
}
pub(super) const fn choice(
    name: &'static str,
    default: &'static str,
    choices: &'static [&'static str],
    meaning: &'static str,
) -> Parameter {
    Parameter { name, unit: "", default, range: None, step: 0.0, optional: false, choices, meaning }
}
/// Yes or no: no range, no choices.
pub(super) const fn flag(name: &'static str, default: &'static str, meaning: &'static str) -> Parameter {
    choice(name, default, &[], meaning)
}
pub(super) const fn score(default: &'static str, meaning: &'static str) -> Parameter {
    choice("score", default, &Score::NAMES, meaning)
}
