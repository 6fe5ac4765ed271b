//! Makes the README's table of systems anew from `results/`.

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let changed = memwall_claims::readme::update(&root.join("README.md"), &root.join("results"))?;
    println!("README.md {}", if changed { "updated" } else { "was up to date" });
    Ok(())
}
