//! Tensors read through their file rather than its mapping, whose pages would count as resident memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use memwall_formats::{Container, FileError, TensorInfo};

/// Reads the bytes of a tensor into `to`, which has [`TensorInfo::bytes`] of them.
///
/// # Errors
/// If the file is no longer there, or shorter than when it was opened.
pub(crate) fn read(container: &Container, tensor: &TensorInfo, to: &mut [u8]) -> Result<(), FileError> {
    let path = container.files()[tensor.file].path();
    let io = |action| move |source| FileError::Io { file: path.to_path_buf(), action, source };
    let mut file = File::open(path).map_err(io("open"))?;
    file.seek(SeekFrom::Start(tensor.offset)).map_err(io("read"))?;
    file.read_exact(to).map_err(io("read"))
}
