//! The part of a chart that stands in the address: `x=tokens&smooth=0.9&logx=1&logy=1&zoom=100,200`.
//! Defaults are left out, so that a plain address stays plain; what cannot be read is ignored.

use super::series::XAxis;

/// Smoothing when the address says nothing.
pub const SMOOTHING: f64 = 0.8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewState {
    pub axis: XAxis,
    pub smoothing: f64,
    pub log_x: bool,
    pub log_y: bool,
    pub zoom: Option<(f64, f64)>,
}

impl Default for ViewState {
    fn default() -> Self {
        ViewState { axis: XAxis::Step, smoothing: SMOOTHING, log_x: false, log_y: false, zoom: None }
    }
}

impl ViewState {
    /// The keys this state may write into an address.
    pub const KEYS: [&str; 5] = ["x", "smooth", "logx", "logy", "zoom"];

    /// `get` looks a key up in the address.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> ViewState {
        let on = |key: &str| get(key).is_some_and(|v| v == "1");
        let zoom = get("zoom").and_then(|z| {
            let (a, b) = z.split_once(',')?;
            let (a, b) = (a.parse::<f64>().ok()?, b.parse::<f64>().ok()?);
            (a.is_finite() && b.is_finite() && a < b).then_some((a, b))
        });
        ViewState {
            axis: XAxis::from_word(&get("x").unwrap_or_default()),
            smoothing: get("smooth")
                .and_then(|s| s.parse().ok())
                .filter(|s: &f64| (0.0..1.0).contains(s))
                .unwrap_or(SMOOTHING),
            log_x: on("logx"),
            log_y: on("logy"),
            zoom,
        }
    }

    /// Key and value of everything that differs from the default.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        if self.axis != XAxis::Step {
            out.push(("x", self.axis.word().to_string()));
        }
        if self.smoothing != SMOOTHING {
            out.push(("smooth", format!("{}", self.smoothing)));
        }
        if self.log_x {
            out.push(("logx", "1".into()));
        }
        if self.log_y {
            out.push(("logy", "1".into()));
        }
        if let Some((a, b)) = self.zoom {
            out.push(("zoom", format!("{a},{b}")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> ViewState {
        ViewState::read(|k| pairs.iter().find(|p| p.0 == k).map(|p| p.1.to_string()))
    }

    #[test]
    fn default_writes_nothing_and_everything_round_trips() {
        assert!(ViewState::default().pairs().is_empty());
        let s = ViewState {
            axis: XAxis::Time,
            smoothing: 0.55,
            log_x: true,
            log_y: true,
            zoom: Some((1.5, 200.0)),
        };
        let pairs = s.pairs();
        assert_eq!(ViewState::read(|k| pairs.iter().find(|p| p.0 == k).map(|p| p.1.clone())), s);
    }

    #[test]
    fn nonsense_is_ignored() {
        let bad = [("x", "??"), ("smooth", "7"), ("logx", "yes"), ("zoom", "9,1")];
        assert_eq!(read(&bad), ViewState::default());
        assert_eq!(read(&[("zoom", "NaN,1")]), ViewState::default());
    }
}
