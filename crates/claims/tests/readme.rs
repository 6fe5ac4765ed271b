//! The README's table is the one that `systems.toml` and `results/` give.

use std::{fs, path::Path};

use memwall_claims::{readme, results};

#[test]
fn the_readme_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let records = results::read_all(&root.join("results")).unwrap();
    let table = readme::with_table(&text, &records, &path).unwrap();
    assert!(table == text, "README.md is not what results/ say; run: cargo run -p memwall-claims --example readme");
}
