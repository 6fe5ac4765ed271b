//! Weights of a model file in a training: its first ones, or those of a teacher.
//!
//! Weights of any format become f32 master weights. What the recipe says of the model must be what the
//! file says; the first key, tensor or vocabulary that differs is named.

use std::path::Path;

use memwall_formats::{Container, ContainerFormat, Dtype, FormatError, format, gguf};
use memwall_graph::{Graph, GraphError, Memory, Source};
use memwall_nn::{Checkpoint, CheckpointError, ModelConfig};
use memwall_tokenizer::{Tokenizer, TokenizerError};
use serde_json::Value;

use crate::read::read_weight;

/// Why a file cannot be trained further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The file is no model that memwall has, or a tensor is missing or has another shape.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The recipe asks for another model.
    #[error("model.{key} is {ours} in the recipe, but {theirs} in {file}; leave [model] out to take the file's")]
    Differs {
        /// The key.
        key: String,
        /// The recipe's value.
        ours: String,
        /// The file's.
        theirs: String,
        /// The file.
        file: String,
    },
    /// A tensor cannot be decoded.
    #[error("{file}: tensor {tensor}: {error}")]
    Format {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Why.
        error: FormatError,
    },
    /// There is no room for a weight.
    #[error("{0}")]
    Room(#[from] GraphError),
    /// A tensor holds a NaN or an infinity.
    #[error("{file}: tensor {tensor} holds {value} at {index}; training needs finite weights")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The value.
        value: f32,
        /// Where.
        index: usize,
    },
}

/// A model file to start from.
#[derive(Debug)]
pub(crate) struct Start {
    container: Container,
    checkpoint: Checkpoint,
}

impl Start {
    /// Opens a model; reads its header only.
    pub(crate) fn open(path: &Path) -> Result<Start, StartError> {
        let container = Container::open(path).map_err(CheckpointError::from)?;
        let checkpoint = Checkpoint::open(&container)?;
        Ok(Start { container, checkpoint })
    }

    fn file(&self) -> String {
        self.container.path().display().to_string()
    }

    /// The file's model with the recipe's context, if the recipe says nothing else that differs.
    pub(crate) fn config(&self, recipe: Option<&ModelConfig>) -> Result<ModelConfig, StartError> {
        let mut config = self.checkpoint.config.clone();
        let Some(ours) = recipe else { return Ok(config) };
        config.max_context = ours.max_context;
        if let Some((key, ours, theirs)) = difference(&serde_json::json!(ours), &serde_json::json!(config)) {
            return Err(StartError::Differs { key, ours, theirs, file: self.file() });
        }
        Ok(config)
    }

    /// The tokenizer that the file carries, or that lies beside it.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_container(&self.container)
    }

    /// The keys of the tokenizer that a GGUF file carries.
    pub(crate) fn tokenizer_keys(&self) -> Option<impl Iterator<Item = (&str, &gguf::Value)>> {
        let keys = || self.container.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer."));
        (self.container.format() == ContainerFormat::Gguf).then(keys)
    }

    /// Puts the weights that `graph` names into `memory` as f32.
    pub(crate) fn load(&self, graph: &Graph, memory: &mut Memory) -> Result<(), StartError> {
        for (_, info) in graph.values().filter(|(_, info)| matches!(info.source, Source::Weight)) {
            let shape: Vec<usize> = info.ty.shape.dims().iter().filter_map(|d| d.known()).collect();
            let Some(tensor) = self.checkpoint.tensors.get(&*info.name) else {
                let name = info.name.to_string();
                return Err(CheckpointError::Missing { file: self.file(), name, shape }.into());
            };
            let name = || tensor.name.clone();
            if tensor.shape != shape {
                let found = tensor.shape.clone();
                return Err(CheckpointError::Shape { file: self.file(), name: name(), found, shape }.into());
            }
            let bytes = read_weight(&self.container, &self.checkpoint, &info.name, tensor.bytes)
                .map_err(CheckpointError::from)?;
            let mut values = vec![0.0_f32; tensor.elements()];
            format(tensor.dtype)
                .decode(shape.last().copied().unwrap_or(1), &bytes, &mut values)
                .map_err(|error| StartError::Format { file: self.file(), tensor: name(), error })?;
            self.checkpoint.change(&info.name).apply(&mut values);
            if let Some(index) = values.iter().position(|x| !x.is_finite()) {
                let value = values[index];
                return Err(StartError::NotFinite { file: self.file(), tensor: name(), value, index });
            }
            memory.set(&info.name, Dtype::F32, &values)?;
        }
        Ok(())
    }
}

/// The first key at which two configurations differ, and both values.
fn difference(ours: &Value, theirs: &Value) -> Option<(String, String, String)> {
    let within = |key: String, found: Option<(String, String, String)>| {
        found.map(|(inner, a, b)| (if inner.is_empty() { key.clone() } else { format!("{key}.{inner}") }, a, b))
    };
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let of = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter().find_map(|key| within(key.clone(), difference(&of(a, key), &of(b, key))))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| within(i.to_string(), difference(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            Some((String::new(), format!("of {} entries", a.len()), format!("of {}", b.len())))
        }
        (a, b) if a != b => {
            let word = |v: &Value| if v.is_null() { "absent".to_string() } else { v.to_string() };
            Some((String::new(), word(a), word(b)))
        }
        _ => None,
    }
}
