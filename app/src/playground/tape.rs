//! A decoding as the page shows it: the steps as they arrived, and for each of them a frame, which is the state of
//! every position together with the mark it wears. Frame 0 is the text before the first step, frame k the text after
//! step k. Frames are built once, when a step arrives; scrubbing only picks one.
//!
//! Steps are the decoder's records ([`StepRecord`]) that could change the text: forwards that predict, and what the
//! visitor did. Forwards that only fill the cache have no frame of their own, but are counted.

use std::sync::Arc;

use hilda_engine::decode::{
    Action, ActionKind, DecodeConfig, StepKind, StepRecord, Trajectory, trajectory::RowRecord,
};

use super::costs::Costs;

/// What a position looks like; each mark differs from the others by more than colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Prompt,
    Masked,
    /// written in this very step
    New,
    /// written earlier
    Plain,
    /// replaced at some step; `Cell::old` is what stood there
    Edited,
    /// masked again in this very step; `Cell::old` is what stood there
    Remasked,
    /// set by the visitor, never changed by the model
    Fixed,
    /// before the beginning or behind the end of the text; not shown
    Filled,
}

/// One position of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    pub token: Option<u32>,
    pub mark: Mark,
    /// step that wrote the token (0 = before decoding)
    pub step: u32,
    /// probability of the token when it was written, before any sampling temperature
    pub p: f32,
    /// entropy of the position's distribution when it was written, nats; -1 if unknown
    pub entropy: f32,
    pub old: Option<u32>,
    /// the most probable token of the newest forward that computed this position
    pub guess: Option<u32>,
    /// token whose width a mask takes: the first guess, or the word that was masked again. It stays, so that the text
    /// does not move with every forward.
    pub room: Option<u32>,
}

impl Cell {
    pub fn is_masked(&self) -> bool {
        matches!(self.mark, Mark::Masked | Mark::Remasked)
    }
    /// Whether the model wrote it.
    pub fn is_written(&self) -> bool {
        matches!(self.mark, Mark::New | Mark::Plain | Mark::Edited)
    }
}

/// The text after a step, with its counters.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub cells: Vec<Cell>,
    pub masked: u32,
    /// tokens replaced or masked again so far
    pub edits: u32,
    /// forwards so far, those that only fill the cache included, the prompt's not
    pub forwards: u32,
    /// tokens that the model wrote and that stand now
    pub written: u32,
    /// block of the step
    pub block: u32,
}

impl Frame {
    /// Tokens standing per forward.
    pub fn per_forward(&self) -> f64 {
        if self.forwards == 0 { 0.0 } else { f64::from(self.written) / f64::from(self.forwards) }
    }
}

/// See the module comment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tape {
    pub steps: Vec<Arc<StepRecord>>,
    pub frames: Vec<Arc<Frame>>,
    /// tokens per block as decoding uses it
    pub block_size: u32,
    /// positions before this one are the prompt
    pub prompt: usize,
    /// positions fixed by the visitor that earlier text cannot see
    pub unseen: Vec<u32>,
    /// of all forwards, those included that have no frame of their own
    pub costs: Costs,
    /// forwards since the last frame that have none of their own
    silent: u32,
}

impl Tape {
    /// Frame 0 of a decoding that begins.
    pub fn new(config: &DecodeConfig) -> Tape {
        let cells: Vec<Cell> = (0..config.length)
            .map(|pos| {
                let prompt = config.prompt.get(pos as usize).copied();
                let fixed = config.fixed.iter().find(|f| f.0 == pos).map(|f| f.1);
                let mark = match (prompt, fixed) {
                    // what stands before the beginning of a document
                    (Some(id), _) if pos == 0 && config.eos_id == Some(id) => Mark::Filled,
                    (Some(_), _) => Mark::Prompt,
                    (None, Some(_)) => Mark::Fixed,
                    (None, None) => Mark::Masked,
                };
                Cell {
                    token: prompt.or(fixed),
                    mark,
                    step: 0,
                    p: 1.0,
                    entropy: -1.0,
                    old: None,
                    guess: None,
                    room: None,
                }
            })
            .collect();
        let masked = cells.iter().filter(|c| c.is_masked()).count() as u32;
        let frame = Frame { cells, masked, edits: 0, forwards: 0, written: 0, block: 0 };
        Tape {
            steps: Vec::new(),
            frames: vec![Arc::new(frame)],
            block_size: config.block(),
            prompt: config.prompt.len(),
            unseen: config.unseen_fixed(),
            costs: Costs::default(),
            silent: 0,
        }
    }

    /// The whole of a recorded decoding. The record is taken as it is; whether it holds together is
    /// [`Trajectory::replay`]'s to say.
    pub fn of(trajectory: &Trajectory) -> Tape {
        let mut tape = Tape::new(&trajectory.header.config);
        for step in &trajectory.steps {
            tape.push(step.clone());
        }
        tape
    }

    /// Whether every position sees all others.
    pub fn is_one_block(&self) -> bool {
        self.frames.first().is_some_and(|f| self.block_size as usize >= f.cells.len())
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn last(&self) -> Option<&Arc<Frame>> {
        self.frames.last()
    }

    /// Appends a step and its frame. Actions outside the text are ignored: a shared link may hold anything.
    pub fn push(&mut self, step: StepRecord) {
        let Some(last) = self.frames.last() else { return };
        self.costs.add(&step);
        match step.kind {
            StepKind::Denoise | StepKind::Judge | StepKind::User => {}
            // the text shown has not changed
            StepKind::Search if step.actions.is_empty() => {
                self.silent += 1;
                return;
            }
            StepKind::Search => {}
            StepKind::Prefill => return,
            StepKind::Store | StepKind::Refresh | StepKind::Guide | StepKind::Check => {
                self.silent += 1;
                return;
            }
        }
        let mut frame = Frame::clone(last);
        frame.block = step.block;
        frame.forwards += u32::from(step.kind != StepKind::User) + std::mem::take(&mut self.silent);
        for cell in &mut frame.cells {
            match cell.mark {
                Mark::New => cell.mark = Mark::Plain,
                Mark::Remasked => (cell.mark, cell.old) = (Mark::Masked, None),
                _ => {}
            }
        }
        for row in &step.rows {
            if let Some(cell) = frame.cells.get_mut(row.pos as usize) {
                cell.guess = row.top.first().map(|(id, _)| *id).or(Some(row.candidate));
                cell.room = cell.room.or(cell.guess);
            }
        }
        let number = self.steps.len() as u32 + 1;
        for action in &step.actions {
            let Some(cell) = frame.cells.get_mut(action.pos as usize) else { continue };
            if (action.pos as usize) < self.prompt {
                continue;
            }
            let entropy = row(&step, action.pos).map_or(-1.0, |r| r.entropy);
            frame.edits += u32::from(matches!(action.kind, ActionKind::Edit | ActionKind::Remask));
            act(cell, action, number, entropy);
        }
        frame.masked = frame.cells.iter().filter(|c| c.is_masked()).count() as u32;
        frame.written = frame.cells.iter().filter(|c| c.is_written()).count() as u32;
        self.steps.push(Arc::new(step));
        self.frames.push(Arc::new(frame));
    }

    /// Steps up to frame `upto` in which position `pos` was computed or acted upon: (step number, step).
    pub fn history(&self, pos: u32, upto: usize) -> impl Iterator<Item = (usize, &Arc<StepRecord>)> {
        self.steps.iter().enumerate().take(upto).filter_map(move |(i, step)| {
            let seen = row(step, pos).is_some() || step.actions.iter().any(|a| a.pos == pos);
            seen.then_some((i + 1, step))
        })
    }
}

/// The statistics of a position in a step.
pub fn row(step: &StepRecord, pos: u32) -> Option<&RowRecord> {
    step.rows.iter().find(|r| r.pos == pos)
}

fn act(cell: &mut Cell, action: &Action, step: u32, entropy: f32) {
    let before = cell.token;
    if action.kind == ActionKind::Unfix {
        cell.mark = Mark::Plain;
        return;
    }
    let (token, mark, old) = match action.kind {
        ActionKind::Commit => (Some(action.new), Mark::New, None),
        ActionKind::Edit => (Some(action.new), Mark::Edited, before),
        ActionKind::Remask => (None, Mark::Remasked, before),
        ActionKind::Reopen => (None, Mark::Remasked, before),
        ActionKind::Fix => (Some(action.new), Mark::Fixed, None),
        ActionKind::Fill | ActionKind::Unfix => (Some(action.new), Mark::Filled, None),
    };
    let room = if token.is_none() { before } else { cell.room };
    *cell = Cell { token, mark, step, p: action.p, entropy, old, guess: cell.guess, room };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(prompt: &[u32], fixed: &[(u32, u32)], length: u32) -> DecodeConfig {
        let mut config = DecodeConfig::new(prompt.to_vec(), length, 100, 99);
        config.fixed = fixed.to_vec();
        config
    }
    fn step(kind: StepKind, actions: &[(ActionKind, u32, u32)]) -> StepRecord {
        let actions = actions
            .iter()
            .map(|(kind, pos, new)| Action {
                kind: *kind,
                pos: *pos,
                old: 0,
                new: *new,
                p: 0.5,
                logq: 0.0,
                margin: 0.1,
            })
            .collect();
        StepRecord {
            step: 0,
            block: 0,
            kind,
            queries: 4,
            cache: Default::default(),
            rows: vec![],
            actions,
            rule: None,
            forced: false,
            ..Default::default()
        }
    }

    #[test]
    fn marks_last_one_step_or_stay() {
        use ActionKind::*;
        let mut tape = Tape::new(&config(&[9], &[(3, 4)], 4));
        tape.push(step(StepKind::Denoise, &[(Commit, 1, 5), (Commit, 2, 6)]));
        tape.push(step(StepKind::Denoise, &[(Edit, 1, 7), (Remask, 2, 99)]));
        tape.push(step(StepKind::Denoise, &[(Commit, 2, 8)]));
        let marks = |k: usize| tape.frames[k].cells.iter().map(|c| c.mark).collect::<Vec<_>>();
        assert_eq!(marks(0), [Mark::Prompt, Mark::Masked, Mark::Masked, Mark::Fixed]);
        assert_eq!(marks(1), [Mark::Prompt, Mark::New, Mark::New, Mark::Fixed]);
        assert_eq!(marks(2), [Mark::Prompt, Mark::Edited, Mark::Remasked, Mark::Fixed]);
        assert_eq!(marks(3), [Mark::Prompt, Mark::Edited, Mark::New, Mark::Fixed]);
        assert_eq!(tape.frames[2].cells[1].old, Some(5));
        assert_eq!((tape.frames[3].masked, tape.frames[3].edits, tape.frames[3].written), (0, 2, 2));
    }

    #[test]
    fn neither_the_prompt_nor_places_outside_the_text_change() {
        let mut tape = Tape::new(&config(&[9], &[], 2));
        tape.push(step(StepKind::Denoise, &[(ActionKind::Commit, 0, 1), (ActionKind::Commit, 77, 1)]));
        assert_eq!(tape.frames[1].cells, tape.frames[0].cells);
    }

    #[test]
    fn forwards_that_only_fill_the_cache_are_counted_but_not_shown() {
        let mut tape = Tape::new(&config(&[9], &[], 3));
        tape.push(step(StepKind::Prefill, &[]));
        tape.push(step(StepKind::Denoise, &[(ActionKind::Commit, 1, 5)]));
        tape.push(step(StepKind::Store, &[]));
        tape.push(step(StepKind::Denoise, &[(ActionKind::Commit, 2, 6)]));
        assert_eq!(tape.len(), 2);
        assert_eq!(tape.last().unwrap().forwards, 3);
    }
}
