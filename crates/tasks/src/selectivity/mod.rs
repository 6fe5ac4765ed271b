//! Naming the hidden state of an automaton from the symbols that it writes, with gaps and distractors between them.
//!
//! After SelectivBench ("Dissecting Linear Recurrent Models", Bouhadjar et al., 2026). [`Grammar`] is drawn at random;
//! [`Selectivity`] makes sequences of its strings as a [`Task`](crate::Task); [`filter`] is the best that anyone can do, and
//! [`ngram`] what the last few symbols alone allow.

pub mod filter;
mod gaps;
mod grammar;
pub mod ngram;
mod task;

pub use gaps::{Filler, Gaps};
pub use grammar::{END, Grammar, GrammarConfig};
pub use task::{Part, Selectivity, SelectivityData, element_accuracy};
