//! What recurrences over packed sequences share: how their backward operator is added, and what their states cost.

use super::fill::Fill;
use crate::GraphError;
use crate::graph::{Graph, Value};
use crate::op::{Backward, Cost, NodeSizes, Op};
use crate::shape::{Dim, Shape, Type};
use memwall_formats::Dtype;

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

/// Adds `op`, the backward operator of a recurrence that has gradients of its last states (output 1). It gets the inputs, `kept`, the
/// gradient of output 0, and that of the states if there is one. Its outputs are the gradients of all inputs but `offsets`.
pub(super) fn backward_with_states(
    g: &mut Graph,
    node: &Backward<'_>,
    offsets: usize,
    kept: &[Value],
    op: impl Op + 'static,
) -> Result<Vec<Option<Value>>, GraphError> {
    if node.grads.iter().all(Option::is_none) {
        return Ok(vec![None; node.inputs.len()]);
    }
    let mut inputs = [node.inputs, kept].concat();
    inputs.push(match node.grads[0] {
        Some(d) => d,
        None => g.push1(Fill::new(g.ty(node.outputs[0]).clone(), 0.0), &[])?,
    });
    inputs.extend(node.grads[1]);
    let mut grads: Vec<Option<Value>> = g.push(op, &inputs)?.into_iter().map(Some).collect();
    grads.insert(offsets, None);
    Ok(grads)
}

/// Tokens of the longest sequence.
pub(super) fn longest(cu_seqlens: &[i32]) -> usize {
    cu_seqlens.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
}

/// The states [B, `state`…] of sequences with offsets of that type; first states, if there are some, must be such.
pub(super) fn states(cu_seqlens: &Type, state: &[usize], dtype: Dtype, first: Option<&Type>) -> Result<Type, String> {
    let Some(sequences) = cu_seqlens.shape.dims().first().and_then(|d| d.minus(1)) else {
        return Err(format!("cu_seqlens is {}, [B + 1] is needed", cu_seqlens.shape));
    };
    let dims: Vec<Dim> = [sequences].into_iter().chain(state.iter().map(|&d| d.into())).collect();
    let want = Type::new(Shape::new(&dims), dtype);
    match first.filter(|ty| **ty != want) {
        Some(ty) => Err(format!("the first states are {ty}, {want} is needed")),
        None => Ok(want),
    }
}

/// Refuses kept states that are not [slots, H, K, V].
pub(super) fn check_states(ty: &Type, state: [usize; 3]) -> Result<(), String> {
    if ty.shape.dims().iter().skip(1).map(|d| d.known()).eq(state.map(Some)) {
        return Ok(());
    }
    Err(format!("states are {}, [slots, {state:?}] is needed", ty.shape))
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
