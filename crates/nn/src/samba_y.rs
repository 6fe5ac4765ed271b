//! SambaY (Ren et al. 2025, arXiv 2507.06607): which layer of a decoder-hybrid-decoder is what.
//!
//! Of L layers, numbered from 0, those below L/2 are Samba: Mamba where the number is even, attention with a window where it
//! is odd. Layer L/2 is Mamba whose memory later layers read, layer L/2 + 1 attention over all tokens whose keys and values
//! they read. Above, even layers are Gated Memory Units, odd ones cross-attention: nothing there is kept.

use crate::config::{ChannelConfig, ConfigError, LayerConfig, MixerConfig};
use crate::mixers::attention::AttentionConfig;
use crate::mixers::differential::DifferentialConfig;
use crate::mixers::gated_memory_unit::GatedMemoryUnitConfig;
use crate::mixers::mamba::MambaConfig;

/// A stack of layers after SambaY's plan.
#[derive(Clone, Debug, PartialEq)]
pub struct SambaYConfig {
    /// Layers L, a multiple of 4, at least 8.
    pub layers: usize,
    /// Mamba of the layers that have it.
    pub mamba: MambaConfig,
    /// Attention, but for window, source and depth, which the plan gives each layer.
    pub attention: AttentionConfig,
    /// The window of attention below L/2.
    pub window: usize,
    /// The window of layer L/2 + 1, and so of cross-attention: none in SambaY, which sees all tokens there.
    pub full_window: Option<usize>,
    /// All attention is differential.
    pub differential: bool,
    /// Even layers of the cross-decoder are cross-attention too, as in Samba+YOCO, instead of Gated Memory Units.
    pub yoco: bool,
    /// The channel layer of every layer.
    pub channel: ChannelConfig,
}

impl SambaYConfig {
    /// The layers.
    ///
    /// # Errors
    /// If there are not so many layers that the plan can be followed.
    pub fn layers(&self) -> Result<Vec<LayerConfig>, ConfigError> {
        if self.layers < 8 || !self.layers.is_multiple_of(4) {
            let problem = format!("is {}; SambaY has a multiple of 4 layers, at least 8", self.layers);
            return Err(ConfigError::at("layers", problem));
        }
        let (memory, full) = (self.layers / 2, self.layers / 2 + 1);
        let attention = |i: usize, window: Option<usize>, kv_source: Option<usize>| {
            let differential = self.differential.then(|| DifferentialConfig::new(i));
            MixerConfig::Attention(AttentionConfig { window, kv_source, differential, ..self.attention.clone() })
        };
        let mixer = |i: usize| match i {
            i if i <= memory && i.is_multiple_of(2) => MixerConfig::Mamba(self.mamba.clone()),
            i if i < memory => attention(i, Some(self.window), None),
            i if i == full => attention(i, self.full_window, None),
            i if i.is_multiple_of(2) && !self.yoco => {
                MixerConfig::GatedMemoryUnit(GatedMemoryUnitConfig::new(memory, self.mamba.inner))
            }
            i => attention(i, self.full_window, Some(full)),
        };
        Ok((0..self.layers).map(|i| LayerConfig { mixer: mixer(i), channel: self.channel.clone() }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(layers: usize, yoco: bool) -> Result<Vec<LayerConfig>, ConfigError> {
        let (mamba, attention) = (MambaConfig::new(16), AttentionConfig::new(4, 2, 4));
        let (window, full_window, channel) = (3, None, ChannelConfig::None);
        SambaYConfig { layers, mamba, attention, window, full_window, differential: true, yoco, channel }.layers()
    }

    /// M Mamba, S attention with a window, F over all tokens, G a Gated Memory Unit, C cross-attention.
    fn letters(layers: usize, yoco: bool) -> String {
        let letter = |(i, layer): (usize, LayerConfig)| match layer.mixer {
            MixerConfig::Mamba(_) => 'M',
            MixerConfig::GatedMemoryUnit(g) if g.source == layers / 2 && g.width == 32 => 'G',
            MixerConfig::Attention(a) => {
                assert_eq!(a.differential, Some(DifferentialConfig::new(i)));
                match (a.window, a.kv_source) {
                    (Some(3), None) => 'S',
                    (None, None) => 'F',
                    (None, Some(source)) if source == layers / 2 + 1 => 'C',
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        };
        plan(layers, yoco).expect("a plan").into_iter().enumerate().map(letter).collect()
    }

    #[test]
    fn each_layer_is_what_the_published_plan_says() {
        assert_eq!(letters(8, false), "MSMSMFGC");
        assert_eq!(letters(16, false), "MSMSMSMSMFGCGCGC");
        assert_eq!(letters(32, false), "MSMSMSMSMSMSMSMSMFGCGCGCGCGCGCGC");
        assert_eq!(letters(8, true), "MSMSMFCC");
        assert_eq!(letters(16, true), "MSMSMSMSMFCCCCCC");
    }

    #[test]
    fn other_numbers_of_layers_are_refused() {
        for layers in [0, 4, 6, 10, 18, 33] {
            let error = plan(layers, false).expect_err("refused").to_string();
            assert!(error.contains(&format!("layers: is {layers}")) && error.contains("multiple of 4"), "{error}");
        }
    }
}
