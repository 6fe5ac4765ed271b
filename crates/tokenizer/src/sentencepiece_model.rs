//! `tokenizer.model`, the file that SentencePiece trains: pieces with scores, and how text is normalized before.
//!
//! Source: `sentencepiece_model.proto` of google/sentencepiece; of its messages the fields that encoding depends on.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use prost::Message;

use crate::{
    Model, Roles, Tokenizer, TokenizerError,
    sentencepiece::SentencePiece,
    special::Specials,
    vocabulary::{TokenKind, Vocabulary},
};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Piece {
    #[prost(string, optional, tag = "1")]
    pub piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub score: Option<f32>,
    /// The numbers of [`TokenKind`].
    #[prost(int32, optional, tag = "3")]
    pub kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    pub model_type: Option<i32>,
    #[prost(int32, optional, tag = "40")]
    pub unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    pub bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    pub eos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NormalizerSpec {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    pub add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub escape_whitespaces: Option<bool>,
}

/// `TrainerSpec.ModelType`: byte-pair encoding.
pub(crate) const BPE: i32 = 2;
const MODEL_TYPES: [&str; 5] = ["none", "unigram", "bpe", "word", "char"];

/// A token that is not in the file but in one beside it.
pub(crate) struct AddedToken {
    pub content: String,
    pub special: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.model` from its bytes; `file` is its name for messages. The files beside it are not read.
    ///
    /// # Errors
    /// When it is damaged, or another kind of model than BPE over text as it is.
    pub fn from_sentencepiece_bytes(file: &Path, bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_sentencepiece_and_added(file, bytes, BTreeMap::new())
    }

    /// As [`Tokenizer::from_sentencepiece_bytes`], with the tokens by id that files beside it add.
    pub(crate) fn from_sentencepiece_and_added(
        file: &Path,
        bytes: &[u8],
        added: BTreeMap<u32, AddedToken>,
    ) -> Result<Tokenizer, TokenizerError> {
        let damaged = |problem: String| TokenizerError::Damaged { file: file.to_path_buf(), problem };
        let model = ModelProto::decode(bytes)
            .map_err(|e| damaged(format!("should be a vocabulary of SentencePiece, but: {e}")))?;
        let trainer = model.trainer.unwrap_or_default();
        let kind = trainer.model_type.unwrap_or(1);
        if kind != BPE {
            let name = usize::try_from(kind).ok().and_then(|k| MODEL_TYPES.get(k)).unwrap_or(&"unknown");
            return Err(damaged(format!("its model_type is {name}; bpe is supported")));
        }
        let normalizer = model.normalizer.unwrap_or_default();
        check_normalizer(&normalizer).map_err(damaged)?;

        let mut tokens: Vec<(String, TokenKind)> = Vec::with_capacity(model.pieces.len());
        let mut scores: Vec<f32> = Vec::with_capacity(model.pieces.len());
        for (id, piece) in model.pieces.into_iter().enumerate() {
            let kind = piece.kind.unwrap_or(1);
            let kind = TokenKind::from_id(kind)
                .ok_or_else(|| damaged(format!("piece {id} has the unknown type {kind}; known are 1 to 6")))?;
            let score = piece.score.unwrap_or(0.0);
            if !score.is_finite() {
                return Err(damaged(format!("piece {id} has a score of {score}; it should be finite")));
            }
            tokens.push((piece.piece.unwrap_or_default(), kind));
            scores.push(score);
        }
        if tokens.is_empty() {
            return Err(damaged("holds no pieces".into()));
        }
        for (id, token) in added {
            let known = tokens.len();
            let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
            match tokens.get_mut(id as usize) {
                Some(there) if there.0 == token.content => {
                    if matches!(there.1, TokenKind::Normal) {
                        there.1 = kind;
                    }
                }
                Some(there) => {
                    let problem = format!("token {id} is {:?}, but a file beside it says {:?}", there.0, token.content);
                    return Err(damaged(problem));
                }
                None if id as usize == known => {
                    tokens.push((token.content, kind));
                    scores.push(0.0);
                }
                None => {
                    let problem = format!("a file beside it adds token {id}, but not the ones from {known} on");
                    return Err(damaged(problem));
                }
            }
        }
        let known = tokens.len();
        let role = |id: Option<i32>, default: i32| {
            u32::try_from(id.unwrap_or(default)).ok().filter(|&id| (id as usize) < known)
        };
        let roles = Roles {
            bos: role(trainer.bos_id, 1),
            eos: role(trainer.eos_id, 2),
            unknown: role(trainer.unk_id, 0),
            add_bos: true,
            ..Roles::default()
        };
        let vocabulary = Vocabulary::new(tokens.iter().map(|(t, kind)| (Cow::Borrowed(t.as_bytes()), *kind)));
        let add_space_prefix = normalizer.add_dummy_prefix.unwrap_or(true);
        let model = Model::SentencePiece(SentencePiece::new(&vocabulary, scores, add_space_prefix));
        let specials = Specials::new(&vocabulary, Vec::new()).map_err(damaged)?;
        Ok(Tokenizer { model, vocabulary, specials, roles, chat_template: None })
    }
}

/// Text is taken as it is, spaces written as `▁`: what the vocabularies of Llama and Mistral ask for.
fn check_normalizer(normalizer: &NormalizerSpec) -> Result<(), String> {
    if normalizer.precompiled_charsmap.as_ref().is_some_and(|map| !map.is_empty()) {
        let name = normalizer.name.as_deref().unwrap_or("");
        return Err(format!("its normalizer is {name:?}; identity is supported"));
    }
    if normalizer.remove_extra_whitespaces.unwrap_or(true) {
        return Err("its normalizer removes extra white space; only keeping it is supported".into());
    }
    if !normalizer.escape_whitespaces.unwrap_or(true) {
        return Err("its normalizer does not write spaces as `▁`; only that is supported".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use memwall_formats::Container;
    use serde_json::json;

    use super::*;

    fn proto(pieces: &[(&str, f32, i32)]) -> ModelProto {
        let piece = |&(text, score, kind): &(&str, f32, i32)| Piece {
            piece: Some(text.into()),
            score: Some(score),
            kind: Some(kind),
        };
        ModelProto {
            pieces: pieces.iter().map(piece).collect(),
            trainer: Some(TrainerSpec { model_type: Some(BPE), ..Default::default() }),
            normalizer: Some(NormalizerSpec { remove_extra_whitespaces: Some(false), ..Default::default() }),
        }
    }

    const PIECES: [(&str, f32, i32); 7] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0x62>", 0.0, 6),
        ("▁", -3.0, 1),
        ("a", -2.0, 1),
        ("▁a", -1.0, 1),
    ];

    #[test]
    fn a_published_vocabulary_gives_the_ids_that_its_gguf_gives() {
        let name = "tokenizers/ggml-vocab-llama-spm.gguf";
        let Some(path) = memwall_testdata::data(name) else { return };
        let container = Container::open(&path).expect("a vocabulary");
        let m = container.metadata();
        let tokens: &[String] = m.require("tokenizer.ggml.tokens").expect("tokens");
        let scores: &[f32] = m.require("tokenizer.ggml.scores").expect("scores");
        let kinds: &[i32] = m.require("tokenizer.ggml.token_type").expect("kinds");
        let pieces: Vec<_> = tokens.iter().zip(scores).zip(kinds).map(|((t, s), k)| (t.as_str(), *s, *k)).collect();
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("tokenizer.model"), proto(&pieces).encode_to_vec()).expect("written");
        let ours = Tokenizer::open(folder.path()).expect("a tokenizer");
        let theirs = Tokenizer::from_gguf(m).expect("a tokenizer");
        let texts = fs::read_to_string(memwall_testdata::data(&format!("{name}.inp")).expect("texts")).expect("text");
        let mut some = 0;
        for text in texts.split("\n__ggml_vocab_test__\n") {
            let ids = ours.encode(text, true, true).expect("ids");
            assert_eq!(ids, theirs.encode(text, true, true).expect("ids"), "{text:?}");
            some += usize::from(ids.len() > 1);
        }
        assert!(some > 40, "{some} texts");
        assert_eq!((ours.bos(), ours.eos(), ours.add_bos(), ours.is_end(2)), (Some(1), Some(2), true, true));
    }

    #[test]
    fn files_beside_it_add_tokens_roles_and_a_template() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
        write("tokenizer.model", &proto(&PIECES).encode_to_vec());
        write("added_tokens.json", json!({ "<|im_start|>": 7, "<|im_end|>": 8 }).to_string().as_bytes());
        let config = json!({ "add_bos_token": false, "eos_token": "<|im_end|>", "chat_template": "{{ eos_token }}" });
        write("tokenizer_config.json", config.to_string().as_bytes());
        let tokenizer = Tokenizer::open(folder.path().join("tokenizer.model")).expect("a tokenizer");
        assert_eq!(tokenizer.encode("a<|im_start|>b", true, true).expect("ids"), [6, 7, 4, 3]);
        assert_eq!((tokenizer.eos(), tokenizer.vocab_size()), (Some(8), 9));
        assert!(tokenizer.is_end(8) && tokenizer.is_end(2));
        assert_eq!(tokenizer.chat_template().expect("a template").render(&[], false).expect("text"), "<|im_end|>");
        write("added_tokens.json", json!({ "<|im_start|>": 3 }).to_string().as_bytes());
        let error = Tokenizer::open(folder.path()).expect_err("3 is a byte").to_string();
        assert!(error.contains("tokenizer.model") && error.contains("token 3"), "{error}");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let refused = |model: &ModelProto| {
            let file = Path::new("tokenizer.model");
            let error = Tokenizer::from_sentencepiece_bytes(file, &model.encode_to_vec());
            error.expect_err("refused").to_string()
        };
        let mut model = proto(&PIECES);
        model.trainer = Some(TrainerSpec { model_type: Some(1), ..Default::default() });
        assert!(refused(&model).contains("unigram"));
        let mut model = proto(&PIECES);
        let charsmap =
            NormalizerSpec { name: Some("nmt_nfkc".into()), precompiled_charsmap: Some(vec![1]), ..Default::default() };
        model.normalizer = Some(charsmap);
        assert!(refused(&model).contains("nmt_nfkc"));
        let mut model = proto(&PIECES);
        model.normalizer = None;
        assert!(refused(&model).contains("extra white space"));
        assert!(refused(&proto(&[("a", f32::NAN, 1)])).contains("NaN"));
        assert!(refused(&proto(&[("a", 0.0, 9)])).contains("type 9"));
        assert!(refused(&proto(&[])).contains("no pieces"));
    }
}
