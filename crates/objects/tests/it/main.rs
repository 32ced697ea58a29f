//! Checks of the crate against facts from outside.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

mod apply_laws;
mod custom;
mod gateway_api;
mod laws;
mod type_tables;

/// A file or folder of the reference data, which lies beside the repository and is not part of it; without it there is nothing to compare with.
fn shared_data(path: &str) -> Option<std::path::PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let found =
        root.ancestors().map(|folder| folder.join("shared/data").join(path)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("shared/data/{path} is not beside this checkout: nothing is compared");
    }
    found
}
