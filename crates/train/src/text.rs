//! The text of a training: its tokenizer, its tokens, and the windows of each step.
//!
//! The windows of a step depend on the seed and the step alone: that is the position in the data.

use std::path::{Path, PathBuf};

use memwall_formats::gguf::Metadata;
use memwall_nn::ModelConfig;
use memwall_tasks::{Corpus, CorpusPart, Documents, Fractions, Philox, Split};
use memwall_tokenizer::train::{BpeSettings, byte_level_bpe, lines};
use memwall_tokenizer::{Tokenizer, TokenizerError};

use crate::language::LanguageError;
use crate::recipe::Recipe;
use crate::start::Start;
use crate::trainer::{Batch, TrainError, Trainer};

/// Bytes of text that the tokenizer sees at once, where it may be cut: its memory is many times that.
const PIECE_BYTES: usize = 1 << 16;

/// A tokenizer and where it comes from.
pub(crate) struct Vocabulary<'a> {
    pub(crate) tokenizer: Tokenizer,
    /// The model file that carries it.
    source: Option<&'a Start>,
    /// Text may be cut before lines without changing a token.
    cuts_at_lines: bool,
}

impl<'a> Vocabulary<'a> {
    /// The recipe's tokenizer, that of the model it starts from, or one that is trained on the text once and kept in `out`.
    pub(crate) fn of(
        recipe: &Recipe,
        data: &Path,
        out: &Path,
        start: Option<&'a Start>,
    ) -> Result<Vocabulary<'a>, LanguageError> {
        if let Some(file) = &recipe.data.tokenizer {
            return Ok(Vocabulary { tokenizer: Tokenizer::open(data.join(file))?, source: None, cuts_at_lines: false });
        }
        if let Some(start) = start {
            return Ok(Vocabulary { tokenizer: start.tokenizer()?, source: Some(start), cuts_at_lines: false });
        }
        let path = out.join("tokenizer.json");
        let tokenizer = match &recipe.model {
            Some(model) if !path.exists() => {
                let settings = BpeSettings { vocab_size: model.vocab_size, ..Default::default() };
                byte_level_bpe(&files(recipe, data), &settings, &path)?
            }
            _ => Tokenizer::open(&path)?,
        };
        Ok(Vocabulary { tokenizer, source: None, cuts_at_lines: true })
    }

    /// Refuses a model that has other tokens; a model file may have more rows than its tokenizer has tokens.
    pub(crate) fn check(&self, config: &ModelConfig, recipe: &Recipe) -> Result<(), LanguageError> {
        let (tokens, rows) = (self.tokenizer.vocab_size(), config.vocab_size);
        if tokens == rows || (self.source.is_some() && tokens < rows) {
            return Ok(());
        }
        let of = match &recipe.data.tokenizer {
            Some(file) => file.display().to_string(),
            None => "the tokenizer".to_string(),
        };
        Err(LanguageError::Data { what: format!("model.vocab_size is {rows}, but {of} has {tokens} tokens") })
    }

    /// The model of a teacher, which must have the same tokens.
    pub(crate) fn teacher(
        &self,
        teacher: &Start,
        config: &ModelConfig,
        recipe: &Recipe,
    ) -> Result<ModelConfig, LanguageError> {
        let theirs = teacher.config(None).map_err(LanguageError::Teacher)?;
        let refused = |what: String| Err(LanguageError::Data { what: format!("distillation.teacher: {what}") });
        if theirs.vocab_size != config.vocab_size {
            let (found, needed) = (theirs.vocab_size, config.vocab_size);
            return refused(format!("it has {found} tokens, the model {needed}; both need the same"));
        }
        if theirs.max_context < recipe.train.window {
            let (found, needed) = (theirs.max_context, recipe.train.window);
            return refused(format!("it reads {found} tokens, train.window is {needed}"));
        }
        let tokenizer = teacher.tokenizer()?;
        let piece = |t: &Tokenizer, id: u32| t.decode(&[id], true).ok();
        let tokens = self.tokenizer.vocab_size().min(tokenizer.vocab_size()) as u32;
        match (0..tokens).find(|&id| piece(&tokenizer, id) != piece(&self.tokenizer, id)) {
            Some(id) => refused(format!(
                "its token {id} is {:?}, the model's {:?}; name its tokenizer in data.tokenizer",
                piece(&tokenizer, id).unwrap_or_default(),
                piece(&self.tokenizer, id).unwrap_or_default()
            )),
            None => Ok(theirs),
        }
    }

    /// Puts the tokenizer's keys into a GGUF file: those of the file that it came from, if that is one.
    pub(crate) fn put_gguf_keys(&self, metadata: &mut Metadata) -> Result<(), TokenizerError> {
        match self.source.and_then(Start::tokenizer_keys) {
            Some(keys) => {
                for (key, value) in keys {
                    metadata.insert(key, value.clone());
                }
                Ok(())
            }
            None => self.tokenizer.put_gguf_keys(metadata),
        }
    }

    /// The recipe's text as tokens.
    pub(crate) fn corpus(&self, recipe: &Recipe, data: &Path) -> Result<Corpus, LanguageError> {
        let fractions = Fractions { validation: recipe.data.validation, test: recipe.data.test };
        let corpus = Corpus::read(&files(recipe, data), &Documents::Files, fractions, self.tokenizer.eos(), |text| {
            self.encode(&String::from_utf8_lossy(text))
        })?;
        let (tokens, window) = (corpus.part(Split::Train).len(), recipe.train.window);
        if tokens <= window {
            let what = format!("the training text has {tokens} tokens, more than train.window {window} are needed");
            return Err(LanguageError::Data { what });
        }
        Ok(corpus)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if !self.cuts_at_lines {
            return self.tokenizer.encode(text, false, false);
        }
        let (mut ids, mut from, mut to) = (Vec::new(), 0, 0);
        for line in lines(text) {
            if to - from >= PIECE_BYTES {
                ids.extend(self.tokenizer.encode(&text[from..to], false, false)?);
                from = to;
            }
            to += line.len();
        }
        ids.extend(self.tokenizer.encode(&text[from..], false, false)?);
        Ok(ids)
    }
}

fn files(recipe: &Recipe, data: &Path) -> Vec<PathBuf> {
    recipe.data.files.iter().map(|file| data.join(file)).collect()
}

/// A checksum of all tokens in their parts: what a resumed training must find again.
pub(crate) fn fingerprint(corpus: &Corpus) -> String {
    let mut crc = crc32fast::Hasher::new();
    let mut sizes = Vec::new();
    for part in Split::ALL.map(|split| corpus.part(split)) {
        let mut at = 0;
        while at < part.len() {
            let ids = part.window(at, 1 << 14);
            at += ids.len();
            ids.iter().for_each(|id| crc.update(&id.to_le_bytes()));
        }
        sizes.push(part.len().to_string());
    }
    format!("{} tokens, CRC-32 {:08x}", sizes.join(" + "), crc.finalize())
}

/// Sets the draws of windows apart from other uses of the seed.
const WINDOWS: u64 = 0x7769_6E64;

/// The micro-batches of step `step`.
pub(crate) fn micro_batches(text: &CorpusPart, recipe: &Recipe, step: u64) -> Vec<Batch> {
    (0..recipe.train.accumulate as u64).map(|part| windows(text, recipe, step, part)).collect()
}

/// The windows of micro-batch `part` of step `step`.
fn windows(text: &CorpusPart, recipe: &Recipe, step: u64, part: u64) -> Batch {
    let t = &recipe.train;
    let mut random = Philox::new(t.seed ^ WINDOWS, step * t.accumulate as u64 + part);
    let mut batch = Batch::default();
    for _ in 0..t.batch {
        let start = random.below((text.len() - t.window) as u64) as usize;
        let window = text.window(start, t.window + 1);
        batch.ids.extend_from_slice(&window[..t.window]);
        batch.targets.extend_from_slice(&window[1..]);
        batch.lengths.push(t.window);
    }
    batch
}

/// Bits a byte over a whole part, in windows that do not overlap.
pub(crate) fn bits_per_byte(trainer: &mut Trainer, part: &CorpusPart, recipe: &Recipe) -> Result<f64, TrainError> {
    let t = &recipe.train;
    let (mut nats, mut at) = (0.0, 0);
    while at + 1 < part.len() {
        let mut batch = Batch::default();
        while batch.lengths.len() < t.batch && at + 1 < part.len() {
            let count = t.window.min(part.len() - at - 1);
            let window = part.window(at, count + 1);
            batch.ids.extend_from_slice(&window[..count]);
            batch.targets.extend_from_slice(&window[1..]);
            batch.lengths.push(count);
            at += count;
        }
        nats += trainer.surprise(&batch)?.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    Ok(part.bits_per_byte(nats).unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_pieces_has_the_tokens_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        let mut text = String::new();
        for i in 0..20_000_u32 {
            let gap = ["\n", "\n\n", " \n", "\n \n", "\r\n", "\n\t", " ", "  "][(i * i % 31 % 8) as usize];
            text.push_str(&format!("line {} it's{gap}", i * 7919 % 1000));
        }
        assert!(text.len() > 3 * PIECE_BYTES);
        std::fs::write(&path, &text).unwrap();
        let settings = BpeSettings { vocab_size: 500, ..Default::default() };
        let tokenizer = byte_level_bpe(&[path], &settings, folder.path().join("tokenizer.json")).unwrap();
        let whole = tokenizer.encode(&text, false, false).unwrap();
        let vocabulary = Vocabulary { tokenizer, source: None, cuts_at_lines: true };
        assert!(vocabulary.encode(&text).unwrap() == whole);
    }
}
