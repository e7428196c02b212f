//! The audit of a trained model on short rows of real text, with Monte Carlo error bars (`methods/rl_common.md` 10.2, A2,
//! A8, A11; `methods/evaluation.md` 6.4):
//!
//! - the scoring path and the decoding session give the same distributions for the same states;
//! - K draws of both forms agree with the enumeration of all masks;
//! - the log-probabilities that a left-to-right decoding commits add up to the chain likelihood of what it wrote;
//! - a second document in the row changes nothing;
//! - a model that edits: mask-only, raw hybrid and converted hybrid NELBO side by side.

use std::sync::Arc;

use hilda_kernels::Train;
use hilda_kernels::rng::{Rng, Stream};

use super::laws::mean_error;
use super::{Check, Finding, Report};
use crate::config::{PackingSpec, Standing};
use crate::data::{Packed, Row};
use crate::decode::{ActionKind, Attention, CacheOp, DecodeConfig, Decoder, ForwardRequest, Method, Want};
use crate::diffusion::likelihood::groups::Layout;
use crate::diffusion::likelihood::{
    Alphabet, Denoiser, Estimator, Evaluation, LikelihoodError, Net, Rule, State, evaluate, nats, plan_rows,
};
use crate::model::session::Weights;
use crate::model::{Serving, Session, Trunk};

/// Replicates of every drawn design.
const R: u64 = 6;
/// Draws of each.
const K: usize = 32;
/// Tokens together that are enumerated here.
const TOKENS: usize = 8;

/// A model that cannot be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("{0}")]
    Model(String),
    #[error(transparent)]
    Likelihood(#[from] LikelihoodError),
    #[error(transparent)]
    Session(#[from] crate::model::SessionError),
    #[error("decoding: {0}")]
    Generate(#[from] crate::model::generate::GenerateError),
}

/// What is audited.
pub struct Subject<'a, B: Train> {
    pub name: String,
    pub backend: &'a B,
    pub trunk: &'a Trunk,
    pub serving: Serving,
    pub params: &'a B::Buf,
    /// ids of documents laid end to end
    pub text: &'a [u32],
    /// rows that are enumerated
    pub rows: usize,
}

impl<B: Train> Subject<'_, B> {
    /// Block of the estimators; None: whole rows.
    fn block(&self) -> Option<usize> {
        (self.serving.attention == Attention::BlockCausal).then_some(self.serving.block_size)
    }
    /// Tokens of a short row: two blocks, or as many as are enumerated.
    fn length(&self) -> usize {
        self.block().map_or(TOKENS, |b| 2 * b)
    }
    fn packing(&self) -> PackingSpec {
        PackingSpec {
            length: self.length(),
            documents: false,
            restart_positions: false,
            restart_blocks: false,
        }
    }
    fn packed(&self) -> Packed {
        let (length, rows) = (self.length(), self.rows.min(self.text.len() / self.length()));
        let eos = self.trunk.config.eos_id;
        Packed {
            rows: self.text[..length * rows].to_vec(),
            length,
            eos,
            documents: rows,
            tokens: length * rows,
            answers: vec![],
        }
    }
    /// Mean and standard error over rows, in nats per token, and the replicates' error.
    fn measure(&self, data: &Packed, estimator: Estimator, replicates: u64) -> Result<Measured, AuditError> {
        let mut plan = self.trunk.plan(self.backend, plan_rows(estimator, data.length), false);
        let mut runs = vec![];
        for seed in 0..replicates {
            let e = Evaluation {
                estimator,
                seed,
                shift: self.serving.shift,
                packing: self.packing(),
                rows: 0,
                bytes_per_token: None,
            };
            runs.push(evaluate(self.backend, self.trunk, self.params, &mut plan, data, &e, |_, _| true)?);
        }
        let values: Vec<f64> = runs.iter().map(|r| r.value).collect();
        let (value, error) = if replicates > 1 { mean_error(&values) } else { (values[0], 0.0) };
        Ok(Measured { value, error, rows: runs[0].stderr })
    }
}

struct Measured {
    value: f64,
    /// of the draws
    error: f64,
    /// over rows
    rows: f64,
}

/// Audits a model.
///
/// # Errors
/// [`AuditError`]: no text, a causal model's missing process, or blocks too long to enumerate.
pub fn model<B: Train>(s: &Subject<B>) -> Result<Report, AuditError> {
    if s.text.len() < 2 * s.length() {
        return Err(AuditError::Model(format!(
            "{} tokens of text are fewer than two rows of {}; give a longer file",
            s.text.len(),
            s.length()
        )));
    }
    if let Some(b) = s.block()
        && b > crate::diffusion::likelihood::exact::MOST
    {
        return Err(AuditError::Model(format!(
            "blocks of {b} tokens have 2^{b} - 1 masks, too many to enumerate; audit the recipe instead"
        )));
    }
    let mut findings = vec![];
    if s.serving.attention == Attention::Causal {
        findings.push(chain(s, Estimator::Ar)?);
        return Ok(Report::new(s.name.clone(), findings));
    }
    findings.push(replay(s)?);
    findings.push(bound(s)?);
    findings.push(chain(s, Estimator::LeftToRight { block: s.block().unwrap_or(0) })?);
    findings.push(documents(s));
    if s.serving.edits {
        findings.push(editing(s)?);
    }
    Ok(Report::new(s.name.clone(), findings))
}

fn finding(
    feature: &str,
    part: &'static str,
    subject: String,
    proved: Standing,
    claimed: Option<Standing>,
    says: String,
    checks: Vec<Check>,
) -> Finding {
    Finding { feature: feature.into(), part, subject, proved, claimed, says, checks }
}

const FEATURE: &str = "trained model";

/// Scoring path against decoding session, on the same masked states of a block behind its clean prefix (or of a row).
fn replay<B: Train>(s: &Subject<B>) -> Result<Finding, AuditError> {
    let data = s.packed();
    let rows: Vec<Row> = (0..data.len()).map(|i| data.row(i)).collect();
    let (packing, block, shift) = (s.packing(), s.block(), s.serving.shift);
    let mut plan = s.trunk.plan(
        s.backend,
        plan_rows(Estimator::NelboExact { block: block.unwrap_or(0) }, data.length),
        false,
    );
    let mut net = Net {
        backend: s.backend,
        trunk: s.trunk,
        params: s.params,
        plan: &mut plan,
        rows: &rows,
        packing,
        block,
        shift,
    };
    let layout = Layout::new(&rows, &packing, block, shift, Alphabet::of(&s.trunk.config));
    let mut params = s.backend.buf(s.trunk.layout.total);
    s.backend.copy(s.params, 0, &mut params, 0, s.trunk.layout.total);
    let weights = Arc::new(Weights { trunk: s.trunk.clone(), shift, params });
    let mut session = Session::new(s.backend, weights, data.length);
    let rng = Rng::new(3, Stream::Eval, 2);
    let (mut p_max, mut entropy, mut states) = (0.0f64, 0.0f64, 0);
    for r in 0..rows.len().min(16) {
        session.forget();
        for (at, part) in layout.parts(r).iter().enumerate() {
            // a random half of the part, at least its last token
            let last = part[part.len() - 1];
            let masked: Vec<u32> =
                part.iter().copied().filter(|c| *c == last || rng.uniform(r as u32, *c, 0) < 0.5).collect();
            let mut noisy = rows[r].tokens.to_vec();
            masked.iter().for_each(|c| noisy[*c as usize] = s.trunk.config.mask_id);
            let state = State { row: r, noisy: noisy.clone(), asked: masked.clone(), time: f64::NAN };
            let scored = net.score(std::slice::from_ref(&state), true).remove(0);
            let span = match block {
                Some(b) => at * b..(at + 1) * b,
                None => 0..data.length,
            };
            let mut request = ForwardRequest {
                sequence: 0,
                step: 0,
                query_positions: span.clone().map(|c| c as u32).collect(),
                ids: noisy[span.clone()].to_vec(),
                rule: s.serving.attention.rule(),
                block_size: block.unwrap_or(0) as u32,
                cache: CacheOp::None,
                compression: Default::default(),
                want: Want { rows: masked, ..Default::default() },
            };
            let pending = session.forward(s.backend, &request)?;
            let heads = pending.decode(&s.backend.read_range(&session.stats, 0, pending.len())).rows;
            for (a, b) in scored.iter().zip(&heads) {
                p_max = p_max.max((a.p_max - b.p_max() as f64).abs());
                entropy = entropy.max((a.entropy - b.entropy as f64).abs());
                states += 1;
            }
            if block.is_some() {
                (request.ids, request.cache) = (rows[r].tokens[span].to_vec(), CacheOp::Store);
                request.want.rows.clear();
                session.forward(s.backend, &request)?;
            }
        }
    }
    let checks = vec![
        Check::at_most("largest difference of p_max", p_max, 1e-4),
        Check::at_most("largest difference of entropies, nats", entropy, 1e-3),
    ];
    let says = format!("scoring and decoding agree on {states} masked positions");
    Ok(finding(FEATURE, "sampler", "replay".into(), Standing::Exact, None, says, checks))
}

/// Draws against the enumeration of all masks.
fn bound<B: Train>(s: &Subject<B>) -> Result<Finding, AuditError> {
    let data = s.packed();
    let block = s.block().unwrap_or(0);
    let exact = s.measure(&data, Estimator::NelboExact { block }, 1)?;
    let rate = if block > 0 { Estimator::NelboBlock { block, k: K } } else { Estimator::NelboT { k: K } };
    let mut checks = vec![];
    let mut shown = String::new();
    for (e, bias) in [(rate, 1e-3 * exact.value), (Estimator::NelboN { block, k: K }, 0.0)] {
        let m = s.measure(&data, e, R)?;
        let z = ((m.value - exact.value).abs() - bias).max(0.0) / m.error.max(1e-9);
        checks.push(Check::at_most(format!("{} against enumeration, in standard errors", e.name()), z, 5.0));
        shown += &format!("{} {:.4} ± {:.4}, ", e.name(), m.value, m.error);
    }
    let says = format!("{shown}enumerated {:.4} (± {:.4} over rows) nats per token", exact.value, exact.rows);
    let name = Estimator::NelboExact { block }.name();
    Ok(finding(FEATURE, "estimator", name, Standing::Bound, Some(Standing::Bound), says, checks))
}

/// What a left-to-right decoding at temperature 1 committed, against the chain likelihood of its text.
fn chain<B: Train>(s: &Subject<B>, estimator: Estimator) -> Result<Finding, AuditError> {
    let c = &s.trunk.config;
    let length = s.length();
    let mut params = s.backend.buf(s.trunk.layout.total);
    s.backend.copy(s.params, 0, &mut params, 0, s.trunk.layout.total);
    let weights = Arc::new(Weights { trunk: s.trunk.clone(), shift: s.serving.shift, params });
    let mut session = Session::new(s.backend, weights, length);
    let (mut texts, mut committed) = (vec![], vec![]);
    for sequence in 0..16 {
        let mut d = DecodeConfig::new(vec![c.eos_id], length as u32, c.vocab as u32, c.mask_id);
        (d.attention, d.shift, d.forbid) = (s.serving.attention, s.serving.shift, c.forbid.clone());
        d.block_size = s.block().unwrap_or(0) as u32;
        (d.policy, d.temperature, d.seed, d.sequence) = (Method::LeftToRight {}.into(), 1.0, 5, sequence);
        d.rows = false;
        session.forget();
        let mut decoder = Decoder::new(d).map_err(crate::model::generate::GenerateError::from)?;
        crate::model::run(s.backend, &mut session, &mut decoder, |_| true)?;
        let of = |a: &&crate::decode::Action| a.kind == ActionKind::Commit;
        let logq: f64 =
            decoder.steps().iter().flat_map(|s| s.actions.iter().filter(of)).map(|a| a.logq as f64).sum();
        texts.extend(decoder.state().ids());
        committed.push(-logq);
    }
    let data = Packed {
        rows: texts,
        length,
        eos: u32::MAX,
        documents: committed.len(),
        tokens: 16 * length,
        answers: vec![],
    };
    let rows: Vec<Row> = (0..data.len()).map(|i| data.row(i)).collect();
    // the first token was given
    let given =
        |parts: Vec<f64>| parts.iter().zip(&committed).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let far = if estimator == Estimator::Ar {
        let mut plan = s.trunk.plan(s.backend, plan_rows(estimator, length), false);
        let mut out = vec![];
        for row in &rows {
            let one = Packed {
                rows: row.tokens.to_vec(),
                length,
                eos: u32::MAX,
                documents: 1,
                tokens: length,
                answers: vec![],
            };
            let e = Evaluation {
                estimator,
                seed: 0,
                shift: true,
                packing: s.packing(),
                rows: 0,
                bytes_per_token: None,
            };
            let r = evaluate(s.backend, s.trunk, s.params, &mut plan, &one, &e, |_, _| true)?;
            out.push(r.value * r.tokens as f64);
        }
        given(out)
    } else {
        let packing = s.packing();
        let block = s.block();
        let mut plan = s.trunk.plan(s.backend, plan_rows(estimator, length), false);
        let mut net = Net {
            backend: s.backend,
            trunk: s.trunk,
            params: s.params,
            plan: &mut plan,
            rows: &rows,
            packing,
            block,
            shift: s.serving.shift,
        };
        let layout = Layout::new(&rows, &packing, block, s.serving.shift, Alphabet::of(c));
        let mut first = vec![0.0; rows.len()];
        if !s.serving.shift {
            // its own probability is the first step of the chain: everything of its part masked
            for (r, first) in first.iter_mut().enumerate() {
                let part = &layout.parts(r)[0];
                let mut noisy = rows[r].tokens.to_vec();
                layout.parts(r).iter().flatten().for_each(|c| noisy[*c as usize] = s.trunk.config.mask_id);
                let state = State { row: r, noisy, asked: vec![part[0]], time: f64::NAN };
                *first = -net.score(&[state], false)[0][0].log_p;
            }
        }
        let parts = nats(&mut net, &layout, estimator, 0, &mut |_, _| true)?;
        given(parts.iter().zip(&first).map(|(p, f)| p.0 - f).collect())
    };
    let limit = 1e-4 * length as f64;
    let checks = vec![Check::at_most("largest difference of a text's nats", far, limit)];
    let says = format!("the log-probabilities of {} decodings add up to it", committed.len());
    let claimed = Some(Standing::Exact);
    Ok(finding(FEATURE, "sampler", estimator.name(), Standing::Exact, claimed, says, checks))
}

/// A document alone and behind another one.
fn documents<B: Train>(s: &Subject<B>) -> Finding {
    let eos = s.trunk.config.eos_id;
    let length = s.length();
    let own: Vec<u32> = s.text.iter().copied().filter(|t| *t != eos).take(length - 1).chain([eos]).collect();
    let other: Vec<u32> =
        s.text.iter().rev().copied().filter(|t| *t != eos).take(length - 1).chain([eos]).collect();
    let both: Vec<u32> = other.iter().chain(&own).copied().collect();
    let score = |tokens: &[u32], offset: usize| {
        let rows = [Row::new(tokens, eos)];
        let packing = PackingSpec {
            length: tokens.len(),
            documents: true,
            restart_positions: true,
            restart_blocks: true,
        };
        let (block, shift) = (s.block(), s.serving.shift);
        let mut plan = s.trunk.plan(s.backend, 9 * tokens.len(), false);
        let mut net = Net {
            backend: s.backend,
            trunk: s.trunk,
            params: s.params,
            plan: &mut plan,
            rows: &rows,
            packing,
            block,
            shift,
        };
        let asked: Vec<u32> = (1..length as u32).step_by(2).map(|c| c + offset as u32).collect();
        let mut noisy = tokens.to_vec();
        asked.iter().for_each(|c| noisy[*c as usize] = s.trunk.config.mask_id);
        let state = State { row: 0, noisy, asked, time: f64::NAN };
        net.score(&[state], false).remove(0)
    };
    let (alone, behind) = (score(&own, 0), score(&both, length));
    let far = alone.iter().zip(&behind).map(|(a, b)| (a.log_p - b.log_p).abs()).fold(0.0, f64::max);
    let checks = vec![Check::at_most("largest difference of a token's nats", far, 1e-4)];
    let says = "a document behind another one scores as if it were alone".to_string();
    finding(FEATURE, "estimator", "documents".into(), Standing::Exact, None, says, checks)
}

/// Mask-only, raw and converted NELBO of an editing model.
fn editing<B: Train>(s: &Subject<B>) -> Result<Finding, AuditError> {
    let data = s.packed();
    let block = s.block().unwrap_or(0);
    let hybrid = |loo| Estimator::Hybrid { p_uniform: 0.1, loo, block, k: K / 2 };
    let a = s.measure(&data, Estimator::NelboN { block, k: K }, R)?;
    let (b, c) = (s.measure(&data, hybrid(false), R - 2)?, s.measure(&data, hybrid(true), R - 2)?);
    let rule = Rule::PMax { k: 1 };
    let duel = s.measure(&data, Estimator::Duel { rule, block }, 1)?;
    let says = format!(
        "mask only {:.3} ± {:.3}, raw {:.3} ± {:.3}, converted {:.3} ± {:.3} (double counting {:+.3}, editing {:+.3}); \
         {} {:.3} nats per token",
        a.value,
        a.error,
        b.value,
        b.error,
        c.value,
        c.error,
        b.value - c.value,
        c.value - a.value,
        Estimator::Duel { rule, block }.name(),
        duel.value
    );
    let relative = (b.error / b.value).max(c.error / c.value);
    let checks =
        vec![Check::at_most("draws' error of the hybrid bounds, share of their value", relative, 0.2)];
    Ok(finding(FEATURE, "estimator", hybrid(true).name(), Standing::Bound, None, says, checks))
}
