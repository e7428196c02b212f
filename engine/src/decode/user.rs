//! What a person may do to a text, finished or not: mask positions again, fix a token, let go of it.
//!
//! Refused while a forward is pending. In models with a cache, a change drops the cached entries from its block
//! (causal: position) on; text after it stays unless it is reopened too.

use super::{
    Action, ActionKind, Attention, DecodeError, Decoder, Status,
    credit::Credit,
    decoder::BlockRun,
    state::CERTAIN,
    trajectory::{CacheEvent, StepKind, StepRecord},
};

impl Action {
    /// A change that no model decided.
    pub(super) fn certain(pos: u32, old: u32, new: u32) -> Action {
        Action { kind: ActionKind::Fix, pos, old, new, p: 1.0, logq: 0.0, margin: CERTAIN }
    }
}

impl Decoder {
    /// Masks written positions again and goes on decoding. Positions that an early stop had filled are masked
    /// too: they were never decided. Already masked positions are left alone.
    pub fn reopen(&mut self, positions: &[u32]) -> Result<StepRecord, DecodeError> {
        self.ready()?;
        let mut reopened: Vec<u32> = Vec::new();
        for pos in positions {
            match self.status_at(*pos)? {
                Status::Masked => {}
                Status::Prompt => return Err(DecodeError::PromptPosition { pos: *pos }),
                Status::Fixed => {
                    let status = Status::Fixed.name();
                    return Err(DecodeError::WrongStatus {
                        pos: *pos,
                        status,
                        needed: "written (unfix it first)",
                    });
                }
                _ if self.config.shift && *pos == 0 => return Err(DecodeError::NothingBeforeFirst),
                _ => reopened.push(*pos),
            }
        }
        if !reopened.is_empty() {
            reopened.extend((0..self.state.len()).filter(|p| self.state.status(*p) == Status::Filled));
        }
        reopened.sort_unstable();
        reopened.dedup();
        let mask = self.config.mask_id;
        let actions = reopened
            .iter()
            .map(|p| Action { kind: ActionKind::Reopen, ..Action::certain(*p, self.state.id(*p), mask) })
            .collect();
        let record = self.user_step(actions)?;
        for pos in &reopened {
            let block = self.state.block_of(*pos);
            self.blocks[block as usize] = BlockRun::default();
            self.invalidate(*pos);
        }
        if !reopened.is_empty() {
            self.counted_steps = 0;
            self.stop = None;
            self.ended = false;
        }
        self.settle();
        self.skip_refining();
        Ok(record)
    }

    /// Sets `pos` to `id` for good (until unfixed). Allowed anywhere outside the prompt.
    pub fn fix(&mut self, pos: u32, id: u32) -> Result<StepRecord, DecodeError> {
        self.ready()?;
        if self.status_at(pos)? == Status::Prompt {
            return Err(DecodeError::PromptPosition { pos });
        }
        if id >= self.config.vocab {
            return Err(DecodeError::IdOutOfRange { what: "fixed token", id, vocab: self.config.vocab });
        }
        if id == self.config.mask_id {
            return Err(DecodeError::ForbiddenToken { id });
        }
        let old = self.state.id(pos);
        let record = self.user_step(vec![Action::certain(pos, old, id)])?;
        if old != id {
            self.invalidate(pos);
        }
        self.settle();
        self.skip_refining();
        Ok(record)
    }

    /// Lets go of a fixed token: it stays, but may be edited and reopened.
    pub fn unfix(&mut self, pos: u32) -> Result<StepRecord, DecodeError> {
        self.ready()?;
        let status = self.status_at(pos)?;
        if status == Status::Prompt {
            return Err(DecodeError::PromptPosition { pos });
        }
        if status != Status::Fixed {
            return Err(DecodeError::WrongStatus { pos, status: status.name(), needed: "fixed" });
        }
        let id = self.state.id(pos);
        self.user_step(vec![Action { kind: ActionKind::Unfix, ..Action::certain(pos, id, id) }])
    }

    fn ready(&self) -> Result<(), DecodeError> {
        if self.search.is_some() {
            Err(DecodeError::Searching)
        } else if self.pending() {
            Err(DecodeError::ForwardPending)
        } else {
            Ok(())
        }
    }

    fn status_at(&self, pos: u32) -> Result<Status, DecodeError> {
        let length = self.state.len();
        if pos < length {
            Ok(self.state.status(pos))
        } else {
            Err(DecodeError::PositionOutOfRange { pos, length })
        }
    }

    fn user_step(&mut self, actions: Vec<Action>) -> Result<StepRecord, DecodeError> {
        let record = StepRecord {
            step: self.step,
            block: actions.first().map_or(0, |a| self.state.block_of(a.pos)),
            kind: StepKind::User,
            queries: 0,
            shadow: 0,
            gaps: Vec::new(),
            cache: CacheEvent::default(),
            evicted: Vec::new(),
            rows: Vec::new(),
            actions,
            rule: None,
            forced: false,
            divergence: None,
        };
        for a in &record.actions {
            self.state.act(self.step, a)?;
        }
        // what was computed without the prompt was computed of another text, and so was what tokens were credited for
        self.unguided = None;
        if record.actions.iter().any(|a| a.old != a.new) {
            self.window = None;
            self.blocks.iter_mut().for_each(|b| b.credit = Credit::default());
        }
        self.record(&record, 0);
        Ok(record)
    }

    /// Cached keys and values from the change on no longer hold.
    fn invalidate(&mut self, pos: u32) {
        self.exact = None;
        let from = match self.attention {
            Attention::Bidirectional => {
                self.kept = None;
                return;
            }
            // what was rounded or dropped before it is computed again too, as if the text had come so
            _ if self.config.policy.caching.lossy() && pos < self.cached => 0,
            Attention::BlockCausal => self.state.block_range(self.state.block_of(pos)).start,
            Attention::Causal => pos,
        };
        self.valid = self.valid.min(from);
    }
}
