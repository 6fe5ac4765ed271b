//! How a number is stored: encode, decode, pack; GGUF, safetensors and llama2.c containers.

mod dtype;

pub use dtype::Dtype;
