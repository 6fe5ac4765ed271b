//! Keys and values in order, asked for by type.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::{Array, Value};
use crate::container::FileError;

/// Keys and values in the order of the file, with the file's name for messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    file: PathBuf,
    entries: IndexMap<String, Value>,
}

impl Metadata {
    /// No keys yet; `file` is the name that messages give.
    pub fn new(file: impl AsRef<Path>) -> Metadata {
        Metadata { file: file.as_ref().to_path_buf(), entries: IndexMap::new() }
    }

    /// The file that the keys are from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Sets a key; an older value is returned and its place in the order kept.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.entries.insert(key.into(), value.into())
    }

    /// Removes a key, keeping the order of the others.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key)
    }

    /// Drops all keys that begin so, and the memory they take.
    pub fn forget(&mut self, prefix: &str) {
        self.entries.retain(|key, _| !key.starts_with(prefix));
        self.entries.shrink_to_fit();
    }

    /// Takes the keys of another that this one does not have.
    pub(crate) fn fill_from(&mut self, other: Metadata) {
        for (key, value) in other.entries {
            self.entries.entry(key).or_insert(value);
        }
    }

    /// The value as it is stored, or `None`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value of a key as a `T`, or `None` without that key. Integers of any width serve where they fit.
    ///
    /// # Errors
    /// When the key holds another type, or a number out of range.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, FileError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        T::from_value(value).map(Some).ok_or_else(|| {
            let shown = match value {
                Value::U64(n) => format!("u64 {n}"),
                Value::I64(n) => format!("i64 {n}"),
                Value::I32(n) => format!("i32 {n}"),
                Value::U32(n) => format!("u32 {n}"),
                other => other.type_name().to_string(),
            };
            self.wrong(key, format!("holds {shown}; it should hold {}", T::EXPECTED))
        })
    }

    /// The value of a key as a `T`.
    ///
    /// # Errors
    /// When the key is missing, holds another type, or a number out of range.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, FileError> {
        self.find(key)?.ok_or_else(|| FileError::MissingKey {
            file: self.file.clone(),
            key: key.into(),
            expected: T::EXPECTED,
        })
    }

    /// An error about a key of this file, for readers that find its value unusable.
    pub fn wrong(&self, key: &str, problem: impl Into<String>) -> FileError {
        FileError::Key { file: self.file.clone(), key: key.into(), problem: problem.into() }
    }
}

/// A Rust type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// The type in words, for messages.
    const EXPECTED: &'static str;
    /// The value, if it has that type and range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_integer {
    ($($to:ty: $expected:literal),*) => {$(
        impl<'a> FromValue<'a> for $to {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &'a Value) -> Option<$to> {
                match *value {
                    Value::U8(n) => n.try_into().ok(),
                    Value::I8(n) => n.try_into().ok(),
                    Value::U16(n) => n.try_into().ok(),
                    Value::I16(n) => n.try_into().ok(),
                    Value::U32(n) => n.try_into().ok(),
                    Value::I32(n) => n.try_into().ok(),
                    Value::U64(n) => n.try_into().ok(),
                    Value::I64(n) => n.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}

from_integer!(
    u16: "an integer from 0 to 65535",
    u32: "an integer from 0 to 4294967295",
    u64: "an integer from 0",
    usize: "an integer from 0",
    i32: "an integer of 32 bits",
    i64: "an integer of 64 bits"
);

impl<'a> FromValue<'a> for f32 {
    const EXPECTED: &'static str = "a floating-point number";
    fn from_value(value: &'a Value) -> Option<f32> {
        match *value {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for f64 {
    const EXPECTED: &'static str = "a floating-point number";
    fn from_value(value: &'a Value) -> Option<f64> {
        match *value {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for bool {
    const EXPECTED: &'static str = "a boolean";
    fn from_value(value: &'a Value) -> Option<bool> {
        if let Value::Bool(b) = *value { Some(b) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Option<&'a str> {
        if let Value::String(s) = value { Some(s) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a Array {
    const EXPECTED: &'static str = "an array";
    fn from_value(value: &'a Value) -> Option<&'a Array> {
        if let Value::Array(array) = value { Some(array) } else { None }
    }
}

macro_rules! from_array {
    ($($element:ty, $variant:ident: $expected:literal);* $(;)?) => {$(
        impl<'a> FromValue<'a> for &'a [$element] {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &'a Value) -> Option<&'a [$element]> {
                if let Value::Array(Array::$variant(values)) = value { Some(values) } else { None }
            }
        }
    )*};
}

from_array! {
    String, String: "an array of strings";
    f32, F32: "an array of f32";
    i32, I32: "an array of i32";
    u32, U32: "an array of u32";
    u8, U8: "an array of u8";
    bool, Bool: "an array of booleans";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_width_serve_where_they_fit() {
        let mut metadata = Metadata::new("m.gguf");
        metadata.insert("heads", 8u32);
        metadata.insert("negative", -1i32);
        assert_eq!(metadata.require::<usize>("heads").unwrap(), 8);
        assert_eq!(metadata.require::<i64>("negative").unwrap(), -1);
        let error = metadata.require::<u32>("negative").unwrap_err().to_string();
        assert!(error.contains("m.gguf") && error.contains("`negative`") && error.contains("i32 -1"), "{error}");
    }

    #[test]
    fn forgotten_keys_are_gone_and_the_others_keep_their_order() {
        let mut metadata = Metadata::new("m.gguf");
        for key in ["tokenizer.a", "general.b", "tokenizer.c", "general.d"] {
            metadata.insert(key, 1u8);
        }
        metadata.forget("tokenizer.");
        assert_eq!(metadata.iter().map(|(k, _)| k).collect::<Vec<_>>(), ["general.b", "general.d"]);
    }

    #[test]
    fn a_missing_key_and_a_wrong_type_say_what_should_be_there() {
        let mut metadata = Metadata::new("m.gguf");
        metadata.insert("name", "x");
        let missing = metadata.require::<f32>("eps").unwrap_err().to_string();
        assert!(missing.contains("`eps`") && missing.contains("floating-point"), "{missing}");
        let wrong = metadata.require::<f32>("name").unwrap_err().to_string();
        assert!(wrong.contains("a string") && wrong.contains("floating-point"), "{wrong}");
        assert_eq!(metadata.find::<f32>("eps").unwrap(), None);
    }
}
