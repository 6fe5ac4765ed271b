//! Zoology (arXiv 2312.04927): multi-query recall separates mixers at clear levels.
//!
//! Two layers without channel layers read T tokens with n pairs of keys and values; at each query the value is asked for.
//! Expected: 1. a short convolution before attention solves it; 2. attention alone knows which values the sequence has but
//! not yet whose they are, and stays at the plateau 1/n for so few steps; 3. a mixer whose field cannot reach back to the
//! pair stays near chance. Rates are chosen on validation data, three for each arm.
//!
//! Not here: the width law, which needs a sweep of widths, and slices of recall in text.
//!
//! Falsifier: attention that sees 4 tokens, in place of attention that sees all.

use memwall_nn::{AttentionConfig, ChannelConfig, LayerConfig, MixerConfig, ModelConfig, RopeConfig, ShortConvConfig};
use memwall_tasks::{GeneratedData, GeneratedTask, GeneratorConfig, MqarConfig};

use crate::{
    About, Bar, Better, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, SweepPlan, TuneOn, sweep,
    trial::{Figure, Training},
};

const SOLVED: &str = "recall of convolution and attention";
const GAP: &str = "recall above that of a mixer with a short field";
const PLATEAU: &str = "distance of attention without convolution from the plateau 1/n";
const CHANCE: &str = "recall of two short convolutions";

static ABOUT: About = About {
    system: 12,
    name: "zoology",
    data: &[],
    checks: &[
        Check { what: SOLVED, kind: Kind::Value, unit: "accuracy", bar: Bar::at_least(0.95) },
        Check { what: GAP, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.5) },
        Check { what: PLATEAU, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: CHANCE, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
    ],
    falsifier: Falsifier { what: "attention that sees 4 tokens", against: SOLVED },
    source: include_str!("zoology.rs"),
};

/// The claim of Zoology.
pub struct Zoology;

/// Sizes of the experiment.
struct Sizes {
    vocabulary: usize,
    time: usize,
    pairs: usize,
    width: usize,
}

const ATTENTION: &str = "convolution, attention";
const WINDOW: &str = "convolution, attention to 4 tokens";
const ALONE: &str = "attention, attention";
const CONVOLUTIONS: &str = "convolution, convolution";

impl Claim for Zoology {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let sizes = run.pick(
            Sizes { vocabulary: 40, time: 16, pairs: 2, width: 8 },
            Sizes { vocabulary: 128, time: 64, pairs: 8, width: 64 },
            Sizes { vocabulary: 8192, time: 256, pairs: 16, width: 128 },
        );
        let training = Training {
            steps: run.pick(4, 1200, 20_000),
            batch: run.pick(4, 32, 64),
            time: sizes.time,
            measured: run.pick(2, 16, 32),
            figure: Figure::Accuracy,
        };
        let plan = SweepPlan {
            what: "recall",
            arms: &[WINDOW, ATTENTION, ALONE, CONVOLUTIONS],
            rates: &[1e-3, 3e-3, 1e-2],
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        let swept = sweep(run, plan, |arm, rate, seed| {
            let task = task(&sizes, &training, seed)?;
            training.trial(run, &model(arm, &sizes), &task, rate, seed)
        })?;
        let scores = |arm| swept.scores(arm).unwrap_or(&[]);
        let plateau = 1.0 / sizes.pairs as f64;
        let distance: Vec<f64> = scores(ALONE).iter().map(|a| (a - plateau).abs()).collect();
        Ok(Outcome::new()
            .check(SOLVED, Measured::values(scores(ATTENTION)))
            .check(GAP, Measured::pairs(scores(WINDOW), scores(ATTENTION)))
            .check(PLATEAU, Measured::values(&distance))
            .check(CHANCE, Measured::values(scores(CONVOLUTIONS)))
            .falsifier(Measured::values(scores(WINDOW)))
            .note(format!("chance is {:.3}, the plateau {plateau:.3}", 2.0 / sizes.vocabulary as f64))
            .sweep(swept))
    }
}

fn task(sizes: &Sizes, training: &Training, seed: u64) -> Result<GeneratedTask, Error> {
    let of = |batches: u64| {
        let examples = batches * training.batch as u64;
        let config = MqarConfig::new(sizes.vocabulary, sizes.time, sizes.pairs, examples);
        vec![GeneratorConfig::Mqar(MqarConfig { random_non_queries: false, ..config })]
    };
    GeneratedTask::new(GeneratedData {
        train_configs: of(training.steps),
        validation_configs: of(training.measured as u64),
        test_configs: of(training.measured as u64),
        seed,
    })
    .map_err(Error::experiment)
}

fn model(arm: &str, sizes: &Sizes) -> ModelConfig {
    let attention = |window| {
        let rope = Some(RopeConfig::default());
        MixerConfig::Attention(AttentionConfig { window, rope, ..AttentionConfig::new(1, 1, sizes.width) })
    };
    let convolution = || MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
    let mixers = match arm {
        ATTENTION => [convolution(), attention(None)],
        WINDOW => [convolution(), attention(Some(4))],
        ALONE => [attention(None), attention(None)],
        _ => [convolution(), convolution()],
    };
    ModelConfig {
        vocab_size: sizes.vocabulary,
        d_model: sizes.width,
        max_context: sizes.time,
        layers: mixers.map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).into(),
        norm_eps: 1e-5,
        tie_embeddings: true,
        logit_softcap: None,
        learned_positions: false,
        norm: Default::default(),
        embedding_norm: false,
        quantization: None,
    }
}
