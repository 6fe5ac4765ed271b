//! Layers and models as functions that build graphs; configurations and checkpoint names.
//!
//! A [`ModelConfig`] lists layers; `hidden` and `logits` add them to a graph, for training (whole
//! packed sequences) or inference (rows that continue kept sequences), which [`Sequences`] tells apart.

mod channels;
mod checkpoint;
mod config;
mod correction;
mod layers;
pub mod mixers;
mod model;
mod quantization;
mod rope;
mod samba_y;
mod sequences;
mod sinks;
mod sources;
mod weights;

pub use channels::Channel;
pub use channels::moe::{MoeConfig, Scores, SharedExpert};
pub use checkpoint::memwall::{ARCHITECTURE, CONFIG_KEY};
pub use checkpoint::to_gguf::GgufForm;
pub use checkpoint::{Assembly, Change, Checkpoint, CheckpointError, Extent};
pub use config::{Activation, ChannelConfig, ConfigError, LayerConfig, MixerConfig, ModelConfig, NormKind};
pub use correction::{CorrectionConfig, CorrectionGate, GATE, GateSchedule};
pub use mixers::attention::{AttentionConfig, GateActivation, GateConfig, GateOperation, GatePosition, Granularity};
pub use mixers::base_conv::{BaseConvConfig, ImplicitFilterConfig};
pub use mixers::bmojo::{BmojoConfig, EideticConfig, EideticRope};
pub use mixers::decay::DecayForm;
pub use mixers::delta_net::{DeltaForm, DeltaGate, DeltaNetConfig};
pub use mixers::differential::DifferentialConfig;
pub use mixers::gate_layout::{GateLayout, GatedRows};
pub use mixers::gated_associative::{GatedAssociativeConfig, Paths};
pub use mixers::gated_kalmanet::{GatedKalmanetConfig, RidgeForm};
pub use mixers::gated_memory_unit::GatedMemoryUnitConfig;
pub use mixers::gla::{GlaConfig, GlaForm};
pub use mixers::hgrn2::{Hgrn2Config, LowerBound};
pub use mixers::linear_attention::{FeatureMap, LinearAttentionConfig};
pub use mixers::mamba::MambaConfig;
pub use mixers::mamba2::Mamba2Config;
pub use mixers::mlstm::MlstmConfig;
pub use mixers::retention::RetentionConfig;
pub use mixers::rwkv_channel_mix::RwkvChannelMixConfig;
pub use mixers::rwkv4::Rwkv4Config;
pub use mixers::rwkv5::Rwkv5Config;
pub use mixers::rwkv6::Rwkv6Config;
pub use mixers::rwkv7::Rwkv7Config;
pub use mixers::selective_attention::{Select, SelectiveAttentionConfig};
pub use mixers::short_conv::ShortConvConfig;
pub use mixers::token_shift::TokenMix;
pub use mixers::{Form, Mixer};
pub use model::EMBEDDING;
pub use quantization::{Operands, QuantizationConfig, StraightThrough};
pub use rope::{RopeConfig, RopeScaling};
pub use samba_y::SambaYConfig;
pub use sequences::{Kept, KeyValues, Sequences, policy};
pub use sinks::{LayerSinks, SinkProbe, Sinks};
pub use weights::WeightTypes;
