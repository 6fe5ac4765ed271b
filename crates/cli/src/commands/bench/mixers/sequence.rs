//! One sequence of random inputs in a graph.

use memwall_formats::Dtype;
use memwall_graph::{Dim, Executor, Graph, Shape, Value, pull_back};
use memwall_kernels::gemm::Compute;

/// Heads.
pub const HEADS: usize = 4;
/// Width of a head's keys.
pub const KEYS: usize = 64;
/// Width of a head's values.
pub const VALUES: usize = 64;

/// What random inputs are like.
#[derive(Clone, Copy)]
pub enum Like {
    /// Uniform from −1 to 1.
    Any,
    /// Rows of length 1.
    Unit,
    /// Rows of length ½, so that b aᵀ with b of length 1 is a gentle transition.
    Half,
    /// Logarithms of a sigmoid over 16: a state fades over tens of tokens.
    LogGate,
    /// Uniform from 0 to 1.
    Share,
    /// Time steps from 0.001 to 0.1.
    TimeStep,
    /// Rates from −16 to −1.
    Rate,
}

/// A graph over `tokens` tokens and what its inputs get.
pub struct Sequence {
    /// The graph.
    pub g: Graph,
    /// Its tokens.
    pub tokens: usize,
    /// Offsets of the one sequence, or the slot of the one row.
    pub offsets: Value,
    real: Vec<Value>,
    feeds: Vec<(Value, Vec<f32>)>,
}

impl Sequence {
    /// An empty graph for a whole sequence, or for one row that continues a state if `tokens` is 1.
    ///
    /// # Errors
    /// If the graph refuses its own input.
    pub fn new(compute: Compute, tokens: usize) -> anyhow::Result<Sequence> {
        let mut g = Graph::new(Dtype::F32);
        g.set_compute(compute);
        let offsets = g.input("offsets", [if tokens == 1 { 1 } else { 2 }], Dtype::I32)?;
        Ok(Sequence { g, tokens, offsets, real: Vec::new(), feeds: Vec::new() })
    }

    /// An input of every token, [N, tail].
    ///
    /// # Errors
    /// If the name is taken.
    pub fn rows(&mut self, name: &str, tail: &[usize], like: Like) -> anyhow::Result<Value> {
        self.input(name, &[&[self.tokens], tail].concat(), like)
    }

    /// An input of that shape.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn input(&mut self, name: &str, shape: &[usize], like: Like) -> anyhow::Result<Value> {
        let value = self.constant(name, shape, like)?;
        self.real.push(value);
        Ok(value)
    }

    /// A state that steps change, zero at first.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn state(&mut self, name: &str, shape: &[usize]) -> anyhow::Result<Value> {
        Ok(self.g.state(name, shaped(shape), Dtype::F32)?)
    }

    fn constant(&mut self, name: &str, shape: &[usize], like: Like) -> anyhow::Result<Value> {
        let value = self.g.input(name, shaped(shape), Dtype::F32)?;
        let width = shape.last().copied().unwrap_or(1);
        let seed = self.feeds.len() as u64 + 1;
        self.feeds.push((value, random(shape.iter().product(), width, like, seed)));
        Ok(value)
    }

    /// Makes `o` an output, or the gradients of all inputs for a random gradient of it.
    ///
    /// # Errors
    /// If the graph has no gradient.
    pub fn finish(&mut self, o: Value, backward: bool) -> anyhow::Result<()> {
        self.g.output("o", o);
        if backward {
            let shape: Vec<usize> = self.g.shape(o).sizes(&[]).axes().to_vec();
            let seed = self.constant("d_o", &shape, Like::Any)?;
            let gradients = pull_back(&mut self.g, &[(o, seed)], &self.real.clone())?;
            for (i, gradient) in gradients.into_iter().flatten().enumerate() {
                self.g.output(&format!("d{i}"), gradient);
            }
        }
        Ok(())
    }

    /// Writes the inputs into their places.
    pub fn write(&self, executor: &mut Executor) {
        for (value, data) in &self.feeds {
            if executor.reads(*value) {
                executor.input::<f32>(*value).copy_from_slice(data);
            }
        }
        if executor.reads(self.offsets) {
            let offsets = [0, self.tokens as i32];
            let places = executor.input::<i32>(self.offsets);
            let n = places.len();
            places.copy_from_slice(&offsets[..n]);
        }
    }
}

fn shaped(sizes: &[usize]) -> Shape {
    Shape::new(&sizes.iter().map(|&n| Dim::fixed(n)).collect::<Vec<_>>())
}

/// Numbers fixed by the seed.
fn random(n: usize, width: usize, like: Like, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut x: Vec<f32> = (0..n).map(|_| next()).collect();
    match like {
        Like::Any => {}
        Like::Unit | Like::Half => {
            for row in x.chunks_exact_mut(width) {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                let to = if matches!(like, Like::Half) { 0.5 } else { 1.0 };
                row.iter_mut().for_each(|x| *x *= to / length);
            }
        }
        Like::Share => x.iter_mut().for_each(|z| *z = 0.5 + 0.5 * *z),
        Like::LogGate => x.iter_mut().for_each(|z| *z = -(-2.0 * *z).exp().ln_1p() / 16.0),
        Like::TimeStep => x.iter_mut().for_each(|z| *z = 0.01 * 10f32.powf(*z)),
        Like::Rate => x.iter_mut().for_each(|z| *z = -(8.5 + 7.5 * *z)),
    }
    x
}
