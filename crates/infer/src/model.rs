//! An opened model: container, configuration, weights on demand.

use std::path::Path;
use std::sync::Arc;

use memwall_formats::{Container, Dtype, TensorInfo, format};
use memwall_graph::{Graph, Memory, Source};
use memwall_nn::{Checkpoint, CheckpointError};

use crate::InferError;

/// A model file, opened: headers read, weights mapped.
#[derive(Clone, Debug)]
pub struct Model {
    container: Arc<Container>,
    checkpoint: Checkpoint,
}

/// A tensor's bytes in a mapped container.
struct Mapped {
    container: Arc<Container>,
    tensor: TensorInfo,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.container.bytes(&self.tensor)
    }
}

/// Bytes of a tensor that must be copied to be read as numbers, because a safetensors file need not align them.
fn copied_bytes(tensor: &TensorInfo) -> usize {
    let dtype = tensor.dtype;
    if dtype.is_block() || tensor.offset.is_multiple_of(dtype.block_bytes() as u64) { 0 } else { tensor.bytes as usize }
}

impl Model {
    /// Opens a model file or folder; reads headers only.
    ///
    /// # Errors
    /// If it is no model that memwall has, or a header is wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, InferError> {
        let container = Arc::new(Container::open(path)?);
        let checkpoint = Checkpoint::open(&container)?;
        Ok(Model { container, checkpoint })
    }

    /// Opens a GGUF model that is part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_static(name: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Model, InferError> {
        let container = Arc::new(Container::from_static(name, bytes)?);
        let checkpoint = Checkpoint::open(&container)?;
        Ok(Model { container, checkpoint })
    }

    /// Configuration and table of weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The file.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Bytes of the weights that `graph` cannot have as they are mapped: vectors that are not stored as f32, and what a
    /// file does not align.
    pub(crate) fn decoded_bytes(&self, graph: &Graph) -> usize {
        let weights = graph.values().filter(|(_, info)| matches!(info.source, Source::Weight));
        let tensors = weights.filter_map(|(_, info)| Some((info, self.checkpoint.tensors.get(&*info.name)?)));
        tensors.map(|(info, t)| if t.dtype != info.ty.dtype { 4 * t.elements() } else { copied_bytes(t) }).sum()
    }

    /// The first weight that holds a NaN or an infinity, if any; reads every weight stored as a float.
    pub fn find_not_finite(&self) -> Option<&str> {
        self.checkpoint.tensors.values().find(|t| self.has_not_finite(t)).map(|t| t.name.as_str())
    }

    fn has_not_finite(&self, tensor: &TensorInfo) -> bool {
        if tensor.dtype.is_block() || tensor.dtype == Dtype::I32 {
            return false;
        }
        let width = tensor.shape.last().copied().unwrap_or(1).max(1);
        let row_bytes = tensor.dtype.row_bytes(width).unwrap_or(1).max(1);
        let mut values = vec![0.0_f32; width];
        self.container.bytes(tensor).chunks_exact(row_bytes).any(|row| {
            format(tensor.dtype).decode(width, row, &mut values).is_ok() && values.iter().any(|x| !x.is_finite())
        })
    }

    /// Puts the weights that `graph` names into `memory`: matrices as they are stored, mapped; vectors as f32.
    ///
    /// # Errors
    /// If a weight is missing or has another shape.
    pub fn load(&self, graph: &Graph, memory: &mut Memory) -> Result<(), InferError> {
        for (_, info) in graph.values().filter(|(_, info)| matches!(info.source, Source::Weight)) {
            let shape: Vec<usize> = info.ty.shape.dims().iter().filter_map(|d| d.known()).collect();
            let file = || self.container.path().display().to_string();
            let Some(tensor) = self.checkpoint.tensors.get(&*info.name) else {
                let name = info.name.to_string();
                return Err(CheckpointError::Missing { file: file(), name, shape }.into());
            };
            if tensor.shape != shape {
                let (name, found) = (tensor.name.clone(), tensor.shape.clone());
                return Err(CheckpointError::Shape { file: file(), name, found, shape }.into());
            }
            if tensor.dtype == info.ty.dtype && copied_bytes(tensor) > 0 {
                memory.set(&info.name, tensor.dtype, self.container.bytes(tensor));
            } else if tensor.dtype == info.ty.dtype {
                let mapped = Mapped { container: Arc::clone(&self.container), tensor: tensor.clone() };
                memory.share(&info.name, tensor.dtype, Arc::new(mapped));
            } else {
                let mut values = vec![0.0_f32; tensor.elements()];
                let width = shape.last().copied().unwrap_or(1);
                format(tensor.dtype)
                    .decode(width, self.container.bytes(tensor), &mut values)
                    .map_err(|error| InferError::Tensor { tensor: tensor.name.clone(), error })?;
                memory.set(&info.name, Dtype::F32, &values);
            }
        }
        Ok(())
    }
}
