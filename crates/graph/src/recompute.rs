//! Recomputation: what the backward pass needs is made again just before it, not kept.
//!
//! Of segments: values that cross from one to another are kept; everything inside a recomputed one
//! dies in the forward pass. Of pointwise operators: a result that follows from what is kept anyway
//! is not kept. Operators are deterministic, so the result is the same bit for bit.

use std::collections::HashMap;

use crate::graph::{Graph, Node, Phase, Segment, Source, Value};

/// A graph in which the backward pass recomputes the inside of the given segments.
pub fn recompute(g: &Graph, segments: &[Segment]) -> Graph {
    let chosen = |node: &Node| node.segment.is_some_and(|s| segments.contains(&s));
    // What another part of the forward pass (or the caller) reads stays.
    let mut kept = vec![false; g.value_count()];
    for node in g.nodes().iter().filter(|n| n.phase == Phase::Forward) {
        for &v in &node.inputs {
            if let Source::Node { node: producer, .. } = g.info(v).source
                && g.nodes()[producer].segment != node.segment
            {
                kept[v.index()] = true;
            }
        }
    }
    for (_, v) in g.outputs() {
        kept[v.index()] = true;
    }

    rebuild(g, &kept, &chosen)
}

/// A graph in which the backward pass recomputes pointwise results whose inputs it reads anyway.
///
/// It costs a pass over memory each, and saves the tensor: the hidden layer of an MLP behind its activation.
pub fn recompute_pointwise(g: &Graph) -> Graph {
    let mut kept = vec![false; g.value_count()];
    for (_, v) in g.outputs() {
        kept[v.index()] = true;
    }
    let mut read = vec![false; g.value_count()];
    for v in g.nodes().iter().filter(|n| n.phase == Phase::Backward).flat_map(|n| &n.inputs) {
        read[v.index()] = true;
    }
    // Whose inputs are there in the backward pass, or follow in the same segment from what is: no chain grows
    // from layer to layer.
    let mut again = vec![false; g.value_count()];
    for node in g.nodes().iter().filter(|n| n.phase == Phase::Forward && n.op.as_pointwise().is_some()) {
        let there = |v: &Value| match g.info(*v).source {
            Source::Node { node: producer, .. } if again[v.index()] => {
                node.segment.is_some() && g.nodes()[producer].segment == node.segment
            }
            Source::Node { .. } => read[v.index()],
            _ => true,
        };
        let all = node.inputs.iter().all(there);
        for v in &node.outputs {
            again[v.index()] = all && !kept[v.index()];
        }
    }
    let chosen = |node: &Node| node.outputs.iter().all(|v| again[v.index()]);
    rebuild(g, &kept, &chosen)
}

/// Makes what backward nodes read again: values of chosen forward nodes that are not kept.
fn rebuild(g: &Graph, kept: &[bool], chosen: &dyn Fn(&Node) -> bool) -> Graph {
    let mut out = g.clone();
    let mut nodes: Vec<Node> = Vec::new();
    let mut again: HashMap<Value, Value> = HashMap::new();
    for node in g.nodes() {
        let mut node = node.clone();
        if node.phase == Phase::Backward {
            for v in &mut node.inputs {
                *v = remake(g, &mut out, &mut nodes, &mut again, kept, chosen, *v);
            }
        }
        nodes.push(node);
    }
    out.with_nodes(nodes)
}

fn remake(
    g: &Graph,
    out: &mut Graph,
    nodes: &mut Vec<Node>,
    again: &mut HashMap<Value, Value>,
    kept: &[bool],
    chosen: &dyn Fn(&Node) -> bool,
    v: Value,
) -> Value {
    if let Some(&made) = again.get(&v) {
        return made;
    }
    let Source::Node { node: producer, output } = g.info(v).source else { return v };
    let node = &g.nodes()[producer];
    if kept[v.index()] || node.phase != Phase::Forward || !chosen(node) {
        return v;
    }
    let inputs = node.inputs.iter().map(|&i| remake(g, out, nodes, again, kept, chosen, i)).collect();
    let outputs: Vec<Value> = node.outputs.iter().map(|&o| out.copy_value(o)).collect();
    for (&old, &new) in node.outputs.iter().zip(&outputs) {
        again.insert(old, new);
    }
    nodes.push(Node { inputs, outputs: outputs.clone(), phase: Phase::Recompute, ..node.clone() });
    outputs[output]
}
