//! A tokenizer as the keys of a GGUF file, for models that are converted from other formats or trained here.

use std::collections::HashMap;

use memwall_formats::gguf::Metadata;
use serde_json::Value;

use crate::{
    Model, Tokenizer, TokenizerError,
    vocabulary::{TokenKind, Vocabulary},
};

/// The expression that cuts words in `tokenizer.json`, whether words that are tokens skip the merges, and the name by
/// which `tokenizer.ggml.pre` calls that.
const SPLITS: &[(&str, bool, &str)] = &[
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        true,
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        false,
        "smaug-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        false,
        "qwen2",
    ),
];

impl Tokenizer {
    /// Puts this tokenizer's `tokenizer.…` keys into a GGUF file's metadata. For one that came from GGUF, copy the keys of
    /// that file instead.
    ///
    /// # Errors
    /// When GGUF has no name for what this tokenizer does: another model than byte-level BPE or SentencePiece, or words
    /// cut by an expression that is not known.
    pub fn put_gguf_keys(&self, metadata: &mut Metadata) -> Result<(), TokenizerError> {
        match &self.model {
            Model::HuggingFace(model) => {
                let json = model.json()?;
                match json["model"]["byte_fallback"].as_bool() {
                    Some(true) => self.put_sentencepiece(metadata, &json, model.adds_space)?,
                    _ => self.put_byte_level(metadata, &json)?,
                }
            }
            Model::SentencePiece(model) => {
                metadata.insert("tokenizer.ggml.model", "llama");
                metadata.insert("tokenizer.ggml.scores", model.scores().to_vec());
                metadata.insert("tokenizer.ggml.add_space_prefix", model.add_space_prefix);
                let names = (0..self.vocab_size() as u32).map(|id| text(self.vocabulary.get(id))).collect();
                self.put_tokens(metadata, names);
            }
            Model::ByteLevel { .. } | Model::WordPiece(_) => {
                return Err(TokenizerError::Export("it came from a GGUF file: copy that file's keys".into()));
            }
        }
        Ok(())
    }

    /// Names tokens up to `tokens`, where a model has more logits than its vocabulary has tokens: readers take the length of
    /// the list for the number of logits.
    ///
    /// # Errors
    /// When the keys hold something else than [`Tokenizer::put_gguf_keys`] put there.
    pub fn pad_gguf_vocabulary(metadata: &mut Metadata, tokens: usize) -> Result<(), TokenizerError> {
        let mut names = metadata.require::<&[String]>("tokenizer.ggml.tokens")?.to_vec();
        if names.len() >= tokens {
            return Ok(());
        }
        let mut kinds = metadata.require::<&[i32]>("tokenizer.ggml.token_type")?.to_vec();
        kinds.resize(tokens, TokenKind::Unused.id());
        names.extend((names.len()..tokens).map(unused_name));
        if let Some(scores) = metadata.find::<&[f32]>("tokenizer.ggml.scores")? {
            let mut scores = scores.to_vec();
            scores.resize(tokens, f32::MIN);
            metadata.insert("tokenizer.ggml.scores", scores);
        }
        metadata.insert("tokenizer.ggml.tokens", names);
        metadata.insert("tokenizer.ggml.token_type", kinds);
        Ok(())
    }

    fn put_byte_level(&self, metadata: &mut Metadata, json: &Value) -> Result<(), TokenizerError> {
        let refused = |why: String| Err(TokenizerError::Export(why));
        if json["model"]["type"] != "BPE" {
            return refused(format!("its model is {}, not byte-level BPE", json["model"]["type"]));
        }
        let Some(pre) = pre_name(json) else {
            return refused(format!("GGUF has no name for its pre-tokenizer {}", json["pre_tokenizer"]));
        };
        let mut merges = Vec::new();
        for merge in json["model"]["merges"].as_array().into_iter().flatten() {
            match merge_sides(merge) {
                Some((left, right)) => merges.push(format!("{left} {right}")),
                None => return refused(format!("its merge {merge} is not two strings")),
            }
        }
        metadata.insert("tokenizer.ggml.model", "gpt2");
        metadata.insert("tokenizer.ggml.pre", pre);
        metadata.insert("tokenizer.ggml.merges", merges);
        self.put_tokens(metadata, names(&self.vocabulary, json));
        Ok(())
    }

    /// Merges in the order of their ranks, as scores of what they join: the first learned scores highest.
    fn put_sentencepiece(
        &self,
        metadata: &mut Metadata,
        json: &Value,
        add_space_prefix: bool,
    ) -> Result<(), TokenizerError> {
        let names = names(&self.vocabulary, json);
        let ids: HashMap<&str, usize> = names.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
        let mut scores = vec![f32::NAN; names.len()];
        let merges = json["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
        for (rank, merge) in merges.iter().enumerate() {
            let Some((left, right)) = merge_sides(merge) else {
                return Err(TokenizerError::Export(format!("its merge {merge} is not two strings")));
            };
            if let Some(score) = ids.get(format!("{left}{right}").as_str()).map(|&id| &mut scores[id])
                && score.is_nan()
            {
                *score = -(rank as f32);
            }
        }
        // What no merge makes is a single character or special: no pair is ever scored by it.
        let unmerged = -(merges.len() as f32) - 1.0;
        scores.iter_mut().filter(|s| s.is_nan()).for_each(|s| *s = unmerged);
        metadata.insert("tokenizer.ggml.model", "llama");
        metadata.insert("tokenizer.ggml.scores", scores);
        metadata.insert("tokenizer.ggml.add_space_prefix", add_space_prefix);
        self.put_tokens(metadata, names);
        Ok(())
    }

    /// Tokens, their kinds and roles, and the chat template.
    fn put_tokens(&self, metadata: &mut Metadata, names: Vec<String>) {
        let kinds =
            (0..names.len() as u32).map(|id| self.kind(id).unwrap_or(TokenKind::Unused).id()).collect::<Vec<_>>();
        metadata.insert("tokenizer.ggml.tokens", names);
        metadata.insert("tokenizer.ggml.token_type", kinds);
        let roles = [("bos", self.roles.bos), ("eos", self.roles.eos), ("unknown", self.roles.unknown)];
        for (role, id) in roles {
            if let Some(id) = id {
                metadata.insert(format!("tokenizer.ggml.{role}_token_id"), id);
            }
        }
        // GGUF has room for one more end than EOS; others are known by name only.
        if let Some(&end) = self.roles.ends.iter().find(|&&id| Some(id) != self.roles.eos) {
            metadata.insert("tokenizer.ggml.eot_token_id", end);
        }
        metadata.insert("tokenizer.ggml.add_bos_token", self.roles.add_bos);
        metadata.insert("tokenizer.ggml.add_eos_token", self.roles.add_eos);
        if let Some(template) = &self.chat_template {
            metadata.insert("tokenizer.chat_template", template.source());
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The strings of the vocabulary by id; ids that no string has get one of their own.
fn names(vocabulary: &Vocabulary, json: &Value) -> Vec<String> {
    let mut names: Vec<String> = (0..vocabulary.len()).map(unused_name).collect();
    let pieces = json["model"]["vocab"].as_object().into_iter().flatten();
    let pieces = pieces.filter_map(|(name, id)| Some((name.as_str(), id.as_u64()?)));
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter_map(|token| Some((token["content"].as_str()?, token["id"].as_u64()?)));
    for (name, id) in pieces.chain(added) {
        if let Some(slot) = names.get_mut(id as usize) {
            *slot = name.to_string();
        }
    }
    names
}

fn unused_name(id: usize) -> String {
    format!("[UNUSED{id}]")
}

/// A merge, written as `"a b"` or as `["a", "b"]`.
fn merge_sides(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(sides) => match sides.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}

/// The name of the pre-tokenizer in GGUF, or `None`.
fn pre_name(json: &Value) -> Option<&'static str> {
    let pre = &json["pre_tokenizer"];
    let byte_level = |part: &Value, regex: bool| {
        part["type"] == "ByteLevel" && part["add_prefix_space"] == false && part["use_regex"] == regex
    };
    if byte_level(pre, true) {
        return Some("gpt-2");
    }
    let parts = pre["pretokenizers"].as_array()?;
    let [first, second] = parts.as_slice() else { return None };
    if first["type"] == "Digits" && first["individual_digits"] == true && byte_level(second, true) {
        return Some("smollm");
    }
    if first["type"] != "Split"
        || first["behavior"] != "Isolated"
        || first["invert"] != false
        || !byte_level(second, false)
    {
        return None;
    }
    let regex = first["pattern"]["Regex"].as_str()?;
    let ignore_merges = json["model"]["ignore_merges"] == true;
    SPLITS.iter().find(|(split, ignore, _)| *split == regex && *ignore == ignore_merges).map(|&(_, _, name)| name)
}
