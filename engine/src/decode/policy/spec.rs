//! Methods by name, as recipes, URLs and trajectories spell them: `{"kind": "edit", "tau_mask": 0.7, ...}`.
//! Missing parameters take their defaults; unknown ones are refused.

use serde::{Deserialize, Serialize};

use super::defaults::*;
use super::{
    AncestralForm, Eos, Parts, Reach, Remdm, Revision, Revisit, Schedule, Score, Selection, Stable, Variant,
    Windows, left_to_right::LEFT_TO_RIGHT,
};
use crate::decode::{refine::Choose, search::RankBy};

/// A parameter out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    #[error("{policy}: {parameter} is {value}, it must be {needed}")]
    OutOfRange { policy: &'static str, parameter: &'static str, value: f64, needed: &'static str },
    #[error(
        "{policy}: score {score} cannot be used here, choose one of random, top_prob, margin, entropy, certainty_prior, pc"
    )]
    Score { policy: &'static str, score: &'static str },
}

/// How positions are chosen and written tokens revised, with the parameters; see [`PolicySpec::parameters`] for units, ranges and sources.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// random order, tokens from their conditionals
    Ancestral {
        #[serde(default)]
        form: AncestralForm,
        /// first hitting: tokens written per forward
        #[serde(default = "one")]
        tokens_per_forward: u32,
        /// time grid: cells
        #[serde(default = "cells")]
        steps: u32,
    },
    /// the best k rows per step, k from a number of steps per block
    TopProb {
        /// 0 = as many as there are masks
        #[serde(default = "eight")]
        steps_per_block: u32,
        #[serde(default = "top_prob")]
        score: Score,
        #[serde(default)]
        schedule: Schedule,
        /// 0 = the best rows, without a draw
        #[serde(default)]
        alg_temp: f32,
    },
    /// every row above tau
    Threshold {
        #[serde(default = "tau")]
        tau: f32,
        #[serde(default = "top_prob")]
        score: Score,
    },
    /// every row above tau, and the best of each run of masks above `tau_low`
    Hierarchical {
        #[serde(default = "tau")]
        tau: f32,
        #[serde(default = "tau_low")]
        tau_low: f32,
        #[serde(default = "top_prob")]
        score: Score,
    },
    /// as many rows as their confidences guarantee
    Factor {
        #[serde(default = "unit")]
        f: f32,
    },
    /// rows while their joint dependence is bounded
    EntropyBound {
        #[serde(default = "gamma")]
        gamma: f32,
        #[serde(default = "entropy")]
        score: Score,
    },
    /// rows whose distributions have settled
    Klass {
        #[serde(default = "tau")]
        tau: f32,
        #[serde(default = "epsilon")]
        epsilon: f32,
        #[serde(default = "two")]
        history: u32,
        /// where no row is ready; 0 = one token a forward
        #[serde(default)]
        steps_per_block: u32,
        /// history goes over to later blocks
        #[serde(default)]
        carry: bool,
        #[serde(default = "top_prob")]
        score: Score,
    },
    /// threshold with editing of written tokens
    Edit {
        #[serde(default = "tau_quality")]
        tau_mask: f32,
        /// null = off; 0 = edit whenever the most probable token differs
        #[serde(default = "tau_edit")]
        tau_edit: Option<f32>,
        #[serde(default = "post")]
        max_post: u32,
        /// null = no guard
        #[serde(default = "returns")]
        max_returns: Option<u32>,
        /// blocks edited together once the last of them is finished; 1 = each for itself
        #[serde(default = "one")]
        window: u32,
        #[serde(default = "five")]
        window_passes: u32,
        #[serde(default)]
        window_by: Reach,
        #[serde(default = "top_prob")]
        score: Score,
    },
    /// threshold, and written tokens in doubt are masked again
    Remask {
        #[serde(default = "tau_quality")]
        tau_mask: f32,
        #[serde(default = "tau_remask")]
        tau_remask: f32,
        #[serde(default = "post")]
        max_post: u32,
        #[serde(default = "two")]
        max_remasks: u32,
        #[serde(default = "top_prob")]
        score: Score,
    },
    /// threshold with a bound, and written tokens that the rest of the text does not bear out are masked again
    Wino {
        #[serde(default = "tau_wide")]
        tau_wide: f32,
        #[serde(default = "tau")]
        tau_narrow: f32,
    },
    /// ancestral with a chance to mask again
    Remdm {
        #[serde(default)]
        variant: Variant,
        /// cells of the grid, per block
        #[serde(default = "remdm_steps")]
        steps: u32,
        #[serde(default = "eta")]
        eta: f32,
        /// of the variant loop
        #[serde(default = "t_on")]
        t_on: f32,
        #[serde(default = "t_off")]
        t_off: f32,
        #[serde(default = "alpha_on")]
        alpha_on: f32,
    },
    /// fixed steps, and near a block's end extra ones that write its least sure tokens again
    RemdmQuota {
        /// 0 = as many as there are masks
        #[serde(default)]
        steps_per_block: u32,
        #[serde(default = "eight")]
        extra_steps: u32,
        /// tokens masked before each extra step, and written in it
        #[serde(default = "one")]
        remasked: u32,
        /// share of a block that is written before
        #[serde(default = "seven_eighths")]
        from: f32,
        #[serde(default = "top_prob")]
        score: Score,
    },
    /// threshold in blocks, then the least sure tokens anew in sight of everything
    DraftRefine {
        #[serde(default = "tau")]
        tau: f32,
        #[serde(default = "quarter")]
        gamma: f32,
        #[serde(default = "tau")]
        refine_tau: f32,
        #[serde(default)]
        choose: Choose,
    },
    /// several texts, the best one by score
    BestOf {
        #[serde(default = "four")]
        n: u32,
        #[serde(default = "tau")]
        tau: f32,
        #[serde(default)]
        by: RankBy,
        /// forwards; 0 = no limit
        #[serde(default)]
        budget: u32,
    },
    /// beams over order and tokens, pruned once a block
    OrderTokenSearch {
        #[serde(default = "four")]
        beams: u32,
        #[serde(default = "thirty_two")]
        block: u32,
        #[serde(default = "two")]
        tokens_per_forward: u32,
        /// confidence under the noised logits
        #[serde(default = "yes")]
        noised: bool,
        /// scores of earlier blocks count
        #[serde(default = "yes")]
        accumulate: bool,
        /// forwards; 0 = no limit
        #[serde(default)]
        budget: u32,
    },
    /// the fast or the slow policy of the model's switch.json, chosen by what the first forward says of the text
    Switch {
        /// the slow one above this chance, per cent, that the fast one does not suffice
        #[serde(default = "fifty")]
        at: f32,
    },
    /// first masked position first
    LeftToRight {},
}

impl Method {
    /// The name in recipes and URLs.
    pub fn kind(&self) -> &'static str {
        match self {
            Method::Ancestral { .. } => "ancestral",
            Method::TopProb { .. } => "top_prob",
            Method::Threshold { .. } => "threshold",
            Method::Hierarchical { .. } => "hierarchical",
            Method::Factor { .. } => "factor",
            Method::EntropyBound { .. } => "entropy_bound",
            Method::Klass { .. } => "klass",
            Method::Edit { .. } => "edit",
            Method::Remask { .. } => "remask",
            Method::Wino { .. } => "wino",
            Method::Remdm { .. } => "remdm",
            Method::RemdmQuota { .. } => "remdm_quota",
            Method::DraftRefine { .. } => "draft_refine",
            Method::BestOf { .. } => "best_of",
            Method::OrderTokenSearch { .. } => "order_token_search",
            Method::Switch { .. } => "switch",
            Method::LeftToRight {} => "left_to_right",
        }
    }

    /// Refuses parameters out of range.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let policy = self.kind();
        let check = |parameter, value: f64, fits: bool, needed| {
            if fits { Ok(()) } else { Err(PolicyError::OutOfRange { policy, parameter, value, needed }) }
        };
        let probability = |parameter, v: f32| {
            check(parameter, v as f64, (0.0..=1.0).contains(&v), "a probability from 0 to 1")
        };
        let score = |s: Score| match s {
            Score::Leftmost => Err(PolicyError::Score { policy, score: "leftmost" }),
            _ => Ok(()),
        };
        match *self {
            Method::Ancestral { tokens_per_forward, steps, .. } => {
                check("tokens_per_forward", tokens_per_forward as f64, tokens_per_forward > 0, "at least 1")?;
                check("steps", steps as f64, steps > 0, "at least 1")
            }
            Method::TopProb { score: s, alg_temp, .. } => {
                let fits = (0.0..=1000.0).contains(&alg_temp);
                check("alg_temp", alg_temp as f64, fits, "a temperature from 0 to 1000")?;
                score(s)
            }
            Method::Threshold { tau, score: s } => {
                probability("tau", tau)?;
                score(s)
            }
            Method::Hierarchical { tau, tau_low, score: s } => {
                probability("tau", tau)?;
                probability("tau_low", tau_low)?;
                score(s)
            }
            Method::Factor { f } => {
                check("f", f as f64, (0.0..=1000.0).contains(&f), "a number from 0 to 1000")
            }
            Method::EntropyBound { gamma, score: s } => {
                check("gamma", gamma as f64, gamma.is_finite(), "a finite number of nats")?;
                score(s)
            }
            Method::Klass { tau, epsilon, history, score: s, .. } => {
                probability("tau", tau)?;
                let fits = (0.0..=1000.0).contains(&epsilon);
                check("epsilon", epsilon as f64, fits, "from 0 to 1000 nats")?;
                let fits = (1..=16).contains(&history);
                check("history", history as f64, fits, "from 1 to 16 forwards")?;
                score(s)
            }
            Method::Edit { tau_mask, tau_edit, window, window_passes, score: s, .. } => {
                probability("tau_mask", tau_mask)?;
                probability("tau_edit", tau_edit.unwrap_or(0.0))?;
                check("window", window as f64, (1..=64).contains(&window), "from 1 to 64 blocks")?;
                let fits = window_passes <= 64;
                check("window_passes", window_passes as f64, fits, "from 0 to 64 forwards")?;
                score(s)
            }
            Method::Remask { tau_mask, tau_remask, score: s, .. } => {
                probability("tau_mask", tau_mask)?;
                probability("tau_remask", tau_remask)?;
                score(s)
            }
            Method::Wino { tau_wide, tau_narrow } => {
                probability("tau_wide", tau_wide)?;
                probability("tau_narrow", tau_narrow)
            }
            Method::Remdm { steps, eta, t_on, t_off, alpha_on, .. } => {
                check("steps", steps as f64, (1..=1 << 16).contains(&steps), "from 1 to 65536")?;
                probability("eta", eta)?;
                check("t_on", t_on as f64, (0.0..1.0).contains(&t_on), "a time from 0 to below 1")?;
                let fits = t_off > 0.0 && t_off <= t_on;
                check("t_off", t_off as f64, fits, "a time above 0 and at most t_on")?;
                let fits = alpha_on > 0.0 && alpha_on < 1.0;
                check("alpha_on", alpha_on as f64, fits, "a share above 0 and below 1")
            }
            Method::RemdmQuota { extra_steps, remasked, from, score: s, .. } => {
                let fits = extra_steps <= 1 << 16;
                check("extra_steps", extra_steps as f64, fits, "from 0 to 65536")?;
                check("remasked", remasked as f64, remasked > 0, "at least 1 token")?;
                check("from", from as f64, (0.0..=1.0).contains(&from), "a share from 0 to 1")?;
                score(s)
            }
            Method::DraftRefine { tau, gamma, refine_tau, .. } => {
                probability("tau", tau)?;
                check("gamma", gamma as f64, (0.0..=1.0).contains(&gamma), "a share from 0 to 1")?;
                probability("refine_tau", refine_tau)
            }
            Method::BestOf { n, tau, .. } => {
                check("n", n as f64, (1..=256).contains(&n), "from 1 to 256 texts")?;
                probability("tau", tau)
            }
            Method::OrderTokenSearch { beams, block, tokens_per_forward, .. } => {
                check("beams", beams as f64, (1..=32).contains(&beams), "from 1 to 32")?;
                check("block", block as f64, block > 0, "at least 1 token")?;
                check("tokens_per_forward", tokens_per_forward as f64, tokens_per_forward > 0, "at least 1")
            }
            Method::Switch { at } => {
                check("at", at as f64, (0.0..=100.0).contains(&at), "from 0 to 100 per cent")
            }
            Method::LeftToRight {} => Ok(()),
        }
    }

    /// The policy at work.
    pub(super) fn parts(&self) -> Parts {
        let plain = |score, selection| Parts {
            score,
            alg_temp: 0.0,
            selection,
            revision: Revision::None,
            eos: Eos::Any,
        };
        match *self {
            Method::Ancestral { form: AncestralForm::FirstHitting, tokens_per_forward: k, .. } => {
                plain(Score::Random, Selection::PerForward { k })
            }
            Method::Ancestral { form: AncestralForm::TimeGrid, steps, .. } => {
                plain(Score::Random, Selection::TimeGrid { cells: steps })
            }
            Method::TopProb { steps_per_block: steps, score, schedule, alg_temp } => {
                Parts { alg_temp, ..plain(score, Selection::Quota { steps, schedule }) }
            }
            Method::Threshold { tau, score } => plain(score, Selection::Threshold { tau }),
            Method::Hierarchical { tau, tau_low: low, score } => {
                plain(score, Selection::Hierarchical { tau, low })
            }
            Method::Factor { f } => plain(Score::TopProb, Selection::Factor { f }),
            Method::EntropyBound { gamma, score } => plain(score, Selection::EntropyBound { gamma }),
            Method::Klass { tau, epsilon, history, steps_per_block: steps, carry, score } => {
                plain(score, Selection::Klass(Stable { tau, epsilon, history, steps, carry }))
            }
            Method::Edit {
                tau_mask,
                tau_edit,
                max_post,
                max_returns,
                window: blocks,
                window_passes: passes,
                window_by: by,
                score,
            } => Parts {
                revision: tau_edit.map_or(Revision::None, |tau_edit| Revision::Edit {
                    tau_edit,
                    max_post,
                    max_returns,
                    windows: (blocks > 1).then_some(Windows { blocks, passes, by }),
                }),
                ..plain(score, Selection::Threshold { tau: tau_mask })
            },
            Method::Remask { tau_mask, tau_remask, max_post, max_remasks, score } => Parts {
                revision: Revision::Remask { tau_remask, max_post, max_remasks },
                ..plain(score, Selection::Threshold { tau: tau_mask })
            },
            Method::Wino { tau_wide, tau_narrow } => Parts {
                revision: Revision::Narrow { tau: tau_narrow },
                ..plain(Score::TopProb, Selection::Wide { tau: tau_wide })
            },
            Method::Remdm { variant, steps, eta, t_on, t_off, alpha_on } => {
                let [eta, t_on, t_off, alpha_on] = [eta, t_on, t_off, alpha_on].map(f64::from);
                let remdm = Remdm { variant, cells: steps, eta, t_on, t_off, alpha_on };
                plain(Score::Random, Selection::Clock(remdm))
            }
            Method::RemdmQuota { steps_per_block: steps, extra_steps, remasked: count, from, score } => {
                Parts {
                    revision: match extra_steps {
                        0 => Revision::None,
                        steps => Revision::Revisit(Revisit { from, steps, count }),
                    },
                    ..plain(score, Selection::Quota { steps, schedule: Schedule::Even })
                }
            }
            // what goes on once a search has ended and the text is opened again
            Method::DraftRefine { tau, .. } | Method::BestOf { tau, .. } => {
                plain(Score::TopProb, Selection::Threshold { tau })
            }
            Method::OrderTokenSearch { tokens_per_forward: k, .. } => {
                plain(Score::TopProb, Selection::PerForward { k })
            }
            // until it has decided: the first forward is the same under both of its policies
            Method::Switch { .. } => plain(Score::TopProb, Selection::Threshold { tau: 1.0 }),
            Method::LeftToRight {} => LEFT_TO_RIGHT,
        }
    }
}
