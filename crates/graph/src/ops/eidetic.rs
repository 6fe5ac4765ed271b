//! The eidetic buffer: which tokens are in it, and attention to it by rows that continue sequences.

use memwall_formats::Dtype;
use memwall_kernels::bmojo::{
    Bmojo as Kernel, EideticStep as Step, Selection, eidetic_step, eidetic_step_scratch, select, select_scratch,
};

use super::{check_offsets, check_rows};
use crate::io::Io;
use crate::op::{Alias, Cost, Gradient, NodeSizes, Op, Rows};
use crate::real;
use crate::shape::Type;

/// Inputs: innovations `[N]`, cu_seqlens [B + 1]. Output: for each token the chunk from which on it is not in the buffer,
/// `[N]` I32.
#[derive(Clone, Copy, Debug)]
pub struct EideticSelection {
    /// Window, slots, threshold.
    pub selection: Selection,
}

impl Op for EideticSelection {
    fn name(&self) -> &'static str {
        "eidetic_selection"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        match inputs {
            [scores, _] if scores.shape.rank() == 1 && self.selection.window > 0 => {
                Ok(vec![Type { shape: scores.shape.clone(), dtype: Dtype::I32 }])
            }
            [scores, _] => Err(format!("scores are {scores}; [N] and a window of at least 1 are needed")),
            _ => Err(format!("{} inputs, 2 needed", inputs.len())),
        }
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        check_offsets(io.input(1), io.in_sizes(0).axis(0))?;
        real!(io.in_dtype(0), T => {
            let (scores, cu) = (io.input::<T>(0), io.input(1));
            select::<T>(io.pool(), &self.selection, scores, cu, io.output(0), io.scratch()).map_err(|e| e.to_string())
        })
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("a choice of tokens is constant almost everywhere")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming((sizes.inputs[0].1.elements() * self.selection.slots) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        real!(sizes.inputs[0].0.dtype, T => select_scratch::<T>(&self.selection, threads))
    }
}

/// Inputs: rings [slots, R, G (K + V) + 1] and buffers [slots, E, G (K + V) + 2], q [N, H, K], k [N, G, K], v [N, G, V],
/// innovations `[N]`, rows [N, 2] (slot and position; rows of a slot follow each other). Outputs: rings and buffers, moved
/// on, o [N, H, V] and log-sum-exps [H, N]. R is at least 2 W − 1 more than the rows that a slot may have in a step.
#[derive(Clone, Copy, Debug)]
pub struct EideticStep {
    /// Heads, widths, window, slots.
    pub kernel: Kernel,
    /// Tokens of lower scores are not taken in.
    pub threshold: Option<f64>,
}

impl Op for EideticStep {
    fn name(&self) -> &'static str {
        "eidetic_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [rings, buffers, q, k, v, scores, rows] = inputs else {
            return Err(format!("{} inputs, 7 needed", inputs.len()));
        };
        let a = &self.kernel;
        let n = q.shape.dims().first().copied().ok_or("q is a scalar")?;
        check_rows("q", q, n, &[a.heads, a.key_width])?;
        check_rows("k", k, n, &[a.kv_heads, a.key_width])?;
        check_rows("v", v, n, &[a.kv_heads, a.value_width])?;
        check_rows("the innovations", scores, n, &[])?;
        check_rows("rows", rows, n, &[2])?;
        let ring = rings.shape.dims().get(1).and_then(|d| d.known()).filter(|&ring| ring > 0);
        let fits = |ty: &Type, elements: usize| {
            ty.shape.rank() == 3
                && ty.shape.dims()[1].known().zip(ty.shape.width()).map(|(n, width)| n * width) == Some(elements)
        };
        if ring.is_none_or(|ring| !fits(rings, a.ring_elements(ring))) {
            return Err(format!("rings are {rings}, [slots, R, {}] is needed", a.ring_elements(1)));
        }
        if !fits(buffers, a.buffer_elements()) || buffers.shape.dims()[0] != rings.shape.dims()[0] {
            return Err(format!("buffers are {buffers}; as many slots of {} are needed", a.buffer_elements()));
        }
        let o = Type::new([n, a.heads.into(), a.value_width.into()], q.dtype);
        Ok(vec![(*rings).clone(), (*buffers).clone(), o, Type::new([a.heads.into(), n], q.dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(2), T => {
            let (q, k, v, scores, rows) = (io.input::<T>(2), io.input(3), io.input(4), io.input(5), io.input(6));
            let x = Step { q, k, v, scores, rows, ring: io.out_sizes(0).axis(1) };
            let (rings, buffers, o, lse) = (io.output(0), io.output(1), io.output(2), io.output(3));
            eidetic_step::<T>(io.pool(), &self.kernel, self.threshold, &x, rings, buffers, o, lse, io.scratch())
                .map_err(|e| e.to_string())
        })
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `bmojo`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let (a, n) = (&self.kernel, sizes.inputs[2].1.axis(0));
        let seen = (n * a.slots) as f64;
        let operations = 2.0 * seen * (a.heads * (a.key_width + a.value_width)) as f64;
        let read = 4.0 * (n * a.buffer_elements()) as f64;
        Cost { operations, bytes_read: read, bytes_written: 4.0 * a.ring_elements(n) as f64 }
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output < 2).then_some(Alias::Write { input: output })
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (slots, rows) = (sizes.inputs[0].1.axis(0), sizes.inputs[2].1.axis(0));
        real!(sizes.inputs[2].0.dtype, T => eidetic_step_scratch::<T>(&self.kernel, rows, slots, threads))
    }
}
