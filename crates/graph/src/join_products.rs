//! Joins products that read the same x: queries, keys and values; the gate and the values of a channel layer.
//!
//! One call prepares x once and wakes the threads once for all of them. Each output is the sum that it
//! was, so the bits are the same.

use memwall_formats::Dtype;

use crate::graph::{Graph, Node, Source};
use crate::ops::linear::MAX_WEIGHTS;

/// A graph in which products of one x with stored weights are one node, where the first of them stood.
///
/// f32 and f64 weights stay apart: with many rows they go through the packed product, one at a time.
pub fn join_products(g: &Graph) -> Graph {
    let mut nodes: Vec<Node> = Vec::with_capacity(g.nodes().len());
    for node in g.nodes() {
        let first = if joins(g, node) { nodes.iter_mut().rev().find(|n| same_x(g, n, node)) } else { None };
        match first {
            Some(first) => {
                first.inputs.extend(&node.inputs[1..]);
                first.outputs.extend(&node.outputs);
            }
            None => nodes.push(node.clone()),
        }
    }
    g.with_nodes(nodes)
}

/// Whether the node is a product with weights that are there before any node runs, in a format that is read as stored.
fn joins(g: &Graph, node: &Node) -> bool {
    let stored = |w| {
        let info = g.info(w);
        !matches!(info.source, Source::Node { .. }) && !matches!(info.ty.dtype, Dtype::F32 | Dtype::F64)
    };
    node.op.as_linear().is_some() && node.inputs[1..].iter().all(|&w| stored(w))
}

/// Whether `node` can join `first`.
fn same_x(g: &Graph, first: &Node, node: &Node) -> bool {
    joins(g, first)
        && first.inputs[0] == node.inputs[0]
        && (first.phase, first.segment) == (node.phase, node.segment)
        && first.inputs.len() + node.inputs.len() - 2 <= MAX_WEIGHTS
}
