//! Elementwise fusion: joins neighbouring pointwise operators into one program.
//!
//! What only the next pointwise operator reads never reaches memory. The arithmetic of each
//! element stays the same, so the result does, bit for bit.

use std::sync::Arc;

use crate::graph::{Graph, Node, Value};
use crate::op::Op;
use crate::ops::pointwise::{Instruction, MAX_REGISTERS, Pointwise};

/// A graph in which pointwise operators are fused into their only reader, where both work on the same shape.
pub fn fuse(g: &Graph) -> Graph {
    let mut nodes: Vec<Option<Node>> = g.nodes().iter().cloned().map(Some).collect();
    let mut readers = vec![0u32; g.value_count()];
    let mut producer = vec![usize::MAX; g.value_count()];
    for (i, node) in g.nodes().iter().enumerate() {
        for v in &node.inputs {
            readers[v.index()] += 1;
        }
        for v in &node.outputs {
            producer[v.index()] = i;
        }
    }
    for (_, v) in g.outputs() {
        readers[v.index()] += 1;
    }
    for i in 0..nodes.len() {
        // Joins producers into node i until none is left that can be.
        while let Some((input, from)) = nodes[i].as_ref().and_then(|n| joinable(g, n, &nodes, &readers, &producer)) {
            let made = nodes[from].take().expect("joinable nodes are there");
            let into = nodes[i].take().expect("the node being built");
            let joined = join(&made, &into, input);
            for v in joined.inputs.iter() {
                // Inputs that both read are read once now.
                let times = made.inputs.iter().chain(&into.inputs).filter(|x| *x == v).count() as u32;
                readers[v.index()] -= times.saturating_sub(1);
            }
            nodes[i] = Some(joined);
        }
    }
    g.with_nodes(nodes.into_iter().flatten().collect())
}

/// An input of `node` that a pointwise node makes for it alone, on the same shape, in the same phase.
fn joinable(
    g: &Graph,
    node: &Node,
    nodes: &[Option<Node>],
    readers: &[u32],
    producer: &[usize],
) -> Option<(Value, usize)> {
    let into = node.op.as_pointwise()?;
    node.inputs.iter().find_map(|&v| {
        let from = *producer.get(v.index())?;
        let made = nodes.get(from)?.as_ref()?;
        let program = made.op.as_pointwise()?;
        let inputs = made.inputs.iter().chain(&node.inputs).filter(|x| **x != v);
        let distinct = inputs.clone().enumerate().filter(|(i, x)| !inputs.clone().take(*i).any(|y| y == *x)).count();
        let registers = distinct + program.instructions.len() + into.instructions.len();
        let fits = registers <= MAX_REGISTERS;
        let same = g.shape(v) == g.shape(node.outputs[0]);
        let uses = node.inputs.iter().filter(|x| **x == v).count() as u32;
        let alone = readers[v.index()] == uses && made.outputs.len() == 1 && node.outputs.len() == 1;
        (fits && same && alone && made.phase == node.phase && made.segment == node.segment).then_some((v, from))
    })
}

fn join(made: &Node, into: &Node, through: Value) -> Node {
    let (first, second) = (made.op.as_pointwise().expect("joinable"), into.op.as_pointwise().expect("joinable"));
    let mut inputs: Vec<Value> = Vec::new();
    for &v in made.inputs.iter().chain(&into.inputs) {
        if v != through && !inputs.contains(&v) {
            inputs.push(v);
        }
    }
    let at = |v: Value| inputs.iter().position(|x| *x == v).expect("an input of the joined node");
    let n = inputs.len();
    let of_first = |r: usize| if r < first.inputs { at(made.inputs[r]) } else { n + r - first.inputs };
    let result = of_first(first.outputs[0]);
    let of_second = |r: usize| {
        if r >= second.inputs {
            n + first.instructions.len() + r - second.inputs
        } else if into.inputs[r] == through {
            result
        } else {
            at(into.inputs[r])
        }
    };
    let moved = |steps: &[Instruction], to: &dyn Fn(usize) -> usize| -> Vec<Instruction> {
        let step = |s: &Instruction| match *s {
            Instruction::Unary(f, a) => Instruction::Unary(f, to(a)),
            Instruction::Binary(f, a, b) => Instruction::Binary(f, to(a), to(b)),
        };
        steps.iter().map(step).collect()
    };
    let mut instructions = moved(&first.instructions, &of_first);
    instructions.extend(moved(&second.instructions, &of_second));
    let outputs = second.outputs.iter().map(|&r| of_second(r)).collect();
    let op: Arc<dyn Op> = Arc::new(Pointwise { inputs: n, instructions, outputs });
    Node { op, inputs, ..into.clone() }
}
