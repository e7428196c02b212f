//! Where tests find the reference data: `HILDA_SHARED`, else a folder `shared` at or above the repository's root.

use std::path::PathBuf;

/// The file, or `None` after printing which test is skipped and why.
pub fn shared(test: &str, file: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let above = root.ancestors().map(|p| p.join("shared"));
    let found = std::env::var_os("HILDA_SHARED").map(PathBuf::from).into_iter().chain(above);
    let found = found.map(|p| p.join(file)).find(|p| p.exists());
    if found.is_none() {
        println!("SKIPPED {test}: no {file} under HILDA_SHARED or a folder shared above the repository");
    }
    found
}
