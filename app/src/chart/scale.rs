//! Axes: data value <-> pixel, linear or logarithmic, and where the ticks go.
//!
//! A domain is always finite with low < high; on a logarithmic axis low > 0. Degenerate data (one value, none, all
//! non-positive on a log axis) is widened rather than refused.

/// How values are spread over pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    /// pixel of `low` and of `high`
    pub from: f64,
    pub to: f64,
}

impl Scale {
    /// `domain` as measured; widened where it is empty.
    pub fn new(domain: Option<(f64, f64)>, log: bool, from: f64, to: f64) -> Scale {
        let (mut low, mut high) = domain.unwrap_or(if log { (1.0, 10.0) } else { (0.0, 1.0) });
        if log && low <= 0.0 {
            low = if high > 0.0 { high * 1e-3 } else { 1.0 };
        }
        if high <= low {
            (low, high) = if log {
                (low / 2.0, low * 2.0)
            } else {
                let pad = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
                (low - pad, low + pad)
            };
        }
        Scale { low, high, log, from, to }
    }

    /// Adds a share of the span on both sides (of its logarithm on a log axis).
    pub fn padded(mut self, share: f64) -> Scale {
        if self.log {
            let pad = (self.high / self.low).powf(share);
            (self.low, self.high) = (self.low / pad, self.high * pad);
        } else {
            let pad = (self.high - self.low) * share;
            (self.low, self.high) = (self.low - pad, self.high + pad);
        }
        self
    }

    /// Pixel of a value; non-positive values on a log axis fall on the low edge.
    pub fn map(&self, v: f64) -> f64 {
        let share = if self.log {
            let v = v.max(self.low * 1e-6).max(f64::MIN_POSITIVE);
            (v / self.low).ln() / (self.high / self.low).ln()
        } else {
            (v - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Value of a pixel.
    pub fn invert(&self, pixel: f64) -> f64 {
        let share = (pixel - self.from) / (self.to - self.from);
        if self.log {
            self.low * (self.high / self.low).powf(share)
        } else {
            self.low + share * (self.high - self.low)
        }
    }

    /// Between two and about `target` round values inside the domain, with the step that separates them (0 on a
    /// log axis, where labels carry their own precision).
    pub fn ticks(&self, target: usize) -> (Vec<f64>, f64) {
        let target = target.max(2);
        if self.log && self.high / self.low >= 8.0 {
            return (log_ticks(self.low, self.high, target), 0.0);
        }
        let step = nice_step((self.high - self.low) / target as f64);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        ((first..=last.min(first + 4 * target as i64)).map(|i| i as f64 * step).collect(), step)
    }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `raw`.
pub fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    for m in [1.0, 2.0, 2.5, 5.0] {
        if m * power >= raw * (1.0 - 1e-9) {
            return m * power;
        }
    }
    10.0 * power
}

fn log_ticks(low: f64, high: f64, target: usize) -> Vec<f64> {
    let (a, b) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let inside = |v: &f64| *v >= low * (1.0 - 1e-9) && *v <= high * (1.0 + 1e-9);
    let with = |steps: &[f64], stride: i32| -> Vec<f64> {
        (a..=b)
            .filter(|e| (e - a) % stride == 0)
            .flat_map(|e| steps.iter().map(move |m| m * 10f64.powi(e)))
            .filter(inside)
            .collect()
    };
    for steps in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0][..], &[1.0][..]] {
        let ticks = with(steps, 1);
        if ticks.len() <= target + 2 && ticks.len() >= 2 {
            return ticks;
        }
    }
    let stride = ((b - a) as usize).div_ceil(target).max(1) as i32;
    with(&[1.0], stride)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(nice_step(0.9), 1.0);
        assert_eq!(nice_step(1.1), 2.0);
        assert_eq!(nice_step(23.0), 25.0);
        assert_eq!(nice_step(26.0), 50.0);
        assert_eq!(nice_step(51.0), 100.0);
    }

    #[test]
    fn empty_and_single_domains_are_widened() {
        for log in [false, true] {
            for d in [None, Some((3.0, 3.0)), Some((0.0, 0.0)), Some((-2.0, -2.0)), Some((-5.0, 7.0))] {
                let s = Scale::new(d, log, 0.0, 100.0);
                assert!(s.low < s.high && (!log || s.low > 0.0), "{log} {d:?} {s:?}");
                assert!(s.map(s.low).is_finite() && s.map(-1.0).is_finite());
            }
        }
    }

    #[test]
    fn log_ticks_stay_readable() {
        let s = Scale::new(Some((1.0, 2e6)), true, 0.0, 600.0);
        let (t, _) = s.ticks(6);
        assert!((2..=8).contains(&t.len()), "{t:?}");
        assert_eq!(t[0], 1.0);
        let (t, _) = Scale::new(Some((1e-9, 1e12)), true, 0.0, 600.0).ticks(5);
        assert!((2..=8).contains(&t.len()), "{t:?}");
    }

    proptest! {
        #[test]
        fn invert_undoes_map(low in -1e6f64..1e6, span in 1e-3f64..1e6, share in 0f64..1.0, log: bool) {
            let low = if log { low.abs() + 1e-3 } else { low };
            let s = Scale::new(Some((low, low + span)), log, 40.0, 640.0);
            let v = s.invert(40.0 + 600.0 * share);
            prop_assert!((s.map(v) - (40.0 + 600.0 * share)).abs() < 1e-4);
        }

        #[test]
        fn ticks_lie_inside_and_ascend(low in -1e5f64..1e5, span in 1e-2f64..1e6, log: bool) {
            let low = if log { low.abs() + 1e-3 } else { low };
            let s = Scale::new(Some((low, low + span)), log, 0.0, 500.0);
            let (t, _) = s.ticks(6);
            prop_assert!(t.len() <= 26);
            prop_assert!(t.windows(2).all(|w| w[0] < w[1]));
            let eps = (s.high - s.low) * 1e-6;
            prop_assert!(t.iter().all(|v| *v >= s.low - eps && *v <= s.high + eps));
        }
    }
}
