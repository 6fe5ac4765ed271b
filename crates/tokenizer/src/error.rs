//! What can be wrong with a tokenizer.

use std::{io, path::PathBuf};

use memwall_formats::{FileError, atomic_file::WriteError};
use thiserror::Error;

/// What is wrong with a tokenizer or its input, where, and what would be right.
#[derive(Debug, Error)]
#[allow(missing_docs)] // the fields are what the message prints
pub enum TokenizerError {
    #[error("{}: cannot read it: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{}: {problem}", file.display())]
    Damaged { file: PathBuf, problem: String },
    #[error("{}: there is no tokenizer; looked for {looked_for}", place.display())]
    Missing { place: PathBuf, looked_for: String },
    #[error("the vocabulary has no token for byte 0x{byte:02X} of the text, and no unknown token")]
    NoTokenForByte { byte: u8 },
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    NoSuchToken { id: u32, vocab_size: usize },
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    #[error("chat template: {0}")]
    Template(String),
    #[error("the tokenizer cannot be written into a GGUF file: {0}")]
    Export(String),
    #[error("tokenizer training: {0}")]
    Train(String),
}
