//! Finished blocks in the host's memory, as computed or rounded, with all of their positions or some.
//!
//! Per layer a list of chunks, each with rows of keys and values for every head of keys: the first [`SINKS`] positions, then
//! one chunk a block. A forward puts one layer at a time together on the device, the kept rows and its own behind them,
//! and attends as it would over a cache there: the same call on the same numbers, so that nothing changes where nothing was
//! rounded or dropped. Where heads have kept different numbers of keys (or, under a window, different ones), each head of
//! keys is a call of its own, with its own mask.
//!
//! When a block is finished the one before it grows old: the press drops positions before the block, then what is left
//! of old chunks is rounded, once. Truncation drops rows from a position on; what was dropped or rounded before it stays so.

use hilda_kernels::rng::{Rng, Stream};
use hilda_kernels::{Backend, MaskRule, Place};

use super::super::plan::LayerActs;
use super::codes::{Codes, Groups};
use super::press::{self, Queries};
use crate::decode::policy::{Compression, Press, SINKS};
use crate::decode::{CacheOp, ForwardRequest, Held};
use crate::model::{SessionError, Shape, Trunk};

/// Random key of the press by lot: no forward has this index.
const STEP: u32 = u32::MAX - 2;

/// Keys and values of one head of keys in one layer, [positions, width] each.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    pub positions: Vec<u32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// the surrogate's, where there is one
    pub scores: Vec<f32>,
    /// of a head
    pub width: usize,
}

enum Block {
    Plain(Vec<f32>),
    Coded(Codes),
}

impl Block {
    fn bytes(&self) -> usize {
        match self {
            Block::Plain(x) => 4 * x.len(),
            Block::Coded(codes) => codes.bytes(),
        }
    }
    fn read(&self, width: usize, out: &mut Vec<f32>) {
        match self {
            Block::Plain(x) => out.extend(x),
            Block::Coded(codes) => {
                let (at, rows) = (out.len(), codes.rows());
                out.resize(at + rows * width, 0.0);
                (0..rows).for_each(|r| codes.read(r, &mut out[at + r * width..]));
            }
        }
    }
    fn retain(&mut self, width: usize, kept: &[usize]) {
        match self {
            Block::Plain(x) => *x = kept.iter().flat_map(|r| &x[r * width..][..width]).copied().collect(),
            Block::Coded(codes) => codes.retain(kept),
        }
    }
    fn round(&mut self, width: usize, groups: Groups, bits: u32) {
        if let Block::Plain(x) = self
            && !x.is_empty()
        {
            *self = Block::Coded(Codes::new(x, width, groups, bits));
        }
    }
}

/// Rows of one head of keys in one chunk.
struct Rows {
    k: Block,
    v: Block,
    /// where they stand; none = one after the other from the chunk's start
    positions: Option<Vec<u32>>,
    scores: Vec<f32>,
    len: usize,
}

impl Rows {
    fn position(&self, start: u32, i: usize) -> u32 {
        self.positions.as_ref().map_or(start + i as u32, |p| p[i])
    }
    fn retain(&mut self, start: u32, width: usize, kept: &[usize]) {
        if kept.len() < self.len {
            self.positions = Some(kept.iter().map(|i| self.position(start, *i)).collect());
            self.k.retain(width, kept);
            self.v.retain(width, kept);
            if !self.scores.is_empty() {
                self.scores = kept.iter().map(|i| self.scores[*i]).collect();
            }
            self.len = kept.len();
        }
    }
    fn bytes(&self) -> usize {
        let words = self.positions.as_ref().map_or(0, Vec::len) + self.scores.len();
        self.k.bytes() + self.v.bytes() + 4 * words
    }
}

struct Chunk {
    start: u32,
    /// number of the block, none for the sinks
    block: Option<u32>,
    heads: Vec<Rows>,
}

#[derive(Default)]
struct Layer {
    chunks: Vec<Chunk>,
    /// of the last finished block, for presses that ask: [positions, heads head_dim]
    queries: Vec<f32>,
    at: Vec<u32>,
}

/// What the forward at work does.
struct Ahead {
    rule: MaskRule,
    /// of its rows
    places: Vec<Place>,
    /// rows that are stored
    store: usize,
    seed: u64,
    sequence: u32,
    /// tokens a block of the rule
    block: u32,
}

/// See the module comment.
pub(super) struct Host<B: Backend> {
    pub how: Compression,
    layers: Vec<Layer>,
    /// rows of one layer, and what one head of keys gives
    scratch: B::Buf,
    out: B::Buf,
    lse: B::Buf,
    mask: Option<(MaskRule, Vec<Place>, B::Mask)>,
    ahead: Option<Ahead>,
    /// of a head
    width: usize,
    /// positions stored
    end: u32,
    /// first position of the last finished block, before which blocks are old
    old: u32,
    pub held: Held,
}

impl<B: Backend> Host<B> {
    pub fn new(b: &B, trunk: &Trunk, how: Compression, capacity: usize) -> Host<B> {
        let c = &trunk.config;
        Host {
            how,
            layers: (0..c.layers).map(|_| Layer::default()).collect(),
            scratch: b.buf(2 * capacity * c.kv_heads * c.head_dim),
            out: b.buf(capacity * c.heads / c.kv_heads * c.head_dim),
            lse: b.buf(capacity * c.heads),
            mask: None,
            ahead: None,
            width: c.head_dim,
            end: 0,
            old: 0,
            held: Held::default(),
        }
    }

    /// The same rows with room for forwards over `capacity` of them.
    pub fn with_capacity(self, b: &B, trunk: &Trunk, capacity: usize) -> Host<B> {
        let room = Host::new(b, trunk, self.how.clone(), capacity);
        Host { scratch: room.scratch, out: room.out, lse: room.lse, ..self }
    }

    /// Refuses what cannot be kept so.
    pub fn check(r: &ForwardRequest) -> Result<(), SessionError> {
        let (how, refused) = (&r.compression, |why| Err(SessionError::Compression { why }));
        if !B::PEEKS {
            return Err(SessionError::Unreadable { what: "cache_storage or cache_press" });
        }
        match r.cache {
            CacheOp::Keep { .. } | CacheOp::Replace => refused("what is kept may still change"),
            _ if how.block == 0 => refused("blocks of 0 tokens"),
            _ if !(0.0..=1.0).contains(&how.ratio) => refused("the ratio is no share from 0 to 1"),
            _ if how.press == Press::Kvzap && how.surrogate.is_none() => {
                refused("kvzap without its regression: the model's folder has no kvzap.json")
            }
            _ => Ok(()),
        }
    }

    /// A forward comes: the first `kept` positions hold, its rows stand in `places`.
    pub fn begin(&mut self, r: &ForwardRequest, kept: usize, places: &[Place]) {
        self.truncate(kept as u32);
        (self.held.quantised, self.held.evicted) = (None, Vec::new());
        self.ahead = Some(Ahead {
            rule: r.rule,
            places: places.to_vec(),
            store: if r.cache == CacheOp::Store { r.query_positions.len() } else { 0 },
            seed: r.want.seed,
            sequence: r.sequence,
            block: r.block_size,
        });
    }

    fn truncate(&mut self, end: u32) {
        if end >= self.end {
            return;
        }
        let width = self.width;
        self.end = end;
        self.old = self.old.min(end / self.how.block * self.how.block);
        for layer in &mut self.layers {
            layer.chunks.retain(|chunk| chunk.start < end);
            if let Some(chunk) = layer.chunks.last_mut() {
                for rows in &mut chunk.heads {
                    let whole = rows.positions.is_none();
                    let stay = |i: &usize| rows.position(chunk.start, *i) < end;
                    let kept: Vec<usize> = (0..rows.len).filter(stay).collect();
                    rows.retain(chunk.start, width, &kept);
                    if whole {
                        rows.positions = None;
                    }
                }
            }
            let row = layer.queries.len().checked_div(layer.at.len()).unwrap_or(0);
            layer.at.truncate(layer.at.partition_point(|p| *p < end));
            layer.queries.truncate(layer.at.len() * row);
        }
    }

    /// Bytes of everything kept.
    pub fn bytes(&self) -> u64 {
        let of = |l: &Layer| {
            let rows: usize = l.chunks.iter().flat_map(|c| &c.heads).map(Rows::bytes).sum();
            rows + 4 * (l.queries.len() + l.at.len())
        };
        self.layers.iter().map(of).sum::<usize>() as u64
    }

    /// What a layer keeps of one head of keys.
    pub fn keys(&self, layer: usize, head: usize) -> Keys {
        let mut all = Keys { width: self.width, ..Keys::default() };
        for chunk in &self.layers[layer].chunks {
            let rows = &chunk.heads[head];
            all.positions.extend((0..rows.len).map(|i| rows.position(chunk.start, i)));
            rows.k.read(self.width, &mut all.k);
            rows.v.read(self.width, &mut all.v);
            all.scores.extend(&rows.scores);
        }
        all
    }

    /// Attention of the text's rows, in `acts` from `row` on, over what layer `layer` keeps and over themselves; then their keys
    /// and values are kept where the forward stores them. `h` is the input of the attention, behind its norm.
    pub fn attend(
        &mut self,
        b: &B,
        trunk: &Trunk,
        layer: usize,
        row: usize,
        h: &B::Buf,
        acts: &mut LayerActs<B>,
    ) {
        let c = &trunk.config;
        let ahead = self.ahead.as_ref().expect("begin comes before a forward");
        let rule = trunk.rule_of(ahead.rule, layer);
        let heads: Vec<Keys> = (0..c.kv_heads).map(|head| self.keys(layer, head)).collect();
        let same = |k: &Keys| match rule.window {
            Some(_) => k.positions == heads[0].positions,
            None => k.positions.len() == heads[0].positions.len(),
        };
        if heads.iter().all(same) {
            self.attend_together(b, trunk, rule, row, &heads, acts);
        } else {
            for head in 0..c.kv_heads {
                self.attend_alone(b, trunk, rule, row, head, &heads[head], acts);
            }
        }
        self.store(b, trunk, layer, row, h, acts);
    }

    /// The mask for keys at `positions` and the forward's own rows behind them.
    fn prepare(&mut self, b: &B, rule: MaskRule, positions: &[u32]) {
        let ahead = self.ahead.as_ref().expect("begin comes before a forward");
        let block = |p: u32| p.checked_div(ahead.block).unwrap_or(0);
        let kept = positions.iter().map(|p| Place { position: *p, block: block(*p), ..Place::default() });
        let keys: Vec<Place> = kept.chain(ahead.places.iter().copied()).collect();
        if self.mask.as_ref().is_none_or(|(r, k, _)| *r != rule || *k != keys) {
            let mask = b.mask(rule, 1, &ahead.places, &keys);
            self.mask = Some((rule, keys, mask));
        }
    }

    fn attend_together(
        &mut self,
        b: &B,
        trunk: &Trunk,
        rule: MaskRule,
        row: usize,
        heads: &[Keys],
        acts: &mut LayerActs<B>,
    ) {
        let (c, d) = (&trunk.config, self.width);
        let (n, kv) = (heads[0].positions.len(), c.kv_heads * d);
        let mut rows = vec![0.0; n * 2 * kv];
        for (head, keys) in heads.iter().enumerate() {
            for (i, row) in rows.chunks_exact_mut(2 * kv).enumerate() {
                row[head * d..][..d].copy_from_slice(&keys.k[i * d..][..d]);
                row[kv + head * d..][..d].copy_from_slice(&keys.v[i * d..][..d]);
            }
        }
        self.prepare(b, rule, &heads[0].positions);
        let (_, keys, mask) = self.mask.as_ref().expect("prepared");
        let fresh = keys.len() - n;
        b.write(&mut self.scratch, 0, &rows);
        let from = row * c.qkv() + c.heads * d;
        b.copy_columns(&acts.qkv, c.qkv(), from, &mut self.scratch, 2 * kv, 0, n, fresh, 2 * kv);
        let mut s = trunk.attention_shape(Shape { batch: 1, len: fresh });
        (s.row, s.k_len, s.kv_stride, s.k_col, s.v_col) = (row, n + fresh, 2 * kv, 0, kv);
        b.attention(&acts.qkv, &self.scratch, mask, &mut acts.att, &mut acts.lse, s);
    }

    fn attend_alone(
        &mut self,
        b: &B,
        trunk: &Trunk,
        rule: MaskRule,
        row: usize,
        head: usize,
        keys: &Keys,
        acts: &mut LayerActs<B>,
    ) {
        let (c, d) = (&trunk.config, self.width);
        let (n, group) = (keys.positions.len(), c.heads / c.kv_heads);
        let rows: Vec<f32> =
            keys.k.chunks_exact(d).zip(keys.v.chunks_exact(d)).flat_map(|(k, v)| [k, v].concat()).collect();
        self.prepare(b, rule, &keys.positions);
        let (_, places, mask) = self.mask.as_ref().expect("prepared");
        let fresh = places.len() - n;
        b.write(&mut self.scratch, 0, &rows);
        for (col, from) in [(0, c.heads + head), (d, c.heads + c.kv_heads + head)] {
            let from = row * c.qkv() + from * d;
            b.copy_columns(&acts.qkv, c.qkv(), from, &mut self.scratch, 2 * d, col, n, fresh, d);
        }
        let mut s = trunk.attention_shape(Shape { batch: 1, len: fresh });
        // what it gives begins with the first row
        (s.heads, s.kv_heads, s.q_col) = (group, 1, row * c.qkv() + head * group * d);
        (s.k_len, s.kv_stride, s.k_col, s.v_col) = (n + fresh, 2 * d, 0, d);
        b.attention(&acts.qkv, &self.scratch, mask, &mut self.out, &mut self.lse, s);
        let (wide, col) = (group * d, head * group * d);
        b.copy_columns(&self.out, wide, 0, &mut acts.att, c.heads * d, col, row, fresh, wide);
    }

    /// Keeps the text's first rows of `acts`, and lets what has become old shrink.
    fn store(&mut self, b: &B, trunk: &Trunk, layer: usize, row: usize, h: &B::Buf, acts: &LayerActs<B>) {
        let (c, d) = (&trunk.config, self.width);
        let ahead = self.ahead.as_ref().expect("begin comes before a forward");
        let n = ahead.store;
        if n == 0 {
            return;
        }
        let read =
            |x: &B::Buf, width: usize| b.peek(x, row * width, n * width).expect("checked before the forward");
        let qkv = read(&acts.qkv, c.qkv());
        let scores = match &self.how.surrogate {
            Some(s) if self.how.press == Press::Kvzap => s.scores(layer, &read(h, c.width), c.width),
            _ => vec![],
        };
        let positions: Vec<u32> = ahead.places[..n].iter().map(|p| p.position).collect();
        let (seed, sequence) = (ahead.seed, ahead.sequence);
        let own = &mut self.layers[layer];
        for (i, p) in positions.iter().enumerate() {
            let block = (*p >= SINKS).then_some(*p / self.how.block);
            let row = &qkv[i * c.qkv()..][..c.qkv()];
            let open = own.chunks.last().is_some_and(|chunk| chunk.block == block && chunk.grows());
            if !open {
                own.chunks.push(Chunk::new(*p, block, c.kv_heads));
            }
            let chunk = own.chunks.last_mut().expect("pushed");
            for (head, rows) in chunk.heads.iter_mut().enumerate() {
                let at = |first: usize| &row[(first + head) * d..][..d];
                if let (Block::Plain(k), Block::Plain(v)) = (&mut rows.k, &mut rows.v) {
                    k.extend(at(c.heads));
                    v.extend(at(c.heads + c.kv_heads));
                }
                rows.scores.extend(scores.get(i * c.kv_heads + head));
                rows.len += 1;
            }
        }
        let end = self.end + n as u32;
        let block = self.how.block;
        let old = (end / block).saturating_sub(1) * block;
        if matches!(self.how.press, Press::Snapkv | Press::ExpectedAttention) {
            let wide = c.heads * d;
            own.at.extend(&positions);
            own.queries.extend(qkv.chunks_exact(c.qkv()).flat_map(|row| &row[..wide]));
            let gone = own.at.partition_point(|p| *p < old);
            own.at.drain(..gone);
            own.queries.drain(..gone * wide);
        }
        if old > self.old {
            self.press(trunk, layer, end, old, (seed, sequence));
            self.round(layer, old);
        }
        if layer + 1 == c.layers {
            (self.end, self.old) = (end, old.max(self.old));
        }
    }

    /// Drops positions before `old` of `end`.
    fn press(&mut self, trunk: &Trunk, layer: usize, end: u32, old: u32, (seed, sequence): (u64, u32)) {
        let (c, d, how) = (&trunk.config, self.width, self.how.clone());
        if how.press == Press::None {
            return;
        }
        let group = c.heads / c.kv_heads;
        let most = ((1.0 - how.ratio as f64) * end as f64 + 1e-6) as usize;
        for head in 0..c.kv_heads {
            let keys = self.keys(layer, head);
            let own = &mut self.layers[layer];
            let theta = trunk.rope_shape(1, layer).theta;
            let scale = c.attention_scale();
            let q = Queries { rows: &own.queries, positions: &own.at, heads: c.heads, scale, theta };
            let heads = head * group..(head + 1) * group;
            let lot = Rng::new(seed, Stream::Order, sequence);
            let lane = (layer * c.kv_heads + head) as u32;
            let positions = || keys.positions.iter();
            let scores = match how.press {
                Press::None => return,
                Press::Random => positions().map(|p| lot.uniform(STEP, *p, lane)).collect(),
                Press::Knorm => press::knorm(&keys),
                Press::Keydiff => press::keydiff(&keys),
                Press::Sinks => positions().map(|p| *p as f64).collect(),
                Press::Snapkv => press::snapkv(&keys, &q, heads),
                Press::ExpectedAttention => press::expected_attention(&keys, &q, heads, end),
                Press::Kvzap => keys.scores.iter().map(|s| *s as f64).collect(),
            };
            let protected = |i: usize| keys.positions[i] < SINKS || keys.positions[i] >= old;
            let kept = match how.tau {
                Some(tau) => {
                    let stay = |i: &usize| protected(*i) || scores[*i] >= tau as f64;
                    (0..scores.len()).filter(stay).collect()
                }
                None => press::best(&scores, protected, most),
            };
            let mut first = 0;
            for chunk in &mut own.chunks {
                let rows = &mut chunk.heads[head];
                let range = first..first + rows.len;
                first = range.end;
                let here = &kept[kept.partition_point(|i| *i < range.start)..];
                let here: Vec<usize> =
                    here.iter().take_while(|i| **i < range.end).map(|i| i - range.start).collect();
                rows.retain(chunk.start, d, &here);
            }
            self.held.evicted.push((scores.len() - kept.len()) as u32);
        }
    }

    /// Rounds chunks that lie before `old` and are not yet rounded.
    fn round(&mut self, layer: usize, old: u32) {
        let Some(bits) = self.how.storage.bits() else { return };
        let (width, block) = (self.width, self.how.block);
        for chunk in &mut self.layers[layer].chunks {
            if chunk.block.is_none_or(|b| (b + 1) * block > old) {
                continue;
            }
            for rows in &mut chunk.heads {
                rows.k.round(width, Groups::Columns, bits);
                rows.v.round(width, Groups::Rows, bits);
            }
        }
        let from = self.old.max(SINKS.min(old));
        self.held.quantised = Some((from, old)).filter(|_| from < old);
    }
}

impl Chunk {
    fn new(start: u32, block: Option<u32>, heads: usize) -> Chunk {
        let empty = || Block::Plain(Vec::new());
        let rows = || Rows { k: empty(), v: empty(), positions: None, scores: Vec::new(), len: 0 };
        Chunk { start, block, heads: (0..heads).map(|_| rows()).collect() }
    }
    /// Can rows be added? Not once any were rounded or dropped.
    fn grows(&self) -> bool {
        let plain = |rows: &Rows| matches!(rows.k, Block::Plain(_)) && rows.positions.is_none();
        self.heads.iter().all(plain)
    }
}
