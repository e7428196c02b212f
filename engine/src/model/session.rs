//! A decoding session: answers [`ForwardRequest`]s with head statistics, on any back end.
//!
//! Keys and values of finished positions stay in a cache; a forward computes only the positions asked for.
//! With the logit shift, position n is read from hidden row n - 1; the hidden row of the last stored position is
//! kept (`carry`), because a block's first token is read from the store pass of the block before.

use std::sync::Arc;

use hilda_kernels::head::{RowHead, STATS};
use hilda_kernels::{Backend, Base, HeadJob, Place, Train};

use super::trunk::{Run, Slots};
use super::{Cache, LoadedModel, Plan, Shape, Trunk};
use crate::decode::{CacheOp, ForwardRequest, RowStats, Shadow};

/// Most logits one forward gives back: 128 MB.
const MAX_LOGITS: usize = 1 << 25;

/// A request the session cannot answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SessionError {
    #[error("{what} {value} is outside 0..{limit}")]
    Range { what: &'static str, value: usize, limit: usize },
    #[error("positions must ascend and start at or after the cached prefix of {cached}")]
    Positions { cached: usize },
    #[error("stored positions must continue the cached prefix of {cached}, got {got}")]
    Store { cached: usize, got: usize },
    #[error("position {position} has no row: its predecessor is not computed in this forward")]
    NoRow { position: usize },
    #[error("a shadow of {rows} rows cannot stand beside this forward: {why}")]
    Shadow { rows: usize, why: &'static str },
}

/// Weights on a device, shared by sessions.
pub struct Weights<B: Backend> {
    pub trunk: Trunk,
    pub shift: bool,
    pub params: B::Buf,
}

impl<B: Backend> Weights<B> {
    pub fn new(b: &B, model: &LoadedModel) -> Self {
        let trunk = Trunk::new(model.config.clone());
        let mut params = b.buf(trunk.layout.total);
        b.write(&mut params, 0, &model.params);
        Weights { trunk, shift: model.serving.shift, params }
    }
}

impl Weights<hilda_kernels::Cpu> {
    /// The same without a second copy of the weights.
    pub fn of(model: LoadedModel) -> Self {
        let trunk = Trunk::new(model.config);
        Weights { trunk, shift: model.serving.shift, params: model.params }
    }
}

/// One sequence being decoded.
pub struct Session<B: Backend> {
    weights: Arc<Weights<B>>,
    plan: Plan<B>,
    cache: Cache<B>,
    context: usize,
    cached: Vec<Place>,
    carry: B::Buf,
    ids: B::Ids,
    positions: B::Ids,
    rows: B::Ids,
    keys: B::Ids,
    gathered: B::Buf,
    /// statistics of the last forward, [rows, STATS + 2 top_k], then logits, [whole rows, vocabulary]
    pub stats: B::Buf,
    stats_len: usize,
    /// logits before they join the statistics; made when first asked for
    logits: Option<(usize, B::Buf)>,
}

/// What a forward left in `Session::stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub rows: usize,
    pub top_k: usize,
    /// logits behind the statistics
    pub logits: usize,
}

impl Pending {
    /// What a model with `vocab` tokens answers to `request`.
    pub fn of(request: &ForwardRequest, vocab: usize) -> Pending {
        let want = &request.want;
        Pending { rows: want.rows.len(), top_k: want.top_k, logits: want.whole.len() * vocab }
    }
    /// What an answer of `len` values holds: whatever is behind the statistics are logits.
    pub fn within(request: &ForwardRequest, len: usize) -> Pending {
        let bare = Pending::of(request, 0);
        Pending {
            logits: if request.want.whole.is_empty() { 0 } else { len.saturating_sub(bare.len()) },
            ..bare
        }
    }
    /// Values to read back.
    pub fn len(&self) -> usize {
        self.rows * (STATS + 2 * self.top_k) + self.logits
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Read values -> statistics.
    pub fn decode(&self, values: &[f32]) -> RowStats {
        let stride = STATS + 2 * self.top_k;
        RowStats {
            rows: values
                .chunks_exact(stride)
                .take(self.rows)
                .map(|r| RowHead::decode(r, self.top_k))
                .collect(),
            logits: values[self.rows * stride..].to_vec(),
        }
    }
}

impl<B: Backend> Session<B> {
    /// Buffers for sequences of up to `context` positions.
    pub fn new(b: &B, weights: Arc<Weights<B>>, context: usize) -> Self {
        let (plan, cache) = (weights.trunk.plan(b, context, false), weights.trunk.cache(b, context));
        let width = weights.trunk.config.head_width();
        let stats_len = context * (STATS + 2 * hilda_kernels::head::MAX_TOP_K);
        Session {
            plan,
            cache,
            context,
            cached: vec![],
            carry: b.buf(width),
            ids: b.ids(context),
            positions: b.ids(context),
            rows: b.ids(context),
            keys: b.ids(4 * context),
            gathered: b.buf(context * width),
            stats: b.buf(stats_len),
            stats_len,
            logits: None,
            weights,
        }
    }

    pub fn weights(&self) -> &Arc<Weights<B>> {
        &self.weights
    }

    /// Positions whose keys and values are kept.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Forgets the cached text: the next request begins another sequence.
    pub fn forget(&mut self) {
        self.cached.clear();
    }

    /// Room for the rows of a shadow, which stand in no text: `rows` in all.
    fn grow(&mut self, b: &B, rows: usize) {
        if rows > self.cache.capacity {
            let trunk = &self.weights.trunk;
            self.plan = trunk.plan(b, rows, false);
            self.cache = trunk.cache_from(b, rows, &self.cache, self.cached.len());
            (self.ids, self.positions) = (b.ids(rows), b.ids(rows));
        }
    }

    /// Records one forward; its statistics are in `self.stats` once the device has run.
    pub fn forward(&mut self, b: &B, r: &ForwardRequest) -> Result<Pending, SessionError> {
        let w = self.weights.clone();
        let (c, context) = (&w.trunk.config, self.context);
        match r.cache {
            CacheOp::Truncate { keep } => self.cached.truncate(keep as usize),
            CacheOp::Keep { .. } => self.cached.clear(),
            _ => {}
        }
        let bypass = r.cache == CacheOp::Bypass;
        let cached = if bypass { 0 } else { self.cached.len() };
        let q = r.query_positions.len();
        let no_shadow = Shadow::default();
        let shadow = r.want.shadow.as_ref().unwrap_or(&no_shadow);
        let n = q + shadow.positions.len();
        let limit = |what, value: u32, limit: usize| {
            if (value as usize) < limit {
                Ok(())
            } else {
                Err(SessionError::Range { what, value: value as usize, limit })
            }
        };
        for (p, id) in r.query_positions.iter().zip(&r.ids) {
            limit("position", *p, context)?;
            limit("token id", *id, c.vocab)?;
        }
        for p in &shadow.positions {
            limit("position", *p, context)?;
        }
        limit("token id", shadow.mask, c.vocab)?;
        limit("number of shadow rows", shadow.positions.len() as u32, context + 1)?;
        limit("top_k", r.want.top_k as u32, hilda_kernels::head::MAX_TOP_K + 1)?;
        // each row of statistics has one place
        limit("number of rows", r.want.rows.len() as u32, context + 1)?;
        limit("number of whole rows", r.want.whole.len() as u32, context + 1)?;
        limit("number of logits", (r.want.whole.len() * c.vocab) as u32, MAX_LOGITS + 1)?;
        let ascending = r.query_positions.windows(2).all(|w| w[0] < w[1]);
        let first = r.query_positions.first().map_or(cached, |p| *p as usize);
        if !shadow.positions.is_empty() {
            let refused = |why| Err(SessionError::Shadow { rows: shadow.positions.len(), why });
            if !matches!(r.rule.base, Base::Shadow { .. }) {
                return refused("its rule knows no shadow");
            }
            if r.cache == CacheOp::Replace {
                return refused("the cache holds the keys and values of the tokens that it leaves out");
            }
            if shadow.positions.windows(2).any(|w| w[0] >= w[1]) {
                return refused("its positions must ascend");
            }
        }
        // inside the cache each place is its position
        let inside = r.cache == CacheOp::Replace
            && r.query_positions.last().is_none_or(|p| (*p as usize) < cached)
            && (0..cached).all(|i| self.cached[i].position as usize == i);
        if !ascending || r.ids.len() != q || (first < cached || r.cache == CacheOp::Replace) && !inside {
            return Err(SessionError::Positions { cached });
        }
        if let CacheOp::Keep { keep } = r.cache
            && (keep as usize > q || (0..keep).any(|i| r.query_positions[i as usize] != i))
        {
            return Err(SessionError::Store { cached: keep as usize, got: q });
        }
        if !inside && cached + q > context {
            let value = cached + q;
            return Err(SessionError::Range { what: "sequence length", value, limit: context + 1 });
        }
        if r.cache == CacheOp::Store
            && r.query_positions.iter().enumerate().any(|(i, p)| *p as usize != cached + i)
        {
            let got = r.query_positions.first().map_or(cached, |p| *p as usize);
            return Err(SessionError::Store { cached, got });
        }
        let place = |p: u32, stream: u32| Place {
            position: p,
            document: 0,
            block: p.checked_div(r.block_size).unwrap_or(0),
            stream,
        };
        let queries: Vec<Place> = r.query_positions.iter().map(|p| place(*p, 0)).collect();
        let behind = shadow.positions.iter().map(|p| place(*p, 1));

        // which hidden row each wanted position is read from; row n of the plan holds the carry
        let mut rows = Vec::with_capacity(r.want.rows.len());
        let mut keys = Vec::with_capacity(4 * r.want.rows.len());
        let source = |p: u32| {
            let source = if w.shift { p.checked_sub(1) } else { Some(p) };
            let row = match source {
                Some(s) if shadow.rows.binary_search(&p).is_ok() => {
                    shadow.positions.binary_search(&s).ok().map(|i| q + i)
                }
                Some(s) => match r.query_positions.binary_search(&s) {
                    Err(_) if w.shift && s as usize + 1 == cached => Some(n),
                    found => found.ok(),
                },
                None => None,
            };
            row.map(|i| i as u32).ok_or(SessionError::NoRow { position: p as usize })
        };
        let whole = r.want.whole.iter().map(|p| source(*p)).collect::<Result<Vec<u32>, _>>()?;
        for p in &r.want.rows {
            rows.push(source(*p)?);
            let current = r.query_positions.binary_search(p).map_or(u32::MAX, |i| r.ids[i]);
            keys.extend([*p, r.step, r.sequence, current]);
        }

        if n > 0 {
            let asked: Vec<Place> = queries.iter().copied().chain(behind).collect();
            let known = if bypass { &[][..] } else { &self.cached[..] };
            let fresh = if inside { &[][..] } else { &asked[..] };
            let all: Vec<Place> = known.iter().chain(fresh).copied().collect();
            self.grow(b, all.len());
            let masks = w.trunk.masks(b, r.rule, 1, &asked, &all);
            let mut ids = r.ids.clone();
            ids.resize(n, shadow.mask);
            b.write_ids(&mut self.ids, &ids);
            let positions: Vec<u32> = asked.iter().map(|p| p.position).collect();
            b.write_ids(&mut self.positions, &positions);
            let shape = Shape { batch: 1, len: n };
            let at = if inside { runs(&r.query_positions) } else { vec![Run { row: 0, at: cached, len: n }] };
            let slots = Slots { runs: &at, keys: all.len() };
            let cache = (!bypass).then_some((&mut self.cache, slots));
            w.trunk.forward(b, &w.params, &mut self.plan, &self.ids, &self.positions, &masks, shape, cache);
        }
        let d = c.head_width();
        b.copy(&self.carry, 0, &mut self.plan.hidden, n * d, d);
        let pending = Pending::of(r, c.vocab);
        if pending.len() > self.stats_len {
            (self.stats, self.stats_len) = (b.buf(pending.len()), pending.len());
        }
        if !rows.is_empty() {
            b.write_ids(&mut self.rows, &rows);
            b.write_ids(&mut self.keys, &keys);
            b.gather(&self.plan.hidden, &self.rows, &mut self.gathered, rows.len(), d);
            let job = HeadJob {
                rows: rows.len(),
                width: d,
                vocab: c.vocab,
                top_k: r.want.top_k,
                temperature: r.want.temperature,
                seed: r.want.seed,
                forbid: c.forbid.clone(),
            };
            b.head(&self.gathered, &w.params, w.trunk.layout.head, &self.keys, &mut self.stats, &job);
        }
        if !whole.is_empty() {
            let n = whole.len();
            if self.logits.as_ref().is_none_or(|l| l.0 < pending.logits) {
                self.logits = Some((pending.logits, b.buf(pending.logits)));
            }
            let (_, logits) = self.logits.as_mut().expect("made above");
            b.write_ids(&mut self.rows, &whole);
            b.gather(&self.plan.hidden, &self.rows, &mut self.gathered, n, d);
            b.linear(&self.gathered, &w.params, w.trunk.layout.head, logits, n, c.vocab, d, false);
            b.copy(logits, 0, &mut self.stats, pending.len() - pending.logits, pending.logits);
        }
        if r.cache == CacheOp::Store && q > 0 {
            self.cached.extend(&queries);
            b.copy(&self.plan.hidden, (q - 1) * d, &mut self.carry, 0, d);
        }
        if let CacheOp::Keep { keep } = r.cache
            && keep > 0
        {
            self.cached.extend(&queries[..keep as usize]);
            b.copy(&self.plan.hidden, (keep as usize - 1) * d, &mut self.carry, 0, d);
        }
        Ok(pending)
    }
}

/// Ascending positions as runs without a gap, each in the place of its position.
fn runs(positions: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (row, p) in positions.iter().enumerate() {
        let at = *p as usize;
        match runs.last_mut() {
            Some(run) if run.at + run.len == at => run.len += 1,
            _ => runs.push(Run { row, at, len: 1 }),
        }
    }
    runs
}

impl Session<hilda_kernels::Cpu> {
    /// Forward and statistics at once.
    pub fn answer(&mut self, r: &ForwardRequest) -> Result<RowStats, SessionError> {
        let pending = hilda_kernels::par::inside(|| self.forward(&hilda_kernels::Cpu, r))?;
        Ok(pending.decode(&self.stats[..pending.len()]))
    }
}

impl<B: Train> Session<B> {
    /// Forward and statistics at once, on a device whose buffers can be read.
    pub fn answer_on(&mut self, b: &B, r: &ForwardRequest) -> Result<RowStats, SessionError> {
        let pending = self.forward(b, r)?;
        Ok(pending.decode(&b.read_range(&self.stats, 0, pending.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelSpec;
    use crate::decode::{Attention, DecodeConfig, Decoder, Want, drive};
    use crate::model::{Layout, Serving};
    use hilda_kernels::Cpu;
    use hilda_kernels::head::{Filter, of_logits};

    fn model(shift: bool) -> LoadedModel {
        deep(shift, 2)
    }

    fn deep(shift: bool, layers: usize) -> LoadedModel {
        let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
        let mut config = spec.resolve(70, 69, 68, vec![69]).unwrap();
        config.layers = layers;
        let params = Layout::new(&config).init(&config, 3).iter().map(|x| 6.0 * x).collect();
        let attention = Attention::BlockCausal;
        let serving = Serving { attention, block_size: 8, shift, infill: false, edits: false };
        LoadedModel { config, serving, params }
    }

    fn request(whole: Vec<u32>, temperature: f32) -> ForwardRequest {
        ForwardRequest {
            sequence: 1,
            step: 2,
            query_positions: (0..16).collect(),
            ids: (0..16).map(|i| if i > 8 { 69 } else { 3 * i }).collect(),
            rule: Attention::Bidirectional.rule(),
            block_size: 0,
            cache: CacheOp::None,
            want: Want { rows: (1..16).collect(), top_k: 4, temperature, seed: 7, whole, shadow: None },
        }
    }

    /// Statistics computed from logits that came back are those of the head, on whatever device `answer` uses.
    fn agree(shift: bool, mut answer: impl FnMut(&ForwardRequest) -> RowStats, tolerance: f32) {
        for temperature in [0.0, 0.8] {
            let plain = answer(&request(vec![], temperature));
            let stats = answer(&request(vec![9, 11, 15], temperature));
            assert_eq!((stats.rows.len(), stats.logits.len(), plain.logits.len()), (15, 3 * 70, 0));
            for (i, p) in [9u32, 11, 15].into_iter().enumerate() {
                let head = &stats.rows[p as usize - 1];
                assert_eq!(head.candidate, plain.rows[p as usize - 1].candidate, "shift {shift}");
                let mut z = stats.logits[70 * i..][..70].to_vec();
                z[69] = f32::NEG_INFINITY;
                let own = of_logits(&z, [p, 2, 1, 69], temperature, 7, 4, Filter::default());
                assert_eq!((own.argmax, own.candidate), (head.argmax, head.candidate));
                for (a, b) in [(own.lse, head.lse), (own.entropy, head.entropy), (own.lse_t, head.lse_t)] {
                    assert!((a - b).abs() <= tolerance, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn logits_of_whole_rows_are_those_of_the_head() {
        for shift in [false, true] {
            let weights = Arc::new(Weights::of(model(shift)));
            let mut session = Session::new(&Cpu, weights, 24);
            agree(shift, |r| session.answer(r).unwrap(), 1e-5);
        }
    }

    #[cfg(feature = "web")]
    #[test]
    fn logits_of_whole_rows_are_those_of_the_head_in_wgsl() {
        use hilda_kernels::backend::web::Web;
        let web = match pollster::block_on(Web::new()) {
            Ok(web) => web,
            Err(e) => {
                println!("SKIPPED logits_of_whole_rows_are_those_of_the_head_in_wgsl: {e}");
                return;
            }
        };
        #[allow(clippy::arc_with_non_send_sync)] // sessions of every back end share weights by Arc
        let weights = Arc::new(Weights::new(&web, &model(false)));
        let mut session = Session::new(&web, weights, 24);
        let answer = |r: &ForwardRequest| {
            let pending = session.forward(&web, r).unwrap();
            pending.decode(&pollster::block_on(web.read(&session.stats, 0, pending.len())).unwrap())
        };
        agree(false, answer, 1e-3);
    }

    /// Guidance on a real network: w = -1 does not depend on the prompt, and the pair costs no cache.
    #[test]
    fn guidance_of_a_network() {
        for shift in [false, true] {
            let weights = Arc::new(Weights::of(model(shift)));
            let write = |guidance: f32, prompt: [u32; 3]| {
                let mut c = DecodeConfig::new(prompt.to_vec(), 20, 70, 69);
                (c.attention, c.block_size, c.shift) = (Attention::BlockCausal, 8, shift);
                c.policy = serde_json::from_value(
                    serde_json::json!({"kind": "threshold", "tau": 0.2, "guidance": guidance}),
                )
                .unwrap();
                let mut session = Session::new(&Cpu, weights.clone(), 24);
                let mut decoder = Decoder::new(c).unwrap();
                drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
                assert_eq!(session.cached() > 0, guidance == 0.0);
                decoder.state().ids()[3..].to_vec()
            };
            assert_eq!(write(-1.0, [1, 2, 3]), write(-1.0, [9, 8, 7]));
            assert_ne!(write(0.0, [1, 2, 3]), write(0.0, [9, 8, 7]));
        }
    }

    /// A block computed again inside what is cached, its tokens unchanged, gives the rows of the whole forward; and a
    /// forward that goes around the cache leaves it as it was.
    #[test]
    fn replacing_nothing_changes_nothing() {
        for shift in [false, true] {
            let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 24);
            let mut r = request(vec![], 0.0);
            r.cache = CacheOp::Keep { keep: 16 };
            let whole = session.answer(&r).unwrap();
            assert_eq!(session.cached(), 16);
            let mut part = r.clone();
            (part.cache, part.query_positions) = (CacheOp::Replace, (7..12).collect());
            part.ids = r.ids[7..12].to_vec();
            part.want.rows = (8..12).collect();
            let mut around = r.clone();
            around.cache = CacheOp::Bypass;
            for _ in 0..2 {
                let again = session.answer(&part).unwrap();
                for (a, b) in again.rows.iter().zip(&whole.rows[7..11]) {
                    assert_eq!(a.argmax, b.argmax);
                    assert!((a.lse - b.lse).abs() < 1e-5 && (a.max - b.max).abs() < 1e-5);
                }
                for (a, b) in session.answer(&around).unwrap().rows.iter().zip(&whole.rows) {
                    assert!((a.lse - b.lse).abs() < 1e-5 && (a.max - b.max).abs() < 1e-5);
                }
            }
            // with gaps as well
            let mut gaps = part.clone();
            (gaps.query_positions, gaps.want.rows) = (vec![2, 3, 7, 8, 9, 14], vec![3, 8, 9]);
            gaps.ids = gaps.query_positions.iter().map(|p| r.ids[*p as usize]).collect();
            let again = session.answer(&gaps).unwrap();
            for (a, p) in again.rows.iter().zip([3, 8, 9]) {
                let b = &whole.rows[p - 1];
                assert!((a.lse - b.lse).abs() < 1e-5 && (a.max - b.max).abs() < 1e-5);
            }
            part.query_positions[4] = 16;
            assert_eq!(session.answer(&part).unwrap_err(), SessionError::Positions { cached: 16 });
        }
    }

    /// Two layers: keys follow from what was visible when they were computed, so old ones differ, and the record says by how
    /// much. Computed anew in every forward they do not.
    #[test]
    fn old_keys_diverge_and_new_ones_do_not() {
        for shift in [false, true] {
            let weights = Arc::new(Weights::of(model(shift)));
            let write = |spec: serde_json::Value| {
                let mut c = DecodeConfig::new(vec![1, 2, 3], 24, 70, 69);
                (c.shift, c.block_size) = (shift, 8);
                c.policy = serde_json::from_value(spec).unwrap();
                let mut session = Session::new(&Cpu, weights.clone(), 24);
                let mut decoder = Decoder::new(c).unwrap();
                drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
                decoder.trajectory()
            };
            let one = |cache: &str, refresh: u32, check: bool| {
                write(serde_json::json!({"kind": "threshold", "tau": 1.0, "cache": cache, "cache_block": 8,
                    "cache_refresh": refresh, "cache_check": check}))
            };
            let exact = one("exact", 0, false);
            for cache in ["prefix", "dual", "delayed"] {
                assert_eq!(one(cache, 1, false).footer.ids, exact.footer.ids);
                let old = one(cache, 0, true).footer;
                let d = old.divergence.unwrap();
                assert!(d.largest_dp > 1e-6 && d.rows > 0, "{cache}: {d:?}");
                assert!(one(cache, 0, false).footer.ledger.positions < exact.footer.ledger.positions);
            }
        }
    }

    /// A text of 16 with the shadow of its second block of 8, whose written tokens are read from it.
    fn shadowed(attention: Attention, shift: bool, ids: &[u32]) -> ForwardRequest {
        let ahead = u32::from(shift);
        let first = if shift && attention == Attention::BlockCausal { 9 } else { 8 };
        let mut r = request(vec![], 0.0);
        (r.ids, r.block_size) = (ids.to_vec(), 8);
        r.rule = attention.shadow(ahead).unwrap().into();
        r.want.rows = (first..16).collect();
        let (positions, mask) = ((first..16).map(|p| p - ahead).collect(), 69);
        r.want.shadow = Some(Shadow { positions, mask, rows: vec![10, 12, 15] });
        r
    }
    const TEXT: [u32; 16] = [5, 1, 9, 30, 2, 2, 41, 7, 69, 69, 12, 69, 33, 69, 69, 20];

    fn differs(a: &RowHead, b: &RowHead) -> f32 {
        [(a.lse, b.lse), (a.max, b.max), (a.entropy, b.entropy)]
            .iter()
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }

    /// One layer: a written token's probabilities are those of a forward in which its position is masked, under the same rule.
    /// In deeper layers the keys of the text have read the token, which shows in the second. Rows of the text are those of a
    /// forward without a shadow at any depth.
    #[test]
    fn shadow_rows_are_leave_one_out() {
        for layers in [1, 2] {
            let mut leak = 0f32;
            for attention in [Attention::Bidirectional, Attention::BlockCausal] {
                for shift in [false, true] {
                    let model = deep(shift, layers);
                    let mut session = Session::new(&Cpu, Arc::new(Weights::of(model)), 16);
                    let r = shadowed(attention, shift, &TEXT);
                    let joint = session.answer(&r).unwrap();
                    let at = |p: u32| r.want.rows.binary_search(&p).unwrap();
                    for pos in [10u32, 12, 15] {
                        let mut ids = TEXT;
                        ids[pos as usize] = 69;
                        let alone = session.answer(&shadowed(attention, shift, &ids)).unwrap();
                        leak = leak.max(differs(&joint.rows[at(pos)], &alone.rows[at(pos)]));
                    }
                    let mut plain = r.clone();
                    (plain.want.shadow, plain.rule) = (None, attention.rule());
                    let plain = session.answer(&plain).unwrap();
                    for pos in [9u32, 11, 13, 14] {
                        assert!(differs(&joint.rows[at(pos)], &plain.rows[at(pos)]) < 1e-5);
                    }
                    // read from the text, a written token's row has read the token
                    assert!(differs(&joint.rows[at(12)], &plain.rows[at(12)]) > 1e-3);
                }
            }
            assert!(if layers == 1 { leak < 1e-5 } else { leak > 1e-4 }, "{layers} layers: {leak}");
        }
    }

    /// The same rows where the blocks before come from the cache, at the end of the context.
    #[test]
    fn a_shadow_behind_cached_blocks() {
        for shift in [false, true] {
            let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 16);
            let whole = shadowed(Attention::BlockCausal, shift, &TEXT);
            let want = session.answer(&whole).unwrap();
            let mut store = request(vec![], 0.0);
            (store.query_positions, store.ids) = ((0..8).collect(), TEXT[..8].to_vec());
            (store.rule, store.block_size, store.cache) = (Attention::BlockCausal.rule(), 8, CacheOp::Store);
            store.want.rows.clear();
            session.answer(&store).unwrap();
            let mut block = whole.clone();
            (block.query_positions, block.ids) = ((8..16).collect(), TEXT[8..].to_vec());
            for _ in 0..2 {
                let got = session.answer(&block).unwrap();
                assert_eq!(session.cached(), 8);
                for (a, b) in got.rows.iter().zip(&want.rows) {
                    assert!(differs(a, b) < 1e-5);
                }
            }
        }
    }

    #[test]
    fn shadows_that_cannot_stand_are_refused() {
        let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(false))), 16);
        let whole = shadowed(Attention::Bidirectional, false, &TEXT);
        let mut error = |change: &dyn Fn(&mut ForwardRequest, &mut Shadow)| {
            let (mut r, mut shadow) = (whole.clone(), whole.want.shadow.clone().unwrap());
            change(&mut r, &mut shadow);
            r.want.shadow = Some(shadow);
            session.answer(&r).unwrap_err()
        };
        assert!(matches!(error(&|_, s| s.positions[7] = 16), SessionError::Range { what: "position", .. }));
        assert!(matches!(error(&|_, s| s.mask = 70), SessionError::Range { what: "token id", .. }));
        assert!(matches!(error(&|_, s| s.positions[1] = 8), SessionError::Shadow { .. }));
        assert!(matches!(error(&|r, _| r.rule = Attention::Causal.rule()), SessionError::Shadow { .. }));
        assert!(matches!(error(&|r, _| r.cache = CacheOp::Replace), SessionError::Shadow { .. }));
    }

    /// WINO writes a text that fills the context, on every kind of attention, and says what its shadows cost.
    #[test]
    fn wino_on_a_network() {
        for (attention, shift, guidance) in [
            (Attention::Bidirectional, false, 0.0),
            (Attention::Bidirectional, true, 0.0),
            (Attention::BlockCausal, false, 0.0),
            (Attention::BlockCausal, true, 0.0),
            (Attention::BlockCausal, true, 0.5),
        ] {
            let mut c = DecodeConfig::new(vec![1, 2, 3], 32, 70, 69);
            (c.attention, c.block_size, c.shift) = (attention, 8, shift);
            c.policy = serde_json::from_value(serde_json::json!({
                "kind": "wino", "tau_wide": 0.05, "tau_narrow": 0.5, "guidance": guidance
            }))
            .unwrap();
            let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 32);
            let mut decoder = Decoder::new(c).unwrap();
            drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
            let l = decoder.ledger();
            assert!(l.remasks > 0 && l.shadow > 0 && l.denoise <= 29 + 4 * 30, "{l:?}");
            assert_eq!(decoder.state().masked_left(), 0);
            decoder.trajectory().replay().unwrap();
        }
    }

    #[cfg(feature = "web")]
    #[test]
    fn shadow_rows_in_wgsl_are_those_of_the_cpu() {
        use hilda_kernels::backend::web::Web;
        let web = match pollster::block_on(Web::new()) {
            Ok(web) => web,
            Err(e) => {
                println!("SKIPPED shadow_rows_in_wgsl_are_those_of_the_cpu: {e}");
                return;
            }
        };
        for shift in [false, true] {
            #[allow(clippy::arc_with_non_send_sync)] // sessions of every back end share weights by Arc
            let weights = Arc::new(Weights::new(&web, &model(shift)));
            // the shadow does not fit into the first buffers
            let mut session = Session::new(&web, weights, 16);
            let mut cpu = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 16);
            for attention in [Attention::Bidirectional, Attention::BlockCausal] {
                let r = shadowed(attention, shift, &TEXT);
                let want = cpu.answer(&r).unwrap();
                let pending = session.forward(&web, &r).unwrap();
                let values = pollster::block_on(web.read(&session.stats, 0, pending.len())).unwrap();
                for (a, b) in pending.decode(&values).rows.iter().zip(&want.rows) {
                    assert!(differs(a, b) < 1e-3 && a.argmax == b.argmax, "{attention:?} {shift}");
                    // of a mask it is minus infinity
                    assert!(a.current == b.current || (a.current - b.current).abs() < 1e-3);
                }
            }
        }
    }

    /// dKV-Cache's claim at equal refresh: without the delay, rows are further from exact.
    #[test]
    fn the_delay_brings_a_network_nearer_to_exact() {
        for shift in [false, true] {
            let weights = Arc::new(Weights::of(model(shift)));
            let off = |delay: u32| {
                let mut sum = (0.0, 0);
                for seed in 0..6 {
                    let mut c = DecodeConfig::new(vec![1, 2, seed], 24, 70, 69);
                    c.shift = shift;
                    c.policy = serde_json::from_value(serde_json::json!({
                        "kind": "threshold", "tau": 1.0, "cache": "delayed", "cache_block": 32, "cache_refresh": 6,
                        "cache_delay": delay, "cache_check": true
                    }))
                    .unwrap();
                    let mut session = Session::new(&Cpu, weights.clone(), 24);
                    let mut decoder = Decoder::new(c).unwrap();
                    drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
                    let d = decoder.trajectory().footer.divergence.unwrap();
                    sum = (sum.0 + d.sum_dp, sum.1 + d.rows);
                }
                sum.0 / sum.1 as f32
            };
            let (with, without) = (off(1), off(0));
            assert!(with < without && with > 0.0, "shift {shift}: {with} and {without}");
        }
    }

    #[test]
    fn too_many_logits_are_refused() {
        let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(false))), 24);
        let error = session.answer(&request((0..26).collect(), 0.0)).unwrap_err();
        assert!(matches!(error, SessionError::Range { what: "number of whole rows", .. }), "{error}");
        let error = session.answer(&request(vec![20], 0.0)).unwrap_err();
        assert_eq!(error, SessionError::NoRow { position: 20 });
    }
}
