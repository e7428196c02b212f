//! The record of one decoding: header + actions rebuild every intermediate text without the model.
//!
//! JSON. Rows and actions are arrays, probabilities in rows are rounded to five decimals (margins and the
//! probabilities of actions are not); a row with eight alternatives takes about 150 bytes.

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    Action, ActionKind, DecodeConfig, DecodeError, Held, State, Status,
    policy::{Row, Rule},
};

/// Version of the format.
pub const VERSION: u32 = 1;

/// Everything that happened, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    pub version: u32,
    pub header: Header,
    pub steps: Vec<StepRecord>,
    pub footer: Footer,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub config: DecodeConfig,
    /// who computed; told by the driver
    #[serde(default)]
    pub model: Provenance,
    /// fixed tokens that earlier text cannot see, see [`DecodeConfig::unseen_fixed`]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen_fixed: Vec<u32>,
}

/// Which weights, on what. Free text except for the hashes (hex SHA-256).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    pub model: String,
    pub model_hash: String,
    pub tokenizer_hash: String,
    /// "cpu", "wasm", "webgpu"
    pub backend: String,
    /// numbers of the products: "f32", "int8"
    pub dtype: String,
}

/// What a step was for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// caches the prompt's complete blocks; not counted in tokens per forward
    Prefill,
    /// predicts rows
    #[default]
    Denoise,
    /// caches finished blocks
    Store,
    /// drops stale cache entries after a user's change
    Refresh,
    /// predicts rows without the prompt, for guidance
    Guide,
    /// a forward of a search; its actions are those of the leading text
    Search,
    /// predicts rows without an approximate cache, to measure what it costs
    Check,
    /// reads a finished draft again, to choose what is written anew
    Judge,
    /// no forward: the user acted
    User,
}

/// Keys and values: which were used, written and dropped (half-open ranges of positions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEvent {
    /// the first `reused` positions came from the cache
    pub reused: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<(u32, u32)>,
    /// positions behind the queries that came from the cache as well
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<(u32, u32)>,
    /// what was reused is approximate, and so many denoising forwards old
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u32>,
    /// positions whose keys and values were rounded behind this forward
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantised: Option<(u32, u32)>,
}

/// One forward, or one operation of the user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// forwards before this one
    #[serde(rename = "s")]
    pub step: u32,
    /// active block
    #[serde(rename = "b")]
    pub block: u32,
    #[serde(rename = "k")]
    pub kind: StepKind,
    /// positions computed
    #[serde(rename = "q")]
    pub queries: u32,
    /// rows of a shadow computed beside them
    #[serde(rename = "x", default, skip_serializing_if = "is_zero")]
    pub shadow: u32,
    /// ranges between the first and the last position computed that came from the cache
    #[serde(rename = "g", default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<(u32, u32)>,
    #[serde(rename = "c")]
    pub cache: CacheEvent,
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<RowRecord>,
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// nothing passed the policy's test and the best row was written all the same, or the step limit was reached
    #[serde(rename = "f", default, skip_serializing_if = "is_false")]
    pub forced: bool,
    /// keys that a press dropped behind this forward, [layers, kv_heads]; one number where all of them lost as many
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<u32>,
    /// from exact, where that was asked for
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
}
impl StepRecord {
    /// From the first to the last position whose hidden row the forward computed, empty for the user's operations. What lies
    /// before them and in [`StepRecord::gaps`] was read from the cache, what lies behind was not looked at unless
    /// [`CacheEvent::behind`] says so.
    pub fn computed(&self) -> std::ops::Range<u32> {
        let gaps = self.gaps.iter().map(|(a, b)| b.saturating_sub(*a)).fold(0, u32::saturating_add);
        self.cache.reused..self.cache.reused.saturating_add(self.queries).saturating_add(gaps)
    }
}
/// Rows computed with an approximate cache against the same rows without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    pub rows: u32,
    /// rows whose candidate is another one
    pub changed: u32,
    /// largest difference of the most probable token's probability
    pub largest_dp: f32,
    /// summed over rows
    pub sum_dp: f32,
}
impl Divergence {
    /// Of the rows of both.
    pub fn join(self, d: Divergence) -> Divergence {
        Divergence {
            rows: self.rows + d.rows,
            changed: self.changed + d.changed,
            largest_dp: self.largest_dp.max(d.largest_dp),
            sum_dp: self.sum_dp + d.sum_dp,
        }
    }
}
fn is_false(b: &bool) -> bool {
    !b
}
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One computed row before the step's actions.
/// JSON: `[pos, masked, current, candidate, p, p_max, p_2, H, p_current, score, [ids], [probabilities]]`, and `kl` behind
/// them where it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowRecord {
    pub pos: u32,
    pub masked: bool,
    pub current: u32,
    pub candidate: u32,
    /// of the candidate, temperature 1
    pub p: f32,
    pub p_max: f32,
    pub p_second: f32,
    /// nats
    pub entropy: f32,
    /// of the current token, with WINO given all but itself; 0 where masked
    pub p_current: f32,
    /// absent outside the masked rows of the active block
    pub score: Option<f32>,
    pub top: Vec<(u32, f32)>,
    /// KL(now || in the forward before), nats; of policies that compare
    pub kl: Option<f32>,
}

impl Serialize for RowRecord {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut row = s.serialize_seq(Some(12 + usize::from(self.kl.is_some())))?;
        row.serialize_element(&self.pos)?;
        row.serialize_element(&u8::from(self.masked))?;
        for id in [self.current, self.candidate] {
            row.serialize_element(&id)?;
        }
        for x in [self.p, self.p_max, self.p_second, self.entropy, self.p_current] {
            row.serialize_element(&x)?;
        }
        row.serialize_element(&self.score)?;
        row.serialize_element(&self.top.iter().map(|t| t.0).collect::<Vec<u32>>())?;
        row.serialize_element(&self.top.iter().map(|t| t.1).collect::<Vec<f32>>())?;
        if let Some(kl) = self.kl {
            row.serialize_element(&kl)?;
        }
        row.end()
    }
}

impl<'de> Deserialize<'de> for RowRecord {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Row;
        impl<'de> Visitor<'de> for Row {
            type Value = RowRecord;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a row: 12 values, or 13 with KL")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<RowRecord, A::Error> {
                let mut at = 0;
                macro_rules! next {
                    ($t:ty) => {{
                        at += 1;
                        row.next_element::<$t>()?.ok_or_else(|| A::Error::invalid_length(at - 1, &self))?
                    }};
                }
                let (pos, masked) = (next!(u32), next!(u8) != 0);
                let (current, candidate) = (next!(u32), next!(u32));
                let (p, p_max, p_second) = (next!(f32), next!(f32), next!(f32));
                let (entropy, p_current, score) = (next!(f32), next!(f32), next!(Option<f32>));
                let (ids, ps) = (next!(Vec<u32>), next!(Vec<f32>));
                let top = ids.into_iter().zip(ps).collect();
                let kl = row.next_element()?;
                if row.next_element::<IgnoredAny>()?.is_some() {
                    return Err(A::Error::invalid_length(14, &self));
                }
                Ok(RowRecord {
                    pos,
                    masked,
                    current,
                    candidate,
                    p,
                    p_max,
                    p_second,
                    entropy,
                    p_current,
                    score,
                    top,
                    kl,
                })
            }
        }
        d.deserialize_seq(Row)
    }
}

impl RowRecord {
    pub fn new(row: &Row, score: f64) -> RowRecord {
        let round = |p: f32| (p * 1e5).round() / 1e5;
        RowRecord {
            pos: row.pos,
            masked: row.masked(),
            current: row.current,
            candidate: row.head.candidate,
            p: round(row.p()),
            p_max: round(row.p_max()),
            p_second: round(row.head.p_second()),
            entropy: round(row.head.entropy),
            p_current: if row.masked() { 0.0 } else { round(row.head.p_current()) },
            score: score.is_finite().then_some(round(score as f32)),
            top: row.head.top.iter().map(|(id, p)| (*id, round(*p))).collect(),
            kl: row.kl.last().map(|kl| round(*kl)),
        }
    }
}

/// Why decoding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// every block is final
    Complete,
    /// an end-of-text token was written and nothing before it is masked
    EarlyStop,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// all of them: prefill + denoise + store + refresh + guide + search + check + judge
    pub forwards: u32,
    pub prefill: u32,
    pub denoise: u32,
    pub store: u32,
    pub refresh: u32,
    /// forwards without the prompt
    pub guide: u32,
    /// forwards of a search, whosever
    pub search: u32,
    /// forwards that measure an approximate cache
    pub check: u32,
    /// forwards that read a finished draft again
    pub judge: u32,
    /// most positions whose keys and values were kept at once
    pub cache_positions: u32,
    /// most bytes of keys and values kept at once, measured where they lie; 0 where the driver did not say
    pub cache_bytes: u64,
    /// keys that a press dropped, summed over layers and heads
    pub evicted: u64,
    /// positions computed, summed over forwards; shadow rows too
    pub positions: u64,
    /// shadow rows among them
    pub shadow: u64,
    /// rows that went through the language-model head (twice where their logits were needed too)
    pub rows: u64,
    pub commits: u32,
    pub edits: u32,
    pub remasks: u32,
    /// steps in which nothing passed the policy's test, or that reached the step limit
    pub forced: u32,
    /// positions the user acted upon
    pub user: u32,
}

impl Ledger {
    /// Notes what the driver keeps.
    pub(super) fn held(&mut self, held: &Held) {
        self.cache_bytes = self.cache_bytes.max(held.bytes);
        self.evicted += held.evicted.iter().map(|n| *n as u64).sum::<u64>();
    }

    pub(super) fn add(&mut self, step: &StepRecord, rows: usize) {
        let count = |kind| step.actions.iter().filter(|a| a.kind == kind).count() as u32;
        if step.kind == StepKind::User {
            self.user += step.actions.len() as u32;
            return;
        }
        self.forwards += 1;
        match step.kind {
            StepKind::Prefill => self.prefill += 1,
            StepKind::Denoise => self.denoise += 1,
            StepKind::Store => self.store += 1,
            StepKind::Refresh => self.refresh += 1,
            StepKind::Guide => self.guide += 1,
            StepKind::Search => self.search += 1,
            StepKind::Check => self.check += 1,
            StepKind::Judge => self.judge += 1,
            StepKind::User => {}
        }
        self.positions += step.queries as u64 + step.shadow as u64;
        self.shadow += step.shadow as u64;
        self.rows += rows as u64;
        self.commits += count(ActionKind::Commit);
        self.edits += count(ActionKind::Edit);
        self.remasks += count(ActionKind::Remask);
        self.forced += step.forced as u32;
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// ids now, the mask id where masked
    pub ids: Vec<u32>,
    /// absent while decoding goes on
    pub stop: Option<Stop>,
    pub ledger: Ledger,
    /// tokens outside the prompt that are written, up to the first end-of-text
    pub tokens: u32,
    /// `tokens` / (forwards - prefill); 0 before the first
    pub tokens_per_forward: f64,
    /// positions computed per token
    pub positions_per_token: f64,
    /// sum of ln p over all commits, nats. Not the text's log-probability: order and edits are not in it
    pub sum_log_p: f64,
    /// of all steps that were checked
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// most bytes of keys and values kept at once, where the driver measured them
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<u64>,
    /// wall time, told by the driver
    #[serde(default)]
    pub seconds: Option<f64>,
}

impl Footer {
    pub(super) fn new(
        config: &DecodeConfig,
        state: &State,
        steps: &[StepRecord],
        ledger: Ledger,
        stop: Option<Stop>,
    ) -> Footer {
        let eos = config.eos_id;
        let tokens = (config.prompt.len() as u32..state.len())
            .take_while(|p| eos != Some(state.id(*p)))
            .filter(|p| matches!(state.status(*p), Status::Committed { .. }))
            .count() as u32;
        let counted = ledger.forwards - ledger.prefill;
        let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let commits = steps.iter().flat_map(|s| &s.actions).filter(|a| a.kind == ActionKind::Commit);
        Footer {
            ids: state.ids().to_vec(),
            stop,
            ledger,
            tokens,
            tokens_per_forward: per(tokens as f64, counted as f64),
            positions_per_token: per(ledger.positions as f64, tokens as f64),
            sum_log_p: commits.map(|a| (a.p.max(f32::MIN_POSITIVE) as f64).ln()).sum(),
            divergence: steps.iter().filter_map(|s| s.divergence).reduce(Divergence::join),
            cache_bytes: (ledger.cache_bytes > 0).then_some(ledger.cache_bytes),
            seconds: None,
        }
    }
}

/// A trajectory that does not hold together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReplayError {
    #[error("trajectory version {found}, this program reads {VERSION}")]
    Version { found: u32 },
    #[error("header: {0}")]
    Header(DecodeError),
    #[error("record {index}: {source}")]
    Action { index: usize, source: DecodeError },
    #[error("record {index}: token {id} at position {pos} is outside the vocabulary")]
    Id { index: usize, pos: u32, id: u32 },
    #[error("the replayed text differs from the recorded one at position {pos}")]
    Final { pos: usize },
}

impl Trajectory {
    /// The state before the first record, then after each: `steps.len() + 1` of them. The last one is checked
    /// against the footer.
    pub fn replay(&self) -> Result<Vec<State>, ReplayError> {
        if self.version != VERSION {
            return Err(ReplayError::Version { found: self.version });
        }
        let config = &self.header.config;
        config.validate().map_err(ReplayError::Header)?;
        let mut state = State::new(config);
        let mut states = vec![state.clone()];
        for (index, step) in self.steps.iter().enumerate() {
            for a in &step.actions {
                if a.new >= config.vocab {
                    return Err(ReplayError::Id { index, pos: a.pos, id: a.new });
                }
                state.act(step.step, a).map_err(|source| ReplayError::Action { index, source })?;
            }
            states.push(state.clone());
        }
        let ids = state.ids();
        if ids != self.footer.ids {
            let differs = ids.iter().zip(&self.footer.ids).position(|(a, b)| a != b);
            return Err(ReplayError::Final { pos: differs.unwrap_or(ids.len().min(self.footer.ids.len())) });
        }
        Ok(states)
    }
}
