//! Statistics of one row whose logits are at hand, and candidates drawn from a part of the vocabulary.
//!
//! [`super::statistics`] never stores logits, so it can draw from the whole softmax only. Who changes logits (guidance,
//! penalties) or cuts the distribution's tail has the whole row and computes here, on every back end by the same code.
//!
//! Order of the filters: temperature, top-k, top-p. With q = softmax(z / T) over the k most probable tokens, top-p keeps
//! the smallest set of most probable tokens whose mass reaches p, the token that crosses p included (Holtzman et al.,
//! arXiv 1904.09751); ties go to the lower id. The race among the kept tokens uses the keys of the whole vocabulary: a
//! winner that is kept stays the winner, and the law is q renormalised.

use super::cpu::{row_statistics, tempered_lse};
use super::race::race;
use super::{MAX_TOP_K, RowHead, STATS};
use crate::backend::HeadJob;
use crate::rng::{Rng, Stream};

/// Which tokens may be drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filter {
    /// at most so many of the most probable ones; 0 = all
    pub top_k: usize,
    /// the fewest whose mass reaches this; none = all
    pub top_p: Option<f32>,
}

impl Filter {
    pub fn is_off(&self) -> bool {
        self.top_k == 0 && self.top_p.is_none()
    }

    /// Ids of the kept tokens, most probable first, and by how much the closest token is in or out: a difference of
    /// logits where top-k cut, of probabilities where top-p did.
    pub fn kept(&self, z: &[f32], temperature: f32) -> (Vec<u32>, f32) {
        let first = |a: &u32, b: &u32| z[*b as usize].total_cmp(&z[*a as usize]).then(a.cmp(b));
        let mut ids: Vec<u32> = (0..z.len() as u32).filter(|v| z[*v as usize] > f32::NEG_INFINITY).collect();
        let mut edge = f32::INFINITY;
        let k = if self.top_k == 0 { ids.len() } else { self.top_k.min(ids.len()) };
        if k < ids.len() {
            ids.select_nth_unstable_by(k, first);
            let out = ids[k];
            ids.truncate(k);
            let last = ids.iter().copied().max_by(first).unwrap_or(out);
            edge = z[last as usize] - z[out as usize];
        }
        let Some(p) = self.top_p else {
            ids.sort_unstable_by(first);
            return (ids, edge);
        };
        let inv = 1.0 / temperature as f64;
        let max = ids.iter().map(|v| z[*v as usize]).fold(f32::NEG_INFINITY, f32::max) as f64;
        let weight = |v: u32| ((z[v as usize] as f64 - max) * inv).exp();
        // ids ascend unless top-k has shuffled them: the sum must not depend on that
        if k < z.len() {
            ids.sort_unstable();
        }
        let total: f64 = ids.iter().map(|v| weight(*v)).sum();
        // most of the vocabulary lies behind the cut: sort only as far as the mass asks for
        let (mut sorted, mut mass, mut n) = (0, 0.0, 0);
        while n < ids.len() && (n == 0 || mass < p as f64) {
            if n == sorted {
                let next = (4 * sorted.max(16)).min(ids.len());
                if next < ids.len() {
                    ids[sorted..].select_nth_unstable_by(next - sorted, first);
                }
                ids[sorted..next].sort_unstable_by(first);
                sorted = next;
            }
            edge = edge.min((p as f64 - mass).abs() as f32);
            mass += weight(ids[n]) / total;
            n += 1;
        }
        edge = edge.min((p as f64 - mass).abs() as f32);
        ids.truncate(n);
        (ids, edge)
    }
}

/// Statistics of the row of logits `z` (forbidden ids at minus infinity) as [`super::statistics`] gives them, the
/// candidate drawn among the tokens that `filter` keeps. `key` is (position, step, sequence, current token); `top_k` as in
/// [`HeadJob`]. LSE_T is over the kept tokens, so that [`RowHead::q_candidate`] is the probability under the law drawn
/// from; the margin is at most the distance of the nearest token from the filter's edge.
///
/// Panics if `top_k` is above [`MAX_TOP_K`] or the row is empty.
pub fn of_logits(
    z: &[f32],
    key: [u32; 4],
    temperature: f32,
    seed: u64,
    top_k: usize,
    filter: Filter,
) -> RowHead {
    assert!(top_k <= MAX_TOP_K && !z.is_empty(), "head: {top_k} ranks of {} logits", z.len());
    let filters = temperature > 0.0 && !filter.is_off();
    let job = HeadJob {
        rows: 1,
        width: 0,
        vocab: z.len(),
        top_k,
        temperature: if filters { 0.0 } else { temperature },
        seed,
        forbid: vec![],
    };
    let mut row = vec![0f32; STATS + 2 * top_k];
    row_statistics(z, &key, &mut row, &job, top_k.min(z.len()));
    let mut head = RowHead::decode(&row, top_k);
    if filters {
        let (kept, edge) = filter.kept(z, temperature);
        let mut left = vec![f32::NEG_INFINITY; z.len()];
        kept.iter().for_each(|v| left[*v as usize] = z[*v as usize]);
        let inv = 1.0 / temperature;
        let won = race(&left, inv, Rng::new(seed, Stream::Token, key[2]), key[1], key[0]);
        head.candidate = won.winner.unwrap_or(head.argmax);
        head.candidate_logit = z[head.candidate as usize];
        head.lse_t = tempered_lse(&left, head.max, inv);
        head.margin = (won.second - won.first).min(edge);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::reference::log_softmax;

    fn logits(seed: u64, n: u32) -> Vec<f32> {
        let rng = Rng::new(seed, Stream::Test, 0);
        (0..n).map(|v| if v == 3 { f32::NEG_INFINITY } else { 2.0 * rng.normal(0, 0, v) as f32 }).collect()
    }

    /// Without a filter the numbers are the head's own.
    #[test]
    fn without_a_filter_it_is_the_head() {
        let (vocab, width) = (300usize, 8usize);
        let rng = Rng::new(2, Stream::Test, 1);
        let table: Vec<f32> = (0..(vocab * width) as u32).map(|i| rng.normal(1, i, 0) as f32).collect();
        let hidden: Vec<f32> = (0..width as u32).map(|i| rng.normal(2, i, 0) as f32).collect();
        for temperature in [0.0, 0.7] {
            let job = HeadJob { rows: 1, width, vocab, top_k: 4, temperature, seed: 9, forbid: vec![5] };
            let key = [7, 2, 1, 11];
            let mut out = vec![0f32; STATS + 8];
            super::super::statistics(&hidden, &table, &key, &mut out, std::slice::from_ref(&job));
            let want = RowHead::decode(&out, 4);
            let mut z = vec![0f32; vocab];
            use crate::gemm::{Mat, Threads, gemm};
            let (h, t) = (Mat::rows(&hidden, width), Mat::rows(&table, width).t());
            gemm(Threads::Pool, 1, vocab, width, 1.0, h, t, &mut z, vocab, false);
            z[5] = f32::NEG_INFINITY;
            let got = of_logits(&z, key, temperature, 9, 4, Filter::default());
            assert_eq!(got, want);
            // filters that keep everything change nothing either
            let all = Filter { top_k: vocab, top_p: Some(1.0) };
            let got = of_logits(&z, key, temperature, 9, 4, all);
            assert_eq!((got.candidate, got.lse_t), (want.candidate, want.lse_t), "T {temperature}");
        }
    }

    /// Kept sets against a plain sort.
    #[test]
    fn kept_tokens_are_those_of_a_sort() {
        for seed in 0..20 {
            let z = logits(seed, 200);
            for (top_k, top_p, temperature) in [
                (0, Some(0.9f32), 1.0f32),
                (7, None, 1.0),
                (7, Some(0.5), 0.7),
                (0, Some(0.0), 1.0),
                (0, Some(0.999), 2.0),
                (500, Some(1.0), 1.0),
            ] {
                let (kept, edge) = Filter { top_k, top_p }.kept(&z, temperature);
                let mut order: Vec<u32> = (0..200).filter(|v| *v != 3).collect();
                order.sort_by(|a, b| z[*b as usize].total_cmp(&z[*a as usize]));
                if top_k > 0 {
                    order.truncate(top_k);
                }
                let lp = log_softmax(
                    &order.iter().map(|v| (z[*v as usize] / temperature) as f64).collect::<Vec<_>>(),
                );
                let mut mass = 0.0;
                let n = lp.iter().take_while(|l| {
                    let take = top_p.is_none_or(|p| mass < p as f64) || mass == 0.0;
                    mass += l.exp();
                    take
                });
                let n = n.count();
                assert_eq!(kept, order[..n], "{top_k} {top_p:?}");
                assert!(edge >= 0.0);
            }
        }
    }

    /// The draw's law is the renormalised one, and a kept winner of the whole race stays the winner.
    #[test]
    fn the_filtered_race_has_the_filtered_law() {
        let z = logits(4, 40);
        let filter = Filter { top_k: 0, top_p: Some(0.8) };
        let (kept, _) = filter.kept(&z, 0.9);
        assert!(kept.len() > 2 && kept.len() < 39);
        let lp = log_softmax(&kept.iter().map(|v| z[*v as usize] as f64 / 0.9).collect::<Vec<_>>());
        let n = 40_000u32;
        let mut counts = vec![0u32; 40];
        for step in 0..n {
            let got = of_logits(&z, [0, step, 0, 0], 0.9, 1, 0, filter);
            let whole = of_logits(&z, [0, step, 0, 0], 0.9, 1, 0, Filter::default());
            if kept.contains(&whole.candidate) {
                assert_eq!(got.candidate, whole.candidate);
            }
            let at = kept.iter().position(|v| *v == got.candidate).expect("a kept token");
            assert!((got.q_candidate(0.9) as f64 - lp[at].exp()).abs() < 1e-4);
            counts[got.candidate as usize] += 1;
        }
        for (v, l) in kept.iter().zip(&lp) {
            let (p, got) = (l.exp(), counts[*v as usize] as f64 / n as f64);
            assert!((got - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "{v}: {got} {p}");
        }
    }
}
