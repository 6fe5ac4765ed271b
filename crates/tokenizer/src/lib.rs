//! Text to token ids and back, as the model sees them.
//!
//! A [`Tokenizer`] comes from a GGUF file ([`Tokenizer::from_gguf`]), a Hugging Face folder ([`Tokenizer::from_folder`])
//! or a llama2.c tokenizer file ([`Tokenizer::from_llama2c`]); [`Tokenizer::open`] tells them apart. Encoding goes:
//!
//! 1. `special`: special tokens written in the text are cut out, the rest goes on piece by piece;
//! 2. `pre_tokenizer` (byte-level vocabularies): pieces are cut into words;
//! 3. `bpe`, `sentencepiece` or `wordpiece`: words become tokens.
//!
//! Decoding is the concatenation of [`Tokenizer::token_bytes`]; a [`StreamDecoder`] does it as tokens come, and never
//! hands out half a character.

mod bpe;
mod byte_level;
mod chat_template;
mod error;
mod export;
mod gguf;
mod hugging_face;
mod llama2c;
mod merges;
mod open;
mod pre_tokenizer;
mod sentencepiece;
mod sentencepiece_model;
mod special;
mod stream;
pub mod train;
mod vocabulary;
mod wordpiece;

use std::{borrow::Cow, collections::BTreeSet};

pub use chat_template::{ChatTemplate, Message};
pub use error::TokenizerError;
pub use stream::StreamDecoder;
pub use vocabulary::TokenKind;

use bpe::Bpe;
use hugging_face::HuggingFace;
use pre_tokenizer::PreTokenizer;
use sentencepiece::SentencePiece;
use special::{Segment, Specials};
use vocabulary::Vocabulary;
use wordpiece::WordPiece;

/// A vocabulary and the rules that turn text into its tokens and back.
#[derive(Debug)]
pub struct Tokenizer {
    model: Model,
    vocabulary: Vocabulary,
    specials: Specials,
    roles: Roles,
    chat_template: Option<ChatTemplate>,
}

#[derive(Debug)]
enum Model {
    ByteLevel { pre_tokenizer: PreTokenizer, bpe: Bpe },
    SentencePiece(SentencePiece),
    WordPiece(WordPiece),
    HuggingFace(HuggingFace),
}

/// The tokens that mean something to the program that runs the model.
#[derive(Clone, Debug, Default)]
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    separator: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    ends: BTreeSet<u32>,
}

impl Tokenizer {
    /// The tokens of a text. `add_special`: with BOS, EOS and the like where the vocabulary adds them. `parse_special`:
    /// text that spells a special token becomes that token; without it, such text is text.
    ///
    /// # Errors
    /// When the vocabulary cannot say a byte of the text, or adds a token that it does not have.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        if let Model::HuggingFace(model) = &self.model {
            return model.encode(text, add_special, parse_special);
        }
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        if add_special && self.roles.add_bos {
            ids.push(self.role(self.roles.bos, "begins texts with BOS, but has none")?);
        }
        let missing = |byte| self.roles.unknown.ok_or(TokenizerError::NoTokenForByte { byte });
        let mut scratch = bpe::Scratch::default();
        let mut after_special = true;
        for segment in self.specials.segments(text, parse_special) {
            let text = match segment {
                Segment::Token(id) => {
                    ids.push(id);
                    after_special = true;
                    continue;
                }
                Segment::Text(text) => text,
            };
            match &self.model {
                Model::ByteLevel { pre_tokenizer, bpe } => {
                    for word in pre_tokenizer.cut(text) {
                        let word = &text.as_bytes()[word];
                        bpe.encode_word(word, &self.vocabulary, &mut scratch, &mut ids, missing)?;
                    }
                }
                Model::SentencePiece(model) => {
                    model.encode(text, after_special, &self.vocabulary, &mut ids, missing)?;
                }
                Model::WordPiece(model) => {
                    let unknown = self.role(self.roles.unknown, "has no unknown token, which WordPiece needs")?;
                    model.encode(text, &self.vocabulary, unknown, &mut ids);
                }
                Model::HuggingFace(_) => {} // encoded whole, above
            }
            after_special = false;
        }
        if add_special && self.roles.add_eos {
            let end = self.roles.separator.or(self.roles.eos);
            ids.push(self.role(end, "ends texts with EOS, but has none")?);
        }
        Ok(ids)
    }

    fn role(&self, id: Option<u32>, problem: &str) -> Result<u32, TokenizerError> {
        id.ok_or_else(|| TokenizerError::Encode(format!("the vocabulary {problem}")))
    }

    /// The text of tokens from the begin of a text on; bytes that are not UTF-8 become U+FFFD. Special tokens are left
    /// out unless `show_special`.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], show_special: bool) -> Result<String, TokenizerError> {
        let mut stream = StreamDecoder::new(show_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(self, id)?);
        }
        text.push_str(&stream.finish());
        Ok(text)
    }

    /// The bytes that a token stands for, or `None` beyond the vocabulary. Special tokens stand for their names.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let kind = self.vocabulary.kind(id)?;
        let stored = self.vocabulary.get(id);
        if !matches!(self.model, Model::SentencePiece(_) | Model::WordPiece(_)) {
            return Some(Cow::Borrowed(stored));
        }
        Some(match kind {
            TokenKind::Byte => {
                sentencepiece::byte_of_name(stored).map_or(Cow::Borrowed(stored), |b| Cow::Owned(vec![b]))
            }
            TokenKind::Normal | TokenKind::Unused => match std::str::from_utf8(stored) {
                Ok(text) if text.contains(sentencepiece::SPACE) => {
                    Cow::Owned(text.replace(sentencepiece::SPACE, " ").into_bytes())
                }
                _ => Cow::Borrowed(stored),
            },
            TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown => Cow::Borrowed(stored),
        })
    }

    /// True when the vocabulary puts a space before text at the begin, or after a special token; decoding takes it off.
    fn adds_space(&self, after_special: bool) -> bool {
        match &self.model {
            Model::ByteLevel { .. } => false,
            Model::SentencePiece(model) => model.add_space_prefix,
            Model::WordPiece(_) => true,
            Model::HuggingFace(model) if after_special => model.adds_space_after_special,
            Model::HuggingFace(model) => model.adds_space,
        }
    }

    /// What a token is for, or `None` beyond the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocabulary.kind(id)
    }

    /// True for tokens that are structure rather than text.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The token of that name among special and user-defined ones, e.g. `<|im_start|>`.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.vocabulary
            .of_kinds(&[TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown])
            .find_map(|(id, bytes)| (bytes == name.as_bytes()).then_some(id))
    }

    /// True for tokens after which a model has said what it had to say: EOS, end of turn, end of message.
    pub fn is_end(&self, id: u32) -> bool {
        self.roles.ends.contains(&id)
    }

    /// All tokens that end a generation.
    pub fn ends(&self) -> &BTreeSet<u32> {
        &self.roles.ends
    }

    /// How many tokens there are; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token that begins texts.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The token that ends texts.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Whether `add_special` puts BOS (or CLS) first.
    pub fn add_bos(&self) -> bool {
        self.roles.add_bos
    }

    /// Whether `add_special` puts EOS (or SEP) last.
    pub fn add_eos(&self) -> bool {
        self.roles.add_eos
    }

    /// The template that the model's conversations are written with, if the file has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }
}
