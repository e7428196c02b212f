//! One sentence about two runs that claims only what the intervals support.
//!
//! With d = a - b and s = sqrt(s_a^2 + s_b^2), the 95 % interval is d ± 1.96 s. It covers the noise of the
//! validation rows and draws, taken as independent; it does not cover the training seed, and the sentence says so.
//! Numbers from different estimators, or over different validation tokens, are not compared at all.

use hilda_engine::record::Estimate;

use crate::chart::format;

/// Half-width of a 95 % interval in standard errors.
const Z95: f64 = 1.96;

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// no comparison is possible, and why
    Refused(String),
    /// the interval includes 0
    NoDifference(String),
    /// the interval excludes 0
    Difference(String),
}

impl Verdict {
    pub fn text(&self) -> &str {
        match self {
            Verdict::Refused(s) | Verdict::NoDifference(s) | Verdict::Difference(s) => s,
        }
    }
}

/// A run's name, its last estimate and what it cost to get there.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub name: String,
    pub estimate: Option<Estimate>,
    /// training tokens seen
    pub tokens: u64,
}

/// Judges `a` against `b`. Lower is better.
pub fn verdict(a: &Candidate, b: &Candidate) -> Verdict {
    let (Some(x), Some(y)) = (&a.estimate, &b.estimate) else {
        let who = if a.estimate.is_none() { &a.name } else { &b.name };
        return Verdict::Refused(format!("{who} has no validation yet, so there is nothing to compare."));
    };
    if x.estimator != y.estimator {
        return Verdict::Refused(format!(
            "Not comparable: {} was judged by {} and {} by {}. Different estimators bound different quantities.",
            a.name, x.estimator, b.name, y.estimator
        ));
    }
    if x.tokens != y.tokens || x.rows != y.rows {
        return Verdict::Refused(format!(
            "Not comparable: {} counts {} validation tokens in {} rows, {} counts {} in {}. The text or the tokenizer differs.",
            a.name,
            format::count(x.tokens),
            format::count(x.rows),
            b.name,
            format::count(y.tokens),
            format::count(y.rows)
        ));
    }
    if ![x.value, y.value].into_iter().all(f64::is_finite) {
        return Verdict::Refused("Not comparable: one of the estimates is not a number.".into());
    }
    if ![x.stderr, y.stderr].into_iter().all(|s| s.is_finite() && s > 0.0) {
        return Verdict::Refused(
            "Not comparable: an estimate has no standard error, so no interval can be given.".into(),
        );
    }
    let d = x.value - y.value;
    let half = Z95 * x.stderr.hypot(y.stderr);
    let interval = format!(
        "{} to {} nats per token, 95 %, {}",
        signed(d - half, half),
        signed(d + half, half),
        x.estimator
    );
    if d.abs() <= half {
        return Verdict::NoDifference(format!(
            "No difference shown between {} and {}: the interval of the difference includes 0 ({interval}).{}",
            a.name,
            b.name,
            data_note(a, b)
        ));
    }
    let (better, worse) = if d < 0.0 { (a, b) } else { (b, a) };
    Verdict::Difference(format!(
        "{} is better than {} by {} (difference {} − {}: {interval}).{} One training seed each: the interval does not cover the seed.",
        better.name,
        worse.name,
        format::plus_minus(d.abs(), half / Z95),
        a.name,
        b.name,
        data_note(a, b)
    ))
}

/// What a reader must know if the two saw different amounts of data.
fn data_note(a: &Candidate, b: &Candidate) -> String {
    if a.tokens == b.tokens {
        return String::new();
    }
    format!(
        " They saw different amounts of data ({} and {} tokens), so this is not a comparison at equal data.",
        format::short(a.tokens as f64),
        format::short(b.tokens as f64)
    )
}

/// "+0.012", with digits to match the interval's half-width.
fn signed(v: f64, half: f64) -> String {
    let decimals = (1 - half.log10().floor() as i32).clamp(0, 6) as usize;
    format!("{v:+.decimals$}").replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, estimator: &str, value: f64, stderr: f64) -> Candidate {
        Candidate {
            name: name.into(),
            tokens: 1_000_000,
            estimate: Some(Estimate {
                estimator: estimator.into(),
                value,
                stderr,
                tokens: 16_384,
                rows: 64,
                k: 8,
                seed: 1,
                bits_per_byte: None,
            }),
        }
    }

    #[test]
    fn a_clear_difference_names_the_lower_one() {
        let v = verdict(&run("a", "ar", 3.5, 0.01), &run("b", "ar", 3.0, 0.01));
        let Verdict::Difference(s) = v else { panic!("{v:?}") };
        assert!(s.starts_with("b is better than a by 0.500 ± 0.014"), "{s}");
        assert!(s.contains("+0.472 to +0.528") && s.contains("seed"), "{s}");
    }

    #[test]
    fn an_interval_with_zero_shows_nothing() {
        let v = verdict(&run("a", "ar", 3.02, 0.01), &run("b", "ar", 3.0, 0.01));
        let Verdict::NoDifference(s) = v else { panic!("{v:?}") };
        assert!(s.contains("−0.008 to +0.048"), "{s}");
        // exactly on the edge claims nothing
        let edge = 1.96 * 0.01f64.hypot(0.01);
        let v = verdict(&run("a", "ar", edge, 0.01), &run("b", "ar", 0.0, 0.01));
        assert!(matches!(v, Verdict::NoDifference(_)));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let a = run("a", "ar", 3.0, 0.01);
        let refused = |b: &Candidate| matches!(verdict(&a, b), Verdict::Refused(_));
        assert!(refused(&run("b", "nelbo_t(8)", 2.0, 0.01)));
        assert!(refused(&run("b", "ar", 2.0, 0.0)));
        assert!(refused(&run("b", "ar", f64::NAN, 0.01)));
        assert!(refused(&Candidate { estimate: None, ..run("b", "ar", 2.0, 0.01) }));
        let mut other_text = run("b", "ar", 2.0, 0.01);
        other_text.estimate.as_mut().unwrap().tokens = 9;
        assert!(refused(&other_text));
    }

    #[test]
    fn unequal_data_is_said() {
        let v = verdict(
            &run("a", "ar", 3.5, 0.01),
            &Candidate { tokens: 2_000_000, ..run("b", "ar", 3.0, 0.01) },
        );
        assert!(v.text().contains("1M and 2M tokens"), "{}", v.text());
    }
}
