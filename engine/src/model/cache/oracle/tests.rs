use super::*;
use crate::config::ModelSpec;
use crate::model::{Layout, LoadedModel, Serving};

fn weights() -> Weights<Cpu> {
    let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
    let mut config = spec.resolve(70, 69, 68, vec![69]).unwrap();
    (config.layers, config.heads, config.kv_heads, config.head_dim) = (2, 4, 2, 16);
    let params = Layout::new(&config).init(&config, 3).iter().map(|x| 5.0 * x).collect();
    let attention = Attention::BlockCausal;
    let serving =
        Serving { attention, block_size: 8, shift: true, infill: false, edits: false, uniform: false };
    Weights::of(LoadedModel { config, serving, params })
}

const WRITERS: [Writer; 2] = [
    Writer { attention: Attention::BlockCausal, block: 8, shift: true },
    Writer { attention: Attention::Causal, block: 1, shift: true },
];

fn text(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 31 + salt * 17 + i * i) % 68).collect()
}

/// From the kernel's own log-sum-exp and the layer's own output projection, one value at a time.
#[test]
fn the_oracle_by_brute_force() {
    let weights = weights();
    let c = &weights.trunk.config;
    let d = c.head_dim;
    for w in WRITERS {
        let (context, answer) = (text(16, 0), text(16, 1));
        let mut plan = weights.trunk.plan_keeping(&Cpu, 48, Keep::Activations);
        let seen = see(&weights, &w, &mut plan, &context, &answer, 4);
        let mut want = vec![vec![0f64; 16 * c.kv_heads]; c.layers];
        for share in [0.25, 0.5, 0.75, 1.0] {
            let rows = rows(&w, c.mask_id, &context, &answer, share, 4);
            forward(&weights, &mut plan, &rows);
            for layer in 0..c.layers {
                let at = &weights.trunk.layout.layers[layer];
                let (acts, h) = (&plan.layers[layer], inputs(&weights, &plan, layer, rows.ids.len()));
                for head in 0..c.heads {
                    let kv = head / 2;
                    for i in 0..16 {
                        let mut alone = vec![0.0; c.heads * d];
                        let v = &acts.qkv[i * c.qkv() + (c.heads + c.kv_heads + kv) * d..][..d];
                        alone[head * d..][..d].copy_from_slice(v);
                        let mut wv = vec![0.0; c.width];
                        Cpu.linear(&alone, &weights.params, at.out, &mut wv, 1, c.width, c.heads * d, false);
                        for j in rows.writers.clone() {
                            let q = &acts.qkv[j * c.qkv() + head * d..][..d];
                            let k = &acts.qkv[i * c.qkv() + (c.heads + kv) * d..][..d];
                            let z: f64 = q.iter().zip(k).map(|(a, b)| *a as f64 * *b as f64).sum();
                            let z = z * c.attention_scale() as f64 - acts.lse[j * c.heads + head] as f64;
                            let s = z.exp() * norm(&wv) / norm(&h[j * c.width..][..c.width]);
                            let best = &mut want[layer][i * c.kv_heads + kv];
                            *best = best.max(s);
                        }
                    }
                }
            }
        }
        for (y, want) in seen.y.iter().flatten().zip(want.iter().flatten()) {
            assert!((*y as f64 - want.max(FLOOR).ln()).abs() < 1e-3, "{y} {}", want.ln());
        }
    }
}

/// Hidden states of the context are those of the pass over clean tokens alone.
#[test]
fn states_are_those_of_the_clean_pass() {
    let weights = weights();
    let w = WRITERS[0];
    let (context, answer) = (text(16, 0), text(16, 1));
    let mut plan = weights.trunk.plan_keeping(&Cpu, 48, Keep::Activations);
    let seen = see(&weights, &w, &mut plan, &context, &answer, 4);
    let place = |p: usize| Place { position: p as u32, block: p as u32 / 8, ..Place::default() };
    let places = (0..16).map(place).collect();
    let alone = Rows { ids: context, places, rule: Base::BlockCausal.into(), writers: 0..0 };
    forward(&weights, &mut plan, &alone);
    for layer in 0..2 {
        let h = inputs(&weights, &plan, layer, 16);
        assert!(seen.h[layer].iter().zip(&h).all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + b.abs())));
    }
}

/// A linear law is found, up to the ridge.
#[test]
fn ridge_finds_a_linear_law() {
    let rng = Rng::new(1, Stream::Test, 0);
    let mut sums = Sums::new(3, 2);
    let law = [[0.5f32, -2.0, 1.0, 3.0], [1.5, 0.0, -0.5, -7.0]];
    for n in 0..4000 {
        let h: Vec<f32> = (0..3).map(|i| rng.normal(0, n, i) as f32 + i as f32).collect();
        let y = law.map(|w| w[3] + h.iter().zip(w).map(|(h, w)| h * w).sum::<f32>());
        sums.add(&h, &y);
    }
    for (got, want) in sums.solve(1.0).iter().zip(law) {
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 5e-3), "{got:?}");
    }
}

#[test]
fn a_fit_says_what_it_is_of() {
    let weights = weights();
    let texts: Vec<Vec<u32>> = (0..9).map(|i| text(40, i)).collect();
    let fitted = fit(&weights, WRITERS[0], &texts, 19, 0, |_| {}).unwrap();
    // random weights repeat nothing
    assert_eq!((fitted.target, fitted.context, fitted.documents), (Target::Continuation, 16, [8, 1]));
    assert!(fitted.repeat_accuracy < 0.5 && fitted.layers.iter().all(|l| l.r2 <= 1.0 && l.r2.is_finite()));
    let json = serde_json::to_vec(&fitted).unwrap();
    let c = &weights.trunk.config;
    let read = Surrogate::read(&json, c).unwrap();
    for (read, fitted) in read.layers.iter().zip(&fitted.layers) {
        assert_eq!(read.w, fitted.w);
        // a parsed double may differ in its last place
        assert!((read.r2 - fitted.r2).abs() < 1e-12);
    }
    assert_eq!(
        (read.target, read.context, read.documents),
        (fitted.target, fitted.context, fitted.documents)
    );
    let mut other = c.clone();
    other.layers += 1;
    assert!(Surrogate::read(&json, &other).unwrap_err().contains("3 layers"));
    let error = fit(&weights, WRITERS[0], &texts[..1], 16, 0, |_| {}).unwrap_err();
    assert_eq!(error, OracleError::Documents { found: 1, tokens: 32 });
    assert!(matches!(fit(&weights, WRITERS[0], &texts, 7, 0, |_| {}), Err(OracleError::Context { .. })));
    let whole = Writer { attention: Attention::Bidirectional, ..WRITERS[0] };
    assert_eq!(fit(&weights, whole, &texts, 16, 0, |_| {}).unwrap_err(), OracleError::Attention);
}
