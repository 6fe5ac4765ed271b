//! Associative recall: sequences of key-value pairs, and queries for the value of a key.
//!
//! Multi-query associative recall (MQAR) and its variants, after "Zoology: Measuring and Improving Recall in Efficient
//! Language Models" (Arora, Eyuboglu et al., 2023). A generator makes one example from a random stream; [`GeneratedTask`] gives
//! every segment of every split a seed of its own.

mod compositional;
mod forgetting;
mod layout;
mod long_filler;
mod mqar;
mod published;
mod stacked;

pub use compositional::CompositionalMqarConfig;
pub use forgetting::ForgettingMqarConfig;
pub use long_filler::{LongFillerMqarConfig, QueryPlaces};
pub use mqar::MqarConfig;
pub use published::FIGURE_2;
pub use stacked::StackedMqarConfig;
