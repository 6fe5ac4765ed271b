//! `memwall tokenize`: token ids of a text, as the model sees them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use memwall_tokenizer::Tokenizer;
use serde_json::json;

/// Arguments of `memwall tokenize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model, a GGUF file, a folder with tokenizer.json, or a llama2.c tokenizer
    model: PathBuf,
    /// The text
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    text: Option<String>,
    /// A file with the text; - is standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Add BOS, EOS and the like where the vocabulary adds them
    #[arg(long)]
    add_special: bool,
    /// Text that spells a special token becomes that token
    #[arg(long)]
    parse_special: bool,
    /// {"ids": […]} on one line
    #[arg(long)]
    json: bool,
}

/// Prints the ids, or each with its text.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tokenizer = Tokenizer::open(&args.model)?;
    let text = match (&args.text, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => String::new(),
    };
    let ids = tokenizer.encode(&text, args.add_special, args.parse_special)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "ids": ids }))?;
    } else {
        for id in ids {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            writeln!(out, "{id:>7}  {:?}", String::from_utf8_lossy(&bytes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of a file, or of standard input for `-`.
pub fn read_text(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("standard input: cannot read it as UTF-8 text");
    }
    std::fs::read_to_string(file).with_context(|| format!("{}: cannot read it as UTF-8 text", file.display()))
}
