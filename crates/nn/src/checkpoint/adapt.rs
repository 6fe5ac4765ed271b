//! The tensors of a file on their way to memwall's weights: what a family stores in another form is cut and put together here.

use std::collections::BTreeMap;
use std::ops::Range;

use memwall_formats::{FileError, TensorInfo};

use super::assembly::{self, Assembly, Change};
use super::naming::Naming;
use super::{Checkpoint, CheckpointError};
use crate::config::ModelConfig;

/// Tensors by memwall's names, and how those that were put together are made.
pub(super) struct Adapt {
    file: std::path::PathBuf,
    naming: &'static Naming,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    assembled: BTreeMap<String, Assembly>,
}

impl Adapt {
    /// The tensors of `file`, renamed.
    pub(super) fn new(file: &std::path::Path, naming: &'static Naming, tensors: &[TensorInfo]) -> Adapt {
        let tensors = tensors.iter().map(|t| (naming.ours(&t.name), t.clone())).collect();
        Adapt { file: file.to_path_buf(), naming, tensors, assembled: BTreeMap::new() }
    }

    /// What became of them.
    pub(super) fn finish(self, config: ModelConfig, unread: Vec<String>) -> Checkpoint {
        let Adapt { naming, tensors, assembled, .. } = self;
        Checkpoint { config, tensors, unread, assembled, naming }
    }

    /// The tensor called `name`, if it is there.
    ///
    /// # Errors
    /// If its shape is another.
    pub(super) fn find(&self, name: &str, shape: &[usize]) -> Result<Option<TensorInfo>, CheckpointError> {
        match self.tensors.get(name) {
            Some(t) if t.shape != shape => Err(CheckpointError::Shape {
                file: self.file.display().to_string(),
                name: t.name.clone(),
                found: t.shape.clone(),
                shape: shape.to_vec(),
            }),
            found => Ok(found.cloned()),
        }
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// If it is not there, or its shape is another.
    pub(super) fn require(&self, name: &str, shape: &[usize]) -> Result<TensorInfo, CheckpointError> {
        self.find(name, shape)?.ok_or_else(|| CheckpointError::Missing {
            file: self.file.display().to_string(),
            name: self.naming.theirs(name),
            shape: shape.to_vec(),
        })
    }

    /// Makes the weight `name` of rows of tensors, which have as many together as `shape` asks for.
    ///
    /// # Errors
    /// If they are not stored in one format.
    pub(super) fn put_rows(
        &mut self,
        name: String,
        shape: Vec<usize>,
        rows: Vec<(TensorInfo, Range<usize>)>,
    ) -> Result<(), CheckpointError> {
        let first = rows.first().map(|(t, _)| t.clone());
        let Some((info, assembly)) = assembly::of_rows(shape, rows) else {
            let tensor = first.map_or(name, |t| t.name);
            let problem = "and those beside it are stored in different formats; one weight is made of them".to_string();
            return Err(FileError::Tensor { file: self.file.clone(), tensor, problem }.into());
        };
        self.tensors.insert(name.clone(), info);
        self.assembled.insert(name, assembly);
        Ok(())
    }

    /// Makes the weight `name` of its stored values.
    pub(super) fn change(&mut self, name: &str, change: Change) {
        if let Some(tensor) = self.tensors.get(name) {
            self.assembled.insert(name.to_string(), assembly::changed(tensor, change));
        }
    }

    /// Gives all tensors whose names begin with `from` names that begin with `to`.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let theirs: Vec<String> = self.tensors.keys().filter(|name| name.starts_with(from)).cloned().collect();
        for name in theirs {
            if let Some(tensor) = self.tensors.remove(&name) {
                self.tensors.insert(format!("{to}{}", &name[from.len()..]), tensor);
            }
        }
    }

    /// Gives a tensor another shape of as many elements, if it has the one that is named.
    pub(super) fn reshape(&mut self, name: &str, from: &[usize], to: Vec<usize>) {
        if let Some(tensor) = self.tensors.get_mut(name)
            && tensor.shape == from
        {
            tensor.shape = to;
        }
    }
}
