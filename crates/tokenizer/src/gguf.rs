//! Tokenizers that GGUF files carry under `tokenizer.ggml.…`.

use std::{borrow::Cow, collections::BTreeSet};

use memwall_formats::{FileError, gguf::Metadata};

use crate::{
    ChatTemplate, Model, Roles, Tokenizer, TokenizerError,
    bpe::Bpe,
    byte_level::{self, ByteTable},
    pre_tokenizer::{self, PreTokenizer},
    sentencepiece::SentencePiece,
    special::Specials,
    vocabulary::{TokenKind, Vocabulary},
    wordpiece::WordPiece,
};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Tokens that end a turn or a text in known vocabularies, for files that name only one of them as EOS.
const END_NAMES: &[&str] = &[
    "</s>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// Tokens for filling in the middle, which some files call user-defined; as structure they are not read out of a text.
const FILL_NAMES: &[&str] = &[
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<fim_prefix>",
    "<fim_suffix>",
    "<fim_middle>",
    "<fim-prefix>",
    "<fim-suffix>",
    "<fim-middle>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
];

impl Tokenizer {
    /// The tokenizer in a GGUF file's keys: byte-level BPE (`gpt2`), SentencePiece (`llama`) or WordPiece (`bert`).
    ///
    /// # Errors
    /// When keys are missing, contradict each other, or name a kind that memwall does not know.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let model = metadata.require::<&str>(MODEL)?;
        let tokens = metadata.require::<&[String]>(TOKENS)?;
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(metadata.wrong(TOKENS, format!("has {} tokens", tokens.len())).into());
        }
        let kinds = token_kinds(metadata, tokens.len())?;
        let mut roles = Roles {
            bos: token_id(metadata, "tokenizer.ggml.bos_token_id", tokens.len())?,
            eos: token_id(metadata, "tokenizer.ggml.eos_token_id", tokens.len())?,
            unknown: token_id(metadata, "tokenizer.ggml.unknown_token_id", tokens.len())?,
            ..Roles::default()
        };
        let add = |key: &str, default: bool| Ok::<bool, FileError>(metadata.find::<bool>(key)?.unwrap_or(default));
        let add_bos = |default| add("tokenizer.ggml.add_bos_token", default);
        let (vocabulary, model) = match model {
            "gpt2" => {
                let name = metadata.find::<&str>(PRE)?.unwrap_or("default");
                let kind = pre_tokenizer::kind(name).ok_or_else(|| {
                    let known: Vec<&str> = pre_tokenizer::names().collect();
                    metadata
                        .wrong(PRE, format!("is `{name}`, which memwall does not know; known are {}", known.join(", ")))
                })?;
                let pre_tokenizer = PreTokenizer::new(kind).map_err(|problem| metadata.wrong(PRE, problem))?;
                roles.add_bos = add_bos(kind.add_bos)?;
                roles.add_eos = add("tokenizer.ggml.add_eos_token", false)?;
                let (vocabulary, bpe) = byte_level_bpe(metadata, tokens, &kinds, kind.ignore_merges)?;
                (vocabulary, Model::ByteLevel { pre_tokenizer, bpe })
            }
            "llama" => {
                let scores = metadata.require::<&[f32]>(SCORES)?;
                same_length(metadata, SCORES, scores.len(), tokens.len())?;
                roles.add_bos = add_bos(true)?;
                roles.add_eos = add("tokenizer.ggml.add_eos_token", false)?;
                roles.bos = roles.bos.or(Some(1).filter(|_| tokens.len() > 2));
                roles.eos = roles.eos.or(Some(2).filter(|_| tokens.len() > 2));
                roles.unknown = roles.unknown.or(Some(0));
                let vocabulary = as_stored(tokens, &kinds);
                let add_space_prefix = add("tokenizer.ggml.add_space_prefix", true)?;
                let model = SentencePiece::new(&vocabulary, scores.to_vec(), add_space_prefix);
                (vocabulary, Model::SentencePiece(model))
            }
            "bert" => {
                roles.bos = token_id(metadata, "tokenizer.ggml.cls_token_id", tokens.len())?.or(roles.bos);
                roles.separator = token_id(metadata, "tokenizer.ggml.seperator_token_id", tokens.len())?;
                roles.add_bos = add_bos(true)?;
                roles.add_eos = add("tokenizer.ggml.add_eos_token", true)?;
                let vocabulary = as_stored(tokens, &kinds);
                let model = WordPiece::new(&vocabulary);
                (vocabulary, Model::WordPiece(model))
            }
            other => {
                let problem = format!("is `{other}`, which memwall does not know; known are gpt2, llama and bert");
                return Err(metadata.wrong(MODEL, problem).into());
            }
        };
        roles.ends = ends(metadata, &vocabulary, roles.eos)?;
        finish(metadata, vocabulary, model, roles)
    }
}

fn finish(
    metadata: &Metadata,
    mut vocabulary: Vocabulary,
    model: Model,
    roles: Roles,
) -> Result<Tokenizer, TokenizerError> {
    let fills: Vec<u32> = named(&vocabulary, FILL_NAMES).collect();
    for &id in roles.ends.iter().chain(&fills) {
        vocabulary.set_control(id);
    }
    let strips_right = if is_phi3(metadata)? { strips_right_in_phi3(&vocabulary) } else { Vec::new() };
    let specials = Specials::new(&vocabulary, strips_right).map_err(|problem| metadata.wrong(TOKENS, problem))?;
    let name_of = |id: Option<u32>| id.map(|id| String::from_utf8_lossy(vocabulary.get(id)).into_owned());
    let chat_template = match metadata.find::<&str>(CHAT_TEMPLATE)? {
        Some(source) => Some(
            ChatTemplate::new(source, name_of(roles.bos), name_of(roles.eos))
                .map_err(|e| metadata.wrong(CHAT_TEMPLATE, e.to_string()))?,
        ),
        None => None,
    };
    Ok(Tokenizer { model, vocabulary, specials, roles, chat_template })
}

fn token_kinds(metadata: &Metadata, tokens: usize) -> Result<Vec<TokenKind>, FileError> {
    let Some(types) = metadata.find::<&[i32]>(TOKEN_TYPE)? else {
        return Ok(vec![TokenKind::Normal; tokens]);
    };
    same_length(metadata, TOKEN_TYPE, types.len(), tokens)?;
    let kind = |&id: &i32| {
        TokenKind::from_id(id).ok_or_else(|| {
            metadata.wrong(TOKEN_TYPE, format!("has a token type from the future: {id}; known are 1 to 6"))
        })
    };
    types.iter().map(kind).collect()
}

fn same_length(metadata: &Metadata, key: &str, length: usize, tokens: usize) -> Result<(), FileError> {
    if length != tokens {
        return Err(metadata.wrong(key, format!("has {length} entries for {tokens} tokens")));
    }
    Ok(())
}

fn token_id(metadata: &Metadata, key: &str, tokens: usize) -> Result<Option<u32>, FileError> {
    match metadata.find::<u32>(key)? {
        Some(id) if id as usize >= tokens => {
            Err(metadata.wrong(key, format!("is {id}, but there are only {tokens} tokens")))
        }
        id => Ok(id),
    }
}

/// Tokens by their bytes: what is written in the byte alphabet is translated, special tokens are taken as they are.
fn byte_level_bpe(
    metadata: &Metadata,
    tokens: &[String],
    kinds: &[TokenKind],
    ignore_merges: bool,
) -> Result<(Vocabulary, Bpe), TokenizerError> {
    let table = ByteTable::new();
    let vocabulary = Vocabulary::new(tokens.iter().zip(kinds).map(|(token, &kind)| {
        let translated = match kind {
            TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => byte_level::bytes_of(token, &table),
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => None,
        };
        (translated.map_or(Cow::Borrowed(token.as_bytes()), Cow::Owned), kind)
    }));
    let mut merges = Vec::new();
    for merge in metadata.require::<&[String]>(MERGES)? {
        // A side may begin with a space of its own, but not be empty.
        let at = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
        let Some((left, right)) = at.map(|at| (&merge[..at], &merge[at + 1..])).filter(|(_, r)| !r.is_empty()) else {
            return Err(metadata
                .wrong(MERGES, format!("holds `{merge}`; a merge should be two parts with a space"))
                .into());
        };
        // Sides with characters outside the byte alphabet can never come up in text.
        if let (Some(left), Some(right)) = (byte_level::bytes_of(left, &table), byte_level::bytes_of(right, &table)) {
            merges.push((left, right));
        }
    }
    let bpe = Bpe::new(&vocabulary, merges.into_iter(), ignore_merges);
    Ok((vocabulary, bpe))
}

fn as_stored(tokens: &[String], kinds: &[TokenKind]) -> Vocabulary {
    Vocabulary::new(tokens.iter().zip(kinds).map(|(token, &kind)| (Cow::Borrowed(token.as_bytes()), kind)))
}

/// EOS, end of turn and end of message by their keys, and special tokens known by name.
fn ends(metadata: &Metadata, vocabulary: &Vocabulary, eos: Option<u32>) -> Result<BTreeSet<u32>, FileError> {
    let mut ends: BTreeSet<u32> = eos.into_iter().collect();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        ends.extend(token_id(metadata, key, vocabulary.len())?);
    }
    ends.extend(ends_by_name(vocabulary));
    Ok(ends)
}

/// Special tokens whose name is that of an end in known vocabularies.
pub(crate) fn ends_by_name(vocabulary: &Vocabulary) -> impl Iterator<Item = u32> {
    named(vocabulary, END_NAMES)
}

fn named(vocabulary: &Vocabulary, names: &'static [&'static str]) -> impl Iterator<Item = u32> {
    vocabulary
        .of_kinds(&[TokenKind::Control, TokenKind::UserDefined])
        .filter(|(_, bytes)| names.iter().any(|name| name.as_bytes() == *bytes))
        .map(|(id, _)| id)
}

/// Phi-3's tokens take the white space after them with them; GGUF has no key for that, only the model's name tells.
fn is_phi3(metadata: &Metadata) -> Result<bool, FileError> {
    let name = metadata.find::<&str>("general.name")?.unwrap_or("").to_lowercase();
    Ok(name.contains("phi-3") || name.contains("phi3"))
}

fn strips_right_in_phi3(vocabulary: &Vocabulary) -> Vec<u32> {
    let keeps: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
    vocabulary
        .of_kinds(&[TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown])
        .filter(|(_, name)| !keeps.contains(name))
        .map(|(id, _)| id)
        .collect()
}
