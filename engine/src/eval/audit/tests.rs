//! What the audit must accept, and what it must catch.

use super::*;

fn run(phase: &str, claims: &str) -> Report {
    let text = format!(
        "name = \"a\"\n[data]\ntrain = \"x\"\npacking = {{ length = 64 }}\n[batch]\nrows = 4\n{claims}\n[[phase]]\n\
         tokens = 4096\nlr = {{ peak = 1e-3 }}\n{phase}\n"
    );
    recipe(&RunConfig::from_toml(&text).unwrap()).unwrap()
}

fn find<'a>(r: &'a Report, part: &str, subject: &str) -> &'a Finding {
    let same = |f: &&Finding| f.part == part && f.subject.starts_with(subject);
    r.findings.iter().find(same).unwrap_or_else(|| panic!("{part} {subject}: {}", r.table(true)))
}

#[test]
fn plain_objectives_are_what_they_claim() {
    use Standing::{Bound, Exact, Neither};
    let cases = [
        ("objective = \"ar\"", "exact", Exact, Exact),
        ("objective = \"mdlm\"", "bound", Bound, Neither),
        ("objective = \"mdlm\"\nschedule = \"cosine\"", "bound", Bound, Neither),
        ("objective = \"mdlm\"\ncomplementary = true", "bound", Bound, Neither),
        ("objective = \"mdlm\"\nshift = true", "bound", Bound, Neither),
        ("objective = \"block\"\nblock_size = [8, 0]\nshift = true", "bound", Bound, Neither),
        // blocks of one are left to right, whatever the policy
        ("objective = \"block\"\nblock_size = 1\nshift = true", "exact", Exact, Exact),
    ];
    for (phase, claim, objective, sampler) in cases {
        let r = run(phase, &format!("[claims]\nobjective = \"{claim}\"\nheadline = \"bound\""));
        assert!(r.passed, "{phase}: {}", r.table(true));
        let loss = r.findings.iter().filter(|f| f.part == "objective").map(|f| f.proved).min().unwrap();
        assert_eq!(loss, objective, "{}", r.table(true));
        let default = r.findings.iter().find(|f| f.subject.ends_with("(default)")).unwrap();
        assert_eq!(default.proved, sampler, "{}", r.table(true));
    }
}

/// The sampler by confidence is not what the NELBO bounds; the uniform order is.
#[test]
fn samplers_are_told_apart() {
    let r = run("objective = \"block\"\nblock_size = 8\nshift = true", "");
    assert!(r.passed, "{}", r.table(true));
    assert_eq!(find(&r, "sampler", "threshold").proved, Standing::Neither);
    assert_eq!(find(&r, "sampler", "ancestral").proved, Standing::Bound);
    assert!(find(&r, "sampler", "left_to_right").says.contains("leftmost"), "{}", r.table(true));
    assert!(find(&r, "sampler", "top_prob").says.contains("entropy"), "{}", r.table(true));
    let claims = run("objective = \"block\"\nblock_size = 8", "[claims]\nsampler = \"bound\"");
    assert!(!claims.passed);
}

#[test]
fn claims_beyond_the_proof_fail() {
    let cases: [(&str, &[&str]); 4] = [
        ("objective = \"mdlm\"\nweighting = \"uniform\"", &["objective = \"bound\""]),
        ("objective = \"mdlm\"\nt = [0.3, 0.8]", &["objective = \"bound\""]),
        ("objective = \"mdlm\"", &["objective = \"exact\"", "headline = \"exact\""]),
        (
            "objective = \"block\"\nblock_size = 8\nedit = { rate = 0.2 }",
            &["objective = \"bound\"", "sampler = \"bound\""],
        ),
    ];
    for (phase, beyond) in cases {
        let without = run(phase, "");
        assert!(without.passed, "{phase}: {}", without.table(true));
        for claims in beyond {
            let r = run(phase, &format!("[claims]\n{claims}"));
            assert!(!r.passed, "{phase} {claims}: {}", r.table(true));
        }
    }
}

#[test]
fn editing_is_measured_by_three_numbers() {
    let r = run("objective = \"block\"\nblock_size = 8\nedit = { rate = 0.2 }", "");
    assert!(r.passed, "{}", r.table(true));
    assert_eq!(find(&r, "estimator", "nelbo_block").proved, Standing::Bound);
    assert_eq!(find(&r, "estimator", "nelbo_hybrid_loo").proved, Standing::Bound);
    assert_eq!(find(&r, "sampler", "edit").proved, Standing::Neither);
    assert_eq!(find(&r, "objective", "training loss").proved, Standing::Neither);
}

/// Phases under mask and uniform noise: with the exact weights the loss is the bound of their process, with others it is
/// not; the headline is their own bound, and no decoder here samples their law.
#[test]
fn mixed_noise_is_a_bound_of_its_own_process() {
    use Standing::{Bound, Neither};
    for (phase, extra) in [
        ("objective = \"mdlm\"", "p_uniform = 0.2, weighting = \"nelbo\""),
        ("objective = \"mdlm\"\nshift = true", "p_uniform = 1.0, weighting = \"nelbo\""),
        ("objective = \"block\"\nblock_size = 8\nshift = true", "p_uniform = 0.1, weighting = \"nelbo\""),
        ("objective = \"block\"\nblock_size = 8", "p_uniform = 0.2, weighting = \"dynamic\""),
        ("objective = \"mdlm\"", "p_uniform = 0.2, weighting = \"clip\""),
    ] {
        let phase = format!("{phase}\nhybrid = {{ {extra} }}");
        let exact = extra.contains("nelbo");
        let r = run(&phase, "[claims]\nheadline = \"bound\"\n[sample]\nlength = 0");
        assert!(r.passed, "{phase}: {}", r.table(true));
        let objective = find(&r, "objective", "training loss");
        assert_eq!(objective.proved, if exact { Bound } else { Neither }, "{}", r.table(true));
        let name = if extra.contains("1.0") { "nelbo_unif" } else { "nelbo_hybrid(" };
        assert_eq!(find(&r, "estimator", name).proved, Bound, "{}", r.table(true));
        assert!(r.findings.iter().filter(|f| f.part == "sampler").all(|f| f.proved == Neither));
        let claimed = run(&phase, "[claims]\nobjective = \"bound\"\n[sample]\nlength = 0");
        assert_eq!(claimed.passed, exact, "{}", claimed.table(true));
    }
}
