//! The model that ships: what its card says, as far as a test can tell.

use std::fs;
use std::path::{Path, PathBuf};

use memwall_formats::Container;
use memwall_tokenizer::Tokenizer;

use crate::{ids, json, text};

/// The most bytes of its file.
const MOST_BYTES: u64 = 4 << 20;
/// A run of so many tokens that stands in the training text is a copy.
const COPY_TOKENS: usize = 50;
const SAMPLE_TOKENS: usize = 200;
const TEXTS: [&str; 2] = ["text/warpeace-first90.txt", "text/tinyshakespeare.txt"];
const PROMPTS: [&str; 20] = [
    "It was a dark night",
    "Prince Andrew",
    "\"My dear,\" said",
    "The French",
    "KING RICHARD III:\n",
    "ROMEO:\n",
    "First Citizen:\n",
    "Natasha looked",
    "In the morning",
    "What is the cause",
    "\"No,\" replied Pierre",
    "The Emperor",
    "MENENIUS:\n",
    "The old count",
    "They went",
    "O, ",
    "Chapter",
    "On the road",
    "The soldiers",
    "My lord, ",
];

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/memwall-books.gguf")
}

#[test]
fn it_is_small_and_every_row_is_a_multiple_of_256() {
    let bytes = fs::metadata(file()).expect("the model").len();
    assert!(bytes <= MOST_BYTES, "{bytes}");
    let container = Container::open(file()).expect("the model");
    assert!(container.tensors().len() > 20);
    for tensor in container.tensors() {
        if let [_, row] = tensor.shape[..] {
            assert!(row.is_multiple_of(256), "{} has rows of {row}", tensor.name);
        }
    }
}

#[test]
fn twenty_samples_hold_no_long_passage_of_the_training_text() {
    let texts: Option<Vec<PathBuf>> = TEXTS.iter().map(|name| memwall_testdata::data(name)).collect();
    let Some(texts) = texts else { return };
    let texts: Vec<String> = texts.iter().map(|path| fs::read_to_string(path).expect("text")).collect();
    let tokenizer = Tokenizer::open(file()).expect("its tokenizer");
    let copied = |tokens: &[u32]| {
        let passages = tokens.windows(COPY_TOKENS).map(|run| tokenizer.decode(run, false).expect("text"));
        let copies = |passage: &String| texts.iter().any(|book| book.contains(passage.as_str()));
        passages.filter(copies).collect::<Vec<_>>()
    };
    let passage = tokenizer.encode(&texts[0][1_000_000..1_001_000], false, false).expect("tokens");
    assert!(!copied(&passage).is_empty(), "the search finds what is there");
    let model = file();
    for (seed, prompt) in PROMPTS.iter().enumerate() {
        let (seed, count) = (seed.to_string(), SAMPLE_TOKENS.to_string());
        let line = json(&[
            "run",
            text(&model),
            prompt,
            "-n",
            &count,
            "--seed",
            &seed,
            "--temperature",
            "0.8",
            "--top-p",
            "0.95",
            "--json",
        ]);
        let tokens: Vec<u32> = ids(&line["token_ids"]).into_iter().map(|id| id as u32).collect();
        assert!(tokens.len() >= COPY_TOKENS, "{prompt:?}: {} tokens", tokens.len());
        let copies = copied(&tokens);
        assert!(copies.is_empty(), "{prompt:?}, seed {seed}: {:?}", copies[0]);
    }
}
