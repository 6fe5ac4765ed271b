//! Reading a GGUF header: nothing is allocated for a length that the file cannot hold.

use std::{collections::HashSet, path::Path};

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, GgmlType, MAGIC, Metadata, Value};
use crate::container::{FileError, Header, TensorInfo, UnsupportedTensor, check_overlap, tensor_bytes};

/// Dimensions that ggml's tensors can have.
const MAX_DIMENSIONS: u32 = 4;

/// Arrays within arrays that are followed, so that a file cannot exhaust the stack.
const MAX_DEPTH: u32 = 4;

/// Bytes of the shortest possible key (empty name, one-byte value) and tensor description (empty name, no dimension).
const MIN_KEY_BYTES: u64 = 8 + 4 + 1;
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// Reads the header of a GGUF file. `bytes` is the whole file (a mapping: only the header's pages are touched);
/// `file` is its name, for messages.
///
/// # Errors
/// When the file is not little-endian GGUF of version 2 or 3, is cut short, or anything in its header is impossible:
/// lengths beyond the file, text that is not UTF-8, keys or tensors named twice, unknown types, dimensions that
/// overflow, data that is unaligned, overlapping, or outside the file.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Header, FileError> {
    let mut reader = Reader { file, bytes, at: 0 };
    let version = reader.preamble()?;
    let tensor_count = reader.u64("the number of tensors")?;
    let key_count = reader.u64("the number of keys")?;
    reader.check_count(key_count, MIN_KEY_BYTES, "keys")?;
    let mut metadata = Metadata::new(file);
    for number in 0..key_count {
        let key = reader.string(|| format!("the name of key {number}"))?;
        let type_id = reader.u32(|| format!("the type of key `{key}`"))?;
        let value = reader.value(&key, type_id)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(metadata.wrong(&key, "is there twice; each key should be there once"));
        }
    }
    reader.check_count(tensor_count, MIN_TENSOR_BYTES, "tensors")?;
    let alignment = alignment(&metadata)?;
    let mut described = Vec::new();
    for number in 0..tensor_count {
        described.push(reader.tensor(number, alignment)?);
    }
    let data_begin = reader.at.next_multiple_of(alignment);
    let mut header = Header { metadata, tensors: Vec::new(), unsupported: Vec::new() };
    place(file, bytes.len() as u64, data_begin, &described, version)?;
    for tensor in described {
        match tensor.ggml_type {
            GgmlType::Known(dtype) => header.tensors.push(TensorInfo {
                name: tensor.name,
                dtype,
                shape: tensor.shape,
                file: 0,
                offset: data_begin + tensor.offset,
                bytes: tensor.bytes,
            }),
            GgmlType::SizeOnly(stored_as, ..) => header.unsupported.push(UnsupportedTensor {
                name: tensor.name,
                stored_as,
                shape: tensor.shape,
                file: 0,
                offset: data_begin + tensor.offset,
                bytes: tensor.bytes,
            }),
        }
    }
    Ok(header)
}

/// The alignment that the keys ask for, in bytes.
fn alignment(metadata: &Metadata) -> Result<u64, FileError> {
    let alignment = metadata.find::<u32>(ALIGNMENT_KEY)?.map_or(DEFAULT_ALIGNMENT, u64::from);
    if !alignment.is_power_of_two() || alignment < 8 {
        return Err(
            metadata.wrong(ALIGNMENT_KEY, format!("is {alignment}; it should be a power of two and a multiple of 8"))
        );
    }
    Ok(alignment)
}

struct Described {
    name: String,
    ggml_type: GgmlType,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

/// Checks that names are unique and that every tensor lies in the file without touching another.
fn place(file: &Path, length: u64, data_begin: u64, described: &[Described], version: u32) -> Result<(), FileError> {
    let mut names = HashSet::with_capacity(described.len());
    let mut spans = Vec::with_capacity(described.len());
    for tensor in described {
        let wrong = |problem| FileError::Tensor { file: file.to_path_buf(), tensor: tensor.name.clone(), problem };
        if !names.insert(tensor.name.as_str()) {
            return Err(wrong("is described twice; each name should be there once".into()));
        }
        let begin = data_begin.checked_add(tensor.offset);
        let end = begin.and_then(|b| b.checked_add(tensor.bytes));
        let (Some(begin), Some(end)) = (begin, end) else {
            return Err(wrong(format!("its offset {} is beyond what 64 bits can count", tensor.offset)));
        };
        if end > length && tensor.bytes > 0 {
            return Err(FileError::Truncated {
                file: file.to_path_buf(),
                what: format!(
                    "tensor `{}` ({} {:?}, GGUF version {version})",
                    tensor.name,
                    tensor.ggml_type.name(),
                    tensor.shape
                ),
                at: begin,
                needed: tensor.bytes,
                length,
            });
        }
        spans.push((begin, tensor.bytes, tensor.name.as_str()));
    }
    check_overlap(file, &mut spans)
}

struct Reader<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Reader<'a> {
    /// Magic and version; returns the version.
    fn preamble(&mut self) -> Result<u32, FileError> {
        let not_gguf = |found: String| FileError::NotRecognized {
            file: self.file.to_path_buf(),
            found,
            expected: "a little-endian GGUF file of version 2 or 3",
        };
        match self.bytes.get(..4) {
            Some(magic) if magic == MAGIC => {}
            Some(b"lmgg" | b"fmgg" | b"tjgg" | b"algg") => {
                return Err(not_gguf("this is a model file from before GGUF (ggml, ggmf, ggjt or ggla)".into()));
            }
            Some(magic) => return Err(not_gguf(format!("the file begins with bytes {magic:02x?}, not with `GGUF`"))),
            None => return Err(not_gguf(format!("the file has {} bytes", self.bytes.len()))),
        }
        self.at = 4;
        let version = self.u32(|| "the version".into())?;
        let not_gguf = |found: String| FileError::NotRecognized {
            file: self.file.to_path_buf(),
            found,
            expected: "a little-endian GGUF file of version 2 or 3",
        };
        match version {
            2 | 3 => Ok(version),
            1 => Err(not_gguf("this is GGUF version 1, whose lengths have 32 bits; convert it anew".into())),
            swapped if (1..=0xffff).contains(&swapped.swap_bytes()) => Err(not_gguf(format!(
                "this is a big-endian GGUF file of version {}; convert it to little endian",
                swapped.swap_bytes()
            ))),
            other => Err(not_gguf(format!("this is GGUF version {other}, from the future"))),
        }
    }

    fn take(&mut self, needed: u64, what: impl FnOnce() -> String) -> Result<&'a [u8], FileError> {
        let begin = self.at as usize;
        let slice = usize::try_from(needed)
            .ok()
            .and_then(|n| begin.checked_add(n))
            .and_then(|end| self.bytes.get(begin..end))
            .ok_or_else(|| FileError::Truncated {
                file: self.file.to_path_buf(),
                what: what(),
                at: self.at,
                needed,
                length: self.bytes.len() as u64,
            })?;
        self.at += needed;
        Ok(slice)
    }

    fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32, FileError> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self, what: &str) -> Result<u64, FileError> {
        let b = self.take(8, || what.to_string())?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// Refuses a count of things that the rest of the file is too short for.
    fn check_count(&self, count: u64, min_bytes: u64, what: &str) -> Result<(), FileError> {
        let left = self.bytes.len() as u64 - self.at;
        if count > left / min_bytes {
            return Err(FileError::Truncated {
                file: self.file.to_path_buf(),
                what: format!("the header says that there are {count} {what}, which"),
                at: self.at,
                needed: count.saturating_mul(min_bytes),
                length: self.bytes.len() as u64,
            });
        }
        Ok(())
    }

    fn string(&mut self, what: impl Fn() -> String) -> Result<String, FileError> {
        let at = self.at;
        let length = self.u64(&what())?;
        let bytes = self.take(length, &what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(error) => Err(FileError::Header {
                file: self.file.to_path_buf(),
                problem: format!("{} at byte {at} should be UTF-8, but: {error}", what()),
            }),
        }
    }

    fn value(&mut self, key: &str, type_id: u32) -> Result<Value, FileError> {
        let what = || format!("the value of key `{key}`");
        Ok(match type_id {
            0 => Value::U8(self.take(1, what)?[0]),
            1 => Value::I8(self.take(1, what)?[0] as i8),
            2 => Value::U16(self.numbers(1, what)?[0]),
            3 => Value::I16(self.numbers(1, what)?[0]),
            4 => Value::U32(self.numbers(1, what)?[0]),
            5 => Value::I32(self.numbers(1, what)?[0]),
            6 => Value::F32(self.numbers(1, what)?[0]),
            7 => Value::Bool(self.booleans(1, key)?[0]),
            8 => Value::String(self.string(what)?),
            9 => Value::Array(self.array(key, MAX_DEPTH)?),
            10 => Value::U64(self.numbers(1, what)?[0]),
            11 => Value::I64(self.numbers(1, what)?[0]),
            12 => Value::F64(self.numbers(1, what)?[0]),
            other => return Err(self.unknown_value_type(key, other)),
        })
    }

    fn array(&mut self, key: &str, depth: u32) -> Result<Array, FileError> {
        let what = || format!("the array of key `{key}`");
        let type_id = self.u32(what)?;
        let count = self.u64(&what())?;
        Ok(match type_id {
            0 => Array::U8(self.take(count, what)?.to_vec()),
            1 => Array::I8(self.take(count, what)?.iter().map(|&b| b as i8).collect()),
            2 => Array::U16(self.numbers(count, what)?),
            3 => Array::I16(self.numbers(count, what)?),
            4 => Array::U32(self.numbers(count, what)?),
            5 => Array::I32(self.numbers(count, what)?),
            6 => Array::F32(self.numbers(count, what)?),
            7 => Array::Bool(self.booleans(count, key)?),
            8 => {
                self.check_count(count, 8, &format!("strings in key `{key}`"))?;
                let mut strings = Vec::with_capacity(count as usize);
                for index in 0..count {
                    strings.push(self.string(|| format!("string {index} of key `{key}`"))?);
                }
                Array::String(strings)
            }
            9 if depth == 0 => {
                return Err(FileError::Key {
                    file: self.file.to_path_buf(),
                    key: key.into(),
                    problem: format!("has arrays within arrays more than {MAX_DEPTH} deep"),
                });
            }
            9 => {
                self.check_count(count, 12, &format!("arrays in key `{key}`"))?;
                let mut arrays = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    arrays.push(self.array(key, depth - 1)?);
                }
                Array::Array(arrays)
            }
            10 => Array::U64(self.numbers(count, what)?),
            11 => Array::I64(self.numbers(count, what)?),
            12 => Array::F64(self.numbers(count, what)?),
            other => return Err(self.unknown_value_type(key, other)),
        })
    }

    fn unknown_value_type(&self, key: &str, id: u32) -> FileError {
        FileError::Key {
            file: self.file.to_path_buf(),
            key: key.into(),
            problem: format!("holds a value type from the future: id {id}; known ids are 0 to 12"),
        }
    }

    fn numbers<T: bytemuck::Pod>(&mut self, count: u64, what: impl FnOnce() -> String) -> Result<Vec<T>, FileError> {
        let needed = count.saturating_mul(size_of::<T>() as u64);
        Ok(bytemuck::allocation::pod_collect_to_vec(self.take(needed, what)?))
    }

    fn booleans(&mut self, count: u64, key: &str) -> Result<Vec<bool>, FileError> {
        let bytes = self.take(count, || format!("the booleans of key `{key}`"))?;
        if let Some(wrong) = bytes.iter().find(|&&b| b > 1) {
            return Err(FileError::Key {
                file: self.file.to_path_buf(),
                key: key.into(),
                problem: format!("holds a boolean of byte {wrong}; it should be 0 or 1"),
            });
        }
        Ok(bytes.iter().map(|&b| b == 1).collect())
    }

    fn tensor(&mut self, number: u64, alignment: u64) -> Result<Described, FileError> {
        let name = self.string(|| format!("the name of tensor {number}"))?;
        let wrong = |problem| FileError::Tensor { file: self.file.to_path_buf(), tensor: name.clone(), problem };
        let what = || format!("the description of tensor `{name}`");
        let dimensions = self.u32(what)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(wrong(format!("has {dimensions} dimensions; at most {MAX_DIMENSIONS} are possible")));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let dimension = self.u64(&what())?;
            shape.push(
                usize::try_from(dimension)
                    .ok()
                    .filter(|&d| d <= isize::MAX as usize)
                    .ok_or_else(|| wrong(format!("has a dimension of {dimension}, beyond the address space")))?,
            );
        }
        shape.reverse();
        let id = self.u32(what)?;
        let ggml_type = GgmlType::from_id(id).ok_or_else(|| {
            wrong(match id {
                4 | 5 | 31..=33 | 36..=38 => {
                    format!("has type id {id}, a layout that was withdrawn; convert the file anew")
                }
                _ => format!("has a type from the future: id {id}; known ids end at 41"),
            })
        })?;
        let bytes = tensor_bytes(&shape, ggml_type.name(), ggml_type.block()).map_err(wrong)?;
        let offset = self.u64(&what())?;
        if !offset.is_multiple_of(alignment) {
            return Err(wrong(format!("begins at offset {offset}, which is no multiple of the alignment {alignment}")));
        }
        Ok(Described { name, ggml_type, shape, offset, bytes })
    }
}
