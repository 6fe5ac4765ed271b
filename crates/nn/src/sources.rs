//! Layers that read what earlier ones have made: which may read which, and where the layers begin that only read.
//!
//! YOCO (Sun et al. 2024, arXiv 2405.05254): layers that keep nothing of their own need the rows whose logits are wanted, and
//! no others. All layers from [`cross_decoder`] on are of that kind.

use crate::config::{ConfigError, LayerConfig, MixerConfig, ModelConfig};

impl MixerConfig {
    /// Width of the memory that later layers can read, if it has one.
    fn memory_width(&self) -> Option<usize> {
        match self {
            MixerConfig::Mamba(m) => Some(m.inner),
            MixerConfig::Attention(a) => Some(a.heads * a.head_dim),
            _ => None,
        }
    }
}

impl ModelConfig {
    /// Whether a later layer reads what layer `layer` has made, beside the residual stream.
    pub fn is_read(&self, layer: usize) -> bool {
        self.layers.iter().any(|other| match &other.mixer {
            MixerConfig::Attention(a) => a.kv_source == Some(layer),
            MixerConfig::GatedMemoryUnit(unit) => unit.source == layer,
            _ => false,
        })
    }
}

/// The first of the layers at the end that keep nothing of their own; the number of layers if the last one does.
pub(crate) fn cross_decoder(layers: &[LayerConfig]) -> usize {
    layers.iter().rposition(|layer| !layer.mixer.mixer().reads_only()).map_or(0, |last| last + 1)
}

/// Checks that each layer that reads another one's memory, or keys and values, stands after it and fits it.
pub(crate) fn check(layers: &[LayerConfig]) -> Result<(), ConfigError> {
    for (i, layer) in layers.iter().enumerate() {
        let key = |name: &str| format!("layers.{i}.mixer.{name}");
        match &layer.mixer {
            MixerConfig::GatedMemoryUnit(unit) => {
                let source = source(layers, i, &key("source"), unit.source)?;
                let Some(width) = source.memory_width() else {
                    let problem =
                        format!("is {}, which has no memory to read: a mamba or attention layer", unit.source);
                    return Err(ConfigError::at(key("source"), format!("{problem} is needed")));
                };
                if width != unit.width {
                    let problem = format!("is {}; the memory of layer {} is {width} wide", unit.width, unit.source);
                    return Err(ConfigError::at(key("width"), problem));
                }
            }
            MixerConfig::Attention(attention) => {
                let Some(from) = attention.kv_source else { continue };
                let own = match source(layers, i, &key("kv_source"), from)? {
                    MixerConfig::Attention(own) if own.kv_source.is_none() => own,
                    _ => {
                        let problem = format!("is {from}, which is no attention with keys and values of its own");
                        return Err(ConfigError::at(key("kv_source"), problem));
                    }
                };
                let sizes =
                    [("kv_heads", attention.kv_heads, own.kv_heads), ("head_dim", attention.head_dim, own.head_dim)];
                if let Some((name, n, own)) = sizes.into_iter().find(|(_, n, own)| n != own) {
                    return Err(ConfigError::at(key(name), format!("is {n}; layer {from} keeps {own}")));
                }
                if let Some(kept) = own.window
                    && attention.window.is_none_or(|window| window > kept)
                {
                    let problem = format!("must be at most {kept}, for layer {from} keeps no more tokens");
                    return Err(ConfigError::at(key("window"), problem));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Layer `source`, if it stands before layer `i`.
fn source<'a>(layers: &'a [LayerConfig], i: usize, key: &str, source: usize) -> Result<&'a MixerConfig, ConfigError> {
    match layers.get(source) {
        Some(layer) if source < i => Ok(&layer.mixer),
        Some(_) => Err(ConfigError::at(key, format!("is {source}; a layer before this one, {i}, is needed"))),
        None => Err(ConfigError::at(key, format!("is {source}, but there are {} layers", layers.len()))),
    }
}
