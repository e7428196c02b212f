//! The tiny counterpart of a phase: the same objective, schedule, weights, rates, shift and editing, on rows of four
//! tokens of three symbols, with blocks of one, two or four for the phase's.

use super::{Check, Finding};
use crate::config::{BlockSizes, ModelSpec, Objective, PackingSpec, Phase, RunConfig, Standing};
use crate::decode::Attention;
use crate::diffusion::table::{Beliefs, MASK, Table, joint};
use crate::model::{Serving, Trunk};

/// Symbols.
pub const V: usize = 3;
/// Tokens of a row.
pub const L: usize = 4;

/// A phase on sequences that can be enumerated.
pub struct Tiny {
    /// what findings are headed with
    pub feature: String,
    pub config: RunConfig,
    pub phase: Phase,
    /// block of the tiny rows; None: whole rows
    pub block: Option<usize>,
    /// block of the phase it stands for; 0: whole rows
    pub stands_for: usize,
    pub trunk: Trunk,
}

/// The tiny counterparts of phase `p`: one for every block size it draws.
pub fn tiny(config: &RunConfig, p: usize) -> Vec<Tiny> {
    let phase = &config.phases[p];
    let mut sizes = phase.block_size.as_ref().map_or(vec![0], BlockSizes::list);
    sizes.sort_unstable();
    sizes.dedup();
    let whole = config.data.packing.length;
    sizes
        .into_iter()
        .map(|size| {
            let small = match size {
                0 => 0,
                1 => 1,
                s if s >= whole => L,
                _ => 2,
            };
            let mut phase = phase.clone();
            phase.block_size = phase.block_size.map(|_| BlockSizes::One(small));
            // an attention mask that opens changes what is seen, not what is weighed
            phase.anneal = 0;
            let packing =
                PackingSpec { length: L, documents: false, restart_positions: false, restart_blocks: false };
            let mut c = config.clone();
            c.data.packing = packing;
            c.batch.rows = ROWS;
            c.batch.micro = Some(ROWS);
            c.phases = vec![phase.clone()];
            let spec = ModelSpec {
                width: Some(8),
                layers: Some(1),
                heads: Some(1),
                mlp: Some(8),
                ..Default::default()
            };
            let shape = spec.resolve(V + 2, MASK, 0, vec![0, MASK]).expect("a shape");
            Tiny {
                feature: format!("phase {}: {}", p + 1, features(&phase, size)),
                block: (small > 0).then_some(small),
                stands_for: size,
                trunk: Trunk::new(shape),
                config: c,
                phase,
            }
        })
        .collect()
}

/// Rows of a tiny batch.
pub const ROWS: usize = 64;

/// What a phase is made of, in words.
fn features(phase: &Phase, block: usize) -> String {
    let mut out = vec![match (phase.objective, block) {
        (Objective::Ar, _) => "autoregressive".to_string(),
        (Objective::Mdlm, _) => "mask only, whole rows".to_string(),
        (Objective::Block, 0) => "mask only, whole rows".to_string(),
        (Objective::Block, b) => format!("mask only, blocks of {b}"),
    }];
    if let Some(h) = &phase.hybrid {
        let noise = match h.p_uniform {
            1.0 => "uniform noise".to_string(),
            p => format!("masks and uniform noise ({p})"),
        };
        out[0] = out[0].replace("mask only", &noise);
    }
    if phase.edit.is_some() {
        out[0] = out[0].replace("mask only", "mask and wrong tokens");
    }
    if phase.shift {
        out.push("logit shift".into());
    }
    if phase.complementary {
        out.push("complementary views".into());
    }
    if !phase.schedule.is_linear() {
        out.push(format!("{:?} schedule", phase.schedule).to_lowercase());
    }
    if phase.t != [1e-3, 1.0] {
        out.push(format!("rates {} to {}", phase.t[0], phase.t[1]));
    }
    out.join(", ")
}

impl Tiny {
    /// What was found about a part of this phase.
    pub fn finding(
        &self,
        part: &'static str,
        subject: &str,
        proved: Standing,
        claimed: Option<Standing>,
        says: String,
        checks: Vec<Check>,
    ) -> Finding {
        Finding {
            feature: self.feature.clone(),
            part,
            subject: subject.into(),
            proved,
            claimed,
            says,
            checks,
        }
    }

    /// Is this the size that the model is served with?
    pub fn serves(&self, serving: Serving) -> bool {
        match serving.attention {
            Attention::Causal => true,
            Attention::Bidirectional => self.block.is_none(),
            Attention::BlockCausal => self.stands_for == serving.block_size,
        }
    }
    pub fn causal(&self) -> bool {
        self.phase.objective == Objective::Ar
    }
    /// Does the first token of a row have no prediction?
    pub fn shift(&self) -> bool {
        self.phase.shift || self.causal()
    }
    /// Block of the tables: an autoregressive model sees clean tokens before each position.
    pub fn table_block(&self) -> Option<usize> {
        if self.causal() { Some(1) } else { self.block }
    }
    /// A table with the conditionals of a random joint, and the joint.
    pub fn exact(&self) -> (Table, Vec<f64>) {
        let p = joint(V, L, 11, 1.5);
        (Table::new(V, L, self.table_block(), Beliefs::Joint(p.clone())), p)
    }
    /// A table without a joint behind it, as networks are.
    pub fn random(&self) -> Table {
        Table::new(V, L, self.table_block(), Beliefs::Random { seed: 13, scale: 1.5 })
    }
}
