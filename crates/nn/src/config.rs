//! What a model is: its layers, widths and conventions, whatever checkpoint it came from.

use serde::{Deserialize, Serialize};

use crate::channels::moe::MoeConfig;
use crate::mixers::attention::AttentionConfig;
use crate::mixers::base_conv::BaseConvConfig;
use crate::mixers::bmojo::BmojoConfig;
use crate::mixers::delta_net::DeltaNetConfig;
use crate::mixers::gated_associative::GatedAssociativeConfig;
use crate::mixers::gated_kalmanet::GatedKalmanetConfig;
use crate::mixers::gated_memory_unit::GatedMemoryUnitConfig;
use crate::mixers::gla::GlaConfig;
use crate::mixers::hgrn2::Hgrn2Config;
use crate::mixers::linear_attention::LinearAttentionConfig;
use crate::mixers::mamba::MambaConfig;
use crate::mixers::mamba2::Mamba2Config;
use crate::mixers::mlstm::MlstmConfig;
use crate::mixers::retention::RetentionConfig;
use crate::mixers::rwkv_channel_mix::RwkvChannelMixConfig;
use crate::mixers::rwkv4::Rwkv4Config;
use crate::mixers::rwkv5::Rwkv5Config;
use crate::mixers::rwkv6::Rwkv6Config;
use crate::mixers::rwkv7::Rwkv7Config;
use crate::mixers::selective_attention::SelectiveAttentionConfig;
use crate::mixers::short_conv::ShortConvConfig;
use crate::quantization::QuantizationConfig;
use crate::sources;

/// A decoder language model: an embedding, blocks of a mixer and a channel layer, a head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width D of the residual stream.
    pub d_model: usize,
    /// The most tokens of a sequence.
    pub max_context: usize,
    /// The blocks, first to last.
    pub layers: Vec<LayerConfig>,
    /// ε of every norm.
    #[serde(default = "default_eps")]
    pub norm_eps: f64,
    /// The head shares the embedding's weight.
    #[serde(default)]
    pub tie_embeddings: bool,
    /// c · tanh(logits / c), if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f64>,
    /// Added learned positions (1 to `max_context`), as some recall tasks want.
    #[serde(default)]
    pub learned_positions: bool,
    /// The norms of blocks and after the last one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub norm: NormKind,
    /// A norm of the same kind on the embedding, as in RWKV.
    #[serde(default, skip_serializing_if = "is_default")]
    pub embedding_norm: bool,
    /// How linear layers of blocks round what they multiply; not at all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationConfig>,
}

/// Whether a key need not be written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A norm of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// x / √(mean(x²) + ε) ⊙ w.
    #[default]
    Rms,
    /// (x − mean) / √(variance + ε) ⊙ w + b.
    Layer,
    /// (x − mean) / √(variance + ε) ⊙ w.
    LayerWithoutBias,
}

fn default_eps() -> f64 {
    1e-5
}

/// One block: `x + mixer(norm(x))`, then `x + channel(norm(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// What moves information between tokens.
    pub mixer: MixerConfig,
    /// What each token does by itself.
    #[serde(default)]
    pub channel: ChannelConfig,
}

/// A token mixer by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MixerConfig {
    /// Softmax attention, with or without gate, window, norms of q and k, biases.
    Attention(AttentionConfig),
    /// B'MOJO: one softmax over a window, a fading memory and old tokens that it failed to predict.
    Bmojo(BmojoConfig),
    /// Gated linear attention.
    Gla(GlaConfig),
    /// The gated delta rule: DeltaNet, Gated DeltaNet, or with gates by channel.
    DeltaNet(DeltaNetConfig),
    /// Gated KalmaNet: read through a ridge regression at every token.
    GatedKalmanet(GatedKalmanetConfig),
    /// Linear attention with a feature map, and divided by the sum of keys or not.
    LinearAttention(LinearAttentionConfig),
    /// Retention: a fixed decay a head.
    Retention(RetentionConfig),
    /// Mamba-2: a selective decay a head.
    Mamba2(Mamba2Config),
    /// HGRN2: forget gates by channel, keys are what they leave.
    Hgrn2(Hgrn2Config),
    /// mLSTM: an exponential input gate, a forget gate, a normalizer.
    Mlstm(MlstmConfig),
    /// A short convolution, gated or plain.
    ShortConv(ShortConvConfig),
    /// A short or long convolution times a linear function of the token (Zoology's BaseConv).
    BaseConv(BaseConvConfig),
    /// Attention at tokens that are chosen from the input.
    SelectiveAttention(SelectiveAttentionConfig),
    /// A convolution and a look-up in learned patterns.
    GatedAssociative(GatedAssociativeConfig),
    /// A gate on the memory of an earlier layer.
    GatedMemoryUnit(GatedMemoryUnitConfig),
    /// Mamba: the selective scan.
    Mamba(MambaConfig),
    /// RWKV-4's time mix.
    Rwkv4(Rwkv4Config),
    /// RWKV-5's time mix.
    Rwkv5(Rwkv5Config),
    /// RWKV-6's time mix.
    Rwkv6(Rwkv6Config),
    /// RWKV-7's time mix.
    Rwkv7(Rwkv7Config),
    /// RWKV's channel mix, a layer of its own.
    RwkvChannelMix(RwkvChannelMixConfig),
}

/// A channel layer by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ChannelConfig {
    /// No channel layer.
    #[default]
    None,
    /// down(act(gate(x)) · up(x)).
    Glu {
        /// Width of the hidden layer.
        hidden: usize,
        /// The activation of the gate.
        #[serde(default)]
        activation: Activation,
        /// Biases on all three.
        #[serde(default)]
        bias: bool,
    },
    /// down(act(up(x))).
    Mlp {
        /// Width of the hidden layer.
        hidden: usize,
        /// The activation between.
        #[serde(default)]
        activation: Activation,
        /// Biases on both.
        #[serde(default)]
        bias: bool,
    },
    /// A mixture of experts.
    Moe(MoeConfig),
}

/// A pointwise activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x σ(x).
    #[default]
    Silu,
    /// x Φ(x), tanh approximation.
    Gelu,
    /// x Φ(x), error function.
    GeluErf,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    Relu2,
}

/// The widest layer: far beyond any model, and small enough that sizes of tensors can be computed.
pub(crate) const MOST_WIDTH: usize = 1 << 24;
/// The longest context: positions are 32-bit integers.
const MOST_CONTEXT: usize = i32::MAX as usize;

/// Refuses `n` above `most`.
pub(crate) fn at_most(key: &str, n: usize, most: usize) -> Result<(), ConfigError> {
    if n <= most {
        return Ok(());
    }
    Err(ConfigError::at(key, format!("is {n}, at most {most} is possible")))
}

/// Refuses `heads` heads of `width` channels if all of them are wider than any layer.
pub(crate) fn heads_fit(key: &str, heads: usize, width: usize) -> Result<(), ConfigError> {
    if heads.checked_mul(width).is_some_and(|all| all <= MOST_WIDTH) {
        return Ok(());
    }
    Err(ConfigError::at(key, format!("is {heads}: with {width} channels a head, more than {MOST_WIDTH} in all")))
}

/// Why a configuration is no model.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The configuration's key, e.g. `layers.3.mixer.heads`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// An error at `key`.
    pub fn at(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError { key: key.into(), problem: problem.into() }
    }
}

impl ChannelConfig {
    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        match self {
            ChannelConfig::None => Ok(()),
            ChannelConfig::Moe(moe) => moe.check(key),
            ChannelConfig::Glu { hidden, .. } | ChannelConfig::Mlp { hidden, .. } => {
                let key = format!("{key}.hidden");
                if *hidden == 0 {
                    return Err(ConfigError::at(key, "is 0, at least 1 is needed"));
                }
                at_most(&key, *hidden, MOST_WIDTH)
            }
        }
    }
}

impl ModelConfig {
    /// A model of those layers: RMS norms with ε of 1e-5, a head of its own, nothing else.
    pub fn new(vocab_size: usize, d_model: usize, max_context: usize, layers: Vec<LayerConfig>) -> ModelConfig {
        ModelConfig {
            vocab_size,
            d_model,
            max_context,
            layers,
            norm_eps: default_eps(),
            tie_embeddings: false,
            logit_softcap: None,
            learned_positions: false,
            norm: NormKind::Rms,
            embedding_norm: false,
            quantization: None,
        }
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the first key that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("vocab_size", self.vocab_size, MOST_WIDTH),
            ("d_model", self.d_model, MOST_WIDTH),
            ("max_context", self.max_context, MOST_CONTEXT),
        ];
        for (key, n, most) in bounds {
            if n == 0 {
                return Err(ConfigError::at(key, "is 0, at least 1 is needed"));
            }
            at_most(key, n, most)?;
        }
        if self.layers.is_empty() {
            return Err(ConfigError::at("layers", "is empty, at least one layer is needed"));
        }
        if !(self.norm_eps >= 0.0 && self.norm_eps.is_finite()) {
            return Err(ConfigError::at("norm_eps", format!("is {}, a number from 0 on is needed", self.norm_eps)));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let key = format!("layers.{i}.mixer");
            layer.mixer.check(&key)?;
            layer.channel.check(&format!("layers.{i}.channel"))?;
            self.quantization.as_ref().map_or(Ok(()), |q| q.check_layer(layer, &format!("layers.{i}")))?;
        }
        self.quantization.as_ref().map_or(Ok(()), |q| q.check("quantization"))?;
        sources::check(&self.layers)
    }
}
