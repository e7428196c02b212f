//! Line charts in SVG, without a library: raw faint and smoothed strong, three x axes, logarithmic axes, a crosshair
//! shared by all charts of a page, zoom by dragging, a table behind every chart, CSV, PNG and link export.
//!
//! `scale`, `series`, `scene`, `state` and `format` are plain functions tested natively; `view` and `export` put
//! them on the page.

pub mod format;
pub mod scale;
pub mod scene;
pub mod series;
pub mod state;
