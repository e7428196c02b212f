//! The table of policies, what the page shows beside every dial: unit, default, range, meaning, source. The defaults are tested to be
//! those that [`super::PolicySpec`] fills in.

use super::PolicySpec;
use super::common::COMMON;
use super::dial::{Parameter, PolicyInfo, choice, flag, number, optional, score};

const ORDER: &str = "which masked positions count as surest: by lot, by the token's probability, by the lead over the second, by low entropy, by probability weighed with how much is known around, or early and rare words first (pc, which needs the corpus' word counts beside the model)";

static POLICIES: [PolicyInfo; 15] = [
    PolicyInfo {
        kind: "ancestral",
        title: "Ancestral",
        meaning: "positions in random order, each token drawn from the model's own distribution",
        paper: "MDLM, arXiv 2406.07524; first hitting, arXiv 2409.02908",
        rule: "one masked i at random, x_i ~ p_i; on a grid of times every masked i with probability 1 - t'/t",
        parameters: &[
            choice(
                "form",
                "\"first_hitting\"",
                &["first_hitting", "time_grid"],
                "a fixed number of tokens each forward, or a grid of times at which each mask falls by its own lot",
            ),
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
        rule: "the k best scores, k = ⌊m / S⌋, one more in the first m mod S steps",
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
            choice(
                "schedule",
                "\"even\"",
                &["even", "dream"],
                "as many tokens in each step, or Dream's grid of times, which writes few first and most last",
            ),
            number(
                "alg_temp",
                "",
                "0",
                (0.0, 2.0),
                0.05,
                "positions are drawn from softmax(score / this) instead of taking the surest; 0 = no draw",
            ),
        ],
    },
    PolicyInfo {
        kind: "threshold",
        title: "Threshold",
        meaning: "write every token the model is surer of than tau, at least one",
        paper: "Fast-dLLM, arXiv 2505.22618",
        rule: "{ i : p_i(y_i) > τ }, else the best i",
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
        kind: "hierarchical",
        title: "Threshold, spread out",
        meaning: "write what the model is sure of, and the surest token of every gap: tokens far apart depend less on each other",
        paper: "hierarchical decoding of dInfer, arXiv 2510.08666",
        rule: "{ i : p_i(y_i) > τ } and of each run of masks the best i if p_i(y_i) > τ_low, else the best i",
        parameters: &[
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a token is written if its probability is above this",
            ),
            number(
                "tau_low",
                "probability",
                "0.4",
                (0.0, 1.0),
                0.01,
                "the surest token of a run of masks is written if its probability is above this",
            ),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "factor",
        title: "Factor",
        meaning: "write as many tokens as their confidences allow without changing the most probable text",
        paper: "Fast-dLLM, arXiv 2505.22618, theorem 1",
        rule: "the largest n with (k + 1)(1 - c_k) < f for 2 ≤ k ≤ n, c from the surest down",
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
        rule: "the largest U with Σ_U H_i - max_U H_i ≤ γ",
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
        kind: "klass",
        title: "Settled rows",
        meaning: "write what the model is sure of and has stopped changing its mind about",
        paper: "KLASS, arXiv 2511.05664",
        rule: "{ i : KL(p_i ‖ p_i before) < ε in the last n forwards and max p_i > τ }",
        parameters: &[
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a settled token is written if its probability is above this",
            ),
            number(
                "epsilon",
                "nats",
                "0.01",
                (0.0, 1.0),
                0.001,
                "settled: its distribution moved by less than this (KL) in each of the last forwards",
            ),
            number("history", "forwards", "2", (1.0, 8.0), 1.0, "how many forwards that must have been"),
            number(
                "steps_per_block",
                "steps",
                "0",
                (0.0, 256.0),
                1.0,
                "where nothing has settled, write as with fixed steps; 0 = one token a forward",
            ),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "edit",
        title: "Threshold with editing",
        meaning: "draft quickly, and overwrite words that no longer fit as the rest appears",
        paper: "LLaDA 2.1, arXiv 2602.08676",
        rule: "{ i masked : p_i(y_i) > τ }; x_i becomes argmax p_i where another has p > τ_edit",
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
        rule: "{ i masked : p_i(y_i) > τ }; x_i is masked where another has p > τ_remask",
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
        kind: "wino",
        title: "Wide in, narrow out",
        meaning: "draft boldly, and mask words again that the rest of the text does not bear out; each is judged without being read itself, for which a copy of the block made of masks is computed beside it",
        paper: "WINO, arXiv 2507.18578",
        rule: "{ i masked : p_i(y_i) > τ₁ }, at most ⌊0.7 m⌋ in 5..20; x_i is masked where p(x_i | all but x_i) < τ₂",
        parameters: &[
            number(
                "tau_wide",
                "probability",
                "0.6",
                (0.0, 1.0),
                0.01,
                "a masked token is written if its probability is above this",
            ),
            number(
                "tau_narrow",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a written token is masked again if its probability given all but itself is below this; 0 = never",
            ),
        ],
    },
    PolicyInfo {
        kind: "remdm",
        title: "Ancestral with remasking",
        meaning: "positions by lot, and written words may be masked again by lot, so that errors can be put right",
        paper: "ReMDM, arXiv 2503.00307",
        rule: "written → masked with σ; masked → written with (α_s - (1 - σ) α_t) / (1 - α_t)",
        parameters: &[
            choice(
                "variant",
                "\"cap\"",
                &["cap", "rescale", "conf", "loop", "forward_backward"],
                "how the chance to be masked again follows the time: capped, a share of the largest one, more for unsure words, in a phase of its own, or of the forward-backward sampler",
            ),
            number(
                "steps",
                "steps",
                "64",
                (1.0, 1024.0),
                1.0,
                "cells of the grid of times per block; cells in which nothing falls cost nothing",
            ),
            number(
                "eta",
                "probability",
                "0.04",
                (0.0, 1.0),
                0.001,
                "the chance itself, or its share of the largest one (rescale); 0 = no word is masked again",
            ),
            number(
                "t_on",
                "time",
                "0.55",
                (0.05, 0.99),
                0.01,
                "loop: time at which its phase begins (1 = all masked)",
            ),
            number("t_off", "time", "0.05", (0.01, 0.05), 0.01, "loop: time at which its phase ends"),
            number(
                "alpha_on",
                "share",
                "0.9",
                (0.01, 0.99),
                0.01,
                "loop: share of the text that is written in its phase",
            ),
        ],
    },
    PolicyInfo {
        kind: "draft_refine",
        title: "Draft, then refine",
        meaning: "write in blocks, then mask the least sure words again and write them in sight of the whole text",
        paper: "Diffusion in Diffusion, arXiv 2601.13599",
        rule: "mask the share γ with the lowest p when written; write it again in sight of all",
        parameters: &[
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "draft: a token is written if its probability is above this",
            ),
            number(
                "gamma",
                "share",
                "0.25",
                (0.0, 1.0),
                0.05,
                "share of the draft that is written anew; 0 = the draft alone",
            ),
            number(
                "refine_tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "refining: a token is written if its probability is above this",
            ),
            choice(
                "choose",
                "\"snapshot\"",
                &["snapshot", "random"],
                "which words: the least sure ones when they were written, or any, as a control",
            ),
        ],
    },
    PolicyInfo {
        kind: "best_of",
        title: "Best of several",
        meaning: "write several texts and keep the one that the model likes best; they differ above temperature 0",
        paper: "best-of-n sampling; scored as in arXiv 2601.20339",
        rule: "argmax over n texts of the mean ln p",
        parameters: &[
            number("n", "texts", "4", (1.0, 16.0), 1.0, "how many"),
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a token is written if its probability is above this",
            ),
            choice(
                "by",
                "\"chain\"",
                &["chain", "commits"],
                "the model's opinion of each finished block in sight of the rest, at a forward a block, or how sure it was while writing",
            ),
            number(
                "budget",
                "forwards",
                "0",
                (0.0, 2000.0),
                1.0,
                "no further text is begun that would exceed it; 0 = no limit",
            ),
        ],
    },
    PolicyInfo {
        kind: "order_token_search",
        title: "Order-token search",
        meaning: "several texts at once that differ in order and words; the best are kept block by block. Needs sight of the whole text and a temperature",
        paper: "Order-Token Search, arXiv 2601.20339",
        rule: "K texts, K children each a block; the K with the highest Σ ln p(block | the rest) stay",
        parameters: &[
            number("beams", "texts", "4", (1.0, 8.0), 1.0, "texts kept, and children of each"),
            number("block", "tokens", "32", (1.0, 256.0), 1.0, "tokens between two choices"),
            number(
                "tokens_per_forward",
                "tokens",
                "2",
                (1.0, 64.0),
                1.0,
                "tokens each text writes in a forward",
            ),
            flag("noised", "true", "the order is drawn as well, by the noise of the words"),
            flag("accumulate", "true", "earlier blocks count in the choice"),
            number(
                "budget",
                "forwards",
                "0",
                (0.0, 4000.0),
                1.0,
                "one text is kept from where more would exceed it; 0 = no limit",
            ),
        ],
    },
    PolicyInfo {
        kind: "left_to_right",
        title: "Left to right",
        meaning: "the first masked position, one token a forward; the only order of causal models",
        paper: "autoregressive decoding",
        rule: "x_i ~ p(x_i | x_1 .. x_{i-1})",
        parameters: &[],
    },
];

impl PolicySpec {
    /// The parameters that every policy has.
    pub fn common_parameters() -> &'static [Parameter] {
        &COMMON
    }
    /// Every policy with its parameters, in the order the page lists them.
    pub fn parameters() -> &'static [PolicyInfo] {
        &POLICIES
    }
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;
    use serde_json::{Value, json};

    /// Table and defaults agree, every range end is accepted, and unknown parameters are refused.
    #[test]
    fn the_table_tells_the_truth() {
        for info in PolicySpec::parameters() {
            let bare: PolicySpec = serde_json::from_value(json!({"kind": info.kind})).unwrap();
            assert_eq!(bare.kind(), info.kind);
            let full = serde_json::to_value(bare).unwrap();
            let all = info.parameters.iter().chain(PolicySpec::common_parameters());
            assert_eq!(full.as_object().unwrap().len(), all.clone().count() + 1, "{}", info.kind);
            for p in all {
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
                if p.range.is_none() && p.choices.is_empty() {
                    values.extend([json!(true), json!(false)]);
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
            (json!({"kind": "hierarchical", "tau_low": 1.5}), "tau_low"),
            (json!({"kind": "factor", "f": -1.0}), "f"),
            (json!({"kind": "edit", "tau_mask": -0.1}), "tau_mask"),
            (json!({"kind": "klass", "history": 0}), "history"),
            (json!({"kind": "draft_refine", "gamma": 1.1}), "gamma"),
            (json!({"kind": "best_of", "n": 0}), "n is"),
            (json!({"kind": "order_token_search", "beams": 0}), "beams"),
            (json!({"kind": "order_token_search", "block": 0}), "block"),
            (json!({"kind": "wino", "tau_wide": -0.1}), "tau_wide"),
            (json!({"kind": "wino", "tau_narrow": 1.1}), "tau_narrow"),
            (json!({"kind": "remdm", "steps": 0}), "steps"),
            (json!({"kind": "remdm", "eta": 1.5}), "eta"),
            (json!({"kind": "remdm", "t_on": 0.01}), "t_off"),
            (json!({"kind": "remdm", "alpha_on": 1.0}), "alpha_on"),
            (json!({"kind": "klass", "epsilon": -1.0}), "epsilon"),
            (json!({"kind": "top_prob", "alg_temp": -1.0}), "alg_temp"),
            (json!({"kind": "factor", "top_k": 0}), "top_k"),
            (json!({"kind": "factor", "cache_block": 0}), "cache_block"),
            (json!({"kind": "factor", "cache_delay": 65}), "cache_delay"),
            (json!({"kind": "factor", "top_p": 0.0}), "top_p"),
            (json!({"kind": "factor", "repetition": -1.0}), "repetition"),
            (json!({"kind": "factor", "repetition_window": 0}), "repetition_window"),
            (json!({"kind": "factor", "guidance": -2.0}), "guidance"),
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
        let tau = |s: PolicySpec| match s.method {
            Method::Edit { tau_edit, .. } => tau_edit,
            _ => unreachable!(),
        };
        assert_eq!(tau(read(json!({"kind": "edit"}))), Some(0.5));
        assert_eq!(tau(read(json!({"kind": "edit", "tau_edit": null}))), None);
        assert_eq!(tau(read(json!({"kind": "edit", "tau_edit": 0.0}))), Some(0.0));
    }
}
