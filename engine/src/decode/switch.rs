//! Fast or slow: which of two policies writes a text, decided once, by what its first denoising forward says anyway
//! (after the fast / slow switch of "Beyond Speedup", arXiv 2601.20326; `methods/kv_cache.md` H2).
//!
//! ```text
//! x = [mean keys and values of a set of positions ; mean entropy of the block's masked rows]
//! d = 100 sigma(w . (x - mean) / scale + b)          slow if d > at, strictly
//! ```
//!
//! d estimates the chance, per cent, that the fast policy does not suffice, as `hilda switch fit` learned it from both
//! policies' outcomes; the file says which two they are. The first forward is the same under both, so the decision costs
//! none. Keys and values are the driver's: between a forward and [`Decoder::apply`] it tells what
//! [`Decoder::embedding_of`] asks for ([`crate::model::embedding::tell`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    DecodeConfig, DecodeError, Decoder, ForwardRequest, Method, PolicySpec, RowStats, State,
    policy::{Policy, Score},
    trajectory::StepKind,
};

/// Name of the file in a model's folder.
pub const SWITCH: &str = "switch.json";

/// What a decision is made from. The first three are e of positions that the first denoising forward looked at; a decision
/// uses at most one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// everything that is known
    Known,
    /// what is known and has a mask within [`NEAR`] positions
    Near,
    /// the masked positions of the active block
    Open,
    /// mean entropy of the active block's masked rows, nats
    Entropy,
}

/// See [`Feature::Near`].
pub const NEAR: u32 = 8;

impl Feature {
    /// Whose keys and values: positions of `0..end`, `block` being the active block. `None` for the entropy.
    pub fn positions(self, state: &State, block: u32, end: u32) -> Option<Vec<u32>> {
        let masked = |p: u32| state.is_masked(p);
        let close = |p: u32| (p.saturating_sub(NEAR)..(p + NEAR + 1).min(end)).any(masked);
        match self {
            Feature::Known => Some((0..end).filter(|p| !masked(*p)).collect()),
            Feature::Near => Some((0..end).filter(|p| !masked(*p) && close(*p)).collect()),
            Feature::Open => Some(state.masked(state.block_range(block)).collect()),
            Feature::Entropy => None,
        }
    }
}

/// Mean entropy of the masked rows among `rows` (a forward's wanted positions) inside the active block, nats.
pub fn mean_entropy(state: &State, block: u32, request: &ForwardRequest, stats: &RowStats) -> Option<f64> {
    let range = state.block_range(block);
    let open = |p: u32| range.contains(&p) && state.is_masked(p);
    let rows = request.want.rows.iter().zip(&stats.rows).filter(|(p, _)| open(**p));
    let all: Vec<f64> = rows.map(|(_, r)| f64::from(r.entropy)).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// Two policies and how to choose between them: `switch.json` in a model's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    pub fast: Method,
    pub slow: Method,
    pub features: Vec<Feature>,
    /// of each value of x, over the problems it was fitted on
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
    pub weights: Vec<f32>,
    pub bias: f32,
    /// where it comes from, for people
    pub note: String,
}

impl Switch {
    /// Reads the file; `width` of the model's embeddings.
    ///
    /// # Errors
    /// Not such a file, or one of another model.
    pub fn read(json: &[u8], width: usize) -> Result<Switch, DecodeError> {
        let s: Switch = serde_json::from_slice(json).map_err(|e| DecodeError::Switch(e.to_string()))?;
        s.check()?;
        let wanted = s.features.iter().map(|f| if *f == Feature::Entropy { 1 } else { width }).sum::<usize>();
        if s.weights.len() != wanted {
            let m = format!("{} weights, this model has {wanted} values to decide by", s.weights.len());
            return Err(DecodeError::Switch(m));
        }
        Ok(s)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let bad = |m: String| Err(DecodeError::Switch(m));
        let embeddings = self.features.iter().filter(|f| **f != Feature::Entropy).count();
        let entropies = self.features.len() - embeddings;
        if embeddings > 1 || entropies > 1 || self.features.is_empty() {
            return bad("features: at most one of known, near, open, and entropy".into());
        }
        let n = self.weights.len();
        if self.mean.len() != n || self.scale.len() != n || n == 0 {
            return bad(format!("{n} weights, {} means, {} scales", self.mean.len(), self.scale.len()));
        }
        let all = || self.mean.iter().chain(&self.scale).chain(&self.weights).chain([&self.bias]);
        if !all().all(|x| x.is_finite()) || self.scale.iter().any(|s| *s <= 0.0) {
            return bad("a value that is not finite, or a scale that is not above 0".into());
        }
        Ok(())
    }

    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    /// The embedding among the features.
    pub fn embedding(&self) -> Option<Feature> {
        self.features.iter().copied().find(|f| *f != Feature::Entropy)
    }

    /// Chance, per cent, that the fast policy does not suffice; `x` in the order of the features.
    pub fn d(&self, x: &[f32]) -> f32 {
        let term =
            |i: usize| f64::from(self.weights[i]) * f64::from(x[i] - self.mean[i]) / f64::from(self.scale[i]);
        let z: f64 = f64::from(self.bias) + (0..x.len()).map(term).sum::<f64>();
        (100.0 / (1.0 + (-z).exp())) as f32
    }
}

/// What a switch decided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switched {
    /// per cent; none where there was nothing to decide by, which is slow
    pub d: Option<f32>,
    pub at: f32,
    pub slow: bool,
}

/// A switch before its first denoising forward.
#[derive(Clone, Debug)]
pub(super) struct Undecided {
    switch: Arc<Switch>,
    at: f32,
    /// what the driver told: e, or that there is none
    told: Option<Option<Vec<f32>>>,
}

impl Undecided {
    /// The switch of a configuration, with both policies checked.
    pub fn of(config: &DecodeConfig) -> Result<Option<Undecided>, DecodeError> {
        let Method::Switch { at } = config.policy.method else { return Ok(None) };
        let switch = config.switch.clone().ok_or(DecodeError::NoSwitch)?;
        switch.check()?;
        for method in [switch.fast, switch.slow] {
            let own = DecodeConfig { policy: PolicySpec { method, ..config.policy }, ..config.clone() };
            own.validate()?;
            let parts = own.policy.build()?;
            let several = own.policy.refine().is_some()
                || matches!(
                    method,
                    Method::BestOf { .. } | Method::OrderTokenSearch { .. } | Method::Switch { .. }
                );
            // the first forward must be the one that either of them would ask for
            if several || parts.compares() || parts.cells().is_some() {
                let m = format!(
                    "{} cannot be one of its policies: it has a first forward of its own",
                    method.kind()
                );
                return Err(DecodeError::Switch(m));
            }
            if parts.score == Score::Pc && config.frequencies.is_none() {
                return Err(DecodeError::NoFrequencies);
            }
        }
        Ok(Some(Undecided { switch, at, told: None }))
    }
}

impl Decoder {
    /// Positions whose mean keys and values the pending forward's statistics must come with; none where nothing is asked.
    pub fn embedding_of(&self) -> Option<Vec<u32>> {
        let feature = self.undecided.as_ref()?.switch.embedding()?;
        let pending = self.pending.as_ref().filter(|p| p.kind == StepKind::Denoise)?;
        let end = pending.request.query_positions.last().map_or(0, |p| p + 1);
        feature.positions(&self.state, pending.block, end)
    }

    /// The block whose masked rows the pending forward predicts; none for prefills, store passes and the like.
    pub fn denoising(&self) -> Option<u32> {
        self.pending.as_ref().filter(|p| p.kind == StepKind::Denoise).map(|p| p.block)
    }

    /// e of those positions; none if there are none.
    pub fn tell_embedding(&mut self, e: Option<Vec<f32>>) {
        if let Some(u) = &mut self.undecided {
            u.told = Some(e);
        }
    }

    /// The policy that a switch chooses in this forward.
    #[allow(clippy::type_complexity)]
    pub(super) fn decide(
        &self,
        request: &ForwardRequest,
        stats: &RowStats,
    ) -> Result<Option<(Arc<dyn Policy>, Switched)>, DecodeError> {
        let Some(Undecided { switch, at, told }) = &self.undecided else { return Ok(None) };
        let block = self.pending.as_ref().map_or(0, |p| p.block);
        let mut x = Some(Vec::with_capacity(switch.weights.len()));
        for feature in &switch.features {
            let values = match feature {
                Feature::Entropy => mean_entropy(&self.state, block, request, stats).map(|h| vec![h as f32]),
                _ => told.clone().ok_or(DecodeError::NoEmbedding)?,
            };
            x = x.zip(values).map(|(mut x, v)| {
                x.extend(v);
                x
            });
        }
        if let Some(x) = x.as_ref().filter(|x| x.len() != switch.weights.len()) {
            let m = format!("{} weights, {} values to decide by", switch.weights.len(), x.len());
            return Err(DecodeError::Switch(m));
        }
        let d = x.map(|x| switch.d(&x));
        let slow = d.is_none_or(|d| d > *at);
        let method = if slow { switch.slow } else { switch.fast };
        let policy = PolicySpec { method, ..self.config.policy }.build()?;
        Ok(Some((Arc::new(policy), Switched { d, at: *at, slow })))
    }
}
