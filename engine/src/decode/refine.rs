//! Draft, then refine (Diffusion in Diffusion, arXiv 2601.13599; `methods/diffusion_in_diffusion.md`), on one model.
//!
//! The draft is written in the model's blocks, by threshold; s_i is the probability token i was written with, taken once
//! (`snapshot`). Then the n = floor(gamma m) of the m written tokens with the smallest s are masked again (ties: lower
//! position first), and one block over the whole text, in which every position sees every other, writes them anew. Prompt,
//! fixed tokens and the filling behind an early end keep their place and are not counted. gamma = 0 is the draft.
//!
//! The masks are put by the record of the draft's last forward. Small blocks in a model that was never trained to see
//! the whole text make a good draft and a bad refinement: the pass needs attention that reaches the whole text.

use std::sync::Arc;

use hilda_kernels::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};

use super::{
    Action, ActionKind, Attention, DecodeError, Decoder, Status, decoder::BlockRun, policy::Parts,
    state::CERTAIN,
};

/// Which tokens are masked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// the least sure ones when they were written
    #[default]
    Snapshot,
    /// any: the control
    Random,
}

/// The second pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refine {
    /// share of the draft
    pub gamma: f32,
    pub choose: Choose,
    pub policy: Parts,
}

/// Random key of the control: no forward has this index.
const STEP: u32 = u32::MAX - 1;

impl Decoder {
    /// Ends the draft: masks what is to be written anew and opens one block over the whole text. Without anything to
    /// refine the text is final.
    pub(super) fn begin_refining(&mut self, step: u32, actions: &mut Vec<Action>) -> Result<(), DecodeError> {
        let Some(refine) = self.refine.take() else { return Ok(()) };
        let rng = Rng::new(self.config.seed, Stream::Order, self.config.sequence);
        let mut written: Vec<(f64, u32)> = (0..self.state.len())
            .filter_map(|p| match self.state.status(p) {
                Status::Committed { .. } if p == 0 && self.config.shift => None,
                Status::Committed { psi, .. } => Some((psi as f64, p)),
                _ => None,
            })
            .map(|(psi, p)| match refine.choose {
                Choose::Snapshot => (psi, p),
                Choose::Random => (rng.uniform(STEP, p, 0), p),
            })
            .collect();
        written.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let n = (refine.gamma as f64 * written.len() as f64) as usize;
        let next = written.get(n).map(|w| w.0);
        for (s, pos) in &written[..n] {
            let margin = match (refine.choose, next) {
                (Choose::Snapshot, Some(next)) => (next - s) as f32,
                _ => CERTAIN,
            };
            let (old, mask) = (self.state.id(*pos), self.config.mask_id);
            let psi = match self.state.status(*pos) {
                Status::Committed { psi, .. } => psi,
                _ => 1.0,
            };
            let action =
                Action { kind: ActionKind::Remask, pos: *pos, old, new: mask, p: psi, logq: 0.0, margin };
            self.state.act(step, &action)?;
            actions.push(action);
        }
        if n > 0 {
            self.state.join_blocks();
            self.blocks = vec![BlockRun::default()];
            self.attention = Attention::Bidirectional;
            self.policy = Arc::new(refine.policy);
            // nothing that is cached has seen what comes after it
            self.valid = 0;
        }
        self.settle();
        Ok(())
    }
}
