//! Do two records of the same decoding agree, as far as they have to?
//!
//! Back ends round differently, so a decision won by less than a tolerance may fall otherwise; from there on the
//! texts are different ones. Everything before the first such decision must be identical, and at the first
//! difference every action that the two records do not share must have been won by no more than the tolerance.

use super::{Action, StepRecord, Trajectory};

/// How two trajectories compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// records with identical actions before the first difference
    pub identical: usize,
    /// of how many (the shorter trajectory's)
    pub records: usize,
    /// first difference: its record and the largest margin among the actions not shared
    pub divergence: Option<(usize, f32)>,
    /// smallest margin among the identical actions
    pub least_margin: f32,
    /// largest difference of a probability among the rows of identical records
    pub largest_dp: f32,
}

/// Why they do not.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum VerifyError {
    #[error("the trajectories answer different requests")]
    Request,
    #[error(
        "record {index} differs at position {pos}, in a decision won by {margin:e} (tolerance {tolerance:e})"
    )]
    Unexplained { index: usize, pos: u32, margin: f32, tolerance: f32 },
    #[error("record {index} has another form (kind, block or number of records) after identical decisions")]
    Form { index: usize },
}

/// Compares two records of one request. `tolerance` in the unit of margins (probabilities, logits, nats).
pub fn verify(a: &Trajectory, b: &Trajectory, tolerance: f32) -> Result<Agreement, VerifyError> {
    let request = |t: &Trajectory| {
        let mut c = t.header.config.clone();
        (c.rows, c.top_k, c.frequencies, c.surrogate, c.switch) = (true, 0, None, None, None);
        c
    };
    if request(a) != request(b) {
        return Err(VerifyError::Request);
    }
    let records = a.steps.len().min(b.steps.len());
    let mut agreement = Agreement {
        identical: 0,
        records,
        divergence: None,
        least_margin: super::state::CERTAIN,
        largest_dp: 0.0,
    };
    for (index, (x, y)) in a.steps.iter().zip(&b.steps).enumerate() {
        if (x.kind, x.block, x.step) != (y.kind, y.block, y.step) {
            return Err(VerifyError::Form { index });
        }
        let alone: Vec<&Action> = not_shared(x, y).chain(not_shared(y, x)).collect();
        if let Some(largest) = alone.iter().copied().max_by(|p, q| p.margin.total_cmp(&q.margin)) {
            if largest.margin > tolerance {
                let (pos, margin) = (largest.pos, largest.margin);
                return Err(VerifyError::Unexplained { index, pos, margin, tolerance });
            }
            agreement.divergence = Some((index, largest.margin));
            return Ok(agreement);
        }
        agreement.identical += 1;
        agreement.least_margin = x.actions.iter().map(|a| a.margin).fold(agreement.least_margin, f32::min);
        for (r, s) in x.rows.iter().zip(&y.rows) {
            let dp = (r.p_max - s.p_max).abs().max((r.p_current - s.p_current).abs());
            agreement.largest_dp = agreement.largest_dp.max(dp);
        }
    }
    let shorter = if a.steps.len() <= b.steps.len() { a } else { b };
    if a.steps.len() != b.steps.len() && shorter.footer.stop.is_some() {
        return Err(VerifyError::Form { index: records });
    }
    Ok(agreement)
}

fn not_shared<'a>(x: &'a StepRecord, y: &'a StepRecord) -> impl Iterator<Item = &'a Action> {
    let key = |a: &Action| (a.kind, a.pos, a.old, a.new);
    x.actions.iter().filter(move |a| y.actions.iter().all(|b| key(a) != key(b)))
}
