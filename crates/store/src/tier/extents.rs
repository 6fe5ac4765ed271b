//! Which bytes of which files are which tensor: what a container's header says, and all that a tier needs.

use super::{TensorId, TierError};
use memwall_formats::Container;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where one tensor's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The tensor's name, for errors.
    pub name: String,
    /// The file, by its place in [`Extents::files`].
    pub file: usize,
    /// The first byte in that file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: usize,
    /// CRC-32 (IEEE) of the bytes, if the container gives one; checked before the tensor is used first.
    pub checksum: Option<u32>,
}

/// The tensors of a model and the files that they are in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extents {
    /// The files; split models have several.
    pub files: Vec<PathBuf>,
    /// The tensors; a [`TensorId`] counts them.
    pub tensors: Vec<Extent>,
}

impl From<&Container> for Extents {
    /// The tensors of an opened model file in its order; a [`TensorId`] is a place in [`Container::tensors`].
    fn from(container: &Container) -> Extents {
        let extent = |tensor: &memwall_formats::TensorInfo| Extent {
            name: tensor.name.clone(),
            file: tensor.file,
            offset: tensor.offset,
            // More than an address can count ends beyond any file, which opening a tier refuses.
            bytes: usize::try_from(tensor.bytes).unwrap_or(usize::MAX),
            checksum: None,
        };
        Extents {
            files: container.files().iter().map(|file| file.path().to_path_buf()).collect(),
            tensors: container.tensors().iter().map(extent).collect(),
        }
    }
}

impl Extents {
    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
    }

    /// The id of the tensor of that name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.tensors.iter().position(|tensor| tensor.name == name).map(TensorId)
    }

    pub(super) fn get(&self, id: TensorId) -> Result<&Extent, TierError> {
        self.tensors.get(id.0).ok_or(TierError::Unknown { id: id.0, tensors: self.tensors.len() })
    }

    pub(super) fn path(&self, extent: &Extent) -> &Path {
        &self.files[extent.file]
    }

    /// Opens the files and checks that every tensor lies inside its file; returns each with its length.
    pub(super) fn open(&self) -> Result<Vec<(File, u64)>, TierError> {
        let mut files = Vec::with_capacity(self.files.len());
        for path in &self.files {
            let error = |source| TierError::File { path: path.clone(), source };
            let file = File::open(path).map_err(error)?;
            let metadata = file.metadata().map_err(error)?;
            if !metadata.is_file() {
                return Err(error(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
            }
            files.push((file, metadata.len()));
        }
        for extent in &self.tensors {
            let Some(&(_, has)) = files.get(extent.file) else {
                return Err(TierError::NoSuchFile {
                    tensor: extent.name.clone(),
                    file: extent.file,
                    files: self.files.len(),
                });
            };
            self.check_end(extent, has)?;
        }
        Ok(files)
    }

    pub(super) fn check_end(&self, extent: &Extent, has: u64) -> Result<(), TierError> {
        let needs = extent.offset.saturating_add(extent.bytes as u64);
        if needs > has {
            let path = self.path(extent).to_path_buf();
            return Err(TierError::Short { path, tensor: extent.name.clone(), needs, has });
        }
        Ok(())
    }

    pub(super) fn check_sum(&self, extent: &Extent, bytes: &[u8]) -> Result<(), TierError> {
        let Some(expected) = extent.checksum else { return Ok(()) };
        let found = crc32fast::hash(bytes);
        if found != expected {
            let path = self.path(extent).to_path_buf();
            return Err(TierError::Checksum { path, tensor: extent.name.clone(), expected, found });
        }
        Ok(())
    }
}
