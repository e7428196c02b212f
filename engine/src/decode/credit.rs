//! Credit (CreditDecoding, arXiv 2510.06133; dInfer; `methods/decoding.md` 2.5 C): a token that was the most probable one at
//! its position forward after forward is trusted earlier than its probability of this forward alone would have it.
//!
//! For every masked position i of the block and token v a decaying sum of what earlier forwards thought, this one included:
//!
//! c_t[i, v] = decay c_{t-1}[i, v] + [v = argmax p_t(i)] max p_t(i)^0.2,
//!
//! with p_t the distribution at temperature 1 after guidance, repetition and forbidden tokens. Everything that follows, the
//! record's probabilities included, is computed from z_t(i) + weight ln(1 + c_t[i]).
//!
//! A position's credit goes with the token written there: masked again, it begins anew, as it does in the next block, after
//! a reopening, and everywhere once the user has changed the text. Tokens that were never most probable have none, so the
//! [block, vocabulary] table is kept as one short list a position.
//!
//! Which token is credited is a decision like any other, and later ones rest on it: no action of the block is won by more than
//! the closest of them ([`Credit::lead`]).

/// Power of the probability that is added.
const POWER: f32 = 0.2;

/// c of the positions of a block, as (token, credit).
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Credit {
    at: Vec<Vec<(u32, f32)>>,
    lead: Option<f32>,
}

impl Credit {
    /// Counts this forward's opinion at place `at` of the block and adds the credit to the logits `z` [vocabulary], of which
    /// at least one is finite.
    pub fn count(&mut self, at: usize, weight: f32, decay: f32, z: &mut [f32]) {
        let best = (0..z.len()).fold(0, |b, v| if z[v] > z[b] { v } else { b });
        let second =
            z.iter().enumerate().filter(|(v, _)| *v != best).fold(f32::NEG_INFINITY, |m, (_, x)| m.max(*x));
        self.lead = Some(self.lead.unwrap_or(f32::INFINITY).min(z[best] - second));
        let sum: f64 = z.iter().map(|x| ((x - z[best]) as f64).exp()).sum();
        let gain = (1.0 / sum).powf(POWER as f64) as f32;
        if self.at.len() <= at {
            self.at.resize(at + 1, Vec::new());
        }
        let table = &mut self.at[at];
        table.iter_mut().for_each(|(_, c)| *c *= decay);
        match table.iter_mut().find(|(v, _)| *v == best as u32) {
            Some((_, c)) => *c += gain,
            None => table.push((best as u32, gain)),
        }
        for (v, c) in table.iter() {
            z[*v as usize] += weight * c.ln_1p();
        }
    }

    /// By how much the closest credited token led over the second one, logits; none before the first.
    pub fn lead(&self) -> Option<f32> {
        self.lead
    }

    /// The position was written.
    pub fn forget(&mut self, at: usize) {
        if let Some(table) = self.at.get_mut(at) {
            table.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two forwards by hand: p = (3/4, 1/4), then (1/4, 3/4).
    #[test]
    fn by_hand() {
        let (a, b) = (0.75f32.ln(), 0.25f32.ln());
        let gain = 0.75f32.powf(0.2);
        let mut credit = Credit::default();
        let mut z = [a, b, f32::NEG_INFINITY];
        credit.count(2, 0.7, 0.8, &mut z);
        assert!((z[0] - (a + 0.7 * (1.0 + gain).ln())).abs() < 1e-6 && z[1] == b);
        let mut z = [b, a, f32::NEG_INFINITY];
        credit.count(2, 0.7, 0.8, &mut z);
        assert!((z[0] - (b + 0.7 * (1.0 + 0.8 * gain).ln())).abs() < 1e-6);
        assert!((z[1] - (a + 0.7 * (1.0 + gain).ln())).abs() < 1e-6);
        assert_eq!(z[2], f32::NEG_INFINITY);
        assert!((credit.lead().unwrap() - 3.0f32.ln()).abs() < 1e-6);
        credit.forget(2);
        let mut z = [b, a, f32::NEG_INFINITY];
        credit.count(2, 0.7, 0.8, &mut z);
        assert_eq!(z[0], b);
    }
}
