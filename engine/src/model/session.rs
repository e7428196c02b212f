//! A decoding session: answers the [`ForwardRequest`]s of one text at a time, on any back end. The case of one of
//! [`Batch`].

use std::ops::Range;
use std::sync::Arc;

use hilda_kernels::{Backend, Train};

#[cfg(test)]
use super::Cache;
pub use super::batch::Pending;
pub use super::sequence::SessionError;
pub use super::weights::Weights;
use super::{Batch, Sequence};
use crate::decode::{ForwardRequest, Held, RowStats};

/// One sequence being decoded.
pub struct Session<B: Backend> {
    batch: Batch<B>,
    sequence: Sequence<B>,
}

impl<B: Backend> Session<B> {
    /// Buffers for sequences of up to `context` positions.
    pub fn new(b: &B, weights: Arc<Weights<B>>, context: usize) -> Self {
        let sequence = Sequence::new(b, &weights, context);
        Session { batch: Batch::new(b, weights, context), sequence }
    }

    pub fn weights(&self) -> &Arc<Weights<B>> {
        self.batch.weights()
    }

    /// What the device keeps of the text.
    pub fn sequence(&self) -> &Sequence<B> {
        &self.sequence
    }

    /// Positions whose keys and values are kept.
    pub fn cached(&self) -> usize {
        self.sequence.cached()
    }

    /// Keys and values of cached positions ([`Sequence::keys_values`]).
    ///
    /// # Errors
    /// A layer or positions that are not there; a device that cannot be read.
    pub fn keys_values(
        &self,
        b: &B,
        layer: usize,
        positions: Range<usize>,
        plain: bool,
    ) -> Result<Vec<f32>, SessionError> {
        self.sequence.keys_values(b, &self.weights().trunk, layer, positions, plain)
    }

    /// What is cached, measured; for the answer of the last forward.
    pub fn held(&self) -> Held {
        self.sequence.held(&self.weights().trunk)
    }

    #[cfg(test)]
    pub(super) fn cache_for_tests(&self) -> &Cache<B> {
        &self.sequence.cache
    }
    #[cfg(test)]
    pub(super) fn cache_for_tests_mut(&mut self) -> &mut Cache<B> {
        &mut self.sequence.cache
    }

    /// Forgets the cached text: the next request begins another sequence.
    pub fn forget(&mut self) {
        self.sequence.forget();
    }

    /// Statistics of the last forward; what it said is pending are the first values.
    pub fn stats(&self) -> &B::Buf {
        &self.batch.stats
    }

    /// Records one forward; its statistics are in [`Session::stats`] once the device has run.
    pub fn forward(&mut self, b: &B, request: &ForwardRequest) -> Result<Pending, SessionError> {
        let mut one = self.batch.forward(b, &mut [(&mut self.sequence, request)]);
        one.pop().expect("an answer for each request")
    }
}

impl Session<hilda_kernels::Cpu> {
    /// Forward and statistics at once.
    pub fn answer(&mut self, r: &ForwardRequest) -> Result<RowStats, SessionError> {
        let pending = self.forward(&hilda_kernels::Cpu, r)?;
        Ok(RowStats { held: Some(self.held()), ..pending.decode(&self.stats()[..pending.len()]) })
    }
}

impl<B: Train> Session<B> {
    /// Forward and statistics at once, on a device whose buffers can be read.
    pub fn answer_on(&mut self, b: &B, r: &ForwardRequest) -> Result<RowStats, SessionError> {
        let pending = self.forward(b, r)?;
        let values = b.read_range(self.stats(), 0, pending.len());
        Ok(RowStats { held: Some(self.held()), ..pending.decode(&values) })
    }
}

#[cfg(test)]
mod tests;
