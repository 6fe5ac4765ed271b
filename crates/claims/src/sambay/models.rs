//! The models that are compared.

use memwall_graph::Memory;
use memwall_nn::{
    Activation, AttentionConfig, ChannelConfig, LayerConfig, MambaConfig, MixerConfig, ModelConfig, RopeConfig,
    SambaYConfig,
};

use crate::Error;

pub(super) const SAMBAY: &str = "SambaY";
pub(super) const YOCO: &str = "Samba and YOCO";
pub(super) const TRANSFORMER: &str = "attention in every layer";
pub(super) const WINDOWED: &str = "SambaY with a window in its full layer";

/// Sizes that all models of a comparison have.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) vocabulary: usize,
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) context: usize,
    pub(super) window: usize,
    pub(super) differential: bool,
}

impl Sizes {
    /// The layer whose memory Gated Memory Units read.
    pub(super) fn memory_layer(&self) -> usize {
        self.layers / 2
    }

    pub(super) fn model(&self, arm: &str) -> Result<ModelConfig, Error> {
        let channel = ChannelConfig::Glu { hidden: 2 * self.width, activation: Activation::Silu, bias: false };
        let attention = AttentionConfig::new(self.heads, self.heads / 2, self.width / self.heads);
        let layers = if arm == TRANSFORMER {
            let attention = AttentionConfig { rope: Some(RopeConfig::default()), ..attention };
            vec![LayerConfig { mixer: MixerConfig::Attention(attention), channel }; self.layers]
        } else {
            let plan = SambaYConfig {
                layers: self.layers,
                mamba: MambaConfig::new(self.width),
                attention,
                window: self.window,
                full_window: (arm == WINDOWED).then_some(self.window),
                differential: self.differential,
                yoco: arm == YOCO,
                channel,
            };
            plan.layers().map_err(Error::experiment)?
        };
        Ok(ModelConfig { tie_embeddings: true, ..ModelConfig::new(self.vocabulary, self.width, self.context, layers) })
    }
}

/// Multiplies all matrices of layers, which begin small, so that layers change what they read.
pub(super) fn enlarge(memory: &mut Memory, names: &[String]) {
    for name in names.iter().filter(|name| name.ends_with("proj.weight")) {
        if let Some(values) = memory.get_mut::<f32>(name) {
            values.iter_mut().for_each(|w| *w *= 6.0);
        }
    }
}
