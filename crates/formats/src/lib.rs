//! How a number is stored: encode, decode, pack; GGUF, safetensors, llama2.c and rwkv.cpp containers.

pub mod atomic_file;
pub mod block;
pub mod container;
mod dtype;
pub mod element;
pub mod error;
mod f16le;
mod format;
pub mod gguf;
pub mod hub;
pub mod laws;
mod layout;
pub mod llama2c;
pub mod mapped_file;
mod mix;
pub mod packing;
pub mod quantizer;
pub mod rwkv_cpp;
pub mod safetensors;
pub mod scalar;
pub mod scaled;

pub use container::{Container, ContainerFormat, FileError, Raw, TensorInfo, UnsupportedTensor};
pub use dtype::Dtype;
pub use f16le::F16Le;
pub use format::{Format, FormatError, format};
pub use layout::Layout;
pub use mix::{Mix, MixModel, MixTensor};
pub use quantizer::{Quantizer, QuantizerError};
