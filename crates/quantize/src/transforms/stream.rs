//! What a block does to the residual stream: which norms read it, and which linear layers write to it.

use memwall_formats::Dtype;
use memwall_graph::{Graph, GraphError, Node, Source, Value};
use memwall_nn::{ModelConfig, Sequences, WeightTypes};

/// A part of the model as a graph over one token.
pub(super) struct Part {
    pub(super) graph: Graph,
    /// The residual stream as it comes.
    pub(super) input: Value,
}

/// A norm and the linear layers that read it.
pub(super) struct NormReaders {
    /// The norm's weight, and its bias if it has one; constants are not among them.
    pub(super) norm: Vec<String>,
    /// The weights [outputs, D] that read it.
    pub(super) readers: Vec<String>,
    /// Whether nothing else reads it, and its readers read nothing else.
    pub(super) alone: bool,
}

impl Part {
    /// Block `i`.
    pub(super) fn block(config: &ModelConfig, i: usize) -> Result<Part, GraphError> {
        let mut graph = Graph::new(Dtype::F32);
        let seqs = Sequences::whole(&mut graph, 1, 1)?;
        let input = graph.input("block_input", [1, config.d_model], Dtype::F32)?;
        let hidden = config.block(&mut graph, &WeightTypes::new(), &seqs, i, input)?;
        graph.output("hidden", hidden);
        Ok(Part { graph, input })
    }

    /// The norms whose output linear layers read.
    pub(super) fn norms(&self) -> Vec<NormReaders> {
        let g = &self.graph;
        let norms = g.nodes().iter().filter(|node| node.op.name() == "norm");
        let of = |norm: &Node| {
            let y = norm.outputs[0];
            let consumers = g.nodes().iter().filter(|node| node.inputs.contains(&y));
            let (linear, other): (Vec<&Node>, Vec<&Node>) =
                consumers.partition(|node| node.op.name() == "linear" && node.inputs[0] == y && node.inputs[1] != y);
            let reads = |weight: Value| g.nodes().iter().filter(|node| node.inputs.contains(&weight)).count();
            // B'MOJO's keys and values are read by one weight of tokens and of what a memory makes of them.
            let own = linear.iter().all(|node| reads(node.inputs[1]) == 1);
            let weights = norm.inputs[1..].iter().filter(|w| matches!(g.info(**w).source, Source::Weight));
            NormReaders {
                norm: weights.map(|w| g.info(*w).name.to_string()).collect(),
                readers: linear.iter().map(|node| g.info(node.inputs[1]).name.to_string()).collect(),
                alone: other.is_empty() && own,
            }
        };
        norms.map(of).filter(|n| !n.norm.is_empty() && !n.readers.is_empty()).collect()
    }

    /// The norms that read the stream, and the weights and biases that are added to it; or the name of what else is done to
    /// it.
    pub(super) fn stream(&self) -> Result<(Vec<String>, Vec<String>), String> {
        let g = &self.graph;
        let mut stream = vec![self.input];
        let (mut norms, mut writers) = (Vec::new(), Vec::new());
        for node in g.nodes() {
            let reads: Vec<usize> = (0..node.inputs.len()).filter(|&i| stream.contains(&node.inputs[i])).collect();
            match (node.op.name(), &reads[..]) {
                (_, []) => {}
                ("norm", [0]) if node.inputs.len() == 2 => norms.push(g.info(node.inputs[1]).name.to_string()),
                ("add", [at]) => {
                    self.writer(node.inputs[1 - at], &mut writers)?;
                    stream.push(node.outputs[0]);
                }
                (name, _) => return Err(format!("{} reads the residual stream in {}", name, node.scope)),
            }
        }
        Ok((norms, writers))
    }

    /// The linear layer, and its bias, that make `value`.
    fn writer(&self, value: Value, writers: &mut Vec<String>) -> Result<(), String> {
        let g = &self.graph;
        let root = g.root(value);
        let made = g.nodes().iter().find(|node| node.outputs.contains(&root));
        let Some(node) = made else { return Err("an input is added to the residual stream".into()) };
        let weight =
            |value: Value| matches!(g.info(value).source, Source::Weight).then(|| g.info(value).name.to_string());
        match node.op.name() {
            "linear" => {
                writers.extend(weight(node.inputs[1]));
                Ok(())
            }
            "add" if weight(node.inputs[1]).is_some() => {
                writers.extend(weight(node.inputs[1]));
                self.writer(node.inputs[0], writers)
            }
            name => Err(format!("{name} in {} is added to the residual stream", node.scope)),
        }
    }
}
