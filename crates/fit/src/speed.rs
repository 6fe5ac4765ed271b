//! How fast a plan will be on a machine: the roofline of every node of its step graph.
//!
//! A product takes the longer of its weights over the rate at which its format is read and its operations over the rate at
//! which they are done; any other node the longer of its bytes and its operations at f32's rate; and each node wakes the
//! threads once.

use memwall_graph::{Graph, NodeSizes, Source};

use crate::{EngineOptions, FitError, Header, Machine, step_graph};

/// Tokens before the one that is decoded: speed is told where the cache is short, so that it does not depend on the context.
const DECODED_AT: usize = 64;
/// Tokens of the prompt.
const PROMPT: usize = 512;

/// Tokens a second that are predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Decoding one sequence, after 64 tokens.
    pub decode: f64,
    /// Reading a prompt of 512 tokens.
    pub prefill: f64,
}

impl Speed {
    /// The speed of a model under `options` on a machine.
    ///
    /// # Errors
    /// If the options do not fit the model.
    pub fn predict(header: Header<'_>, options: &EngineOptions, machine: &Machine) -> Result<Speed, FitError> {
        let config = &header.checkpoint.config;
        let types = header.types(options.weights);
        let step = |context: usize, rows: usize| -> Result<f64, FitError> {
            let context = context.min(config.max_context).max(1);
            let rows = rows.min(context);
            let options = EngineOptions { context, step: rows, outputs: 1, threads: machine.threads, ..*options };
            let (graph, _) = step_graph(config, &types, &options)?;
            Ok(seconds(&graph, machine) / rows as f64)
        };
        Ok(Speed { decode: 1.0 / step(DECODED_AT, 1)?, prefill: 1.0 / step(PROMPT, options.step)? })
    }
}

/// Seconds of a step with as many rows as it may have.
fn seconds(graph: &Graph, machine: &Machine) -> f64 {
    let runs = graph.max_sizes();
    let mut total = 0.0;
    for node in graph.nodes() {
        if node.op.alias(0).is_some_and(|alias| matches!(alias, memwall_graph::Alias::View { .. })) {
            continue;
        }
        let sized = |values: &[memwall_graph::Value]| -> Vec<_> {
            values.iter().map(|&v| (graph.ty(v).clone(), graph.shape(v).sizes(&runs))).collect()
        };
        let (inputs, outputs) = (sized(&node.inputs), sized(&node.outputs));
        let cost = node.op.cost(&NodeSizes { inputs: &inputs, outputs: &outputs });
        let weight = node.inputs.iter().filter(|&&v| matches!(graph.info(v).source, Source::Weight)).find(|&&v| {
            // A matrix that is read whole; of an embedding only some rows are. Of a stack some matrices are.
            let rank = graph.shape(v).rank();
            rank > 2 || (rank > 1 && cost.bytes_read >= graph.ty(v).bytes(&runs) as f64)
        });
        let time = match weight {
            Some(&w) => {
                let rate = machine.rate(graph.ty(w).dtype);
                let bytes = if graph.shape(w).rank() > 2 { cost.bytes_read } else { graph.ty(w).bytes(&runs) as f64 };
                (bytes / rate.bytes).max(cost.operations / rate.operations)
            }
            None => {
                let bytes = (cost.bytes_read + cost.bytes_written) / machine.read();
                bytes.max(cost.operations / machine.rate(memwall_formats::Dtype::F32).operations)
            }
        };
        total += time + machine.wake;
    }
    total
}
