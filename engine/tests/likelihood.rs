//! Estimators against exact enumeration, and the two-stream forward against the cached session.

use std::sync::Arc;

use hilda_engine::config::{ModelConfig, ModelSpec, PackingSpec};
use hilda_engine::data::{Packed, places};
use hilda_engine::decode::{Attention, CacheOp, ForwardRequest, Want};
use hilda_engine::diffusion::RowPlan;
use hilda_engine::diffusion::batch::{Normaliser, assemble};
use hilda_engine::diffusion::corruption::{Kind, Pick};
use hilda_engine::diffusion::likelihood::{Estimator, Evaluation, evaluate, plan_rows};
use hilda_engine::model::session::Weights;
use hilda_engine::model::{Layout, LoadedModel, Serving, Session, Trunk};
use hilda_kernels::head::LossRow;
use hilda_kernels::{Base, Cpu};

const STREAM: PackingSpec =
    PackingSpec { length: 8, documents: false, restart_positions: false, restart_blocks: false };

fn model(vocab: usize, context: usize) -> (ModelConfig, Vec<f32>) {
    let spec = ModelSpec {
        width: Some(16),
        layers: Some(2),
        heads: Some(2),
        mlp: Some(24),
        context: Some(context),
        ..Default::default()
    };
    let c = spec.resolve(vocab, 1, 0, vec![1]).unwrap();
    let p = Layout::new(&c).init(&c, 11).iter().map(|x| if *x == 1.0 { 1.0 } else { 12.0 * x }).collect();
    (c, p)
}

/// -ln p of chosen tokens under one forward of `plan`ned noise.
fn nll(
    trunk: &Trunk,
    params: &Vec<f32>,
    x: &[u32],
    masked: &[usize],
    block: Option<usize>,
    shift: bool,
) -> Vec<f64> {
    let b = Cpu;
    let data = Packed {
        rows: x.to_vec(),
        length: x.len(),
        eos: u32::MAX,
        documents: 1,
        tokens: x.len(),
        answers: vec![],
    };
    let row = data.row(0);
    let mut noisy = x.to_vec();
    masked.iter().for_each(|i| noisy[*i] = 1);
    let picks = masked.iter().map(|i| Pick { column: *i as u32, kind: Kind::Masked, weight: 1.0 }).collect();
    let plan = RowPlan { noisy, picks, counted: x.len() };
    let norm = Normaliser { masked: 1.0, replaced: 0.0, kept: 0.0 };
    let packing = PackingSpec { length: x.len(), ..STREAM };
    let m = assemble(&[row], &[plan], &packing, block, shift, norm);
    let mut p = trunk.plan(&b, 2 * x.len(), false);
    let mask = trunk.masks(&b, m.rule, 1, &m.places, &m.places);
    trunk.forward(&b, params, &mut p, &m.ids, &m.positions(), &mask, m.shape);
    let (lp, _) = trunk.log_probs(&b, params, &p, &m.hidden_rows, &m.rows);
    lp.iter().map(|l| -*l as f64).collect()
}

/// sum over subsets S of the maskable positions of w(|S|) sum of -ln p, w(n) = (n-1)! (L-n)! / L!
/// (`methods/mdlm.md` 2.4).
fn exact(
    trunk: &Trunk,
    params: &Vec<f32>,
    x: &[u32],
    group: &[usize],
    block: Option<usize>,
    shift: bool,
) -> f64 {
    let l = group.len();
    let factorial = |n: usize| (1..=n).product::<usize>() as f64;
    let mut total = 0.0;
    for bits in 1u32..1 << l {
        let masked: Vec<usize> = (0..l).filter(|i| bits >> i & 1 == 1).map(|i| group[i]).collect();
        let n = masked.len();
        let w = factorial(n - 1) * factorial(l - n) / factorial(l);
        total += w * nll(trunk, params, x, &masked, block, shift).iter().sum::<f64>();
    }
    total
}

#[test]
fn estimators_agree_with_enumeration() {
    let (c, params) = model(7, 8);
    let trunk = Trunk::new(c);
    let x: Vec<u32> = vec![3, 5, 2, 6, 4, 2, 5, 3];
    for (block, shift) in [(None, false), (None, true), (Some(4), false), (Some(4), true), (Some(2), true)] {
        let groups: Vec<Vec<usize>> = match block {
            None => vec![(0..8).collect()],
            Some(b) => (0..8 / b).map(|g| (g * b..(g + 1) * b).collect()).collect(),
        };
        let groups: Vec<Vec<usize>> =
            groups.into_iter().map(|g| g.into_iter().filter(|i| !shift || *i > 0).collect()).collect();
        let counted: usize = groups.iter().map(Vec::len).sum();
        let want: f64 =
            groups.iter().map(|g| exact(&trunk, &params, &x, g, block, shift)).sum::<f64>() / counted as f64;
        let k = 64;
        let estimator = block.map_or(Estimator::NelboT { k }, |block| Estimator::NelboBlock { block, k });
        // many copies of the row: an average with its own error bar
        let n = 96;
        let data = Packed {
            rows: x.repeat(n),
            length: 8,
            eos: u32::MAX,
            documents: n,
            tokens: 8 * n,
            answers: vec![],
        };
        let e =
            Evaluation { estimator, seed: 4, shift, packing: STREAM, rows: 0, bytes_per_token: Some(2.0) };
        let mut plan = trunk.plan(&Cpu, plan_rows(estimator, 8), false);
        let got = evaluate(&Cpu, &trunk, &params, &mut plan, &data, &e, |_, _| true).unwrap();
        assert_eq!((got.tokens, got.rows), ((counted * n) as u64, n as u64));
        // the rate starts at 1e-3: a bias of the order of 1e-3 remains
        let tolerance = 4.0 * got.stderr + 2e-3 * want;
        assert!(
            (got.value - want).abs() < tolerance,
            "{}: {} ± {} against {want}",
            got.estimator,
            got.value,
            got.stderr
        );
    }
}

#[test]
fn uniform_model_scores_the_logarithm_of_the_vocabulary() {
    let (c, mut params) = model(7, 8);
    let trunk = Trunk::new(c);
    params[trunk.layout.embed.offset..][..trunk.layout.embed.len].fill(0.0);
    let data = Packed {
        rows: vec![3; 8 * 64],
        length: 8,
        eos: u32::MAX,
        documents: 1,
        tokens: 512,
        answers: vec![],
    };
    for (estimator, shift, counted) in [
        (Estimator::Ar, true, 7),
        (Estimator::NelboT { k: 32 }, false, 8),
        (Estimator::NelboBlock { block: 4, k: 32 }, true, 7),
    ] {
        let e = Evaluation { estimator, seed: 1, shift, packing: STREAM, rows: 0, bytes_per_token: None };
        let mut plan = trunk.plan(&Cpu, plan_rows(estimator, 8), false);
        let r = evaluate(&Cpu, &trunk, &params, &mut plan, &data, &e, |_, _| true).unwrap();
        assert_eq!(r.tokens, 64 * counted);
        let want = 6f64.ln();
        assert!(
            (r.value - want).abs() < 4.0 * r.stderr + 0.01,
            "{}: {} ± {}",
            r.estimator,
            r.value,
            r.stderr
        );
    }
}

/// `methods/block_diffusion.md` 5.2: vectorised rows == rows of the cached sampler, for the same block state.
#[test]
fn two_streams_equal_the_cached_session() {
    let (c, params) = model(9, 16);
    let trunk = Trunk::new(c.clone());
    let x: Vec<u32> = (0..16).map(|i| 2 + (i * 5) % 7).collect();
    for shift in [false, true] {
        let serving = Serving {
            attention: Attention::BlockCausal,
            block_size: 4,
            shift,
            infill: false,
            edits: false,
            uniform: false,
        };
        let loaded = LoadedModel { config: c.clone(), serving, params: params.clone() };
        let mut session = Session::new(&Cpu, Arc::new(Weights::new(&Cpu, &loaded)), 16);
        for block in 0..4usize {
            let span: Vec<usize> = (4 * block..4 * block + 4).collect();
            let masked: Vec<usize> =
                span.iter().copied().filter(|i| i % 4 != 2 && (!shift || *i > 0)).collect();
            let want = nll(&trunk, &params, &x, &masked, Some(4), shift);
            let mut ids: Vec<u32> = span.iter().map(|i| x[*i]).collect();
            masked.iter().for_each(|i| ids[i - 4 * block] = 1);
            let mut request = ForwardRequest {
                sequence: 0,
                step: 0,
                query_positions: span.iter().map(|i| *i as u32).collect(),
                ids,
                rule: Base::BlockCausal.into(),
                block_size: 4,
                cache: CacheOp::None,
                compression: Default::default(),
                want: Want {
                    rows: masked.iter().map(|i| *i as u32).collect(),
                    top_k: 8,
                    ..Default::default()
                },
            };
            let stats = session.answer(&request).unwrap();
            for ((i, row), want) in masked.iter().zip(&stats.rows).zip(&want) {
                let p = row.top.iter().find(|t| t.0 == x[*i]).map(|t| t.1 as f64).unwrap();
                assert!(
                    (p - (-want).exp()).abs() < 1e-5,
                    "shift {shift}, position {i}: {p} {}",
                    (-want).exp()
                );
            }
            request.ids = span.iter().map(|i| x[*i]).collect();
            request.cache = CacheOp::Store;
            request.want.rows.clear();
            session.answer(&request).unwrap();
        }
    }
}

/// With one block the clean stream is unread: the same as whole-row masked diffusion (identity 3), and with block 1
/// and everything masked the shifted model is the autoregressive one (identity 4).
#[test]
fn the_ends_of_block_diffusion() {
    let (c, params) = model(9, 8);
    let trunk = Trunk::new(c);
    let x: Vec<u32> = vec![3, 5, 2, 6, 4, 2, 8, 3];
    let masked = [1usize, 3, 4, 7];
    let (a, b) =
        (nll(&trunk, &params, &x, &masked, None, false), nll(&trunk, &params, &x, &masked, Some(8), false));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
    let all: Vec<usize> = (1..8).collect();
    let block1: f64 = nll(&trunk, &params, &x, &all, Some(1), true).iter().sum::<f64>() / 7.0;
    let data = Packed { rows: x.clone(), length: 8, eos: u32::MAX, documents: 1, tokens: 8, answers: vec![] };
    let e = Evaluation {
        estimator: Estimator::Ar,
        seed: 0,
        shift: true,
        packing: STREAM,
        rows: 0,
        bytes_per_token: None,
    };
    let mut plan = trunk.plan(&Cpu, plan_rows(Estimator::Ar, 8), false);
    let ar = evaluate(&Cpu, &trunk, &params, &mut plan, &data, &e, |_, _| true).unwrap().value;
    assert!((block1 - ar).abs() < 1e-5, "{block1} {ar}");
}

/// A document packed behind another one is computed as if it were alone.
#[test]
fn documents_do_not_see_each_other() {
    let (c, params) = model(9, 16);
    let trunk = Trunk::new(c);
    let (first, second) = (vec![3u32, 4, 5, 6, 0], vec![7u32, 2, 3, 8, 4, 5, 6, 0]);
    let all = PackingSpec { length: 13, documents: true, restart_positions: true, restart_blocks: true };
    let packed: Vec<u32> = first.iter().chain(&second).copied().collect();
    let scores = |tokens: &[u32], picks: Vec<Pick>, block| {
        let data = Packed {
            rows: tokens.to_vec(),
            length: tokens.len(),
            eos: 0,
            documents: 1,
            tokens: tokens.len(),
            answers: vec![],
        };
        let mut noisy = tokens.to_vec();
        picks.iter().for_each(|p| noisy[p.column as usize] = 1);
        let plan = RowPlan { noisy, picks, counted: 4 };
        let norm = Normaliser { masked: 1.0, replaced: 0.0, kept: 0.0 };
        let m = assemble(&[data.row(0)], &[plan], &all, block, true, norm);
        let mut p = trunk.plan(&Cpu, 2 * tokens.len(), false);
        let mask = trunk.masks(&Cpu, m.rule, 1, &m.places, &m.places);
        trunk.forward(&Cpu, &params, &mut p, &m.ids, &m.positions(), &mask, m.shape);
        let rows: Vec<LossRow> = m.rows.clone();
        trunk.log_probs(&Cpu, &params, &p, &m.hidden_rows, &rows).0
    };
    let pick = |c: usize| Pick { column: c as u32, kind: Kind::Masked, weight: 1.0 };
    for block in [None, Some(4)] {
        let alone = scores(&second, [1, 3, 4, 6].map(pick).to_vec(), block);
        let behind = scores(&packed, [6, 8, 9, 11].map(pick).to_vec(), block);
        assert!(alone.iter().zip(&behind).all(|(a, b)| (a - b).abs() < 1e-5), "{alone:?} {behind:?}");
    }
    // the places say so, too
    let data = Packed { rows: packed, length: 13, eos: 0, documents: 2, tokens: 13, answers: vec![] };
    let p = places(&data.row(0), &all, 4, 0);
    assert!(p[4].document != p[5].document && p[5].position == 0 && p[5].block > p[4].block);
}
