//! The merges of a BPE model in `tokenizer.json`, checked before the library builds its tables from them: it takes for
//! granted that a right side begins with `continuing_subword_prefix` and that what two sides make is a token.

use std::{borrow::Cow, collections::HashSet};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

#[derive(Deserialize)]
struct Document<'j> {
    #[serde(borrow)]
    model: BpeModel<'j>,
}

#[derive(Deserialize)]
struct BpeModel<'j> {
    #[serde(borrow, default)]
    continuing_subword_prefix: Option<Cow<'j, str>>,
    #[serde(borrow)]
    vocab: Names<'j>,
    #[serde(borrow)]
    merges: Vec<Merge<'j>>,
}

/// A merge, written as `"a b"` or as `["a", "b"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'j> {
    Text(#[serde(borrow)] Cow<'j, str>),
    Sides(#[serde(borrow)] Cow<'j, str>, #[serde(borrow)] Cow<'j, str>),
}

impl Merge<'_> {
    fn sides(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Text(text) => text.split_once(' '),
            Merge::Sides(left, right) => Some((left, right)),
        }
    }
}

/// Checks the merges of a `tokenizer.json` whose model is BPE.
pub(crate) fn check(json: &[u8]) -> Result<(), String> {
    let document: Document = serde_json::from_slice(json).map_err(|e| format!("should be a BPE model, but: {e}"))?;
    let BpeModel { continuing_subword_prefix, vocab: Names(names), merges } = document.model;
    let prefix = continuing_subword_prefix.unwrap_or_default();
    for merge in &merges {
        let Some((left, right)) = merge.sides() else {
            return Err("has a merge without a space; a merge should be two tokens".into());
        };
        let Some(rest) = right.strip_prefix(&*prefix) else {
            return Err(format!("has the merge `{left} {right}`, whose right side should begin with `{prefix}`"));
        };
        let joined = format!("{left}{rest}");
        if let Some(absent) = [left, right, &joined].into_iter().find(|&name| !names.contains(name)) {
            return Err(format!("has the merge `{left} {right}`, but `{absent}` is not in the vocabulary"));
        }
    }
    Ok(())
}

/// The keys of an object, without its values.
struct Names<'j>(HashSet<Cow<'j, str>>);

impl<'de: 'j, 'j> Deserialize<'de> for Names<'j> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names<'j>, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<'de>, A::Error> {
                #[derive(Deserialize, PartialEq, Eq, Hash)]
                struct Key<'k>(#[serde(borrow)] Cow<'k, str>);
                let mut names = HashSet::new();
                while let Some((Key(name), IgnoredAny)) = map.next_entry()? {
                    names.insert(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_model(model: &str) -> Result<(), String> {
        check(format!(r#"{{"version": "1.0", "model": {model}}}"#).as_bytes())
    }

    #[test]
    fn merges_of_tokens_pass_in_both_spellings() {
        check_model(r#"{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}"#).unwrap();
        check_model(r#"{"vocab":{"a":0,"b\n":1,"ab\n":2},"merges":[["a","b\n"]]}"#).unwrap();
        check_model(r###"{"continuing_subword_prefix":"##","vocab":{"a":0,"##b":1,"ab":2},"merges":["a ##b"]}"###)
            .unwrap();
    }

    #[test]
    fn merges_that_make_no_token_are_refused_by_name() {
        let refused = |model: &str, word: &str| {
            let error = check_model(model).unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        refused(r#"{"vocab":{"a":0,"b":1},"merges":["a b"]}"#, "`ab` is not");
        refused(r#"{"vocab":{"a":0,"ab":1},"merges":["a b"]}"#, "`b` is not");
        refused(r#"{"vocab":{"a":0},"merges":["ab"]}"#, "two tokens");
        refused(r###"{"continuing_subword_prefix":"##","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}"###, "`##`");
        refused(r#"{"vocab":[],"merges":[]}"#, "an object of tokens");
    }
}
