//! Models that learn to name hidden states.

use std::collections::HashMap;

use memwall_nn::{
    AttentionConfig, DeltaGate, DeltaNetConfig, GlaConfig, MixerConfig, ModelConfig, RopeConfig, ShortConvConfig,
};
use memwall_tasks::selectivity::{Filler, Gaps, GrammarConfig, Part, Selectivity, SelectivityData, filter};
use memwall_tasks::{Split, Task};
use memwall_train::InputNoise;

use crate::compare::{Frame, states};
use crate::evidence::{Curve, Line, Point, Sweep};
use crate::trial::{Figure, Training};
use crate::{Better, Error, Run, SweepPlan, TuneOn, sweep};

pub(super) const UNGATED: &str = "linear attention";
pub(super) const GATED: &str = "gated linear attention";
pub(super) const FAST: &str = "gated linear attention, gate to 0";
pub(super) const OPEN: &str = "gate held open";
pub(super) const DELTA: &str = "DeltaNet";
pub(super) const GATED_DELTA: &str = "Gated DeltaNet";
pub(super) const ATTENTION: &str = "attention";
pub(super) const CONVOLUTIONS: &str = "convolutions";

const RATES: [f64; 3] = [1e-3, 3e-3, 1e-2];
/// Gap steps of the test of generalization: five times the most that was learned.
const LONG: usize = 50;
/// How many times longer its sequences are.
const LONGER: usize = 4;

/// Sizes of the experiment.
struct Sizes {
    grammar: GrammarConfig,
    learned: Gaps,
    asked: Gaps,
    noise: bool,
    training: Training,
}

fn sizes(run: &Run, depth: usize, learned: Gaps, asked: Gaps, noise: bool) -> Sizes {
    let (letters, depth) = run.pick((6, 2), (8, depth), (40, 40));
    let training = Training {
        steps: run.pick(3, 600, 3125),
        batch: run.pick(4, 16, 64),
        time: run.pick(32, 128, 400),
        measured: run.pick(2, 16, 16),
        figure: Figure::Accuracy,
    };
    Sizes { grammar: GrammarConfig::new(letters + 1, letters, depth), learned, asked, noise, training }
}

impl Sizes {
    fn task(&self, asked: &Gaps, longer: usize, seed: u64) -> Result<Selectivity, Error> {
        let Training { steps, batch, time, measured, .. } = self.training;
        let part = |gaps: &Gaps, input_seq_len: usize, batches: u64| Part {
            gaps: gaps.clone(),
            input_seq_len,
            num_examples: batches * batch as u64,
        };
        Selectivity::new(SelectivityData {
            grammar: self.grammar.clone(),
            train: part(&self.learned, time, steps),
            validation: part(&self.learned, time, measured as u64),
            test: part(asked, longer * time, measured as u64),
            seed,
        })
        .map_err(Error::experiment)
    }

    fn noise(&self) -> Option<InputNoise> {
        self.noise.then_some(InputNoise { amplitude: 0.2, ids: self.grammar.vocab_size })
    }

    /// Two layers of one mixer under equal parameters.
    fn model(&self, run: &Run, arm: &str) -> Result<ModelConfig, Error> {
        let width = run.pick(16, 64, 256);
        let frame = Frame {
            vocabulary: self.grammar.states().max(self.grammar.vocab_size + 1),
            context: LONGER * self.training.time,
            tied: false,
            width,
            layers: 2,
            parameters: run.pick(20_000, 100_000, 3_000_000),
        };
        let filled = frame.filled(&[mixer(arm, width)]).map_err(Error::experiment)?;
        filled.map_err(|least| Error::experiment(format!("{arm} has {least} parameters without channel layers")))
    }

    fn sweep(
        &self,
        run: &Run,
        what: &str,
        arms: &[&str],
        mut then: impl FnMut(&str, f64, u64, &mut memwall_train::Trainer) -> Result<(), Error>,
    ) -> Result<Sweep, Error> {
        let plan = SweepPlan { what, arms, rates: &RATES, better: Better::Higher, tune_on: TuneOn::FirstSeed };
        sweep(run, plan, |arm, rate, seed| {
            let (model, task) = (self.model(run, arm)?, self.task(&self.asked, 1, seed)?);
            let (trial, mut trainer) = states::trial(run, &self.training, &model, &task, self.noise(), rate, seed)?;
            then(arm, rate, seed, &mut trainer)?;
            Ok(trial)
        })
    }
}

fn mixer(arm: &str, width: usize) -> MixerConfig {
    let heads = 2;
    let head = width / heads;
    let taps = 4;
    let gla = || GlaConfig {
        short_conv: Some(taps),
        gate_low_rank: 16.min(head / 2),
        ..GlaConfig::new(heads, head / 2, head)
    };
    let delta = || DeltaNetConfig { short_conv: taps, ..DeltaNetConfig::new(heads, head / 2, head) };
    match arm {
        UNGATED => MixerConfig::Gla(GlaConfig { gate: false, ..gla() }),
        GATED => MixerConfig::Gla(gla()),
        FAST => MixerConfig::Gla(GlaConfig { gate_logit_normalizer: 1.0, ..gla() }),
        OPEN => MixerConfig::Gla(GlaConfig { gate_logit_normalizer: 16e6, ..gla() }),
        DELTA => MixerConfig::DeltaNet(DeltaNetConfig { gate: DeltaGate::None, ..delta() }),
        GATED_DELTA => MixerConfig::DeltaNet(delta()),
        ATTENTION => MixerConfig::Attention(AttentionConfig {
            rope: Some(RopeConfig { theta: 1000.0, ..RopeConfig::default() }),
            qk_norm: true,
            ..AttentionConfig::new(heads, heads, head)
        }),
        _ => MixerConfig::ShortConv(ShortConvConfig { taps, gated: true }),
    }
}

/// What came out among noisy gaps, and at longer ones.
pub(super) struct Generalized {
    pub(super) sweep: Sweep,
    /// The Bayes filter's share, a seed each.
    pub(super) filter: Vec<f64>,
    /// Arm and seed, at the rate that was chosen: accuracy at long gaps.
    long: HashMap<(String, u64), f64>,
    seeds: Vec<u64>,
}

/// Noisy gaps of 1 to 10 steps; asked with 10, and with 50 after no more training.
pub(super) fn gaps(run: &Run) -> Result<Generalized, Error> {
    let sizes = sizes(run, 8, Gaps::blanks(1, 10), Gaps::blanks(10, 10), true);
    let arms = [UNGATED, GATED, FAST, OPEN, DELTA, GATED_DELTA, ATTENTION, CONVOLUTIONS];
    let mut long = HashMap::new();
    let sweep = sizes.sweep(run, "noisy gaps", &arms, |arm, rate, seed, trainer| {
        // The same automaton and training sequences: the seed decides both.
        let task = sizes.task(&Gaps::blanks(LONG, LONG), LONGER, seed)?;
        let accuracy = states::measure(&sizes.training, trainer, &task, Split::Test)?;
        long.insert((arm.to_string(), rate.to_bits(), seed), accuracy);
        Ok(())
    })?;
    let chosen = |arm: &str| sweep.arms.iter().find(|a| a.name == arm).map(|a| a.chosen_rate.to_bits());
    let long = long.into_iter().filter(|((arm, rate, _), _)| chosen(arm) == Some(*rate));
    let long = long.map(|((arm, _, seed), accuracy)| ((arm, seed), accuracy)).collect();
    let filter = run.seeds().iter().map(|&seed| {
        let task = sizes.task(&sizes.asked, 1, seed)?;
        filter::accuracy(&task, Split::Test, task.groups(Split::Test)[0]).map_err(Error::experiment)
    });
    Ok(Generalized { filter: filter.collect::<Result<_, _>>()?, sweep, long, seeds: run.seeds().to_vec() })
}

impl Generalized {
    fn long(&self, arm: &str) -> Vec<f64> {
        self.seeds.iter().map(|&s| self.long.get(&(arm.to_string(), s)).copied().unwrap_or(f64::NAN)).collect()
    }

    /// What an arm loses when gaps are longer than learned, a seed each.
    pub(super) fn loss(&self, arm: &str) -> Vec<f64> {
        let near = self.sweep.scores(arm).unwrap_or(&[]);
        near.iter().zip(self.long(arm)).map(|(near, long)| near - long).collect()
    }

    /// Accuracy over the length of gaps.
    pub(super) fn curve(&self) -> Curve {
        let line = |arm: &crate::evidence::Arm| Line {
            name: arm.name.clone(),
            points: vec![
                Point { x: 10.0, per_seed: arm.scores.clone() },
                Point { x: LONG as f64, per_seed: self.long(&arm.name) },
            ],
        };
        Curve {
            what: "states named, learned with gaps of 1 to 10 steps".into(),
            x_label: "gap steps in the test".into(),
            y_label: "accuracy".into(),
            log_x: true,
            log_y: false,
            lines: self.sweep.arms.iter().map(line).collect(),
        }
    }

    /// The median of every arm at learned gaps and at longer ones.
    pub(super) fn note(&self) -> String {
        let median = |mut x: Vec<f64>| {
            x.sort_by(f64::total_cmp);
            x.get(x.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let arms = self.sweep.arms.iter().map(|arm| {
            format!("{} {:.3} and {:.3}", arm.name, median(arm.scores.clone()), median(self.long(&arm.name)))
        });
        format!("median at gaps of 10 and of {LONG} steps: {}", arms.collect::<Vec<_>>().join(", "))
    }
}

/// One ungrammatical symbol behind one symbol in ten.
pub(super) fn distractors(run: &Run) -> Result<Sweep, Error> {
    let start = run.pick(8, 32, 50);
    let gaps = Gaps { filler: Filler::Ungrammatical, probability: 0.1, start, ..Gaps::blanks(1, 1) };
    sizes(run, 8, gaps.clone(), gaps, false)
        .sweep(run, "ungrammatical symbols", &[FAST, GATED_DELTA], |_, _, _, _| Ok(()))
}

/// Twice the states a letter, a blank behind each symbol.
pub(super) fn memory(run: &Run) -> Result<Sweep, Error> {
    let gaps = Gaps::blanks(1, 1);
    let arms = [FAST, GATED_DELTA, ATTENTION];
    sizes(run, 16, gaps.clone(), gaps, false).sweep(run, "many states", &arms, |_, _, _, _| Ok(()))
}
