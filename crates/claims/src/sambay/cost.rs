//! What a prefill and a token cost: counted on step graphs, and timed.

use std::sync::Arc;
use std::time::Instant;

use memwall_cache::KvFormat;
use memwall_fit::{EngineOptions, is_cache, step_graph};
use memwall_formats::Dtype;
use memwall_graph::{
    Dim, Executor, Graph, GraphError, Memory, NodeSizes, PlanOptions, Source, Value, fuse, join_products, prune,
};
use memwall_kernels::Pool;
use memwall_nn::{ModelConfig, Sequences, WeightTypes};
use memwall_train::initialize;

use super::models::{SAMBAY, Sizes, TRANSFORMER, YOCO};
use crate::{Error, Run};

/// Tokens of the prompt that is timed, and rows of a step of it.
const PROMPT: usize = 8192;
const STEP: usize = 512;
/// Tokens before the one that is timed.
const CONTEXT: usize = 16_384;

fn sizes(run: &Run) -> Sizes {
    let width = run.pick(32, 256, 256);
    Sizes { vocabulary: 256, width, layers: 8, heads: 4, context: CONTEXT, window: 128, differential: false }
}

fn options(run: &Run, context: usize, step: usize) -> EngineOptions {
    let kv = KvFormat::both(Dtype::F32);
    EngineOptions { threads: run.threads(), context, step, outputs: 1, kv, ..EngineOptions::default() }
}

/// The step graph without the skip: every row goes through every layer.
fn unskipped(config: &ModelConfig, o: &EngineOptions) -> Result<Graph, Error> {
    let build = || -> Result<Graph, GraphError> {
        let (mut g, types) = (Graph::new(Dtype::F32), WeightTypes::new());
        let (rows, outputs) = (g.run_dim("rows", o.step)?, g.run_dim("outputs", o.outputs)?);
        let seqs = Sequences::slots(&mut g, rows, o.step, o.slots, o.context, o.kv, o.rollback)?;
        let chosen = g.input("chosen", [Dim::from(outputs)], Dtype::I32)?;
        let hidden = config.hidden(&mut g, &types, &seqs)?;
        let logits = config.logits(&mut g, &types, hidden, Some(chosen))?;
        g.output("logits", logits);
        Ok(join_products(&fuse(&prune(&g))))
    };
    build().map_err(Error::experiment)
}

fn skipping(config: &ModelConfig, o: &EngineOptions) -> Result<Graph, Error> {
    Ok(step_graph(config, &WeightTypes::new(), o).map_err(Error::experiment)?.0)
}

/// A step graph with weights of a seed and empty caches.
struct Steps {
    executor: Executor,
    memory: Memory,
    rows: usize,
}

impl Steps {
    fn new(run: &Run, graph: Graph, layers: usize, rows: usize, seed: u64) -> Result<Steps, Error> {
        let mut memory = Memory::within(run.budget());
        initialize(&graph, &mut memory, layers, seed).map_err(Error::experiment)?;
        let pool = Arc::new(Pool::new(run.threads()));
        let executor = Executor::new(graph, PlanOptions::default(), &mut memory, pool).map_err(Error::experiment)?;
        Ok(Steps { executor, memory, rows })
    }

    fn put(&mut self, name: &str, values: impl Iterator<Item = i32>) {
        let input: Option<Value> = self.executor.graph().find(name);
        if let Some(input) = input.filter(|&input| self.executor.reads(input)) {
            self.executor.input::<i32>(input).iter_mut().zip(values).for_each(|(to, value)| *to = value);
        }
    }

    /// Seconds of a step whose first row stands at position `from`.
    fn seconds(&mut self, from: usize) -> Result<f64, Error> {
        let rows = self.rows;
        self.put("ids", (0..rows).map(|i| (i % 251) as i32));
        self.put("positions", (from..from + rows).map(|p| p as i32));
        self.put("slots", (0..rows).map(|_| 0));
        self.put("rows", (0..rows).flat_map(|i| [0, (from + i) as i32]));
        self.put("chosen", std::iter::once(rows as i32 - 1));
        let start = Instant::now();
        self.executor.run(&mut self.memory).map_err(Error::experiment)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Seconds of a prefill without and with the skip, the fastest of some, in turns.
pub(super) fn prefill_seconds(run: &Run, seed: u64) -> Result<[f64; 2], Error> {
    let (prompt, step) = (run.pick(64, PROMPT, PROMPT), run.pick(32, STEP, STEP));
    let (config, o) = (sizes(run).model(SAMBAY)?, options(run, prompt, step));
    let layers = config.layers.len();
    let graphs = [unskipped(&config, &o)?, skipping(&config, &o)?];
    let mut best = [f64::INFINITY; 2];
    let [a, b] = graphs.map(|graph| Steps::new(run, graph, layers, step, seed));
    let mut both = [a?, b?];
    for _ in 0..run.pick(1, 2, 5) {
        for (steps, best) in both.iter_mut().zip(&mut best) {
            let mut all = 0.0;
            for from in (0..prompt).step_by(step) {
                all += steps.seconds(from)?;
            }
            *best = best.min(all);
        }
    }
    Ok(best)
}

/// Seconds of a token at the end of the context: attention in every layer, Samba and YOCO, SambaY; the fastest, in turns.
pub(super) fn token_seconds(run: &Run, seed: u64) -> Result<[f64; 3], Error> {
    let context = run.pick(256, CONTEXT, CONTEXT);
    let o = options(run, context, 1);
    let steps = |arm: &str| {
        let config = sizes(run).model(arm)?;
        Steps::new(run, skipping(&config, &o)?, config.layers.len(), 1, seed)
    };
    let mut all = [steps(TRANSFORMER)?, steps(YOCO)?, steps(SAMBAY)?];
    let mut best = [f64::INFINITY; 3];
    for _ in 0..run.pick(2, 30, 60) {
        for (steps, best) in all.iter_mut().zip(&mut best) {
            *best = best.min(steps.seconds(context - 1)?);
        }
    }
    Ok(best)
}

/// What is counted.
pub(super) struct Costs {
    /// Operations of a prefill, without and with the skip.
    pub(super) prefill_operations: [f64; 2],
    /// Bytes of caches of SambaY beyond those of one layer that sees all tokens and of the windows.
    pub(super) beyond_one_cache: f64,
    /// Bytes that a token reads, in words.
    pub(super) note: String,
}

pub(super) fn counted(run: &Run) -> Result<Costs, Error> {
    let sizes = sizes(run);
    let config = sizes.model(SAMBAY)?;
    let o = options(run, PROMPT, PROMPT);
    let prefill_operations = [unskipped(&config, &o)?, skipping(&config, &o)?].map(|g| work(&g)[0]);
    let one = options(run, CONTEXT, 1);
    let caches = |config: &ModelConfig| -> Result<f64, Error> { Ok(cache_bytes(&skipping(config, &one)?)) };
    let row = 2.0 * (sizes.width / 2) as f64 * 4.0;
    let windows = (sizes.layers / 4) as f64 * sizes.window as f64;
    let beyond_one_cache = caches(&config)? - row * (CONTEXT as f64 + windows);
    let mut read = Vec::new();
    for arm in [TRANSFORMER, YOCO, SAMBAY] {
        let model = sizes.model(arm)?;
        let megabytes = work(&skipping(&model, &one)?)[1] / 1e6;
        read.push(format!("{arm} {megabytes:.1} MB of {:.1} MB of caches", caches(&model)? / 1e6));
    }
    let note = format!("read for a token at {CONTEXT}, weights and states among it: {}", read.join(", "));
    Ok(Costs { prefill_operations, beyond_one_cache, note })
}

/// Operations of a step of as many rows as it may have, and bytes that it reads.
fn work(graph: &Graph) -> [f64; 2] {
    let runs = graph.max_sizes();
    let sized = |values: &[Value]| -> Vec<_> {
        values.iter().map(|&v| (graph.ty(v).clone(), graph.shape(v).sizes(&runs))).collect()
    };
    graph.nodes().iter().fold([0.0; 2], |[operations, read], node| {
        let (inputs, outputs) = (sized(&node.inputs), sized(&node.outputs));
        let cost = node.op.cost(&NodeSizes { inputs: &inputs, outputs: &outputs });
        [operations + cost.operations, read + cost.bytes_read]
    })
}

/// Bytes of keys and values.
fn cache_bytes(graph: &Graph) -> f64 {
    let states = graph.values().filter(|(_, info)| matches!(info.source, Source::State) && is_cache(&info.name));
    states.map(|(_, info)| info.ty.bytes(&graph.max_sizes()) as f64).sum()
}
