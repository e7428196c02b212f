//! The memory of a step: every buffer of a forward pass and, where something is kept for it, of the backward pass, allocated
//! once; and its bytes before that. Rows N, width D; what is kept of a layer says [`Keep`].

use hilda_kernels::Backend;

use super::Trunk;

/// What a forward pass leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// one set of buffers for all layers
    Nothing,
    /// every layer's input: the backward pass computes each layer once more before it goes through it (Chen et al.,
    /// arXiv 1604.06174), with the same operations on the same numbers, so the gradients have the same bits
    Inputs,
    /// every layer's activations
    Activations,
}

impl Keep {
    /// Sets of (inputs, activations) for `layers` layers.
    fn sets(self, layers: usize) -> (usize, usize) {
        match self {
            Keep::Nothing => (1, 1),
            Keep::Inputs => (layers, 1),
            Keep::Activations => (layers, layers),
        }
    }
}

/// What a layer computes from its input.
pub(super) struct LayerActs<B: Backend> {
    /// queries, keys and values before the norms of heads (one value unless the family has those)
    pub raw: B::Buf,
    pub qkv: B::Buf,
    pub att: B::Buf,
    pub lse: B::Buf,
    pub mid: B::Buf,
    pub gate_up: B::Buf,
    /// what attention and the feed-forward part add, before the norms behind them (likewise)
    pub post: [B::Buf; 2],
}

/// Every buffer of a step, allocated once.
pub struct Plan<B: Backend> {
    /// input of each layer, or of the one at work
    pub(super) inputs: Vec<B::Buf>,
    pub(super) layers: Vec<LayerActs<B>>,
    capacity: usize,
    pub(super) h: B::Buf,
    pub(super) act: B::Buf,
    pub(super) last: B::Buf,
    /// final-norm hidden rows [rows + 1, head_width]; the extra row is free for a text's carry
    pub hidden: B::Buf,
    pub(super) back: Option<Backward<B>>,
    bytes: usize,
}

pub(super) struct Backward<B: Backend> {
    pub dx: B::Buf,
    pub dh: B::Buf,
    pub d_att: B::Buf,
    pub d_raw: B::Buf,
    pub d_qkv: B::Buf,
    pub d_gate_up: B::Buf,
    pub d_act: B::Buf,
    pub d_post: B::Buf,
    pub d_hidden: B::Buf,
    pub rows: B::Buf,
    pub d_rows: B::Buf,
    pub index: B::Ids,
    pub head_rows: usize,
}

impl Trunk {
    /// Buffers for up to `rows` rows; `train` keeps activations of every layer and adds gradients.
    pub fn plan<B: Backend>(&self, b: &B, rows: usize, train: bool) -> Plan<B> {
        self.plan_keeping(b, rows, if train { Keep::Activations } else { Keep::Nothing })
    }

    /// As [`Trunk::plan`]; a plan that keeps something has gradients too.
    pub fn plan_keeping<B: Backend>(&self, b: &B, rows: usize, keep: Keep) -> Plan<B> {
        let c = &self.config;
        let mut total = 0;
        let mut buf = |len: usize| {
            total += 4 * len;
            b.buf(len)
        };
        let (n, d, a, hw) = (rows, c.width, c.heads * c.head_dim, c.head_width());
        let on = |flag: bool, len: usize| if flag { len } else { 1 };
        let (raw, post) = (on(c.arch.qk_norm, n * c.qkv()), on(c.arch.sandwich, n * d));
        let (inputs, sets) = keep.sets(c.layers);
        let inputs = (0..inputs).map(|_| buf(n * d)).collect();
        let layers = (0..sets)
            .map(|_| LayerActs {
                raw: buf(raw),
                qkv: buf(n * c.qkv()),
                att: buf(n * a),
                lse: buf(n * c.heads),
                mid: buf(n * d),
                gate_up: buf(n * c.mlp_in()),
                post: [buf(post), buf(post)],
            })
            .collect();
        let (h, act, last) = (buf(n * d), buf(n * c.mlp), buf(n * d));
        let mut hidden = buf((n + 1) * hw);
        let back = (keep != Keep::Nothing).then(|| Backward {
            dx: buf(n * d),
            dh: buf(n * d),
            d_att: buf(n * a),
            d_raw: buf(raw),
            d_qkv: buf(n * c.qkv()),
            d_gate_up: buf(n * c.mlp_in()),
            d_act: buf(n * c.mlp),
            d_post: buf(post),
            d_hidden: buf(n * hw),
            rows: buf(n * hw),
            d_rows: buf(n * hw),
            index: b.ids(n),
            head_rows: n,
        });
        if c.arch.head_bias {
            // the column that the head's bias multiplies
            let one: Vec<f32> = (0..(n + 1) * hw).map(|i| f32::from(i % hw == d)).collect();
            b.write(&mut hidden, 0, &one);
        }
        Plan { inputs, layers, capacity: rows, h, act, last, hidden, back, bytes: total }
    }

    /// Bytes of [`Trunk::plan_keeping`], before anything is allocated.
    pub fn plan_bytes(&self, rows: usize, keep: Keep) -> usize {
        let c = &self.config;
        let (n, d, a, hw) = (rows, c.width, c.heads * c.head_dim, c.head_width());
        let on = |flag: bool, len: usize| if flag { len } else { 1 };
        let (raw, post) = (on(c.arch.qk_norm, n * c.qkv()), on(c.arch.sandwich, n * d));
        let (inputs, sets) = keep.sets(c.layers);
        let layer = n * (d + c.qkv() + a + c.heads + c.mlp_in()) + raw + 2 * post;
        let once = n * (2 * d + c.mlp) + (n + 1) * hw;
        let back = n * (2 * d + a + c.qkv() + c.mlp_in() + c.mlp + 3 * hw) + raw + post;
        let back = if keep == Keep::Nothing { 0 } else { back };
        4 * (inputs * n * d + sets * layer + once + back)
    }
}

impl<B: Backend> Plan<B> {
    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// Rows the plan can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}
