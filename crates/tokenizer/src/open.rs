//! Which tokenizer belongs to a path.

use std::path::{Path, PathBuf};

use memwall_formats::{Container, ContainerFormat, gguf, mapped_file::MappedFile};

use crate::{
    Tokenizer, TokenizerError,
    hugging_face::{JSON, SENTENCEPIECE},
};

impl Tokenizer {
    /// The tokenizer of a model or of a vocabulary alone: a GGUF file, a folder or file of Hugging Face's, a llama2.c
    /// checkpoint with its tokenizer beside it, or a llama2.c tokenizer.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
        let path = path.as_ref();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if path.is_dir() {
            if Tokenizer::is_in(path) {
                return Tokenizer::from_folder(path);
            }
            return Tokenizer::from_container(&Container::open(path)?);
        }
        if extension == "json" {
            let folder = path.parent().unwrap_or(Path::new(""));
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            if name == JSON || name.ends_with(".index.json") {
                return Tokenizer::from_folder(folder);
            }
            return Tokenizer::from_json(path, &MappedFile::open(path)?);
        }
        if path.file_name().is_some_and(|name| name == SENTENCEPIECE) {
            return Tokenizer::from_folder(path.parent().unwrap_or(Path::new("")));
        }
        let file = MappedFile::open(path)?;
        if file.starts_with(gguf::MAGIC) || extension == "gguf" || extension == "safetensors" {
            return Tokenizer::from_container(&Container::open(path)?);
        }
        match Container::open(path) {
            Ok(checkpoint) => Tokenizer::from_container(&checkpoint),
            Err(_) => Tokenizer::from_llama2c_bytes(path, &file),
        }
    }

    /// The tokenizer that an opened model carries, or that lies beside it.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn from_container(container: &Container) -> Result<Tokenizer, TokenizerError> {
        match container.format() {
            ContainerFormat::Gguf => Tokenizer::from_gguf(container.metadata()),
            ContainerFormat::Safetensors => Tokenizer::from_folder(container.folder()),
            ContainerFormat::Llama2c => beside_checkpoint(container),
            ContainerFormat::RwkvCpp => Err(TokenizerError::Missing {
                place: PathBuf::from(container.path()),
                looked_for: "a vocabulary in it, which files of rwkv.cpp do not have: give token ids".into(),
            }),
        }
    }
}

/// The llama2.c tokenizer in a checkpoint's folder that has as many tokens as the checkpoint.
fn beside_checkpoint(container: &Container) -> Result<Tokenizer, TokenizerError> {
    let tokens: usize = container.metadata().require("llama.vocab_size")?;
    let stem = container.path().file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let names = [format!("{stem}-tok{tokens}.bin"), format!("tok{tokens}.bin"), "tokenizer.bin".to_string()];
    for path in names.iter().map(|name| container.folder().join(name)).filter(|path| path.is_file()) {
        let tokenizer = Tokenizer::from_llama2c(&path)?;
        if tokenizer.vocab_size() == tokens {
            return Ok(tokenizer);
        }
    }
    Err(TokenizerError::Missing {
        place: PathBuf::from(container.path()),
        looked_for: format!("{} beside it, with {tokens} tokens", names.join(", ")),
    })
}
