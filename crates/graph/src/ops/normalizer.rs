//! The normalizer of a linear memory: values get a column of ones, what is read is divided by that column.

use memwall_kernels::Real;
use memwall_kernels::normalizer::{normalize, normalize_backward};

use super::slice_last::SliceLast;
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// y = [x, 1]: x [.., W], y [.., W + 1]; a memory of y also keeps the sum of its keys.
#[derive(Clone, Copy, Debug)]
pub struct AppendOne;

impl Op for AppendOne {
    fn name(&self) -> &'static str {
        "append_one"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        match inputs[0].shape.width() {
            Some(width) if width > 0 => {
                Ok(vec![Type { shape: inputs[0].shape.with_width(width + 1), dtype: inputs[0].dtype }])
            }
            _ => Err(format!("x is {}; rows of at least 1 are needed", inputs[0])),
        }
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>) {
            let width = io.in_sizes(0).width();
            let rows = io.input::<T>(0).chunks_exact(width);
            for (x, y) in rows.zip(io.output::<T>(0).chunks_exact_mut(width + 1)) {
                y[..width].copy_from_slice(x);
                y[width] = T::ONE;
            }
        }
        real!(io.out_dtype(0), T => go::<T>(io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        let width = g.shape(node.inputs[0]).width().unwrap_or(0);
        Ok(vec![Some(g.push1(SliceLast { from: 0, width }, &[dy])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(0.0)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// y[.., c] = x[.., c] / d with d = x[.., W] + ε, or max(|x[.., W]|, b) + ε with a bound b ≥ 0 for each
/// row. Inputs: x [.., W + 1], and b of as many elements as there are rows if there is one. Output: [.., W].
#[derive(Clone, Copy, Debug)]
pub struct Normalize {
    /// ε.
    pub eps: f64,
}

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let x = inputs[0];
        let Some(width) = x.shape.width().filter(|&width| width > 1) else {
            return Err(format!("x is {x}; rows of at least 2 are needed"));
        };
        let y = Type { shape: x.shape.with_width(width - 1), dtype: x.dtype };
        match inputs.get(1).filter(|b| b.dtype != x.dtype || b.shape.elements() != x.shape.with_width(1).elements()) {
            Some(b) => Err(format!("the bounds are {b}; {} with one for each row is needed", x.dtype)),
            None => Ok(vec![y]),
        }
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let width = io.out_sizes(0).width();
        real!(io.out_dtype(0), T => {
            let bound = (io.inputs() > 1).then(|| io.input::<T>(1));
            normalize::<T>(io.pool(), width, self.eps, io.input(0), bound, io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let mut inputs = node.inputs.to_vec();
        inputs.push(dy);
        let made = g.push(NormalizeBackward { eps: self.eps }, &inputs)?;
        Ok(made.into_iter().map(Some).collect())
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// Inputs: those of [`Normalize`] and the gradient of y. Outputs: gradients of x, and of the bounds if there are some.
#[derive(Clone, Copy, Debug)]
struct NormalizeBackward {
    eps: f64,
}

impl Op for NormalizeBackward {
    fn name(&self) -> &'static str {
        "normalize_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(inputs[..inputs.len() - 1].iter().map(|t| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let bounded = io.inputs() > 2;
            let bound = bounded.then(|| io.input::<T>(1));
            let dy = io.input::<T>(io.inputs() - 1);
            let d_bound: &mut [T] = if bounded { io.output(1) } else { &mut [] };
            let width = io.in_sizes(0).width() - 1;
            normalize_backward(io.pool(), width, self.eps, io.input(0), bound, dy, io.output(0), d_bound);
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a normalizer are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(4.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
