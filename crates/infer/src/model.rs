//! An opened model: container, configuration, table of weights.

use std::path::Path;
use std::sync::Arc;

use memwall_fit::Header;
use memwall_formats::Container;
use memwall_nn::Checkpoint;

use crate::InferError;

/// A model file, opened: headers read, weights not yet.
#[derive(Clone, Debug)]
pub struct Model {
    container: Arc<Container>,
    checkpoint: Checkpoint,
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

    /// What a planner reads of it.
    pub fn header(&self) -> Header<'_> {
        Header { container: &self.container, checkpoint: &self.checkpoint }
    }
}
