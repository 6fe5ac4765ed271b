//! Times of the forms over the length, of exact attention beside them, and of a decoding step far into a sequence.

use std::time::Instant;

use memwall_kernels::Pool;
use memwall_kernels::attention::{Attention, attention_forward, attention_scratch};
use memwall_kernels::gla::{Form, Gate, Gla, gla_forward, gla_scratch, gla_step};
use memwall_tasks::Philox;

use super::stability::Sequence;
use crate::{Error, Run};

const HEADS: usize = 4;
const WIDTH: usize = 64;

/// Seconds of one forward pass over each length, one after another: 4 heads, K = V = 64.
pub(super) struct Times {
    pub(super) lengths: Vec<usize>,
    pub(super) step_by_step: Vec<f64>,
    pub(super) recurrent: Vec<f64>,
    pub(super) chunked: Vec<f64>,
    pub(super) attention: Vec<f64>,
}

/// Inputs in f32 with room for the results.
struct Inputs {
    gla: Gla,
    tokens: usize,
    inputs: [Vec<f32>; 4],
    o: Vec<f32>,
    lse: Vec<f32>,
    state: Vec<f32>,
    scratch: Vec<u8>,
}

impl Inputs {
    fn new(tokens: usize, rng: &mut Philox) -> Inputs {
        let gla = Gla::new(HEADS, WIDTH, WIDTH);
        Inputs {
            gla,
            tokens,
            inputs: Sequence::new(gla, tokens, 16.0, rng).single(),
            o: vec![0.0; tokens * HEADS * WIDTH],
            lse: vec![0.0; tokens * HEADS],
            state: vec![0.0; HEADS * WIDTH * WIDTH],
            scratch: Vec::new(),
        }
    }

    fn reserve(&mut self, bytes: usize) {
        self.scratch.resize(self.scratch.len().max(bytes), 0);
    }

    fn whole(&mut self, pool: &Pool, form: Form) {
        self.reserve(gla_scratch::<f32>(&self.gla, form, self.tokens, pool.threads()));
        let (cu, [q, k, v, g]) = ([0, self.tokens as i32], &self.inputs);
        let (o, state) = (&mut self.o, &mut self.state);
        gla_forward(pool, &self.gla, form, q, k, v, Gate::Channel(g), &cu, None, o, state, &mut self.scratch);
    }

    fn attention(&mut self, pool: &Pool) {
        let attention = Attention {
            heads: HEADS,
            kv_heads: HEADS,
            key_width: WIDTH,
            value_width: WIDTH,
            causal: true,
            ..Attention::default()
        };
        self.reserve(attention_scratch::<f32>(&attention, 1, pool.threads()));
        let (cu, [q, k, v, _]) = ([0, self.tokens as i32], &self.inputs);
        let (o, lse) = (&mut self.o, &mut self.lse);
        attention_forward(pool, &attention, q, k, v, &cu, &cu, None, None, o, lse, &mut self.scratch);
    }

    /// Steps of a token each, on the state as it is; tokens beyond the last begin again at the first.
    fn steps(&mut self, pool: &Pool, range: std::ops::Range<usize>) {
        let row = HEADS * WIDTH;
        let [q, k, v, g] = &self.inputs;
        for t in range.map(|t| t % self.tokens * row..(t % self.tokens + 1) * row) {
            let gate = Gate::Channel(&g[t.clone()]);
            let (q, k, v) = (&q[t.clone()], &k[t.clone()], &v[t.clone()]);
            gla_step(pool, &self.gla, q, k, v, gate, &[0], &mut self.state, &mut self.o[t]);
        }
    }
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// The least seconds over `rounds`, every form and length once in every round after one that warms up.
pub(super) fn times(run: &Run, pool: &Pool, lengths: &[usize], rounds: usize, seed: u64) -> Result<Times, Error> {
    let mut rng = Philox::new(seed, 2);
    let mut inputs: Vec<Inputs> = lengths.iter().map(|&tokens| Inputs::new(tokens, &mut rng)).collect();
    let mut best = vec![[f64::INFINITY; 4]; lengths.len()];
    for round in 0..=rounds {
        run.step("timing the forms", round as u64, rounds as u64 + 1)?;
        for (x, best) in inputs.iter_mut().zip(&mut best) {
            x.state.fill(0.0);
            let tokens = x.tokens;
            let times = [
                seconds(|| x.steps(pool, 0..tokens)),
                seconds(|| x.whole(pool, Form::Recurrent)),
                seconds(|| x.whole(pool, Form::Chunked)),
                seconds(|| x.attention(pool)),
            ];
            if round > 0 {
                best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
            }
        }
    }
    let of = |form: usize| best.iter().map(|times| times[form]).collect();
    let lengths = lengths.to_vec();
    Ok(Times { lengths, step_by_step: of(0), recurrent: of(1), chunked: of(2), attention: of(3) })
}

/// Seconds of `timed` decoding steps after the 64th token, and after token `far`: the least over `rounds`.
pub(super) fn decoding(run: &Run, pool: &Pool, far: usize, rounds: usize, seed: u64) -> Result<[f64; 2], Error> {
    let timed = 256;
    let mut x = Inputs::new(1024, &mut Philox::new(seed, 7));
    let mut best = [f64::INFINITY; 2];
    for round in 0..rounds {
        run.step("timing decoding", round as u64, rounds as u64)?;
        x.state.fill(0.0);
        x.steps(pool, 0..64);
        best[0] = best[0].min(seconds(|| x.steps(pool, 64..64 + timed)));
        x.steps(pool, 64 + timed..far);
        best[1] = best[1].min(seconds(|| x.steps(pool, far..far + timed)));
    }
    Ok(best)
}
