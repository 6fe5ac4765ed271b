//! Gated linear attention (arXiv 2312.06635): chunks in two levels, linear in time, and a gate that forgets.
//!
//! 1. Stability: log-gates logsigmoid(z)/τ with τ from 16 to 0.1 and lengths around those of chunks, against the recurrence
//!    in f64. The one-level form, which splits e^(b_i − b_j) into e^(b_i) and e^(−b_j), is run beside it.
//! 2. Speed: the chunked form against one step a token, timed in turns, the fastest of each; and twice the length.
//! 3. Forgetting: recall in which every key is written again with another value, a short convolution before the mixer, the
//!    state as large with and without gate. Rates are chosen on validation data, three for each arm.
//!
//! Falsifier: the gate held open, its logits divided by a million, with all its parameters.

use std::time::Instant;

use memwall_kernels::Pool;
use memwall_kernels::gla::{Form, Gate, Gla, gla_forward, gla_scratch, gla_step, naive};
use memwall_nn::{ChannelConfig, GlaConfig, LayerConfig, MixerConfig, ModelConfig, ShortConvConfig};
use memwall_tasks::{ForgettingMqarConfig, Philox, RecallConfig, RecallData, RecallTask};

use crate::{
    About, Bar, Better, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, SweepPlan, TuneOn, sweep,
    trial::{Figure, Training},
};

const ERROR: &str = "largest relative error of the two-level form, at any gate";
const ONE_LEVEL: &str = "share of outputs of the one-level form that are not finite at the strongest gate";
const SPEED: &str = "tokens a second in chunks, against one step a token";
const LINEAR: &str = "distance from 2.05 of the time of twice the length";
const FORGETTING: &str = "recall of keys that were written again";

static ABOUT: About = About {
    system: 18,
    name: "gated-linear-attention",
    data: &[],
    checks: &[
        Check { what: ERROR, kind: Kind::Value, unit: "relative", bar: Bar::at_most(5e-6) },
        Check { what: ONE_LEVEL, kind: Kind::Value, unit: "share", bar: Bar::more_than(0.0) },
        Check { what: SPEED, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(3.0) },
        Check { what: LINEAR, kind: Kind::Value, unit: "times", bar: Bar::at_most(0.15) },
        Check { what: FORGETTING, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.05) },
    ],
    falsifier: Falsifier { what: "the gate held open", against: FORGETTING },
    source: include_str!("gated_linear_attention.rs"),
};

/// The claim of gated linear attention.
pub struct GatedLinearAttention;

impl Claim for GatedLinearAttention {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let pool = Pool::new(run.threads());
        let seeds = run.seeds();
        let (mut errors, mut one_level, mut linear) = (Vec::new(), Vec::new(), Vec::new());
        let (mut steps, mut chunks, mut sweeps) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("stability and speed", i as u64, seeds.len() as u64)?;
            errors.push(worst_error(&pool, seed));
            one_level.push(one_level_not_finite(seed));
            let tokens = run.pick(128, 4096, 4096);
            let times = times(run, &pool, tokens, run.pick(1, 7, 15), seed)?;
            steps.push(tokens as f64 / times.step_by_step);
            chunks.push(tokens as f64 / times.chunked);
            sweeps.push(tokens as f64 / times.recurrent);
            linear.push((times.chunked_twice / times.chunked - 2.05).abs());
        }

        let sizes = run.pick(
            Sizes { vocabulary: 40, time: 32, pairs: 2, width: 8, key_width: 2 },
            Sizes { vocabulary: 128, time: 64, pairs: 8, width: 64, key_width: 16 },
            Sizes { vocabulary: 512, time: 256, pairs: 32, width: 128, key_width: 32 },
        );
        let training = Training {
            steps: run.pick(4, 1200, 10_000),
            batch: run.pick(4, 32, 64),
            time: sizes.time,
            measured: run.pick(2, 16, 32),
            figure: Figure::Accuracy,
        };
        let plan = SweepPlan {
            what: "forgetting recall",
            arms: &[UNGATED, GATED, OPEN],
            rates: &[1e-3, 3e-3, 1e-2],
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        let swept = sweep(run, plan, |arm, rate, seed| {
            let task = task(&sizes, &training, seed)?;
            training.trial(run, &model(arm, &sizes), &task, rate, seed)
        })?;
        let scores = |arm| swept.scores(arm).unwrap_or(&[]);
        let median = |mut x: Vec<f64>| {
            x.sort_by(f64::total_cmp);
            x[x.len() / 2]
        };
        Ok(Outcome::new()
            .check(ERROR, Measured::values(&errors))
            .check(ONE_LEVEL, Measured::values(&one_level))
            .check(SPEED, Measured::pairs(&steps, &chunks))
            .check(LINEAR, Measured::values(&linear))
            .check(FORGETTING, Measured::pairs(scores(UNGATED), scores(GATED)))
            .falsifier(Measured::pairs(scores(UNGATED), scores(OPEN)))
            .note(format!(
                "the recurrence swept over all tokens in one call, which trains in f32: {:.0} tokens/s",
                median(sweeps)
            ))
            .sweep(swept))
    }
}

// 1. Stability.

/// Inputs of one head; gates of temperature τ.
struct Sequence {
    gla: Gla,
    tokens: usize,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    g: Vec<f64>,
}

impl Sequence {
    fn new(gla: Gla, tokens: usize, tau: f64, rng: &mut Philox) -> Sequence {
        let mut normal = |n: usize| -> Vec<f64> {
            let mut one = || (-2.0 * rng.unit().ln()).sqrt() * (2.0 * std::f64::consts::PI * rng.unit()).cos();
            (0..n).map(|_| f64::from(one() as f32)).collect()
        };
        let (by_key, by_value) = (tokens * gla.heads * gla.key_width, tokens * gla.heads * gla.value_width);
        let gate = |z: &f64| f64::from((-(-z).exp().ln_1p() / tau) as f32);
        let g = normal(by_key).iter().map(gate).collect();
        Sequence { gla, tokens, q: normal(by_key), k: normal(by_key), v: normal(by_value), g }
    }

    /// The recurrence, by its definition.
    fn exact(&self) -> Vec<f64> {
        let gla = &self.gla;
        let mut o = vec![0.0; self.v.len()];
        let mut state = vec![0.0; gla.heads * gla.key_width * gla.value_width];
        let cu = [0, self.tokens as i32];
        naive::forward(gla, &self.q, &self.k, &self.v, Gate::Channel(&self.g), &cu, None, &mut o, &mut state);
        o
    }
}

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// max |chunked in f32 − exact| / max |exact|, the largest over lengths and temperatures.
fn worst_error(pool: &Pool, seed: u64) -> f64 {
    let mut rng = Philox::new(seed, 0);
    let mut worst = 0.0f64;
    for tau in [16.0, 1.0, 0.1] {
        for tokens in [1, 15, 16, 17, 63, 64, 65, 200] {
            let sequence = Sequence::new(Gla::new(2, 32, 48), tokens, tau, &mut rng);
            let exact = sequence.exact();
            let mut single = Single::new(&sequence);
            single.run(pool, Form::Chunked);
            let largest = exact.iter().fold(0.0f64, |top, x| top.max(x.abs()));
            for (x, e) in single.o.iter().zip(&exact) {
                let error = (f64::from(*x) - e).abs() / largest;
                worst = if error <= worst { worst } else { error };
            }
        }
    }
    worst
}

/// Share of the outputs of 64 tokens at τ = 0.1 that the one-level form makes infinite or NaN in f32.
fn one_level_not_finite(seed: u64) -> f64 {
    let sequence = Sequence::new(Gla::new(1, 32, 32), 64, 0.1, &mut Philox::new(seed, 1));
    let (width, tokens) = (32, sequence.tokens);
    let (q, k, v) = (single(&sequence.q), single(&sequence.k), single(&sequence.v));
    let mut b = single(&sequence.g);
    for i in width..b.len() {
        b[i] += b[i - width];
    }
    let queries: Vec<f32> = q.iter().zip(&b).map(|(q, b)| q * b.exp()).collect();
    let keys: Vec<f32> = k.iter().zip(&b).map(|(k, b)| k * (-b).exp()).collect();
    let row = |x: &[f32], t: usize| x[t * width..][..width].to_vec();
    let mut not_finite = 0;
    for t in 0..tokens {
        let mut o = vec![0.0f32; width];
        for s in 0..=t {
            let score: f32 = row(&queries, t).iter().zip(row(&keys, s)).map(|(q, k)| q * k).sum();
            o.iter_mut().zip(row(&v, s)).for_each(|(o, v)| *o += score * v);
        }
        not_finite += o.iter().filter(|x| !x.is_finite()).count();
    }
    not_finite as f64 / (tokens * width) as f64
}

// 2. Speed.

/// A sequence in f32, with its outputs.
struct Single {
    gla: Gla,
    tokens: usize,
    inputs: [Vec<f32>; 4],
    o: Vec<f32>,
    state: Vec<f32>,
    scratch: Vec<u8>,
}

impl Single {
    fn new(sequence: &Sequence) -> Single {
        let gla = sequence.gla;
        Single {
            gla,
            tokens: sequence.tokens,
            inputs: [&sequence.q, &sequence.k, &sequence.v, &sequence.g].map(|x| single(x)),
            o: vec![0.0; sequence.v.len()],
            state: vec![0.0; gla.heads * gla.key_width * gla.value_width],
            scratch: Vec::new(),
        }
    }

    fn run(&mut self, pool: &Pool, form: Form) {
        let needed = gla_scratch::<f32>(&self.gla, form, self.tokens, pool.threads());
        self.scratch.resize(self.scratch.len().max(needed), 0);
        let (cu, [q, k, v, g]) = ([0, self.tokens as i32], &self.inputs);
        let (o, state) = (&mut self.o, &mut self.state);
        gla_forward(pool, &self.gla, form, q, k, v, Gate::Channel(g), &cu, None, o, state, &mut self.scratch);
    }

    fn step_by_step(&mut self, pool: &Pool) {
        let keys = self.gla.heads * self.gla.key_width;
        let values = self.gla.heads * self.gla.value_width;
        let [q, k, v, g] = &self.inputs;
        self.state.fill(0.0);
        for t in 0..self.tokens {
            let by_key = t * keys..(t + 1) * keys;
            let by_value = t * values..(t + 1) * values;
            let gate = Gate::Channel(&g[by_key.clone()]);
            let (q, k, v) = (&q[by_key.clone()], &k[by_key], &v[by_value.clone()]);
            gla_step(pool, &self.gla, q, k, v, gate, &[0], &mut self.state, &mut self.o[by_value]);
        }
    }
}

struct Times {
    step_by_step: f64,
    recurrent: f64,
    chunked: f64,
    chunked_twice: f64,
}

/// The least seconds over `rounds`, each form once in every round after one that warms up: 4 heads, K = V = 64.
fn times(run: &Run, pool: &Pool, tokens: usize, rounds: usize, seed: u64) -> Result<Times, Error> {
    let mut rng = Philox::new(seed, 2);
    let gla = Gla::new(4, 64, 64);
    let mut once = Single::new(&Sequence::new(gla, tokens, 16.0, &mut rng));
    let mut twice = Single::new(&Sequence::new(gla, 2 * tokens, 16.0, &mut rng));
    let mut best = [f64::INFINITY; 4];
    for round in 0..=rounds {
        run.step("timing", round as u64, rounds as u64 + 1)?;
        let mut time = |what: usize, f: &mut dyn FnMut()| {
            let start = Instant::now();
            f();
            if round > 0 {
                best[what] = best[what].min(start.elapsed().as_secs_f64());
            }
        };
        time(0, &mut || once.step_by_step(pool));
        time(1, &mut || once.run(pool, Form::Recurrent));
        time(2, &mut || once.run(pool, Form::Chunked));
        time(3, &mut || twice.run(pool, Form::Chunked));
    }
    let [step_by_step, recurrent, chunked, chunked_twice] = best;
    Ok(Times { step_by_step, recurrent, chunked, chunked_twice })
}

// 3. Forgetting.

const UNGATED: &str = "linear attention";
const GATED: &str = "gated linear attention";
const OPEN: &str = "gate held open";

struct Sizes {
    vocabulary: usize,
    time: usize,
    /// Pairs n; every key is written twice.
    pairs: usize,
    width: usize,
    key_width: usize,
}

fn task(sizes: &Sizes, training: &Training, seed: u64) -> Result<RecallTask, Error> {
    let of = |batches: u64| {
        vec![RecallConfig::ForgettingMqar(ForgettingMqarConfig {
            vocab_size: sizes.vocabulary,
            input_seq_len: sizes.time,
            num_examples: batches * training.batch as u64,
            num_kv_pairs: sizes.pairs,
            num_updates: sizes.pairs,
            power_a: 0.01,
            random_non_queries: false,
        })]
    };
    RecallTask::new(RecallData {
        train_configs: of(training.steps),
        validation_configs: of(training.measured as u64),
        test_configs: of(training.measured as u64),
        seed,
    })
    .map_err(Error::experiment)
}

fn model(arm: &str, sizes: &Sizes) -> ModelConfig {
    let published = GlaConfig::new(1, sizes.key_width, sizes.width);
    let gla = match arm {
        UNGATED => GlaConfig { gate: false, ..published },
        OPEN => GlaConfig { gate_logit_normalizer: 1e6, gate_low_rank: sizes.key_width, ..published },
        _ => GlaConfig { gate_low_rank: sizes.key_width, ..published },
    };
    let convolution = ShortConvConfig { taps: 3, gated: true };
    let mixers = [MixerConfig::ShortConv(convolution), MixerConfig::Gla(gla)];
    ModelConfig {
        vocab_size: sizes.vocabulary,
        d_model: sizes.width,
        max_context: sizes.time,
        layers: mixers.map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).into(),
        norm_eps: 1e-5,
        tie_embeddings: true,
        logit_softcap: None,
        learned_positions: false,
    }
}
