//! Best of n: whole texts, one after the other, of which the one with the best score is answered with. Scores are means
//! over the tokens up to the first end of text, so that early ends are no advantage:
//!
//! - `chain`: ln p of each block's tokens given everything else that is in sight, the block itself masked, in one forward a
//!   block (the block scorer of Order-Token Search applied to finished texts);
//! - `commits`: ln p of each token when it was written, which costs nothing and favours texts that were easy to write.
//!
//! With a `budget` no text is begun that would exceed it if it took as many forwards as the longest so far. Texts differ by
//! their seeds alone: at temperature 0 they are all the same.

use serde::{Deserialize, Serialize};

use super::super::{
    Attention, CacheOp, DecodeConfig, DecodeError, Decoder, ForwardRequest, Method, RowStats, Status, Want,
    policy::{Score, SearchFired, SearchPhase},
    rows,
    state::CERTAIN,
};
use super::{Progress, decoder, sub_config};

/// How texts are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankBy {
    #[default]
    Chain,
    Commits,
}

#[derive(Clone, Debug)]
pub(in super::super) struct BestOf {
    config: DecodeConfig,
    method: Method,
    n: u32,
    by: RankBy,
    budget: u32,
    /// texts finished
    finished: u32,
    current: Decoder,
    /// best text so far, and its score
    best: Option<(Decoder, f64)>,
    /// blocks of the finished current text that are still to be scored, and what the others gave
    scoring: Option<(Vec<u32>, f64)>,
    /// where the current text and the longest began and ended, in forwards
    began: u32,
    longest: u32,
    /// positions in the driver's cache
    held: u32,
    pub margin: f32,
}

impl BestOf {
    pub fn new(config: &DecodeConfig) -> Result<BestOf, DecodeError> {
        let Method::BestOf { n, tau, by, budget } = config.policy.method else {
            unreachable!("called for this method")
        };
        let method = Method::Threshold { tau, score: Score::TopProb };
        let current = decoder(sub_config(config, method, 0), None)?;
        Ok(BestOf {
            config: config.clone(),
            method,
            n,
            by,
            budget,
            finished: 0,
            current,
            best: None,
            scoring: None,
            began: 0,
            longest: 0,
            held: 0,
            margin: CERTAIN,
        })
    }

    pub fn leader(&self) -> &Decoder {
        self.best.as_ref().map_or(&self.current, |b| &b.0)
    }

    pub fn forget_cache(&mut self) {
        self.held = 0;
        self.current.forget_cache();
    }

    pub fn request(&mut self) -> Option<ForwardRequest> {
        let Some((blocks, _)) = &self.scoring else { return self.current.next() };
        let block = *blocks.last()?;
        let (state, c) = (self.current.state(), self.current.config());
        let range = state.block_range(block);
        let end = if c.attention == Attention::Bidirectional { state.len() } else { range.end };
        let open = scored(&self.current, block);
        let id = |p: u32| if open.contains(&p) { c.mask_id } else { state.id(p) };
        Some(ForwardRequest {
            sequence: c.sequence,
            step: 0,
            query_positions: (0..end).collect(),
            ids: (0..end).map(id).collect(),
            rule: c.attention.rule(),
            block_size: c.block_size,
            cache: if self.held > 0 { CacheOp::Truncate { keep: 0 } } else { CacheOp::None },
            compression: Default::default(),
            want: Want { whole: open, ..Default::default() },
        })
    }

    pub fn apply(&mut self, stats: RowStats, forwards: u32) -> Result<Progress, DecodeError> {
        let mut event = None;
        let mut fired;
        if let Some((blocks, sum)) = &mut self.scoring {
            let block = *blocks.last().expect("a block is being scored");
            let open = scored(&self.current, block);
            let c = self.current.config();
            let wanted = open.len() * c.vocab as usize;
            if stats.logits.len() != wanted {
                return Err(DecodeError::LogitCount { wanted, got: stats.logits.len() });
            }
            let lp = open
                .iter()
                .enumerate()
                .map(|(i, p)| rows::log_probability(c, rows::row(c, &stats, i), self.current.state().id(*p)));
            *sum += lp.sum::<f64>();
            blocks.pop();
            self.held = 0;
            fired = SearchFired::new(SearchPhase::Score, self.finished as usize);
        } else {
            let e = self.current.apply(stats)?;
            self.held = self.current.cached;
            self.margin = e.record.actions.iter().map(|a| a.margin).fold(self.margin, f32::min);
            if self.best.is_none() {
                event = Some(e);
            }
            fired = SearchFired::new(SearchPhase::Write, self.finished as usize);
            if self.current.stop().is_some() {
                let blocks = match self.by {
                    RankBy::Commits => Vec::new(),
                    RankBy::Chain => {
                        let blocks = 0..self.current.state().blocks();
                        blocks.filter(|b| !scored(&self.current, *b).is_empty()).collect()
                    }
                };
                self.scoring = Some((blocks, 0.0));
            }
        }
        let mut done = false;
        if self.scoring.as_ref().is_some_and(|s| s.0.is_empty()) {
            let (_, sum) = self.scoring.take().expect("checked above");
            let score = self.score(sum);
            fired.score = Some(score as f32);
            self.finished += 1;
            self.longest = self.longest.max(forwards - self.began);
            let better = self.best.as_ref().is_none_or(|b| score > b.1);
            if let Some(best) = &self.best {
                self.margin = self.margin.min((score - best.1).abs() as f32);
            }
            if better {
                self.best = Some((self.current.clone(), score));
                fired.kept = vec![self.finished - 1];
            }
            let fits = self.budget == 0 || forwards + self.longest <= self.budget;
            done = self.finished >= self.n || !fits;
            if !done {
                let mut next = decoder(sub_config(&self.config, self.method, self.finished as u64), None)?;
                // the prompt's complete blocks stay in the cache
                let kept =
                    (self.config.prompt.len() as u32).min(self.held) / next.state().block_range(0).end.max(1);
                let whole = kept * next.state().block_range(0).end;
                (next.cached, next.valid) = (self.held, whole.min(self.held));
                self.current = next;
                self.began = forwards;
            } else {
                // whoever goes on with this text finds another one's cache
                let held = self.held;
                if let Some((best, _)) = &mut self.best {
                    (best.cached, best.valid) = (held, 0);
                }
            }
        }
        Ok(Progress { event, fired, done })
    }

    /// Mean ln p of a token; `chain` is the sum over the blocks.
    fn score(&self, chain: f64) -> f64 {
        let tokens = counted(&self.current);
        let sum = match self.by {
            RankBy::Chain => chain,
            RankBy::Commits => tokens
                .iter()
                .map(|p| match self.current.state().status(*p) {
                    Status::Committed { psi, .. } => (psi.max(f32::MIN_POSITIVE) as f64).ln(),
                    _ => 0.0,
                })
                .sum(),
        };
        sum / tokens.len().max(1) as f64
    }
}

/// Written positions up to the first end of text.
fn counted(sub: &Decoder) -> Vec<u32> {
    let (state, eos) = (sub.state(), sub.config().eos_id);
    let start = sub.config().prompt.len() as u32;
    let end = (start..state.len()).find(|p| eos == Some(state.id(*p))).map_or(state.len(), |p| p + 1);
    (start..end).filter(|p| matches!(state.status(*p), Status::Committed { .. })).collect()
}

/// Those of a block.
fn scored(sub: &Decoder, block: u32) -> Vec<u32> {
    let range = sub.state().block_range(block);
    counted(sub).into_iter().filter(|p| range.contains(p)).collect()
}
