//! Models in files: from a container's own configuration and tensor names to a [`ModelConfig`] and its weights.

mod gguf;
pub(crate) mod memwall;

use std::collections::BTreeMap;

use memwall_formats::{Container, ContainerFormat, Dtype, FileError, TensorInfo};

use crate::config::{ConfigError, ModelConfig};
use crate::weights::WeightTypes;

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
}

impl Checkpoint {
    /// Reads the configuration and the table of tensors; touches no weight.
    ///
    /// # Errors
    /// If the family is unknown, a key or tensor is missing or wrong.
    pub fn open(container: &Container) -> Result<Checkpoint, CheckpointError> {
        let checkpoint = match container.format() {
            ContainerFormat::Gguf if memwall::is(container) => memwall::open(container)?,
            ContainerFormat::Gguf | ContainerFormat::Llama2c => gguf::open(container)?,
            ContainerFormat::Safetensors => {
                return Err(CheckpointError::Architecture {
                    file: container.path().display().to_string(),
                    found: "safetensors".into(),
                    known: gguf::KNOWN,
                });
            }
        };
        let file = || container.path().display().to_string();
        checkpoint.config.check().map_err(|error| CheckpointError::Config { file: file(), error })?;
        Ok(checkpoint)
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
