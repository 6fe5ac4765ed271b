//! Pruning: drops nodes whose outputs nobody reads.

use crate::graph::Graph;
use crate::op::Alias;

/// A graph without the nodes that neither an output nor a write of a state needs.
pub fn prune(g: &Graph) -> Graph {
    let mut live = vec![false; g.value_count()];
    for (_, v) in g.outputs() {
        live[v.index()] = true;
    }
    let mut keep = vec![false; g.nodes().len()];
    for (i, node) in g.nodes().iter().enumerate().rev() {
        let writes = (0..node.outputs.len()).any(|o| matches!(node.op.alias(o), Some(Alias::Write { .. })));
        keep[i] = writes || node.outputs.iter().any(|v| live[v.index()]);
        if keep[i] {
            for v in &node.inputs {
                live[v.index()] = true;
            }
        }
    }
    let mut keep = keep.into_iter();
    let nodes = g.nodes().iter().filter(|_| keep.next() == Some(true)).cloned().collect();
    g.with_nodes(nodes)
}
