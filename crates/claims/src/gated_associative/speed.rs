//! Times of one block, forward and backward: ours, and blocks of materialized and of tiled attention.

use memwall_formats::Dtype;
use memwall_graph::ops;
use memwall_graph::ops::matmul::MatMul;
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::ops::softmax::Softmax;
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::Pool;
use memwall_nn::{AttentionConfig, GatedAssociativeConfig, Mixer, WeightTypes};

use crate::block::{Block, Frame, MASK, linear};
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

/// The least seconds over `rounds`, each block and length once in every round after one that warms up.
pub(super) fn times(run: &Run, pool: &Pool, lengths: &[usize], rounds: usize, seed: u64) -> Result<Times, Error> {
    let mut times = Times { ours: Vec::new(), materialized: Vec::new(), tiled: Vec::new() };
    for &tokens in lengths {
        let frame = Frame { tokens, width: WIDTH, hidden: 4 * WIDTH, backward: true };
        let (threads, types) = (pool.threads(), WeightTypes::new());
        let ours = GatedAssociativeConfig::new(WIDTH, 3);
        let attention = AttentionConfig::new(HEADS, HEADS, HEAD);
        let blocks = [
            Block::new(frame, threads, seed, |g, x, seqs| ours.forward(g, &types, "mixer", x, seqs)),
            Block::new(frame, threads, seed, |g, x, _| materialized(g, x, tokens)),
            Block::new(frame, threads, seed, |g, x, seqs| attention.forward(g, &types, "mixer", x, seqs)),
        ];
        let mut blocks: Vec<Block> = blocks.into_iter().collect::<Result<_, _>>().map_err(Error::experiment)?;
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

/// Causal attention that writes all scores and shares to memory, head by head.
fn materialized(g: &mut Graph, x: Value, tokens: usize) -> Result<Value, GraphError> {
    let compute = g.compute();
    let mask = g.input(MASK, [tokens, tokens], Dtype::F32)?;
    let mut all = Vec::new();
    for part in ["q", "k", "v"] {
        all.push(linear(g, part, x, WIDTH)?);
    }
    let mut sum = None;
    for head in 0..HEADS {
        let of = |g: &mut Graph, x: Value| g.push1(SliceLast { from: head * HEAD, width: HEAD }, &[x]);
        let (q, k, v) = (of(g, all[0])?, of(g, all[1])?, of(g, all[2])?);
        let product = |b_trans| MatMul { a_trans: false, b_trans, compute };
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
