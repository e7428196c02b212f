//! The mask NELBO by enumeration: sum over nonempty subsets S of a part of w(|S|) sum_{i in S} -ln p(x_i | x_{not S}),
//! w(n) = (n-1)! (L-n)! / L! (`methods/mdlm.md` 2.4). No draw, no error but rounding; 2^L - 1 states a part, so only for
//! parts of at most [`MOST`] tokens. With exactly consistent conditionals it is -ln p(x) itself, for every x.

use super::denoiser::State;
use super::groups::Layout;

/// Longest part that is enumerated: 4095 states.
pub const MOST: usize = 12;

/// w(n) for n = 1..=L (index 0 unused).
pub fn weights(l: usize) -> Vec<f64> {
    // w(1) = 1 / L, w(n + 1) = w(n) n / (L - n)
    let mut w = vec![0.0; l + 1];
    if l > 0 {
        w[1] = 1.0 / l as f64;
    }
    for n in 1..l {
        w[n + 1] = w[n] * n as f64 / (l - n) as f64;
    }
    w
}

/// States that enumerate row `r`: number `s` (from 1) masks subset `s` of every part. The weights are those of the asked
/// columns.
pub fn states(layout: &Layout, r: usize) -> Vec<(State, Vec<f64>)> {
    let parts = layout.parts(r);
    let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
    let tables: Vec<Vec<f64>> = (0..=longest).map(weights).collect();
    let tokens = layout.rows[r].tokens;
    (1u32..1 << longest)
        .map(|bits| {
            let mut state = State { row: r, noisy: tokens.to_vec(), asked: vec![], time: f64::NAN };
            let mut weights = vec![];
            for part in parts.iter().filter(|p| bits >> p.len() == 0) {
                let n = bits.count_ones() as usize;
                for (_, c) in part.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1) {
                    state.noisy[*c as usize] = layout.alphabet.mask_id;
                    state.asked.push(*c);
                    weights.push(tables[part.len()][n]);
                }
            }
            (state, weights)
        })
        .collect()
}
