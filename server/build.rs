//! Embeds the page (`../dist`, made by `cargo xtask page`) and the shipped recipes, if they exist.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

fn walk(at: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(at) else { return };
    for e in entries.flatten() {
        match e.file_type() {
            Ok(t) if t.is_dir() => walk(&e.path(), out),
            Ok(t) if t.is_file() => out.push(e.path()),
            _ => {}
        }
    }
    out.sort();
}

fn main() {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap()).join("embedded.rs");
    let (dist, recipes) = (root.join("dist"), root.join("recipes"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rerun-if-changed={}", recipes.display());
    let mut text =
        String::from("/// The built page: path in `dist/`, bytes.\npub static PAGE: &[(&str, &[u8])] = &[\n");
    let mut files = vec![];
    walk(&dist, &mut files);
    for f in &files {
        let name = f.strip_prefix(&dist).unwrap().to_str().unwrap().replace('\\', "/");
        let path = f.canonicalize().unwrap();
        writeln!(text, "({name:?}, include_bytes!({:?})),", path.to_str().unwrap()).unwrap();
    }
    text += "];\n/// Shipped recipes: file name without `.toml`, text.\npub static RECIPES: &[(&str, &str)] = &[\n";
    files.clear();
    walk(&recipes, &mut files);
    // an ablation is a plan of several runs, no recipe of one
    let plan = |f: &PathBuf| f.parent().is_some_and(|p| p.ends_with("ablations"));
    for f in files.iter().filter(|f| f.extension().is_some_and(|x| x == "toml") && !plan(f)) {
        let name = f.file_stem().unwrap().to_str().unwrap();
        let path = f.canonicalize().unwrap();
        writeln!(text, "({name:?}, include_str!({:?})),", path.to_str().unwrap()).unwrap();
    }
    text += "];\n";
    fs::write(out, text).unwrap();
}
