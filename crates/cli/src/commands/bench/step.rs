//! `memwall bench --step`: a training step of a small decoder, to be held beside other engines.
//!
//! The decoder: learned positions, pre-norm blocks (layer norm, causal attention, GELU MLP of 4 D, no biases), a
//! head tied to the embedding, cross-entropy on random tokens; AdamW without a limit on the gradient's norm.

use std::io::Write;
use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::ops::attention::Attention;
use memwall_graph::ops::cross_entropy::CrossEntropy;
use memwall_graph::ops::embedding::Embedding;
use memwall_graph::ops::linear::Linear;
use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{
    Executor, Graph, GraphError, Memory, PlanOptions, Segment, Value, differentiate, fuse, ops, prune, recompute,
    recompute_pointwise, weights,
};
use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;
use memwall_nn::AttentionConfig;
use memwall_store::ProcessMemory;
use memwall_train::{Optimizer, Update, initialize};
use serde_json::json;

use super::Milliseconds;

const WIDTH: usize = 256;
const HEADS: usize = 4;
const LAYERS: usize = 4;
const VOCABULARY: usize = 4096;
/// Steps before the first that is timed.
const WARM_UP: usize = 3;
const SEED: u64 = 1;
const RATE: f64 = 1e-3;
/// What PyTorch's AdamW does unless told otherwise.
const OPTIMIZER: Optimizer =
    Optimizer { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decay_all: true, clip: None };

/// The batch: `sequences` of `time` tokens.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each.
    pub time: usize,
}

impl Batch {
    fn tokens(self) -> usize {
        self.sequences * self.time
    }
}

fn layer_norm(g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
    let w = g.weight(&format!("{name}.weight"), [WIDTH], Dtype::F32)?;
    let b = g.weight(&format!("{name}.bias"), [WIDTH], Dtype::F32)?;
    g.push1(Norm::layer(WIDTH, 1e-5), &[x, w, b])
}

fn linear(g: &mut Graph, name: &str, x: Value, outputs: usize) -> Result<Value, GraphError> {
    let width = g.shape(x).width().expect("fixed widths");
    let w = g.weight(&format!("{name}.weight"), [outputs, width], Dtype::F32)?;
    g.push1(Linear { compute: g.compute() }, &[x, w])
}

fn block(g: &mut Graph, name: &str, x: Value, cu_seqlens: Value) -> Result<Value, GraphError> {
    let tokens = g.shape(x).dims()[0];
    let h = layer_norm(g, &format!("{name}.attention_norm"), x)?;
    let mut heads = Vec::new();
    for part in ["q_proj", "k_proj", "v_proj"] {
        let y = linear(g, &format!("{name}.{part}"), h, WIDTH)?;
        heads.push(ops::reshape(g, y, [tokens, HEADS.into(), (WIDTH / HEADS).into()])?);
    }
    heads.push(cu_seqlens);
    let kernel = AttentionConfig::new(HEADS, HEADS, WIDTH / HEADS).kernel(g.compute());
    let o = g.push(Attention::new(kernel), &heads)?[0];
    let o = ops::reshape(g, o, [tokens, WIDTH.into()])?;
    let y = linear(g, &format!("{name}.o_proj"), o, WIDTH)?;
    let x = ops::add(g, x, y)?;
    let h = layer_norm(g, &format!("{name}.mlp_norm"), x)?;
    let h = linear(g, &format!("{name}.up_proj"), h, 4 * WIDTH)?;
    let h = ops::unary(g, Unary::GeluErf, h)?;
    let y = linear(g, &format!("{name}.down_proj"), h, WIDTH)?;
    ops::add(g, x, y)
}

/// The decoder up to its mean loss; inputs `ids`, `targets` and `cu_seqlens`.
fn decoder(g: &mut Graph, batch: Batch) -> Result<Value, GraphError> {
    let tokens = batch.tokens();
    let ids = g.input("ids", [tokens], Dtype::I32)?;
    let targets = g.input("targets", [tokens], Dtype::I32)?;
    let cu_seqlens = g.input("cu_seqlens", [batch.sequences + 1], Dtype::I32)?;
    let table = g.weight("embedding.weight", [VOCABULARY, WIDTH], Dtype::F32)?;
    let x = g.push1(Embedding { elem: Dtype::F32 }, &[ids, table])?;
    let positions = g.weight("positions.weight", [batch.time, WIDTH], Dtype::F32)?;
    let x = ops::reshape(g, x, [batch.sequences, batch.time, WIDTH])?;
    let x = ops::add(g, x, positions)?;
    let mut x = ops::reshape(g, x, [tokens, WIDTH])?;
    for i in 0..LAYERS {
        let name = format!("blocks.{i}");
        x = g.segment(|g| g.scope(&name, |g| block(g, &name, x, cu_seqlens)))?;
    }
    let x = layer_norm(g, "norm", x)?;
    let logits = g.push1(Linear { compute: g.compute() }, &[x, table])?;
    Ok(g.push(CrossEntropy, &[logits, targets])?[0])
}

/// Token `i` of the batch: a fixed pseudo-random sequence.
fn token(i: usize) -> i32 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as i32 % VOCABULARY as i32
}

/// Measures the step.
pub fn run(
    batch: Batch,
    compute: Compute,
    threads: usize,
    repeats: usize,
    again: bool,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut g = Graph::new(Dtype::F32);
    g.set_compute(compute);
    let loss = decoder(&mut g, batch)?;
    let trained = weights(&g);
    let mut memory = Memory::new();
    initialize(&g, &mut memory, LAYERS, SEED)?;
    let parameters: usize = memory.iter().map(|(_, _, bytes)| bytes.len() / size_of::<f32>()).sum();

    // From here on memory is the step's: moments, gradients, activations.
    let before = ProcessMemory::read()?.rss;
    let grads = differentiate(&mut g, loss, &trained)?;
    g.output("loss", loss);
    let update = Update::new(&mut g, &trained, &grads);
    update.moments(&mut memory)?;
    let segments: Vec<Segment> = (0..if again { LAYERS as u32 } else { 0 }).map(Segment).collect();
    let g = fuse(&recompute_pointwise(&recompute(&prune(&g), &segments)));
    let [ids, targets, cu_seqlens] = ["ids", "targets", "cu_seqlens"].map(|name| g.find(name).expect("an input"));
    let pool = Arc::new(Pool::new(threads));
    let mut graph = Executor::new(g, PlanOptions::default(), &mut memory, pool.clone())?;
    let mut losses = Vec::new();
    let ms = Milliseconds::of(WARM_UP, repeats, || {
        // Each sequence has one token more than it reads: the last target.
        let read = |i: usize| i / batch.time * (batch.time + 1) + i % batch.time;
        graph.input::<i32>(ids).iter_mut().enumerate().for_each(|(i, to)| *to = token(read(i)));
        graph.input::<i32>(targets).iter_mut().enumerate().for_each(|(i, to)| *to = token(read(i) + 1));
        graph.input::<i32>(cu_seqlens).iter_mut().enumerate().for_each(|(i, to)| *to = (i * batch.time) as i32);
        graph.run(&mut memory)?;
        losses.push(graph.output::<f32>("loss")[0]);
        update.apply(&pool, &graph, false, &mut memory, &OPTIMIZER, RATE, 1.0, losses.len() as u64);
        Ok(())
    })?;
    let growth = ProcessMemory::read()?.hwm.saturating_sub(before);
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    let arena = graph.plan().arena_bytes;
    if json {
        let line = json!({
            "engine": concat!("memwall ", env!("CARGO_PKG_VERSION")),
            "what": "step",
            "dtype": super::name(compute),
            "threads": threads,
            "recompute": again,
            "batch": batch.sequences,
            "tokens": batch.time,
            "parameters": parameters,
            "step_ms": ms.median(),
            "step_min_ms": ms.min(),
            "step_max_ms": ms.max(),
            "tokens_per_second": batch.tokens() as f64 / ms.median() * 1e3,
            "arena_bytes": arena,
            "rss_growth_bytes": growth,
            "first_loss": first,
            "last_loss": last,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "training step, {parameters} parameters, {} x {} tokens, {}, {threads} threads{}\n\
             {:.1} ms (median; {:.1} to {:.1}), {:.0} tokens/s, loss {first:.3} to {last:.3}\n\
             memory grew by {:.1} MiB, {:.1} of them activations and gradients as planned",
            batch.sequences,
            batch.time,
            super::name(compute),
            if again { ", blocks recomputed" } else { "" },
            ms.median(),
            ms.min(),
            ms.max(),
            batch.tokens() as f64 / ms.median() * 1e3,
            growth as f64 / f64::from(1 << 20),
            arena as f64 / f64::from(1 << 20),
        )?;
    }
    Ok(())
}
