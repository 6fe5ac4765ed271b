//! What the repository promises as a whole.

mod book;
mod floors;
mod manifests;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The crates' folder names and manifests, by name.
fn crates() -> Vec<(String, toml::Table)> {
    let mut crates: Vec<_> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("Cargo.toml").exists())
        .map(|folder| {
            let manifest = folder.join("Cargo.toml");
            let table = read(&manifest).parse().unwrap_or_else(|e| panic!("{}: {e}", manifest.display()));
            (folder.file_name().unwrap().to_str().unwrap().to_owned(), table)
        })
        .collect();
    crates.sort_by(|a, b| a.0.cmp(&b.0));
    crates
}
