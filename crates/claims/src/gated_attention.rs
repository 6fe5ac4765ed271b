//! Gated attention (arXiv 2505.06708): a sigmoid gate between attention and its output projection.
//!
//! 1. Limits: gate logits of +10⁴ give the ungated layer, of −10⁴ nothing; a gate a head is a gate a channel that is
//!    constant within heads.
//! 2. Algebra: without the gate a head's output is a linear function of what was attended to, so it adds nothing to the
//!    rank of those inputs; with it, it adds as much as the head is wide.
//! 3. Loss on characters of plays, plain and gated, the rate of each chosen from three on validation text; and how far up
//!    a ladder of rates (×1.5) each still learns, every rung a run of its own.
//! 4. What the gate costs in training tokens a second.
//!
//! Not here: the share of attention that the first token draws.
//!
//! Falsifier, against the loss: gated attention that sees its own token only.

use std::sync::Arc;
use std::time::Instant;

use memwall_formats::Dtype;
use memwall_graph::check::pseudo_random;
use memwall_graph::{Executor, Graph, GraphError, Memory, PlanOptions, Source};
use memwall_kernels::Pool;
use memwall_kernels::attention::{Attention, naive};
use memwall_nn::{
    Activation, AttentionConfig, ChannelConfig, GateConfig, Granularity, LayerConfig, Mixer, MixerConfig, ModelConfig,
    RopeConfig, Sequences, WeightTypes,
};
use memwall_tasks::data::TINY_SHAKESPEARE;
use memwall_tasks::{Batches, Corpus, Documents, Fractions, Philox, Position, Split, TextTask};
use memwall_train::Optimizer;

use crate::{
    About, Bar, Better, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, SweepPlan, TuneOn, sweep,
    trial::{Figure, Training, packed},
};

const OPEN: &str = "largest difference between an open gate and none";
const CLOSED: &str = "largest output behind a closed gate";
const HEADWISE: &str = "largest difference between a gate a head and equal gates in a head";
const PLAIN_RANK: &str = "rank that an ungated head adds to what it attended to";
const GATED_RANK: &str = "rank that a gated head adds to what it attended to";
const LOSS: &str = "loss with a gate a head";
const LADDER: &str = "rungs of rates that train";
const HEADWISE_SPEED: &str = "training speed with a gate a head";
const ELEMENTWISE_SPEED: &str = "training speed with a gate a channel";

/// Channels of the head whose rank is measured.
const HEAD: usize = 8;

static ABOUT: About = About {
    system: 6,
    name: "gated-attention",
    data: &[TINY_SHAKESPEARE],
    checks: &[
        Check { what: OPEN, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-6) },
        Check { what: CLOSED, kind: Kind::Value, unit: "absolute", bar: Bar::exactly(0.0) },
        Check { what: HEADWISE, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-6) },
        Check { what: PLAIN_RANK, kind: Kind::Value, unit: "dimensions", bar: Bar::exactly(0.0) },
        Check { what: GATED_RANK, kind: Kind::Value, unit: "dimensions", bar: Bar::exactly(HEAD as f64) },
        Check { what: LOSS, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(0.01) },
        Check { what: LADDER, kind: Kind::Difference, unit: "rungs of 1.5", bar: Bar::at_least(0.0) },
        Check { what: HEADWISE_SPEED, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(0.95) },
        Check { what: ELEMENTWISE_SPEED, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(0.85) },
    ],
    falsifier: Falsifier { what: "gated attention that sees its own token only", against: LOSS },
    source: include_str!("gated_attention.rs"),
};

/// The claim of gated attention.
pub struct GatedAttention;

impl Claim for GatedAttention {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let (mut open, mut closed, mut headwise) = (Vec::new(), Vec::new(), Vec::new());
        let (mut plain_rank, mut gated_rank) = (Vec::new(), Vec::new());
        let (mut rungs, mut speeds) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new(), Vec::new()]);
        let text = Text::read(run)?;
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("limits, ranks and rates", i as u64, seeds.len() as u64)?;
            let limits = limits(seed).map_err(Error::experiment)?;
            open.push(limits.open);
            closed.push(limits.closed);
            headwise.push(limits.headwise);
            plain_rank.push(added_rank(seed, false));
            gated_rank.push(added_rank(seed, true));
            for (arm, rungs) in [PLAIN, GATED].into_iter().zip(&mut rungs) {
                rungs.push(text.rungs(run, arm, seed)?);
            }
            for (speed, best) in speeds.iter_mut().zip(text.speeds(run, seed)?) {
                speed.push(best);
            }
        }
        let plan = SweepPlan {
            what: "characters",
            arms: &[PLAIN, GATED, DAMAGED],
            rates: &[1e-3, 3e-3, 1e-2],
            better: Better::Lower,
            tune_on: TuneOn::FirstSeed,
        };
        let swept = sweep(run, plan, |arm, rate, seed| {
            text.training.trial(run, &text.model(arm, text.width), &text.task(seed)?, rate, seed)
        })?;
        let scores = |arm| swept.scores(arm).unwrap_or(&[]);
        Ok(Outcome::new()
            .check(OPEN, Measured::values(&open))
            .check(CLOSED, Measured::values(&closed))
            .check(HEADWISE, Measured::values(&headwise))
            .check(PLAIN_RANK, Measured::values(&plain_rank))
            .check(GATED_RANK, Measured::values(&gated_rank))
            .check(LOSS, Measured::pairs(scores(PLAIN), scores(GATED)))
            .check(LADDER, Measured::pairs(&rungs[0], &rungs[1]))
            .check(HEADWISE_SPEED, Measured::pairs(&speeds[0], &speeds[1]))
            .check(ELEMENTWISE_SPEED, Measured::pairs(&speeds[0], &speeds[2]))
            .falsifier(Measured::pairs(scores(PLAIN), scores(DAMAGED)))
            .sweep(swept))
    }
}

// 1. Limits.

struct Limits {
    open: f64,
    closed: f64,
    headwise: f64,
}

const TOKENS: usize = 9;
const WIDTH: usize = 16;
const HEADS: usize = 4;

/// A layer with 4 heads on inputs whose channel 0 is 1, so that the gate's weight on it is a bias.
fn limits(seed: u64) -> Result<Limits, GraphError> {
    let gate = |granularity: Option<Granularity>| AttentionConfig {
        gate: granularity.map(|granularity| GateConfig { granularity, ..GateConfig::default() }),
        ..AttentionConfig::new(HEADS, 2, WIDTH / HEADS)
    };
    let plain = output(&gate(None), seed, |_| 0.0)?;
    let bias = |logit: f64| move |i: usize| if i.is_multiple_of(WIDTH) { logit } else { 0.0 };
    let (mut open, mut closed) = (0.0f64, 0.0f64);
    for granularity in [Granularity::Elementwise, Granularity::Headwise] {
        let layer = gate(Some(granularity));
        open = open.max(difference(&plain, &output(&layer, seed, bias(1e4))?));
        closed = closed.max(difference(&vec![0.0; plain.len()], &output(&layer, seed, bias(-1e4))?));
    }
    // Row r of the weight is that of gate r: of head r, or of channel r of all heads.
    let row = |head: usize, column: usize| pseudo_random("gates", seed as usize * 97 + head * WIDTH + column);
    let by_head = output(&gate(Some(Granularity::Headwise)), seed, |i| row(i / WIDTH, i % WIDTH))?;
    let channels = WIDTH / HEADS;
    let by_channel = output(&gate(Some(Granularity::Elementwise)), seed, |i| row(i / WIDTH / channels, i % WIDTH))?;
    Ok(Limits { open, closed, headwise: difference(&by_head, &by_channel) })
}

fn difference(x: &[f32], y: &[f32]) -> f64 {
    let gaps = x.iter().zip(y).map(|(x, y)| f64::from((x - y).abs()));
    gaps.fold(0.0, |top: f64, gap| if gap <= top { top } else { gap })
}

/// What `layer` makes of the same random inputs; element i of its gate's weight is `gate(i)`.
fn output(layer: &AttentionConfig, seed: u64, gate: impl Fn(usize) -> f64) -> Result<Vec<f32>, GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, TOKENS, 1)?;
    let x = g.input("x", [TOKENS, WIDTH], Dtype::F32)?;
    let y = layer.forward(&mut g, &WeightTypes::new(), "mixer", x, &seqs)?;
    g.output("y", y);
    let mut memory = Memory::new();
    for (_, info) in g.values().filter(|(_, info)| matches!(info.source, Source::Weight)) {
        let elements = info.ty.bytes(&[]) / 4;
        let random = |i: usize| pseudo_random(&format!("{} {seed}", info.name), i);
        let of_gate = info.name.contains("gate_proj");
        let values: Vec<f32> = (0..elements).map(|i| if of_gate { gate(i) } else { random(i) } as f32).collect();
        memory.set(&info.name, Dtype::F32, &values)?;
    }
    let cu_seqlens = g.find("cu_seqlens");
    let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(1)))?;
    for (i, x) in e.input::<f32>(x).iter_mut().enumerate() {
        *x = if i.is_multiple_of(WIDTH) { 1.0 } else { pseudo_random("x", seed as usize * 1009 + i) as f32 };
    }
    if let Some(cu) = cu_seqlens.filter(|&cu| e.reads(cu)) {
        e.input::<i32>(cu).copy_from_slice(&[0, TOKENS as i32]);
    }
    e.run(&mut memory)?;
    Ok(e.output::<f32>("y").to_vec())
}

// 2. Algebra.

/// rank [A | Y] − rank A in f64: A [64, 32] what one head attended to, Y [64, 32] = (A W_v ⊙ σ(X W_θ)) W_o.
fn added_rank(seed: u64, gated: bool) -> f64 {
    let (tokens, width) = (64, 32);
    let mut rng = Philox::new(seed, 3);
    let mut random = |n: usize| -> Vec<f64> { (0..n).map(|_| 2.0 * rng.unit() - 1.0).collect() };
    let (x, q, k) = (random(tokens * width), random(tokens * HEAD), random(tokens * HEAD));
    let (to_values, to_gates, to_outputs) = (random(width * HEAD), random(width * HEAD), random(HEAD * width));
    let attention = Attention { key_width: HEAD, value_width: width, causal: true, ..Attention::default() };
    let cu = [0, tokens as i32];
    let (attended, _) = naive::Inputs {
        attention: &attention,
        q: &q,
        k: &k,
        v: &x,
        cu_seqlens_q: &cu,
        cu_seqlens_k: &cu,
        alibi_slopes: None,
        block_mask: None,
    }
    .forward();
    let product = |a: &[f64], b: &[f64], inner: usize| -> Vec<f64> {
        let columns = b.len() / inner;
        let dot = |row: &[f64], c: usize| row.iter().enumerate().map(|(i, a)| a * b[i * columns + c]).sum();
        a.chunks_exact(inner).flat_map(|row| (0..columns).map(move |c| dot(row, c))).collect()
    };
    let mut values = product(&attended, &to_values, width);
    if gated {
        let gates = product(&x, &to_gates, width);
        values.iter_mut().zip(gates).for_each(|(v, s)| *v /= 1.0 + (-s).exp());
    }
    let y = product(&values, &to_outputs, HEAD);
    let rows = |with_y: bool| -> Vec<Vec<f64>> {
        let pairs = attended.chunks_exact(width).zip(y.chunks_exact(width));
        pairs.map(|(a, y)| if with_y { [a, y].concat() } else { a.to_vec() }).collect()
    };
    rank(rows(true)) as f64 - rank(rows(false)) as f64
}

/// Numerical rank: pivots of Gaussian elimination, the largest element first, above 1e-10 of the first.
fn rank(mut rows: Vec<Vec<f64>>) -> usize {
    let columns = rows.first().map_or(0, Vec::len);
    let (mut first, mut done) = (0.0, 0);
    while done < rows.len().min(columns) {
        let places = (done..rows.len()).flat_map(|r| (0..columns).map(move |c| (r, c)));
        let Some((r, c)) = places.max_by(|a, b| rows[a.0][a.1].abs().total_cmp(&rows[b.0][b.1].abs())) else { break };
        let pivot = rows[r][c];
        first = if done == 0 { pivot.abs() } else { first };
        if pivot.abs() <= 1e-10 * first {
            break;
        }
        rows.swap(done, r);
        let top = rows[done].clone();
        for row in &mut rows[done + 1..] {
            let factor = row[c] / pivot;
            row.iter_mut().zip(&top).for_each(|(x, t)| *x -= factor * t);
            row[c] = 0.0;
        }
        done += 1;
    }
    done
}

// 3. Loss and rates.

const PLAIN: &str = "plain";
const GATED: &str = "gate a head";
const ELEMENTWISE: &str = "gate a channel";
const DAMAGED: &str = "gate a head, own token only";

/// Rates of the ladder start here.
const FIRST_RUNG: f64 = 3e-3;

struct Text {
    corpus: Arc<Corpus>,
    training: Training,
    /// Steps of a rung, and rungs at most.
    rung_steps: u64,
    most_rungs: u64,
    layers: usize,
    width: usize,
    /// Width of the model whose speed is measured, and timed steps.
    speed_width: usize,
    speed_steps: usize,
}

impl Text {
    fn read(run: &Run) -> Result<Text, Error> {
        let files = run.data(&TINY_SHAKESPEARE)?;
        let corpus = Corpus::read_bytes(&files, &Documents::Files, Fractions::default()).map_err(Error::experiment)?;
        Ok(Text {
            corpus: Arc::new(corpus),
            training: Training {
                steps: run.pick(3, 400, 4000),
                batch: run.pick(2, 8, 32),
                time: run.pick(16, 128, 256),
                measured: run.pick(2, 24, 48),
                figure: Figure::Nats,
            },
            rung_steps: run.pick(3, 80, 400),
            most_rungs: run.pick(1, 12, 12),
            layers: run.pick(1, 4, 8),
            width: run.pick(16, 128, 256),
            speed_width: run.pick(16, 256, 256),
            speed_steps: run.pick(1, 12, 50),
        })
    }

    fn task(&self, seed: u64) -> Result<TextTask, Error> {
        TextTask::new(self.corpus.clone(), self.training.time, 256, seed).map_err(Error::experiment)
    }

    fn model(&self, arm: &str, width: usize) -> ModelConfig {
        let gate = |granularity| Some(GateConfig { granularity, ..GateConfig::default() });
        let attention = AttentionConfig {
            rope: Some(RopeConfig::default()),
            qk_norm: true,
            gate: match arm {
                PLAIN => None,
                ELEMENTWISE => gate(Granularity::Elementwise),
                _ => gate(Granularity::Headwise),
            },
            window: (arm == DAMAGED).then_some(1),
            ..AttentionConfig::new(4, 4, width / 4)
        };
        let channel = ChannelConfig::Glu { hidden: width * 8 / 3, activation: Activation::Silu, bias: false };
        let layer = LayerConfig { mixer: MixerConfig::Attention(attention), channel };
        ModelConfig {
            vocab_size: 256,
            d_model: width,
            max_context: self.training.time,
            layers: vec![layer; self.layers],
            norm_eps: 1e-6,
            tie_embeddings: true,
            logit_softcap: None,
            learned_positions: false,
        }
    }

    /// How many rates, each 1.5 times the one before, train: the loss falls by half a nat and stays a number.
    fn rungs(&self, run: &Run, arm: &str, seed: u64) -> Result<f64, Error> {
        let training = Training { steps: self.rung_steps, ..self.training };
        let task = self.task(seed)?;
        for rung in 0..self.most_rungs {
            run.step("rungs of the ladder", rung, self.most_rungs)?;
            let mut trainer = training.trainer(run, &self.model(arm, self.width), seed)?;
            let rate = FIRST_RUNG * 1.5f64.powi(rung as i32);
            let losses = training.train(run, &mut trainer, &task, rate)?;
            let last = &losses[losses.len() - (losses.len() / 8).max(1)..];
            let end = last.iter().sum::<f64>() / last.len() as f64;
            if end.is_nan() || end > losses[0] - 0.5 {
                return Ok(rung as f64);
            }
        }
        Ok(self.most_rungs as f64)
    }

    // 4. Speed.

    /// Training tokens a second, plain, headwise and elementwise: steps in turns, the fastest of each.
    fn speeds(&self, run: &Run, seed: u64) -> Result<[f64; 3], Error> {
        let task = self.task(seed)?;
        let mut batches =
            Batches::new(&task, Split::Train, self.training.batch, Position::default()).map_err(Error::experiment)?;
        let mut arms = Vec::new();
        for arm in [PLAIN, GATED, ELEMENTWISE] {
            arms.push(self.training.trainer(run, &self.model(arm, self.speed_width), seed)?);
        }
        let mut best = [f64::INFINITY; 3];
        for step in 0..=self.speed_steps {
            run.step("timed steps", step as u64, self.speed_steps as u64 + 1)?;
            let batch = packed(&batches.next_batch().map_err(Error::experiment)?);
            for (trainer, best) in arms.iter_mut().zip(&mut best) {
                let start = Instant::now();
                trainer.step(std::slice::from_ref(&batch), 1e-4, &Optimizer::default()).map_err(Error::experiment)?;
                if step > 0 {
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
        }
        Ok(best.map(|seconds| (self.training.batch * self.training.time) as f64 / seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_counts_independent_rows() {
        let row = |a: f64, b: f64| vec![a, b, 2.0 * a - b, a + 3.0 * b];
        assert_eq!(rank(vec![row(1.0, 0.0), row(0.0, 1.0), row(5.0, -7.0), row(1e-3, 2e3)]), 2);
        assert_eq!(rank(vec![vec![0.0; 3]; 2]), 0);
        assert_eq!(rank(Vec::new()), 0);
    }

    #[test]
    fn a_gate_at_its_limits_is_none_or_all_and_adds_the_rank_of_its_head() {
        let limits = limits(5).unwrap();
        assert!(limits.open <= 1e-6 && limits.closed == 0.0 && limits.headwise <= 1e-6);
        assert_eq!((added_rank(5, false), added_rank(5, true)), (0.0, HEAD as f64));
        // The limits are of a layer that does something.
        let plain = output(&AttentionConfig::new(HEADS, 2, WIDTH / HEADS), 5, |_| 0.0).unwrap();
        assert!(plain.iter().all(|y| y.abs() > 0.0));
    }
}
