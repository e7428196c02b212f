//! What a chart draws: named series of points that know their position on every x axis.
//!
//! Points are in ascending order of step (and so of tokens and time); a value may be not-a-number, which breaks the
//! line there instead of hiding the failure.

use std::sync::Arc;

use super::format;

/// The x axes of a training curve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XAxis {
    #[default]
    Step,
    /// clean data tokens seen
    Tokens,
    /// seconds of training
    Time,
    /// model FLOPs spent
    Compute,
}

impl XAxis {
    pub const ALL: [XAxis; 4] = [XAxis::Step, XAxis::Tokens, XAxis::Time, XAxis::Compute];

    /// The word used in addresses and menus.
    pub fn word(self) -> &'static str {
        match self {
            XAxis::Step => "step",
            XAxis::Tokens => "tokens",
            XAxis::Time => "time",
            XAxis::Compute => "compute",
        }
    }
    pub fn from_word(word: &str) -> XAxis {
        XAxis::ALL.into_iter().find(|a| a.word() == word).unwrap_or_default()
    }
    /// The axis title.
    pub fn title(self) -> &'static str {
        match self {
            XAxis::Step => "optimiser step",
            XAxis::Tokens => "training tokens seen",
            XAxis::Time => "training time",
            XAxis::Compute => "training compute, model FLOPs",
        }
    }
    /// A value on this axis, in words.
    pub fn say(self, v: f64) -> String {
        match self {
            XAxis::Step => format!("step {}", format::count(v.round().max(0.0) as u64)),
            XAxis::Tokens => format!("{} tokens", format::short(v)),
            XAxis::Time => format::duration(v),
            XAxis::Compute => format::flops(v),
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub step: f64,
    pub tokens: f64,
    /// seconds of training up to here
    pub time: f64,
    /// model FLOPs spent up to here; not-a-number where nobody counted
    pub compute: f64,
    pub y: f64,
    /// lower and upper edge of the band or whisker; equal to `y` where there is none
    pub low: f64,
    pub high: f64,
}

impl Point {
    /// A point without a band, whose compute nobody counted.
    pub fn new(step: f64, tokens: f64, time: f64, y: f64) -> Point {
        Point { step, tokens, time, compute: f64::NAN, y, low: y, high: y }
    }
    pub fn with_compute(self, compute: f64) -> Point {
        Point { compute, ..self }
    }
    /// The same with a symmetric error.
    pub fn with_error(self, error: f64) -> Point {
        Point { low: self.y - error, high: self.y + error, ..self }
    }
    pub fn x(&self, axis: XAxis) -> f64 {
        match axis {
            XAxis::Step => self.step,
            XAxis::Tokens => self.tokens,
            XAxis::Time => self.time,
            XAxis::Compute => self.compute,
        }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// raw values faint, smoothed values strong
    #[default]
    Smoothed,
    /// exact values, never smoothed
    Exact,
    /// every point matters: line with markers and whiskers, never smoothed
    Marked,
    /// a value holds until the next point: stairs, never smoothed
    Stairs,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    /// index into colours and dash patterns
    pub style: usize,
    pub look: Look,
    /// `low` and `high` are the extremes over several runs, not an error
    pub range: bool,
    /// indices of points from which on the quantity is another one: smoothing and line begin anew
    pub restarts: Vec<usize>,
    pub points: Arc<Vec<Point>>,
}

/// Dash patterns by style index: told apart without colour.
pub const DASHES: [&str; 8] = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 4", "12 4", "6 2 2 2 2 2"];

/// Words for the patterns, for legends and tables read aloud.
pub const DASH_NAMES: [&str; 8] =
    ["solid", "dashed", "dotted", "dash-dot", "short dashes", "sparse dots", "long dashes", "dash-dot-dot"];

impl Series {
    pub fn dash(&self) -> &'static str {
        DASHES[self.style % DASHES.len()]
    }
    pub fn dash_name(&self) -> &'static str {
        DASH_NAMES[self.style % DASH_NAMES.len()]
    }
    /// A value with its error or range, in words. `value` may be smoothed.
    pub fn say(&self, p: &Point, value: f64) -> String {
        if p.high <= p.low {
            return format::number(value);
        }
        match self.range {
            true => {
                format!("{} ({} to {})", format::number(value), format::number(p.low), format::number(p.high))
            }
            false if self.look == Look::Marked => format::plus_minus(p.y, p.high - p.y),
            false => format::number(value),
        }
    }
    /// Index of the point nearest to `x`; none outside the range that the series covers.
    pub fn nearest(&self, axis: XAxis, x: f64) -> Option<usize> {
        let p = &self.points;
        let (first, last) = (p.first()?.x(axis), p.last()?.x(axis));
        // a pixel or so beside a lone point still means that point
        let slack = 1e-9 + (last - first) * 5e-3;
        if x < first - slack || x > last + slack {
            return None;
        }
        let right = p.partition_point(|q| q.x(axis) < x).min(p.len() - 1);
        let left = right.saturating_sub(1);
        Some(if (p[left].x(axis) - x).abs() <= (p[right].x(axis) - x).abs() { left } else { right })
    }
}

/// Exponential moving average with the start corrected, so that the first value is the first value:
/// m_n = sum_i s^(n-i) y_i / sum_i s^(n-i), begun anew at each index of `restarts`. Not-a-number passes through and
/// does not poison what follows.
pub fn ema(values: impl Iterator<Item = f64>, smoothing: f64, restarts: &[usize]) -> Vec<f64> {
    let s = smoothing.clamp(0.0, 0.9999);
    let (mut sum, mut weight) = (0.0, 0.0);
    values
        .enumerate()
        .map(|(i, y)| {
            if restarts.contains(&i) {
                (sum, weight) = (0.0, 0.0);
            }
            if !y.is_finite() {
                return y;
            }
            sum = sum * s + y;
            weight = weight * s + 1.0;
            sum / weight
        })
        .collect()
}

/// Keeps the shape of a line in at most about 4 points per pixel column: first, lowest, highest and last value of
/// each column in their order. `xy` ascends in x (pixels). Breaks at not-a-number survive.
pub fn decimate(xy: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::with_capacity(xy.len().min(4096));
    let mut i = 0;
    while i < xy.len() {
        let column = xy[i].0.floor();
        let mut j = i + 1;
        while j < xy.len() && xy[j].0.floor() == column {
            j += 1;
        }
        let group = &xy[i..j];
        if group.len() <= 4 {
            out.extend_from_slice(group);
        } else {
            let by = |a: &usize, b: &usize| group[*a].1.total_cmp(&group[*b].1);
            let finite = (0..group.len()).filter(|k| group[*k].1.is_finite());
            let broken = group.iter().position(|p| !p.1.is_finite());
            let mut keep: Vec<usize> = [0, group.len() - 1].to_vec();
            keep.extend(finite.clone().min_by(by));
            keep.extend(finite.max_by(by));
            keep.extend(broken);
            keep.sort_unstable();
            keep.dedup();
            out.extend(keep.into_iter().map(|k| group[k]));
        }
        i = j;
    }
    out
}

/// Whether anybody counted compute.
pub fn has_compute(series: &[Series]) -> bool {
    series.iter().flat_map(|s| s.points.iter()).any(|p| p.compute.is_finite())
}

/// CSV of several series, one measurement a line: full precision, never smoothed or thinned. Compute is a column where
/// it was counted.
pub fn csv(series: &[Series], value: &str) -> String {
    let quote = |s: &str| {
        if s.contains([',', '"', '\n', '\r']) { format!("\"{}\"", s.replace('"', "\"\"")) } else { s.into() }
    };
    let compute = has_compute(series);
    let column = if compute { "flops," } else { "" };
    let mut out = format!("series,step,tokens,seconds,{column}{},low,high\n", quote(value));
    for s in series {
        for p in s.points.iter() {
            let name = quote(&s.name);
            let cost = if compute { format!("{},", p.compute) } else { String::new() };
            out += &format!("{name},{},{},{},{cost}{},{},{}\n", p.step, p.tokens, p.time, p.y, p.low, p.high);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn series(ys: &[f64]) -> Series {
        let points = ys
            .iter()
            .enumerate()
            .map(|(i, y)| Point::new(i as f64, 10.0 * i as f64, 0.5 * i as f64, *y))
            .collect();
        Series {
            name: "a,\"b\"".into(),
            style: 9,
            look: Look::Smoothed,
            range: false,
            restarts: vec![],
            points: Arc::new(points),
        }
    }

    #[test]
    fn ema_starts_at_the_first_value_and_skips_gaps() {
        assert_eq!(ema([4.0, 2.0].into_iter(), 0.0, &[]), [4.0, 2.0]);
        let m = ema([4.0, f64::NAN, 2.0].into_iter(), 0.5, &[]);
        assert_eq!(m[0], 4.0);
        assert!(m[1].is_nan());
        assert!((m[2] - (4.0 * 0.5 + 2.0) / 1.5).abs() < 1e-12);
        assert_eq!(ema([4.0, 4.0, 9.0].into_iter(), 0.9, &[2])[2], 9.0);
    }

    #[test]
    fn nearest_finds_the_closer_neighbour() {
        let s = series(&[1.0; 5]);
        assert_eq!(s.nearest(XAxis::Step, -0.01), Some(0));
        assert_eq!(s.nearest(XAxis::Step, -3.0), None);
        assert_eq!(s.nearest(XAxis::Step, 2.4), Some(2));
        assert_eq!(s.nearest(XAxis::Tokens, 26.0), Some(3));
        assert_eq!(s.nearest(XAxis::Time, 2.0), Some(4));
        assert_eq!(s.nearest(XAxis::Time, 99.0), None);
        assert_eq!(series(&[]).nearest(XAxis::Step, 0.0), None);
    }

    #[test]
    fn a_range_is_never_written_as_an_error() {
        let p = Point::new(0.0, 0.0, 0.0, 3.0).with_error(0.25);
        let mut s = series(&[]);
        s.look = Look::Marked;
        assert_eq!(s.say(&p, p.y), "3.00 ± 0.25");
        s.range = true;
        assert_eq!(s.say(&p, p.y), "3 (2.75 to 3.25)");
    }

    #[test]
    fn csv_quotes_names_and_keeps_every_point() {
        let text = csv(&[series(&[1.5, f64::NAN])], "loss");
        assert_eq!(
            text,
            "series,step,tokens,seconds,loss,low,high\n\"a,\"\"b\"\"\",0,0,0,1.5,1.5,1.5\n\"a,\"\"b\"\"\",1,10,0.5,NaN,NaN,NaN\n"
        );
    }

    #[test]
    fn counted_compute_is_a_column() {
        let point = Point::new(2.0, 64.0, 3.0, 1.5).with_compute(5e9);
        let s = Series { points: Arc::new(vec![point]), name: "a".into(), ..series(&[]) };
        assert_eq!(
            csv(&[s], "nats"),
            "series,step,tokens,seconds,flops,nats,low,high\na,2,64,3,5000000000,1.5,1.5,1.5\n"
        );
        assert_eq!(XAxis::Compute.say(5e9), "5 GFLOP");
    }

    #[test]
    fn axis_words_round_trip() {
        for a in XAxis::ALL {
            assert_eq!(XAxis::from_word(a.word()), a);
        }
        assert_eq!(XAxis::from_word("parsecs"), XAxis::Step);
        assert_eq!(XAxis::Step.say(1240.0), "step 1,240");
    }

    proptest! {
        /// Ten thousand points on 600 pixels: few points, same extremes per column, same ends.
        #[test]
        fn decimation_keeps_extremes(seed in proptest::collection::vec(-5f64..5.0, 10_000), gap in 0usize..10_000) {
            let mut xy: Vec<_> = seed.iter().enumerate().map(|(i, y)| (i as f64 * 0.06, *y)).collect();
            xy[gap].1 = f64::NAN;
            let thin = decimate(&xy);
            prop_assert!(thin.len() <= 5 * 601, "{}", thin.len());
            prop_assert_eq!(thin[0].0, xy[0].0);
            prop_assert_eq!(thin.last().unwrap().0, xy.last().unwrap().0);
            prop_assert!(thin.iter().any(|p| p.1.is_nan()));
            let fold = |v: &[(f64, f64)]| v.iter().filter(|p| p.1.is_finite())
                .fold((f64::MAX, f64::MIN), |m, p| (m.0.min(p.1), m.1.max(p.1)));
            prop_assert_eq!(fold(&thin), fold(&xy));
            prop_assert!(thin.windows(2).all(|w| w[0].0 <= w[1].0));
        }

        #[test]
        fn short_lines_are_untouched(ys in proptest::collection::vec(-5f64..5.0, 0..40)) {
            let xy: Vec<_> = ys.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
            prop_assert_eq!(decimate(&xy), xy);
        }
    }
}
