//! Probabilities by enumeration, and the statistics that compare draws with them.

use crate::data::Row;
use crate::diffusion::likelihood::groups::Layout;
use crate::diffusion::likelihood::{Denoiser, exact};

/// p(x) of row `r` under the sampler that writes one token at a time in uniformly random order inside each part:
/// f(S) = (1 / |S|) sum_{i in S} p(x_i | x_{not S}) f(S without i), f(empty) = 1, multiplied over the parts.
pub fn uniform_order<D: Denoiser>(d: &mut D, layout: &Layout, r: usize) -> f64 {
    let states: Vec<_> = exact::states(layout, r).into_iter().map(|s| s.0).collect();
    let answers = d.score(&states, false);
    let mut product = 1.0;
    for part in layout.parts(r) {
        let mut f = vec![0.0; 1 << part.len()];
        f[0] = 1.0;
        for bits in 1..f.len() {
            let state = bits - 1;
            let n = bits.count_ones() as f64;
            for (i, column) in part.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1) {
                let at = states[state].asked.iter().position(|c| c == column).expect("masked in this state");
                f[bits] += answers[state][at].log_p.exp() * f[bits ^ 1 << i] / n;
            }
        }
        product *= f[f.len() - 1];
    }
    product
}

/// Rows of texts, each one document.
pub fn rows(texts: &[Vec<u32>]) -> Vec<Row<'_>> {
    texts.iter().map(|x| Row::new(x, u32::MAX)).collect()
}

/// How far counts lie from expected probabilities, in standard deviations of the chi-square (Wilson and Hilferty 1931):
/// about N(0, 1) if they come from them.
pub fn chi_square_z(counts: &[f64], p: &[f64]) -> f64 {
    let n: f64 = counts.iter().sum();
    // cells of fewer than five expected draws are joined
    let (mut x, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
    let mut add = |count: f64, expected: f64| {
        x += (count - expected).powi(2) / expected;
        cells += 1.0;
    };
    for (c, p) in counts.iter().zip(p) {
        if n * p >= 5.0 {
            add(*c, n * p);
        } else {
            rest = (rest.0 + c, rest.1 + n * p);
        }
    }
    if rest.1 > 0.0 {
        add(rest.0, rest.1.max(1e-9));
    }
    let k = f64::max(cells - 1.0, 1.0);
    ((x / k).cbrt() - (1.0 - 2.0 / (9.0 * k))) / (2.0 / (9.0 * k)).sqrt()
}

/// Mean and standard error.
pub fn mean_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (square / (n - 1.0) / n).sqrt())
}
