//! What the gate is for: recall of keys that were written again, recall in long filler, and characters of plays.

use memwall_nn::{
    AttentionConfig, ChannelConfig, GlaConfig, LayerConfig, MixerConfig, ModelConfig, RopeConfig, ShortConvConfig,
};
use memwall_tasks::{
    ForgettingMqarConfig, GeneratedData, GeneratedTask, GeneratorConfig, LongFillerMqarConfig, QueryPlaces,
};

use crate::{
    Better, Error, Run, SweepPlan, TuneOn,
    characters::Characters,
    evidence::Sweep,
    sweep,
    trial::{Figure, Training},
};

pub(super) const UNGATED: &str = "linear attention";
pub(super) const GATED: &str = "gated linear attention";
pub(super) const OPEN: &str = "gate held open";
pub(super) const ATTENTION: &str = "attention";

/// The published layer, without its gate, or with a gate that cannot close.
fn variant(arm: &str, published: GlaConfig) -> MixerConfig {
    MixerConfig::Gla(match arm {
        UNGATED => GlaConfig { gate: false, ..published },
        OPEN => GlaConfig { gate_logit_normalizer: 1e6, ..published },
        _ => published,
    })
}

/// A recall task, and models of a short convolution and one head of linear attention, no channel layers.
struct Recall {
    what: &'static str,
    vocabulary: usize,
    time: usize,
    pairs: usize,
    /// Ids that are filler; none: the pairs are written again instead.
    filler: usize,
    width: usize,
    key_width: usize,
    training: Training,
}

/// Recall of keys that are all written again with another value.
pub(super) fn forgetting(run: &Run) -> Result<Sweep, Error> {
    let (vocabulary, time, pairs, width, key_width) =
        run.pick((40, 32, 2, 8, 2), (128, 64, 8, 64, 16), (512, 256, 32, 128, 32));
    let training = Training {
        steps: run.pick(4, 1200, 10_000),
        batch: run.pick(4, 32, 64),
        time,
        measured: run.pick(2, 16, 32),
        figure: Figure::Accuracy,
    };
    Recall { what: "forgetting recall", vocabulary, time, pairs, filler: 0, width, key_width, training }.sweep(run)
}

/// Recall of pairs and queries that lie anywhere in long random filler.
pub(super) fn filler(run: &Run) -> Result<Sweep, Error> {
    let (vocabulary, time, pairs, width, key_width) =
        run.pick((40, 32, 2, 8, 2), (128, 256, 8, 64, 16), (512, 512, 32, 128, 32));
    let training = Training {
        steps: run.pick(4, 1200, 10_000),
        batch: run.pick(4, 16, 64),
        time,
        measured: run.pick(2, 16, 32),
        figure: Figure::Accuracy,
    };
    // A quarter of the ids are keys and values, half of it each.
    let filler = vocabulary / 4 * 3;
    Recall { what: "recall in filler", vocabulary, time, pairs, filler, width, key_width, training }.sweep(run)
}

impl Recall {
    fn sweep(&self, run: &Run) -> Result<Sweep, Error> {
        let plan = SweepPlan {
            what: self.what,
            arms: &[UNGATED, GATED, OPEN],
            rates: &[3e-4, 1e-3, 3e-3],
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        sweep(run, plan, |arm, rate, seed| self.training.trial(run, &self.model(arm), &self.task(seed)?, rate, seed))
    }

    fn examples(&self, num_examples: u64) -> GeneratorConfig {
        let (vocab_size, input_seq_len, num_kv_pairs) = (self.vocabulary, self.time, self.pairs);
        if self.filler == 0 {
            GeneratorConfig::ForgettingMqar(ForgettingMqarConfig {
                vocab_size,
                input_seq_len,
                num_examples,
                num_kv_pairs,
                num_updates: num_kv_pairs,
                power_a: 0.01,
                random_non_queries: false,
            })
        } else {
            GeneratorConfig::LongFillerMqar(LongFillerMqarConfig {
                vocab_size,
                input_seq_len,
                num_examples,
                num_kv_pairs,
                num_filler_ids: self.filler,
                query_places: QueryPlaces::Anywhere,
            })
        }
    }

    fn task(&self, seed: u64) -> Result<GeneratedTask, Error> {
        let of = |batches: u64| vec![self.examples(batches * self.training.batch as u64)];
        GeneratedTask::new(GeneratedData {
            train_configs: of(self.training.steps),
            validation_configs: of(self.training.measured as u64),
            test_configs: of(self.training.measured as u64),
            seed,
        })
        .map_err(Error::experiment)
    }

    fn model(&self, arm: &str) -> ModelConfig {
        let published = GlaConfig { gate_low_rank: self.key_width, ..GlaConfig::new(1, self.key_width, self.width) };
        let convolution = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
        let mixers = [convolution, variant(arm, published)];
        ModelConfig {
            tie_embeddings: true,
            ..ModelConfig::new(
                self.vocabulary,
                self.width,
                self.time,
                mixers.map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).into(),
            )
        }
    }
}

/// Loss on characters of plays of linear attention, with and without its gate, and of attention.
pub(super) fn characters(run: &Run) -> Result<Sweep, Error> {
    let text = Characters::read(run)?;
    let plan = SweepPlan {
        what: "characters",
        arms: &[ATTENTION, UNGATED, GATED],
        rates: &[1e-3, 3e-3, 1e-2],
        better: Better::Lower,
        tune_on: TuneOn::FirstSeed,
    };
    sweep(run, plan, |arm, rate, seed| {
        let (heads, width) = (4, text.width);
        let mixer = match arm {
            ATTENTION => MixerConfig::Attention(AttentionConfig {
                rope: Some(RopeConfig::default()),
                qk_norm: true,
                ..AttentionConfig::new(heads, heads, width / heads)
            }),
            // Keys half as wide as the model, values as wide, as published.
            _ => {
                let published = GlaConfig::new(heads, width / 2 / heads, width / heads);
                variant(arm, GlaConfig { gate_low_rank: run.pick(2, published.gate_low_rank, 16), ..published })
            }
        };
        text.training.trial(run, &text.model(mixer, width), &text.task(seed)?, rate, seed)
    })
}
