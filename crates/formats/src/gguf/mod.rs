//! GGUF: typed keys and values, then tensor descriptions, then aligned tensor data; one file or several.
//!
//! ```text
//! magic "GGUF" | version u32 | tensors u64 | keys u64
//! keys:    name, type u32, value                      (string = length u64 + UTF-8)
//! tensors: name, dimensions u32, each u64 (contiguous one first), type u32, offset u64 from the data's begin
//! padding to `general.alignment` (32 unless said) | data, each tensor at a multiple of the alignment
//! ```
//!
//! All little endian. Every length, count and offset is checked against the file before anything is allocated for it.
//! Source: the GGUF specification in ggml's `docs/gguf.md`, versions 2 and 3.

mod ggml_type;
mod metadata;
mod parse;
mod split;
mod value;
mod write;

pub use ggml_type::{GgmlType, dtype_id};
pub use metadata::{FromValue, Metadata};
pub use parse::parse;
pub use split::{split_number, write_split};
pub use value::{Array, Value};
pub use write::{TensorPlan, Writer};

pub(crate) use split::open_parts;

/// The first four bytes of a file.
pub const MAGIC: &[u8] = b"GGUF";

/// The alignment of tensor data where `general.alignment` does not say another, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that says how tensor data is aligned.
pub const ALIGNMENT_KEY: &str = "general.alignment";
