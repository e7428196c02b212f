//! Learning rate inside a phase, and which phase a global step belongs to.

use crate::config::{LrSpec, RunConfig};

/// Learning rate of step `s` (from 0) of a phase of `steps` steps:
/// peak * min(1, (s + 1) / warmup) * (floor + (1 - floor) * shape(s / horizon)).
pub fn rate(spec: &LrSpec, s: u64, steps: u64) -> f64 {
    let horizon = spec.horizon.unwrap_or(steps).max(1) as f64;
    let x = (s as f64 / horizon).min(1.0);
    let shape = match spec.decay.as_str() {
        "constant" => 1.0,
        "linear" => 1.0 - x,
        _ => 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
    };
    let warm = if spec.warmup == 0 { 1.0 } else { ((s + 1) as f64 / spec.warmup as f64).min(1.0) };
    spec.peak * warm * (spec.floor + (1.0 - spec.floor) * shape)
}

/// (phase, step inside it) of global step `step`; None once the run is over.
pub fn phase_of(config: &RunConfig, step: u64) -> Option<(usize, u64)> {
    let mut first = 0;
    for (i, n) in config.phase_steps().into_iter().enumerate() {
        if step < first + n {
            return Some((i, step - first));
        }
        first += n;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_reference_formula() {
        let spec =
            LrSpec { peak: 1e-3, warmup: 100, decay: "cosine".into(), floor: 0.1, horizon: Some(1000) };
        for s in [0u64, 1, 50, 99, 100, 249, 999] {
            let want = 1e-3
                * (1f64).min((s as f64 + 1.0) / 100.0)
                * (0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * s as f64 / 1000.0).cos()));
            assert!((rate(&spec, s, 250) - want).abs() < 1e-15);
        }
    }
}
