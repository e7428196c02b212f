//! What a run needs before anything is allocated: rows of one forward, hidden rows of its plan, bytes on its device.

use super::drafts;
use super::step::{draft_rows, draws};
use crate::config::{EmaPolicy, Phase, RunConfig};
use crate::model::{Keep, Trunk, lora};

/// Positions of one forward up to which a device with memory of its own is given more rows: products of the presets were
/// no faster beyond (docs/performance.md, CUDA).
const POSITIONS: usize = 8192;

/// Rows of one forward on a device with `memory` bytes of its own to plan with: the recipe's `batch.micro`, else as many as
/// fit up to 8,192 positions. Without such a memory (a CPU), see [`micro_rows`].
pub fn micro_for(config: &RunConfig, trunk: &Trunk, memory: Option<usize>) -> usize {
    let (Some(memory), None) = (memory, config.batch.micro) else { return micro_rows(config) };
    let with = |m: usize| {
        let mut c = config.clone();
        c.batch.micro = Some(m);
        c
    };
    let rows = config.batch.rows;
    let mut sizes = (1..=rows).rev().filter(|m| rows % m == 0);
    sizes
        .find(|m| plan_rows(&with(*m)) <= POSITIONS && planned_bytes(&with(*m), trunk) <= memory)
        .unwrap_or(1)
}

/// Rows of one forward: the recipe's `batch.micro`, else what was chosen for the device, else what keeps a step's
/// activations near a CPU's caches.
pub fn micro_rows(config: &RunConfig) -> usize {
    config.batch.micro.or(config.batch.chosen).unwrap_or_else(|| {
        let target = (2048 / config.data.packing.length).clamp(1, config.batch.rows);
        (1..=target).rev().find(|m| config.batch.rows % m == 0).unwrap_or(1)
    })
}

/// Bytes of a training step on its device: weights, gradients, moments, average and activations. Known before anything
/// is allocated; equal to [`Learner::bytes`](super::Learner::bytes) of the run with the average on, if any phase has one.
pub fn planned_bytes(config: &RunConfig, trunk: &Trunk) -> usize {
    let average = config.phases.iter().any(|p| p.ema != EmaPolicy::Off);
    let total = trunk.layout.total;
    let state = match &config.lora {
        None => total * (4 + usize::from(average)),
        Some(spec) => 3 * total + 4 * lora::sites(&trunk.config, &trunk.layout, spec).1,
    };
    let drafting = config.phases.iter().any(draws);
    let drafts = if drafting { drafts::bytes(trunk, draft_rows(config)) } else { 0 };
    4 * state + trunk.plan_bytes(plan_rows(config), keep(config)) + drafts
}

/// Hidden rows a training plan needs.
pub fn plan_rows(config: &RunConfig) -> usize {
    let streams = config.phases.iter().map(Phase::streams).max().unwrap_or(1);
    micro_rows(config) * config.data.packing.length * streams
}

/// What the forward passes of a run leave for its backward passes.
pub fn keep(config: &RunConfig) -> Keep {
    if config.memory.recompute { Keep::Inputs } else { Keep::Activations }
}
