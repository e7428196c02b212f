//! Curves as plain SVG: no script, readable on paper and in both colour schemes (colours are CSS classes).

use std::fmt::Write;

use super::html::escape;

/// A line or, with `dots`, single points.
pub struct Series<'a> {
    pub points: &'a [(f64, f64)],
    /// CSS class: "raw", "smooth" or "dot"
    pub class: &'static str,
    pub dots: bool,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;

/// Round numbers that cover [low, high] in about `n` steps.
pub fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 {
        return vec![low];
    }
    let rough = span / n.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// "1.5 M", "400 k", "0.25"
pub fn number(x: f64) -> String {
    let trim = |s: String| {
        let s = if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s };
        if s == "-0" { "0".to_string() } else { s }
    };
    match x.abs() {
        a if a >= 1e9 => trim(format!("{:.2}", x / 1e9)) + " G",
        a if a >= 1e6 => trim(format!("{:.2}", x / 1e6)) + " M",
        a if a >= 1e4 => trim(format!("{:.1}", x / 1e3)) + " k",
        a if a >= 100.0 || a == 0.0 => trim(format!("{x:.0}")),
        a if a >= 0.001 => trim(format!("{x:.3}")),
        _ => format!("{x:.1e}"),
    }
}

/// Mean over the last points, each older one counting `decay` as much, corrected at the start.
pub fn smooth(points: &[(f64, f64)], decay: f64) -> Vec<(f64, f64)> {
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|(x, y)| {
            sum = decay * sum + y;
            weight = decay * weight + 1.0;
            (*x, sum / weight)
        })
        .collect()
}

/// A chart with both axes. Empty where there is nothing finite to draw.
pub fn chart(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let all: Vec<(f64, f64)> = series
        .iter()
        .flat_map(|s| s.points)
        .copied()
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let bounds = |get: fn(&(f64, f64)) -> f64| {
        let low = all.iter().map(get).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(get).fold(f64::NEG_INFINITY, f64::max);
        if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
    };
    let (x0, x1) = bounds(|p| p.0);
    let (y0, y1) = bounds(|p| p.1);
    let pad = (y1 - y0) * 0.05;
    let (y0, y1) = (y0 - pad, y1 + pad);
    let px = |x: f64| LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let py = |y: f64| HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let mut s = String::new();
    let _ = write!(
        s,
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
    for y in ticks(y0, y1, 5) {
        let at = py(y);
        let _ = write!(
            s,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            number(y)
        );
    }
    for x in ticks(x0, x1, 6) {
        let _ = write!(
            s,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            px(x),
            HEIGHT - BOTTOM + 16.0,
            number(x)
        );
    }
    let _ = write!(
        s,
        "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text class=\"label\" transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 6.0,
        escape(x_label),
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escape(y_label)
    );
    for one in series {
        let good = one.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        if one.dots {
            for (x, y) in good {
                let _ = write!(
                    s,
                    "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                    one.class,
                    px(*x),
                    py(*y)
                );
            }
            continue;
        }
        let path: Vec<String> = good.map(|(x, y)| format!("{:.1},{:.1}", px(*x), py(*y))).collect();
        let _ = write!(s, "<polyline class=\"{}\" points=\"{}\"/>", one.class, path.join(" "));
    }
    s + "</svg>"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_short() {
        let got = [0.0, 0.25, 3.20449, 250.0, 12_000.0, 1.5e6, 2e9, 1e-5].map(number);
        assert_eq!(got, ["0", "0.25", "3.204", "250", "12 k", "1.5 M", "2 G", "1.0e-5"]);
    }

    #[test]
    fn smoothing_keeps_a_constant_and_follows_a_step() {
        let flat: Vec<_> = (0..20).map(|i| (i as f64, 3.0)).collect();
        assert!(smooth(&flat, 0.9).iter().all(|p| (p.1 - 3.0).abs() < 1e-12));
        let step: Vec<_> = (0..100).map(|i| (i as f64, if i < 50 { 0.0 } else { 1.0 })).collect();
        let s = smooth(&step, 0.9);
        assert!(s[49].1 == 0.0 && s[55].1 < 0.6 && s[99].1 > 0.98);
    }

    proptest! {
        #[test]
        fn ticks_lie_inside_and_are_few(low in -1e6f64..1e6, span in 1e-6f64..1e6, n in 1usize..10) {
            let t = ticks(low, low + span, n);
            prop_assert!(t.len() <= n + 1);
            let slack = span * 1e-9 + low.abs() * 1e-12;
            prop_assert!(t.iter().all(|x| *x >= low - slack && *x <= low + span + slack));
            prop_assert!(t.windows(2).all(|w| w[0] < w[1]));
        }
        #[test]
        fn charts_hold_only_finite_coordinates(
            points in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY), 0..20)
        ) {
            let points: Vec<_> = points.into_iter().map(|(x, y)| (x % 1e9, y % 1e9)).collect();
            let s = chart("t", "x", "y", &[Series { points: &points, class: "raw", dots: false }]);
            prop_assert!(!s.contains("NaN") && !s.contains("inf"), "{}", s);
        }
    }
}
