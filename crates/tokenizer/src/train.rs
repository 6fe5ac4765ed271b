//! Training a byte-level vocabulary: merges of the most frequent pairs, until the vocabulary has the size wanted.
//!
//! Words are cut as GPT-2 does. The result depends on the text and the settings only, not on threads.
//! Source: Sennrich, Haddow, Birch 2016; Radford et al. 2019.

use std::{
    fs,
    path::{Path, PathBuf},
};

use memwall_formats::atomic_file;
use tokenizers::{
    AddedToken,
    decoders::byte_level::ByteLevel as ByteLevelDecoder,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::{Tokenizer, TokenizerError};

/// What a vocabulary is to be.
#[derive(Clone, Debug)]
pub struct BpeSettings {
    /// Tokens in all: special ones, 256 bytes, merges. Fewer come out when the text has no more pairs.
    pub vocab_size: usize,
    /// Special tokens; they get the first ids, in this order.
    pub special: Vec<String>,
    /// How often a pair must be seen to be merged; at least 1.
    pub min_frequency: u64,
}

impl Default for BpeSettings {
    fn default() -> BpeSettings {
        BpeSettings { vocab_size: 4096, special: vec!["<|endoftext|>".into()], min_frequency: 2 }
    }
}

/// Trains on UTF-8 text files and writes a `tokenizer.json`, whole or not at all.
///
/// # Errors
/// When the vocabulary has no room for bytes and special tokens, a file is missing or not UTF-8, or the result cannot be
/// written.
pub fn byte_level_bpe(
    files: &[PathBuf],
    settings: &BpeSettings,
    out: impl AsRef<Path>,
) -> Result<Tokenizer, TokenizerError> {
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        let bytes = fs::read(file).map_err(|source| TokenizerError::Io { file: file.clone(), source })?;
        let text = String::from_utf8(bytes).map_err(|e| TokenizerError::Damaged {
            file: file.clone(),
            problem: format!("should be UTF-8 text, but: {}", e.utf8_error()),
        })?;
        texts.push(text);
    }
    let json = train(&texts, settings)?;
    atomic_file::write(&out, json.as_bytes())?;
    Tokenizer::from_json(out.as_ref(), json.as_bytes())
}

fn train(texts: &[String], settings: &BpeSettings) -> Result<String, TokenizerError> {
    let least = 256 + settings.special.len();
    if settings.vocab_size < least {
        return Err(TokenizerError::Train(format!(
            "a vocabulary of {} tokens has no room for 256 bytes and {} special tokens; ask for at least {least}",
            settings.vocab_size,
            settings.special.len()
        )));
    }
    let failed = |e: tokenizers::Error| TokenizerError::Train(e.to_string());
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    // No space is put before the text: what is decoded is what was encoded.
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::new(false, false, true)));
    let mut trainer = tokenizers::models::TrainerWrapper::from(
        BpeTrainer::builder()
            .vocab_size(settings.vocab_size)
            .min_frequency(settings.min_frequency.max(1))
            .special_tokens(settings.special.iter().map(|name| AddedToken::from(name.clone(), true)).collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build(),
    );
    tokenizer.train(&mut trainer, texts.iter().flat_map(|text| lines(text))).map_err(failed)?;
    tokenizer.to_string(true).map_err(failed)
}

/// A text in pieces, to be counted one by one: cut before each line end that something other than a space follows. No
/// word goes over such a place (the last of a run of spaces is left to what follows), so the words are those of the whole.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let cut = rest
            .match_indices('\n')
            .map(|(at, _)| at)
            .find(|&at| at > 0 && rest[at + 1..].starts_with(|next: char| !next.is_whitespace()));
        let (line, after) = rest.split_at(cut.unwrap_or(rest.len()));
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pre_tokenizer::{self, PreTokenizer};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_words_of_the_lines_are_the_words_of_the_text(text in "[a ,.'s\n\t0\u{a0}]{0,40}") {
            let Some(kind) = pre_tokenizer::kind("gpt-2") else { unreachable!() };
            let gpt2 = PreTokenizer::new(kind).unwrap();
            let words = |text: &str| gpt2.cut(text).into_iter().map(|r| text[r].to_string()).collect::<Vec<_>>();
            prop_assert_eq!(lines(&text).flat_map(words).collect::<Vec<_>>(), words(&text));
        }
    }
}
