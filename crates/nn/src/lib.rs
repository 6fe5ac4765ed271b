//! Layers and models as functions that build graphs; configurations and checkpoint names.
//!
//! A [`ModelConfig`] lists layers; `hidden` and `logits` add them to a graph, for training (whole
//! packed sequences) or inference (rows that continue kept sequences), which [`Sequences`] tells apart.

mod channels;
mod checkpoint;
mod config;
mod layers;
pub mod mixers;
mod model;
mod rope;
mod sequences;
mod sinks;
mod weights;

pub use channels::Channel;
pub use channels::moe::{MoeConfig, Scores, SharedExpert};
pub use checkpoint::memwall::{ARCHITECTURE, CONFIG_KEY};
pub use checkpoint::to_gguf::GgufForm;
pub use checkpoint::{Assembly, Change, Checkpoint, CheckpointError, Extent};
pub use config::{Activation, ChannelConfig, ConfigError, LayerConfig, MixerConfig, ModelConfig};
pub use mixers::attention::{AttentionConfig, GateActivation, GateConfig, GateOperation, GatePosition, Granularity};
pub use mixers::delta_net::{DeltaForm, DeltaGate, DeltaNetConfig};
pub use mixers::gate_layout::{GateLayout, GatedRows};
pub use mixers::gla::{GlaConfig, GlaForm};
pub use mixers::short_conv::ShortConvConfig;
pub use mixers::{Form, Mixer};
pub use model::EMBEDDING;
pub use rope::{RopeConfig, RopeScaling};
pub use sequences::{Kept, Sequences, policy};
pub use sinks::{LayerSinks, SinkProbe, Sinks};
pub use weights::WeightTypes;
