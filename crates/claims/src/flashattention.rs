//! FlashAttention (arXiv 2205.14135): exact attention, tile by tile, in memory linear in the length.
//!
//! 1. Exactness: outputs and gradients over random shapes and options, against f64; the bar is upstream's own: at most
//!    twice the error of the materialized form in f32, plus 1e-6.
//! 2. Memory: what a call needs beside its inputs and outputs, in bytes.
//! 3. Speed: against the materialized form made of the same matrix product, timed in turns, the fastest of each.
//! 4. Traffic: loads and stores of a fast memory of S elements, counted over the paper's schedule of tiles, which depend
//!    on S (Algorithms 0, 1 and 5); slopes are fitted to the counts (Theorem 2). The kernel's own tiles have one size, so
//!    this shows the theorem, not the kernel.
//! 5. Longer context: letters whose passages return after 341 of them, the same text and as many tokens in windows of 1024
//!    and of 256, one small model: which tells more of the next letter. The direction only.
//!
//! Falsifier: a tiled form that forgets to rescale what it has summed when the running maximum rises.

use std::time::Instant;

use memwall_kernels::attention::{
    Attention, BlockMask, attention_backward, attention_backward_scratch, attention_forward, attention_scratch, io,
    materialized, naive::Inputs,
};
use memwall_kernels::{Pool, Real};
use memwall_nn::{AttentionConfig, ChannelConfig, LayerConfig, MixerConfig, ModelConfig, RopeConfig, ShortConvConfig};
use memwall_tasks::Philox;

use crate::largest::largest;
use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run,
    evidence::{Curve, Line, Point},
    repeats::{PIECE, Repeats},
    trial::{Figure, Training},
};

const OUTPUTS: &str = "largest error of outputs, as a share of twice the materialized form's plus 1e-6";
const GRADIENTS: &str = "largest error of gradients, as a share of twice the materialized form's plus 1e-6";
const MEMORY: &str = "bytes beside inputs and outputs at 8192 tokens and 8 heads";
const GROWTH: &str = "growth of those bytes when the length doubles";
const FORWARD: &str = "forward passes a second";
const BACKWARD: &str = "backward passes a second";
const CAUSAL: &str = "time of a causal forward pass";
const SLOPE_S: &str = "distance from -1 of the slope of traffic in the size of fast memory";
const SLOPE_N: &str = "distance from 2 of the slope of traffic in the length";
const SPARSE: &str = "largest deviation of block-sparse traffic from the share of visible blocks";
const LONGER: &str = "surprise of a letter in windows of 1024, less that in windows of 256";

static ABOUT: About = About {
    system: 13,
    name: "flashattention",
    data: &[],
    checks: &[
        Check { what: OUTPUTS, kind: Kind::Value, unit: "of the bar", bar: Bar::at_most(1.0) },
        Check { what: GRADIENTS, kind: Kind::Value, unit: "of the bar", bar: Bar::at_most(1.0) },
        Check { what: MEMORY, kind: Kind::Ratio, unit: "bytes", bar: Bar::at_most(0.05) },
        Check { what: GROWTH, kind: Kind::Value, unit: "times", bar: Bar::at_most(2.0) },
        Check { what: FORWARD, kind: Kind::Ratio, unit: "1/s", bar: Bar::at_least(1.5) },
        Check { what: BACKWARD, kind: Kind::Ratio, unit: "1/s", bar: Bar::at_least(1.3) },
        Check { what: CAUSAL, kind: Kind::Ratio, unit: "s", bar: Bar::at_most(0.6) },
        Check { what: SLOPE_S, kind: Kind::Value, unit: "in log-log", bar: Bar::at_most(0.1) },
        Check { what: SLOPE_N, kind: Kind::Value, unit: "in log-log", bar: Bar::at_most(0.1) },
        Check { what: SPARSE, kind: Kind::Value, unit: "relative", bar: Bar::at_most(0.05) },
        Check { what: LONGER, kind: Kind::Difference, unit: "nats/letter", bar: Bar::less_than(0.0) },
    ],
    falsifier: Falsifier { what: "no rescaling when the running maximum rises", against: OUTPUTS },
    source: include_str!("flashattention.rs"),
};

/// The claim of FlashAttention.
pub struct FlashAttention;

impl Claim for FlashAttention {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let pool = Pool::new(run.threads());
        let seeds = run.seeds();
        let of = 5 * seeds.len() as u64;
        let (mut outputs, mut gradients, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        let (mut forward, mut backward, mut causal) = ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
        let (mut slope_s, mut slope_n, mut sparse) = (Vec::new(), Vec::new(), Vec::new());
        let mut surprise = [vec![], vec![]];
        for (i, &seed) in seeds.iter().enumerate() {
            let at = 5 * i as u64;
            run.step("exactness", at, of)?;
            let exact = exactness(&pool, seed, run.pick(2, 7, 7), run.pick(128, 1024, 1024));
            outputs.push(exact.outputs);
            gradients.push(exact.gradients);
            damaged.push(exact.damaged);

            run.step("speed", at + 1, of)?;
            let mut times = Times::new(&pool, run.pick(256, 4096, 4096), seed);
            let best = times.best(run.pick(1, 7, 15), || run.step("speed", at + 1, of))?;
            forward[0].push(1.0 / best[0]);
            forward[1].push(1.0 / best[1]);
            backward[0].push(1.0 / best[2]);
            backward[1].push(1.0 / best[3]);
            causal[0].push(best[1]);
            causal[1].push(best[4]);

            run.step("traffic", at + 2, of)?;
            let traffic = traffic(run.pick(1024, 4096, 4096));
            slope_s.push((traffic.slope_s + 1.0).abs());
            slope_n.push((traffic.slope_n - 2.0).abs());
            run.step("block-sparse traffic", at + 3, of)?;
            sparse.push(sparse_traffic(run.pick(2048, 8192, 8192), seed));
            run.step("longer context", at + 4, of)?;
            for (surprise, time) in surprise.iter_mut().zip([256, PIECE]) {
                surprise.push(surprise_of_letters(run, time, seed)?);
            }
        }
        let threads = run.threads();
        let score_bytes = 4.0 * 8.0 * 8192.0 * 8192.0;
        let bytes = extra_bytes(8192, threads);
        let each = |x: f64| vec![x; seeds.len()];
        Ok(Outcome::new()
            .check(OUTPUTS, Measured::values(&outputs))
            .check(GRADIENTS, Measured::values(&gradients))
            .check(MEMORY, Measured::pairs(&each(score_bytes), &each(bytes)))
            .check(GROWTH, Measured::values(&each(extra_bytes(16384, threads) / bytes)))
            .check(FORWARD, Measured::pairs(&forward[0], &forward[1]))
            .check(BACKWARD, Measured::pairs(&backward[0], &backward[1]))
            .check(CAUSAL, Measured::pairs(&causal[0], &causal[1]))
            .check(SLOPE_S, Measured::values(&slope_s))
            .check(SLOPE_N, Measured::values(&slope_n))
            .check(SPARSE, Measured::values(&sparse))
            .check(LONGER, Measured::pairs(&surprise[0], &surprise[1]))
            .falsifier(Measured::values(&damaged))
            .curve(traffic_curve(run.pick(1024, 4096, 4096), seeds.len()))
            .note("bytes and traffic are counted: every seed has the same; block-sparse masks differ by seed"))
    }
}

// 1. Exactness.

const LENGTHS: [usize; 11] = [1, 2, 15, 16, 17, 63, 64, 65, 113, 128, 1024];
const WIDTHS: [usize; 9] = [16, 32, 40, 59, 64, 80, 96, 128, 256];

/// Options of variant 0 to 6: none, causal, window, softcap, ALiBi, grouped heads, dropout.
fn variant(number: usize, width: usize, seed: u64) -> Attention {
    let plain = Attention {
        heads: 2,
        kv_heads: 2,
        key_width: width,
        value_width: width,
        scale: (width as f64).powf(-0.5),
        causal: number % 2 == 1,
        seed,
        ..Attention::default()
    };
    match number {
        2 => Attention { window: (Some(9), Some(3)), ..plain },
        3 => Attention { softcap: Some(2.0), ..plain },
        4 => Attention { alibi: true, ..plain },
        5 => Attention { heads: 4, kv_heads: 1, ..plain },
        6 => Attention { dropout: 0.17, ..plain },
        _ => plain,
    }
}

/// Errors as shares of what is allowed.
struct Exactness {
    outputs: f64,
    gradients: f64,
    damaged: f64,
}

/// Every width with `variants` variants, lengths up to `longest` drawn by the seed.
fn exactness(pool: &Pool, seed: u64, variants: usize, longest: usize) -> Exactness {
    let mut worst = Exactness { outputs: 0.0, gradients: 0.0, damaged: 0.0 };
    let mut rng = Philox::new(seed, 0);
    let lengths: Vec<usize> = LENGTHS.into_iter().filter(|&n| n <= longest).collect();
    for width in WIDTHS {
        for number in 0..variants {
            let a = variant(number, width, seed);
            let mut length = || lengths[rng.below(lengths.len() as u64) as usize];
            let (n, m) = (length(), length());
            let case = Case::new(a, n, m, &mut rng);
            let (exact, dense, ours) = (case.naive::<f64>(), case.naive::<f32>(), case.tiled(pool));
            worst.outputs = worst.outputs.max(share(&exact[..1], &dense[..1], &ours[..1]));
            worst.gradients = worst.gradients.max(share(&exact[1..], &dense[1..], &ours[1..]));
            if number == 0 {
                let damaged = case.without_rescaling();
                worst.damaged = worst.damaged.max(share(&exact[..1], &dense[..1], &[damaged]));
            }
        }
    }
    worst
}

/// max |ours − exact| / (2 max |dense − exact| + 1e-6), the larger over the tensors; NaN counts as infinite.
fn share(exact: &[Vec<f64>], dense: &[Vec<f64>], ours: &[Vec<f64>]) -> f64 {
    let error = |x: &[f64], exact: &[f64]| largest(x.iter().zip(exact).map(|(x, e)| (x - e).abs()));
    let shares = exact.iter().zip(dense).zip(ours).map(|((e, d), o)| error(o, e) / (2.0 * error(d, e) + 1e-6));
    shares.map(|s| if s.is_nan() { f64::INFINITY } else { s }).fold(0.0, f64::max)
}

/// One sequence of n queries and m keys.
struct Case {
    a: Attention,
    cu: [[i32; 2]; 2],
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    d_o: Vec<f64>,
    slopes: Vec<f64>,
}

/// Values that f32 holds exactly, so that every precision sees the same inputs.
fn normal(rng: &mut Philox, n: usize) -> Vec<f64> {
    let mut one = || (-2.0 * rng.unit().ln()).sqrt() * (2.0 * std::f64::consts::PI * rng.unit()).cos();
    (0..n).map(|_| f64::from(one() as f32)).collect()
}

fn cast<T: Real>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::of(x)).collect()
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

impl Case {
    fn new(a: Attention, n: usize, m: usize, rng: &mut Philox) -> Case {
        Case {
            cu: [[0, n as i32], [0, m as i32]],
            q: normal(rng, n * a.heads * a.key_width),
            k: normal(rng, m * a.kv_heads * a.key_width),
            v: normal(rng, m * a.kv_heads * a.value_width),
            d_o: normal(rng, n * a.heads * a.value_width),
            slopes: (0..a.heads).map(|h| 0.5f64.powi(h as i32 + 1)).collect(),
            a,
        }
    }

    /// Outputs and gradients of q, k and v of the materialized definition.
    fn naive<T: Real>(&self) -> Vec<Vec<f64>> {
        let (q, k, v, slopes) = (cast::<T>(&self.q), cast(&self.k), cast(&self.v), cast(&self.slopes));
        let inputs = Inputs {
            attention: &self.a,
            q: &q,
            k: &k,
            v: &v,
            cu_seqlens_q: &self.cu[0],
            cu_seqlens_k: &self.cu[1],
            alibi_slopes: self.a.alibi.then_some(&slopes[..]),
            block_mask: None,
        };
        let (o, _) = inputs.forward();
        let (dq, dk, dv) = inputs.backward(&cast::<T>(&self.d_o));
        [o, dq, dk, dv].iter().map(|x| x.iter().map(|x| x.f64()).collect()).collect()
    }

    /// The same of the kernel in f32.
    fn tiled(&self, pool: &Pool) -> Vec<Vec<f64>> {
        let [cu_q, cu_k] = &self.cu;
        let (q, k, v, slopes) = (cast::<f32>(&self.q), cast(&self.k), cast(&self.v), cast(&self.slopes));
        let (d_o, slopes) = (cast::<f32>(&self.d_o), self.a.alibi.then_some(&slopes[..]));
        let n = cu_q[1] as usize;
        let (mut o, mut lse) = (vec![0.0; d_o.len()], vec![0.0; n * self.a.heads]);
        let mut scratch = vec![0; attention_scratch::<f32>(&self.a, 1, pool.threads())];
        attention_forward(pool, &self.a, &q, &k, &v, cu_q, cu_k, slopes, None, &mut o, &mut lse, &mut scratch);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        let mut scratch = vec![0; attention_backward_scratch::<f32>(&self.a, n, pool.threads())];
        attention_backward(
            pool,
            &self.a,
            &q,
            &k,
            &v,
            cu_q,
            cu_k,
            slopes,
            None,
            &o,
            &lse,
            &d_o,
            &mut dq,
            &mut dk,
            &mut dv,
            &mut scratch,
        );
        [o, dq, dk, dv].iter().map(|x| widen(x)).collect()
    }

    /// Outputs of a plain tiled form, tiles of 16 keys, that never rescales its sums.
    fn without_rescaling(&self) -> Vec<f64> {
        let (heads, width) = (self.a.heads, self.a.key_width);
        let row =
            |x: &[f64], at: usize, head: usize| -> Vec<f64> { x[(at * heads + head) * width..][..width].to_vec() };
        let mut o = Vec::with_capacity(self.q.len());
        for at in 0..self.cu[0][1] as usize {
            for head in 0..heads {
                let q = row(&self.q, at, head);
                let (mut top, mut sum, mut total) = (f64::NEG_INFINITY, 0.0, vec![0.0; width]);
                for tile in (0..self.cu[1][1] as usize).collect::<Vec<_>>().chunks(16) {
                    let dot = |&j: &usize| -> f64 { q.iter().zip(row(&self.k, j, head)).map(|(q, k)| q * k).sum() };
                    let scores: Vec<f64> = tile.iter().map(|j| dot(j) * self.a.scale).collect();
                    top = scores.iter().copied().fold(top, f64::max);
                    for (&j, score) in tile.iter().zip(scores) {
                        let p = (score - top).exp();
                        sum += p;
                        total.iter_mut().zip(row(&self.v, j, head)).for_each(|(t, v)| *t += p * v);
                    }
                }
                o.extend(total.iter().map(|t| t / sum));
            }
        }
        o
    }
}

// 2. Memory.

/// Bytes that forward and backward need beside inputs and outputs, log-sum-exp included: 8 heads of 64.
fn extra_bytes(n: usize, threads: usize) -> f64 {
    let a = Attention { heads: 8, kv_heads: 8, ..Attention::default() };
    let kept = 4 * a.heads * n;
    let scratch = attention_scratch::<f32>(&a, 1, threads).max(attention_backward_scratch::<f32>(&a, n, threads));
    (kept + scratch) as f64
}

// 3. Speed.

/// One head of 64, timed.
struct Times<'a> {
    pool: &'a Pool,
    n: usize,
    inputs: [Vec<f32>; 4],
}

impl<'a> Times<'a> {
    fn new(pool: &'a Pool, n: usize, seed: u64) -> Self {
        let mut rng = Philox::new(seed, 1);
        Times { pool, n, inputs: std::array::from_fn(|_| cast(&normal(&mut rng, n * 64))) }
    }

    /// The least seconds over `rounds` of: materialized and tiled forward, materialized and tiled backward, tiled
    /// causal forward; each once in every round, after one round that warms up.
    fn best(&mut self, rounds: usize, mut step: impl FnMut() -> Result<(), Error>) -> Result<[f64; 5], Error> {
        let (pool, n) = (self.pool, self.n);
        let [q, k, v, d_o] = &self.inputs;
        let a = Attention::default();
        let causal = Attention { causal: true, ..a };
        let (cu, zeros) = ([0, n as i32], |len: usize| vec![0.0f32; len]);
        let (mut p, mut ds, mut dots) = (zeros(n * n), zeros(n * n), zeros(n));
        let (mut o, mut o_causal, mut lse) = (zeros(n * 64), zeros(n * 64), zeros(n));
        let (mut lse_causal, mut dq, mut dk, mut dv) = (zeros(n), zeros(n * 64), zeros(n * 64), zeros(n * 64));
        let mut dense_scratch = vec![0; materialized::scratch::<f32>(&a, n, n, pool.threads())];
        let mut scratch = vec![0; attention_scratch::<f32>(&a, 1, pool.threads())];
        let mut backward_scratch = vec![0; attention_backward_scratch::<f32>(&a, n, pool.threads())];
        let mut best = [f64::INFINITY; 5];
        for round in 0..=rounds {
            step()?;
            let mut time = |what: usize, f: &mut dyn FnMut()| {
                let start = Instant::now();
                f();
                if round > 0 {
                    best[what] = best[what].min(start.elapsed().as_secs_f64());
                }
            };
            time(0, &mut || materialized::forward(pool, &a, (n, n), q, k, v, &mut p, &mut o, &mut dense_scratch));
            time(1, &mut || {
                attention_forward(pool, &a, q, k, v, &cu, &cu, None, None, &mut o, &mut lse, &mut scratch);
            });
            time(2, &mut || {
                let out = [&mut dq[..], &mut dk, &mut dv, &mut ds, &mut dots];
                materialized::backward(pool, &a, (n, n), [q, k, v, &p, &o, d_o], out, &mut dense_scratch);
            });
            time(3, &mut || {
                attention_backward(
                    pool,
                    &a,
                    q,
                    k,
                    v,
                    &cu,
                    &cu,
                    None,
                    None,
                    &o,
                    &lse,
                    d_o,
                    &mut dq,
                    &mut dk,
                    &mut dv,
                    &mut backward_scratch,
                );
            });
            time(4, &mut || {
                let (o, lse) = (&mut o_causal, &mut lse_causal);
                attention_forward(pool, &causal, q, k, v, &cu, &cu, None, None, o, lse, &mut scratch);
            });
        }
        Ok(best)
    }
}

// 4. Traffic.

const D: usize = 64;
const SIZES: [usize; 5] = [8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10];
const FAST: usize = 32 << 10;

fn moved(io: io::Accesses) -> f64 {
    io.total() as f64
}

struct Traffic {
    slope_s: f64,
    slope_n: f64,
}

/// Slopes over fast memories of 8 Ki to 128 Ki elements at `n` tokens, and over n to 4 n at 32 Ki.
fn traffic(n: usize) -> Traffic {
    let points = |xs: &[usize], f: &dyn Fn(usize) -> f64| -> Vec<(f64, f64)> {
        xs.iter().map(|&x| ((x as f64).ln(), f(x).ln())).collect()
    };
    let lengths = [n, n * 3 / 2, n * 2, n * 3, n * 4];
    Traffic {
        slope_s: slope(&points(&SIZES, &|s| moved(io::tiled(n, D, s)))),
        slope_n: slope(&points(&lengths, &|n| moved(io::tiled(n, D, FAST)))),
    }
}

/// The slope of a line through points (x, y), by least squares.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / count, y + p.1 / count));
    let (xy, xx) = points.iter().fold((0.0, 0.0), |(xy, xx), p| (xy + (p.0 - x) * (p.1 - y), xx + (p.0 - x).powi(2)));
    xy / xx
}

/// The largest relative deviation from Θ(Nd + s N²d²/S): traffic beyond that of reading keys and values once,
/// as a share of the dense form's, against the share s of blocks that are visible.
fn sparse_traffic(n: usize, seed: u64) -> f64 {
    let (rows, cols) = io::tile_sizes(FAST, D);
    let (row_blocks, col_blocks) = (n.div_ceil(rows), n.div_ceil(cols));
    let once = (2 * n * D) as f64;
    let dense = moved(io::tiled(n, D, FAST)) - once;
    let mut rng = Philox::new(seed, 2);
    let mut worst = 0.0f64;
    let mut add = |mask: &BlockMask| {
        let traffic = moved(io::block_sparse(n, D, mask)) - once;
        worst = worst.max((traffic / dense / mask.density() - 1.0).abs());
    };
    for share in [0.1, 0.25, 0.5, 0.75] {
        let draws: Vec<bool> = (0..row_blocks * col_blocks).map(|_| rng.unit() <= share).collect();
        add(&BlockMask::new((rows, row_blocks), (cols, col_blocks), |i, j| draws[i * col_blocks + j]));
    }
    add(&BlockMask::butterfly((rows, row_blocks), (cols, col_blocks)));
    worst
}

fn traffic_curve(n: usize, seeds: usize) -> Curve {
    let line = |name: &str, f: &dyn Fn(usize) -> f64| Line {
        name: name.to_owned(),
        points: SIZES.iter().map(|&s| Point { x: s as f64, per_seed: vec![f(s); seeds] }).collect(),
    };
    Curve {
        what: format!("traffic over the size of fast memory, {n} tokens"),
        x_label: "elements of fast memory".to_owned(),
        y_label: "elements moved".to_owned(),
        log_x: true,
        log_y: true,
        lines: vec![
            line("materialized", &|s| moved(io::materialized(n, D, s))),
            line("tiled", &|s| moved(io::tiled(n, D, s))),
        ],
    }
}

// 5. Longer context.

/// Nats a letter of text that no training saw, in windows of `time`, after as many letters whatever their length.
fn surprise_of_letters(run: &Run, time: usize, seed: u64) -> Result<f64, Error> {
    let batch = run.pick(1, 4, 16) * PIECE / time;
    let letters = 64;
    let task = Repeats { time, letters, pieces: run.pick(1, 16, 64), seed };
    let training =
        Training { steps: run.pick(2, 300, 3000), batch, time, measured: run.pick(1, 4, 4), figure: Figure::Nats };
    let attention = AttentionConfig { rope: Some(RopeConfig::default()), ..AttentionConfig::new(1, 1, 64) };
    let mixers = [MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true }), MixerConfig::Attention(attention)];
    let model = ModelConfig {
        tie_embeddings: true,
        ..ModelConfig::new(
            letters,
            64,
            PIECE,
            mixers.map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).into(),
        )
    };
    Ok(training.trial(run, &model, &task, 3e-3, seed)?.score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_powers() {
        let points: Vec<(f64, f64)> = (1..6).map(|x| (f64::from(x).ln(), (3.0 * f64::from(x).powi(2)).ln())).collect();
        assert!((slope(&points) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn an_error_that_is_not_a_number_misses_every_bar() {
        let (exact, dense) = ([vec![1.0, 2.0]], [vec![1.0, 2.0]]);
        assert_eq!(share(&exact, &dense, &[vec![1.0, f64::NAN]]), f64::INFINITY);
        assert_eq!(share(&exact, &dense, &[vec![1.0, 2.0]]), 0.0);
        assert!((share(&exact, &dense, &[vec![1.0 + 1e-6, 2.0]]) - 1.0).abs() < 1e-6);
    }
}
