//! Characters of plays, and recall, with attention in every layer, in some, and in none.

use memwall_nn::{AttentionConfig, LayerConfig, MixerConfig, ModelConfig, RopeConfig, ShortConvConfig};

use crate::{Better, Error, Run, SweepPlan, TuneOn, characters::Characters, evidence::Sweep, recall::Recall, sweep};

pub(super) const ATTENTION: &str = "all attention";
pub(super) const HYBRID: &str = "convolutions and attention";
pub(super) const CONVOLUTIONS: &str = "all convolutions";

const RATES: [f64; 3] = [1e-3, 3e-3, 1e-2];

pub(super) struct Learning {
    text: Characters,
    layers: usize,
    recall: Recall,
}

fn attention(heads: usize, width: usize) -> MixerConfig {
    let rope = Some(RopeConfig::default());
    MixerConfig::Attention(AttentionConfig { rope, ..AttentionConfig::new(heads, heads, width / heads) })
}

fn convolution() -> MixerConfig {
    MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true })
}

impl Learning {
    pub(super) fn new(run: &Run) -> Result<Learning, Error> {
        Ok(Learning { text: Characters::read(run)?, layers: run.pick(3, 6, 9), recall: Recall::new(run) })
    }

    /// Two convolutions and one attention, again and again.
    fn model(&self, arm: &str) -> ModelConfig {
        let width = self.text.width;
        let mut model = self.text.model(convolution(), width);
        let block = model.layers[0].clone();
        let attends = |i: usize| arm == ATTENTION || (arm == HYBRID && i % 3 == 2);
        let mixer = |i| if attends(i) { attention(width.div_ceil(64), width) } else { convolution() };
        model.layers = (0..self.layers).map(|i| LayerConfig { mixer: mixer(i), ..block.clone() }).collect();
        model
    }

    pub(super) fn text(&self, run: &Run) -> Result<Sweep, Error> {
        let plan = SweepPlan {
            what: "characters",
            arms: &[ATTENTION, HYBRID, CONVOLUTIONS],
            rates: &RATES,
            better: Better::Lower,
            tune_on: TuneOn::FirstSeed,
        };
        sweep(run, plan, |arm, rate, seed| {
            self.text.training.trial(run, &self.model(arm), &self.text.task(seed)?, rate, seed)
        })
    }

    pub(super) fn recall(&self, run: &Run) -> Result<Sweep, Error> {
        let plan = SweepPlan {
            what: "recall",
            arms: &[CONVOLUTIONS, HYBRID],
            rates: &RATES,
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        sweep(run, plan, |arm, rate, seed| {
            let second = if arm == HYBRID { self.recall.attention(None) } else { self.recall.convolution() };
            self.recall.trial(run, [self.recall.convolution(), second], rate, seed)
        })
    }
}
