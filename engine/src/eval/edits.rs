//! What the edits of free decoding are worth. Nobody knows the right token there, so a judge decides, of what stood there
//! when the edit was made: the text up to the first mask behind the edited position, with the new token and with the
//! old one,
//!
//!   gain = ln p_judge(with the new token) - ln p_judge(with the old token)   [nats].
//!
//! An edit improves the text if its gain is above 0. What was written later does not count: it was written to fit the
//! new token. Edits of one step are judged one at a time.

use hilda_kernels::Cpu;

use super::judge::{Score, TextJudge};
use crate::data::{DataError, Tokenizer};
use crate::decode::trajectory::ReplayError;
use crate::decode::{ActionKind, Status, Trajectory};
use crate::model::Serving;
use crate::model::generate::{GenerateError, Request, decode, text};
use crate::model::session::Session;

/// Errors of one text.
#[derive(Debug, thiserror::Error)]
pub enum EditsError {
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error("judge: {0}")]
    Judge(#[from] DataError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// One text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    pub text: String,
    /// gain of every edit, nats
    pub gains: Vec<f64>,
    /// of what follows the prompt, under the judge
    pub score: Score,
    /// written by the model, up to the end of text
    pub tokens: u32,
    /// without the prompt's
    pub forwards: u32,
}

/// Text around an edit when it was made: before and after, as ids up to the first mask behind it.
pub fn moments(t: &Trajectory) -> Result<Vec<[Vec<u32>; 2]>, ReplayError> {
    let states = t.replay()?;
    let mut moments = vec![];
    for (step, state) in t.steps.iter().zip(&states) {
        for a in step.actions.iter().filter(|a| a.kind == ActionKind::Edit) {
            let masked = |p: &u32| matches!(state.status(*p), Status::Masked);
            let end = (a.pos..state.len()).find(masked).unwrap_or(state.len()) as usize;
            let before = state.ids()[..end].to_vec();
            let mut after = before.clone();
            after[a.pos as usize] = a.new;
            moments.push([before, after]);
        }
    }
    Ok(moments)
}

/// Writes one text and lets the judge look at its edits.
///
/// # Errors
/// A request the model cannot serve, or text that the judge's tokenizer refuses.
pub fn write(
    session: &mut Session<Cpu>,
    serving: Serving,
    tokenizer: &Tokenizer,
    r: &Request,
    judge: &TextJudge,
) -> Result<Written, EditsError> {
    let trajectory = decode(&Cpu, session, serving, tokenizer, r)?;
    let whole = text(tokenizer, &trajectory.footer.ids);
    let score = judge.score(&whole)?;
    let mut gains = vec![];
    for [before, after] in moments(&trajectory)? {
        let of = |ids| judge.score(&text(tokenizer, ids)).map(|s| s.log_p);
        gains.push(of(&after)? - of(&before)?);
    }
    let ledger = trajectory.footer.ledger;
    Ok(Written {
        gains,
        score: score.after(judge.score(&r.prompt)?),
        tokens: trajectory.footer.tokens,
        forwards: ledger.forwards - ledger.prefill,
        text: whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::trajectory::{CacheEvent, Footer, Header};
    use crate::decode::{Action, DecodeConfig, StepKind, StepRecord};

    #[test]
    fn a_moment_is_what_stood_there() {
        let act = |kind, pos, old, new| Action { kind, pos, old, new, p: 1.0, logq: 0.0, margin: 1.0 };
        let (c, e) = (ActionKind::Commit, ActionKind::Edit);
        let step = |step, actions| StepRecord {
            step,
            block: 0,
            kind: StepKind::Denoise,
            queries: 1,
            cache: CacheEvent::default(),
            rows: vec![],
            actions,
            rule: None,
            forced: false,
            ..Default::default()
        };
        let steps = vec![
            step(0, vec![act(c, 1, 9, 3), act(c, 2, 9, 4), act(c, 4, 9, 6)]),
            // both are judged against the text before the step, and what is behind the mask is not looked at
            step(1, vec![act(e, 1, 3, 7), act(e, 2, 4, 8)]),
            step(2, vec![act(c, 3, 9, 5)]),
            step(3, vec![act(e, 1, 7, 3)]),
        ];
        let footer = Footer {
            ids: vec![0, 3, 8, 5, 6],
            stop: None,
            ledger: Default::default(),
            tokens: 4,
            tokens_per_forward: 1.0,
            positions_per_token: 1.0,
            sum_log_p: 0.0,
            divergence: None,
            cache_bytes: None,
            seconds: None,
        };
        let config = DecodeConfig::new(vec![0], 5, 10, 9);
        let header = Header { config, model: Default::default(), unseen_fixed: vec![] };
        let t = Trajectory { version: crate::decode::trajectory::VERSION, header, steps, footer };
        let want = [
            [vec![0, 3, 4], vec![0, 7, 4]],
            [vec![0, 3, 4], vec![0, 3, 8]],
            [vec![0, 7, 8, 5, 6], vec![0, 3, 8, 5, 6]],
        ];
        assert_eq!(moments(&t).unwrap(), want);
    }
}
