//! Feature maps of linear attention that make more features than there are channels.

use memwall_kernels::feature_map::{taylor, taylor_backward, taylor_width};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// The widest row: its features are still a width that can be computed.
const MOST: usize = 1 << 12;

/// φ(x) = [1, x / w^{1/4}, vec(x xᵀ) / (√2 √w)], so that φ(q) · φ(k) = 1 + s + s²/2, s = q · k / √w. Input:
/// x [.., w]; output: [.., 1 + w + w²].
#[derive(Clone, Copy, Debug)]
pub struct Taylor;

impl Op for Taylor {
    fn name(&self) -> &'static str {
        "taylor"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        match inputs[0].shape.width() {
            Some(width @ 1..=MOST) => {
                Ok(vec![Type { shape: inputs[0].shape.with_width(taylor_width(width)), dtype: inputs[0].dtype }])
            }
            _ => Err(format!("x is {}; rows of 1 to {MOST} are needed", inputs[0])),
        }
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => taylor::<T>(io.pool(), io.in_sizes(0).width(), io.input(0), io.output(0)));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.push1(TaylorBackward, &[node.inputs[0], dy])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.outputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// Inputs: x and the gradient of φ(x). Output: the gradient of x.
#[derive(Clone, Copy, Debug)]
struct TaylorBackward;

impl Op for TaylorBackward {
    fn name(&self) -> &'static str {
        "taylor_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let width = io.in_sizes(0).width();
        real!(io.out_dtype(0), T => taylor_backward::<T>(io.pool(), width, io.input(0), io.input(1), io.output(0)));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a feature map are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(4.0 * sizes.inputs[1].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
