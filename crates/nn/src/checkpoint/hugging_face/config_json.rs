//! `config.json`: values asked for by key and type, and which keys nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use memwall_formats::FileError;
use serde_json::{Map, Value};

use super::super::CheckpointError;

/// Keys that say nothing about how logits are computed from weights: training, generation, bookkeeping of libraries.
const WITHOUT_EFFECT: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// A configuration in JSON. Keys of objects inside it are written with dots; a key that holds null is absent.
pub(crate) struct ConfigJson {
    file: PathBuf,
    keys: Map<String, Value>,
    asked: RefCell<BTreeSet<String>>,
}

impl ConfigJson {
    /// Reads it; `file` is its name for messages.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub(crate) fn parse(file: &Path, json: &[u8]) -> Result<ConfigJson, CheckpointError> {
        let keys = serde_json::from_slice(&quoted_constants(json)).map_err(|e| FileError::Header {
            file: file.to_path_buf(),
            problem: format!("should be a model's configuration in JSON, but: {e}"),
        })?;
        Ok(ConfigJson { file: file.to_path_buf(), keys, asked: RefCell::default() })
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The value as it is written, or `None`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_string());
        let mut parts = key.split('.');
        let first = self.keys.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part)).filter(|value| !value.is_null())
    }

    /// Whether the key is there and holds null, where that is not the same as its absence.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(Value::is_null)
    }

    /// The value of a key as a `T`, or `None` without that key.
    ///
    /// # Errors
    /// If the key holds something else.
    pub(crate) fn find<'a, T: FromJson<'a>>(&'a self, key: &str) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = T::from_json(value).map(Some);
        found.ok_or_else(|| self.wrong(key, format!("is {value}; it should be {}", T::EXPECTED)))
    }

    /// The value of a key as a `T`.
    ///
    /// # Errors
    /// If the key is missing or holds something else.
    pub(crate) fn require<'a, T: FromJson<'a>>(&'a self, key: &str) -> Result<T, CheckpointError> {
        self.find(key)?.ok_or_else(|| {
            FileError::MissingKey { file: self.file.clone(), key: key.into(), expected: T::EXPECTED }.into()
        })
    }

    /// Refuses any value of `key` but `only`, which is also what its absence means; `why` says what is missing here.
    ///
    /// # Errors
    /// If it holds another value.
    pub(crate) fn only(&self, key: &str, only: &Value, why: &str) -> Result<(), CheckpointError> {
        match self.get(key).filter(|value| *value != only) {
            None => Ok(()),
            Some(value) => Err(self.wrong(key, format!("is {value}, {why}; {only} is supported"))),
        }
    }

    /// An error about a key.
    pub(crate) fn wrong(&self, key: &str, problem: impl Into<String>) -> CheckpointError {
        FileError::Key { file: self.file.clone(), key: key.into(), problem: problem.into() }.into()
    }

    /// Keys that nobody asked for, that hold something, and that are not known to be without effect.
    pub(crate) fn unread(&self) -> Vec<String> {
        let asked = self.asked.borrow();
        let mut unread = Vec::new();
        for (key, value) in &self.keys {
            if key.starts_with('_') || WITHOUT_EFFECT.contains(&key.as_str()) || is_empty(value) {
                continue;
            }
            let inner = format!("{key}.");
            match value {
                Value::Object(inside) if asked.iter().any(|k| k.starts_with(&inner)) => {
                    let keys = inside.iter().filter(|(_, v)| !is_empty(v)).map(|(k, _)| format!("{inner}{k}"));
                    unread.extend(keys.filter(|k| !asked.contains(k)));
                }
                _ if asked.contains(key) => {}
                _ => unread.push(key.clone()),
            }
        }
        unread
    }
}

/// The same text with the constants that Python writes, and JSON does not have, as strings.
fn quoted_constants(json: &[u8]) -> Vec<u8> {
    let (mut text, mut inside, mut rest) = (Vec::with_capacity(json.len()), false, json);
    while let Some((&byte, after)) = rest.split_first() {
        let constant = [&b"-Infinity"[..], b"Infinity", b"NaN"].into_iter().find(|c| !inside && rest.starts_with(c));
        if let Some(constant) = constant {
            text.extend([b"\"", constant, b"\""].concat());
            rest = &rest[constant.len()..];
            continue;
        }
        text.push(byte);
        rest = after;
        match (inside, byte, rest.split_first()) {
            (true, b'\\', Some((&escaped, after))) => {
                text.push(escaped);
                rest = after;
            }
            (_, b'"', _) => inside = !inside,
            _ => {}
        }
    }
    text
}

/// Whether a value says no more than its absence would.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(inside) => inside.is_empty(),
        _ => false,
    }
}

/// A type that a value of the configuration can be read as.
pub(crate) trait FromJson<'a>: Sized {
    /// The type in words, for messages.
    const EXPECTED: &'static str;
    /// The value, if it has that type and range.
    fn from_json(value: &'a Value) -> Option<Self>;
}

impl FromJson<'_> for usize {
    const EXPECTED: &'static str = "an integer from 0";
    fn from_json(value: &Value) -> Option<usize> {
        value.as_u64()?.try_into().ok()
    }
}

impl FromJson<'_> for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_json(value: &Value) -> Option<f64> {
        value.as_f64()
    }
}

impl FromJson<'_> for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_json(value: &Value) -> Option<bool> {
        value.as_bool()
    }
}

impl<'a> FromJson<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_json(value: &'a Value) -> Option<&'a str> {
        value.as_str()
    }
}

impl FromJson<'_> for Vec<usize> {
    const EXPECTED: &'static str = "a list of integers from 0";
    fn from_json(value: &Value) -> Option<Vec<usize>> {
        value.as_array()?.iter().map(usize::from_json).collect()
    }
}

impl<'a> FromJson<'a> for Vec<&'a str> {
    const EXPECTED: &'static str = "a list of strings";
    fn from_json(value: &'a Value) -> Option<Vec<&'a str>> {
        value.as_array()?.iter().map(Value::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> ConfigJson {
        ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("an object")
    }

    #[test]
    fn errors_name_file_key_and_what_would_be_right() {
        let config = parse(r#"{"hidden_size": "wide", "rope_scaling": {"factor": -1}, "vocab_size": null}"#);
        let wrong = config.find::<usize>("hidden_size").expect_err("a string").to_string();
        assert!(
            wrong.contains("config.json") && wrong.contains("`hidden_size`") && wrong.contains("integer"),
            "{wrong}"
        );
        assert_eq!(config.find::<f64>("rope_scaling.factor").expect("a number"), Some(-1.0));
        let missing = config.require::<usize>("vocab_size").expect_err("null").to_string();
        assert!(missing.contains("`vocab_size`"), "{missing}");
        let only = config.only("hidden_size", &Value::from("narrow"), "no").expect_err("wide").to_string();
        assert!(only.contains("wide") && only.contains("narrow"), "{only}");
        assert!(ConfigJson::parse(Path::new("c.json"), b"[1]").is_err());
    }

    #[test]
    fn infinity_is_read_as_a_word_and_words_in_strings_stay() {
        let config = parse(r#"{"limit": [0.0, Infinity], "least": -Infinity, "a": "NaN \"Infinity", "b": NaN}"#);
        assert_eq!(config.get("limit"), Some(&serde_json::json!([0.0, "Infinity"])));
        assert_eq!(config.get("least"), Some(&serde_json::json!("-Infinity")));
        assert_eq!(config.get("a"), Some(&serde_json::json!("NaN \"Infinity")));
        assert_eq!(config.get("b"), Some(&serde_json::json!("NaN")));
    }

    #[test]
    fn keys_that_nobody_asks_for_are_told() {
        let config = parse(
            r#"{"a": 1, "b": {"c": 1, "d": 2, "e": null}, "f": false, "_g": 1, "use_cache": true, "h": {"i": 1}, "j": 3}"#,
        );
        config.get("a");
        config.get("b.c");
        assert_eq!(config.unread(), ["b.d", "h", "j"]);
    }
}
