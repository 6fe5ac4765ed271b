//! Mean cross-entropy of logits against target ids.

use memwall_kernels::Real;
use memwall_kernels::cross_entropy::{IGNORE, cross_entropy, cross_entropy_backward};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Inputs: logits [N, V], targets `[N]` (−100: does not count). Outputs: the mean `[1]`, and of each
/// row the negative log-likelihood `[N]` and the log-sum-exp `[N]`.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy;

fn check_targets(targets: &[i32], vocabulary: usize) -> Result<(), String> {
    match targets.iter().position(|&t| t != IGNORE && (t < 0 || t as usize >= vocabulary)) {
        Some(row) => Err(format!("target {} at row {row} is not in the vocabulary of {vocabulary}", targets[row])),
        None => Ok(()),
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let ([n, _], [rows]) = (inputs[0].shape.dims(), inputs[1].shape.dims()) else {
            return Err(format!(
                "logits {} and targets {}; [N, V] and [N] are needed",
                inputs[0].shape, inputs[1].shape
            ));
        };
        if n != rows {
            return Err(format!("logits {} and targets {} have other rows", inputs[0].shape, inputs[1].shape));
        }
        let dtype = inputs[0].dtype;
        Ok(vec![Type::new([1], dtype), Type::new([*n], dtype), Type::new([*n], dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let targets = io.input::<i32>(1);
        check_targets(targets, io.in_sizes(0).width())?;
        real!(io.out_dtype(0), T => {
            io.output::<T>(0)[0] = cross_entropy::<T>(io.pool(), io.input(0), targets, io.output(1), io.output(2));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads[1].is_some() || node.grads[2].is_some() {
            return Err(g.no_gradient("cross_entropy", "only the mean is differentiated"));
        }
        let Some(d) = node.grads[0] else { return Ok(vec![None, None]) };
        let inputs = [node.inputs[0], node.inputs[1], node.outputs[2], d];
        Ok(vec![Some(g.push1(CrossEntropyBackward, &inputs)?), None])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(12.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// Inputs: logits, targets, log-sum-exp, gradient of the mean. Output: gradient of the logits.
#[derive(Clone, Copy, Debug)]
struct CrossEntropyBackward;

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>) {
            let d = io.input::<T>(3)[0];
            cross_entropy_backward::<T>(io.pool(), io.input(1), io.input(2), d, io.output_from(0, 0));
        }
        real!(io.out_dtype(0), T => go::<T>(io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of cross-entropy are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(12.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn in_place(&self, _: usize) -> &[usize] {
        &[0]
    }
}
