//! rwkv.cpp checkpoints: six integers, then tensors one after the other until the file ends.
//!
//! ```text
//! magic 0x67676d66, version 100 or 101, n_vocab, n_embed, n_layer, data_type: i32 each
//! tensor: n_dims, key length, data_type: i32 each; sizes: i32 each, the contiguous one first; key; data
//! ```
//!
//! Data follow their key at once, aligned to nothing. Data types are ggml's: F32, F16, and from version 101 on Q4_0, Q4_1,
//! Q5_0, Q5_1 and Q8_0 in the blocks that GGUF has too; those of version 100 had other blocks. Tensors keep the names of
//! the file. Source: `docs/FILE_FORMAT.md` of rwkv.cpp.

use std::collections::HashSet;
use std::path::Path;

use crate::{
    Dtype,
    container::{FileError, Header, TensorInfo, tensor_bytes},
    gguf::Metadata,
};

/// How a file begins.
pub const MAGIC: [u8; 4] = 0x6767_6d66_i32.to_le_bytes();
/// The key that holds n_vocab.
pub const VOCAB_KEY: &str = "rwkv_cpp.n_vocab";
/// The key that holds n_embed.
pub const EMBED_KEY: &str = "rwkv_cpp.n_embed";
/// The key that holds n_layer.
pub const LAYER_KEY: &str = "rwkv_cpp.n_layer";

const HEADER: [&str; 6] = ["magic", "version", "n_vocab", "n_embed", "n_layer", "data_type"];
/// The version from which on blocks are those of today.
const FIRST_WITH_BLOCKS: i32 = 101;
/// The most dimensions of a tensor.
const MOST_DIMS: i32 = 4;
/// The longest key: those of models are below 64 bytes.
const MOST_KEY_BYTES: i32 = 1024;

/// A data type by its number, or what is wrong with it.
fn data_type(number: i32, version: i32) -> Result<Dtype, String> {
    let dtype = match number {
        0 => return Ok(Dtype::F32),
        1 => return Ok(Dtype::F16),
        2 => Dtype::Q4_0,
        3 => Dtype::Q4_1,
        7 => Dtype::Q5_0,
        8 => Dtype::Q5_1,
        9 => Dtype::Q8_0,
        _ => return Err(format!("its data type is {number}; 0 to 3 and 7 to 9 are known")),
    };
    if version < FIRST_WITH_BLOCKS {
        return Err(format!(
            "it is stored as {dtype} of file version {version}, whose blocks are others; quantize the FP16 or FP32 file again"
        ));
    }
    Ok(dtype)
}

/// Bytes of a file, read from the start on.
struct Reader<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next `n` bytes, called `what` in messages.
    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], FileError> {
        let taken = usize::try_from(n).ok().and_then(|n| self.bytes[self.at..].get(..n));
        let Some(taken) = taken else {
            return Err(FileError::Truncated {
                file: self.file.to_path_buf(),
                what: what.into(),
                at: self.at as u64,
                needed: n,
                length: self.bytes.len() as u64,
            });
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn i32(&mut self, what: &str) -> Result<i32, FileError> {
        let bytes = self.take(4, what)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// Reads the header and the table of tensors; `bytes` is the whole file, of whose data nothing is touched.
///
/// # Errors
/// When the file is no rwkv.cpp checkpoint, is cut short anywhere, or a tensor has a name, size or type that cannot be.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Header, FileError> {
    let mut reader = Reader { file, bytes, at: 0 };
    let mut fields = [0; HEADER.len()];
    for (field, name) in fields.iter_mut().zip(HEADER) {
        *field = reader.i32(&format!("the {name} of an rwkv.cpp checkpoint"))?;
    }
    let [magic, version, vocab, embed, layers, kind] = fields;
    let header = |problem: String| FileError::Header { file: file.to_path_buf(), problem };
    if magic.to_le_bytes() != MAGIC {
        return Err(FileError::NotRecognized {
            file: file.to_path_buf(),
            found: format!("it begins with 0x{magic:08x}"),
            expected: "an rwkv.cpp checkpoint, which begins with 0x67676d66",
        });
    }
    if !(100..=101).contains(&version) {
        return Err(header(format!("the version of the rwkv.cpp checkpoint is {version}; 100 and 101 are known")));
    }
    for (name, n) in [("n_vocab", vocab), ("n_embed", embed), ("n_layer", layers)] {
        if n < 1 {
            return Err(header(format!("{name} of the rwkv.cpp checkpoint is {n}; at least 1 is needed")));
        }
    }
    let mut metadata = Metadata::new(file);
    metadata.insert("rwkv_cpp.version", version as u32);
    metadata.insert(VOCAB_KEY, vocab as u32);
    metadata.insert(EMBED_KEY, embed as u32);
    metadata.insert(LAYER_KEY, layers as u32);
    metadata.insert("rwkv_cpp.data_type", kind);
    let (mut tensors, mut names) = (Vec::new(), HashSet::new());
    while reader.at < bytes.len() {
        let tensor = tensor(&mut reader, version, tensors.len())?;
        if !names.insert(tensor.name.clone()) {
            let problem = "is there twice; each tensor should have a name of its own".into();
            return Err(FileError::Tensor { file: file.to_path_buf(), tensor: tensor.name, problem });
        }
        tensors.push(tensor);
    }
    if tensors.is_empty() {
        return Err(header("the rwkv.cpp checkpoint ends after its header; tensors should follow".into()));
    }
    Ok(Header { metadata, tensors, unsupported: Vec::new() })
}

/// Reads the record of one tensor and skips its data; `number` tensors stand before it.
fn tensor(reader: &mut Reader<'_>, version: i32, number: usize) -> Result<TensorInfo, FileError> {
    let file = reader.file;
    let which = format!("tensor {number}");
    let wrong = |problem: String| FileError::Tensor { file: file.to_path_buf(), tensor: which.clone(), problem };
    let [dims, key_bytes, kind] = [
        reader.i32(&format!("the number of dimensions of {which}"))?,
        reader.i32(&format!("the key length of {which}"))?,
        reader.i32(&format!("the data type of {which}"))?,
    ];
    if !(1..=MOST_DIMS).contains(&dims) {
        return Err(wrong(format!("it has {dims} dimensions; 1 to {MOST_DIMS} are possible")));
    }
    if !(1..=MOST_KEY_BYTES).contains(&key_bytes) {
        return Err(wrong(format!("its key has {key_bytes} bytes; 1 to {MOST_KEY_BYTES} are possible")));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let size = reader.i32(&format!("the shape of {which}"))?;
        let size = usize::try_from(size).ok().filter(|&n| n > 0);
        shape.push(size.ok_or_else(|| wrong("one of its sizes is below 1".into()))?);
    }
    shape.reverse();
    let key = reader.take(key_bytes as u64, &format!("the key of {which}"))?;
    let name = std::str::from_utf8(key).map_err(|_| wrong("its key is no UTF-8".into()))?.to_string();
    let wrong = |problem: String| FileError::Tensor { file: file.to_path_buf(), tensor: name.clone(), problem };
    let dtype = data_type(kind, version).map_err(wrong)?;
    let wanted = tensor_bytes(&shape, dtype.name(), (dtype.block_len(), dtype.block_bytes())).map_err(wrong)?;
    let offset = reader.at as u64;
    reader.take(wanted, &format!("the data of tensor `{name}`"))?;
    Ok(TensorInfo { name, dtype, shape, file: 0, offset, bytes: wanted })
}
