//! Linear layers that read one x, and what makes x: a factor of an input may move from the producer to the readers.
//!
//! | producer | readers | exact because |
//! |---|---|---|
//! | a norm's weight (and bias) | the linear layers that alone read it | each input is the normalized value times its weight |
//! | rows of `up_proj` | `down_proj` | the other factor of the gated product does not change |
//! | rows of `v_proj` | `o_proj` | attention is linear in values, channel by channel; gates that multiply change nothing; not where a norm follows (differential) or other layers read the values |

use memwall_infer::Model;
use memwall_nn::{ChannelConfig, GateOperation, MixerConfig};

use super::stream::Part;
use crate::QuantizeError;

/// A producer and its readers.
pub(super) struct Link {
    /// Weights of which row (or element) i times 1 / factor makes up for the readers' columns.
    pub(super) producer: Vec<String>,
    /// The readers' weights [outputs, width].
    pub(super) readers: Vec<String>,
    /// For each of their inputs, the row of the producer that makes it.
    pub(super) row: Vec<usize>,
}

impl Link {
    /// Rows of the producer.
    pub(super) fn rows(&self) -> usize {
        self.row.iter().max().map_or(0, |most| most + 1)
    }

    /// A figure of each of the producer's rows from those of the inputs that it makes.
    pub(super) fn by_row(&self, inputs: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        let mut rows = vec![start; self.rows()];
        for (row, x) in self.row.iter().zip(inputs) {
            rows[*row] = join(rows[*row], *x);
        }
        rows
    }

    /// The same factor for every input that a row makes.
    pub(super) fn by_input(&self, rows: &[f32]) -> Vec<f32> {
        self.row.iter().map(|row| rows[*row]).collect()
    }
}

/// The links inside block `i`.
pub(super) fn links(model: &Model, i: usize) -> Result<Vec<Link>, QuantizeError> {
    let config = &model.checkpoint().config;
    let mut all = Vec::new();
    for norm in Part::block(config, i)?.norms().into_iter().filter(|norm| norm.alone) {
        all.push(Link { producer: norm.norm, readers: norm.readers, row: (0..config.d_model).collect() });
    }
    let (layer, name) = (&config.layers[i], format!("model.layers.{i}"));
    let with_bias = |weight: String, bias: bool| match bias {
        true => vec![format!("{weight}.weight"), format!("{weight}.bias")],
        false => vec![format!("{weight}.weight")],
    };
    if let MixerConfig::Attention(a) = &layer.mixer
        && a.gate.is_none_or(|gate| gate.operation == GateOperation::Multiply)
        && a.differential.is_none()
        && a.kv_source.is_none()
        && !config.is_read(i)
    {
        let group = a.heads / a.kv_heads;
        let row = |input: usize| input / a.head_dim / group * a.head_dim + input % a.head_dim;
        all.push(Link {
            producer: with_bias(format!("{name}.self_attn.v_proj"), a.qkv_bias),
            readers: vec![format!("{name}.self_attn.o_proj.weight")],
            row: (0..a.heads * a.head_dim).map(row).collect(),
        });
    }
    if let ChannelConfig::Glu { hidden, bias, .. } = layer.channel {
        all.push(Link {
            producer: with_bias(format!("{name}.mlp.up_proj"), bias),
            readers: vec![format!("{name}.mlp.down_proj.weight")],
            row: (0..hidden).collect(),
        });
    }
    // A layer whose inputs are not known to be made by one producer alone stays as it is.
    all.retain(|link| link.row.len() == widths(model, link));
    Ok(all)
}

/// Inputs of a link's readers.
fn widths(model: &Model, link: &Link) -> usize {
    let tensor = model.checkpoint().tensors.get(&link.readers[0]);
    tensor.and_then(|t| t.shape.last()).copied().unwrap_or(0)
}
