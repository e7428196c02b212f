//! Which distribution the decoder samples, found by decoding: the real decoder writes tiny texts from a table without a
//! joint, and the histogram is compared with enumerated laws. A policy whose positions depend on the drawn tokens matches
//! none of them; temperature 0 and editing have no distribution of this kind at all.

use hilda_kernels::head::RowHead;
use hilda_kernels::rng::{Rng, Stream};

use super::laws::{chi_square_z, rows, uniform_order};
use super::process::{L, Tiny, V};
use super::{Check, Finding};
use crate::config::{Claims, RunConfig, Standing};
use crate::decode::policy::{AncestralForm, Schedule, Score};
use crate::decode::{
    Attention, CacheOp, DecodeConfig, Decoder, ForwardRequest, Method, PolicySpec, RowStats, drive,
};
use crate::diffusion::likelihood::groups::Layout;
use crate::diffusion::likelihood::{Denoiser, Estimator, Rule, nats};
use crate::diffusion::table::{FIRST, MASK, Table, sequences};
use crate::model::generate::default_policy;
use crate::train::trainer::{self, serving_of};

/// Decodings of each policy.
const SAMPLES: u32 = 10_000;
/// Agreement, in standard deviations of the chi-square.
const AGREE: f64 = 4.0;

/// Findings about the default policy, and about the ones whose laws are known.
pub fn audit(tiny: &Tiny, config: &RunConfig, claims: &Claims) -> Vec<Finding> {
    let last = config.phases.len() - 1;
    let serving = serving_of(config, last);
    let headline = trainer::estimator(config, last).name();
    let default = default_policy(serving);
    let mut policies = vec![default];
    if !tiny.causal() {
        policies.extend::<[PolicySpec; 3]>([
            Method::Ancestral { form: AncestralForm::FirstHitting, tokens_per_forward: 1, steps: 128 }.into(),
            Method::LeftToRight {}.into(),
            Method::TopProb {
                steps_per_block: 0,
                score: Score::Entropy,
                schedule: Schedule::Even,
                alg_temp: 0.0,
            }
            .into(),
        ]);
    }
    let laws = laws(tiny);
    let mut findings: Vec<Finding> = vec![];
    for (i, policy) in policies.into_iter().enumerate() {
        if i > 0 && policy == default {
            continue;
        }
        let edits = matches!(
            policy.method,
            Method::Edit { tau_edit: Some(_), .. } | Method::Remask { .. } | Method::Wino { .. }
        );
        let counts = decode(tiny, serving.attention, policy);
        let z: Vec<f64> = laws.iter().map(|l| chi_square_z(&counts, &l.1)).collect();
        let closest = (0..z.len()).min_by(|a, b| z[*a].total_cmp(&z[*b])).expect("there are laws");
        // laws may coincide (blocks of one): the headline's own comes first
        let matched = (0..z.len()).find(|i| z[*i] < AGREE).filter(|_| !edits);
        // the headline of mixed noise belongs to a sampler that no policy is
        let own = matched.is_some_and(|i| laws[i].2) && tiny.phase.hybrid.is_none();
        let proved = match own {
            true if tiny.causal() || tiny.block == Some(1) => Standing::Exact,
            true => Standing::Bound,
            false => Standing::Neither,
        };
        let says = match matched {
            Some(i) => format!("at temperature 1 it samples the law of {}; at 0 it is one text", laws[i].0),
            None if edits => format!(
                "no likelihood is known for texts that were edited: {headline} belongs to the mask-only sampler"
            ),
            None => format!(
                "chooses by the drawn tokens, so it samples no law that is known (closest {}, {:.0} deviations off); \
                 {headline} belongs to ancestral",
                laws[closest].0, z[closest]
            ),
        };
        let mut checks = vec![];
        let known = match policy.method {
            Method::Ancestral { .. } => Some(0),
            Method::LeftToRight {} => Some(laws.len().min(2) - 1),
            _ => None,
        };
        if let Some(i) = known {
            let what = format!("{SAMPLES} decodings against {}, in standard deviations", laws[i].0);
            checks.push(Check::at_most(what, z[i], AGREE));
        }
        let default = i == 0;
        findings.push(Finding {
            feature: format!("served: {}", tiny.feature),
            part: "sampler",
            subject: format!("{}{}", policy.kind(), if default { " (default)" } else { "" }),
            proved,
            claimed: if default { claims.sampler } else { None },
            says,
            checks,
        });
    }
    findings
}

/// Known laws over all texts that start as decodings do: (estimator, probabilities, is it the headline's).
fn laws(tiny: &Tiny) -> Vec<(String, Vec<f64>, bool)> {
    let texts = texts(tiny);
    let rows = rows(&texts);
    let (packing, shift) = (tiny.config.data.packing, tiny.shift());
    let mut table = tiny.random();
    table.rows = texts.clone();
    let block = tiny.table_block().unwrap_or(0);
    let layout = Layout::new(&rows, &packing, tiny.table_block(), shift, table.alphabet());
    let uniform: Vec<f64> = (0..rows.len()).map(|r| uniform_order(&mut table, &layout, r)).collect();
    let mut chain = |rule: Rule| {
        let e = Estimator::Duel { rule, block };
        let parts = nats(&mut table, &layout, e, 0, &mut |_, _| true).expect("four tokens");
        (e.name(), parts.iter().map(|p| (-p.0).exp()).collect::<Vec<f64>>(), false)
    };
    if tiny.causal() {
        let (_, p, _) = chain(Rule::Leftmost);
        return vec![("ar".into(), p, true)];
    }
    let name = if block > 0 { "the nelbo of blocks" } else { "the nelbo" };
    let leftmost = chain(Rule::Leftmost);
    vec![(name.into(), uniform, true), leftmost, chain(Rule::Entropy { k: 1 }), chain(Rule::PMax { k: 1 })]
}

/// All texts; with the logit shift those with the prompt's token in front.
fn texts(tiny: &Tiny) -> Vec<Vec<u32>> {
    sequences(V, L).into_iter().filter(|x| !tiny.shift() || x[0] == FIRST).collect()
}

/// Histogram over [`texts`] of many decodings at temperature 1.
fn decode(tiny: &Tiny, attention: Attention, policy: PolicySpec) -> Vec<f64> {
    let texts = texts(tiny);
    let mut table = tiny.random();
    let prompt = if tiny.shift() { vec![FIRST] } else { vec![] };
    let mut c = DecodeConfig::new(prompt, L as u32, (V + 2) as u32, MASK);
    (c.attention, c.shift, c.policy, c.temperature) = (attention, tiny.shift(), policy, 1.0);
    c.block_size = tiny.block.unwrap_or(0) as u32;
    (c.forbid, c.rows, c.seed) = (vec![0], false, 29);
    let mut counts = vec![0.0; texts.len()];
    for sequence in 0..SAMPLES {
        c.sequence = sequence;
        let mut decoder = Decoder::new(c.clone()).expect("a valid configuration");
        let mut stored: Vec<u32> = vec![];
        drive(&mut decoder, |r| answer(&mut table, r, &mut stored)).expect("the decoder's own request");
        let text = decoder.state().ids();
        if let Some(i) = texts.iter().position(|t| t == text) {
            counts[i] += 1.0;
        }
    }
    counts
}

/// One forward from a table: positions of the request and those stored before it are visible, as in a session.
fn answer(table: &mut Table, r: &ForwardRequest, stored: &mut Vec<u32>) -> RowStats {
    if let CacheOp::Truncate { keep } = r.cache {
        stored.truncate(keep as usize);
    }
    let mut ids: Vec<Option<u32>> = stored.iter().map(|id| Some(*id)).collect();
    ids.resize(L, None);
    for (p, id) in r.query_positions.iter().zip(&r.ids) {
        ids[*p as usize] = Some(*id).filter(|id| *id != MASK);
    }
    let size = table.block;
    let block = |p: u32| size.map_or(0, |b| p as usize / b);
    let heads: Vec<RowHead> = r
        .want
        .rows
        .iter()
        .map(|p| {
            let mut seen = ids.clone();
            // later blocks and, for a causal model, later positions are out of sight
            (0..L as u32).filter(|q| block(*q) > block(*p)).for_each(|q| seen[q as usize] = None);
            let current = ids[*p as usize];
            if size == Some(1) {
                seen[*p as usize] = None;
            }
            let belief = table.belief(&seen, *p as usize, f64::NAN);
            head(&belief, current, r, *p)
        })
        .collect();
    if r.cache == CacheOp::Store {
        stored.extend(&r.ids);
    }
    RowStats { rows: heads, ..Default::default() }
}

/// Head statistics of a distribution over the symbols, with the keyed race of the real head.
fn head(p: &[f64], current: Option<u32>, r: &ForwardRequest, position: u32) -> RowHead {
    let rng = Rng::new(r.want.seed, Stream::Token, r.sequence);
    let id = |v: usize| FIRST + v as u32;
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let key = |v: usize| rng.exponential(r.step, position, id(v)) as f64 / p[v];
    let mut race: Vec<(f64, usize)> = (0..p.len()).map(|v| (key(v), v)).collect();
    race.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ln = |v: usize| p[v].ln() as f32;
    RowHead {
        lse: 0.0,
        max: ln(order[0]),
        argmax: id(order[0]),
        second: ln(order[1]),
        entropy: -p.iter().map(|p| p * p.ln()).sum::<f64>() as f32,
        current: current.map_or(f32::NEG_INFINITY, |c| ln((c - FIRST) as usize)),
        candidate: id(race[0].1),
        candidate_logit: ln(race[0].1),
        lse_t: 0.0,
        margin: (race[1].0.ln() - race[0].0.ln()) as f32,
        top: vec![],
    }
}
