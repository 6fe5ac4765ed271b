//! How a number is stored: encode, decode, pack; GGUF, safetensors and llama2.c containers.

pub mod atomic_file;
pub mod container;
mod dtype;
pub mod gguf;
pub mod llama2c;
pub mod mapped_file;
pub mod safetensors;

pub use container::{Container, ContainerFormat, FileError, TensorInfo};
pub use dtype::Dtype;
