//! One optimiser step: rows -> corruption -> micro-batches -> forward, head, backward -> clip -> AdamW -> average.

use hilda_kernels::Train;
use hilda_kernels::adam::AdamStep;
use hilda_kernels::head::{LossRow, Losses, RowHead, STATS};

use super::drafts::{Scratch, draft};
use super::memory::micro_rows;
use super::schedule::phase_of;
use crate::config::{Noise, Objective, PackingSpec, Phase, RunConfig};
use crate::data::{Packed, Row, places};
use crate::diffusion::batch::{Normaliser, assemble, assemble_views, causal, causal_count, whole};
use crate::diffusion::{Corruption, Micro, RowPlan};
use crate::model::lora::Adapter;
use crate::model::{Keep, Plan, Trunk};
use hilda_kernels::rng::{Rng, Stream};
use hilda_kernels::{Base, HeadJob, Place};

/// Weights, gradients and optimiser state on a device.
pub struct Learner<B: Train> {
    pub backend: B,
    pub trunk: Trunk,
    /// what the forward pass uses; with adapters the merged weights
    pub params: B::Buf,
    grads: B::Buf,
    pub lora: Option<Adapted<B>>,
    /// moments of what is trained: of the weights, or of the adapters
    pub m: B::Buf,
    pub v: B::Buf,
    pub ema: Option<B::Buf>,
    /// updates since the moments were fresh
    pub updates: u64,
    /// updates since the average began
    pub ema_updates: u64,
    plan: Plan<B>,
    /// what drafting needs, from the first phase on that drafts
    drafts: Option<Scratch<B>>,
}

/// Adapters that are trained in place of the weights.
pub struct Adapted<B: Train> {
    pub adapter: Adapter,
    /// weights that stay
    pub base: B::Buf,
    theta: B::Buf,
    grads: B::Buf,
}

/// What one step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    pub loss: f64,
    /// before clipping
    pub grad_norm: f64,
    pub lr: f64,
    pub tokens: u64,
    pub flops: f64,
}

impl<B: Train> Learner<B> {
    pub fn new(backend: B, trunk: Trunk, params: &[f32], plan_rows: usize) -> Self {
        Learner::adapted(backend, trunk, params, plan_rows, Keep::Activations, None)
    }

    /// As [`Learner::new`], with a plan of another kind; with an adapter only that is trained and `params` stay.
    pub fn adapted(
        backend: B,
        trunk: Trunk,
        params: &[f32],
        plan_rows: usize,
        keep: Keep,
        adapter: Option<Adapter>,
    ) -> Self {
        let n = trunk.layout.total;
        let mut p = backend.buf(n);
        backend.write(&mut p, 0, params);
        let plan = trunk.plan_keeping(&backend, plan_rows, keep);
        let trained = adapter.as_ref().map_or(n, |a| a.theta.len());
        let (grads, m, v) = (backend.buf(n), backend.buf(trained), backend.buf(trained));
        let lora = adapter.map(|adapter| {
            let mut base = backend.buf(n);
            backend.write(&mut base, 0, params);
            let (theta, grads) = (backend.buf(trained), backend.buf(trained));
            Adapted { adapter, base, theta, grads }
        });
        let mut learner = Learner {
            backend,
            trunk,
            params: p,
            grads,
            lora,
            m,
            v,
            ema: None,
            updates: 0,
            ema_updates: 0,
            plan,
            drafts: None,
        };
        learner.merge();
        learner
    }

    /// Brings the merged weights up to date with base and adapters.
    pub fn merge(&mut self) {
        if let Some(l) = &mut self.lora {
            self.backend.write(&mut l.theta, 0, &l.adapter.theta);
            l.adapter.merge(&self.backend, &l.base, &mut self.params, self.trunk.layout.total);
        }
    }

    /// Bytes of weights, gradients, moments, average and activations.
    pub fn bytes(&self) -> usize {
        let total = self.trunk.layout.total;
        let state = match &self.lora {
            None => total * (4 + self.ema.is_some() as usize),
            Some(l) => 3 * total + 4 * l.adapter.theta.len(),
        };
        let drafts = self.drafts.as_ref().map_or(0, |s| s.bytes(&self.trunk));
        4 * state + self.plan.bytes() + drafts
    }

    /// The weights that are evaluated: the average if it is on.
    pub fn evaluated(&self) -> &B::Buf {
        self.ema.as_ref().unwrap_or(&self.params)
    }

    /// Starts (or restarts) the average from the current weights.
    pub fn start_ema(&mut self) {
        let n = self.trunk.layout.total;
        let mut e = self.backend.buf(n);
        self.backend.copy(&self.params, 0, &mut e, 0, n);
        (self.ema, self.ema_updates) = (Some(e), 0);
    }

    /// Forgets the moments.
    pub fn fresh_optimiser(&mut self) {
        self.backend.zero(&mut self.m);
        self.backend.zero(&mut self.v);
        self.updates = 0;
    }

    /// Forward and backward of one micro-batch, gradients added. Returns (objective's value, FLOPs).
    pub fn accumulate(&mut self, micro: &Micro) -> (f64, f64) {
        let b = &self.backend;
        let (mut ids, mut positions) = (b.ids(micro.ids.len()), b.ids(micro.ids.len()));
        b.write_ids(&mut ids, &micro.ids);
        b.write_ids(&mut positions, &micro.positions());
        let masks = self.trunk.masks(b, micro.rule, micro.shape.batch, &micro.places, &micro.places);
        let flops = self.trunk.train_flops(
            micro.shape.rows(),
            self.trunk.pairs(b, &masks, micro.shape.batch),
            micro.rows.len(),
        );
        self.trunk.forward(b, &self.params, &mut self.plan, &ids, &positions, &masks, micro.shape);
        let sharpened;
        let rows = match micro.confidence == 0.0 {
            true => &micro.rows,
            false => {
                sharpened = sharpen(b, &self.trunk, &self.params, &self.plan, micro);
                &sharpened
            }
        };
        let out = self.trunk.backward(
            b,
            &self.params,
            &mut self.grads,
            &mut self.plan,
            &ids,
            &positions,
            &masks,
            micro.shape,
            &micro.hidden_rows,
            rows,
        );
        (value(rows, &out), flops)
    }

    /// Clears gradients.
    pub fn zero_grads(&mut self) {
        self.backend.zero(&mut self.grads);
    }

    /// Gradient on the host, for checks.
    pub fn gradient(&self) -> Vec<f32> {
        self.backend.read(&self.grads)
    }

    /// Clips, updates, averages. Returns the gradient norm before clipping; a norm that is not finite changes nothing.
    pub fn update(&mut self, config: &RunConfig, lr: f64) -> f64 {
        let o = &config.optimiser;
        if let Some(l) = &mut self.lora {
            let gradient = l.adapter.gradient(&self.backend, &self.grads);
            self.backend.write(&mut l.grads, 0, &gradient);
        }
        let grads = self.lora.as_ref().map_or(&self.grads, |l| &l.grads);
        let norm = self.backend.sum_squares(grads).sqrt();
        if !norm.is_finite() {
            return norm;
        }
        self.updates += 1;
        let mut step = AdamStep::new(lr, o.betas, o.eps, o.weight_decay, self.updates);
        if o.clip > 0.0 && norm > o.clip {
            step.grad_scale = (o.clip / (norm + 1e-6)) as f32;
        }
        if self.ema.is_some() {
            self.ema_updates += 1;
            let n = self.ema_updates as f64;
            step.ema = Some(o.ema_decay.min((1.0 + n) / (10.0 + n)) as f32);
        }
        let ema = self.ema.as_mut();
        match &mut self.lora {
            None => self.backend.adamw(&mut self.params, &self.grads, &mut self.m, &mut self.v, ema, step),
            Some(l) => {
                self.backend.adamw(&mut l.theta, &l.grads, &mut self.m, &mut self.v, None, step);
                l.adapter.theta = self.backend.read_range(&l.theta, 0, l.adapter.theta.len());
            }
        }
        self.merge();
        norm
    }

    /// One whole step on the rows of `data` that global step `step` (step `s` of `phase`) draws.
    pub fn step(
        &mut self,
        config: &RunConfig,
        data: &Packed,
        phase: &Phase,
        lr: f64,
        step: u64,
    ) -> StepReport {
        let indices = rows_of_step(config.seed, data.len(), config.batch.rows, step);
        let mut rows: Vec<Row> = indices.iter().map(|i| data.row(*i as usize)).collect();
        cut_rows(config.seed, phase, step, &mut rows);
        self.zero_grads();
        let (mut micros, drafting) = self.micro_batches(config, phase, &rows, step);
        let masked: usize = micros.iter().map(|m| m.rows.len()).sum();
        micros.iter_mut().for_each(|m| m.confidence = (phase.confidence / masked.max(1) as f64) as f32);
        let (mut loss, mut flops) = (0.0, drafting);
        for m in &micros {
            let (l, f) = self.accumulate(m);
            (loss, flops) = (loss + l, flops + f);
        }
        let grad_norm = if loss.is_finite() { self.update(config, lr) } else { f64::NAN };
        let tokens = (rows.len() * data.length) as u64;
        StepReport { loss, grad_norm, lr, tokens, flops }
    }

    /// The micro-batches of a step, their wrong tokens drafted by the model if the phase says so, and the FLOPs of that.
    fn micro_batches(
        &mut self,
        config: &RunConfig,
        phase: &Phase,
        rows: &[Row],
        step: u64,
    ) -> (Vec<Micro>, f64) {
        if !draws(phase) {
            return (micro_batches(config, &self.trunk, phase, rows, step), 0.0);
        }
        let (process, block) = corruption(config, &self.trunk, phase, step);
        let mut plans = corrupt(&process.on(rows), &config.data.packing, rows, block, step);
        let build = builder(config, phase, block, step);
        let (b, trunk) = (&self.backend, &self.trunk);
        let scratch = self.drafts.get_or_insert_with(|| Scratch::new(b, trunk, draft_rows(config)));
        let flops =
            draft(b, trunk, &self.params, &mut self.plan, scratch, config, rows, &build, &mut plans, step);
        (cut(config, phase, rows, &plans, build), flops)
    }
}

/// A loss from what the head said of its rows: every term is linear in it.
fn value(rows: &[LossRow], out: &Losses) -> f64 {
    let each = rows.iter().zip(out.log_p.iter().zip(&out.entropy).zip(&out.divergence));
    each.map(|(r, ((l, h), d))| {
        let weight = r.mixture.map_or(0.0, |m| m.weight);
        r.d_log_p as f64 * *l as f64 + r.d_entropy as f64 * *h as f64 + weight as f64 * *d as f64
    })
    .sum()
}

/// The head's requests with dL / d entropy where the most probable token is the target: the choice is a constant, the
/// gradient flows through the entropy alone (CAP).
fn sharpen<B: Train>(b: &B, trunk: &Trunk, params: &B::Buf, plan: &Plan<B>, micro: &Micro) -> Vec<LossRow> {
    let (c, n) = (&trunk.config, micro.rows.len());
    let (mut index, keys) = (b.ids(n), b.ids(4 * n));
    b.write_ids(&mut index, &micro.hidden_rows);
    let mut gathered = b.buf(n * c.head_width());
    b.gather(&plan.hidden, &index, &mut gathered, n, c.head_width());
    let mut stats = b.buf(n * STATS);
    let job = HeadJob {
        rows: n,
        width: c.head_width(),
        vocab: c.vocab,
        top_k: 0,
        temperature: 0.0,
        seed: 0,
        forbid: c.forbid.clone(),
    };
    b.head(&gathered, params, trunk.layout.head, &keys, &mut stats, &job);
    let stats = b.read_range(&stats, 0, n * STATS);
    let right = |row: &[f32], target| RowHead::decode(row, 0).argmax == target;
    let each = micro.rows.iter().zip(stats.chunks_exact(STATS));
    each.map(|(r, row)| LossRow {
        d_entropy: if right(row, r.target) { micro.confidence } else { 0.0 },
        ..*r
    })
    .collect()
}

/// Cuts the phase's share of rows in two documents at random columns.
fn cut_rows(seed: u64, phase: &Phase, step: u64, rows: &mut [Row]) {
    let rng = Rng::new(seed, Stream::Choice, 2);
    for (r, row) in rows.iter_mut().enumerate() {
        if phase.random_length > 0.0 && rng.uniform(step as u32, r as u32, 0) < phase.random_length {
            let columns = row.tokens.len() as u64 - 1;
            row.cut(1 + rng.below(step as u32, r as u32, 2, columns) as usize);
        }
    }
}

/// Does the phase draw its wrong tokens from the model?
pub(super) fn draws(phase: &Phase) -> bool {
    phase.edit.is_some_and(|e| e.noise == Noise::Drafts)
}

/// Most tokens drafted in one forward.
pub(super) fn draft_rows(config: &RunConfig) -> usize {
    micro_rows(config) * config.data.packing.length
}

/// Rows of global step `step`: a new permutation each epoch, an incomplete last batch is dropped. A corpus with
/// fewer rows than a batch repeats inside it.
pub fn rows_of_step(seed: u64, available: usize, batch: usize, step: u64) -> Vec<u32> {
    let per_epoch = (available / batch).max(1) as u64;
    let (epoch, at) = (step / per_epoch, (step % per_epoch) as usize);
    let order = Rng::new(seed, Stream::Shuffle, 0).permutation(epoch as u32, available);
    (0..batch).map(|i| order[(at * batch + i) % available]).collect()
}

/// The micro-batches of a step: corruption is drawn for the global batch, then cut.
pub fn micro_batches(
    config: &RunConfig,
    trunk: &Trunk,
    phase: &Phase,
    rows: &[Row],
    step: u64,
) -> Vec<Micro> {
    let packing = &config.data.packing;
    let micro = micro_rows(config);
    if phase.objective == Objective::Ar {
        let counted: usize = rows.iter().map(|r| causal_count(r, packing)).sum();
        let norm = 1.0 / counted.max(1) as f64;
        return rows.chunks(micro).map(|c| causal(c, packing, norm)).collect();
    }
    let (process, block) = corruption(config, trunk, phase, step);
    let process = process.on(rows);
    let plans = corrupt(&process, packing, rows, block, step);
    if !phase.complementary {
        return cut(config, phase, rows, &plans, builder(config, phase, block, step));
    }
    let (tokens, noisy) = parts(rows, packing, block);
    let inverse = process.complement(step as u32, &tokens, &noisy, &plans);
    let both: Vec<_> = plans.iter().chain(&inverse).cloned().collect();
    let norm = Normaliser::new(&both, None);
    let views = plans.chunks(micro).zip(inverse.chunks(micro));
    let rows = rows.chunks(micro).zip(views);
    match annealed(config, phase, step) {
        None => {
            rows.map(|(r, (a, b))| assemble_views(r, [a, b], packing, block, phase.shift, norm)).collect()
        }
        Some(base) => rows.map(|(r, (a, b))| whole(r, &[a, b], packing, base, phase.shift, norm)).collect(),
    }
}

/// How a step corrupts, and the size of its blocks (None: whole rows).
pub fn corruption(
    config: &RunConfig,
    trunk: &Trunk,
    phase: &Phase,
    step: u64,
) -> (Corruption, Option<usize>) {
    let sizes = phase.block_size.as_ref().map_or(vec![0], |b| b.list());
    let which = Rng::new(config.seed, Stream::Choice, 0).below(step as u32, 0, 0, sizes.len() as u64);
    let block = sizes[which as usize];
    let process = Corruption {
        seed: config.seed,
        mask_id: trunk.config.mask_id,
        forbid: trunk.config.forbid.clone(),
        eos_id: trunk.config.eos_id,
        vocab: trunk.config.vocab,
        t: phase.t,
        schedule: phase.schedule,
        weighting: phase.weighting,
        shift: phase.shift,
        edit: phase.edit,
        hybrid: phase.hybrid,
        scope: phase.scope(),
        answers: vec![],
    };
    (process, (block > 0).then_some(block))
}

/// Tokens and places of the noisy stream, one entry a row.
fn parts<'r>(
    rows: &[Row<'r>],
    packing: &PackingSpec,
    block: Option<usize>,
) -> (Vec<&'r [u32]>, Vec<Vec<Place>>) {
    let noisy = rows.iter().map(|r| places(r, packing, block.unwrap_or(0), 1)).collect();
    (rows.iter().map(|r| r.tokens).collect(), noisy)
}

/// The corrupted global batch.
fn corrupt(
    process: &Corruption,
    packing: &PackingSpec,
    rows: &[Row],
    block: Option<usize>,
    step: u64,
) -> Vec<RowPlan> {
    let (tokens, noisy) = parts(rows, packing, block);
    process.draw(step as u32, &tokens, &noisy)
}

/// What makes a micro-batch of corrupted rows in this step.
fn builder(
    config: &RunConfig,
    phase: &Phase,
    block: Option<usize>,
    step: u64,
) -> impl Fn(&[Row], &[RowPlan], Normaliser) -> Micro {
    let (packing, shift, base) = (config.data.packing, phase.shift, annealed(config, phase, step));
    move |rows, plans, norm| match base {
        None => assemble(rows, plans, &packing, block, shift, norm),
        Some(base) => whole(rows, &[plans], &packing, base, shift, norm),
    }
}

/// Cuts a corrupted global batch into micro-batches.
fn cut(
    config: &RunConfig,
    phase: &Phase,
    rows: &[Row],
    plans: &[RowPlan],
    build: impl Fn(&[Row], &[RowPlan], Normaliser) -> Micro,
) -> Vec<Micro> {
    let micro = micro_rows(config);
    let norm = Normaliser::new(plans, phase.edit);
    rows.chunks(micro).zip(plans.chunks(micro)).map(|(r, p)| build(r, p, norm)).collect()
}

/// The rule of a step whose attention is still opening.
fn annealed(config: &RunConfig, phase: &Phase, step: u64) -> Option<Base> {
    let s = phase_of(config, step).map_or(0, |(_, s)| s);
    let r = phase.openness(s) as f32;
    (r < 1.0).then_some(Base::Annealed { r, seed: config.seed, step: step as u32 })
}
