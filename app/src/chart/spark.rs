//! The little line in a table row: shape only, with its first and last value in words.

use leptos::prelude::*;

use super::format;
use super::scale::Scale;

const WIDTH: f64 = 96.0;
const HEIGHT: f64 = 24.0;

/// Path through `values`, which need not be finite.
pub fn path(values: &[f64], width: f64, height: f64) -> String {
    let finite = values.iter().copied().filter(|v| v.is_finite());
    let domain =
        finite.fold(None, |m: Option<(f64, f64)>, v| Some(m.map_or((v, v), |(a, b)| (a.min(v), b.max(v)))));
    let x = Scale::new(Some((0.0, (values.len().max(2) - 1) as f64)), false, 1.0, width - 1.0);
    let y = Scale::new(domain, false, height - 2.0, 2.0);
    let mut out = String::new();
    let mut down = false;
    for (i, v) in values.iter().enumerate() {
        if v.is_finite() {
            out += &format!("{}{:.1} {:.1}", if down { 'L' } else { 'M' }, x.map(i as f64), y.map(*v));
        }
        down = v.is_finite();
    }
    out
}

/// Recent losses as a line; nothing while there are fewer than two.
#[component]
pub fn Spark(values: Vec<f64>) -> impl IntoView {
    (values.len() >= 2).then(|| {
        let ends = (values[0], values[values.len() - 1]);
        let label = format!("recent loss from {} to {}", format::number(ends.0), format::number(ends.1));
        view! {
            <svg class="spark" width=WIDTH height=HEIGHT viewBox=format!("0 0 {WIDTH} {HEIGHT}") role="img"
                aria-label=label>
                <path d=path(&values, WIDTH, HEIGHT)></path>
            </svg>
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_and_broken_lines_are_drawn() {
        assert_eq!(path(&[], 96.0, 24.0), "");
        assert_eq!(path(&[2.0, 2.0], 96.0, 24.0), "M1.0 12.0L95.0 12.0");
        assert_eq!(path(&[3.0, f64::NAN, 1.0], 96.0, 24.0), "M1.0 2.0M95.0 22.0");
    }
}
