//! Which tokens are scored, and which of them depend on each other.
//!
//! A part is a set of columns whose states do not interact with those of other parts in one forward: a block beside the
//! clean earlier blocks, a document of a packed row, or the row. Enumerations and chains go through all parts of a row
//! at once: their number of forwards follows the largest part, not the row.

use hilda_kernels::Place;

use super::denoiser::Alphabet;
use crate::config::{PackingSpec, Weighting};
use crate::data::{Row, places};
use crate::diffusion::corruption::{Corruption, has_row};
use crate::diffusion::schedule::{Schedule, Scope};

/// Rows laid out for an estimator.
pub struct Layout<'a> {
    pub rows: &'a [Row<'a>],
    pub places: Vec<Vec<Place>>,
    pub shift: bool,
    /// None: whole rows
    pub block: Option<usize>,
    pub alphabet: Alphabet,
}

impl<'a> Layout<'a> {
    /// The corruption that estimators of masked tokens draw from: linear, weighted as the NELBO, one rate a block or row.
    pub fn process(&self, seed: u64, t: [f64; 2]) -> Corruption {
        let a = &self.alphabet;
        Corruption {
            seed,
            mask_id: a.mask_id,
            forbid: a.forbid.clone(),
            eos_id: a.eos_id,
            vocab: a.vocab,
            t,
            schedule: Schedule::Linear,
            weighting: Weighting::InvT,
            shift: self.shift,
            edit: None,
            hybrid: None,
            scope: if self.block.is_some() { Scope::Block } else { Scope::Sample },
            answers: vec![],
        }
        .on(self.rows)
    }

    /// Is the token at `column` of row `r` scored?
    pub fn scored(&self, r: usize, column: usize) -> bool {
        has_row(&self.places[r], column, self.shift) && self.rows[r].counts(column)
    }

    pub fn new(
        rows: &'a [Row<'a>],
        packing: &PackingSpec,
        block: Option<usize>,
        shift: bool,
        alphabet: Alphabet,
    ) -> Self {
        let places = rows.iter().map(|r| places(r, packing, block.unwrap_or(0), 1)).collect();
        Layout { rows, places, shift, block, alphabet }
    }

    /// Scored columns of row `r`, part by part; parts without one are left out.
    pub fn parts(&self, r: usize) -> Vec<Vec<u32>> {
        let scope = if self.block.is_some() { Scope::Block } else { Scope::Document };
        let scored = |c: &usize| self.scored(r, *c);
        scope
            .spans(&self.places[r])
            .into_iter()
            .map(|span| span.filter(scored).map(|c| c as u32).collect::<Vec<_>>())
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// Scored tokens of row `r`.
    pub fn counted(&self, r: usize) -> usize {
        (0..self.places[r].len()).filter(|c| self.scored(r, *c)).count()
    }
}
