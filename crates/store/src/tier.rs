//! Where weights live: the trait that every tier implements, and what it hands out.
//!
//! Whoever computes asks a tier for a tensor and gets a [`Guard`]: bytes that stay where they are while the guard lives. The
//! result of a computation never depends on the tier, bit for bit; a file that is short, changed or corrupt is an error.

mod embedded;
mod extents;
mod mapped;
mod ram;
mod throttled;

pub use embedded::Embedded;
pub use extents::{Extent, Extents};
pub use mapped::{Advice, Mapped};
pub use ram::Ram;
pub use throttled::Throttled;

use crate::budget::BudgetError;
use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// A tensor of a tier: its place in the list of extents that the tier was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// A place where weights live; one file each, and every one runs [`crate::laws::tier`].
pub trait Tier: Send + Sync {
    /// The number of tensors; ids are `0..tensors()`.
    fn tensors(&self) -> usize;

    /// The tensor's bytes, in place until the guard and its clones are dropped.
    ///
    /// Asking may cost a system call (a mapped file is looked at again); a loop keeps the guards of weights that stay.
    ///
    /// # Errors
    /// An unknown id; a file that is shorter than it was, changed or unreadable; a wrong checksum; a budget without room.
    fn get(&self, id: TensorId) -> Result<Guard, TierError>;

    /// Starts bringing the tensor near, so that a later [`Tier::get`] waits less; it changes no result.
    ///
    /// # Errors
    /// As [`Tier::get`], where they show this early.
    fn prefetch(&self, id: TensorId) -> Result<(), TierError>;

    /// What the tier has moved so far, as the operating system counts it.
    fn counters(&self) -> Counters;
}

/// What a tier has moved, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Calls of [`Tier::get`] that succeeded.
    pub gets: u64,
    /// Bytes brought by read calls.
    pub bytes_read: u64,
    /// Bytes of mapped pages that are resident now.
    pub bytes_mapped: u64,
    /// Bytes moved over a modelled link.
    pub bytes_streamed: u64,
}

/// The bytes of one tensor, kept in place while the guard or a clone of it lives.
#[derive(Clone)]
pub struct Guard {
    keep: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Guard {
    /// A guard of `range` of what `keep` holds; `keep` must return the same bytes at the same address each time.
    ///
    /// # Panics
    /// If `range` is not inside it.
    pub fn new(keep: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Guard {
        let bytes = keep.as_ref().as_ref().len();
        assert!(range.start <= range.end && range.end <= bytes, "range {range:?} of {bytes} bytes");
        Guard { keep, range }
    }

    /// The bytes as values of `T`.
    ///
    /// # Errors
    /// [`TierError::Misaligned`] when they do not start at a multiple of the alignment of `T` (files need not align
    /// tensors) or hold no whole number of values.
    pub fn values<T: bytemuck::Pod>(&self) -> Result<&[T], TierError> {
        bytemuck::try_cast_slice(self).map_err(|error| TierError::Misaligned {
            bytes: self.len(),
            element: std::any::type_name::<T>(),
            reason: error.to_string(),
        })
    }
}

impl Deref for Guard {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.keep.as_ref().as_ref()[self.range.clone()]
    }
}

impl AsRef<[u8]> for Guard {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({} bytes)", self.len())
    }
}

/// A tensor that cannot be had.
#[derive(Debug, Error)]
pub enum TierError {
    /// A file cannot be opened, measured or read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A tensor's extent names a file that is not in the list.
    #[error("tensor {tensor}: file {file} of a list of {files}")]
    NoSuchFile {
        /// The tensor.
        tensor: String,
        /// The place in the list of files.
        file: usize,
        /// Files in the list.
        files: usize,
    },
    /// The file ends before the tensor does.
    #[error("{path}: tensor {tensor} ends at byte {needs} but the file has {has}: it is truncated or not fully downloaded", path = path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where the tensor ends.
        needs: u64,
        /// Bytes of the file.
        has: u64,
    },
    /// The file is not the one that was opened.
    #[error("{path}: the file changed while it was in use (tensor {tensor}); load it again", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The tensor asked for when it was noticed.
        tensor: String,
    },
    /// The bytes are not those that the checksum was made of.
    #[error("{path}: tensor {tensor} has CRC-32 {found:08x}, expected {expected:08x}: the file is corrupt", path = path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The checksum that the bytes should have.
        expected: u32,
        /// The one that they have.
        found: u32,
    },
    /// No tensor has this id.
    #[error("tensor {id} of a tier that has {tensors}")]
    Unknown {
        /// The id asked for.
        id: usize,
        /// Tensors of the tier.
        tensors: usize,
    },
    /// The bytes are no values of the asked type.
    #[error("a tensor of {bytes} bytes cannot be read as {element}: {reason}")]
    Misaligned {
        /// Bytes of the tensor.
        bytes: usize,
        /// The type asked for.
        element: &'static str,
        /// Why not.
        reason: String,
    },
    /// Weights are to be written while a guard of them lives.
    #[error("tensor {tensor} cannot be written while guards of its tier are alive")]
    InUse {
        /// The tensor.
        tensor: String,
    },
    /// The budget refused.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The operating system gives no memory.
    #[error("the operating system gives no {bytes} bytes for weights: {source}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// Its answer.
        source: io::Error,
    },
}
