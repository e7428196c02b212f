//! Line charts in SVG, without a library: raw faint and smoothed strong, four x axes, logarithmic axes, a crosshair
//! shared by all charts of a page, zoom by dragging, a table behind every chart, CSV, PNG and link export.
//!
//! `scale`, `series`, `scene`, `state` and `format` are plain functions tested natively; `view`, `controls` and
//! `export` put them on the page.

mod controls;
mod export;
pub mod format;
mod scale;
mod scene;
mod series;
mod spark;
mod state;
mod view;

pub use controls::{ChartControls, ChartGroup, replace_query};
pub use scale::Scale;
pub use series::{Look, Point, Series, XAxis};
pub use spark::Spark;
pub use view::LineChart;
