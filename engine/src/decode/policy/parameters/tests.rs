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
        (json!({"kind": "edit", "window": 0}), "window"),
        (json!({"kind": "edit", "window": 65}), "window"),
        (json!({"kind": "edit", "window_passes": 65}), "window_passes"),
        (json!({"kind": "remdm_quota", "extra_steps": 65537}), "extra_steps"),
        (json!({"kind": "remdm_quota", "remasked": 0}), "remasked"),
        (json!({"kind": "remdm_quota", "from": 1.5}), "from"),
        (json!({"kind": "factor", "credit": -0.1}), "credit is"),
        (json!({"kind": "factor", "credit": 101.0}), "credit is"),
        (json!({"kind": "factor", "credit_decay": 1.1}), "credit_decay"),
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
