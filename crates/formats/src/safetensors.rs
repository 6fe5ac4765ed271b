//! safetensors: the length of a JSON header, the header, then the bytes of all tensors without gaps.
//!
//! ```text
//! length u64 | {"name": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [begin, end]}, …,
//!               "__metadata__": {"key": "text"}} | data
//! ```
//!
//! A large model is several such files and an index, `model.safetensors.index.json`, whose `weight_map` names the file
//! of each tensor. Read here rather than by the `safetensors` crate, which names neither the file nor the tensor that
//! is wrong and which writes from memory only; the tests hold the two against each other.
//! Source: the format's description in the repository `safetensors`.

use std::{
    collections::BTreeMap,
    fmt,
    io::Write,
    path::{Component, Path},
};

use serde::{
    Deserialize,
    de::{self, MapAccess, Visitor},
};

use crate::{
    Dtype,
    atomic_file::{AtomicFile, WriteError},
    container::{FileError, Header, TensorInfo, UnsupportedTensor, check_overlap, tensor_bytes},
    gguf::{Metadata, TensorPlan},
    mapped_file::MappedFile,
};

/// The longest header that any reader of the format accepts, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

const METADATA: &str = "__metadata__";

/// Reads the header of a safetensors file; `bytes` is the whole file, of which only the header is touched.
///
/// # Errors
/// When the file is cut short, the header is not the JSON that the format asks for, a tensor is named twice, of an
/// unknown type, of a size that its shape does not have, outside the file, or overlaps another, or bytes belong to none.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Header, FileError> {
    let length = bytes.len() as u64;
    let truncated = |what: &str, at, needed| FileError::Truncated {
        file: file.to_path_buf(),
        what: what.into(),
        at,
        needed,
        length,
    };
    let header_problem = |problem: String| FileError::Header { file: file.to_path_buf(), problem };
    let Some(first) = bytes.first_chunk::<8>() else {
        return Err(truncated("the length of the header", 0, 8));
    };
    let header_bytes = u64::from_le_bytes(*first);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(header_problem(format!(
            "its header would have {header_bytes} bytes; at most {MAX_HEADER_BYTES} are allowed, so this is no safetensors file"
        )));
    }
    let data_begin = 8 + header_bytes;
    let Some(json) = bytes.get(8..data_begin as usize) else {
        return Err(truncated("the header", 8, header_bytes));
    };
    let json =
        std::str::from_utf8(json).map_err(|e| header_problem(format!("its header should be UTF-8, but: {e}")))?;
    let entries: Entries = serde_json::from_str(json)
        .map_err(|e| header_problem(format!("its JSON header is not as safetensors asks: {e}")))?;

    let mut header = Header { metadata: Metadata::new(file), tensors: Vec::new(), unsupported: Vec::new() };
    for (key, value) in entries.metadata {
        header.metadata.insert(key, value);
    }
    let mut spans = Vec::with_capacity(entries.tensors.len());
    for (name, entry) in &entries.tensors {
        let wrong = |problem| FileError::Tensor { file: file.to_path_buf(), tensor: name.clone(), problem };
        let [begin, end] = entry.data_offsets;
        let stored = Stored::from_name(&entry.dtype).ok_or_else(|| {
            wrong(format!("has the unknown type `{}`; known are {}", entry.dtype, Stored::known_names()))
        })?;
        let needed = tensor_bytes(&entry.shape, stored.name(), (1, stored.bytes())).map_err(wrong)?;
        if end.checked_sub(begin) != Some(needed) {
            return Err(wrong(format!(
                "has data_offsets [{begin}, {end}], but {} {:?} needs {needed} bytes",
                entry.dtype, entry.shape
            )));
        }
        if end > length - data_begin {
            return Err(truncated(&format!("tensor `{name}`"), data_begin.saturating_add(begin), needed));
        }
        spans.push((data_begin + begin, needed, name.as_str()));
    }
    check_overlap(file, &mut spans)?;
    let covered: u64 = spans.iter().map(|s| s.1).sum();
    if covered != length - data_begin {
        return Err(header_problem(format!(
            "its tensors have {covered} bytes, but {} follow the header; the format allows no gaps",
            length - data_begin
        )));
    }
    for (name, entry) in entries.tensors {
        let [begin, end] = entry.data_offsets;
        match Stored::from_name(&entry.dtype) {
            Some(Stored::Known(dtype)) => header.tensors.push(TensorInfo {
                name,
                dtype,
                shape: entry.shape,
                file: 0,
                offset: data_begin + begin,
                bytes: end - begin,
            }),
            Some(Stored::SizeOnly(stored_as, _)) => header.unsupported.push(UnsupportedTensor {
                name,
                stored_as,
                shape: entry.shape,
                file: 0,
                offset: data_begin + begin,
                bytes: end - begin,
            }),
            None => {}
        }
    }
    header.tensors.sort_by_key(|t| t.offset);
    Ok(header)
}

/// Opens the files that an index (`model.safetensors.index.json`) names.
///
/// # Errors
/// When the index has no `weight_map` of names to files in its folder, or a file lacks a tensor that it should have.
pub(crate) fn open_index(path: &Path) -> Result<Vec<(MappedFile, Header)>, FileError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let problem = |problem| FileError::Header { file: path.to_path_buf(), problem };
    let json = MappedFile::open(path)?;
    let index: Index = serde_json::from_slice(&json)
        .map_err(|e| problem(format!("should be JSON with a `weight_map` of tensor names to files, but: {e}")))?;
    let mut of_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in &index.weight_map {
        of_file.entry(file).or_default().push(tensor);
    }
    let mut parts = Vec::with_capacity(of_file.len());
    for (name, tensors) in of_file {
        let mut components = Path::new(name).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(problem(format!("names the file `{name}`; the files should be in the folder of the index")));
        }
        let file = MappedFile::open(path.with_file_name(name))?;
        let header = parse(file.path(), &file)?;
        let there: std::collections::HashSet<&str> = header
            .tensors
            .iter()
            .map(|t| t.name.as_str())
            .chain(header.unsupported.iter().map(|t| t.name.as_str()))
            .collect();
        if let Some(&missing) = tensors.iter().find(|&&t| !there.contains(t)) {
            return Err(problem(format!("says that tensor `{missing}` is in `{name}`, but it is not there")));
        }
        parts.push((file, header));
    }
    if parts.is_empty() {
        return Err(problem("has an empty `weight_map`; it should name the file of each tensor".into()));
    }
    Ok(parts)
}

/// A type of the format: one that memwall computes with, or one of which it knows the size only.
#[derive(Clone, Copy)]
enum Stored {
    Known(Dtype),
    SizeOnly(&'static str, usize),
}

impl Stored {
    const ALL: [Stored; 16] = [
        Stored::Known(Dtype::F64),
        Stored::Known(Dtype::F32),
        Stored::Known(Dtype::F16),
        Stored::Known(Dtype::BF16),
        Stored::Known(Dtype::I32),
        Stored::SizeOnly("I64", 8),
        Stored::SizeOnly("U64", 8),
        Stored::SizeOnly("U32", 4),
        Stored::SizeOnly("I16", 2),
        Stored::SizeOnly("U16", 2),
        Stored::SizeOnly("I8", 1),
        Stored::SizeOnly("U8", 1),
        Stored::SizeOnly("BOOL", 1),
        Stored::SizeOnly("F8_E4M3", 1),
        Stored::SizeOnly("F8_E5M2", 1),
        Stored::SizeOnly("F8_E8M0", 1),
    ];

    fn from_name(name: &str) -> Option<Stored> {
        Stored::ALL.into_iter().find(|s| s.name() == name)
    }

    fn known_names() -> String {
        Stored::ALL.map(Stored::name).join(", ")
    }

    fn name(self) -> &'static str {
        match self {
            Stored::Known(dtype) => dtype.name(),
            Stored::SizeOnly(name, _) => name,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Stored::Known(dtype) => dtype.block_bytes(),
            Stored::SizeOnly(_, bytes) => bytes,
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The header's object, with every name seen once.
struct Entries {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Entry>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensor names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries { metadata: BTreeMap::new(), tensors: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        entries.metadata = map.next_value()?;
                        continue;
                    }
                    let entry: Entry =
                        map.next_value().map_err(|e| de::Error::custom(format!("tensor `{name}`: {e}")))?;
                    if entries.tensors.contains_key(&name) {
                        return Err(de::Error::custom(format!("tensor `{name}` is there twice")));
                    }
                    entries.tensors.insert(name, entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// A tensor to write, of any type that the format has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPlan {
    /// Its name.
    pub name: String,
    /// The name of its type, e.g. `F32` or `F8_E4M3`.
    pub stored_as: &'static str,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
}

/// A safetensors file being written; it appears under its name when [`Writer::finish`] succeeds.
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    left: u64,
}

impl Writer {
    /// Writes the header; the tensors' bytes then follow in its order, without gaps.
    ///
    /// # Errors
    /// When a type is a block format (safetensors has none), a name comes twice, a shape overflows, or the file cannot
    /// be written.
    pub fn create(
        path: impl AsRef<Path>,
        metadata: &BTreeMap<String, String>,
        tensors: &[TensorPlan],
    ) -> Result<Writer, FileError> {
        let path = path.as_ref();
        let raw = |plan: &TensorPlan| match plan.dtype.is_block() {
            true => Err(FileError::Tensor {
                file: path.to_path_buf(),
                tensor: plan.name.clone(),
                problem: format!("is {}; safetensors holds no block formats, GGUF does", plan.dtype),
            }),
            false => Ok(RawPlan { name: plan.name.clone(), stored_as: plan.dtype.name(), shape: plan.shape.clone() }),
        };
        let plans = tensors.iter().map(raw).collect::<Result<Vec<_>, _>>()?;
        Writer::create_raw(path, metadata, &plans)
    }

    /// As [`Writer::create`], for tensors of any type that the format has.
    ///
    /// # Errors
    /// When a type is unknown, a name comes twice, a shape overflows, or the file cannot be written.
    pub fn create_raw(
        path: impl AsRef<Path>,
        metadata: &BTreeMap<String, String>,
        tensors: &[RawPlan],
    ) -> Result<Writer, FileError> {
        let path = path.as_ref();
        let mut header = serde_json::Map::new();
        if !metadata.is_empty() {
            header.insert(METADATA.into(), serde_json::json!(metadata));
        }
        let mut offset = 0u64;
        for plan in tensors {
            let wrong =
                |problem: String| FileError::Tensor { file: path.to_path_buf(), tensor: plan.name.clone(), problem };
            let stored = Stored::from_name(plan.stored_as).ok_or_else(|| {
                wrong(format!("has the unknown type `{}`; known are {}", plan.stored_as, Stored::known_names()))
            })?;
            let bytes = tensor_bytes(&plan.shape, plan.stored_as, (1, stored.bytes())).map_err(wrong)?;
            let end = offset.checked_add(bytes).ok_or_else(|| wrong("ends beyond what 64 bits can count".into()))?;
            let entry = serde_json::json!({
                "dtype": plan.stored_as, "shape": plan.shape, "data_offsets": [offset, end],
            });
            if plan.name == METADATA || header.insert(plan.name.clone(), entry).is_some() {
                return Err(wrong("is there twice, or has a name kept for metadata".into()));
            }
            offset = end;
        }
        let mut json = serde_json::Value::Object(header).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' '); // so that the data is aligned for every scalar
        let mut writer = Writer { file: AtomicFile::create(path)?, left: offset };
        writer.put(&(json.len() as u64).to_le_bytes())?;
        writer.put(&json)?;
        Ok(writer)
    }

    /// Writes the next bytes of data.
    ///
    /// # Errors
    /// When there are more than the header says, or the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| FileError::Header {
            file: self.file.path().to_path_buf(),
            problem: format!("{} bytes came where {} were due", bytes.len(), self.left),
        })?;
        self.put(bytes)
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// When bytes are missing, or the file cannot be put in place.
    pub fn finish(self) -> Result<(), FileError> {
        if self.left > 0 {
            let problem = format!("{} bytes of its tensors were not written", self.left);
            return Err(FileError::Header { file: self.file.path().to_path_buf(), problem });
        }
        Ok(self.file.commit()?)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.file.path().to_path_buf();
        Ok(self.file.write_all(bytes).map_err(|source| WriteError { path, action: "write", source })?)
    }
}
