//! Left to right: the first masked position, one token a forward. With a causal model every forward appends to
//! the exact cache, which makes this ordinary autoregressive decoding under the same record and cost account.

use super::{Eos, Parts, Revision, Score, Selection};

pub(super) const LEFT_TO_RIGHT: Parts = Parts {
    score: Score::Leftmost,
    alg_temp: 0.0,
    selection: Selection::PerForward { k: 1 },
    revision: Revision::None,
    eos: Eos::Any,
};
