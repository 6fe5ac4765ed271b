//! What recurrences over packed sequences share: how their backward operator is added, and what their states cost.

use crate::GraphError;
use crate::graph::{Graph, Value};
use crate::op::{Backward, Cost, NodeSizes, Op};

/// Adds `op`, the backward operator of a recurrence without gradients of its last states (output 1), to which it gives the inputs
/// and the gradient of output 0. Its outputs are the gradients of all inputs but the last, the offsets.
pub(super) fn backward(
    g: &mut Graph,
    node: &Backward<'_>,
    name: &'static str,
    op: impl Op + 'static,
) -> Result<Vec<Option<Value>>, GraphError> {
    if node.grads[1].is_some() {
        return Err(g.no_gradient(name, "gradients of the last states are not built"));
    }
    let Some(d) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
    let mut inputs = node.inputs.to_vec();
    inputs.push(d);
    let mut grads: Vec<Option<Value>> = g.push(op, &inputs)?.into_iter().map(Some).collect();
    grads.push(None);
    Ok(grads)
}

/// Of the rows of input 0, each through states of so many elements with so many operations an element.
pub(super) fn sweep_cost(sizes: &NodeSizes<'_>, state: usize, operations: f64) -> Cost {
    sizes.streaming(operations * (sizes.inputs[0].1.axis(0) * state) as f64)
}

/// Of the rows of input 1, each of which moves a kept state of so many elements on.
pub(super) fn step_cost(sizes: &NodeSizes<'_>, state: usize, operations: f64) -> Cost {
    let elements = (sizes.inputs[1].1.axis(0) * state) as f64;
    let bytes = elements * sizes.inputs[1].0.dtype.block_bytes() as f64;
    Cost { operations: operations * elements, bytes_read: bytes, bytes_written: bytes }
}
