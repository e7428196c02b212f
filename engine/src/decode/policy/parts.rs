//! The four parts put together. The candidate is that of the row ([`super::Candidate`]; argmax at temperature 0,
//! else the keyed race).

use hilda_kernels::rng::{Rng, Stream};

use super::{
    Action, ActionKind, Between, Eos, Fired, Moment, Plan, Policy, Remdm, Revisit, Row, Rule, Schedule,
    Score, Stable, View, Windows, ancestral, edit, entropy_bound, hierarchical, klass, quota, threshold,
    wino,
};
use crate::decode::state::CERTAIN;

/// Which masked rows are written now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection {
    /// the k best
    PerForward { k: u32 },
    /// see [`ancestral::time_grid`]
    TimeGrid { cells: u32 },
    /// see [`quota`]
    Quota { steps: u32, schedule: Schedule },
    /// see [`threshold::above`]
    Threshold { tau: f32 },
    /// see [`hierarchical::spread`]
    Hierarchical { tau: f32, low: f32 },
    /// see [`wino::wide`]
    Wide { tau: f32 },
    /// see [`threshold::factor`]
    Factor { f: f32 },
    /// see [`entropy_bound`]
    EntropyBound { gamma: f32 },
    /// see [`klass`]
    Klass(Stable),
    /// see [`super::remdm`]; it revises as well
    Clock(Remdm),
}

/// What happens to written rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Revision {
    None,
    /// see [`edit`]
    Edit {
        tau_edit: f32,
        max_post: u32,
        max_returns: Option<u32>,
        windows: Option<Windows>,
    },
    /// see [`edit`]
    Remask {
        tau_remask: f32,
        max_post: u32,
        max_remasks: u32,
    },
    /// see [`wino::narrow`]
    Narrow {
        tau: f32,
    },
    /// see [`Revisit`]; of the even quota
    Revisit(Revisit),
}

/// A policy from its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    pub score: Score,
    /// noise of the order, see [`quota`]; 0 = none
    pub alg_temp: f32,
    pub selection: Selection,
    pub revision: Revision,
    pub eos: Eos,
}

/// Masked rows of the active block, best first.
pub(super) struct Ranked<'a> {
    pub rows: Vec<(&'a Row<'a>, f64)>,
    exact: bool,
}

impl Ranked<'_> {
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    /// By how much rank `i` beats rank `j`.
    pub fn between(&self, i: usize, j: usize) -> f32 {
        if self.exact { CERTAIN } else { (self.rows[i].1 - self.rows[j].1) as f32 }
    }
    /// By how much rank `i` beats the best of those not taken, if `n` are taken.
    pub fn gap(&self, i: usize, n: usize) -> f32 {
        match self.rows.get(n) {
            Some(next) if !self.exact => (self.rows[i].1 - next.1) as f32,
            _ => CERTAIN,
        }
    }
}

/// Rows chosen (indices into the ranking, with the margin of the choice) and the test that chose them.
pub(super) struct Chosen {
    pub rows: Vec<(usize, f32)>,
    pub fired: Fired,
}

impl Chosen {
    /// The n best, each by its gap.
    pub fn best(ranked: &Ranked, n: usize, fired: Fired) -> Chosen {
        let n = n.min(ranked.len());
        Chosen { rows: (0..n).map(|i| (i, ranked.gap(i, n))).collect(), fired }
    }
}

impl Policy for Parts {
    fn plan(&self, view: &View) -> Plan {
        if let Selection::Clock(remdm) = self.selection {
            return coins(remdm, view);
        }
        let masked = |r: &Row| r.active && r.masked();
        let ends = |r: &Row| self.eos == Eos::Last && view.eos == Some(r.head.candidate);
        // end-of-text is written where nothing else is left to be written
        let others = view.rows.iter().any(|r| masked(r) && !ends(r));
        let open = |r: &Row| masked(r) && !(others && ends(r));
        let score = |r: &Row| match self.alg_temp {
            0.0 => self.score.of(r, view),
            t => quota::noised(self.score.of(r, view), t, r.pos, view),
        };
        let scores: Vec<f64> =
            view.rows.iter().map(|r| if open(r) { score(r) } else { f64::NEG_INFINITY }).collect();
        let mut rows: Vec<(&Row, f64)> =
            view.rows.iter().zip(&scores).filter(|(r, _)| open(r)).map(|(r, s)| (r, *s)).collect();
        rows.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.pos.cmp(&b.0.pos)));
        let ranked = Ranked { rows, exact: self.score.exact() };

        let chosen = match self.selection {
            _ if ranked.len() == 0 => Chosen { rows: Vec::new(), fired: Fired::None },
            Selection::PerForward { k } => Chosen::best(&ranked, k as usize, Fired::PerForward { k }),
            Selection::TimeGrid { cells } => {
                let rng = Rng::new(view.seed, Stream::Order, view.sequence);
                ancestral::time_grid(&ranked, cells, |pos| rng.uniform(ancestral::TIME_STEP, pos, 0))
            }
            Selection::Quota { steps, schedule: Schedule::Even } => match self.revision {
                Revision::Revisit(revisit) => revisit.chosen(&ranked, steps, view),
                _ => quota::quota(&ranked, steps, view),
            },
            Selection::Quota { steps, schedule: Schedule::Dream } => quota::dream(&ranked, steps, view),
            Selection::Threshold { tau } => threshold::above(&ranked, tau),
            Selection::Wide { tau } => {
                wino::wide(&ranked, tau, view.rows.iter().filter(|r| masked(r)).count())
            }
            Selection::Hierarchical { tau, low } => hierarchical::spread(&ranked, tau, low),
            Selection::Factor { f } => threshold::factor(&ranked, f),
            Selection::EntropyBound { gamma } => entropy_bound::bound(&ranked, gamma),
            Selection::Klass(s) => klass::stable(&ranked, s, view),
            Selection::Clock(_) => unreachable!("planned above"),
        };
        let mut actions: Vec<Action> = chosen
            .rows
            .iter()
            .map(|(i, margin)| ranked.rows[*i].0.commit(view.temperature, *margin))
            .collect();
        let edit = match self.revision {
            Revision::None | Revision::Revisit(_) => None,
            Revision::Edit { tau_edit, max_returns, .. } => {
                let (edits, fired) = edit::edits(view, tau_edit, max_returns);
                actions.extend(edits);
                Some(fired)
            }
            Revision::Narrow { tau } => {
                let (remasks, fired) = wino::narrow(view, tau, &chosen);
                actions.extend(remasks);
                Some(fired)
            }
            Revision::Remask { tau_remask, max_remasks, .. } => {
                let (remasks, fired) = edit::remasks(view, tau_remask, max_remasks);
                actions.extend(remasks);
                Some(fired)
            }
        };
        actions.sort_by_key(|a| a.pos);
        Plan { actions, scores, rule: Rule { selection: chosen.fired, edit, switch: None } }
    }

    fn revises(&self) -> bool {
        self.revision != Revision::None || self.cells().is_some()
    }

    fn cells(&self) -> Option<u32> {
        match self.selection {
            Selection::Clock(remdm) => Some(remdm.cells),
            _ => None,
        }
    }

    fn stirs(&self, cell: u32, moment: &Moment) -> bool {
        match self.selection {
            Selection::Clock(remdm) => !remdm.falls(cell, moment).is_empty(),
            _ => true,
        }
    }

    fn leaves_out(&self) -> bool {
        matches!(self.revision, Revision::Narrow { .. })
    }

    fn again(&self, between: &Between) -> Vec<(u32, f32)> {
        match (self.revision, self.selection) {
            (Revision::Revisit(revisit), Selection::Quota { steps, .. }) => revisit.masked(steps, between),
            _ => Vec::new(),
        }
    }

    fn compares(&self) -> bool {
        matches!(self.selection, Selection::Klass(_))
    }

    fn carries(&self) -> bool {
        matches!(self.selection, Selection::Klass(Stable { carry: true, .. }))
    }

    fn windows(&self) -> Option<Windows> {
        match self.revision {
            Revision::Edit { windows, .. } => windows,
            _ => None,
        }
    }

    fn post_budget(&self) -> u32 {
        match self.revision {
            Revision::None | Revision::Narrow { .. } | Revision::Revisit(_) => 0,
            Revision::Edit { max_post, .. } | Revision::Remask { max_post, .. } => max_post,
        }
    }
}

/// What ReMDM's coins decided, with the forward's tokens. No model output enters the choice of positions.
fn coins(remdm: Remdm, view: &View) -> Plan {
    let moment = Moment {
        statuses: view.statuses,
        block: view.active.clone(),
        seed: view.seed,
        sequence: view.sequence,
    };
    let falls = remdm.falls(view.cell, &moment);
    let act = |r: &Row| match r.masked() {
        true => r.commit(view.temperature, CERTAIN),
        false => Action { margin: CERTAIN, ..r.write_argmax(ActionKind::Remask, CERTAIN) },
    };
    let actions = view.rows.iter().filter(|r| falls.contains(&r.pos)).map(act).collect();
    let rates = remdm.rates(view.cell);
    let (alpha, sigma) = (rates.alpha_s as f32, rates.sigma as f32);
    let selection = Fired::Remdm { cell: view.cell, cells: remdm.cells, alpha, sigma };
    let scores = view.rows.iter().map(|r| if r.active && r.masked() { 0.0 } else { f64::NEG_INFINITY });
    Plan { actions, scores: scores.collect(), rule: Rule { selection, edit: None, switch: None } }
}
