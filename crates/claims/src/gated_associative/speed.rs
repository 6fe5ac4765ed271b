//! Times of one block, forward and backward: ours, and blocks of materialized and of tiled attention.

use std::sync::Arc;
use std::time::Instant;

use memwall_formats::Dtype;
use memwall_graph::ops::matmul::MatMul;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::ops::softmax::Softmax;
use memwall_graph::ops::{self, linear::Linear, norm::Norm};
use memwall_graph::{Executor, Graph, GraphError, Memory, PlanOptions, Value, pull_back, weights};
use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;
use memwall_nn::{AttentionConfig, GatedAssociativeConfig, Mixer, Sequences, WeightTypes};
use memwall_tasks::Philox;
use memwall_train::initialize;

use crate::{Error, Run};

/// Tokens of a sequence.
pub(super) const LENGTHS: [usize; 5] = [256, 512, 1024, 2048, 4096];

const WIDTH: usize = 256;
const HEADS: usize = 4;
const HEAD: usize = WIDTH / HEADS;

/// Seconds of each length.
pub(super) struct Times {
    pub(super) ours: Vec<f64>,
    pub(super) materialized: Vec<f64>,
    pub(super) tiled: Vec<f64>,
}

/// What moves information between tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Materialized,
    Tiled,
}

/// The least seconds over `rounds`, each block and length once in every round after one that warms up.
pub(super) fn times(run: &Run, pool: &Pool, lengths: &[usize], rounds: usize, seed: u64) -> Result<Times, Error> {
    let mut times = Times { ours: Vec::new(), materialized: Vec::new(), tiled: Vec::new() };
    for &tokens in lengths {
        let kinds = [Kind::Ours, Kind::Materialized, Kind::Tiled];
        let mut blocks = Vec::with_capacity(kinds.len());
        for kind in kinds {
            blocks.push(Block::new(kind, tokens, pool.threads(), seed).map_err(Error::experiment)?);
        }
        let mut best = [f64::INFINITY; 3];
        for round in 0..=rounds {
            run.step("timing blocks", round as u64, rounds as u64 + 1)?;
            for (block, best) in blocks.iter_mut().zip(&mut best) {
                let seconds = block.seconds().map_err(Error::experiment)?;
                if round > 0 {
                    *best = best.min(seconds);
                }
            }
        }
        for (to, best) in [&mut times.ours, &mut times.materialized, &mut times.tiled].into_iter().zip(best) {
            to.push(best);
        }
    }
    Ok(times)
}

/// The slope of the logarithm of time over that of length, by least squares, of the lengths that `counts` takes.
pub(super) fn exponent(lengths: &[usize], seconds: &[f64], counts: impl Fn(&usize) -> bool) -> f64 {
    let points: Vec<(f64, f64)> =
        lengths.iter().zip(seconds).filter(|(n, _)| counts(n)).map(|(&n, &s)| ((n as f64).ln(), s.ln())).collect();
    crate::flashattention::slope(&points)
}

struct Block {
    executor: Executor,
    memory: Memory,
    x: Value,
    d_y: Value,
    tokens: usize,
    random: Vec<f32>,
}

impl Block {
    fn new(kind: Kind, tokens: usize, threads: usize, seed: u64) -> Result<Block, GraphError> {
        let mut g = Graph::new(Dtype::F32);
        let seqs = Sequences::whole(&mut g, tokens, 1)?;
        let x = g.input("x", [tokens, WIDTH], Dtype::F32)?;
        let h = norm(&mut g, "mixer_norm", x)?;
        let types = WeightTypes::new();
        let mixed = match kind {
            Kind::Ours => GatedAssociativeConfig::new(WIDTH, 3).forward(&mut g, &types, "mixer", h, &seqs)?,
            Kind::Tiled => AttentionConfig::new(HEADS, HEADS, HEAD).forward(&mut g, &types, "mixer", h, &seqs)?,
            Kind::Materialized => materialized(&mut g, h, tokens)?,
        };
        let y = ops::add(&mut g, x, mixed)?;
        let h = norm(&mut g, "channel_norm", y)?;
        let h = linear(&mut g, "up", h, 4 * WIDTH)?;
        let h = ops::unary(&mut g, Unary::GeluErf, h)?;
        let h = linear(&mut g, "down", h, WIDTH)?;
        let y = ops::add(&mut g, y, h)?;
        let d_y = g.input("d_y", [tokens, WIDTH], Dtype::F32)?;
        let mut trained = weights(&g);
        trained.push(x);
        let gradients = pull_back(&mut g, &[(y, d_y)], &trained)?;
        for (i, gradient) in gradients.into_iter().flatten().enumerate() {
            g.output(&format!("d{i}"), gradient);
        }
        let mut memory = Memory::new();
        initialize(&g, &mut memory, 1, seed)?;
        let executor = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(threads)))?;
        let mut rng = Philox::new(seed, 3);
        let random = (0..tokens * WIDTH).map(|_| (2.0 * rng.unit() - 1.0) as f32).collect();
        Ok(Block { executor, memory, x, d_y, tokens, random })
    }

    /// Of one run.
    fn seconds(&mut self) -> Result<f64, GraphError> {
        let e = &mut self.executor;
        for value in [self.x, self.d_y] {
            e.input::<f32>(value).copy_from_slice(&self.random);
        }
        if let Some(cu) = e.graph().find("cu_seqlens").filter(|&cu| e.reads(cu)) {
            e.input::<i32>(cu).copy_from_slice(&[0, self.tokens as i32]);
        }
        if let Some(mask) = e.graph().find("mask") {
            let n = self.tokens;
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

fn norm(g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
    let w = g.weight(&format!("{name}.weight"), [WIDTH], Dtype::F32)?;
    let b = g.weight(&format!("{name}.bias"), [WIDTH], Dtype::F32)?;
    g.push1(Norm::layer(WIDTH, 1e-5), &[x, w, b])
}

fn linear(g: &mut Graph, name: &str, x: Value, outputs: usize) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("linear", "a fixed width is needed"))?;
    let w = g.weight(&format!("{name}.weight"), [outputs, width], Dtype::F32)?;
    g.push1(Linear { compute: g.compute() }, &[x, w])
}

/// Causal attention that writes all scores and shares to memory, head by head.
fn materialized(g: &mut Graph, x: Value, tokens: usize) -> Result<Value, GraphError> {
    let mask = g.input("mask", [tokens, tokens], Dtype::F32)?;
    let mut all = Vec::new();
    for part in ["q", "k", "v"] {
        all.push(linear(g, part, x, WIDTH)?);
    }
    let mut sum = None;
    for head in 0..HEADS {
        let of = |g: &mut Graph, x: Value| g.push1(SliceLast { from: head * HEAD, width: HEAD }, &[x]);
        let (q, k, v) = (of(g, all[0])?, of(g, all[1])?, of(g, all[2])?);
        let product = |b_trans| MatMul { a_trans: false, b_trans, compute: Compute::F32 };
        let scores = g.push1(product(true), &[q, k])?;
        let scores = ops::scale(g, scores, (HEAD as f64).powf(-0.5))?;
        let scores = ops::add(g, scores, mask)?;
        let shares = g.push1(Softmax, &[scores])?;
        let o = g.push1(product(false), &[shares, v])?;
        let o = linear(g, &format!("o{head}"), o, WIDTH)?;
        sum = Some(match sum {
            Some(sum) => ops::add(g, sum, o)?,
            None => o,
        });
    }
    sum.ok_or_else(|| g.refused("attention", "there are no heads"))
}
