//! Decoders under the names of their papers: the settings that were published, as far as a policy holds them. Block length,
//! temperature and number of steps belong to the request and are said in words.

use super::PolicySpec;

/// One of them. Wherever a policy is asked for, its name will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    pub title: &'static str,
    pub paper: &'static str,
    /// what else was published, and what differs
    pub about: &'static str,
    /// as JSON
    json: &'static str,
}

const fn preset(
    name: &'static str,
    title: &'static str,
    paper: &'static str,
    about: &'static str,
    json: &'static str,
) -> Preset {
    Preset { name, title, paper, about, json }
}

static ALL: [Preset; 23] = [
    preset(
        "quality",
        "LLaDA 2.1, quality",
        "arXiv 2602.08676",
        "blocks of 32, temperature 0",
        r#"{"kind": "edit", "tau_mask": 0.7, "tau_edit": 0.5}"#,
    ),
    preset(
        "speedy",
        "LLaDA 2.1, speedy",
        "arXiv 2602.08676",
        "blocks of 32, temperature 0; edits whenever another word is more probable",
        r#"{"kind": "edit", "tau_mask": 0.5, "tau_edit": 0.0}"#,
    ),
    preset(
        "llada2.1-sglang",
        "LLaDA 2.1 in SGLang",
        "arXiv 2602.08676",
        "joint threshold with its penalty on repeating the word before, and without our guard against returns; the penalty's size is ours",
        r#"{"kind": "edit", "tau_mask": 0.5, "tau_edit": 0.0, "max_returns": null, "repetition": 1.0, "repetition_side": "left"}"#,
    ),
    preset(
        "remask-not-replace",
        "Remask, do not replace",
        "arXiv 2604.18738",
        "LLaDA 2.1's trigger masks the word again",
        r#"{"kind": "remask", "tau_mask": 0.7, "tau_remask": 0.5}"#,
    ),
    preset(
        "mdlm",
        "MDLM",
        "arXiv 2406.07524",
        "temperature 1; steps are per block here",
        r#"{"kind": "ancestral", "form": "time_grid", "steps": 128}"#,
    ),
    preset(
        "first-hitting",
        "First-hitting sampler",
        "arXiv 2409.02908",
        "temperature 1: the model's own law",
        r#"{"kind": "ancestral"}"#,
    ),
    preset(
        "llada",
        "LLaDA",
        "arXiv 2502.09992",
        "low-confidence order, one token a forward, end of text last; blocks of 32 or the whole text, temperature 0",
        r#"{"kind": "top_prob", "steps_per_block": 0, "eos": "last"}"#,
    ),
    preset(
        "dream",
        "Dream",
        "arXiv 2508.15487",
        "order by entropy on its grid of times, as many steps as tokens; one block, temperature 0.2",
        r#"{"kind": "top_prob", "steps_per_block": 0, "schedule": "dream", "score": "entropy", "confidence": "drawn", "top_p": 0.95}"#,
    ),
    preset(
        "fast-dllm",
        "Fast-dLLM, threshold",
        "arXiv 2505.22618",
        "blocks of 32, temperature 0",
        r#"{"kind": "threshold", "tau": 0.9}"#,
    ),
    preset(
        "fast-dllm-factor",
        "Fast-dLLM, factor",
        "arXiv 2505.22618",
        "blocks of 32, temperature 0",
        r#"{"kind": "factor", "f": 1.0}"#,
    ),
    preset(
        "fast-dllm-dual",
        "Fast-dLLM, threshold and dual cache",
        "arXiv 2505.22618",
        "with the whole text in sight; blocks of 32, temperature 0",
        r#"{"kind": "threshold", "tau": 0.9, "cache": "dual", "cache_block": 32}"#,
    ),
    preset(
        "eb-sampler",
        "EB-Sampler",
        "arXiv 2505.24857",
        "the bound is that of other people's code; the paper's grid was not found",
        r#"{"kind": "entropy_bound", "gamma": 0.1}"#,
    ),
    preset(
        "klass",
        "KLASS",
        "arXiv 2511.05664",
        "LLaDA on GSM8K: blocks of 64, temperature 0; history over blocks where the whole text is computed",
        r#"{"kind": "klass", "tau": 0.6, "epsilon": 0.015, "history": 2, "carry": true}"#,
    ),
    preset(
        "pc-sampler",
        "PC-Sampler",
        "arXiv 2508.13021",
        "one token a forward; lambda 0.25, alpha 10",
        r#"{"kind": "top_prob", "steps_per_block": 0, "score": "pc"}"#,
    ),
    preset(
        "dinfer-hierarchical",
        "dInfer, hierarchical",
        "arXiv 2510.08666",
        "the low threshold is ours",
        r#"{"kind": "hierarchical", "tau": 0.9, "tau_low": 0.4}"#,
    ),
    preset(
        "creditdecoding",
        "CreditDecoding",
        "arXiv 2510.06133",
        "with the weights of dInfer's decoder",
        r#"{"kind": "threshold", "tau": 0.9, "credit": 0.7, "credit_decay": 0.8}"#,
    ),
    preset(
        "wino",
        "WINO",
        "arXiv 2507.18578",
        "LLaDA on GSM8K: blocks of 128, temperature 0",
        r#"{"kind": "wino", "tau_wide": 0.6, "tau_narrow": 0.9}"#,
    ),
    preset(
        "remdm-cap",
        "ReMDM, cap",
        "arXiv 2503.00307",
        "few steps; temperature 1",
        r#"{"kind": "remdm", "variant": "cap", "eta": 0.04, "top_p": 0.9}"#,
    ),
    preset(
        "remdm-rescale",
        "ReMDM, rescale",
        "arXiv 2503.00307",
        "temperature 1",
        r#"{"kind": "remdm", "variant": "rescale", "eta": 0.015, "top_p": 0.9}"#,
    ),
    preset(
        "remdm-loop",
        "ReMDM, loop",
        "arXiv 2503.00307",
        "temperature 1",
        r#"{"kind": "remdm", "variant": "loop", "eta": 0.02, "t_on": 0.55, "t_off": 0.05, "alpha_on": 0.9, "top_p": 0.9}"#,
    ),
    preset(
        "remdm-llada",
        "ReMDM for LLaDA",
        "arXiv 2503.00307",
        "Countdown: one block of 32 in 32 steps and 32 more, temperature 1",
        r#"{"kind": "remdm_quota", "steps_per_block": 0, "extra_steps": 32, "remasked": 1}"#,
    ),
    preset(
        "diffusion-in-diffusion",
        "Diffusion in Diffusion",
        "arXiv 2601.13599",
        "drafts in blocks of 4; needs a model that knows the whole text",
        r#"{"kind": "draft_refine", "gamma": 0.25}"#,
    ),
    preset(
        "order-token-search",
        "Order-Token Search",
        "arXiv 2601.20339",
        "needs the whole text in sight and a temperature",
        r#"{"kind": "order_token_search"}"#,
    ),
];

impl Preset {
    pub fn all() -> &'static [Preset] {
        &ALL
    }

    /// What it stands for.
    pub fn policy(&self) -> PolicySpec {
        serde_json::from_str(self.json).expect("every preset is read by a test")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every preset is a policy within its ranges, every name is one preset's, and none takes a kind's name for something else.
    #[test]
    fn presets_are_policies() {
        let mut names = std::collections::BTreeSet::new();
        for preset in Preset::all() {
            preset.policy().validate().unwrap();
            assert!(names.insert(preset.name), "{}", preset.name);
            assert_eq!(PolicySpec::named(preset.name), Some(preset.policy()));
            let by_name: PolicySpec = serde_json::from_value(preset.name.into()).unwrap();
            assert_eq!(by_name, preset.policy());
            if let Some(info) = PolicySpec::parameters().iter().find(|i| i.kind == preset.name) {
                assert_eq!(preset.policy().kind(), info.kind);
            }
        }
        for info in PolicySpec::parameters() {
            assert_eq!(PolicySpec::named(info.kind).map(|p| p.kind()), Some(info.kind));
        }
        assert_eq!(PolicySpec::named("no such paper"), None);
        let error = serde_json::from_value::<PolicySpec>("winoo".into()).unwrap_err().to_string();
        assert!(
            error.contains("winoo") && error.contains("remdm-loop") && error.contains("klass"),
            "{error}"
        );
    }

    /// LLaDA 2.1's two modes are those of its model card.
    #[test]
    fn the_model_cards_modes() {
        let value = |p: PolicySpec| serde_json::to_value(p).unwrap();
        for (p, mask, edit) in [(PolicySpec::quality(), 0.7, 0.5), (PolicySpec::speedy(), 0.5, 0.0)] {
            let v = value(p);
            assert!((v["tau_mask"].as_f64().unwrap() - mask).abs() < 1e-6, "{v}");
            assert!((v["tau_edit"].as_f64().unwrap() - edit).abs() < 1e-6, "{v}");
            assert_eq!((v["max_post"].clone(), v["max_returns"].clone()), (16.into(), 1.into()));
        }
    }
}
