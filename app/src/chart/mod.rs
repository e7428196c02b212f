//! Charts drawn as SVG, with the numbers behind them.
