//! Softmax of rows.

use memwall_kernels::Real;
use memwall_kernels::softmax::{softmax_backward, softmax_in_place};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// y = e^(x − max) / Σ e^(x − max) over the last axis; a row of −∞ only becomes 0.
#[derive(Clone, Copy, Debug)]
pub struct Softmax;

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        match inputs[0].shape.width() {
            Some(width) if width > 0 && inputs[0].shape.rank() > 0 => Ok(vec![inputs[0].clone()]),
            _ => Err(format!("x is {}, a last axis of a fixed width is needed", inputs[0])),
        }
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>) {
            let (x, y) = (io.input::<T>(0), io.output::<T>(0));
            y.copy_from_slice(x);
            softmax_in_place(io.pool(), io.in_sizes(0).width(), y);
        }
        real!(io.out_dtype(0), T => go::<T>(io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.push1(SoftmaxBackward, &[node.outputs[0], dy])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(12.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// dx = y (dy − Σ dy y). Inputs: y and dy.
#[derive(Clone, Copy, Debug)]
struct SoftmaxBackward;

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let width = io.in_sizes(0).width();
        real!(io.out_dtype(0), T => {
            softmax_backward::<T>(io.pool(), width, io.input(0), io.input(1), io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of softmax are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(4.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
