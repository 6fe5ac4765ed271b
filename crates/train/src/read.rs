//! Tensors read through their file rather than its mapping, whose pages would count as resident memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use memwall_formats::{Container, FileError, TensorInfo};
use memwall_nn::Checkpoint;

/// Reads the stored bytes of a weight, which has `bytes` of them, from wherever they lie.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_weight(
    container: &Container,
    checkpoint: &Checkpoint,
    weight: &str,
    bytes: u64,
) -> Result<Vec<u8>, FileError> {
    let mut all = vec![0; bytes as usize];
    let mut rest = &mut all[..];
    for extent in checkpoint.extents(weight, 0, bytes) {
        let (part, left) = rest.split_at_mut(extent.bytes as usize);
        read_at(container, extent.file, extent.offset, part)?;
        rest = left;
    }
    Ok(all)
}

/// Reads the bytes of a tensor into `to`, which has [`TensorInfo::bytes`] of them.
///
/// # Errors
/// If the file is no longer there, or shorter than when it was opened.
pub(crate) fn read(container: &Container, tensor: &TensorInfo, to: &mut [u8]) -> Result<(), FileError> {
    read_at(container, tensor.file, tensor.offset, to)
}

fn read_at(container: &Container, file: usize, offset: u64, to: &mut [u8]) -> Result<(), FileError> {
    let path = container.files()[file].path();
    let io = |action| move |source| FileError::Io { file: path.to_path_buf(), action, source };
    let mut file = File::open(path).map_err(io("open"))?;
    file.seek(SeekFrom::Start(offset)).map_err(io("read"))?;
    file.read_exact(to).map_err(io("read"))
}
