//! Some columns of a tensor: a projection that holds several tensors, taken apart.

use memwall_kernels::Real;

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// y[.., c] = x[.., from + c] for c below `width`.
#[derive(Clone, Copy, Debug)]
pub struct SliceLast {
    /// The first column.
    pub from: usize,
    /// How many columns.
    pub width: usize,
}

impl Op for SliceLast {
    fn name(&self) -> &'static str {
        "slice_last"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let all = inputs[0].shape.width().unwrap_or(0);
        let end = self.from.saturating_add(self.width);
        if end > all || self.width == 0 {
            return Err(format!(
                "columns {}..{end} of {}; at least one of those there is needed",
                self.from, inputs[0]
            ));
        }
        Ok(vec![Type { shape: inputs[0].shape.with_width(self.width), dtype: inputs[0].dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &SliceLast, io: &Io<'_>) {
            let rows = io.input::<T>(0).chunks_exact(io.in_sizes(0).width());
            for (x, y) in rows.zip(io.output::<T>(0).chunks_exact_mut(op.width)) {
                y.copy_from_slice(&x[op.from..op.from + op.width]);
            }
        }
        real!(io.out_dtype(0), T => go::<T>(self, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        let all = g.shape(node.inputs[0]).width().unwrap_or(0);
        Ok(vec![Some(g.push1(PadLast { from: self.from, all }, &[dy])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let bytes = (sizes.outputs[0].1.elements() * sizes.outputs[0].0.dtype.block_bytes()) as f64;
        Cost { operations: 0.0, bytes_read: bytes, bytes_written: bytes }
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// y[.., from + c] = x[.., c], zero elsewhere.
#[derive(Clone, Copy, Debug)]
struct PadLast {
    from: usize,
    all: usize,
}

impl Op for PadLast {
    fn name(&self) -> &'static str {
        "pad_last"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![Type { shape: inputs[0].shape.with_width(self.all), dtype: inputs[0].dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &PadLast, io: &Io<'_>) {
            let width = io.in_sizes(0).width();
            let rows = io.input::<T>(0).chunks_exact(width);
            for (x, y) in rows.zip(io.output::<T>(0).chunks_exact_mut(op.all)) {
                y.fill(T::ZERO);
                y[op.from..op.from + width].copy_from_slice(x);
            }
        }
        real!(io.out_dtype(0), T => go::<T>(self, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a slice are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(0.0)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
