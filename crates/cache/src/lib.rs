//! What a sequence's memory keeps: KV caches and their policies.
//!
//! A [`CachePolicy`] builds graph: it writes a step's keys and values, and attends to what it has
//! kept. Its worst case in bytes is known before anything runs.

mod full;
mod policy;
mod sliding_window;

pub use full::Full;
pub use policy::{CacheError, CachePolicy, Kept, KvFormat, KvLayer, Rollback, Rows};
pub use sliding_window::SlidingWindow;
