//! Text out of tokens as they come, never half a character.

use crate::{Tokenizer, TokenizerError};

/// Holds the bytes that do not make a whole character yet.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    pending: Vec<u8>,
    show_special: bool,
    before: Before,
}

/// What came before a token: where the vocabulary adds a space, it is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Special,
    Text,
}

impl Before {
    fn of(tokenizer: &Tokenizer, id: u32) -> Before {
        match tokenizer.is_special(id) {
            false => Before::Text,
            true if tokenizer.bos() == Some(id) => Before::Nothing,
            true => Before::Special,
        }
    }
}

impl StreamDecoder {
    /// Decodes from the begin of a text on. Special tokens are left out unless `show_special`.
    pub fn new(show_special: bool) -> StreamDecoder {
        StreamDecoder { pending: Vec::new(), show_special, before: Before::Nothing }
    }

    /// Decodes what continues a prompt.
    pub fn after(tokenizer: &Tokenizer, prompt: &[u32], show_special: bool) -> StreamDecoder {
        let before = prompt.last().map_or(Before::Nothing, |&id| Before::of(tokenizer, id));
        StreamDecoder { pending: Vec::new(), show_special, before }
    }

    /// The characters that are whole once this token has come. Bytes that can begin no character become U+FFFD.
    ///
    /// # Errors
    /// When the id is not in the vocabulary.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        let bytes =
            tokenizer.token_bytes(id).ok_or(TokenizerError::NoSuchToken { id, vocab_size: tokenizer.vocab_size() })?;
        if tokenizer.is_special(id) {
            self.before = Before::of(tokenizer, id);
            // Structure parts texts: half a character before it stays half.
            let mut text = String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
            if self.show_special {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
            return Ok(text);
        }
        let begin = usize::from(
            tokenizer.adds_space(self.before == Before::Special)
                && self.before != Before::Text
                && bytes.first() == Some(&b' '),
        );
        self.before = Before::Text;
        self.pending.extend_from_slice(&bytes[begin..]);
        Ok(self.take_whole())
    }

    /// What is left when no more tokens come: U+FFFD for half a character, or nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    fn take_whole(&mut self) -> String {
        let mut text = String::new();
        let mut begin = 0;
        loop {
            match std::str::from_utf8(&self.pending[begin..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    begin = self.pending.len();
                    break;
                }
                Err(error) => {
                    let (valid, rest) = self.pending[begin..].split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    begin += valid.len();
                    match error.error_len() {
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            begin += bad.min(rest.len());
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending.drain(..begin);
        text
    }
}
