//! What is asked and scored: data sets, generators, metrics.
//!
//! A [`Task`] gives examples by index, each a pure function of seed, split and index, and scores answers. Generators
//! ([`GeneratedTask`]) make their examples; text ([`TextTask`]) cuts them from a [`Corpus`]. [`Batches`] puts examples together
//! in a fixed order and knows its place exactly, so that a run can stop and go on. [`laws`] holds every task to what the
//! trait promises.

mod batch;
mod check;
mod copying;
pub mod data;
mod draw;
mod generated;
mod generator;
pub mod laws;
pub mod metrics;
mod philox;
mod recall;
pub mod selectivity;
mod state_tracking;
mod task;
mod text;
mod triggered_copying;

pub use batch::{Batch, Batches, Position};
pub use copying::CopyingConfig;
pub use data::{DataDir, DataError, DataSet};
pub use draw::{distinct, weighted_order};
pub use generated::{GeneratedData, GeneratedTask};
pub use generator::{Generated, Generator, GeneratorConfig};
pub use philox::Philox;
pub use recall::{
    CompositionalMqarConfig, FIGURE_2, ForgettingMqarConfig, LongFillerMqarConfig, MqarConfig, QueryPlaces,
    StackedMqarConfig,
};
pub use state_tracking::{Group, StateTrackingConfig};
pub use task::{ConfigError, IGNORE, Metric, Split, Task, TaskError, Tokens};
pub use text::{Corpus, CorpusError, CorpusPart, Documents, Fractions, TextTask};
pub use triggered_copying::TriggeredCopyingConfig;
