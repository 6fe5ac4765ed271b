//! One view of the files that models come in: metadata, tensors by name, and the bytes of each.
//!
//! GGUF (one file or split), safetensors (one file, sharded, or a folder), llama2.c and rwkv.cpp checkpoints open into the
//! same [`Container`]. Only headers are read; [`Container::bytes`] hands out slices of the mapped files, which the operating
//! system reads when they are touched.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    Dtype,
    atomic_file::WriteError,
    gguf::{self, Metadata},
    llama2c,
    mapped_file::MappedFile,
    rwkv_cpp, safetensors,
};

#[cfg(target_endian = "big")]
compile_error!("tensors are handed out as the little-endian bytes of the file");

/// What is wrong with a model file, where, and what would be right.
#[derive(Debug, Error)]
#[allow(missing_docs)] // the fields are what the message prints
pub enum FileError {
    #[error("{}: cannot {action} it: {source}", file.display())]
    Io { file: PathBuf, action: &'static str, source: io::Error },
    #[error("{}: {found}; wanted is {expected}", file.display())]
    NotRecognized { file: PathBuf, found: String, expected: &'static str },
    #[error(
        "{}: {what} wants {needed} bytes from byte {at}, but the file has {length} bytes: it is cut short, or a length in it is wrong",
        file.display()
    )]
    Truncated { file: PathBuf, what: String, at: u64, needed: u64, length: u64 },
    #[error("{}: {problem}", file.display())]
    Header { file: PathBuf, problem: String },
    #[error("{}: key `{key}`: {problem}", file.display())]
    Key { file: PathBuf, key: String, problem: String },
    #[error("{}: key `{key}` is missing; it should hold {expected}", file.display())]
    MissingKey { file: PathBuf, key: String, expected: &'static str },
    #[error("{}: tensor `{tensor}`: {problem}", file.display())]
    Tensor { file: PathBuf, tensor: String, problem: String },
    #[error("{}: there is no tensor `{tensor}`{}", file.display(), nearest.as_ref().map_or(String::new(), |n| format!("; the nearest name is `{n}`")))]
    MissingTensor { file: PathBuf, tensor: String, nearest: Option<String> },
    #[error(
        "{}: tensor `{tensor}` is stored as {stored_as}, which memwall does not compute with; convert it to one of {}",
        file.display(), known_types()
    )]
    UnsupportedType { file: PathBuf, tensor: String, stored_as: &'static str },
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn known_types() -> String {
    Dtype::ALL.map(Dtype::name).join(", ")
}

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// How the elements are stored.
    pub dtype: Dtype,
    /// Outermost dimension first; the last is contiguous. A matrix `y = W x` is `[rows of y, length of x]`.
    pub shape: Vec<usize>,
    /// Index into [`Container::files`].
    pub file: usize,
    /// Where the bytes begin in that file.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

impl TensorInfo {
    /// How many values it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A tensor whose type memwall knows the size of but does not compute with; it may be listed, not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedTensor {
    /// The name in the file.
    pub name: String,
    /// The name of its type, e.g. `I64` or `IQ2_XS`.
    pub stored_as: &'static str,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Index into [`Container::files`].
    pub file: usize,
    /// Where the bytes begin in that file.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

/// A tensor as it is stored, whether or not memwall computes with its type.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// The name of its type, e.g. `F32` or `F8_E4M3`.
    pub stored_as: &'static str,
    /// Its type, if memwall computes with it.
    pub dtype: Option<Dtype>,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Its bytes, little endian.
    pub bytes: &'a [u8],
}

/// What the header of one file holds: the result of each format's `parse`.
#[derive(Clone, Debug)]
pub struct Header {
    /// Keys and values, in the order of the file.
    pub metadata: Metadata,
    /// Tensors in the order of the file, all of them inside it and none overlapping another.
    pub tensors: Vec<TensorInfo>,
    /// Tensors of types that memwall does not compute with.
    pub unsupported: Vec<UnsupportedTensor>,
}

/// The file format that a [`Container`] was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerFormat {
    /// GGUF versions 2 and 3.
    Gguf,
    /// safetensors; the model's configuration is `config.json` in the same folder.
    Safetensors,
    /// A llama2.c version 0 checkpoint, seen through the tensor names and keys of GGUF.
    Llama2c,
    /// An rwkv.cpp checkpoint; what model it is, its tensors say.
    RwkvCpp,
}

/// An opened model: its metadata, its tensors, and their bytes.
#[derive(Debug)]
pub struct Container {
    format: ContainerFormat,
    files: Vec<MappedFile>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    unsupported: Vec<UnsupportedTensor>,
    by_name: HashMap<String, usize>,
}

impl Container {
    /// Opens a model file (`.gguf`, `.safetensors`, `.bin` of llama2.c or rwkv.cpp), any part of a split GGUF, a safetensors index, or
    /// a folder with a model in it. Reads headers only.
    ///
    /// # Errors
    /// When nothing of these formats is there, or a header is damaged; the error names the file, key or tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Container, FileError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Container::open_folder(path);
        }
        if path.extension().is_some_and(|e| e == "json") {
            return Container::join(ContainerFormat::Safetensors, safetensors::open_index(path)?);
        }
        Container::from_file(MappedFile::open(path)?)
    }

    /// A model that is part of the program (`include_bytes!`): a GGUF file, a safetensors file or a llama2.c checkpoint,
    /// whole. `name` is what messages call it; its extension tells the format as a file's does. Tensors are as aligned as
    /// `bytes` is: give it the alignment of the values read.
    ///
    /// # Errors
    /// As [`Container::open`].
    pub fn from_static(name: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Container, FileError> {
        Container::from_file(MappedFile::from_static(name, bytes))
    }

    fn from_file(file: MappedFile) -> Result<Container, FileError> {
        let path = file.path();
        if file.starts_with(gguf::MAGIC) {
            return Container::join(ContainerFormat::Gguf, gguf::open_parts(file)?);
        }
        if path.extension().is_some_and(|e| e == "safetensors") {
            let header = safetensors::parse(path, &file)?;
            return Container::join(ContainerFormat::Safetensors, vec![(file, header)]);
        }
        if file.starts_with(&rwkv_cpp::MAGIC) {
            let header = rwkv_cpp::parse(path, &file)?;
            return Container::join(ContainerFormat::RwkvCpp, vec![(file, header)]);
        }
        if path.extension().is_some_and(|e| e == "gguf") {
            // Not GGUF by its first bytes: its parser says what they look like instead.
            gguf::parse(path, &file)?;
        }
        let header = llama2c::parse(path, &file)?;
        Container::join(ContainerFormat::Llama2c, vec![(file, header)])
    }

    fn open_folder(folder: &Path) -> Result<Container, FileError> {
        let index = folder.join("model.safetensors.index.json");
        if index.is_file() {
            return Container::open(index);
        }
        let single = folder.join("model.safetensors");
        if single.is_file() {
            return Container::open(single);
        }
        let io = |source| FileError::Io { file: folder.to_path_buf(), action: "list", source };
        let mut models = Vec::new();
        for entry in fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let later_part = gguf::split_number(&path).is_some_and(|(part, _)| part > 1);
            if path.extension().is_some_and(|e| e == "safetensors" || e == "gguf") && !later_part {
                models.push(path);
            }
        }
        match models.as_slice() {
            [only] => Container::open(only),
            [] => Err(FileError::NotRecognized {
                file: folder.to_path_buf(),
                found: "the folder holds no model".into(),
                expected: "model.safetensors, model.safetensors.index.json, or a .gguf file in it",
            }),
            several => Err(FileError::NotRecognized {
                file: folder.to_path_buf(),
                found: format!("the folder holds {} models", several.len()),
                expected: "the path of one of them",
            }),
        }
    }

    /// Joins the parts of a model; their metadata is the first part's, and a later part's where the first has no such
    /// key.
    fn join(format: ContainerFormat, parts: Vec<(MappedFile, Header)>) -> Result<Container, FileError> {
        let mut container = Container {
            format,
            files: Vec::with_capacity(parts.len()),
            metadata: Metadata::new(parts.first().map_or(Path::new(""), |(file, _)| file.path())),
            tensors: Vec::new(),
            unsupported: Vec::new(),
            by_name: HashMap::new(),
        };
        for (number, (file, header)) in parts.into_iter().enumerate() {
            for mut tensor in header.tensors {
                tensor.file = number;
                if container.by_name.insert(tensor.name.clone(), container.tensors.len()).is_some() {
                    return Err(FileError::Tensor {
                        file: file.path().to_path_buf(),
                        tensor: tensor.name,
                        problem: "another part of the model has a tensor of this name; each should be in one part"
                            .into(),
                    });
                }
                container.tensors.push(tensor);
            }
            container
                .unsupported
                .extend(header.unsupported.into_iter().map(|t| UnsupportedTensor { file: number, ..t }));
            if number == 0 {
                container.metadata = header.metadata;
            } else {
                container.metadata.fill_from(header.metadata);
            }
            container.files.push(file);
        }
        Ok(container)
    }

    /// The format of the files.
    pub fn format(&self) -> ContainerFormat {
        self.format
    }

    /// The files, in the order that [`TensorInfo::file`] counts them.
    pub fn files(&self) -> &[MappedFile] {
        &self.files
    }

    /// The folder that the model lies in, where `config.json` and `tokenizer.json` are.
    pub fn folder(&self) -> &Path {
        self.path().parent().unwrap_or(Path::new(""))
    }

    /// The first file, for messages.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |f| f.path())
    }

    /// Keys and values of the header; for safetensors its `__metadata__`.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Drops all keys that begin so: a vocabulary, once it is read, takes more memory than the rest of the header.
    pub fn forget_keys(&mut self, prefix: &str) {
        self.metadata.forget(prefix);
    }

    /// All tensors that memwall can compute with, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Tensors that are there but of a type that memwall does not compute with.
    pub fn unsupported(&self) -> &[UnsupportedTensor] {
        &self.unsupported
    }

    /// All tensors as they are stored: those that memwall can compute with, then the others.
    pub fn raw_tensors(&self) -> impl Iterator<Item = Raw<'_>> {
        let known = self.tensors.iter().map(|t| Raw {
            name: &t.name,
            stored_as: t.dtype.name(),
            dtype: Some(t.dtype),
            shape: &t.shape,
            bytes: self.bytes(t),
        });
        let others = self.unsupported.iter().map(|t| Raw {
            name: &t.name,
            stored_as: t.stored_as,
            dtype: None,
            shape: &t.shape,
            bytes: self.slice(t.file, t.offset, t.bytes),
        });
        known.chain(others)
    }

    /// The tensor of that name, or `None`.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// When there is none, or its type is not one that memwall computes with.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, FileError> {
        if let Some(found) = self.find(name) {
            return Ok(found);
        }
        let file = self.path().to_path_buf();
        if let Some(there) = self.unsupported.iter().find(|t| t.name == name) {
            return Err(FileError::UnsupportedType { file, tensor: name.into(), stored_as: there.stored_as });
        }
        let nearest = self.tensors.iter().map(|t| t.name.as_str()).min_by_key(|n| strsim::levenshtein(n, name));
        Err(FileError::MissingTensor { file, tensor: name.into(), nearest: nearest.map(String::from) })
    }

    /// The bytes of a tensor of this container, little endian, [`TensorInfo::bytes`] long.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.slice(tensor.file, tensor.offset, tensor.bytes)
    }

    fn slice(&self, file: usize, offset: u64, bytes: u64) -> &[u8] {
        if bytes == 0 {
            return &[]; // its offset may be the end of a file that has no padding
        }
        let begin = offset as usize;
        &self.files[file][begin..begin + bytes as usize]
    }
}

/// The bytes of a tensor of that shape (outermost dimension first), or what is wrong with it. `block`: values, bytes.
pub(crate) fn tensor_bytes(shape: &[usize], type_name: &str, block: (usize, usize)) -> Result<u64, String> {
    let (block_len, block_bytes) = block;
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(block_len) {
        return Err(format!("its rows have {row} values, but {type_name} wants a multiple of {block_len}"));
    }
    elements
        .map(|n| n / block_len as u64)
        .and_then(|n| n.checked_mul(block_bytes as u64))
        .ok_or_else(|| format!("its shape {shape:?} has more bytes than 64 bits can count"))
}

/// Checks that no two tensors share a byte; zero-sized ones share nothing.
pub(crate) fn check_overlap(file: &Path, spans: &mut [(u64, u64, &str)]) -> Result<(), FileError> {
    spans.sort_unstable();
    let mut last: Option<(u64, &str)> = None;
    for &(begin, bytes, name) in spans.iter().filter(|s| s.1 > 0) {
        if let Some((end, other)) = last
            && begin < end
        {
            return Err(FileError::Tensor {
                file: file.to_path_buf(),
                tensor: name.into(),
                problem: format!(
                    "begins at byte {begin}, inside tensor `{other}`, which ends at byte {end}; each should have its own bytes"
                ),
            });
        }
        last = Some((begin + bytes, name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert_eq!(tensor_bytes(&[3, 64], "Q8_0", (32, 34)), Ok(3 * 68));
        assert_eq!(tensor_bytes(&[], "F32", (1, 4)), Ok(4));
        assert!(tensor_bytes(&[3, 65], "Q8_0", (32, 34)).is_err());
        assert!(tensor_bytes(&[usize::MAX, 2], "F32", (1, 4)).is_err());
        assert!(tensor_bytes(&[usize::MAX / 2], "F32", (1, 4)).is_err());
    }

    #[test]
    fn overlaps_are_found_in_any_order() {
        let file = Path::new("x.gguf");
        assert!(check_overlap(file, &mut [(64, 32, "b"), (0, 64, "a"), (64, 0, "empty")]).is_ok());
        let error = check_overlap(file, &mut [(63, 32, "b"), (0, 64, "a")]).unwrap_err().to_string();
        assert!(error.contains("`b`") && error.contains("`a`"), "{error}");
    }
}
