//! From rows and plans to what a forward pass takes: ids, places, rule, hidden rows, targets, coefficients.
//!
//! Layouts, for rows of length L:
//! - causal AR: the row itself, token n + 1 read from row n;
//! - whole-row masked diffusion: x_t, bidirectional;
//! - block diffusion: [x_t ; x_0], 2L rows with equal positions (BD3-LM, arXiv 2503.09573, section 3.1);
//! - with complementary views [x_t ; x_t' ; x_0], 3L rows: the views never see each other and share the clean rows
//!   (equal to two sequences of 2L, `methods/fast_dllm_v2.md` 2.3); without blocks the views are two sequences.
//!
//! Logit shift (`methods/decoding.md` 2.2): token n is read from noisy row n - 1; the first token of a block from
//! the clean row before it. Coefficients are dL/d ln p, or the weight of a
//! row's divergence under mixed noise, after all normalisation (global batch).

use hilda_kernels::head::{LossRow, Mixture};
use hilda_kernels::{Base, MaskRule, Place};

use super::corruption::{Kind, Pick, RowPlan, has_row};
use crate::config::{EditSpec, PackingSpec};
use crate::data::{Row, places};
use crate::model::Shape;

/// What one forward takes.
#[derive(Clone, Debug)]
pub struct Micro {
    pub ids: Vec<u32>,
    pub places: Vec<Place>,
    pub rule: MaskRule,
    pub shape: Shape,
    /// hidden row of each supervised token
    pub hidden_rows: Vec<u32>,
    pub rows: Vec<LossRow>,
    /// row of the micro-batch each supervised token belongs to
    pub sequence: Vec<u32>,
    /// dL / d entropy of a token whose most probable id is its target; 0 = not asked (CAP)
    pub confidence: f32,
}

impl Micro {
    pub fn positions(&self) -> Vec<u32> {
        self.places.iter().map(|p| p.position).collect()
    }
}

/// Coefficients by kind, shared by every micro-batch of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normaliser {
    pub masked: f64,
    pub replaced: f64,
    pub kept: f64,
}

impl Normaliser {
    /// Masked (or mixed) tokens over all maskable tokens of the global batch; editing tokens over their own counts.
    pub fn new(plans: &[RowPlan], edit: Option<EditSpec>) -> Normaliser {
        let count =
            |k: Kind| plans.iter().flat_map(|p| &p.picks).filter(|p| p.kind == k).count().max(1) as f64;
        let counted: usize = plans.iter().map(|p| p.counted).sum();
        let (edit_weight, keep_weight) = edit.map_or((0.0, 0.0), |e| (e.lambda_edit, e.lambda_keep));
        Normaliser {
            masked: 1.0 / counted.max(1) as f64,
            replaced: edit_weight / count(Kind::Replaced),
            kept: keep_weight / count(Kind::Kept),
        }
    }
}

/// Causal AR: mean cross-entropy with `normaliser` = 1 / counted tokens of the global batch.
pub fn causal(rows: &[Row], packing: &PackingSpec, normaliser: f64) -> Micro {
    let len = rows[0].tokens.len();
    let mut m = empty(rows.len(), len, Base::Causal.into());
    for (r, row) in rows.iter().enumerate() {
        let p = places(row, packing, 1, 0);
        for n in 1..len {
            if has_row(&p, n, true) && row.counts(n) {
                m.push(r, r * len + n - 1, row.tokens[n], -normaliser);
            }
        }
        m.ids.extend(row.tokens);
        m.places.extend(p);
    }
    m
}

/// Tokens with a row under the causal objective.
pub fn causal_count(row: &Row, packing: &PackingSpec) -> usize {
    let p = places(row, packing, 1, 0);
    (1..row.tokens.len()).filter(|n| has_row(&p, *n, true) && row.counts(*n)).count()
}

/// Masked or block diffusion. `block_size` None: the whole row under bidirectional attention; Some(b): two streams.
pub fn assemble(
    rows: &[Row],
    plans: &[RowPlan],
    packing: &PackingSpec,
    block_size: Option<usize>,
    shift: bool,
    norm: Normaliser,
) -> Micro {
    match block_size {
        Some(b) => {
            let base = Base::BlockDiffusion { causal_clean: false };
            blocks(rows, &[plans], packing, b, base, shift, norm)
        }
        None => whole(rows, &[plans], packing, Base::Bidirectional, shift, norm),
    }
}

/// As [`assemble`], with two noisy views of every row.
pub fn assemble_views(
    rows: &[Row],
    views: [&[RowPlan]; 2],
    packing: &PackingSpec,
    block_size: Option<usize>,
    shift: bool,
    norm: Normaliser,
) -> Micro {
    match block_size {
        Some(b) => blocks(rows, &views, packing, b, Base::ComplementaryViews, shift, norm),
        None => whole(rows, &views, packing, Base::Bidirectional, shift, norm),
    }
}

/// Masked diffusion over whole rows under any rule without blocks; every view is a sequence of its own.
pub fn whole(
    rows: &[Row],
    views: &[&[RowPlan]],
    packing: &PackingSpec,
    base: Base,
    shift: bool,
    norm: Normaliser,
) -> Micro {
    let len = rows[0].tokens.len();
    let mut m = empty(views.len() * rows.len(), len, base.into());
    for (r, row) in rows.iter().enumerate() {
        let p = places(row, packing, 0, 1);
        for (v, plans) in views.iter().enumerate() {
            let plan = &plans[r];
            let start = (r * views.len() + v) * len;
            for pick in &plan.picks {
                let n = pick.column as usize;
                m.supervise(r, start + n - usize::from(shift), row.tokens[n], pick, norm);
            }
            m.ids.extend(&plan.noisy);
            m.places.extend(&p);
        }
    }
    m
}

/// Block diffusion: the noisy views of a row, then the clean row.
pub(crate) fn blocks(
    rows: &[Row],
    views: &[&[RowPlan]],
    packing: &PackingSpec,
    block_size: usize,
    base: Base,
    shift: bool,
    norm: Normaliser,
) -> Micro {
    let len = rows[0].tokens.len();
    let streams = views.len() + 1;
    let mut m = empty(rows.len(), streams * len, base.into());
    for (r, row) in rows.iter().enumerate() {
        let p = places(row, packing, block_size, 1);
        let start = r * streams * len;
        let clean = start + views.len() * len;
        for (v, plans) in views.iter().enumerate() {
            let plan = &plans[r];
            let noisy = start + v * len;
            for pick in &plan.picks {
                let n = pick.column as usize;
                let starts_block = n == 0 || p[n].block != p[n - 1].block;
                let hidden = match (shift, starts_block) {
                    (false, _) => noisy + n,
                    (true, false) => noisy + n - 1,
                    (true, true) => clean + n - 1,
                };
                m.supervise(r, hidden, row.tokens[n], pick, norm);
            }
            m.ids.extend(&plan.noisy);
            m.places.extend(p.iter().map(|p| Place { stream: v as u32 + 1, ..*p }));
        }
        m.ids.extend(row.tokens);
        m.places.extend(p.iter().map(|p| Place { stream: 0, ..*p }));
    }
    m
}

fn empty(batch: usize, len: usize, rule: MaskRule) -> Micro {
    let shape = Shape { batch, len };
    let n = shape.rows();
    Micro {
        ids: Vec::with_capacity(n),
        places: Vec::with_capacity(n),
        rule,
        shape,
        hidden_rows: vec![],
        rows: vec![],
        sequence: vec![],
        confidence: 0.0,
    }
}

impl Micro {
    fn supervise(&mut self, sequence: usize, hidden: usize, target: u32, pick: &Pick, norm: Normaliser) {
        let c = pick.weight as f64
            * match pick.kind {
                Kind::Masked | Kind::Noisy { .. } => norm.masked,
                Kind::Replaced => norm.replaced,
                Kind::Kept => norm.kept,
            };
        if c == 0.0 {
            return;
        }
        let Kind::Noisy { alpha, beta, observed } = pick.kind else {
            return self.push(sequence, hidden, target, -c);
        };
        self.push(sequence, hidden, target, 0.0);
        let row = self.rows.last_mut().expect("just pushed");
        row.mixture = Some(Mixture { alpha, beta, observed, weight: c as f32 });
    }
    fn push(&mut self, sequence: usize, hidden: usize, target: u32, d_log_p: f64) {
        self.hidden_rows.push(hidden as u32);
        self.rows.push(LossRow { target, d_log_p: d_log_p as f32, ..Default::default() });
        self.sequence.push(sequence as u32);
    }
}
