//! Logits of the reference implementation (`shared/goldens/README.md`), under three masks.

use std::path::PathBuf;

use hilda_engine::model::{Shape, Trunk, checkpoint};
use hilda_kernels::{Backend, Base, Cpu, Place};
use safetensors::SafeTensors;

fn shared(name: &str) -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let candidates = [std::env::var_os("HILDA_SHARED").map(PathBuf::from), Some(here.join("../../shared"))];
    candidates.into_iter().flatten().map(|p| p.join("goldens").join(name)).find(|p| p.exists())
}

fn floats(st: &SafeTensors, name: &str) -> Vec<f32> {
    let data = st.tensor(name).unwrap_or_else(|_| panic!("golden {name}")).data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn llama_tiny_matches_transformers() {
    let Some(dir) = shared("llama-tiny") else {
        println!("SKIPPED llama_tiny_matches_transformers: shared/goldens is not here");
        return;
    };
    let read = |f: &str| std::fs::read(dir.join(f)).unwrap();
    let config = String::from_utf8(read("config.json")).unwrap();
    let model = checkpoint::load(&config, &read("model.safetensors")).unwrap();
    let bytes = read("golden.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let ids_view = golden.tensor("input_ids").unwrap();
    let width = ids_view.data().len() / 48;
    let ids: Vec<u32> =
        ids_view.data().chunks_exact(width).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let (batch, len, vocab) = (2, 24, model.config.vocab);
    let (b, trunk) = (Cpu, Trunk::new(model.config.clone()));
    for (name, base, block) in [
        ("logits_causal", Base::Causal, 1),
        ("logits_bidirectional", Base::Bidirectional, 1),
        ("logits_block_causal_8", Base::BlockCausal, 8),
    ] {
        let want = floats(&golden, name);
        let places: Vec<Place> = (0..batch * len)
            .map(|i| (i % len) as u32)
            .map(|p| Place { position: p, document: 0, block: p / block, stream: 0 })
            .collect();
        let positions: Vec<u32> = places.iter().map(|p| p.position).collect();
        let mut plan = trunk.plan(&b, batch * len, false);
        let mask = b.mask(base.into(), batch, &places, &places);
        let shape = Shape { batch, len };
        trunk.forward(&b, &model.params, &mut plan, &ids, &positions, &mask, shape, None);
        let table = &model.params[..vocab * model.config.width];
        let mut worst = 0f32;
        for (r, row) in want.chunks_exact(vocab).enumerate() {
            let h = &plan.hidden[r * model.config.width..][..model.config.width];
            for (v, want) in row.iter().enumerate() {
                let t = &table[v * model.config.width..][..model.config.width];
                let z: f32 = h.iter().zip(t).map(|(a, b)| a * b).sum();
                worst = worst.max((z - want).abs());
            }
        }
        println!("{name}: largest difference {worst:e}");
        assert!(worst < 2e-4, "{name}: {worst}");
    }
}
