//! Do edits repair? Wrong tokens are put into a text whose right tokens are known, block by block behind the right
//! prefix, and the editing rule runs on each block until nothing changes (`methods/llada21_editing.md` 5, "inject k
//! wrong tokens in a correct answer"; the rule is LLaDA 2.1's, arXiv 2602.08676).
//!
//! A wrong token that ends as the right one is repaired, one that ends as another wrong one is moved; a right token
//! that ends as another one is harmed. Wrong tokens are uniform ids, as in training, or the model's own drafts: the
//! chosen positions are masked and written together at temperature 1, and what came out wrong counts.

use hilda_kernels::Train;
use hilda_kernels::rng::{Rng, Stream};

use crate::decode::{Attention, CacheOp, ForwardRequest, Want};
use crate::diffusion::likelihood::ratio;
use crate::model::Session;
use crate::model::session::SessionError;

/// Where wrong tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errors {
    /// any ordinary id
    Uniform,
    /// the model's own draws for several positions at once
    Drafts,
}

/// One measurement's fixed parts.
#[derive(Clone, Copy, Debug)]
pub struct Repair {
    pub errors: Errors,
    /// share of the positions that are replaced or drafted anew
    pub rate: f64,
    /// tau_edit: an edit needs a probability above it
    pub threshold: f32,
    /// at most this many passes over a block
    pub passes: u32,
    pub block: usize,
    pub seed: u64,
}

/// What became of the tokens of one document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// wrong tokens put in
    pub wrong: u64,
    pub repaired: u64,
    pub moved: u64,
    /// right tokens
    pub right: u64,
    pub harmed: u64,
    /// edits that made a wrong token right, a right one wrong, or one wrong one another
    pub good_edits: u64,
    pub bad_edits: u64,
    pub neutral_edits: u64,
}

/// Measures one document `ids` (its first token is given, as in a prompt). `document` keys the draws.
///
/// # Errors
/// [`SessionError`] where the document does not fit the session.
pub fn repair<B: Train>(
    b: &B,
    session: &mut Session<B>,
    ids: &[u32],
    document: u32,
    r: &Repair,
) -> Result<Outcome, SessionError> {
    session.forget();
    let mut out = Outcome::default();
    for start in (0..ids.len()).step_by(r.block) {
        let end = (start + r.block).min(ids.len());
        let truth = &ids[start..end];
        let before = wrong_tokens(b, session, truth, start, document, r)?;
        let mut now = before.clone();
        for pass in 0..r.passes {
            let best = ask(b, session, &now, start, document, 1 + pass, r, 0.0)?.best;
            let mut edited = false;
            for (i, (id, p)) in best.into_iter().enumerate() {
                let column = if start == 0 { i + 1 } else { i };
                // a row that does not read the token it would replace edits nothing (decode/policy/edit.rs)
                let blind = column == 0 && session.weights().shift;
                if blind || id == now[column] || p <= r.threshold {
                    continue;
                }
                match (now[column] == truth[column], id == truth[column]) {
                    (true, _) => out.bad_edits += 1,
                    (false, true) => out.good_edits += 1,
                    (false, false) => out.neutral_edits += 1,
                }
                now[column] = id;
                edited = true;
            }
            if !edited {
                break;
            }
        }
        for i in usize::from(start == 0)..truth.len() {
            if before[i] == truth[i] {
                out.right += 1;
                out.harmed += u64::from(now[i] != truth[i]);
            } else {
                out.wrong += 1;
                out.repaired += u64::from(now[i] == truth[i]);
                out.moved += u64::from(now[i] != truth[i] && now[i] != before[i]);
            }
        }
        let mut store = request(truth, start, document, 0, r, 0.0);
        (store.cache, store.want.rows) = (CacheOp::Store, vec![]);
        session.forward(b, &store)?;
    }
    Ok(out)
}

/// The block with its wrong tokens.
fn wrong_tokens<B: Train>(
    b: &B,
    session: &mut Session<B>,
    truth: &[u32],
    start: usize,
    document: u32,
    r: &Repair,
) -> Result<Vec<u32>, SessionError> {
    let c = session.weights().trunk.config.clone();
    let rng = Rng::new(r.seed, Stream::Replace, document);
    let first = usize::from(start == 0);
    let position = |i: usize| (start + i) as u32;
    let chosen: Vec<usize> =
        (first..truth.len()).filter(|i| rng.uniform(0, position(*i), 0) < r.rate).collect();
    let mut ids = truth.to_vec();
    match r.errors {
        Errors::Uniform => {
            for i in chosen {
                ids[i] = (1..)
                    .map(|lane| rng.below(0, position(i), lane, c.vocab as u64) as u32)
                    .find(|id| *id != truth[i] && *id != c.eos_id && !c.forbid.contains(id))
                    .expect("a vocabulary has ordinary ids");
            }
        }
        Errors::Drafts if chosen.is_empty() => {}
        Errors::Drafts => {
            chosen.iter().for_each(|i| ids[*i] = c.mask_id);
            let drawn = ask(b, session, &ids, start, document, 0, r, 1.0)?.drawn;
            chosen.iter().for_each(|i| ids[*i] = drawn[*i - first]);
        }
    }
    Ok(ids)
}

fn request(
    ids: &[u32],
    start: usize,
    document: u32,
    step: u32,
    r: &Repair,
    temperature: f32,
) -> ForwardRequest {
    let positions: Vec<u32> = (start as u32..(start + ids.len()) as u32).collect();
    ForwardRequest {
        sequence: document,
        step,
        ids: ids.to_vec(),
        rule: Attention::BlockCausal.rule(),
        block_size: r.block as u32,
        cache: CacheOp::None,
        compression: Default::default(),
        want: Want {
            rows: positions.iter().copied().filter(|p| *p > 0).collect(),
            top_k: 0,
            temperature,
            seed: r.seed,
            ..Default::default()
        },
        query_positions: positions,
    }
}

/// One entry for every position but the document's first.
struct Answer {
    /// most probable id and its probability
    best: Vec<(u32, f32)>,
    /// candidates
    drawn: Vec<u32>,
}

#[expect(clippy::too_many_arguments)]
fn ask<B: Train>(
    b: &B,
    session: &mut Session<B>,
    ids: &[u32],
    start: usize,
    document: u32,
    step: u32,
    r: &Repair,
    temperature: f32,
) -> Result<Answer, SessionError> {
    let request = request(ids, start, document, step, r, temperature);
    let pending = session.forward(b, &request)?;
    let rows = pending.decode(&b.read_range(&session.stats, 0, pending.len())).rows;
    let best = rows.iter().map(|h| (h.argmax, (h.max - h.lse).exp())).collect();
    Ok(Answer { best, drawn: rows.iter().map(|h| h.candidate).collect() })
}

/// [`ratio`] of counts, one pair a document.
pub fn share(parts: impl Iterator<Item = (u64, u64)>) -> (f64, f64) {
    ratio(&parts.map(|(y, x)| (y as f64, x as f64)).collect::<Vec<_>>())
}
