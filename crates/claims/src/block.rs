//! One block of a model, timed: a mixer behind a norm, and a channel layer if there is one.

use std::sync::Arc;
use std::time::Instant;

use memwall_formats::Dtype;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::{self, linear::Linear, norm::Norm};
use memwall_graph::{Executor, Graph, GraphError, Memory, PlanOptions, Value, pull_back, weights};
use memwall_kernels::Pool;
use memwall_nn::Sequences;
use memwall_tasks::Philox;
use memwall_train::initialize;

/// What a block is made of, and what of it is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub tokens: usize,
    pub width: usize,
    /// Width of the hidden layer of an MLP behind the mixer; 0: none.
    pub hidden: usize,
    /// The gradients of everything too.
    pub backward: bool,
}

/// A block with random weights, planned.
pub(crate) struct Block {
    executor: Executor,
    memory: Memory,
    /// Inputs that are random.
    inputs: Vec<Value>,
    tokens: usize,
    random: Vec<f32>,
}

impl Block {
    /// x + mixer(norm(x)), and the MLP on top.
    ///
    /// # Errors
    /// If the graph refuses the mixer.
    pub(crate) fn new(
        frame: Frame,
        threads: usize,
        seed: u64,
        mixer: impl FnOnce(&mut Graph, Value, &Sequences) -> Result<Value, GraphError>,
    ) -> Result<Block, GraphError> {
        let Frame { tokens, width, hidden, backward } = frame;
        let mut g = Graph::new(Dtype::F32);
        let seqs = Sequences::whole(&mut g, tokens, 1)?;
        let x = g.input("x", [tokens, width], Dtype::F32)?;
        let h = norm(&mut g, "mixer_norm", x)?;
        let mixed = mixer(&mut g, h, &seqs)?;
        let mut y = ops::add(&mut g, x, mixed)?;
        if hidden > 0 {
            let h = norm(&mut g, "channel_norm", y)?;
            let h = linear(&mut g, "up", h, hidden)?;
            let h = ops::unary(&mut g, Unary::GeluErf, h)?;
            let h = linear(&mut g, "down", h, width)?;
            y = ops::add(&mut g, y, h)?;
        }
        let mut inputs = vec![x];
        if backward {
            let d_y = g.input("d_y", [tokens, width], Dtype::F32)?;
            let mut trained = weights(&g);
            trained.push(x);
            let gradients = pull_back(&mut g, &[(y, d_y)], &trained)?;
            for (i, gradient) in gradients.into_iter().flatten().enumerate() {
                g.output(&format!("d{i}"), gradient);
            }
            inputs.push(d_y);
        } else {
            g.output("y", y);
        }
        let mut memory = Memory::new();
        initialize(&g, &mut memory, 1, seed)?;
        let executor = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(threads)))?;
        let mut rng = Philox::new(seed, 3);
        let random = (0..tokens * width).map(|_| (2.0 * rng.unit() - 1.0) as f32).collect();
        Ok(Block { executor, memory, inputs, tokens, random })
    }

    /// Seconds of one run.
    ///
    /// # Errors
    /// If an operator fails.
    pub(crate) fn seconds(&mut self) -> Result<f64, GraphError> {
        let (e, n) = (&mut self.executor, self.tokens);
        for &value in &self.inputs {
            e.input::<f32>(value).copy_from_slice(&self.random);
        }
        let [cu_seqlens, positions, mask] = ["cu_seqlens", "positions", MASK].map(|name| e.graph().find(name));
        if let Some(cu) = cu_seqlens.filter(|&cu| e.reads(cu)) {
            e.input::<i32>(cu).copy_from_slice(&[0, n as i32]);
        }
        if let Some(positions) = positions.filter(|&positions| e.reads(positions)) {
            e.input::<i32>(positions).iter_mut().enumerate().for_each(|(i, to)| *to = i as i32);
        }
        if let Some(mask) = mask {
            for (i, row) in e.input::<f32>(mask).chunks_exact_mut(n).enumerate() {
                row[..=i].fill(0.0);
                row[i + 1..].fill(-1e30);
            }
        }
        let start = Instant::now();
        e.run(&mut self.memory)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// An input [tokens, tokens] of this name is 0 up to a token and −1e30 after it.
pub(crate) const MASK: &str = "mask";

fn norm(g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("norm", "a fixed width is needed"))?;
    let w = g.weight(&format!("{name}.weight"), [width], Dtype::F32)?;
    let b = g.weight(&format!("{name}.bias"), [width], Dtype::F32)?;
    g.push1(Norm::layer(width, 1e-5), &[x, w, b])
}

/// x Wᵀ, the weight under `name.weight`.
///
/// # Errors
/// If x has no fixed width, or the name is taken.
pub(crate) fn linear(g: &mut Graph, name: &str, x: Value, outputs: usize) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("linear", "a fixed width is needed"))?;
    let w = g.weight(&format!("{name}.weight"), [outputs, width], Dtype::F32)?;
    g.push1(Linear { compute: g.compute() }, &[x, w])
}
