//! The trainer against candle's autograd, built from basic operations only (its fused norms, softmax and rotary
//! embedding have no backward pass): the gradient of every tensor under every objective, and ten optimiser steps.

use std::path::Path;

use candle_core::{D, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use hilda_engine::config::{Mlp, ModelConfig, ModelSpec, RunConfig};
use hilda_engine::data::{Packed, Row};
use hilda_engine::diffusion::Micro;
use hilda_engine::model::{Keep, Layout, Shape, Trunk, checkpoint::parse_config};
use hilda_engine::train::memory::plan_rows;
use hilda_engine::train::schedule::rate;
use hilda_engine::train::step::{Learner, micro_batches, rows_of_step};
use hilda_kernels::head::LossRow;
use hilda_kernels::{At, Base, Cpu, MaskRule, Place};
use serde::{Deserialize, Serialize};

fn recipe(phase: &str) -> RunConfig {
    RunConfig::from_toml(&format!(
        "name = \"g\"\n[model]\nwidth = 16\nlayers = 2\nheads = 4\nkv_heads = 2\nmlp = 24\n[data]\ntrain = \"x\"\n\
         packing = {{ length = 24 }}\n[batch]\nrows = 3\nmicro = 3\n[sample]\nlength = 0\n[[phase]]\n{phase}\ntokens = 100000\nlr = {{ peak = 1e-2 }}"
    ))
    .unwrap()
}

struct Oracle<'a> {
    trunk: &'a Trunk,
    params: Var,
}

impl Oracle<'_> {
    fn tensor(&self, at: At, shape: &[usize]) -> Tensor {
        self.params.as_tensor().narrow(0, at.offset, at.len).unwrap().reshape(shape).unwrap()
    }
    fn norm(&self, x: &Tensor, w: At, b: Option<At>) -> Tensor {
        let c = &self.trunk.config;
        let x = match c.arch.layer_norm && w.len == c.width {
            true => x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap(),
            false => x.clone(),
        };
        let s =
            (x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + c.norm_eps as f64).unwrap().sqrt().unwrap();
        let y = x.broadcast_div(&s).unwrap().broadcast_mul(&self.tensor(w, &[w.len])).unwrap();
        b.map_or(y.clone(), |b| y.broadcast_add(&self.tensor(b, &[b.len])).unwrap())
    }
    fn linear(&self, x: &Tensor, w: At, b: Option<At>, out: usize) -> Tensor {
        let k = w.len / out;
        let y = x.matmul(&self.tensor(w, &[out, k]).t().unwrap()).unwrap();
        b.map_or(y.clone(), |b| y.broadcast_add(&self.tensor(b, &[out])).unwrap())
    }
    /// Norm of every head of [rows, heads * hd].
    fn heads_norm(&self, x: &Tensor, w: Option<At>) -> Tensor {
        let Some(w) = w else { return x.clone() };
        let (rows, cols) = x.dims2().unwrap();
        let split = x.reshape((rows, cols / w.len, w.len)).unwrap();
        self.norm(&split, w, None).reshape((rows, cols)).unwrap()
    }
    /// [rows, heads * hd] -> rotated [heads, rows, hd]
    fn heads(&self, x: &Tensor, heads: usize, rotate: Option<(&[u32], f32)>) -> Tensor {
        let hd = self.trunk.config.head_dim;
        let rows = x.dim(0).unwrap();
        let x = x.reshape((rows, heads, hd)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
        let Some((positions, theta)) = rotate else { return x };
        let half = hd / 2;
        let angle = |f: fn(f32) -> f32| -> Tensor {
            let v: Vec<f32> = positions
                .iter()
                .flat_map(|p| (0..half).map(move |i| (*p, i)))
                .map(|(p, i)| f(p as f32 * theta.powf(-2.0 * i as f32 / hd as f32)))
                .collect();
            Tensor::from_vec(v, (1, rows, half), &Device::Cpu).unwrap()
        };
        let (sin, cos) = (angle(f32::sin), angle(f32::cos));
        let (a, b) = (x.narrow(2, 0, half).unwrap(), x.narrow(2, half, half).unwrap());
        let first = (a.broadcast_mul(&cos).unwrap() - b.broadcast_mul(&sin).unwrap()).unwrap();
        let second = (b.broadcast_mul(&cos).unwrap() + a.broadcast_mul(&sin).unwrap()).unwrap();
        Tensor::cat(&[first, second], 2).unwrap()
    }
    fn softmax(z: &Tensor) -> Tensor {
        let e = z.broadcast_sub(&z.max_keepdim(D::Minus1).unwrap().detach()).unwrap().exp().unwrap();
        e.broadcast_div(&e.sum_keepdim(D::Minus1).unwrap()).unwrap()
    }
    /// Log-probabilities [supervised rows, vocabulary] of a micro-batch; forbidden ids near minus infinity.
    fn log_softmax(&self, m: &Micro) -> Tensor {
        let (c, l) = (&self.trunk.config, &self.trunk.layout);
        let len = m.shape.len;
        let embed = self.tensor(l.embed, &[c.vocab, c.width]);
        let mut hidden = vec![];
        for s in 0..m.shape.batch {
            let (ids, places) = (&m.ids[s * len..][..len], &m.places[s * len..][..len]);
            let positions: Vec<u32> = places.iter().map(|p| p.position).collect();
            let mask = |rule: MaskRule| {
                let open = |q: &Place, k: &Place| if rule.allowed(*q, *k) { 0f32 } else { -1e9 };
                let mask: Vec<f32> =
                    places.iter().flat_map(|q| places.iter().map(move |k| open(q, k))).collect();
                Tensor::from_vec(mask, (1, len, len), &Device::Cpu).unwrap()
            };
            let mut x = embed.index_select(&Tensor::new(ids, &Device::Cpu).unwrap(), 0).unwrap();
            x = (x * c.arch.embed_scale as f64).unwrap();
            for (i, w) in l.layers.iter().enumerate() {
                let slides = c.arch.sliding.as_ref().filter(|s| s.layers[i]);
                let mask = mask(MaskRule { window: slides.map(|s| s.window), ..m.rule });
                let rotate = Some((&positions[..], slides.map_or(c.rope_theta, |s| s.rope_theta)));
                let h = self.norm(&x, w.norm1, w.norm1_bias);
                let qkv = self.linear(&h, w.qkv, w.qkv_bias, c.qkv());
                let (nq, nk) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
                let q =
                    self.heads(&self.heads_norm(&qkv.narrow(1, 0, nq).unwrap(), w.q_norm), c.heads, rotate);
                let k = self.heads(
                    &self.heads_norm(&qkv.narrow(1, nq, nk).unwrap(), w.k_norm),
                    c.kv_heads,
                    rotate,
                );
                let v = self.heads(&qkv.narrow(1, nq + nk, nk).unwrap(), c.kv_heads, None);
                let group: Vec<u32> = (0..c.heads).map(|h| (h / (c.heads / c.kv_heads)) as u32).collect();
                let group = Tensor::new(group, &Device::Cpu).unwrap();
                let (k, v) = (k.index_select(&group, 0).unwrap(), v.index_select(&group, 0).unwrap());
                let scale = c.attention_scale() as f64;
                let z = (q.matmul(&k.transpose(1, 2).unwrap()).unwrap() * scale).unwrap();
                let p = Self::softmax(&z.broadcast_add(&mask).unwrap());
                let o = p.matmul(&v).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
                let o = o.reshape((len, nq)).unwrap();
                let behind = |y: Tensor, w: Option<At>| w.map_or(y.clone(), |w| self.norm(&y, w, None));
                x = (x + behind(self.linear(&o, w.out, w.out_bias, c.width), w.post1)).unwrap();
                let h = self.norm(&x, w.norm2, w.norm2_bias);
                let gu = self.linear(&h, w.gate_up, w.up_bias, c.mlp_in());
                let g = gu.narrow(1, 0, c.mlp).unwrap();
                let act = match c.arch.mlp {
                    Mlp::Gelu => g.gelu().unwrap(),
                    kind => {
                        let f = match kind {
                            Mlp::GeGlu => g.gelu().unwrap(),
                            _ => (&g / (g.neg().unwrap().exp().unwrap() + 1.0).unwrap()).unwrap(),
                        };
                        (f * gu.narrow(1, c.mlp, c.mlp).unwrap()).unwrap()
                    }
                };
                x = (x + behind(self.linear(&act, w.down, w.down_bias, c.width), w.post2)).unwrap();
            }
            hidden.push(self.norm(&x, l.norm, l.norm_bias));
        }
        let hidden = Tensor::cat(&hidden, 0).unwrap();
        let rows =
            hidden.index_select(&Tensor::new(m.hidden_rows.as_slice(), &Device::Cpu).unwrap(), 0).unwrap();
        let head = self.tensor(l.head, &[c.vocab, c.head_width()]);
        let weight = head.narrow(1, 0, c.width).unwrap().contiguous().unwrap();
        let mut z = rows.matmul(&weight.t().unwrap()).unwrap();
        if c.arch.head_bias {
            z = z.broadcast_add(&head.narrow(1, c.width, 1).unwrap().t().unwrap()).unwrap();
        }
        let forbid: Vec<f32> =
            (0..c.vocab as u32).map(|v| if c.forbid.contains(&v) { -1e9 } else { 0.0 }).collect();
        let z = z.broadcast_add(&Tensor::from_vec(forbid, (1, c.vocab), &Device::Cpu).unwrap()).unwrap();
        let max = z.max_keepdim(1).unwrap().detach();
        let lse = (z.broadcast_sub(&max).unwrap().exp().unwrap().sum_keepdim(1).unwrap().log().unwrap()
            + max)
            .unwrap();
        z.broadcast_sub(&lse).unwrap()
    }
    /// Log-probabilities of the targets [supervised rows].
    fn log_p(&self, m: &Micro) -> Tensor {
        let target: Vec<u32> = m.rows.iter().map(|r| r.target).collect();
        let target = Tensor::from_vec(target, (m.rows.len(), 1), &Device::Cpu).unwrap();
        self.log_softmax(m).gather(&target, 1).unwrap().squeeze(1).unwrap()
    }
    /// Weighted KL + r - ln r - 1 under mixed noise, summed: what `q` says of the truth against what it says of the model.
    fn mixed(&self, m: &Micro) -> Tensor {
        let (n, vocab) = (m.rows.len(), self.trunk.config.vocab);
        let table = |f: &dyn Fn(usize, u32) -> f32| {
            let v: Vec<f32> = (0..n * vocab).map(|i| f(i / vocab, (i % vocab) as u32)).collect();
            Tensor::from_vec(v, (n, vocab), &Device::Cpu).unwrap()
        };
        let forbid = &self.trunk.config.forbid;
        let noise = |r: usize| m.rows[r].mixture.unwrap();
        let truth =
            |r: usize, v: u32| noise(r).beta + if v == m.rows[r].target { noise(r).alpha } else { 0.0 };
        let p = self.log_softmax(m).exp().unwrap();
        let q = ((p * table(&|r, _| noise(r).alpha)).unwrap() + table(&|r, _| noise(r).beta)).unwrap();
        let live = table(&|r, v| if forbid.contains(&v) { 0.0 } else { truth(r, v) });
        let kl = (live * (table(&truth).log().unwrap() - q.log().unwrap()).unwrap()).unwrap();
        let ratio = (table(&truth) / q).unwrap();
        let seen = table(&|r, v| f32::from(u8::from(noise(r).observed == Some(v))));
        let excess = (((ratio.clone() - ratio.log().unwrap()).unwrap() - 1.0).unwrap() * seen).unwrap();
        let weight = table(&|r, _| noise(r).weight);
        ((kl + excess).unwrap() * weight).unwrap().sum_all().unwrap()
    }
    /// The objective's value of one micro-batch.
    fn value(&self, m: &Micro) -> Tensor {
        if m.rows.iter().any(|r| r.mixture.is_some()) {
            return self.mixed(m);
        }
        let c: Vec<f32> = m.rows.iter().map(|r| r.d_log_p).collect();
        (self.log_p(m) * Tensor::new(c, &Device::Cpu).unwrap()).unwrap().sum_all().unwrap()
    }
    /// MDLM's loss (arXiv 2406.07524, eq. 10, linear schedule) from what a step dumped:
    /// mean over all tokens of -ln p(x_0 | x_t) / t at the masked ones.
    fn mdlm(&self, dump: &Dump) -> Tensor {
        let (batch, len) = (dump.x_0.len(), dump.x_0[0].len());
        let mut m = Micro {
            ids: dump.x_t.concat(),
            places: vec![],
            rule: Base::Bidirectional.into(),
            shape: Shape { batch, len },
            hidden_rows: vec![],
            rows: vec![],
            sequence: vec![],
            confidence: 0.0,
        };
        let mut weights = vec![];
        for s in 0..batch {
            for n in 0..len {
                m.places.push(Place { position: n as u32, document: 0, block: 0, stream: 0 });
                if dump.x_t[s][n] == self.trunk.config.mask_id {
                    m.hidden_rows.push((s * len + n) as u32);
                    m.rows.push(LossRow { target: dump.x_0[s][n], ..Default::default() });
                    weights.push((-1.0 / dump.t[s] / (batch * len) as f64) as f32);
                }
            }
        }
        (self.log_p(&m) * Tensor::new(weights, &Device::Cpu).unwrap()).unwrap().sum_all().unwrap()
    }
}

/// What one step saw.
#[derive(Serialize, Deserialize)]
struct Dump {
    x_0: Vec<Vec<u32>>,
    x_t: Vec<Vec<u32>>,
    /// mask rate of each row
    t: Vec<f64>,
}

/// A row holds two documents and a bit, so that boundaries matter.
fn data(vocab: u32) -> Packed {
    let rows = (0..72u32).map(|i| if i % 11 == 7 { 0 } else { 3 + (i * 7919) % (vocab - 3) }).collect();
    Packed { rows, length: 24, eos: 0, documents: 7, tokens: 72, answers: vec![] }
}

#[test]
fn every_objective_matches_candle() {
    let edit = "edit = { mix = 1.0, rate = 0.5, lambda_edit = 1.0, lambda_keep = 0.3 }";
    for phase in [
        "objective = \"ar\"".to_string(),
        "objective = \"mdlm\"".into(),
        format!("objective = \"mdlm\"\nshift = true\n{edit}"),
        "objective = \"block\"\nblock_size = 4".into(),
        format!("objective = \"block\"\nblock_size = 8\nshift = true\n{edit}"),
        "objective = \"block\"\nblock_size = 0\nshift = true".into(),
        "objective = \"mdlm\"\nshift = true\nanneal = 20".into(),
        "objective = \"mdlm\"\ncomplementary = true\nanneal = 5".into(),
        "objective = \"block\"\nblock_size = 4\nshift = true\ncomplementary = true".into(),
        "objective = \"mdlm\"\nhybrid = { p_uniform = 0.2 }".into(),
        "objective = \"mdlm\"\nshift = true\nhybrid = { p_uniform = 1.0, weighting = \"clip\" }".into(),
        "objective = \"block\"\nblock_size = 4\nshift = true\nhybrid = { p_uniform = 0.3, weighting = \"nelbo\" }".into(),
    ] {
        let config = recipe(&phase);
        let model =
            ModelSpec { context: Some(24), ..config.model.clone() }.resolve(37, 1, 0, vec![1, 2]).unwrap();
        check(&phase, &config, model);
    }
}

/// An annealed phase starts nearly causal, draws other edges each step, and is open from step `anneal` on.
#[test]
fn attention_opens_over_the_annealed_steps() {
    let config = recipe("objective = \"mdlm\"\nshift = true\nanneal = 10");
    let model =
        ModelSpec { context: Some(24), ..config.model.clone() }.resolve(37, 1, 0, vec![1, 2]).unwrap();
    let (trunk, data) = (Trunk::new(model), data(37));
    let rows: Vec<Row> = (0..3).map(|i| data.row(i)).collect();
    let open = |step: u64| {
        let m = micro_batches(&config, &trunk, &config.phases[0], &rows, step).remove(0);
        let pairs = m.places[..24].iter().flat_map(|q| m.places[..24].iter().map(move |k| (*q, *k)));
        let future = pairs.filter(|(q, k)| q.document == k.document && k.position > q.position);
        future.map(|(q, k)| m.rule.allowed(q, k)).collect::<Vec<bool>>()
    };
    let share = |edges: &[bool]| edges.iter().filter(|e| **e).count() as f64 / edges.len() as f64;
    let shares: Vec<f64> = (0..10).map(|s| share(&open(s))).collect();
    assert!(shares[0] < 0.25 && shares[4] > 0.3 && shares[4] < 0.7 && shares[9] == 1.0, "{shares:?}");
    assert_ne!(open(4), open(5));
    assert_eq!(share(&open(40)), 1.0);
}

/// Every family of published models: what it adds to the backbone has a gradient, and the right one.
#[test]
fn every_family_matches_candle() {
    let shared = r#""vocab_size":37,"hidden_size":16,"num_attention_heads":4,"num_key_value_heads":2,
        "intermediate_size":24,"num_hidden_layers":3,"max_position_embeddings":24,"mask_token_id":1,"head_dim":6"#;
    let dit = r#"{"model_type":"mdlm","vocab_size":37,"hidden_dim":16,"n_heads":4,"n_blocks":2,"model_length":24,
        "mask_id":1,"eos_token_id":0}"#;
    let gemma = r#""layer_types":["sliding_attention","full_attention","sliding_attention"],"sliding_window":4,
        "rope_parameters":{"sliding_attention":{"rope_theta":100.0},"full_attention":{"rope_theta":1e4}}"#;
    for (family, json) in [
        ("qwen2", format!(r#"{{"model_type":"qwen2",{shared}}}"#)),
        ("qwen3", format!(r#"{{"model_type":"qwen3",{shared}}}"#)),
        ("gemma3", format!(r#"{{"model_type":"gemma3_text",{shared},{gemma}}}"#)),
        ("dit", dit.to_string()),
    ] {
        for phase in ["objective = \"mdlm\"", "objective = \"block\"\nblock_size = 4\nshift = true"] {
            let (mut model, _) = parse_config(&json).unwrap();
            model.forbid = vec![1, 2];
            check(&format!("{family}: {phase}"), &recipe(phase), model);
        }
    }
}

fn check(what: &str, config: &RunConfig, model: ModelConfig) {
    let trunk = Trunk::new(model);
    let params: Vec<f32> = Layout::new(&trunk.config)
        .init(&trunk.config, 5)
        .iter()
        .enumerate()
        .map(|(i, p)| match *p {
            1.0 => 0.9 + 0.2 * (i % 3) as f32,
            // biases start at zero; here they do something
            0.0 if trunk.config.arch != Default::default() => 0.05 * ((i * 7919 % 13) as f32 - 6.0),
            p => 8.0 * p,
        })
        .collect();
    let data = data(37);
    let rows: Vec<Row> = (0..3).map(|i| data.row(i)).collect();
    let micro = micro_batches(config, &trunk, &config.phases[0], &rows, 3).remove(0);
    assert!(!micro.rows.is_empty());
    let mut learner = Learner::new(Cpu, trunk.clone(), &params, plan_rows(config));
    learner.zero_grads();
    let (value, _) = learner.accumulate(&micro);
    let got = learner.gradient();
    // layers computed once more in the backward pass change no bit
    let mut again = Learner::adapted(Cpu, trunk.clone(), &params, plan_rows(config), Keep::Inputs, None);
    again.zero_grads();
    assert_eq!(again.accumulate(&micro).0.to_bits(), value.to_bits(), "{what}: value of a recomputing step");
    let same = again.gradient().iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "{what}: recomputed layers give another gradient");
    assert!(again.bytes() < learner.bytes(), "{what}: {} bytes", again.bytes());

    let var =
        Var::from_tensor(&Tensor::from_vec(params.clone(), params.len(), &Device::Cpu).unwrap()).unwrap();
    let oracle = Oracle { trunk: &trunk, params: var };
    let want = oracle.value(&micro);
    let grads = want.backward().unwrap();
    let want_grad = grads.get(oracle.params.as_tensor()).unwrap().to_vec1::<f32>().unwrap();
    let want = want.to_scalar::<f32>().unwrap() as f64;
    assert!((value - want).abs() < 1e-5 * want.abs(), "{what}: value {value} against {want}");
    for t in trunk.layout.named(&trunk.config) {
        let (g, w) = (&got[t.at.offset..][..t.at.len], &want_grad[t.at.offset..][..t.at.len]);
        let scale = w.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = g.iter().zip(w).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(scale > 0.0, "{what}: {} has no gradient", t.name);
        assert!(worst <= 2e-4 * scale + 1e-7, "{what}: {}: {worst} of {scale}", t.name);
    }
}

/// Ten steps of the parity recipe on a smaller model, dumping x_t and t; then the same ten from the dumps alone, with
/// candle's autograd and candle's AdamW. Loss and gradient norm (before clipping) of every step must agree within
/// 1e-5 of their values, the weights after the last step within 1e-4; they moved by about 1e-2
/// (looser, because Adam divides by the gradient's own size: rounding moves weights whose gradient is nearly none).
#[test]
fn ten_mdlm_steps_match_candle() {
    const STEPS: u64 = 10;
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/parity-mdlm-9m.toml");
    let mut config = RunConfig::from_toml(&std::fs::read_to_string(recipe).unwrap()).unwrap();
    config.model.size = Some("tiny".into());
    config.batch.rows = 4;
    config.data.packing.length = 32;
    // full strength from the first step, so that ten steps move the weights
    config.phases[0].lr.warmup = 0;
    let (vocab, phase) = (37, &config.phases[0]);
    let model =
        ModelSpec { context: Some(32), ..config.model.clone() }.resolve(vocab, 1, 0, vec![1, 2]).unwrap();
    let trunk = Trunk::new(model);
    let params = trunk.layout.init(&trunk.config, config.seed);
    let text = (0..32 * 32u32).map(|i| 3 + (i * i / 7 + i) % (vocab as u32 - 3)).collect();
    let data = Packed { rows: text, length: 32, eos: 0, documents: 1, tokens: 32 * 32, answers: vec![] };
    let lr = |step| rate(&phase.lr, step, STEPS);

    let dumps = tempfile::tempdir().unwrap();
    let file = |step: u64| dumps.path().join(format!("step-{step}.json"));
    let mut learner = Learner::new(Cpu, trunk.clone(), &params, plan_rows(&config));
    let mut ours = vec![];
    for step in 0..STEPS {
        let indices = rows_of_step(config.seed, data.len(), config.batch.rows, step);
        let rows: Vec<Row> = indices.iter().map(|i| data.row(*i as usize)).collect();
        let micros = micro_batches(&config, &trunk, phase, &rows, step);
        let (mut x_t, mut t) = (vec![], vec![]);
        for m in &micros {
            x_t.extend(m.ids.chunks(m.shape.len).map(<[u32]>::to_vec));
            // a row in which nothing is masked has no rate, and no loss
            t.extend((0..m.shape.batch).map(|s| {
                let first = m.sequence.iter().position(|of| *of as usize == s);
                first.map_or(1.0, |i| -1.0 / (m.rows[i].d_log_p as f64 * (4 * 32) as f64))
            }));
        }
        let dump = Dump { x_0: rows.iter().map(|r| r.tokens.to_vec()).collect(), x_t, t };
        std::fs::write(file(step), serde_json::to_vec(&dump).unwrap()).unwrap();
        let report = learner.step(&config, &data, phase, lr(step), step);
        ours.push((report.loss, report.grad_norm));
    }

    let var = Var::from_tensor(&Tensor::new(params.as_slice(), &Device::Cpu).unwrap()).unwrap();
    let o = config.optimiser;
    let (beta1, beta2) = (o.betas[0], o.betas[1]);
    let adam = ParamsAdamW { lr: 0.0, beta1, beta2, eps: o.eps, weight_decay: o.weight_decay };
    let mut adam = AdamW::new(vec![var.clone()], adam).unwrap();
    let oracle = Oracle { trunk: &trunk, params: var.clone() };
    let (mut worst_loss, mut worst_norm, mut clipped) = (0f64, 0f64, 0);
    for (step, (our_loss, our_norm)) in ours.iter().enumerate() {
        let dump: Dump = serde_json::from_slice(&std::fs::read(file(step as u64)).unwrap()).unwrap();
        let loss = oracle.mdlm(&dump);
        let mut grads = loss.backward().unwrap();
        let gradient = grads.remove(&var).unwrap();
        let square: f64 = gradient.to_vec1::<f32>().unwrap().iter().map(|g| (*g as f64).powi(2)).sum();
        let (loss, norm) = (loss.to_scalar::<f32>().unwrap() as f64, square.sqrt());
        println!("step {}: loss {our_loss:.6} {loss:.6}, gradient norm {our_norm:.6} {norm:.6}", step + 1);
        worst_loss = worst_loss.max((our_loss - loss).abs() / loss);
        worst_norm = worst_norm.max((our_norm - norm).abs() / norm);
        clipped += usize::from(norm > o.clip);
        let scale = if norm > o.clip { o.clip / (norm + 1e-6) } else { 1.0 };
        grads.insert(&var, (gradient * scale).unwrap());
        adam.set_learning_rate(lr(step as u64));
        adam.step(&grads).unwrap();
    }
    println!("largest relative differences: loss {worst_loss:.1e}, gradient norm {worst_norm:.1e}");
    assert!(worst_loss < 1e-5 && worst_norm < 1e-5, "loss {worst_loss:e}, gradient norm {worst_norm:e}");
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let theirs = var.as_tensor().to_vec1::<f32>().unwrap();
    let (apart, moved) = (far(&learner.params, &theirs), far(&learner.params, &params));
    println!("weights: {apart:.1e} apart after moving by {moved:.1e}");
    assert!(
        apart < 1e-4 && moved > 3e-3 && clipped > 0,
        "{apart:e} apart, moved {moved:e}, {clipped} clipped"
    );
}
