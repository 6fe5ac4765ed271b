//! Recall with a small state, and the trained model under fewer and more steps.

use std::collections::HashMap;

use memwall_formats::Dtype;
use memwall_graph::Memory;
use memwall_nn::{
    ChannelConfig, GatedKalmanetConfig, GlaConfig, LayerConfig, MixerConfig, ModelConfig, ShortConvConfig,
};
use memwall_tasks::{GeneratedData, GeneratedTask, GeneratorConfig, MqarConfig, Split};
use memwall_train::{Trainer, TrainerOptions};

use crate::evidence::{Curve, Line, Point, Sweep};
use crate::largest::largest;
use crate::trial::{Figure, Training};
use crate::{Better, Error, Run, SweepPlan, TuneOn, sweep};

pub(super) const WIDE: &str = "gated linear attention, keys of 16";
pub(super) const UNGATED: &str = "linear attention";
pub(super) const GATED: &str = "gated linear attention";
pub(super) const KALMANET: &str = "Gated KalmaNet";
pub(super) const UNSOLVED: &str = "Gated KalmaNet, nothing solved";

/// Steps of the iteration that the trained model is asked with.
const STEPS: [usize; 8] = [1, 2, 5, 10, 15, 20, 30, 50];

/// Sizes of the experiment.
struct Sizes {
    vocabulary: usize,
    pairs: usize,
    heads: usize,
    head_dim: usize,
    training: Training,
}

fn sizes(run: &Run) -> Sizes {
    let (vocabulary, time, pairs, heads) = run.pick((40, 16, 2, 1), (256, 128, 32, 8), (8192, 256, 64, 8));
    let training = Training {
        steps: run.pick(3, 3000, 10_000),
        batch: run.pick(2, 8, 64),
        time,
        measured: run.pick(1, 16, 32),
        figure: Figure::Accuracy,
    };
    Sizes { vocabulary, pairs, heads, head_dim: 8, training }
}

impl Sizes {
    fn task(&self, seed: u64) -> Result<GeneratedTask, Error> {
        let of = |batches: u64| {
            let examples = batches * self.training.batch as u64;
            let config = MqarConfig::new(self.vocabulary, self.training.time, self.pairs, examples);
            vec![GeneratorConfig::Mqar(MqarConfig { random_non_queries: false, ..config })]
        };
        GeneratedTask::new(GeneratedData {
            train_configs: of(self.training.steps),
            validation_configs: of(self.training.measured as u64),
            test_configs: of(self.training.measured as u64),
            seed,
        })
        .map_err(Error::experiment)
    }

    fn memory(&self, arm: &str) -> MixerConfig {
        let (heads, width) = (self.heads, self.head_dim);
        let gla = |key_width| GlaConfig {
            short_conv: Some(4),
            gate_low_rank: width,
            ..GlaConfig::new(heads, key_width, width)
        };
        // Chunks of 32: of a head as narrow as this, pairs cost more than the state.
        let kalmanet = GatedKalmanetConfig { chunk_size: 32, ..GatedKalmanetConfig::new(heads, width) };
        match arm {
            WIDE => MixerConfig::Gla(gla(2 * width)),
            UNGATED => MixerConfig::Gla(GlaConfig { gate: false, ..gla(width) }),
            GATED => MixerConfig::Gla(gla(width)),
            UNSOLVED => MixerConfig::GatedKalmanet(GatedKalmanetConfig { num_iter: 0, ..kalmanet }),
            _ => MixerConfig::GatedKalmanet(kalmanet),
        }
    }

    /// A short convolution, then the memory.
    fn model(&self, memory: MixerConfig) -> ModelConfig {
        let convolution = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
        ModelConfig {
            tie_embeddings: true,
            ..ModelConfig::new(
                self.vocabulary,
                self.heads * self.head_dim,
                self.training.time,
                [convolution, memory].map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).into(),
            )
        }
    }

    /// Losses of a trained model when it takes other numbers of steps.
    fn losses(&self, run: &Run, trained: &Trainer, task: &GeneratedTask, seed: u64) -> Result<Vec<f64>, Error> {
        let nats = Training { figure: Figure::Nats, ..self.training };
        STEPS
            .iter()
            .map(|&num_iter| {
                let MixerConfig::GatedKalmanet(layer) = self.memory(KALMANET) else { return Ok(f64::NAN) };
                let model = self.model(MixerConfig::GatedKalmanet(GatedKalmanetConfig { num_iter, ..layer }));
                let mut memory = Memory::within(run.budget());
                for name in trained.parameters() {
                    let weights = trained.memory().get::<f32>(name).unwrap_or_default();
                    memory.set(name, Dtype::F32, weights).map_err(Error::experiment)?;
                }
                let options = TrainerOptions {
                    tokens: self.training.batch * self.training.time,
                    sequences: self.training.batch,
                    threads: run.threads(),
                    compute: memwall_kernels::gemm::Compute::F32,
                    recompute: 0,
                    seed,
                    input_noise: None,
                    distillation: None,
                    fences: false,
                };
                let mut asked = Trainer::new(model, options, memory).map_err(Error::experiment)?;
                nats.measure(&mut asked, task, Split::Test)
            })
            .collect()
    }
}

/// What was trained, and its losses over the number of steps.
pub(super) struct Trained {
    pub(super) sweep: Sweep,
    /// By seed, in the order of [`STEPS`], at the rate that was chosen.
    losses: Vec<Vec<f64>>,
}

/// Trains all arms on recall, and asks Gated KalmaNet with other numbers of steps.
pub(super) fn recall(run: &Run) -> Result<Trained, Error> {
    let sizes = sizes(run);
    let plan = SweepPlan {
        what: "recall",
        arms: &[WIDE, UNGATED, GATED, KALMANET, UNSOLVED],
        rates: &[1e-3, 3e-3, 1e-2],
        better: Better::Higher,
        tune_on: TuneOn::FirstSeed,
    };
    let mut by_trial: HashMap<(u64, u64), Vec<f64>> = HashMap::new();
    let sweep = sweep(run, plan, |arm, rate, seed| {
        let (task, model) = (sizes.task(seed)?, sizes.model(sizes.memory(arm)));
        let (trial, trainer) = sizes.training.trained(run, &model, &task, rate, seed)?;
        if arm == KALMANET {
            by_trial.insert((rate.to_bits(), seed), sizes.losses(run, &trainer, &task, seed)?);
        }
        Ok(trial)
    })?;
    let chosen = sweep.arms.iter().find(|arm| arm.name == KALMANET).map_or(0, |arm| arm.chosen_rate.to_bits());
    let losses = run.seeds().iter().map(|&seed| by_trial.remove(&(chosen, seed)).unwrap_or_default()).collect();
    Ok(Trained { sweep, losses })
}

impl Trained {
    /// The largest rise of the loss from a number of steps to the next, a seed each.
    pub(super) fn rises(&self) -> Vec<f64> {
        self.losses.iter().map(|losses| largest(losses.windows(2).map(|w| w[1] - w[0]))).collect()
    }

    /// How far the loss after 20 steps is from that after 30, a seed each.
    pub(super) fn distances(&self) -> Vec<f64> {
        let at = |losses: &[f64], steps: usize| {
            STEPS.iter().position(|&s| s == steps).and_then(|i| losses.get(i)).copied().unwrap_or(f64::NAN)
        };
        self.losses.iter().map(|losses| (at(losses, 20) - at(losses, 30)).abs()).collect()
    }

    /// Loss over the number of steps.
    pub(super) fn curve(&self) -> Curve {
        let at = |i: usize| self.losses.iter().map(|losses| losses.get(i).copied().unwrap_or(f64::NAN)).collect();
        Curve {
            what: "Gated KalmaNet, trained with 30 steps, asked with others".into(),
            x_label: "steps of the iteration".into(),
            y_label: "nats a query".into(),
            log_x: true,
            log_y: false,
            lines: vec![Line {
                name: KALMANET.into(),
                points: STEPS.iter().enumerate().map(|(i, &x)| Point { x: x as f64, per_seed: at(i) }).collect(),
            }],
        }
    }

    /// The medians of all arms, and the bytes of state that they keep.
    pub(super) fn note(&self) -> String {
        let median = |scores: &[f64]| {
            let mut x = scores.to_vec();
            x.sort_by(f64::total_cmp);
            x.get(x.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let arms: Vec<String> =
            self.sweep.arms.iter().map(|arm| format!("{} {:.3}", arm.name, median(&arm.scores))).collect();
        format!(
            "median recall: {}; Gated KalmaNet keeps H beside U, as many elements as {WIDE}, and twice those of the others",
            arms.join(", ")
        )
    }
}
