//! Models in files: from a container's own configuration and tensor names to a [`ModelConfig`] and its weights.

mod adapt;
mod assembly;
mod gated_delta;
mod gguf;
mod gguf_mamba;
mod hugging_face;
pub(crate) mod memwall;
mod naming;
mod rwkv_cpp;
pub(crate) mod to_gguf;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;

use memwall_formats::{Container, ContainerFormat, Dtype, FileError, TensorInfo, UnsupportedTensor};
use memwall_graph::GraphError;

use crate::config::{ConfigError, ModelConfig};
use crate::weights::WeightTypes;
use naming::Naming;

pub use assembly::{Assembly, Change, Extent};

/// Why a file is no model that can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The container's header is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration is wrong.
    #[error("{file}: {error}")]
    Config {
        /// The file.
        file: String,
        /// Key and problem.
        error: ConfigError,
    },
    /// A family that memwall does not have.
    #[error("{file}: unknown architecture {found:?}; memwall has {known}")]
    Architecture {
        /// The file.
        file: String,
        /// What the file says.
        found: String,
        /// The families there are.
        known: &'static str,
    },
    /// A weight that the configuration asks for is not there.
    #[error("{file}: tensor {name} is missing; the configuration asks for {shape:?}")]
    Missing {
        /// The file.
        file: String,
        /// The tensor's name in the file.
        name: String,
        /// The shape that is needed.
        shape: Vec<usize>,
    },
    /// A weight is stored in a type that layers do not compute with.
    #[error(
        "{file}: tensor {name} is stored as {found}; weights in F32, F16, BF16 or a block format are needed: memwall quantize \
         unpacks what the hub packs"
    )]
    Type {
        /// The file.
        file: String,
        /// The tensor's name in the file.
        name: String,
        /// The type.
        found: &'static str,
    },
    /// The layers of the configuration do not fit each other.
    #[error("{file}: {error}")]
    Graph {
        /// The file.
        file: String,
        /// Which operator, and why.
        error: Box<GraphError>,
    },
    /// A weight has another shape than the configuration asks for.
    #[error("{file}: tensor {name} has shape {found:?}; the configuration asks for {shape:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor's name in the file.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that is needed.
        shape: Vec<usize>,
    },
}

/// A model as a file holds it: its configuration, and which tensor is which weight.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The model.
    pub config: ModelConfig,
    /// memwall's weight names and the tensors that hold them.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Keys of `config.json` that memwall does not know, and which may ask for something that it does not do.
    pub unread: Vec<String>,
    /// The weights that do not lie in one piece or are stored as another function of their values, and how they are made;
    /// `tensors` has their shape and format too, under the name of the first tensor that they are made of.
    pub assembled: BTreeMap<String, Assembly>,
    naming: &'static Naming,
}

impl Checkpoint {
    /// Reads the configuration and the table of tensors; touches no weight.
    ///
    /// # Errors
    /// If the family is unknown, a key or tensor is missing or wrong.
    pub fn open(container: &Container) -> Result<Checkpoint, CheckpointError> {
        let checkpoint = match container.format() {
            _ if memwall::is(container) => memwall::open(container)?,
            ContainerFormat::Gguf | ContainerFormat::Llama2c => gguf::open(container)?,
            ContainerFormat::Safetensors => hugging_face::open(container)?,
            ContainerFormat::RwkvCpp => rwkv_cpp::open(container)?,
        };
        checkpoint.check(container.path(), container.unsupported())?;
        Ok(checkpoint)
    }

    /// What [`Checkpoint::open`] reads of a Hugging Face folder, when the `config.json` called `file` holds `json` and the
    /// files beside it `tensors`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_config_json(file: &Path, json: &[u8], tensors: &[TensorInfo]) -> Result<Checkpoint, CheckpointError> {
        let checkpoint = hugging_face::read(file, json, tensors)?;
        checkpoint.check(file, &[])?;
        Ok(checkpoint)
    }

    /// Checks the configuration, and that each weight that it asks for is there.
    fn check(&self, file: &Path, unsupported: &[UnsupportedTensor]) -> Result<(), CheckpointError> {
        let file = file.display().to_string();
        self.config.check().map_err(|error| CheckpointError::Config { file: file.clone(), error })?;
        weights::check(self, &file, unsupported)
    }

    /// Names and shapes of the weights that the model asks for, in the order in which they serve.
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        // Opening has built the same graph.
        weights::wanted(&self.config).unwrap_or_default()
    }

    /// The name that the file gives the weight `name`.
    pub fn name_in_file(&self, name: &str) -> String {
        match self.tensors.get(name) {
            Some(tensor) => tensor.name.clone(),
            None => self.naming.theirs(name),
        }
    }

    /// Where the `bytes` bytes from `from` on of the weight `name` lie, in order; nowhere without such a weight.
    pub fn extents(&self, name: &str, from: u64, bytes: u64) -> Vec<Extent> {
        if let Some(assembly) = self.assembled.get(name) {
            return assembly.extents(from, bytes).collect();
        }
        let Some(t) = self.tensors.get(name) else { return Vec::new() };
        let bytes = bytes.min(t.bytes.saturating_sub(from));
        vec![Extent { file: t.file, offset: t.offset + from, bytes }]
    }

    /// What is done with the stored values of the weight `name`.
    pub fn change(&self, name: &str) -> Change {
        self.assembled.get(name).map_or(Change::None, |a| a.change)
    }

    /// The storage formats of the weight matrices.
    pub fn types(&self) -> WeightTypes {
        let matrices = self.tensors.iter().filter(|(_, t)| t.shape.len() > 1);
        matrices.map(|(name, t)| (name.clone(), t.dtype)).collect()
    }

    /// Bytes of all weights, as stored.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.bytes).sum()
    }

    /// The format that holds most of the weights.
    pub fn main_format(&self) -> Dtype {
        let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
        for t in self.tensors.values().filter(|t| t.shape.len() > 1) {
            *bytes.entry(t.dtype).or_default() += t.bytes;
        }
        bytes.into_iter().max_by_key(|(_, n)| *n).map_or(Dtype::F32, |(d, _)| d)
    }
}
