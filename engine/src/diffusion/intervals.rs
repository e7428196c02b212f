//! Which range of mask rates gives a block's loss the least variance (BD3-LM, arXiv 2503.09573, section 5;
//! `methods/block_diffusion.md` 2.4).
//!
//! Candidates are all [b, b + w] with w in {.5, .6, .7, .8, .9} and b = 0, .05, .. (0 stands for 1e-3), and the whole range.
//! For each, rows are corrupted at rates from it; a part's loss is the sum over its masked tokens of -ln p / t over its
//! tokens; the variance is taken over all parts of a batch and averaged over batches. Candidates see the same strata and the
//! same uniforms, so that they differ by their rates alone. A clipped range is a choice of variance: its loss is no bound.

use super::corruption::RowPlan;
use super::likelihood::draws::LOWEST;
use super::likelihood::groups::Layout;
use super::likelihood::{Denoiser, LikelihoodError, State};

/// What a range was found to give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// `t` of a recipe's phase
    pub t: [f64; 2],
    /// of a part's loss, nats per token squared, and its standard error over batches
    pub variance: f64,
    pub stderr: f64,
    /// mean loss of a part, nats per token; the NELBO at the whole range alone
    pub loss: f64,
}

/// The candidates, the whole range first.
pub fn candidates() -> Vec<[f64; 2]> {
    let mut out = vec![[LOWEST, 1.0]];
    for width in [10, 12, 14, 16, 18] {
        // in steps of .05
        let low = |b: u32| if b == 0 { LOWEST } else { b as f64 / 20.0 };
        out.extend((0..=20 - width).map(|b| [low(b), (b + width) as f64 / 20.0]));
    }
    out
}

/// Every candidate on the rows of a layout in batches of `batch`, the least variance first. `progress(done, of)` is told of
/// every batch.
///
/// # Errors
/// Stopped, or fewer than two parts in a batch.
pub fn search<D: Denoiser>(
    d: &mut D,
    layout: &Layout,
    seed: u64,
    batch: usize,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Interval>, LikelihoodError> {
    let rows: Vec<usize> = (0..layout.rows.len()).collect();
    let batches: Vec<&[usize]> = rows.chunks(batch.max(1)).filter(|b| b.len() == batch.max(1)).collect();
    let parts: Vec<Vec<Vec<u32>>> = rows.iter().map(|r| layout.parts(*r)).collect();
    let fewest = batches.iter().map(|b| b.iter().map(|r| parts[*r].len()).sum::<usize>()).min();
    if fewest.unwrap_or(0) < 2 {
        return Err(LikelihoodError::Unavailable {
            estimator: "the search for a range of mask rates".into(),
            why: "a batch has fewer than two parts to compare".into(),
            remedy: "give more rows, or smaller blocks".into(),
        });
    }
    let candidates = candidates();
    let (of, mut done) = (candidates.len() * batches.len(), 0);
    let mut out = vec![];
    for t in candidates {
        let process = layout.process(seed, t);
        let groups = process.groups(0, &layout.places);
        let (mut variances, mut losses) = (vec![], vec![]);
        for batch in &batches {
            let plans: Vec<RowPlan> = batch
                .iter()
                .map(|r| process.draw_row(0, *r, layout.rows[*r].tokens, &layout.places[*r], &groups, None))
                .collect();
            let state = |(row, plan): (&usize, &RowPlan)| State {
                row: *row,
                noisy: plan.noisy.clone(),
                asked: plan.picks.iter().map(|p| p.column).collect(),
                time: f64::NAN,
            };
            let states: Vec<State> = batch.iter().zip(&plans).map(state).collect();
            let mut of_batch = vec![];
            for ((r, plan), scored) in batch.iter().zip(&plans).zip(d.score(&states, false)) {
                let mut loss = vec![0.0; layout.rows[*r].tokens.len()];
                for (pick, s) in plan.picks.iter().zip(&scored) {
                    loss[pick.column as usize] -= pick.weight as f64 * s.log_p;
                }
                let of =
                    |part: &Vec<u32>| part.iter().map(|c| loss[*c as usize]).sum::<f64>() / part.len() as f64;
                of_batch.extend(parts[*r].iter().map(of));
            }
            let (mean, square) = moments(&of_batch);
            variances.push(square);
            losses.push(mean);
            done += 1;
            if !progress(done, of) {
                return Err(LikelihoodError::Stopped);
            }
        }
        let (variance, spread) = moments(&variances);
        let stderr = (spread / variances.len() as f64).sqrt();
        out.push(Interval { t, variance, stderr, loss: moments(&losses).0 });
    }
    // of equal ones the first, the wider one
    out.sort_by(|a, b| a.variance.total_cmp(&b.variance));
    Ok(out)
}

/// Mean and variance (of n - 1; NaN for one value).
fn moments(v: &[f64]) -> (f64, f64) {
    let n = v.len() as f64;
    let mean = v.iter().sum::<f64>() / n;
    (mean, v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PackingSpec;
    use crate::data::Row;
    use crate::diffusion::likelihood::{Estimator, nats};
    use crate::diffusion::table::{Beliefs, Table, sequences};

    const STREAM: PackingSpec =
        PackingSpec { length: 4, documents: false, restart_positions: false, restart_blocks: false };

    #[test]
    fn candidates_are_those_of_the_paper() {
        let all = candidates();
        assert_eq!((all.len(), all[0]), (36, [1e-3, 1.0]));
        assert!(all.iter().all(|t| t[0] >= 1e-3 && t[0] < t[1] && t[1] <= 1.0));
        let near = |t: &[f64; 2], want: [f64; 2]| (t[0] - want[0]).abs() + (t[1] - want[1]).abs() < 1e-12;
        for want in [[1e-3, 0.5], [0.45, 0.95], [0.3, 0.8], [0.5, 1.0], [0.1, 1.0], [0.05, 0.95]] {
            assert!(all.iter().any(|t| near(t, want)), "{want:?}");
        }
    }

    /// The whole range gives the NELBO and the most variance of those that are close to it; what wins has less, the same for
    /// the same seed, and its loss is another number.
    #[test]
    fn the_winner_has_less_variance_than_the_whole_range() {
        for block in [Some(2), None] {
            let mut table = Table::new(3, 4, block, Beliefs::Random { seed: 5, scale: 0.3 });
            table.rows = (0..1200).map(|i| sequences(3, 4)[i * 7 % 81].clone()).collect();
            let texts = table.rows.clone();
            let rows: Vec<Row> = texts.iter().map(|x| Row::new(x, u32::MAX)).collect();
            let layout = Layout::new(&rows, &STREAM, block, false, table.alphabet());
            let run = |table: &mut Table, seed| search(table, &layout, seed, 100, &mut |_, _| true).unwrap();
            let found = run(&mut table, 3);
            assert_eq!(found, run(&mut table, 3));
            let whole = found.iter().find(|i| i.t == [LOWEST, 1.0]).unwrap();
            assert!(found[0].variance < 0.5 * whole.variance, "{:?} {whole:?}", found[0]);
            assert!(found.windows(2).all(|w| w[0].variance <= w[1].variance));
            let exact = Estimator::NelboExact { block: block.unwrap_or(0) };
            let parts = nats(&mut table, &layout, exact, 0, &mut |_, _| true).unwrap();
            let want = parts.iter().map(|p| p.0).sum::<f64>() / (4 * parts.len()) as f64;
            assert!((whole.loss - want).abs() < 0.1 * want, "{} {want}", whole.loss);
        }
    }

    #[test]
    fn one_part_a_batch_cannot_vary() {
        let mut table = Table::new(3, 4, None, Beliefs::Random { seed: 5, scale: 0.3 });
        let texts = [sequences(3, 4)[5].clone()];
        table.rows = texts.to_vec();
        let rows: Vec<Row> = texts.iter().map(|x| Row::new(x, u32::MAX)).collect();
        let layout = Layout::new(&rows, &STREAM, None, false, table.alphabet());
        let e = search(&mut table, &layout, 0, 1, &mut |_, _| true).unwrap_err().to_string();
        assert!(e.contains("more rows"), "{e}");
    }
}
