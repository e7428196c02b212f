//! What the page shows beside every dial: unit, default, range, meaning, source. The defaults are tested to be
//! those that [`super::PolicySpec`] fills in.

use serde::Serialize;

use super::{PolicySpec, Score};

/// One policy as people meet it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyInfo {
    /// the `kind` in recipes and URLs
    pub kind: &'static str,
    pub title: &'static str,
    /// one line
    pub meaning: &'static str,
    pub paper: &'static str,
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
    /// names to choose from instead of a number
    pub choices: &'static [&'static str],
    pub meaning: &'static str,
}

const fn number(
    name: &'static str,
    unit: &'static str,
    default: &'static str,
    range: (f64, f64),
    step: f64,
    meaning: &'static str,
) -> Parameter {
    Parameter { name, unit, default, range: Some(range), step, optional: false, choices: &[], meaning }
}
const fn optional(p: Parameter) -> Parameter {
    Parameter { optional: true, ..p }
}
const fn score(default: &'static str, meaning: &'static str) -> Parameter {
    Parameter {
        name: "score",
        unit: "",
        default,
        range: None,
        step: 0.0,
        optional: false,
        choices: &Score::NAMES,
        meaning,
    }
}

const ORDER: &str = "which masked positions count as surest: by lot, by the token's probability, by the lead over the second, or by low entropy";

static POLICIES: [PolicyInfo; 8] = [
    PolicyInfo {
        kind: "ancestral",
        title: "Ancestral",
        meaning: "positions in random order, each token drawn from the model's own distribution",
        paper: "MDLM, arXiv 2406.07524; first hitting, arXiv 2409.02908",
        parameters: &[
            Parameter {
                name: "form",
                unit: "",
                default: "\"first_hitting\"",
                range: None,
                step: 0.0,
                optional: false,
                choices: &["first_hitting", "time_grid"],
                meaning: "a fixed number of tokens each forward, or a grid of times at which each mask falls by its own lot",
            },
            number(
                "tokens_per_forward",
                "tokens",
                "1",
                (1.0, 64.0),
                1.0,
                "first hitting: tokens written together; 1 is exact, more is faster",
            ),
            number(
                "steps",
                "steps",
                "128",
                (1.0, 1024.0),
                1.0,
                "time grid: cells per block; cells in which nothing falls cost nothing",
            ),
        ],
    },
    PolicyInfo {
        kind: "top_prob",
        title: "Fixed steps",
        meaning: "a fixed number of steps per block, the surest positions first",
        paper: "LLaDA, arXiv 2502.09992",
        parameters: &[
            number(
                "steps_per_block",
                "steps",
                "8",
                (0.0, 256.0),
                1.0,
                "forwards per block; 0 = one token a forward",
            ),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "threshold",
        title: "Threshold",
        meaning: "write every token the model is surer of than tau, at least one",
        paper: "Fast-dLLM, arXiv 2505.22618",
        parameters: &[
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a token is written if its probability is above this; 1 = one token a forward",
            ),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "factor",
        title: "Factor",
        meaning: "write as many tokens as their confidences allow without changing the most probable text",
        paper: "Fast-dLLM, arXiv 2505.22618, theorem 1",
        parameters: &[number(
            "f",
            "",
            "1",
            (0.0, 4.0),
            0.05,
            "n tokens are written while (n + 1)(1 - confidence) stays below this; 1 is the proven bound",
        )],
    },
    PolicyInfo {
        kind: "entropy_bound",
        title: "Entropy bound",
        meaning: "write tokens together while what they could tell about each other stays below gamma",
        paper: "EB-Sampler, arXiv 2505.24857",
        parameters: &[
            number(
                "gamma",
                "nats",
                "0.1",
                (-0.1, 4.0),
                0.01,
                "bound on the entropies of the tokens written together, without the largest; below 0 = one token a forward",
            ),
            score("\"entropy\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "edit",
        title: "Threshold with editing",
        meaning: "draft quickly, and overwrite words that no longer fit as the rest appears",
        paper: "LLaDA 2.1, arXiv 2602.08676",
        parameters: &[
            number(
                "tau_mask",
                "probability",
                "0.7",
                (0.0, 1.0),
                0.01,
                "a masked token is written if its probability is above this",
            ),
            optional(number(
                "tau_edit",
                "probability",
                "0.5",
                (0.0, 1.0),
                0.01,
                "a written token is replaced if another one is most probable and above this; 0 = whenever another is most probable; off = never",
            )),
            number(
                "max_post",
                "forwards",
                "16",
                (0.0, 64.0),
                1.0,
                "most forwards that only edit, once a block has no masks",
            ),
            optional(number(
                "max_returns",
                "times",
                "1",
                (0.0, 16.0),
                1.0,
                "how often a position may return to a word it held before; off = no guard (as published)",
            )),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "remask",
        title: "Threshold with remasking",
        meaning: "draft quickly, and mask words again that no longer fit, to write them when more is known",
        paper: "remask instead of replace, arXiv 2604.18738",
        parameters: &[
            number(
                "tau_mask",
                "probability",
                "0.7",
                (0.0, 1.0),
                0.01,
                "a masked token is written if its probability is above this",
            ),
            number(
                "tau_remask",
                "probability",
                "0.5",
                (0.0, 1.0),
                0.01,
                "a written token is masked again if another one is most probable and above this",
            ),
            number(
                "max_post",
                "forwards",
                "16",
                (0.0, 64.0),
                1.0,
                "most forwards that only look again, once a block has no masks",
            ),
            number("max_remasks", "times", "2", (0.0, 16.0), 1.0, "how often a position may be masked again"),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "left_to_right",
        title: "Left to right",
        meaning: "the first masked position, one token a forward; the only order of causal models",
        paper: "autoregressive decoding",
        parameters: &[],
    },
];

impl PolicySpec {
    /// Every policy with its parameters, in the order the page lists them.
    pub fn parameters() -> &'static [PolicyInfo] {
        &POLICIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Table and defaults agree, every range end is accepted, and unknown parameters are refused.
    #[test]
    fn the_table_tells_the_truth() {
        for info in PolicySpec::parameters() {
            let bare: PolicySpec = serde_json::from_value(json!({"kind": info.kind})).unwrap();
            assert_eq!(bare.kind(), info.kind);
            let full = serde_json::to_value(bare).unwrap();
            assert_eq!(full.as_object().unwrap().len(), info.parameters.len() + 1, "{}", info.kind);
            for p in info.parameters {
                let told: Value = serde_json::from_str(p.default).unwrap();
                let same = match (&told, &full[p.name]) {
                    (Value::Number(a), Value::Number(b)) => {
                        a.as_f64().unwrap() as f32 == b.as_f64().unwrap() as f32
                    }
                    (a, b) => a == b,
                };
                assert!(same, "{}.{}: {told} but {}", info.kind, p.name, full[p.name]);
                let mut values: Vec<Value> = p.choices.iter().map(|c| json!(c)).collect();
                if let Some((a, b)) = p.range {
                    let whole = p.step == 1.0;
                    values.extend([a, b].map(|v| if whole { json!(v as u64) } else { json!(v) }));
                }
                if p.optional {
                    values.push(Value::Null);
                }
                for v in values {
                    let mut with = full.clone();
                    with[p.name] = v.clone();
                    let spec: PolicySpec = serde_json::from_value(with).unwrap();
                    spec.validate().unwrap_or_else(|e| panic!("{}.{} = {v}: {e}", info.kind, p.name));
                }
            }
            let mut odd = full.clone();
            odd["no_such_dial"] = json!(1);
            assert!(serde_json::from_value::<PolicySpec>(odd).is_err(), "{}", info.kind);
        }
    }

    #[test]
    fn ranges_are_enforced_by_name() {
        let bad = [
            (json!({"kind": "threshold", "tau": 1.5}), "tau"),
            (json!({"kind": "ancestral", "tokens_per_forward": 0}), "tokens_per_forward"),
            (json!({"kind": "ancestral", "steps": 0}), "steps"),
            (json!({"kind": "factor", "f": -1.0}), "f"),
            (json!({"kind": "edit", "tau_mask": -0.1}), "tau_mask"),
            (json!({"kind": "edit", "tau_edit": 1.01}), "tau_edit"),
        ];
        for (value, name) in bad {
            let spec: PolicySpec = serde_json::from_value(value).unwrap();
            let message = spec.validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    /// null, absent and 0 are three different things.
    #[test]
    fn tau_edit_is_an_option() {
        let read = |v| serde_json::from_value::<PolicySpec>(v).unwrap();
        let tau = |s| match s {
            PolicySpec::Edit { tau_edit, .. } => tau_edit,
            _ => unreachable!(),
        };
        assert_eq!(tau(read(json!({"kind": "edit"}))), Some(0.5));
        assert_eq!(tau(read(json!({"kind": "edit", "tau_edit": null}))), None);
        assert_eq!(tau(read(json!({"kind": "edit", "tau_edit": 0.0}))), Some(0.0));
    }
}
