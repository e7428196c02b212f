use super::*;
use crate::config::ModelSpec;
use crate::decode::{Attention, DecodeConfig, Decoder, Want, drive};
use crate::decode::{CacheOp, Shadow};
use crate::model::LoadedModel;
use crate::model::{Layout, Serving};
use hilda_kernels::Cpu;
use hilda_kernels::head::RowHead;
use hilda_kernels::head::{Filter, of_logits};

fn model(shift: bool) -> LoadedModel {
    deep(shift, 2)
}

fn deep(shift: bool, layers: usize) -> LoadedModel {
    let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
    let mut config = spec.resolve(70, 69, 68, vec![69]).unwrap();
    config.layers = layers;
    let params = Layout::new(&config).init(&config, 3).iter().map(|x| 6.0 * x).collect();
    let attention = Attention::BlockCausal;
    let serving = Serving { attention, block_size: 8, shift, infill: false, edits: false, uniform: false };
    LoadedModel { config, serving, params }
}

fn request(whole: Vec<u32>, temperature: f32) -> ForwardRequest {
    ForwardRequest {
        sequence: 1,
        step: 2,
        query_positions: (0..16).collect(),
        ids: (0..16).map(|i| if i > 8 { 69 } else { 3 * i }).collect(),
        rule: Attention::Bidirectional.rule(),
        block_size: 0,
        cache: CacheOp::None,
        compression: Default::default(),
        want: Want { rows: (1..16).collect(), top_k: 4, temperature, seed: 7, whole, shadow: None },
    }
}

/// Statistics computed from logits that came back are those of the head, on whatever device `answer` uses.
fn agree(shift: bool, mut answer: impl FnMut(&ForwardRequest) -> RowStats, tolerance: f32) {
    for temperature in [0.0, 0.8] {
        let plain = answer(&request(vec![], temperature));
        let stats = answer(&request(vec![9, 11, 15], temperature));
        assert_eq!((stats.rows.len(), stats.logits.len(), plain.logits.len()), (15, 3 * 70, 0));
        for (i, p) in [9u32, 11, 15].into_iter().enumerate() {
            let head = &stats.rows[p as usize - 1];
            assert_eq!(head.candidate, plain.rows[p as usize - 1].candidate, "shift {shift}");
            let mut z = stats.logits[70 * i..][..70].to_vec();
            z[69] = f32::NEG_INFINITY;
            let own = of_logits(&z, [p, 2, 1, 69], temperature, 7, 4, Filter::default());
            assert_eq!((own.argmax, own.candidate), (head.argmax, head.candidate));
            for (a, b) in [(own.lse, head.lse), (own.entropy, head.entropy), (own.lse_t, head.lse_t)] {
                assert!((a - b).abs() <= tolerance, "{a} {b}");
            }
        }
    }
}

#[test]
fn logits_of_whole_rows_are_those_of_the_head() {
    for shift in [false, true] {
        let weights = Arc::new(Weights::of(model(shift)));
        let mut session = Session::new(&Cpu, weights, 24);
        agree(shift, |r| session.answer(r).unwrap(), 1e-5);
    }
}

#[cfg(feature = "web")]
#[test]
fn logits_of_whole_rows_are_those_of_the_head_in_wgsl() {
    use hilda_kernels::backend::web::Web;
    let web = match pollster::block_on(Web::new()) {
        Ok(web) => web,
        Err(e) => {
            println!("SKIPPED logits_of_whole_rows_are_those_of_the_head_in_wgsl: {e}");
            return;
        }
    };
    #[allow(clippy::arc_with_non_send_sync)] // sessions of every back end share weights by Arc
    let weights = Arc::new(Weights::new(&web, &model(false)));
    let mut session = Session::new(&web, weights, 24);
    let answer = |r: &ForwardRequest| {
        let pending = session.forward(&web, r).unwrap();
        pending.decode(&pollster::block_on(web.read(session.stats(), 0, pending.len())).unwrap())
    };
    agree(false, answer, 1e-3);
}

/// Guidance on a real network: w = -1 does not depend on the prompt, and the pair costs no cache.
#[test]
fn guidance_of_a_network() {
    for shift in [false, true] {
        let weights = Arc::new(Weights::of(model(shift)));
        let write = |guidance: f32, prompt: [u32; 3]| {
            let mut c = DecodeConfig::new(prompt.to_vec(), 20, 70, 69);
            (c.attention, c.block_size, c.shift) = (Attention::BlockCausal, 8, shift);
            c.policy = serde_json::from_value(
                serde_json::json!({"kind": "threshold", "tau": 0.2, "guidance": guidance}),
            )
            .unwrap();
            let mut session = Session::new(&Cpu, weights.clone(), 24);
            let mut decoder = Decoder::new(c).unwrap();
            drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
            assert_eq!(session.cached() > 0, guidance == 0.0);
            decoder.state().ids()[3..].to_vec()
        };
        assert_eq!(write(-1.0, [1, 2, 3]), write(-1.0, [9, 8, 7]));
        assert_ne!(write(0.0, [1, 2, 3]), write(0.0, [9, 8, 7]));
    }
}

/// A block computed again inside what is cached, its tokens unchanged, gives the rows of the whole forward; and a
/// forward that goes around the cache leaves it as it was.
#[test]
fn replacing_nothing_changes_nothing() {
    for shift in [false, true] {
        let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 24);
        let mut r = request(vec![], 0.0);
        r.cache = CacheOp::Keep { keep: 16 };
        let whole = session.answer(&r).unwrap();
        assert_eq!(session.cached(), 16);
        let mut part = r.clone();
        (part.cache, part.query_positions) = (CacheOp::Replace, (7..12).collect());
        part.ids = r.ids[7..12].to_vec();
        part.want.rows = (8..12).collect();
        let mut around = r.clone();
        around.cache = CacheOp::Bypass;
        for _ in 0..2 {
            let again = session.answer(&part).unwrap();
            for (a, b) in again.rows.iter().zip(&whole.rows[7..11]) {
                assert_eq!(a.argmax, b.argmax);
                assert!((a.lse - b.lse).abs() < 1e-5 && (a.max - b.max).abs() < 1e-5);
            }
            for (a, b) in session.answer(&around).unwrap().rows.iter().zip(&whole.rows) {
                assert!((a.lse - b.lse).abs() < 1e-5 && (a.max - b.max).abs() < 1e-5);
            }
        }
        // with gaps as well
        let mut gaps = part.clone();
        (gaps.query_positions, gaps.want.rows) = (vec![2, 3, 7, 8, 9, 14], vec![3, 8, 9]);
        gaps.ids = gaps.query_positions.iter().map(|p| r.ids[*p as usize]).collect();
        let again = session.answer(&gaps).unwrap();
        for (a, p) in again.rows.iter().zip([3, 8, 9]) {
            let b = &whole.rows[p - 1];
            assert!((a.lse - b.lse).abs() < 1e-5 && (a.max - b.max).abs() < 1e-5);
        }
        part.query_positions[4] = 16;
        assert_eq!(session.answer(&part).unwrap_err(), SessionError::Positions { cached: 16 });
    }
}

/// Two layers: keys follow from what was visible when they were computed, so old ones differ, and the record says by how
/// much. Computed anew in every forward they do not.
#[test]
fn old_keys_diverge_and_new_ones_do_not() {
    for shift in [false, true] {
        let weights = Arc::new(Weights::of(model(shift)));
        let write = |spec: serde_json::Value| {
            let mut c = DecodeConfig::new(vec![1, 2, 3], 24, 70, 69);
            (c.shift, c.block_size) = (shift, 8);
            c.policy = serde_json::from_value(spec).unwrap();
            let mut session = Session::new(&Cpu, weights.clone(), 24);
            let mut decoder = Decoder::new(c).unwrap();
            drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
            decoder.trajectory()
        };
        let one = |cache: &str, refresh: u32, check: bool| {
            write(serde_json::json!({"kind": "threshold", "tau": 1.0, "cache": cache, "cache_block": 8,
                "cache_refresh": refresh, "cache_check": check}))
        };
        let exact = one("exact", 0, false);
        for cache in ["prefix", "dual", "delayed"] {
            assert_eq!(one(cache, 1, false).footer.ids, exact.footer.ids);
            let old = one(cache, 0, true).footer;
            let d = old.divergence.unwrap();
            assert!(d.largest_dp > 1e-6 && d.rows > 0, "{cache}: {d:?}");
            assert!(one(cache, 0, false).footer.ledger.positions < exact.footer.ledger.positions);
        }
    }
}

/// A text of 16 with the shadow of its second block of 8, whose written tokens are read from it.
fn shadowed(attention: Attention, shift: bool, ids: &[u32]) -> ForwardRequest {
    let ahead = u32::from(shift);
    let first = if shift && attention == Attention::BlockCausal { 9 } else { 8 };
    let mut r = request(vec![], 0.0);
    (r.ids, r.block_size) = (ids.to_vec(), 8);
    r.rule = attention.shadow(ahead).unwrap().into();
    r.want.rows = (first..16).collect();
    let (positions, mask) = ((first..16).map(|p| p - ahead).collect(), 69);
    r.want.shadow = Some(Shadow { positions, mask, rows: vec![10, 12, 15] });
    r
}
const TEXT: [u32; 16] = [5, 1, 9, 30, 2, 2, 41, 7, 69, 69, 12, 69, 33, 69, 69, 20];

fn differs(a: &RowHead, b: &RowHead) -> f32 {
    [(a.lse, b.lse), (a.max, b.max), (a.entropy, b.entropy)]
        .iter()
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// One layer: a written token's probabilities are those of a forward in which its position is masked, under the same rule.
/// In deeper layers the keys of the text have read the token, which shows in the second. Rows of the text are those of a
/// forward without a shadow at any depth.
#[test]
fn shadow_rows_are_leave_one_out() {
    for layers in [1, 2] {
        let mut leak = 0f32;
        for attention in [Attention::Bidirectional, Attention::BlockCausal] {
            for shift in [false, true] {
                let model = deep(shift, layers);
                let mut session = Session::new(&Cpu, Arc::new(Weights::of(model)), 16);
                let r = shadowed(attention, shift, &TEXT);
                let joint = session.answer(&r).unwrap();
                let at = |p: u32| r.want.rows.binary_search(&p).unwrap();
                for pos in [10u32, 12, 15] {
                    let mut ids = TEXT;
                    ids[pos as usize] = 69;
                    let alone = session.answer(&shadowed(attention, shift, &ids)).unwrap();
                    leak = leak.max(differs(&joint.rows[at(pos)], &alone.rows[at(pos)]));
                }
                let mut plain = r.clone();
                (plain.want.shadow, plain.rule) = (None, attention.rule());
                let plain = session.answer(&plain).unwrap();
                for pos in [9u32, 11, 13, 14] {
                    assert!(differs(&joint.rows[at(pos)], &plain.rows[at(pos)]) < 1e-5);
                }
                // read from the text, a written token's row has read the token
                assert!(differs(&joint.rows[at(12)], &plain.rows[at(12)]) > 1e-3);
            }
        }
        assert!(if layers == 1 { leak < 1e-5 } else { leak > 1e-4 }, "{layers} layers: {leak}");
    }
}

/// The same rows where the blocks before come from the cache, at the end of the context.
#[test]
fn a_shadow_behind_cached_blocks() {
    for shift in [false, true] {
        let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 16);
        let whole = shadowed(Attention::BlockCausal, shift, &TEXT);
        let want = session.answer(&whole).unwrap();
        let mut store = request(vec![], 0.0);
        (store.query_positions, store.ids) = ((0..8).collect(), TEXT[..8].to_vec());
        (store.rule, store.block_size, store.cache) = (Attention::BlockCausal.rule(), 8, CacheOp::Store);
        store.want.rows.clear();
        session.answer(&store).unwrap();
        let mut block = whole.clone();
        (block.query_positions, block.ids) = ((8..16).collect(), TEXT[8..].to_vec());
        for _ in 0..2 {
            let got = session.answer(&block).unwrap();
            assert_eq!(session.cached(), 8);
            for (a, b) in got.rows.iter().zip(&want.rows) {
                assert!(differs(a, b) < 1e-5);
            }
        }
    }
}

#[test]
fn shadows_that_cannot_stand_are_refused() {
    let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(false))), 16);
    let whole = shadowed(Attention::Bidirectional, false, &TEXT);
    let mut error = |change: &dyn Fn(&mut ForwardRequest, &mut Shadow)| {
        let (mut r, mut shadow) = (whole.clone(), whole.want.shadow.clone().unwrap());
        change(&mut r, &mut shadow);
        r.want.shadow = Some(shadow);
        session.answer(&r).unwrap_err()
    };
    assert!(matches!(error(&|_, s| s.positions[7] = 16), SessionError::Range { what: "position", .. }));
    assert!(matches!(error(&|_, s| s.mask = 70), SessionError::Range { what: "token id", .. }));
    assert!(matches!(error(&|_, s| s.positions[1] = 8), SessionError::Shadow { .. }));
    assert!(matches!(error(&|r, _| r.rule = Attention::Causal.rule()), SessionError::Shadow { .. }));
    assert!(matches!(error(&|r, _| r.cache = CacheOp::Replace), SessionError::Shadow { .. }));
}

/// WINO writes a text that fills the context, on every kind of attention, and says what its shadows cost.
#[test]
fn wino_on_a_network() {
    for (attention, shift, guidance) in [
        (Attention::Bidirectional, false, 0.0),
        (Attention::Bidirectional, true, 0.0),
        (Attention::BlockCausal, false, 0.0),
        (Attention::BlockCausal, true, 0.0),
        (Attention::BlockCausal, true, 0.5),
    ] {
        let mut c = DecodeConfig::new(vec![1, 2, 3], 32, 70, 69);
        (c.attention, c.block_size, c.shift) = (attention, 8, shift);
        c.policy = serde_json::from_value(serde_json::json!({
            "kind": "wino", "tau_wide": 0.05, "tau_narrow": 0.5, "guidance": guidance
        }))
        .unwrap();
        let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 32);
        let mut decoder = Decoder::new(c).unwrap();
        drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
        let l = decoder.ledger();
        assert!(l.remasks > 0 && l.shadow > 0 && l.denoise <= 29 + 4 * 30, "{l:?}");
        assert_eq!(decoder.state().masked_left(), 0);
        decoder.trajectory().replay().unwrap();
    }
}

#[cfg(feature = "web")]
#[test]
fn shadow_rows_in_wgsl_are_those_of_the_cpu() {
    use hilda_kernels::backend::web::Web;
    let web = match pollster::block_on(Web::new()) {
        Ok(web) => web,
        Err(e) => {
            println!("SKIPPED shadow_rows_in_wgsl_are_those_of_the_cpu: {e}");
            return;
        }
    };
    for shift in [false, true] {
        #[allow(clippy::arc_with_non_send_sync)] // sessions of every back end share weights by Arc
        let weights = Arc::new(Weights::new(&web, &model(shift)));
        // the shadow does not fit into the first buffers
        let mut session = Session::new(&web, weights, 16);
        let mut cpu = Session::new(&Cpu, Arc::new(Weights::of(model(shift))), 16);
        for attention in [Attention::Bidirectional, Attention::BlockCausal] {
            let r = shadowed(attention, shift, &TEXT);
            let want = cpu.answer(&r).unwrap();
            let pending = session.forward(&web, &r).unwrap();
            let values = pollster::block_on(web.read(session.stats(), 0, pending.len())).unwrap();
            for (a, b) in pending.decode(&values).rows.iter().zip(&want.rows) {
                assert!(differs(a, b) < 1e-3 && a.argmax == b.argmax, "{attention:?} {shift}");
                // of a mask it is minus infinity
                assert!(a.current == b.current || (a.current - b.current).abs() < 1e-3);
            }
        }
    }
}

/// Weights that were shipped in int8 stay int8 on a WebGPU device, and compute the bits of the same weights in f32.
#[cfg(feature = "web")]
#[test]
fn int8_weights_in_wgsl_are_those_of_f32() {
    use crate::model::Parameters;
    use crate::model::checkpoint::{Format, config_json, load, save};
    use hilda_kernels::backend::web::Web;
    let web = match pollster::block_on(Web::new()) {
        Ok(web) => web,
        Err(e) => {
            println!("SKIPPED int8_weights_in_wgsl_are_those_of_f32: {e}");
            return;
        }
    };
    let whole = model(true);
    let bytes = save(&whole.config, &whole.params, Format::Int8).unwrap();
    let int8 = load(&config_json(&whole.config, whole.serving), &bytes).unwrap();
    let [held, largest] = Parameters::new(&web, &int8).bytes();
    assert!(10 * held < 4 * 4 * int8.params.len() && largest < held, "{held} bytes");
    assert_eq!(Parameters::new(&web, &whole).bytes(), Parameters::plain(&whole).bytes());
    #[allow(clippy::arc_with_non_send_sync)] // sessions of every back end share weights by Arc
    let [a, b] = [Parameters::new(&web, &int8), Parameters::plain(&int8)].map(|parameters| {
        let weights = Arc::new(Weights::upload(&web, parameters));
        let mut session = Session::new(&web, weights, 24);
        let mut c = DecodeConfig::new(vec![1, 2, 3], 20, 70, 69);
        (c.attention, c.block_size, c.shift, c.temperature) = (Attention::BlockCausal, 8, true, 0.7);
        c.policy =
            serde_json::from_value(serde_json::json!({"kind": "threshold", "tau": 0.2, "top_k": 9})).unwrap();
        let mut decoder = Decoder::new(c).unwrap();
        drive(&mut decoder, |r| {
            let pending = session.forward(&web, r).unwrap();
            pending.decode(&pollster::block_on(web.read(session.stats(), 0, pending.len())).unwrap())
        })
        .unwrap();
        decoder.trajectory()
    });
    assert_eq!(a, b);
}

/// dKV-Cache's claim at equal refresh: without the delay, rows are further from exact.
#[test]
fn the_delay_brings_a_network_nearer_to_exact() {
    for shift in [false, true] {
        let weights = Arc::new(Weights::of(model(shift)));
        let off = |delay: u32| {
            let mut sum = (0.0, 0);
            for seed in 0..6 {
                let mut c = DecodeConfig::new(vec![1, 2, seed], 24, 70, 69);
                c.shift = shift;
                c.policy = serde_json::from_value(serde_json::json!({
                    "kind": "threshold", "tau": 1.0, "cache": "delayed", "cache_block": 32, "cache_refresh": 6,
                    "cache_delay": delay, "cache_check": true
                }))
                .unwrap();
                let mut session = Session::new(&Cpu, weights.clone(), 24);
                let mut decoder = Decoder::new(c).unwrap();
                drive(&mut decoder, |r| session.answer(r).unwrap()).unwrap();
                let d = decoder.trajectory().footer.divergence.unwrap();
                sum = (sum.0 + d.sum_dp, sum.1 + d.rows);
            }
            sum.0 / sum.1 as f32
        };
        let (with, without) = (off(1), off(0));
        assert!(with < without && with > 0.0, "shift {shift}: {with} and {without}");
    }
}

/// What the cache gives back of a position: keys before the rotary embedding are those of the same tokens at other places
/// in the first layer, values are the same there either way; and what is not there is refused.
#[test]
fn keys_and_values_can_be_read() {
    let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(false))), 24);
    let mut store = request(vec![], 0.0);
    store.ids = (0..16).map(|i| i % 8).collect();
    (store.rule, store.block_size, store.cache) = (Attention::BlockCausal.rule(), 8, CacheOp::Store);
    session.answer(&store).unwrap();
    let c = session.weights().trunk.config.clone();
    let (kv, read) = (c.kv_heads * c.head_dim, |at, plain| session.keys_values(&Cpu, 0, at, plain).unwrap());
    let (a, b) = (read(0..8, true), read(8..16, true));
    assert_eq!(a.len(), 8 * 2 * kv);
    assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-4 * (1.0 + x.abs())));
    let turned = read(8..16, false);
    assert!(turned.iter().zip(&b).any(|(x, y)| (x - y).abs() > 1e-2));
    assert!((0..8).all(|r| turned[r * 2 * kv + kv..][..kv] == b[r * 2 * kv + kv..][..kv]));
    let refused = |layer, at| session.keys_values(&Cpu, layer, at, false).unwrap_err();
    assert!(matches!(refused(0, 9..17), SessionError::Range { value: 17, .. }));
    assert!(matches!(refused(2, 0..1), SessionError::Range { what: "layer", .. }));
}

#[test]
fn too_many_logits_are_refused() {
    let mut session = Session::new(&Cpu, Arc::new(Weights::of(model(false))), 24);
    let error = session.answer(&request((0..26).collect(), 0.0)).unwrap_err();
    assert!(matches!(error, SessionError::Range { what: "number of whole rows", .. }), "{error}");
    let error = session.answer(&request(vec![20], 0.0)).unwrap_err();
    assert_eq!(error, SessionError::NoRow { position: 20 });
}
