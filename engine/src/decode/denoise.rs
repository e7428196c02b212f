//! One denoising forward: its statistics become rows, the policy's plan is checked, and what it asks for happens, all at once.
//!
//! Rows whose logits came back whole are computed anew ([`super::rows`]); what a block remembers between forwards (tokens
//! held, distributions, credit) is brought up to date only once nothing can be refused any more.

use std::ops::Range;

use hilda_kernels::head::RowHead;

use super::{
    Action, ActionKind, CacheOp, DecodeError, Decoder, ForwardRequest, RowStats, Status, StepRecord, Stop,
    credit::Credit,
    policy::{Between, Confidence, Fired, Row, View},
    rows,
    rules::{best, cap, check_plan},
    trajectory::{Divergence, RowRecord},
};

/// Rows of the active block against the same rows without the cache.
pub(super) fn diverged(rows: &[Row], exact: &[RowHead]) -> Divergence {
    let mut d = Divergence::default();
    for (row, exact) in rows.iter().filter(|r| r.active).zip(exact) {
        let dp = (row.p_max() - exact.p_max()).abs();
        d.rows += 1;
        d.changed += u32::from(row.head.candidate != exact.candidate);
        d.largest_dp = d.largest_dp.max(dp);
        d.sum_dp += dp;
    }
    d
}

/// How far the positions of a block have moved, and where they are now.
pub(super) struct Moved {
    block: u32,
    kl: Vec<Vec<f32>>,
    before: Vec<Option<Vec<f32>>>,
}

impl Decoder {
    /// Statistics that cannot be used are refused before anything has changed.
    pub(super) fn check_stats(&self, request: &ForwardRequest, stats: &RowStats) -> Result<(), DecodeError> {
        let (wanted, got) = (request.want.rows.len(), stats.rows.len());
        if wanted != got {
            return Err(DecodeError::RowCount { wanted, got });
        }
        rows::check(&self.config, request, stats)?;
        for (pos, head) in request.want.rows.iter().zip(&stats.rows) {
            let bad = |field, value| DecodeError::BadRow { pos: *pos, field, value };
            for (field, value) in [
                ("lse", head.lse),
                ("max", head.max),
                ("entropy", head.entropy),
                ("candidate_logit", head.candidate_logit),
                ("lse_t", head.lse_t),
            ] {
                if !value.is_finite() {
                    return Err(bad(field, value));
                }
            }
            // what a masked row's mask token scores means nothing
            let current = if self.state.is_masked(*pos) { 0.0 } else { head.current };
            for (field, value) in [("second", head.second), ("current", current), ("margin", head.margin)] {
                if value.is_nan() {
                    return Err(bad(field, value));
                }
            }
            for id in [head.argmax, head.candidate] {
                if id >= self.config.vocab {
                    let vocab = self.config.vocab;
                    return Err(DecodeError::IdOutOfRange { what: "predicted token", id, vocab });
                }
                if !self.config.writable(id) {
                    return Err(DecodeError::ForbiddenToken { id });
                }
            }
        }
        Ok(())
    }

    /// View, plan, check, progress, all actions at once, bookkeeping.
    pub(super) fn denoise(
        &mut self,
        request: &ForwardRequest,
        stats: &RowStats,
        record: &mut StepRecord,
    ) -> Result<(), DecodeError> {
        let block = record.block;
        let range = self.state.block_range(block);
        let noised = if self.noised { rows::noised(&self.config, request, stats) } else { Vec::new() };
        let mut credit = self.blocks[block as usize].credit.clone();
        let heads = self.refined(request, stats, block, &mut credit)?;
        let moved = self.compared(block, request, stats);
        let decided = self.decide(request, stats)?;
        let policy = decided.as_ref().map_or(&self.policy, |d| &d.0).clone();
        let rows = self.rows(request, &heads, std::slice::from_ref(&range), &noised, &moved);
        let view = self.view(request, block, range.clone(), &rows);
        let run = &self.blocks[block as usize];
        let open = |r: &&Row| r.active && r.masked();
        let was_open = rows.iter().any(|r| open(&r));
        let n = rows.iter().filter(open).count() as u32;
        let timed = policy.cells();
        let mut plan = match timed {
            _ if self.capped() => cap(&view, Fired::Capped { n }),
            Some(cells) if run.cell >= cells => cap(&view, Fired::NoiseRemoval { n }),
            _ => policy.plan(&view),
        };
        record.forced = plan.rule.selection.missed();
        check_plan(&self.config, &view, &plan)?;
        if timed.is_none() && was_open && plan.actions.iter().all(|a| a.kind != ActionKind::Commit) {
            plan.actions.push(best(&view, &plan));
            record.forced = true;
        }
        if let Some(lead) = credit.lead() {
            plan.actions.iter_mut().for_each(|a| a.margin = a.margin.min(lead));
        }
        record.divergence = self.exact.as_ref().map(|exact| diverged(&rows, exact));
        record.rows = rows.iter().zip(&plan.scores).map(|(r, s)| RowRecord::new(r, *s)).collect();

        let mut state = self.state.clone();
        for a in &plan.actions {
            state.act(request.step, a)?;
        }
        self.state = state;
        if let Some((policy, switched)) = decided {
            (self.policy, self.undecided) = (policy, None);
            plan.rule.switch = Some(switched);
        }
        self.unguided = None;
        self.exact = None;
        let surprise: Vec<f64> = plan
            .actions
            .iter()
            .filter(|a| a.kind == ActionKind::Commit)
            .filter_map(|a| request.want.rows.binary_search(&a.pos).ok())
            .map(|i| heads[i].entropy as f64)
            .collect();
        for m in moved {
            let run = &mut self.blocks[m.block as usize];
            (run.kl, run.before) = (m.kl, m.before);
        }
        for a in plan.actions.iter().filter(|a| a.kind != ActionKind::Remask) {
            self.held(a);
            credit.forget((a.pos - range.start) as usize);
        }
        let run = &mut self.blocks[block as usize];
        run.credit = credit;
        run.surprise.0 += surprise.iter().sum::<f64>();
        run.surprise.1 += surprise.len() as u32;
        run.commits = Some(plan.actions.iter().filter(|a| a.kind == ActionKind::Commit).count() as u32);
        run.steps += 1;
        run.cell += 1;
        if !was_open && timed.is_none() {
            run.post += 1;
            // masks that the last of these forwards left are still to be written: then `settle` ends the block
            run.done = plan.actions.is_empty();
        }
        self.counted_steps += 1;
        record.actions = plan.actions;
        if !matches!(plan.rule.selection, Fired::Capped { .. }) {
            self.mask_again(request.step, block, &mut record.actions)?;
        }
        record.rule = Some(plan.rule);
        self.settle();
        self.open_window(block);
        self.stop_early(request.step, block, &mut record.actions)?;
        if matches!(request.cache, CacheOp::Keep { .. }) {
            self.changed.clear();
        }
        self.changed.insert(0, record.actions.iter().map(|a| a.pos).collect());
        self.changed.truncate(self.config.policy.caching.cache_delay as usize);
        Ok(())
    }

    /// Rows of a forward as the policy sees them, ascending by position; those inside `active` may be acted upon.
    pub(super) fn rows<'a>(
        &'a self,
        request: &'a ForwardRequest,
        heads: &'a [RowHead],
        active: &[Range<u32>],
        noised: &[(u32, f32)],
        moved: &'a [Moved],
    ) -> Vec<Row<'a>> {
        let temperature = self.config.temperature;
        let drawn = temperature > 0.0 && self.config.policy.candidate.confidence == Confidence::Drawn;
        let row = |(pos, head): (&'a u32, &'a RowHead)| {
            let inside = active.iter().any(|r| r.contains(pos));
            let block = self.state.block_of(*pos);
            let at = (pos - self.state.block_range(block).start) as usize;
            let held = self.blocks[block as usize].held.get(at).filter(|_| inside);
            let kl = moved.iter().find(|m| m.block == block).map_or(&[][..], |m| &m.kl[at]);
            let confidence = match noised.iter().find(|n| n.0 == *pos) {
                Some((_, p)) => *p,
                None if drawn => head.q_candidate(temperature),
                None => head.p_candidate(),
            };
            Row {
                pos: *pos,
                status: self.state.status(*pos),
                current: self.state.id(*pos),
                active: inside,
                informed: self.config.informed(self.attention, *pos),
                head,
                held: held.map_or(&[][..], Vec::as_slice),
                confidence: confidence.min(1.0),
                kl,
            }
        };
        request.want.rows.iter().zip(heads).map(row).collect()
    }

    /// What the policy sees of a forward.
    pub(super) fn view<'a>(
        &'a self,
        request: &ForwardRequest,
        block: u32,
        active: Range<u32>,
        rows: &'a [Row<'a>],
    ) -> View<'a> {
        let run = &self.blocks[block as usize];
        View {
            step: request.step,
            block,
            active,
            block_step: run.steps,
            masked_at_start: run.masked_at_start,
            cell: run.cell,
            commits: run.commits,
            temperature: self.config.temperature,
            seed: self.config.seed,
            sequence: self.config.sequence,
            statuses: self.state.statuses(),
            eos: self.config.eos_id,
            start: self.config.prompt.len() as u32,
            frequencies: self.config.frequencies.as_ref(),
            rows,
        }
    }

    /// Statistics with those of whole rows computed from their logits. `credit` is the block's, and is brought up to date.
    pub(super) fn refined(
        &self,
        request: &ForwardRequest,
        stats: &RowStats,
        block: u32,
        credit: &mut Credit,
    ) -> Result<Vec<RowHead>, DecodeError> {
        let start = self.state.block_range(block);
        let credit = (start, credit);
        rows::refined(&self.config, &self.state, request, stats, self.unguided.as_deref(), credit)
    }

    /// What the policy masks before the block's next forward, by what is known without it.
    fn mask_again(&mut self, step: u32, block: u32, actions: &mut Vec<Action>) -> Result<(), DecodeError> {
        let run = &self.blocks[block as usize];
        let between = Between {
            statuses: self.state.statuses(),
            block: self.state.block_range(block),
            masked_at_start: run.masked_at_start,
            steps: run.steps,
        };
        // which tokens there are to choose from was decided just before
        let least = actions.iter().map(|a| a.margin).fold(f32::INFINITY, f32::min);
        for (pos, margin) in self.policy.again(&between) {
            let margin = margin.min(least);
            let Status::Committed { psi, .. } = self.state.status(pos) else {
                return Err(DecodeError::PolicyBroke { pos, rule: "only what is written is masked again" });
            };
            let (old, new) = (self.state.id(pos), self.config.mask_id);
            let action = Action { kind: ActionKind::Remask, pos, old, new, p: psi, logq: 0.0, margin };
            self.state.act(step, &action)?;
            actions.push(action);
        }
        Ok(())
    }

    /// How far each masked position has moved in this and earlier forwards, and where it is now, block by block: of the active
    /// block, and of others whose rows were asked for; nothing for policies that do not ask.
    fn compared(&self, block: u32, request: &ForwardRequest, stats: &RowStats) -> Vec<Moved> {
        let mut all: Vec<Moved> = Vec::new();
        if !self.policy.compares() {
            return all;
        }
        let begun = |block: u32| {
            let (run, n) = (&self.blocks[block as usize], self.state.block_range(block).len());
            let mut kl = run.kl.clone();
            kl.resize(n, Vec::new());
            Moved { block, kl, before: vec![None; n] }
        };
        all.push(begun(block));
        for (i, pos) in request.want.whole.iter().enumerate().filter(|(_, p)| self.state.is_masked(**p)) {
            let block = self.state.block_of(*pos);
            let known = all.iter().position(|m| m.block == block);
            let m = known.unwrap_or_else(|| {
                all.push(begun(block));
                all.len() - 1
            });
            let at = (pos - self.state.block_range(block).start) as usize;
            let now = rows::probabilities(&self.config, rows::row(&self.config, stats, i));
            if let Some(then) = self.blocks[block as usize].before.get(at).and_then(Option::as_ref) {
                all[m].kl[at].push(rows::divergence(&now, then));
            }
            all[m].before[at] = Some(now);
        }
        all
    }

    /// End-of-text written and nothing before it masked: the remaining masks become end-of-text. A policy that
    /// revises may still take the token back, so there it waits until the block is final.
    pub(super) fn stop_early(
        &mut self,
        step: u32,
        block: u32,
        actions: &mut Vec<Action>,
    ) -> Result<(), DecodeError> {
        let Some(eos) = self.config.eos_id.filter(|_| self.config.early_stop) else { return Ok(()) };
        if self.window.is_some() || self.policy.revises() && !self.blocks[block as usize].done {
            return Ok(());
        }
        let written =
            |p: u32| self.state.id(p) == eos && matches!(self.state.status(p), Status::Committed { .. });
        let known = (0..self.state.len()).take_while(|p| !self.state.is_masked(*p));
        if !known.into_iter().any(written) {
            return Ok(());
        }
        let rest: Vec<u32> = self.state.masked(0..self.state.len()).collect();
        if rest.is_empty() && self.active().is_none() {
            return Ok(());
        }
        for pos in rest {
            let old = self.state.id(pos);
            let fill = Action { kind: ActionKind::Fill, ..Action::certain(pos, old, eos) };
            self.state.act(step, &fill)?;
            actions.push(fill);
        }
        self.blocks.iter_mut().for_each(|b| b.done = true);
        self.ended = true;
        self.stop = Some(Stop::EarlyStop).filter(|_| self.refine.is_none());
        Ok(())
    }
}
