//! From series and settings to shapes: the plot rectangle, ticks, paths and bands of one chart, and their SVG text.
//!
//! The same text serves the page (classes, so that themes and print styles apply) and the PNG export (colours
//! written out). Everything shown inside the window counts for the y range: spikes are never cut off.

use std::fmt::Write;

use super::format;
use super::scale::Scale;
use super::series::{Look, Point, Series, XAxis, decimate, ema};

/// What the reader chose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub axis: XAxis,
    pub log_x: bool,
    pub log_y: bool,
    /// 0 = raw only, towards 1 = smoother
    pub smoothing: f64,
    /// part of the x axis that is shown
    pub zoom: Option<(f64, f64)>,
    /// CSS pixels
    pub width: f64,
    pub height: f64,
}

/// One series, ready to draw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    pub style: usize,
    pub dash: &'static str,
    /// path data; empty where there is nothing
    pub raw: String,
    pub strong: String,
    pub band: String,
    pub whiskers: String,
    pub dots: Vec<(f64, f64)>,
    /// the strong value of every point of the series (raw where it is not smoothed)
    pub values: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub settings: Settings,
    pub x: Scale,
    pub y: Scale,
    /// pixel and label
    pub x_ticks: Vec<(f64, String)>,
    pub y_ticks: Vec<(f64, String)>,
    pub marks: Vec<Mark>,
    /// nothing to show in this window
    pub empty: bool,
}

const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 38.0;
/// About the width of a letter of a tick's label.
const LETTER: f64 = 6.5;
/// Markers on the edge of the plot are not cut in half.
const BLEED: f64 = 5.0;
/// Above and below the plot in a picture: the title, one line of the legend.
const HEAD: f64 = 30.0;
const LEGEND: f64 = 18.0;

impl Scene {
    /// Lays out `series` under `settings`. Any input is drawable, also none.
    pub fn new(series: &[Series], settings: Settings) -> Scene {
        let Settings { axis, log_x, log_y, zoom, width, height, .. } = settings;
        let shown_x = |p: &&Point| p.x(axis).is_finite() && (!log_x || p.x(axis) > 0.0);
        let x_domain = zoom.filter(|z| z.0 < z.1 && (!log_x || z.0 > 0.0)).or_else(|| {
            bounds(series.iter().flat_map(|s| s.points.iter().filter(shown_x).map(|p| p.x(axis))))
        });
        let x = Scale::new(x_domain, log_x, LEFT, (width - RIGHT).max(LEFT + 20.0));
        let inside = |p: &Point| p.x(axis) >= x.low && p.x(axis) <= x.high;
        let values: Vec<Vec<f64>> = series
            .iter()
            .map(|s| match s.look {
                Look::Smoothed if settings.smoothing > 0.0 => {
                    ema(s.points.iter().map(|p| p.y), settings.smoothing, &s.restarts)
                }
                _ => s.points.iter().map(|p| p.y).collect(),
            })
            .collect();
        let drawable = |v: f64| v.is_finite() && (!log_y || v > 0.0);
        let y_domain = bounds(
            series
                .iter()
                .flat_map(|s| s.points.iter().filter(|p| inside(p)))
                .flat_map(|p| [p.y, p.low, p.high])
                .filter(|v| drawable(*v)),
        );
        let y = Scale::new(y_domain, log_y, (height - BOTTOM).max(TOP + 20.0), TOP).padded(0.04);
        // a label with its unit is wider
        let room = if axis == XAxis::Compute { 110.0 } else { 70.0 };
        let (xs, x_step) = x.ticks(((width - LEFT - RIGHT) / room) as usize);
        let (ys, y_step) = y.ticks(((height - TOP - BOTTOM) / 44.0) as usize);
        let x_label = |v: f64| match axis {
            XAxis::Time => format::time_label(v, x.high),
            XAxis::Compute => format::flops(v),
            _ => format::axis_label(v, x_step),
        };
        let marks = series.iter().zip(values).map(|(s, v)| mark(s, v, &settings, &x, &y)).collect::<Vec<_>>();
        Scene {
            settings,
            x_ticks: xs.iter().map(|v| (x.map(*v), x_label(*v))).collect(),
            y_ticks: ys.iter().map(|v| (y.map(*v), format::axis_label(*v, y_step))).collect(),
            empty: y_domain.is_none(),
            x,
            y,
            marks,
        }
    }

    /// Everything but the crosshair. `colours`: none = classes for the page's style sheet.
    pub fn body(&self, y_title: &str, colours: Option<&Colours>) -> String {
        let paint = Paint(colours);
        let (left, right, top, bottom) = (self.x.from, self.x.to, self.y.to, self.y.from);
        let mut out = String::with_capacity(4096);
        for (py, label) in &self.y_ticks {
            let _ = write!(
                out,
                "<path {} d=\"M{left:.1} {py:.1}H{right:.1}\"/><text {} x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                paint.line("grid"),
                paint.text("tick"),
                left - 8.0,
                py + 4.0,
                escape(label)
            );
        }
        for (px, label) in &self.x_ticks {
            // a label that would run over the edge ends there instead
            let half = LETTER / 2.0 * label.chars().count() as f64;
            let inside = px + half <= self.settings.width;
            let (at, anchor) = if inside { (*px, "middle") } else { (self.settings.width, "end") };
            let _ = write!(
                out,
                "<path {} d=\"M{px:.1} {bottom:.1}v4\"/><text {} x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                paint.line("axis"),
                paint.text("tick"),
                bottom + 16.0,
                escape(label)
            );
        }
        let _ = write!(out, "<path {} d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>", paint.line("axis"));
        let scale = |log: bool| if log { " (log)" } else { "" };
        let _ = write!(
            out,
            "<text {0} x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}{4}</text><text {0} x=\"{5:.1}\" y=\"{2:.1}\">{6}{7}</text>",
            paint.text("title"),
            right,
            bottom + 33.0,
            escape(self.settings.axis.title()),
            scale(self.x.log),
            2.0,
            escape(y_title),
            scale(self.y.log),
        );
        let _ = write!(
            out,
            "<svg x=\"{0:.1}\" y=\"{1:.1}\" width=\"{2:.1}\" height=\"{3:.1}\" viewBox=\"{0:.1} {1:.1} {2:.1} {3:.1}\">",
            left - BLEED,
            top - BLEED,
            right - left + 2.0 * BLEED,
            bottom - top + 2.0 * BLEED
        );
        for m in &self.marks {
            if !m.band.is_empty() {
                let _ = write!(out, "<path {} d=\"{}\"/>", paint.fill("band", m.style), m.band);
            }
        }
        for m in &self.marks {
            if !m.raw.is_empty() {
                let _ = write!(out, "<path {} d=\"{}\"/>", paint.series("raw", m.style, ""), m.raw);
            }
        }
        for m in &self.marks {
            if !m.strong.is_empty() {
                let _ = write!(out, "<path {} d=\"{}\"/>", paint.series("strong", m.style, m.dash), m.strong);
            }
            if !m.whiskers.is_empty() {
                let _ = write!(out, "<path {} d=\"{}\"/>", paint.series("whisker", m.style, ""), m.whiskers);
            }
            for (px, py) in &m.dots {
                let _ = write!(
                    out,
                    "<circle {} cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\"/>",
                    paint.fill("dot", m.style)
                );
            }
        }
        out += "</svg>";
        out
    }

    /// Width and height of [`Scene::document`] with `series` legend lines, CSS pixels.
    pub fn document_size(&self, series: usize) -> (f64, f64) {
        (self.settings.width, HEAD + self.settings.height + 8.0 + LEGEND * series as f64)
    }

    /// A complete picture with title and legend, colours written out; sized in CSS pixels.
    pub fn document(&self, title: &str, y_title: &str, series: &[Series], colours: &Colours) -> String {
        let h = self.settings.height;
        let (w, total) = self.document_size(series.len());
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{total}\" viewBox=\"0 0 {w} {total}\" font-family=\"system-ui, sans-serif\"><rect width=\"100%\" height=\"100%\" fill=\"{}\"/><text x=\"12\" y=\"20\" font-size=\"14\" font-weight=\"600\" fill=\"{}\">{}</text><g transform=\"translate(0 {HEAD})\">{}</g>",
            escape(&colours.paper),
            escape(&colours.ink),
            escape(title),
            self.body(y_title, Some(colours)),
        );
        for (i, s) in series.iter().enumerate() {
            let y = HEAD + h + 12.0 + LEGEND * i as f64;
            let _ = write!(
                out,
                "<path {} d=\"M12 {y}h34\"/><text x=\"54\" y=\"{}\" font-size=\"12\" fill=\"{}\">{}</text>",
                Paint(Some(colours)).series("strong", s.style, s.dash()),
                y + 4.0,
                escape(&colours.ink),
                escape(&s.name)
            );
        }
        out += "</svg>";
        out
    }
}

/// Colours of a picture that leaves the page, as CSS colour texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Colours {
    pub paper: String,
    pub ink: String,
    pub muted: String,
    /// axes
    pub line: String,
    pub grid: String,
    /// by style index
    pub series: Vec<String>,
}

struct Paint<'a>(Option<&'a Colours>);

impl Paint<'_> {
    fn line(&self, class: &str) -> String {
        match self.0 {
            None => format!("class=\"c-{class}\""),
            Some(c) => {
                let colour = if class == "grid" { &c.grid } else { &c.line };
                format!("fill=\"none\" stroke=\"{}\"", escape(colour))
            }
        }
    }
    fn text(&self, class: &str) -> String {
        match self.0 {
            None => format!("class=\"c-{class}\""),
            Some(c) => format!("font-size=\"11\" fill=\"{}\"", escape(&c.muted)),
        }
    }
    fn series(&self, class: &str, style: usize, dash: &str) -> String {
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        match self.0 {
            None => format!("class=\"c-{class} c-s{}\"{dash}", style % 8),
            Some(c) => {
                let (width, opacity) = match class {
                    "raw" => (1.0, 0.3),
                    "whisker" => (1.2, 0.8),
                    _ => (2.0, 1.0),
                };
                format!(
                    "fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" stroke-opacity=\"{opacity}\" stroke-linejoin=\"round\"{dash}",
                    escape(c.series.get(style % 8).map_or("#000", |s| s))
                )
            }
        }
    }
    fn fill(&self, class: &str, style: usize) -> String {
        match self.0 {
            None => format!("class=\"c-{class} c-s{}\"", style % 8),
            Some(c) => format!(
                "fill=\"{}\" fill-opacity=\"{}\"",
                escape(c.series.get(style % 8).map_or("#000", |s| s)),
                if class == "band" { 0.15 } else { 1.0 }
            ),
        }
    }
}

/// Text that may stand in XML, also inside quotes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |m, v| match m {
        None => Some((v, v)),
        Some((a, b)) => Some((a.min(v), b.max(v))),
    })
}

fn mark(s: &Series, values: Vec<f64>, settings: &Settings, x: &Scale, y: &Scale) -> Mark {
    let axis = settings.axis;
    let p = &s.points;
    // one point beyond each edge, so that lines leave the window instead of ending inside it
    let first = p.partition_point(|q| q.x(axis) < x.low).saturating_sub(1);
    let last = (p.partition_point(|q| q.x(axis) <= x.high) + 1).min(p.len());
    let range = first..last.max(first);
    let px = |q: &Point| {
        let v = q.x(axis);
        if x.log && v <= 0.0 { f64::NAN } else { x.map(v) }
    };
    let py = |v: f64| if !v.is_finite() || (y.log && v <= 0.0) { f64::NAN } else { y.map(v) };
    let line = |value: &dyn Fn(usize) -> f64| -> Vec<(f64, f64)> {
        let mut all = Vec::with_capacity(range.len() + s.restarts.len());
        for i in range.clone() {
            let x = px(&p[i]);
            if x.is_finite() {
                if s.restarts.contains(&i) {
                    // lifts the pen
                    all.push((x, f64::NAN));
                }
                all.push((x, py(value(i))));
            }
        }
        decimate(&all)
    };
    let strong = match s.look {
        Look::Stairs => stairs(&line(&|i| values[i])),
        _ => line(&|i| values[i]),
    };
    let smooth = s.look == Look::Smoothed && settings.smoothing > 0.0;
    let has_error = range.clone().any(|i| p[i].high > p[i].low);
    let mut out = Mark { style: s.style, dash: s.dash(), strong: path(&strong), ..Mark::default() };
    if smooth {
        out.raw = path(&line(&|i| p[i].y));
    }
    if has_error && s.look != Look::Marked {
        let (top, low) = (line(&|i| p[i].high), line(&|i| p[i].low));
        let ring: Vec<_> = top.into_iter().chain(low.into_iter().rev()).filter(|q| q.1.is_finite()).collect();
        if ring.len() > 2 {
            out.band = path(&ring) + "Z";
        }
    }
    if s.look == Look::Marked {
        let columns = ((x.to - x.from).abs() / 6.0).max(1.0) as usize;
        let stride = range.len().div_ceil(columns).max(1);
        for i in range.clone().filter(|i| i % stride == 0 || i + 1 == p.len()) {
            let (cx, cy) = (px(&p[i]), py(p[i].y));
            if !cx.is_finite() || !cy.is_finite() {
                continue;
            }
            out.dots.push((cx, cy));
            let (a, b) = (py(p[i].low), py(p[i].high));
            if p[i].high > p[i].low && a.is_finite() && b.is_finite() {
                let _ = write!(
                    out.whiskers,
                    "M{cx:.1} {a:.1}V{b:.1}M{:.1} {a:.1}h6M{:.1} {b:.1}h6",
                    cx - 3.0,
                    cx - 3.0
                );
            }
        }
    }
    out.values = values;
    out
}

/// Every value holds until the next point.
fn stairs(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let corners = points.windows(2).map(|w| (w[1].0, w[0].1));
    let first = points.iter().take(1).copied();
    first
        .chain(corners.zip(&points[points.len().min(1)..]).flat_map(|(corner, next)| [corner, *next]))
        .collect()
}

/// Path data; not-a-number lifts the pen.
fn path(points: &[(f64, f64)]) -> String {
    let mut out = String::with_capacity(points.len() * 12);
    let mut down = false;
    for (x, y) in points {
        if !y.is_finite() {
            down = false;
            continue;
        }
        let _ = write!(out, "{}{x:.1} {y:.1}", if down { 'L' } else { 'M' });
        down = true;
    }
    out
}

#[cfg(test)]
mod tests;
