//! What mixers with a matrix state share: projections behind short convolutions, the memory itself over
//! whole sequences or kept states, and the gated, normalized way out.

use memwall_graph::ops::gla::{GateShape, Gla, GlaStep};
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::gla::{Form as KernelForm, Gla as Kernel};

use super::gla::GlaForm;
use super::short_conv::depthwise;
use crate::config::{ConfigError, heads_fit};
use crate::layers::{linear, rms_norm};
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// A layer being added to a graph: its name, its input x [N, D], its sequences.
pub(super) struct Layer<'a> {
    pub types: &'a WeightTypes,
    pub name: &'a str,
    pub x: Value,
    pub seqs: &'a Sequences,
}

/// A depthwise convolution behind a projection.
#[derive(Clone, Copy)]
pub(super) struct Convolution {
    pub taps: usize,
    pub silu: bool,
}

impl Convolution {
    /// So many taps, then SiLU.
    pub(super) fn silu(taps: usize) -> Convolution {
        Convolution { taps, silu: true }
    }
}

impl Layer<'_> {
    /// x W [N, heads · width], weights `name.part_proj.weight`, then the convolution `name.part_conv1d` if there is one.
    pub(super) fn flat(
        &self,
        g: &mut Graph,
        part: &str,
        outputs: usize,
        convolution: Option<Convolution>,
    ) -> Result<Value, GraphError> {
        let Layer { types, name, x, seqs } = self;
        let y = linear(g, types, &format!("{name}.{part}_proj"), *x, outputs, false)?;
        match convolution {
            Some(Convolution { taps, silu }) => {
                depthwise(g, &format!("{name}.{part}_conv1d"), y, taps, silu, false, seqs)
            }
            None => Ok(y),
        }
    }

    /// [`Layer::flat`] as heads [N, heads, width].
    pub(super) fn project(
        &self,
        g: &mut Graph,
        part: &str,
        [heads, width]: [usize; 2],
        convolution: Option<Convolution>,
    ) -> Result<Value, GraphError> {
        let y = self.flat(g, part, heads * width, convolution)?;
        self.heads(g, y, [heads, width])
    }

    /// x [N, heads · width] as [N, heads, width].
    pub(super) fn heads(&self, g: &mut Graph, x: Value, [heads, width]: [usize; 2]) -> Result<Value, GraphError> {
        let rows = g.shape(x).dims()[0];
        ops::reshape(g, x, [rows, heads.into(), width.into()])
    }

    /// o [N, H, V] of q, k, v and log-gates: over whole sequences in `form`, or on the kept states `name.state`.
    pub(super) fn recall(
        &self,
        g: &mut Graph,
        kernel: Kernel,
        form: Option<GlaForm>,
        [q, k, v]: [Value; 3],
        gate: Option<(Value, GateShape)>,
    ) -> Result<Value, GraphError> {
        let shape = gate.map_or(GateShape::None, |(_, shape)| shape);
        match &self.seqs.kept {
            Kept::Whole { cu_seqlens } => {
                let mut inputs = vec![q, k, v, *cu_seqlens];
                inputs.extend(gate.map(|(gate, _)| gate));
                Ok(g.push(Gla::new(kernel, shape, form.map(KernelForm::from), false), &inputs)?[0])
            }
            Kept::Slots { rows, slots, .. } => {
                let size = [rows.slots, kernel.heads, kernel.key_width, kernel.value_width];
                let state = g.state(&format!("{}.state", self.name), size, g.elem())?;
                let mut inputs = vec![state, q, k, v, *slots];
                inputs.extend(gate.map(|(gate, _)| gate));
                Ok(g.push(GlaStep::new(kernel, shape), &inputs)?[1])
            }
        }
    }

    /// (RMSNorm of each head of o [N, H, V] ⊙ silu(x W_g)) W_o, the norm under `name.norm`, the gate if `gated`.
    pub(super) fn way_out(
        &self,
        g: &mut Graph,
        norm: &str,
        o: Value,
        eps: f64,
        gated: bool,
    ) -> Result<Value, GraphError> {
        let o = rms_norm(g, &format!("{}.{norm}", self.name), o, eps)?;
        let mut o = self.joined(g, o)?;
        if gated {
            let width = g.shape(o).width().unwrap_or(0);
            let s = self.flat(g, "g", width, None)?;
            let s = ops::unary(g, Unary::Silu, s)?;
            o = ops::mul(g, o, s)?;
        }
        self.back(g, o)
    }

    /// o [N, H, V] as [N, H · V].
    pub(super) fn joined(&self, g: &mut Graph, o: Value) -> Result<Value, GraphError> {
        let [rows, heads, width] = *g.shape(o).dims() else { return Ok(o) };
        let all = heads.known().unwrap_or(0) * width.known().unwrap_or(0);
        ops::reshape(g, o, [rows, all.into()])
    }

    /// o W_o [N, D], weights `name.o_proj.weight`.
    pub(super) fn back(&self, g: &mut Graph, o: Value) -> Result<Value, GraphError> {
        let d_model = self.d_model(g)?;
        linear(g, self.types, &format!("{}.o_proj", self.name), o, d_model, false)
    }

    /// Width D of the model.
    pub(super) fn d_model(&self, g: &Graph) -> Result<usize, GraphError> {
        g.shape(self.x).width().ok_or_else(|| g.refused("mixer", "a model has a fixed width"))
    }
}

impl From<GlaForm> for KernelForm {
    fn from(form: GlaForm) -> KernelForm {
        match form {
            GlaForm::Parallel => KernelForm::Parallel,
            GlaForm::Chunked => KernelForm::Chunked,
            GlaForm::Recurrent => KernelForm::Recurrent,
        }
    }
}

/// Checks sizes that are at least 1, heads that fit a layer, and how heads share; `key` is where they stand.
///
/// # Errors
/// Names the key that is wrong.
pub(super) fn check_heads(
    key: &str,
    heads: usize,
    (sharing, shared): (&str, usize),
    widths: &[(&str, usize)],
) -> Result<(), ConfigError> {
    let sizes = [("heads", heads), (sharing, shared)];
    for (name, n) in sizes.iter().chain(widths) {
        if *n == 0 {
            return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
        }
    }
    let widest = widths.iter().map(|(_, width)| *width).max().unwrap_or(1);
    heads_fit(&format!("{key}.heads"), heads, widest)?;
    if heads.is_multiple_of(shared) {
        return Ok(());
    }
    Err(ConfigError::at(format!("{key}.heads"), format!("is {heads}, which is no multiple of {sharing} {shared}")))
}

/// Checks the taps of a short convolution, if there is one.
///
/// # Errors
/// Names the key that is wrong.
pub(super) fn check_taps(key: &str, taps: Option<usize>) -> Result<(), ConfigError> {
    if taps.is_none_or(|taps| (2..=8).contains(&taps)) {
        return Ok(());
    }
    Err(ConfigError::at(format!("{key}.short_conv"), "2 to 8 taps are supported"))
}

/// Bytes of a state of `heads` heads [K, V], and of `channels` channels before convolutions of `taps` taps.
pub(super) fn state_bytes([heads, key_width, value_width]: [usize; 3], convolved: usize, taps: Option<usize>) -> usize {
    (heads * key_width * value_width + taps.map_or(0, |taps| taps - 1) * convolved) * 4
}
