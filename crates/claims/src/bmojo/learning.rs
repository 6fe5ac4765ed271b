//! Recall of pairs that no window reaches.

use memwall_nn::{
    AttentionConfig, BmojoConfig, EideticConfig, Mamba2Config, MixerConfig, ModelConfig, ShortConvConfig,
};
use memwall_tasks::{GeneratedData, GeneratedTask, GeneratorConfig, LongFillerMqarConfig, QueryPlaces};

use crate::compare::Frame;
use crate::evidence::Sweep;
use crate::trial::{Figure, Training};
use crate::{Better, Error, Run, SweepPlan, TuneOn, sweep};

pub(super) const WINDOWED: &str = "attention to 2W tokens";
pub(super) const FADING: &str = "B'MOJO-F";
pub(super) const EIDETIC: &str = "B'MOJO";
pub(super) const SHUT: &str = "B'MOJO, nothing enters the buffer";

/// An innovation that no token has.
const NEVER: f64 = 1e30;
/// Tokens of the smallest buffer.
const SMALLEST: usize = 16;
/// Ids of random filler.
const RANDOM: usize = 64;

/// Ids of filler, those of keys and values follow.
pub(super) fn filler(random: bool) -> usize {
    if random { RANDOM } else { 1 }
}

/// Sizes of a task, of its models and of their training.
pub(super) struct Sizes {
    /// W.
    pub(super) window: usize,
    pub(super) pairs: usize,
    /// Different keys, and as many values.
    pub(super) keys: usize,
    width: usize,
    heads: usize,
    parameters: u64,
    pub(super) training: Training,
}

/// Few pairs, so that one that is known to be among them is more than chance.
fn few_pairs(run: &Run) -> Sizes {
    let training = Training {
        steps: run.pick(3, 800, 10_000),
        batch: run.pick(2, 32, 32),
        time: run.pick(64, 256, 256),
        measured: run.pick(1, 8, 32),
        figure: Figure::Accuracy,
    };
    Sizes {
        window: run.pick(4, 16, 16),
        pairs: run.pick(2, 2, 4),
        keys: 16,
        width: run.pick(16, 64, 128),
        heads: 2,
        parameters: run.pick(20_000, 75_000, 500_000),
        training,
    }
}

/// Many pairs, so that the few tokens of filler that convolutions mix with the last of them weigh little.
pub(super) fn many_pairs(run: &Run) -> Sizes {
    let few = few_pairs(run);
    let training = Training { steps: run.pick(3, 300, 2000), batch: run.pick(2, 16, 32), ..few.training };
    Sizes { pairs: run.pick(4, 32, 32), keys: 64, parameters: run.pick(20_000, 90_000, 500_000), training, ..few }
}

impl Sizes {
    /// Sequences of `time` tokens with `pairs`.
    pub(super) fn examples(
        &self,
        random: bool,
        time: usize,
        pairs: usize,
        places: QueryPlaces,
        count: u64,
    ) -> GeneratorConfig {
        GeneratorConfig::LongFillerMqar(LongFillerMqarConfig {
            vocab_size: filler(random) + 2 * self.keys,
            input_seq_len: time,
            num_examples: count,
            num_kv_pairs: pairs,
            num_filler_ids: filler(random),
            query_places: places,
        })
    }

    /// Queries follow 2W tokens of filler behind the pairs.
    pub(super) fn task(&self, random: bool, seed: u64) -> Result<GeneratedTask, Error> {
        let Training { steps, batch, time, measured, .. } = self.training;
        let places = QueryPlaces::Apart { filler: 2 * self.window };
        let of = |batches: u64| vec![self.examples(random, time, self.pairs, places, batches * batch as u64)];
        let (train_configs, validation_configs) = (of(steps), of(measured as u64));
        let test_configs = validation_configs.clone();
        GeneratedTask::new(GeneratedData { train_configs, validation_configs, test_configs, seed })
            .map_err(Error::experiment)
    }

    /// Tokens of the buffer: keys and values of all pairs, and where those are few, as many as the smallest buffer has.
    pub(super) fn slots(&self) -> usize {
        (2 * self.pairs).max(SMALLEST)
    }

    fn eidetic(&self, arm: &str) -> Option<EideticConfig> {
        let buffer = EideticConfig::new(self.slots());
        match arm {
            EIDETIC => Some(buffer),
            SHUT => Some(EideticConfig { threshold: Some(NEVER), ..buffer }),
            _ => None,
        }
    }

    fn mixer(&self, arm: &str) -> MixerConfig {
        let (heads, head) = (self.heads, self.width / self.heads);
        if arm == WINDOWED {
            let window = Some(2 * self.window);
            return MixerConfig::Attention(AttentionConfig { window, ..AttentionConfig::new(heads, heads, head) });
        }
        // An expansion of 2, states of 16 channels, and many heads: few of them begin with decays slow enough.
        let memory = MixerConfig::Mamba2(Mamba2Config::new(16, self.width / 8, 16));
        let eidetic = self.eidetic(arm);
        MixerConfig::Bmojo(BmojoConfig { eidetic, ..BmojoConfig::new(heads, heads, head, self.window, memory) })
    }

    /// A short convolution, then the mixer, each before a channel layer as wide as the parameters allow.
    pub(super) fn model(&self, arm: &str) -> Result<ModelConfig, Error> {
        let frame = Frame {
            vocabulary: RANDOM + 2 * self.keys,
            context: self.training.time,
            tied: true,
            width: self.width,
            layers: 2,
            parameters: self.parameters,
        };
        let convolution = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
        let filled = frame.filled(&[convolution, self.mixer(arm)]).map_err(Error::experiment)?;
        filled.map_err(|least| Error::experiment(format!("{arm} has {least} parameters without channel layers")))
    }
}

/// Trains all arms.
pub(super) fn recall(run: &Run) -> Result<Sweep, Error> {
    let sizes = few_pairs(run);
    let plan = SweepPlan {
        what: "recall beyond the window",
        arms: &[WINDOWED, FADING, EIDETIC, SHUT],
        rates: &[1e-3, 3e-3, 1e-2],
        better: Better::Higher,
        tune_on: TuneOn::FirstSeed,
    };
    sweep(run, plan, |arm, rate, seed| {
        let (task, model) = (sizes.task(false, seed)?, sizes.model(arm)?);
        sizes.training.trial(run, &model, &task, rate, seed)
    })
}

/// The medians of all arms, and what knowing nothing and knowing values but not whose they are would give.
pub(super) fn note(run: &Run, swept: &Sweep) -> String {
    let (sizes, arms) = (few_pairs(run), swept.arms.iter());
    let arms: Vec<String> = arms.map(|arm| format!("{} {:.3}", arm.name, median(&arm.scores))).collect();
    format!(
        "median recall of {} pairs: {}; chance is {:.3}, any of the values of the sequence {:.3}",
        sizes.pairs,
        arms.join(", "),
        1.0 / sizes.keys as f64,
        1.0 / sizes.pairs as f64
    )
}

/// The middle of some figures.
pub(super) fn median(figures: &[f64]) -> f64 {
    let mut x = figures.to_vec();
    x.sort_by(f64::total_cmp);
    x.get(x.len() / 2).copied().unwrap_or(f64::NAN)
}
