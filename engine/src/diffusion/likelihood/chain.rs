//! Exact likelihood of samplers whose positions are a function of the state (DUEL, arXiv 2603.01367;
//! `methods/evaluation.md` 1.2):
//!
//! ```text
//! z = x with the scored positions masked
//! while z has masks:  U = rule(z);  nll -= sum_{i in U} ln p(x_i | z);  z[U] = x[U]
//! ```
//!
//! Given x the states are determined, so the sum over orders has one term; parallel rules (|U| > 1) are exact too. The
//! rule may read the state's distributions but not the drawn tokens: confidence of the *sampled* token and editing have no
//! such likelihood. A random order has none either, but chains along K of them bound it ([`log_mean`]). Tokens are drawn at temperature 1; ties go to the lower position.

use hilda_kernels::rng::Rng;
use serde::{Deserialize, Serialize};

use super::denoiser::{Denoiser, Scored, State};
use super::groups::Layout;

/// Which masked positions are written next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// the first masked position
    Leftmost,
    /// the k with the largest p_max
    PMax { k: usize },
    /// the k with the largest p_max - p_2
    Margin { k: usize },
    /// the k with the smallest entropy
    Entropy { k: usize },
    /// every p_max > tau, else the best
    Threshold { tau: f64 },
}

impl Rule {
    pub fn name(&self) -> String {
        let k = |name: &str, k: usize| if k == 1 { name.to_string() } else { format!("{name} x{k}") };
        match self {
            Rule::Leftmost => "leftmost".into(),
            Rule::PMax { k: n } => k("p_max", *n),
            Rule::Margin { k: n } => k("margin", *n),
            Rule::Entropy { k: n } => k("entropy", *n),
            Rule::Threshold { tau } => format!("threshold {tau}"),
        }
    }

    /// Indices into `open` (the masked positions of a part, ascending) that are written now; never empty.
    pub fn choose(&self, open: &[Scored]) -> Vec<usize> {
        let best = |score: fn(&Scored) -> f64, k: usize| {
            let mut order: Vec<usize> = (0..open.len()).collect();
            order.sort_by(|a, b| score(&open[*b]).total_cmp(&score(&open[*a])).then(a.cmp(b)));
            order.truncate(k.max(1));
            order
        };
        match *self {
            Rule::Leftmost => vec![0],
            Rule::PMax { k } => best(|s| s.p_max, k),
            Rule::Margin { k } => best(|s| s.p_max - s.p_second, k),
            Rule::Entropy { k } => best(|s| -s.entropy, k),
            Rule::Threshold { tau } => {
                let above: Vec<usize> = (0..open.len()).filter(|i| open[*i].p_max > tau).collect();
                if above.is_empty() { best(|s| s.p_max, 1) } else { above }
            }
        }
    }
}

/// One forward of the chains of several rows.
struct Chain {
    state: State,
    /// part and its masked columns in the order of the chain: ascending, or drawn
    open: Vec<(usize, Vec<u32>)>,
    /// of each part
    nats: Vec<f64>,
    scored: usize,
}

/// (nats, scored tokens) of each of `rows`. All parts of a row advance in the same forward. `tick` is told of every
/// forward and stops with None.
pub fn score<D: Denoiser>(
    d: &mut D,
    layout: &Layout,
    rows: std::ops::Range<usize>,
    rule: Rule,
    tick: &mut dyn FnMut() -> bool,
) -> Option<Vec<(f64, f64)>> {
    let parts = score_parts(d, layout, rows, rule, None, tick)?;
    Some(parts.into_iter().map(|(nats, scored)| (nats.iter().sum(), scored as f64)).collect())
}

/// -ln of the mean of e^-N over chains N: for chains along random orders a bound on -ln p of the sampler that writes in
/// uniformly random order, closer the more there are; one chain has the expectation of the NELBO
/// (`methods/evaluation.md` 1.1, importance weights as in Burda et al., arXiv 1509.00519).
pub fn log_mean(chains: &[f64]) -> f64 {
    let least = chains.iter().copied().fold(f64::INFINITY, f64::min);
    let sum: f64 = chains.iter().map(|n| (least - n).exp()).sum();
    least - (sum / chains.len() as f64).ln()
}

/// As [`score`], the nats of every part alone. With `order` = (generator, draw) each part's columns are written in an order
/// of that draw; the rule is then [`Rule::Leftmost`].
pub fn score_parts<D: Denoiser>(
    d: &mut D,
    layout: &Layout,
    rows: std::ops::Range<usize>,
    rule: Rule,
    order: Option<(&Rng, u32)>,
    tick: &mut dyn FnMut() -> bool,
) -> Option<Vec<(Vec<f64>, usize)>> {
    assert!(order.is_none() || rule == Rule::Leftmost, "an order of its own needs no rule");
    let mut chains: Vec<Chain> = rows
        .map(|r| {
            let mut open: Vec<(usize, Vec<u32>)> = layout.parts(r).into_iter().enumerate().collect();
            if let Some((rng, draw)) = order {
                let row = (r * layout.rows[r].tokens.len()) as u32;
                let key = |c: &u32| rng.uniform(draw, row + c, 0);
                open.iter_mut().for_each(|(_, p)| p.sort_by(|a, b| key(a).total_cmp(&key(b))));
            }
            let nats = vec![0.0; open.len()];
            let mut noisy = layout.rows[r].tokens.to_vec();
            open.iter().flat_map(|(_, p)| p).for_each(|c| noisy[*c as usize] = layout.alphabet.mask_id);
            let state = State { row: r, noisy, asked: vec![], time: f64::NAN };
            Chain { state, open, nats, scored: 0 }
        })
        .collect();
    let ranks = rule != Rule::Leftmost;
    loop {
        let mut live: Vec<usize> = vec![];
        for (i, c) in chains.iter_mut().enumerate() {
            c.open.retain(|(_, p)| !p.is_empty());
            // left to right needs the first position of each part only
            c.state.asked = match rule {
                Rule::Leftmost => c.open.iter().map(|(_, p)| p[0]).collect(),
                _ => c.open.iter().flat_map(|(_, p)| p).copied().collect(),
            };
            if !c.state.asked.is_empty() {
                live.push(i);
            }
        }
        if live.is_empty() {
            return Some(chains.into_iter().map(|c| (c.nats, c.scored)).collect());
        }
        let states: Vec<State> = live.iter().map(|i| chains[*i].state.clone()).collect();
        let answers = d.score(&states, ranks);
        for (i, answer) in live.into_iter().zip(answers) {
            let c = &mut chains[i];
            let mut at = 0;
            for (which, part) in &mut c.open {
                let n = if rule == Rule::Leftmost { 1 } else { part.len() };
                let scored = &answer[at..at + n];
                at += n;
                let mut chosen = rule.choose(scored);
                chosen.sort_unstable();
                for j in chosen.iter().rev() {
                    let column = part.remove(*j);
                    c.nats[*which] -= scored[*j].log_p;
                    c.scored += 1;
                    c.state.noisy[column as usize] = layout.rows[c.state.row].tokens[column as usize];
                }
            }
        }
        if !tick() {
            return None;
        }
    }
}
