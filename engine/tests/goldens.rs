//! Logits of reference implementations (`shared/goldens/README.md`), for every family, on the CPU and in WGSL.

use std::path::PathBuf;

use hilda_engine::eval::parity::{Case, compare};
use hilda_kernels::Cpu;

const FAMILIES: [&str; 5] = ["llama-tiny", "qwen2-tiny", "qwen3-tiny", "gemma3-tiny", "mdlm-dit-tiny"];

fn shared(name: &str) -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let candidates = [std::env::var_os("HILDA_SHARED").map(PathBuf::from), Some(here.join("../../shared"))];
    candidates.into_iter().flatten().map(|p| p.join("goldens").join(name)).find(|p| p.exists())
}

fn files(name: &str) -> Option<(String, Vec<u8>, Vec<u8>)> {
    let dir = shared(name)?;
    let read = |f: &str| std::fs::read(dir.join(f)).unwrap();
    let config = String::from_utf8(read("config.json")).unwrap();
    Some((config, read("model.safetensors"), read("golden.safetensors")))
}

fn assert_within(family: &str, cases: &[Case]) {
    assert_eq!(cases.len(), 3, "{family}");
    for c in cases {
        println!("{family} {}: largest difference {:e} of {} values", c.tensor, c.largest, c.values);
        assert!(c.within, "{family} {}: {:e} is above {:e}", c.tensor, c.largest, c.tolerance);
    }
}

#[test]
fn every_family_matches_its_reference() {
    for family in FAMILIES {
        let Some((config, model, golden)) = files(family) else {
            println!("SKIPPED every_family_matches_its_reference ({family}): shared/goldens is not here");
            continue;
        };
        let mut read = |_: &Cpu, x: &Vec<f32>, n: usize| x[..n].to_vec();
        assert_within(family, &compare(&Cpu, &mut read, &config, &model, &golden).unwrap());
    }
}

#[cfg(feature = "web")]
#[test]
fn every_family_matches_its_reference_in_wgsl() {
    use hilda_kernels::backend::web::Web;
    let web = match pollster::block_on(Web::new()) {
        Ok(web) => web,
        Err(e) => {
            println!("SKIPPED every_family_matches_its_reference_in_wgsl: {e}");
            return;
        }
    };
    for family in FAMILIES {
        let Some((config, model, golden)) = files(family) else {
            println!(
                "SKIPPED every_family_matches_its_reference_in_wgsl ({family}): shared/goldens is not here"
            );
            continue;
        };
        let mut read = |web: &Web, x: &_, n: usize| pollster::block_on(web.read(x, 0, n)).unwrap();
        assert_within(family, &compare(&web, &mut read, &config, &model, &golden).unwrap());
    }
}
