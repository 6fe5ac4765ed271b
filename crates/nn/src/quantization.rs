//! How the products of a model's blocks round what they multiply: training with quantization, and models made by it.
//!
//! Every linear layer of a block computes x̂ ŵᵀ, where x̂ are the activations and ŵ the weights as their quantizers hold them.
//! Gradients go straight through. The embedding, the head, norms and what a layer does besides linear layers (convolutions,
//! recurrences, experts' stacks) are as they are. BitNet b1.58 (arXiv 2402.17764) is `weights = "ternary"`,
//! `activations = "int8"`; "INT v.s. FP" (arXiv 2510.25602) rounds the operands of backward products too, see [`Operands`].

use std::cell::RefCell;

use memwall_formats::{Dtype, Quantizer};
use memwall_graph::ops::fake_quantize::{FakeQuantize, StraightThrough as Passes};
use memwall_graph::ops::int8_linear::Int8Linear;
use memwall_graph::ops::linear::Linear;
use memwall_graph::ops::low_bit_linear::{BackwardOperands, LowBitLinear};
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::linear::reads_int8;
use serde::{Deserialize, Serialize};

use crate::config::{ChannelConfig, ConfigError, LayerConfig, MixerConfig};
use crate::correction::CorrectionConfig;
use crate::layers::rms_norm;

/// How linear layers of blocks round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizationConfig {
    /// Weights are kept as they are and rounded in every pass; if absent they are used as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Quantizer>,
    /// What linear layers read, each token by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activations: Option<Quantizer>,
    /// Which values gradients pass.
    #[serde(skip_serializing_if = "is_default")]
    pub straight_through: StraightThrough,
    /// ε of an RMS norm of its own, `NAME.rms_norm.weight`, before each linear layer; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f64>,
    /// RMS norms of what the last product of attention (`attn_sub_norm`) and of an MLP (`ffn_sub_norm`) reads, as in BitNet.
    #[serde(skip_serializing_if = "is_default")]
    pub sub_norms: bool,
    /// A gated low-rank path beside each product; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction: Option<CorrectionConfig>,
    /// How operands of backward products are rounded; if absent, they are the forward pass's, and dy as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backward: Option<Operands>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which values gradients pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StraightThrough {
    /// All.
    #[default]
    All,
    /// Those that the format does not clip.
    Reached,
}

/// The operands of dx = dy · w, summed over outputs, and of dw = dyᵀ · x, summed over tokens: each is rounded along its sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operands {
    /// dy in dx = dy · w.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dx_dy: Option<Quantizer>,
    /// w in dx = dy · w.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dx_w: Option<Quantizer>,
    /// dy in dw = dyᵀ · x.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dw_dy: Option<Quantizer>,
    /// x in dw = dyᵀ · x.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dw_x: Option<Quantizer>,
}

impl Operands {
    /// The same quantizer for all four.
    pub fn all(quantizer: Quantizer) -> Operands {
        let q = Some(quantizer);
        Operands { dx_dy: q, dx_w: q, dw_dy: q, dw_x: q }
    }
}

impl QuantizationConfig {
    /// BitNet b1.58 while it is trained: ternary weights by their mean magnitude, activations of eight bits by token.
    ///
    /// # Panics
    /// Never: both names are those of quantizers.
    pub fn bitnet() -> QuantizationConfig {
        let named = |name: &str| Some(name.parse().expect("a quantizer"));
        QuantizationConfig { weights: named("ternary"), activations: named("int8"), ..Default::default() }
    }

    /// The same of a model whose stored weights are rounded already: `None` if nothing is left to do.
    pub fn of_rounded_weights(&self) -> Option<QuantizationConfig> {
        let QuantizationConfig { activations, norm_eps, sub_norms, .. } = *self;
        let correction = self.correction.clone().map(|c| CorrectionConfig { schedule: Default::default(), ..c });
        let left = QuantizationConfig { activations, norm_eps, sub_norms, correction, ..Default::default() };
        (left != QuantizationConfig::default()).then_some(left)
    }

    /// Checks what types cannot; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        if *self == QuantizationConfig::default() {
            return Err(ConfigError::at(key, "rounds nothing; weights or activations are needed"));
        }
        if let Some(eps) = self.norm_eps.filter(|eps| !(*eps >= 0.0 && eps.is_finite())) {
            return Err(ConfigError::at(format!("{key}.norm_eps"), format!("is {eps}, a number from 0 on is needed")));
        }
        if let Some(correction) = &self.correction {
            correction.check(&format!("{key}.correction"))?;
        }
        if self.backward.is_some() && self.straight_through == StraightThrough::Reached {
            let problem =
                "is reached, but backward is given: gradients of its products pass everywhere; leave one of them out";
            return Err(ConfigError::at(format!("{key}.straight_through"), problem));
        }
        match self.activations {
            Some(q) if !q.rows_are_independent() => {
                let problem =
                    format!("is {q}; a token must not depend on others: the scale is one of a row, e.g. int8:row");
                Err(ConfigError::at(format!("{key}.activations"), problem))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a layer with weights or norms that this says nothing of; `key` is where it stands.
    pub(crate) fn check_layer(&self, layer: &LayerConfig, key: &str) -> Result<(), ConfigError> {
        if matches!(layer.channel, ChannelConfig::Moe(_)) {
            let problem = "is a mixture of experts, whose weights are not rounded; leave quantization out";
            return Err(ConfigError::at(format!("{key}.channel"), problem));
        }
        if self.sub_norms && !matches!(layer.mixer, MixerConfig::Attention(_)) {
            let problem = "is no attention, which is what sub_norms are of; leave quantization.sub_norms out";
            return Err(ConfigError::at(format!("{key}.mixer"), problem));
        }
        Ok(())
    }

    fn fake_quantize(&self, quantizer: Quantizer) -> FakeQuantize {
        let straight = match self.straight_through {
            StraightThrough::All => Passes::All,
            StraightThrough::Reached => Passes::Reached,
        };
        FakeQuantize { straight, ..FakeQuantize::new(quantizer) }
    }
}

/// The rounding of one block's linear layers.
#[derive(Clone, Debug)]
pub(crate) struct Rounding {
    config: QuantizationConfig,
    /// ε of the model's norms.
    eps: f64,
    /// Activations that were rounded, and what became of them: several layers read the same.
    rounded: RefCell<Vec<(Value, Value)>>,
}

impl Rounding {
    pub(crate) fn new(config: QuantizationConfig, eps: f64) -> Rounding {
        Rounding { config, eps, rounded: RefCell::default() }
    }

    /// x Wᵀ of the layer `name`, rounded as the configuration says, and what stands beside it.
    pub(crate) fn product(&self, g: &mut Graph, name: &str, x: Value, w: Value) -> Result<Value, GraphError> {
        let x = match self.config.norm_eps {
            Some(eps) => rms_norm(g, &format!("{name}.rms_norm"), x, eps)?,
            None => x,
        };
        let y = self.rounded_product(g, x, w)?;
        match &self.config.correction {
            Some(correction) => correction.add(g, name, x, y),
            None => Ok(y),
        }
    }

    fn rounded_product(&self, g: &mut Graph, x: Value, w: Value) -> Result<Value, GraphError> {
        let x_hat = self.activations(g, x)?;
        let w_hat = match self.config.weights {
            Some(q) => g.push1(self.config.fake_quantize(q), &[w])?,
            None => w,
        };
        let linear = Linear { compute: g.compute() };
        if let Some(b) = self.config.backward {
            let backward = BackwardOperands { dx_dy: b.dx_dy, dx_w: b.dx_w, dw_dy: b.dw_dy, dw_x: b.dw_x };
            // Weights in blocks are not trained: only the forward product is left.
            if g.ty(w).dtype == g.elem() {
                return g.push1(LowBitLinear { compute: g.compute(), backward }, &[x_hat, w_hat, x, w]);
            }
        }
        let integers = self.config.activations.is_some_and(|q| q.is_int8_by_row());
        if integers && reads_int8(g.ty(w_hat).dtype) && g.elem() == Dtype::F32 {
            return g.push1(Int8Linear { linear }, &[x_hat, w_hat]);
        }
        g.push1(linear, &[x_hat, w_hat])
    }

    /// The norm `name` before the last product of a layer.
    pub(crate) fn sub_norm(&self, g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
        if self.config.sub_norms { rms_norm(g, name, x, self.eps) } else { Ok(x) }
    }

    /// x as its quantizer holds it, once.
    fn activations(&self, g: &mut Graph, x: Value) -> Result<Value, GraphError> {
        let Some(q) = self.config.activations else { return Ok(x) };
        if let Some((_, rounded)) = self.rounded.borrow().iter().find(|(of, _)| *of == x) {
            return Ok(*rounded);
        }
        let rounded = g.push1(self.config.fake_quantize(q), &[x])?;
        self.rounded.borrow_mut().push((x, rounded));
        Ok(rounded)
    }
}
