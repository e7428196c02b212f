//! Wrong tokens as the model itself writes them, for editing rows (`edit.noise = "drafts"`).
//!
//! Uniform noise teaches the repair of random tokens; decoding makes plausible ones. So the tokens that are to be
//! replaced are masked first and drawn from the model in one forward, all of a block at once, at temperature 1: what
//! comes out wrong is supervised as replaced, what comes out right as kept. This is the first round of multi-turn
//! forward (LLaDA 2.1, `methods/llada21_editing.md` 2.3, whose details are not published); nothing is propagated
//! through the drafting forward. Draws are keyed by (seed, step, global row x L + column).

use hilda_kernels::head::{RowHead, STATS};
use hilda_kernels::{HeadJob, Train};

use super::memory::micro_rows;
use crate::config::RunConfig;
use crate::data::Row;
use crate::diffusion::batch::Normaliser;
use crate::diffusion::corruption::Kind;
use crate::diffusion::{Micro, RowPlan};
use crate::model::{Plan, Trunk};

/// Makes a micro-batch of corrupted rows.
pub type Build<'a> = dyn Fn(&[Row], &[RowPlan], Normaliser) -> Micro + 'a;

/// Buffers of the drafting forward's head.
pub struct Scratch<B: Train> {
    capacity: usize,
    rows: B::Ids,
    keys: B::Ids,
    gathered: B::Buf,
    stats: B::Buf,
}

impl<B: Train> Scratch<B> {
    /// For at most `capacity` drafted tokens a forward.
    pub fn new(b: &B, trunk: &Trunk, capacity: usize) -> Self {
        Scratch {
            capacity,
            rows: b.ids(capacity),
            keys: b.ids(4 * capacity),
            gathered: b.buf(capacity * trunk.config.head_width()),
            stats: b.buf(capacity * STATS),
        }
    }
    pub fn bytes(&self, trunk: &Trunk) -> usize {
        bytes(trunk, self.capacity)
    }
}

/// Bytes of [`Scratch::new`].
pub fn bytes(trunk: &Trunk, capacity: usize) -> usize {
    4 * capacity * (5 + trunk.config.head_width() + STATS)
}

/// Draws every replaced token of `plans` from the model; `build` makes a micro-batch of rows as the step does. Returns the FLOPs of the drafting forwards.
#[expect(clippy::too_many_arguments)]
pub fn draft<B: Train>(
    b: &B,
    trunk: &Trunk,
    params: &B::Buf,
    plan: &mut Plan<B>,
    scratch: &mut Scratch<B>,
    config: &RunConfig,
    rows: &[Row],
    build: &Build<'_>,
    plans: &mut [RowPlan],
    step: u64,
) -> f64 {
    let (micro, packing, c) = (micro_rows(config), &config.data.packing, &trunk.config);
    let mut flops = 0.0;
    for (chunk, (rows, plans)) in rows.chunks(micro).zip(plans.chunks_mut(micro)).enumerate() {
        let masked: Vec<RowPlan> = plans.iter().map(|p| only_drafts(p, c.mask_id)).collect();
        let norm = Normaliser { masked: 0.0, replaced: 1.0, kept: 0.0 };
        let m = build(rows, &masked, norm);
        let n = m.rows.len();
        if n == 0 {
            continue;
        }
        let (mut ids, mut positions) = (b.ids(m.ids.len()), b.ids(m.ids.len()));
        b.write_ids(&mut ids, &m.ids);
        b.write_ids(&mut positions, &m.positions());
        let masks = trunk.masks(b, m.rule, m.shape.batch, &m.places, &m.places);
        // a forward is a third of a training step
        flops += trunk.train_flops(m.shape.rows(), trunk.pairs(b, &masks, m.shape.batch), n) / 3.0;
        trunk.forward(b, params, plan, &ids, &positions, &masks, m.shape);

        let picks = masked.iter().enumerate().flat_map(|(r, p)| p.picks.iter().map(move |k| (r, k.column)));
        let keys: Vec<u32> = picks
            .flat_map(|(r, column)| {
                let row = chunk * micro + r;
                [(row * packing.length) as u32 + column, step as u32, 1, c.mask_id]
            })
            .collect();
        let d = c.head_width();
        b.write_ids(&mut scratch.rows, &m.hidden_rows);
        b.write_ids(&mut scratch.keys, &keys);
        b.gather(&plan.hidden, &scratch.rows, &mut scratch.gathered, n, d);
        let job = HeadJob {
            rows: n,
            width: d,
            vocab: c.vocab,
            top_k: 0,
            temperature: 1.0,
            seed: config.seed,
            forbid: c.forbid.clone(),
        };
        b.head(&scratch.gathered, params, trunk.layout.head, &scratch.keys, &mut scratch.stats, &job);
        let stats = b.read_range(&scratch.stats, 0, n * STATS);
        let mut drawn = stats.chunks_exact(STATS).map(|row| RowHead::decode(row, 0).candidate);
        for (row, p) in rows.iter().zip(plans) {
            for pick in p.picks.iter_mut().filter(|k| k.kind == Kind::Replaced) {
                let (column, id) = (pick.column as usize, drawn.next().expect("one draw a pick"));
                p.noisy[column] = id;
                if id == row.tokens[column] {
                    pick.kind = Kind::Kept;
                }
            }
        }
    }
    flops
}

/// The row with every replaced token masked, and only these supervised.
fn only_drafts(p: &RowPlan, mask_id: u32) -> RowPlan {
    let picks: Vec<_> = p.picks.iter().copied().filter(|k| k.kind == Kind::Replaced).collect();
    let mut noisy = p.noisy.clone();
    picks.iter().for_each(|k| noisy[k.column as usize] = mask_id);
    RowPlan { noisy, picks, counted: p.counted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Packed;
    use crate::diffusion::batch::assemble;
    use crate::diffusion::corruption::Pick;
    use hilda_kernels::Cpu;
    use hilda_kernels::head::LossRow;

    const L: usize = 8;
    const COLUMN: u32 = 5;

    /// Draws follow the model's distribution at the masked position; right ones become kept tokens, others stay replaced.
    #[test]
    fn drafts_are_draws_from_the_model() {
        let config = RunConfig::from_toml(
            "name = \"t\"\n[model]\nwidth = 16\nlayers = 2\nheads = 2\nmlp = 24\n[data]\ntrain = \"x\"\n\
             packing = { length = 8 }\n[batch]\nrows = 64\nmicro = 32\n[[phase]]\nobjective = \"block\"\n\
             block_size = 4\nshift = true\ntokens = 512\nlr = { peak = 1e-3 }\n\
             edit = { rate = 0.5, noise = \"drafts\" }\n",
        )
        .expect("a recipe");
        let packing = config.data.packing;
        let build = |r: &[Row], p: &[RowPlan], n: Normaliser| assemble(r, p, &packing, Some(4), true, n);
        let shape = config.model.resolve(9, 1, 0, vec![1]).expect("a shape");
        let trunk = Trunk::new(shape.clone());
        let params: Vec<f32> =
            trunk.layout.init(&shape, 11).iter().map(|x| if *x == 1.0 { 1.0 } else { 12.0 * x }).collect();
        let x: Vec<u32> = vec![2, 4, 3, 8, 5, 6, 7, 2];
        let data =
            Packed { rows: x.repeat(64), length: L, eos: 0, documents: 64, tokens: 64 * L, answers: vec![] };
        let rows: Vec<Row> = (0..64).map(|i| data.row(i)).collect();
        let pick = Pick { column: COLUMN, kind: Kind::Replaced, weight: 1.0 };
        let wrong = RowPlan { noisy: x.clone(), picks: vec![pick], counted: L - 1 };
        let mut plan = trunk.plan(&Cpu, 32 * 2 * L, false);
        let mut scratch = Scratch::<Cpu>::new(&Cpu, &trunk, 32 * L);

        // exact probabilities, by one row for each target
        let masked = only_drafts(&wrong, 1);
        let norm = Normaliser { masked: 0.0, replaced: 1.0, kept: 0.0 };
        let m = build(&rows[..1], &[masked], norm);
        let masks = trunk.masks(&Cpu, m.rule, 1, &m.places, &m.places);
        trunk.forward(&Cpu, &params, &mut plan, &m.ids, &m.positions(), &masks, m.shape);
        let targets: Vec<LossRow> = (0..9).map(|target| LossRow { target, ..Default::default() }).collect();
        let (log_p, _) = trunk.log_probs(&Cpu, &params, &plan, &[m.hidden_rows[0]; 9], &targets);

        let (mut seen, steps) = ([0f64; 9], 40);
        for step in 0..steps {
            let mut plans = vec![wrong.clone(); 64];
            let flops = draft(
                &Cpu,
                &trunk,
                &params,
                &mut plan,
                &mut scratch,
                &config,
                &rows,
                &build,
                &mut plans,
                step,
            );
            assert!(flops > 0.0);
            for p in &plans {
                let id = p.noisy[COLUMN as usize];
                seen[id as usize] += 1.0;
                assert_eq!(p.picks[0].kind == Kind::Kept, id == x[COLUMN as usize]);
                let others = (0..L).filter(|i| *i != COLUMN as usize);
                assert!(others.into_iter().all(|i| p.noisy[i] == x[i]), "only the chosen token changes");
            }
        }
        let n = (steps * 64) as f64;
        assert_eq!(seen[1], 0.0, "the mask is never drawn");
        for (id, count) in seen.iter().enumerate().filter(|(id, _)| *id != 1) {
            let p = (log_p[id] as f64).exp();
            let error = (p * (1.0 - p) / n).sqrt();
            assert!((count / n - p).abs() < 4.0 * error + 1e-9, "{id}: {} of {p}", count / n);
        }
        assert!(seen.iter().filter(|c| **c > 0.0).count() > 2, "a distribution, not one token: {seen:?}");
    }
}
