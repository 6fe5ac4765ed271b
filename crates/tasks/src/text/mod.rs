//! Text: corpora of bytes or tokens, split by order, and windows of them.

mod corpus;
mod ids;
mod text_task;

pub use corpus::{Corpus, CorpusError, CorpusPart, Documents, Fractions};
pub use text_task::TextTask;
