//! Trains a language model by a recipe: `language RECIPE DATA OUT [THREADS]`; resumes where it stopped.

use std::path::PathBuf;

use memwall_formats::Dtype;
use memwall_train::Recipe;
use memwall_train::language::{LanguageOptions, train};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut path = || args.next().map(PathBuf::from).ok_or("usage: language RECIPE DATA OUT [THREADS]");
    let (recipe, data, out) = (path()?, path()?, path()?);
    let threads = path().ok().and_then(|t| t.to_str()?.parse().ok()).unwrap_or(2);
    let recipe = Recipe::read(&recipe)?;
    let options = LanguageOptions { data, out, threads, resume: true, export: Dtype::F32 };
    let summary = train(&recipe, &options, |p| {
        if p.step % 20 == 0 || p.validation_bits_per_byte.is_some() {
            eprintln!("{}", serde_json::json!(p));
        }
    })?;
    println!("{}", serde_json::json!(summary));
    Ok(())
}
