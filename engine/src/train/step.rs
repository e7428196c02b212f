//! One optimiser step: rows -> corruption -> micro-batches -> forward, head, backward -> clip -> AdamW -> average.

use hilda_kernels::Train;
use hilda_kernels::adam::AdamStep;

use super::drafts::{self, Scratch, draft};
use crate::config::{EmaPolicy, Noise, Objective, Phase, RunConfig};
use crate::data::{Packed, Row, places};
use crate::diffusion::batch::{Normaliser, assemble, causal, causal_count};
use crate::diffusion::{Corruption, Micro, RowPlan};
use crate::model::{Plan, Trunk};
use hilda_kernels::rng::{Rng, Stream};

/// Weights, gradients and optimiser state on a device.
pub struct Learner<B: Train> {
    pub backend: B,
    pub trunk: Trunk,
    pub params: B::Buf,
    grads: B::Buf,
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
        let n = trunk.layout.total;
        let mut p = backend.buf(n);
        backend.write(&mut p, 0, params);
        let plan = trunk.plan(&backend, plan_rows, true);
        let (grads, m, v) = (backend.buf(n), backend.buf(n), backend.buf(n));
        Learner {
            backend,
            trunk,
            params: p,
            grads,
            m,
            v,
            ema: None,
            updates: 0,
            ema_updates: 0,
            plan,
            drafts: None,
        }
    }

    /// Bytes of weights, gradients, moments, average and activations.
    pub fn bytes(&self) -> usize {
        let drafts = self.drafts.as_ref().map_or(0, |s| s.bytes(&self.trunk));
        4 * self.trunk.layout.total * (4 + self.ema.is_some() as usize) + self.plan.bytes() + drafts
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
        self.trunk.forward(b, &self.params, &mut self.plan, &ids, &positions, &masks, micro.shape, None);
        let (log_p, _) = self.trunk.backward(
            b,
            &self.params,
            &mut self.grads,
            &mut self.plan,
            &ids,
            &positions,
            &masks,
            micro.shape,
            &micro.hidden_rows,
            &micro.rows,
        );
        (micro.value(&log_p), flops)
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
        let norm = self.backend.sum_squares(&self.grads).sqrt();
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
        self.backend.adamw(&mut self.params, &self.grads, &mut self.m, &mut self.v, ema, step);
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
        let rows: Vec<Row> = indices.iter().map(|i| data.row(*i as usize)).collect();
        self.zero_grads();
        let (micros, drafting) = self.micro_batches(config, phase, &rows, step);
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
        let (mut plans, block) = corrupt(config, &self.trunk, phase, rows, step);
        let (b, trunk) = (&self.backend, &self.trunk);
        let scratch = self.drafts.get_or_insert_with(|| Scratch::new(b, trunk, draft_rows(config)));
        let flops = draft(
            b,
            trunk,
            &self.params,
            &mut self.plan,
            scratch,
            config,
            phase,
            rows,
            block,
            &mut plans,
            step,
        );
        (cut(config, phase, rows, &plans, block), flops)
    }
}

/// Does the phase draw its wrong tokens from the model?
fn draws(phase: &Phase) -> bool {
    phase.edit.is_some_and(|e| e.noise == Noise::Drafts)
}

/// Most tokens drafted in one forward.
fn draft_rows(config: &RunConfig) -> usize {
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

/// Rows of one forward: the recipe's `batch.micro`, else what keeps a step's activations near the caches.
pub fn micro_rows(config: &RunConfig) -> usize {
    config.batch.micro.unwrap_or_else(|| {
        let target = (2048 / config.data.packing.length).clamp(1, config.batch.rows);
        (1..=target).rev().find(|m| config.batch.rows % m == 0).unwrap_or(1)
    })
}

/// Bytes of a training step on its device: weights, gradients, moments, average and activations. Known before anything
/// is allocated; equal to [`Learner::bytes`] of the run with the average on, if any phase has one.
pub fn planned_bytes(config: &RunConfig, trunk: &Trunk) -> usize {
    let average = config.phases.iter().any(|p| p.ema != EmaPolicy::Off);
    let drafting = config.phases.iter().any(draws);
    let drafts = if drafting { drafts::bytes(trunk, draft_rows(config)) } else { 0 };
    4 * trunk.layout.total * (4 + usize::from(average)) + trunk.plan_bytes(plan_rows(config), true) + drafts
}

/// Hidden rows a training plan needs.
pub fn plan_rows(config: &RunConfig) -> usize {
    let two = config.phases.iter().any(|p| p.objective == Objective::Block);
    micro_rows(config) * config.data.packing.length * if two { 2 } else { 1 }
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
    if phase.objective == Objective::Ar {
        let micro = micro_rows(config);
        let counted: usize = rows.iter().map(|r| causal_count(r, packing)).sum();
        let norm = 1.0 / counted.max(1) as f64;
        return rows.chunks(micro).map(|c| causal(c, packing, norm)).collect();
    }
    let (plans, block) = corrupt(config, trunk, phase, rows, step);
    cut(config, phase, rows, &plans, block)
}

/// Corruption of the global batch, and the size of its blocks (None: whole rows).
fn corrupt(
    config: &RunConfig,
    trunk: &Trunk,
    phase: &Phase,
    rows: &[Row],
    step: u64,
) -> (Vec<RowPlan>, Option<usize>) {
    let packing = &config.data.packing;
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
        weighting: phase.weighting,
        shift: phase.shift,
        edit: phase.edit,
        per_block: phase.objective == Objective::Block,
    };
    let tokens: Vec<&[u32]> = rows.iter().map(|r| r.tokens).collect();
    let noisy: Vec<_> = rows.iter().map(|r| places(r, packing, block, 1)).collect();
    (process.draw(step as u32, &tokens, &noisy), (block > 0).then_some(block))
}

/// Cuts a corrupted global batch into micro-batches.
fn cut(
    config: &RunConfig,
    phase: &Phase,
    rows: &[Row],
    plans: &[RowPlan],
    block: Option<usize>,
) -> Vec<Micro> {
    let micro = micro_rows(config);
    let norm = Normaliser::new(plans, phase.edit);
    let pairs = rows.chunks(micro).zip(plans.chunks(micro));
    pairs.map(|(r, p)| assemble(r, p, &config.data.packing, block, phase.shift, norm)).collect()
}
