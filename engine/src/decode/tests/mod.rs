//! Fakes that answer forwards: a table of exact conditionals, and nets whose logits are a hash of what a position
//! may see, with a cache as strict as a real session's.

mod approximate;
mod cache;
mod candidates;
mod credit;
mod editing;
mod identities;
mod law;
mod properties;
mod records;
mod refine;
mod revisit;
mod search;
mod user;
mod window;
mod wino;

use super::*;
use hilda_kernels::{
    Base, Place,
    head::RowHead,
    rng::{Rng, Stream},
};

/// Statistics of one row from its logits, in f64, with the keyed race of the real head.
pub fn head(z: &[f32], current: u32, request: &ForwardRequest, pos: u32) -> RowHead {
    let want = &request.want;
    let lse_of = |t: f64| {
        let max = z.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x as f64 / t));
        max + z.iter().map(|x| (*x as f64 / t - max).exp()).sum::<f64>().ln()
    };
    let lse = lse_of(1.0);
    let mut order: Vec<u32> = (0..z.len() as u32).collect();
    order.sort_by(|a, b| z[*b as usize].total_cmp(&z[*a as usize]).then(a.cmp(b)));
    let (argmax, second) = (order[0], z[order[1] as usize]);
    let max = z[argmax as usize];
    let entropy =
        z.iter().map(|x| *x as f64 - lse).filter(|l| l.is_finite()).map(|l| -l * l.exp()).sum::<f64>();
    let (candidate, margin, lse_t) = if want.temperature == 0.0 {
        (argmax, max - second, lse)
    } else {
        let rng = Rng::new(want.seed, Stream::Token, request.sequence);
        let mut keys: Vec<(f32, u32)> = (0..z.len() as u32)
            .map(|v| (rng.exponential(request.step, pos, v).ln() - z[v as usize] / want.temperature, v))
            .collect();
        keys.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        (keys[0].1, keys[1].0 - keys[0].0, lse_of(want.temperature as f64))
    };
    RowHead {
        lse: lse as f32,
        max,
        argmax,
        second,
        entropy: entropy as f32,
        current: z[current as usize],
        candidate,
        candidate_logit: z[candidate as usize],
        lse_t: lse_t as f32,
        margin,
        top: order
            .iter()
            .take(want.top_k)
            .map(|v| (*v, (z[*v as usize] as f64 - lse).exp() as f32))
            .collect(),
    }
}

/// Rows from a function (position -> logits over the vocabulary, mask already excluded).
pub fn answer(request: &ForwardRequest, logits: impl Fn(u32) -> Vec<f32>) -> RowStats {
    let current = |pos: u32| {
        let at = request.query_positions.iter().position(|q| *q == pos);
        at.map_or(0, |i| request.ids[i])
    };
    let rows = request.want.rows.iter().map(|p| head(&logits(*p), current(*p), request, *p)).collect();
    RowStats { rows, logits: request.want.whole.iter().flat_map(|p| logits(*p)).collect(), held: None }
}

/// ln p, minus infinity at zero.
pub fn logits(p: &[f32]) -> Vec<f32> {
    p.iter().map(|x| x.ln()).collect()
}

fn mix(h: u64, x: u64) -> u64 {
    let mut z = (h ^ x).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A net whose hidden row at p is a hash of p and of every token p may see; it panics if the decoder asks for what
/// a session with this cache cannot give.
pub struct HashNet {
    pub vocab: u32,
    pub mask: u32,
    pub shift: bool,
    /// scale of the logits: larger = surer
    pub scale: f32,
    cache: Vec<u32>,
    /// hidden row of the last stored position
    last: Option<(u32, u64)>,
    /// every request seen
    pub log: Vec<ForwardRequest>,
}

impl HashNet {
    pub fn new(config: &DecodeConfig, scale: f32) -> HashNet {
        HashNet {
            vocab: config.vocab,
            mask: config.mask_id,
            shift: config.shift,
            scale,
            cache: Vec::new(),
            last: None,
            log: Vec::new(),
        }
    }
    /// Of the row at `pos` of the text (stream 0) or of the shadow beside it (1).
    pub fn hidden(&self, request: &ForwardRequest, pos: u32, stream: u32) -> u64 {
        let place = |position: u32, stream: u32| Place {
            position,
            document: 0,
            block: position.checked_div(request.block_size).unwrap_or(0),
            stream,
        };
        let cached = self.cache.iter().enumerate().map(|(p, id)| (p as u32, *id, 0));
        let new = if request.cache == CacheOp::Replace { 0 } else { request.ids.len() };
        let queries = request.query_positions.iter().zip(&request.ids).take(new).map(|(p, id)| (*p, *id, 0));
        let shadow =
            request.want.shadow.iter().flat_map(|s| s.positions.iter().map(move |p| (*p, s.mask, 1u32)));
        cached
            .chain(queries)
            .chain(shadow)
            .filter(|(p, _, s)| request.rule.allowed(place(pos, stream), place(*p, *s)))
            .fold(pos as u64, |h, (p, id, s)| mix(h, (s as u64) << 63 | (p as u64) << 32 | id as u64))
    }
    /// The hidden row that `pos` is read from.
    pub fn row(&self, request: &ForwardRequest, pos: u32) -> u64 {
        let row = if self.shift { pos.checked_sub(1).expect("position 0 has no row") } else { pos };
        if let Some(shadow) = request.want.shadow.as_ref().filter(|s| s.rows.contains(&pos)) {
            assert!(shadow.positions.contains(&row), "{pos} is not in the shadow");
            self.hidden(request, row, 1)
        } else if request.query_positions.contains(&row) {
            self.hidden(request, row, 0)
        } else {
            let (at, hidden) = self.last.expect("the row before the block was dropped");
            assert_eq!(at, row);
            hidden
        }
    }
    pub fn logits_of(&self, hidden: u64) -> Vec<f32> {
        let rng = Rng::new(hidden, Stream::Test, 0);
        (0..self.vocab)
            .map(|v| match v {
                v if v == self.mask => f32::NEG_INFINITY,
                v => self.scale * rng.normal(0, 0, v) as f32,
            })
            .collect()
    }
    pub fn forward(&mut self, request: &ForwardRequest) -> RowStats {
        if let CacheOp::Truncate { keep } = request.cache {
            assert!((keep as usize) < self.cache.len(), "truncation must drop something");
            self.cache.truncate(keep as usize);
            self.last = None;
        }
        let (q, bypass) = (&request.query_positions, request.cache == CacheOp::Bypass);
        let kept = if bypass { std::mem::take(&mut self.cache) } else { Vec::new() };
        match request.cache {
            CacheOp::Keep { .. } => self.cache.clear(),
            CacheOp::Replace => {
                for (p, id) in q.iter().zip(&request.ids) {
                    self.cache[*p as usize] = *id;
                }
            }
            _ => {}
        }
        let inside = request.cache == CacheOp::Replace;
        assert!(!q.is_empty() && q.len() == request.ids.len());
        assert!(q.windows(2).all(|w| w[0] + 1 == w[1] || inside && w[0] < w[1]), "{q:?}");
        assert!(inside || q[0] as usize == self.cache.len(), "queries continue the cached prefix");
        let stats = answer(request, |pos| self.logits_of(self.row(request, pos)));
        if request.cache == CacheOp::Store {
            let end = *q.last().unwrap();
            self.last = Some((end, self.hidden(request, end, 0)));
            self.cache.extend(&request.ids);
        }
        if let CacheOp::Keep { keep } = request.cache {
            self.last = keep.checked_sub(1).map(|p| (p, self.hidden(request, p, 0)));
            self.cache.extend(&request.ids[..keep as usize]);
        }
        if bypass {
            self.cache = kept;
        }
        self.log.push(request.clone());
        stats
    }
}

/// Decodes with a fresh [`HashNet`].
pub fn run(config: &DecodeConfig, scale: f32) -> (Decoder, HashNet) {
    let mut decoder = Decoder::new(config.clone()).unwrap();
    let mut net = HashNet::new(config, scale);
    drive(&mut decoder, |r| net.forward(r)).unwrap();
    (decoder, net)
}

/// The actions of each forward that took any.
pub fn actions(decoder: &Decoder) -> Vec<Vec<Action>> {
    decoder.steps().iter().map(|s| s.actions.clone()).filter(|a| !a.is_empty()).collect()
}

/// A policy by its JSON.
pub fn policy(json: serde_json::Value) -> PolicySpec {
    serde_json::from_value(json).unwrap()
}
