//! llama2.c tokenizer files: the longest token's length (i32), then for each token score (f32), length (i32), bytes.
//!
//! A SentencePiece vocabulary with `▁` already written as a space; ids 0 to 2 are unknown, BOS and EOS, 3 to 258 the
//! bytes. Source: `tokenizer.py` (`export`) and `run.c` of llama2.c.

use std::{borrow::Cow, collections::BTreeSet, path::Path};

use memwall_formats::{FileError, mapped_file::MappedFile};

use crate::{
    Model, Roles, Tokenizer, TokenizerError,
    sentencepiece::{SPACE, SentencePiece, byte_of_name},
    special::Specials,
    vocabulary::{TokenKind, Vocabulary},
};

impl Tokenizer {
    /// Reads a llama2.c tokenizer file.
    ///
    /// # Errors
    /// When the file is cut short, a length in it is impossible, or a token is not UTF-8.
    pub fn from_llama2c(file: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
        let bytes = MappedFile::open(&file)?;
        Tokenizer::from_llama2c_bytes(file.as_ref(), &bytes)
    }

    /// As [`Tokenizer::from_llama2c`], from the bytes of a file; `file` is its name for messages.
    ///
    /// # Errors
    /// As there.
    pub fn from_llama2c_bytes(file: &Path, bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        let damaged = |problem| TokenizerError::Damaged { file: file.to_path_buf(), problem };
        let mut tokens: Vec<String> = Vec::new();
        let mut scores: Vec<f32> = Vec::new();
        let mut at = 4;
        while at < bytes.len() || bytes.len() < 4 {
            let number = tokens.len();
            let truncated = |needed: u64| FileError::Truncated {
                file: file.to_path_buf(),
                what: format!("token {number} of a llama2.c tokenizer"),
                at: at as u64,
                needed,
                length: bytes.len() as u64,
            };
            let Some(&[a, b, c, d, e, f, g, h]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
                return Err(truncated(8).into());
            };
            let score = f32::from_le_bytes([a, b, c, d]);
            let length = i32::from_le_bytes([e, f, g, h]);
            let length = usize::try_from(length)
                .map_err(|_| damaged(format!("token {number} has a length of {length} bytes")))?;
            let Some(text) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else {
                return Err(truncated(8 + length as u64).into());
            };
            let text =
                std::str::from_utf8(text).map_err(|e| damaged(format!("token {number} should be UTF-8, but: {e}")))?;
            if !score.is_finite() {
                return Err(damaged(format!("token {number} (`{text}`) has a score of {score}; it should be finite")));
            }
            tokens.push(text.replace(' ', SPACE));
            scores.push(score);
            at += 8 + length;
        }
        if tokens.len() < 3 + 256 {
            let problem = format!(
                "holds {} tokens; a llama2.c tokenizer has at least 259: unknown, BOS, EOS and the bytes",
                tokens.len()
            );
            return Err(damaged(problem));
        }
        let kind = |id: usize| match id {
            0 => TokenKind::Unknown,
            1 | 2 => TokenKind::Control,
            3..259 => TokenKind::Byte,
            _ => TokenKind::Normal,
        };
        if let Some(id) = (3..259).find(|&id| byte_of_name(tokens[id].as_bytes()) != Some((id - 3) as u8)) {
            let problem = format!(
                "token {id} is `{}`; it should be `<0x{:02X}>`, so this is no llama2.c tokenizer",
                tokens[id],
                id - 3
            );
            return Err(damaged(problem));
        }
        let vocabulary =
            Vocabulary::new(tokens.iter().enumerate().map(|(id, t)| (Cow::Borrowed(t.as_bytes()), kind(id))));
        let model = Model::SentencePiece(SentencePiece::new(&vocabulary, scores, true));
        let roles = Roles {
            bos: Some(1),
            eos: Some(2),
            unknown: Some(0),
            add_bos: true,
            ends: BTreeSet::from([1, 2]), // its models are trained on stories that BOS parts
            ..Roles::default()
        };
        let specials = Specials::new(&vocabulary, Vec::new()).map_err(damaged)?;
        Ok(Tokenizer { model, vocabulary, specials, roles, chat_template: None })
    }
}
