//! Editing over the border of a block (Multi-Block Editing, arXiv 2607.22663; `methods/llada21_editing.md`, second part): some
//! errors show only once the next block is there. When block b is finished, earlier blocks are opened again together with it,
//! and up to `passes` forwards edit written tokens of these blocks under joint attention; nothing is masked, and a forward
//! that edits nothing ends it.
//!
//! **Attention.** Under block-causal attention an earlier block does not see a later one, so that reading it again would say
//! what it said: the window is what makes a difference, and what such a model was not trained for. Here everything from the
//! window's first block to b sees everything from there to b and all that stands before. Between blocks that were not chosen
//! (`surprisal`) are computed with them and stay.
//!
//! **Which blocks.** `adjacent`: the K - 1 blocks before b. `surprisal`: the K - 1 most uncertain ones, as far as they reach
//! the 75th percentile of all finished blocks, b among them; the uncertainty of a block is the mean entropy of its tokens when
//! they were written. Without one that reaches it there is no pass.
//!
//! **Cache.** Keys and values from the window's first block on are dropped before the first pass, passes keep none, and the
//! next block's store pass computes them again: exact, at the price of up to K blocks instead of one. (The paper refreshes
//! modified blocks alone, which leaves those behind them stale.)

use std::ops::Range;

use super::{
    Action, Attention, DecodeError, Decoder, ForwardRequest, RowStats, State, StepRecord,
    credit::Credit,
    policy::{Fired, Reach, Windows},
    rules::check_plan,
    trajectory::RowRecord,
};

/// Blocks that are edited together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// ascending; the last one is the finished block
    blocks: Vec<u32>,
    passes: u32,
}

impl Window {
    /// The finished block.
    pub fn last(&self) -> u32 {
        self.blocks[self.blocks.len() - 1]
    }

    /// Positions of a forward.
    pub fn range(&self, state: &State) -> Range<u32> {
        state.block_range(self.blocks[0]).start..state.block_range(self.last()).end
    }
}

/// The 75th percentile (nearest rank) of some scores.
fn watermark(scores: &[f64]) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (0.75 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::INFINITY)
}

/// Which of the blocks before the last one of `scores` are opened with it; `None` where a block wrote nothing.
fn chosen(w: &Windows, scores: &[Option<f64>]) -> Vec<u32> {
    let Some(last) = scores.len().checked_sub(1) else { return Vec::new() };
    let most = w.blocks.saturating_sub(1) as usize;
    if w.by == Reach::Adjacent {
        return (last.saturating_sub(most)..last).map(|b| b as u32).collect();
    }
    let known: Vec<f64> = scores.iter().copied().flatten().collect();
    let least = watermark(&known);
    let mut earlier: Vec<(f64, u32)> =
        (0..last).filter_map(|b| scores[b].map(|s| (s, b as u32))).filter(|(s, _)| *s >= least).collect();
    earlier.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut blocks: Vec<u32> = earlier.into_iter().take(most).map(|e| e.1).collect();
    blocks.sort_unstable();
    blocks
}

impl Decoder {
    /// Opens a window if `block` has just been finished and the policy asks for one.
    pub(super) fn open_window(&mut self, block: u32) {
        let Some(windows) = self.policy.windows() else { return };
        if !self.blocks[block as usize].done || self.capped() || windows.passes == 0 {
            return;
        }
        let scores: Vec<Option<f64>> = self.blocks[..=block as usize].iter().map(|b| b.surprise()).collect();
        let mut blocks = chosen(&windows, &scores);
        if blocks.is_empty() {
            return;
        }
        blocks.push(block);
        let window = Window { blocks, passes: 0 };
        self.valid = self.valid.min(window.range(&self.state).start);
        self.window = Some(window);
        self.stop = None;
    }

    /// One pass: edits of written tokens of the window's blocks, all at once.
    pub(super) fn edit_window(
        &mut self,
        request: &ForwardRequest,
        stats: &RowStats,
        record: &mut StepRecord,
    ) -> Result<(), DecodeError> {
        let Some(window) = self.window.clone() else { return Ok(()) };
        let range = window.range(&self.state);
        let parts: Vec<Range<u32>> = window.blocks.iter().map(|b| self.state.block_range(*b)).collect();
        let heads = self.refined(request, stats, record.block, &mut Credit::default())?;
        let mut rows = self.rows(request, &heads, &parts, &[], &[]);
        for row in &mut rows {
            // joint attention: with the logit shift only the row before the window has not read what it predicts
            row.informed = !self.config.shift
                || row.pos != range.start
                || self.config.attention == Attention::Bidirectional;
        }
        let view = self.view(request, record.block, range.clone(), &rows);
        let mut plan = self.policy.plan(&view);
        check_plan(&self.config, &view, &plan)?;
        let (first, blocks) = (window.blocks[0], window.blocks.len() as u32);
        plan.rule.selection = Fired::Window { first, blocks, pass: window.passes };
        record.rows = rows.iter().zip(&plan.scores).map(|(r, s)| RowRecord::new(r, *s)).collect();

        let mut state = self.state.clone();
        for a in &plan.actions {
            state.act(request.step, a)?;
        }
        self.state = state;
        for a in &plan.actions {
            self.held(a);
        }
        self.counted_steps += 1;
        record.actions = plan.actions;
        record.rule = Some(plan.rule);
        let most = self.policy.windows().map_or(0, |w| w.passes);
        if record.actions.is_empty() || window.passes + 1 >= most || self.capped() {
            self.window = None;
            self.settle();
            self.stop_early(request.step, record.block, &mut record.actions)?;
        } else {
            self.window = Some(Window { passes: window.passes + 1, ..window });
        }
        Ok(())
    }

    /// A position holds another token.
    pub(super) fn held(&mut self, a: &Action) {
        let block = self.state.block_of(a.pos);
        let at = (a.pos - self.state.block_range(block).start) as usize;
        if let Some(held) = self.blocks[block as usize].held.get_mut(at) {
            held.push(a.new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_uncertain_blocks_are_opened() {
        let w = |blocks, by| Windows { blocks, passes: 5, by };
        let scores = [Some(1.0), Some(3.0), None, Some(0.5), Some(2.0)];
        assert_eq!(chosen(&w(2, Reach::Adjacent), &scores), [3]);
        assert_eq!(chosen(&w(9, Reach::Adjacent), &scores), [0, 1, 2, 3]);
        // of 0.5, 1, 2, 3 the third is the 75th percentile: the finished block reaches it, of the others one does
        assert_eq!(watermark(&[1.0, 3.0, 0.5, 2.0]), 2.0);
        assert_eq!(chosen(&w(3, Reach::Surprisal), &scores), [1]);
        // the finished block alone is the most uncertain one
        assert!(chosen(&w(3, Reach::Surprisal), &[Some(1.0), Some(1.5), Some(9.0)]).is_empty());
        assert!(chosen(&w(3, Reach::Surprisal), &[Some(1.0)]).is_empty());
        assert_eq!(watermark(&[]), f64::INFINITY);
    }
}
