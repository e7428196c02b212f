//! Draft, then refine (Diffusion in Diffusion, arXiv 2601.13599; `methods/diffusion_in_diffusion.md`), on one model.
//!
//! The draft is written in the model's blocks, by threshold; s_i is the probability token i was written with, taken once
//! (`snapshot`). Then the n = floor(gamma m) of the m written tokens with the smallest s are masked again (ties: lower
//! position first), and one block over the whole text, in which every position sees every other, writes them anew. Prompt,
//! fixed tokens and the filling behind an early end keep their place and are not counted. gamma = 0 is the draft.
//!
//! The masks are put by the record of the draft's last forward. Small blocks in a model that was never trained to see
//! the whole text make a good draft and a bad refinement: the pass needs attention that reaches the whole text.
//!
//! **Controls** of what is masked. `random`: any n. Two read the finished draft once more, in one forward (kind `judge`) over
//! the whole text under the attention that refines it, and take s_i = p(x_i) from there; both are controls, since the paper
//! found that a draft read again is mostly confirmed:
//!
//! - `post_hoc`: from the row that reads x_i itself (a masked model was not trained to say anything there);
//! - `left_out`: from a shadow of the written positions, made of masks, whose row i sees everything but x_i
//!   ([`super::Shadow`]).

use std::sync::Arc;

use hilda_kernels::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};

use super::{
    Action, ActionKind, Attention, CacheOp, DecodeError, Decoder, ForwardRequest, RowStats, Shadow, Status,
    StepKind, StepRecord, Want,
    decoder::BlockRun,
    forward::Pending,
    policy::{Fired, Parts, Rule},
    state::CERTAIN,
    trajectory::RowRecord,
};

/// Which tokens are masked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// the least sure ones when they were written
    #[default]
    Snapshot,
    /// any: a control
    Random,
    /// the least sure ones when the draft is read again: a control
    PostHoc,
    /// the least sure ones given all but themselves: a control
    LeftOut,
}

impl Choose {
    /// Does it read the draft again?
    fn reads(self) -> bool {
        matches!(self, Choose::PostHoc | Choose::LeftOut)
    }
}

/// The second pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refine {
    /// share of the draft
    pub gamma: f32,
    pub choose: Choose,
    pub policy: Parts,
    /// the finished draft is to be read again before anything is masked
    pub judging: bool,
}

/// Random key of the control: no forward has this index.
const STEP: u32 = u32::MAX - 1;

impl Decoder {
    /// Is the next forward the one that reads the draft again?
    pub(super) fn judging(&self) -> bool {
        self.refine.is_some_and(|r| r.judging)
    }

    /// Written positions and their psi; with the logit shift nothing predicts the first position.
    fn drafted(&self) -> Vec<(f32, u32)> {
        let first = u32::from(self.config.shift);
        let written = |p: u32| match self.state.status(p) {
            Status::Committed { psi, .. } => Some((psi, p)),
            _ => None,
        };
        (first..self.state.len()).filter_map(written).collect()
    }

    /// How many of `m` written tokens are written anew.
    fn anew(gamma: f32, m: usize) -> usize {
        (gamma as f64 * m as f64) as usize
    }

    /// Ends the draft: masks what is to be written anew and opens one block over the whole text, or opens it for the forward
    /// that reads the draft again. Without anything to refine the text is final.
    pub(super) fn begin_refining(&mut self, step: u32, actions: &mut Vec<Action>) -> Result<(), DecodeError> {
        let Some(refine) = &mut self.refine else { return Ok(()) };
        let Refine { choose, gamma, .. } = *refine;
        refine.judging = choose.reads();
        let drafted = self.drafted();
        if choose.reads() && Self::anew(gamma, drafted.len()) > 0 {
            self.open_whole();
            return Ok(());
        }
        let rng = Rng::new(self.config.seed, Stream::Order, self.config.sequence);
        let scored = drafted.iter().map(|(psi, p)| match choose {
            Choose::Random => (rng.uniform(STEP, *p, 0), *p),
            _ => (*psi as f64, *p),
        });
        self.mask_least(step, scored.collect(), actions)
    }

    /// Masks the share gamma with the smallest scores and lets the second pass begin.
    fn mask_least(
        &mut self,
        step: u32,
        mut scored: Vec<(f64, u32)>,
        actions: &mut Vec<Action>,
    ) -> Result<(), DecodeError> {
        let Some(refine) = self.refine.take() else { return Ok(()) };
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let n = Self::anew(refine.gamma, scored.len());
        let next = scored.get(n).map(|w| w.0);
        // the draft's last tokens may have been written by this very record
        let least = actions.iter().map(|a| a.margin).fold(f32::INFINITY, f32::min);
        for (s, pos) in &scored[..n] {
            let margin = match next {
                Some(next) if refine.choose != Choose::Random => (next - s) as f32,
                _ => CERTAIN,
            };
            let (old, new) = (self.state.id(*pos), self.config.mask_id);
            let psi = match self.state.status(*pos) {
                Status::Committed { psi, .. } => psi,
                _ => 1.0,
            };
            let p = if refine.choose.reads() { *s as f32 } else { psi };
            let margin = margin.min(least);
            let action = Action { kind: ActionKind::Remask, pos: *pos, old, new, p, logq: 0.0, margin };
            self.state.act(step, &action)?;
            actions.push(action);
        }
        if n > 0 {
            self.refine = Some(refine);
            self.open_whole();
            self.refine = None;
        }
        self.settle();
        Ok(())
    }

    /// One block over the whole text, in which every position sees every other, for the second pass' policy.
    fn open_whole(&mut self) {
        let Some(refine) = self.refine else { return };
        self.state.join_blocks();
        self.blocks = vec![BlockRun::default()];
        self.attention = Attention::Bidirectional;
        self.policy = Arc::new(refine.policy);
        // nothing that is cached has seen what comes after it
        self.valid = 0;
    }

    /// The forward that reads the draft again.
    pub(super) fn plan_judging(&self) -> Pending {
        let rows: Vec<u32> = self.drafted().iter().map(|d| d.1).collect();
        let ahead = u32::from(self.config.shift);
        let left_out = self.refine.is_some_and(|r| r.choose == Choose::LeftOut) && !rows.is_empty();
        let shadow = left_out.then(|| Shadow {
            positions: rows.iter().map(|p| p - ahead).collect(),
            mask: self.config.mask_id,
            rows: rows.clone(),
        });
        let rule = self.attention.shadow(ahead).filter(|_| left_out);
        let request = ForwardRequest {
            sequence: self.config.sequence,
            step: self.step,
            query_positions: (0..self.state.len()).collect(),
            ids: self.state.ids().to_vec(),
            rule: rule.map_or(self.attention.rule(), Into::into),
            block_size: 0,
            cache: if self.cached > 0 { CacheOp::Truncate { keep: 0 } } else { CacheOp::None },
            compression: Default::default(),
            want: Want {
                rows,
                top_k: self.config.top_k,
                temperature: self.config.temperature,
                seed: self.config.seed,
                whole: Vec::new(),
                shadow,
            },
        };
        Pending { request, kind: StepKind::Judge, block: 0 }
    }

    /// Takes what it said: p(x_i) of every written token decides which ones are masked.
    pub(super) fn judge(
        &mut self,
        request: &ForwardRequest,
        stats: &RowStats,
        record: &mut StepRecord,
    ) -> Result<(), DecodeError> {
        let all = 0..self.state.len();
        let rows = self.rows(request, &stats.rows, std::slice::from_ref(&all), &[], &[]);
        record.rows = rows.iter().map(|r| RowRecord::new(r, f64::NEG_INFINITY)).collect();
        let scored: Vec<(f64, u32)> =
            rows.iter().map(|r| (r.head.p_current().min(1.0) as f64, r.pos)).collect();
        let of = scored.len() as u32;
        self.mask_least(request.step, scored, &mut record.actions)?;
        let n = record.actions.len() as u32;
        record.rule = Some(Rule { selection: Fired::Judged { n, of }, ..Rule::default() });
        Ok(())
    }
}
