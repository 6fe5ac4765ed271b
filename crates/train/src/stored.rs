//! How the weights of a trained model are stored: those that were rounded in training as they were rounded.
//!
//! The product of a layer saw ŵ, not w: ŵ is the model. A file format that holds ŵ to the bit is taken where there is one
//! (a quantizer's own type; TQ2_0 for ternary weights whose scale is of half precision), and F32, which holds all of them,
//! where there is none. A format that was asked for is refused if it would change ŵ.

use std::borrow::Cow;
use std::collections::BTreeSet;

use memwall_formats::{Dtype, Quantizer, format};
use memwall_graph::{Graph, Phase, Source};
use memwall_nn::ModelConfig;

use crate::export::ExportError;

/// What a block format may change of what was rounded, over the largest magnitude: the rounding of a scale to half precision.
const SCALE: f32 = 1.0 / 1024.0;
/// What plain numbers may: their own rounding, bf16's.
const PLAIN: f32 = 1.0 / 256.0;

/// The configuration and the formats of a model in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The model as it is without rounding weights again.
    pub(crate) config: ModelConfig,
    matrices: Option<Dtype>,
    quantizer: Option<Quantizer>,
    /// The weights that it rounds.
    rounded: BTreeSet<String>,
}

impl Stored {
    /// A model whose weights are rounded by nobody, its matrices in one format.
    pub fn plain(config: &ModelConfig, matrices: Dtype) -> Stored {
        Stored { config: config.clone(), matrices: Some(matrices), quantizer: None, rounded: BTreeSet::new() }
    }

    /// A model as `graph` trains it; `matrices` is the format that was asked for.
    pub fn of(config: &ModelConfig, graph: &Graph, matrices: Option<Dtype>) -> Stored {
        let quantizer = config.quantization.as_ref().and_then(|q| q.weights);
        let mut rounded = BTreeSet::new();
        let nodes = graph.nodes().iter().filter(|n| n.phase == Phase::Forward && n.op.name() == "fake_quantize");
        for node in nodes.filter(|_| quantizer.is_some()) {
            let info = graph.info(node.inputs[0]);
            if matches!(info.source, Source::Weight) {
                rounded.insert(info.name.to_string());
            }
        }
        let quantization = config.quantization.as_ref().and_then(|q| q.of_rounded_weights());
        Stored { config: ModelConfig { quantization, ..config.clone() }, matrices, quantizer, rounded }
    }

    /// The quantizer of a weight, if it is rounded.
    fn quantizer(&self, name: &str) -> Option<Quantizer> {
        self.quantizer.filter(|_| self.rounded.contains(name))
    }

    /// The format of a weight.
    pub(crate) fn dtype(&self, name: &str, shape: &[usize]) -> Dtype {
        let [.., _, width] = *shape else { return Dtype::F32 };
        let dtype = match (self.quantizer(name), self.matrices) {
            (Some(q), None) => q.file_type().unwrap_or(Dtype::F32),
            // Where weights are rounded, a block format is theirs alone: embedding, head and corrections are no such weights.
            (None, Some(asked)) if self.quantizer.is_some() && asked.is_block() => Dtype::F32,
            (_, asked) => asked.unwrap_or(Dtype::F32),
        };
        if width.is_multiple_of(dtype.block_len()) { dtype } else { Dtype::F32 }
    }

    /// The values of a weight as layers multiplied with them. A type of files rounds when it is written.
    pub(crate) fn rounded<'a>(
        &self,
        name: &str,
        dtype: Dtype,
        width: usize,
        values: &'a [f32],
    ) -> Result<Cow<'a, [f32]>, ExportError> {
        let quantizer = self.quantizer(name).filter(|q| q.dtype() != Some(dtype));
        let Some(q) = quantizer else { return Ok(Cow::Borrowed(values)) };
        let mut rounded = vec![0.0; values.len()];
        let mut scratch = vec![0; q.scratch_bytes(width)];
        q.of_tensor(width, values)
            .and_then(|of| q.round(of, width, values, &mut rounded, &mut scratch))
            .map_err(|error| ExportError::Format { tensor: name.into(), error })?;
        Ok(Cow::Owned(rounded))
    }

    /// Refuses a format that changes what was rounded.
    pub(crate) fn check(
        &self,
        name: &str,
        dtype: Dtype,
        width: usize,
        rounded: &[f32],
        encoded: &[u8],
    ) -> Result<(), ExportError> {
        let quantizer = self.quantizer(name).filter(|q| q.dtype() != Some(dtype));
        let Some(quantizer) = quantizer else { return Ok(()) };
        let mut decoded = vec![0.0; rounded.len()];
        format(dtype)
            .decode(width, encoded, &mut decoded)
            .map_err(|error| ExportError::Format { tensor: name.into(), error })?;
        let amax = rounded.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let change = rounded.iter().zip(&decoded).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs())) / amax;
        if change <= if dtype.is_block() { SCALE } else { PLAIN } {
            return Ok(());
        }
        let fits = quantizer.file_type().filter(|fits| *fits != dtype).unwrap_or(Dtype::F32);
        Err(ExportError::Changes { tensor: name.into(), quantizer, dtype, change, fits })
    }
}
