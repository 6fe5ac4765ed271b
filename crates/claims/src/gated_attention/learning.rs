//! Models of characters with and without the gate: how far up a ladder of rates they learn, how fast they train, and what
//! the first token draws of their attention.

use std::time::Instant;

use memwall_nn::{AttentionConfig, GateConfig, Granularity, MixerConfig, ModelConfig, RopeConfig, Sinks};
use memwall_tasks::{Batches, Position, Split};
use memwall_train::{Optimizer, Trainer};

use super::sinks::{probe, test_batch};
use crate::{
    Error, Run, Trial,
    characters::Characters,
    trial::{Training, packed},
};

pub(super) const PLAIN: &str = "plain";
pub(super) const GATED: &str = "gate a head";
pub(super) const ELEMENTWISE: &str = "gate a channel";
pub(super) const DAMAGED: &str = "gate a head, own token only";

/// Rates of the ladder: from here on, each 1.5 times the one before.
const FIRST_RUNG: f64 = 3e-2;

pub(super) struct Learning {
    text: Characters,
    /// Steps of a rung, and rungs at most.
    rung_steps: u64,
    most_rungs: u64,
    /// Width of the models whose speed is measured, and timed steps.
    speed_width: usize,
    speed_steps: usize,
}

/// Rates of a ladder in rising order, and the loss at the end of each; the last rung may have failed.
pub(super) struct Ladder {
    /// Rungs that train: the loss falls by half a nat and stays a number.
    pub(super) rungs: f64,
    /// Loss at the end of every rung that was tried.
    pub(super) losses: Vec<f64>,
}

/// Rate of a rung.
pub(super) fn rate(rung: usize) -> f64 {
    FIRST_RUNG * 1.5f64.powi(rung as i32)
}

impl Learning {
    pub(super) fn new(run: &Run) -> Result<Learning, Error> {
        Ok(Learning {
            text: Characters::read(run)?,
            rung_steps: run.pick(3, 80, 400),
            most_rungs: run.pick(1, 16, 16),
            speed_width: run.pick(16, 256, 256),
            speed_steps: run.pick(1, 24, 50),
        })
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
        self.text.model(MixerConfig::Attention(attention), width)
    }

    /// Loss after training at `rate`, and the signs of sinks in the trained model.
    pub(super) fn trial(&self, run: &Run, arm: &str, rate: f64, seed: u64) -> Result<(Trial, Sinks), Error> {
        let model = self.model(arm, self.text.width);
        let (trial, mut trainer) = self.text.training.trained(run, &model, &self.text.task(seed)?, rate, seed)?;
        Ok((trial, self.sinks(&mut trainer, seed)?))
    }

    /// How far up the ladder training goes, every rung a run of its own.
    pub(super) fn ladder(&self, run: &Run, arm: &str, seed: u64) -> Result<Ladder, Error> {
        let training = Training { steps: self.rung_steps, ..self.text.training };
        let (task, model) = (self.text.task(seed)?, self.model(arm, self.text.width));
        let mut ladder = Ladder { rungs: 0.0, losses: Vec::new() };
        for rung in 0..self.most_rungs {
            run.step("rungs of the ladder", rung, self.most_rungs)?;
            let mut trainer = training.trainer(run, &model, seed)?;
            let losses = training.train(run, &mut trainer, &task, rate(rung as usize))?;
            let last = &losses[losses.len() - (losses.len() / 8).max(1)..];
            let end = last.iter().sum::<f64>() / last.len() as f64;
            ladder.losses.push(end);
            if end.is_nan() || end > losses[0] - 0.5 {
                break;
            }
            ladder.rungs += 1.0;
        }
        Ok(ladder)
    }

    /// Training tokens a second, plain, headwise and elementwise: steps in turns, the fastest of each.
    pub(super) fn speeds(&self, run: &Run, seed: u64) -> Result<[f64; 3], Error> {
        let (task, training) = (self.text.task(seed)?, &self.text.training);
        let mut batches =
            Batches::new(&task, Split::Train, training.batch, Position::default()).map_err(Error::experiment)?;
        let mut arms = Vec::new();
        for arm in [PLAIN, GATED, ELEMENTWISE] {
            arms.push(training.trainer(run, &self.model(arm, self.speed_width), seed)?);
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
        Ok(best.map(|seconds| (training.batch * training.time) as f64 / seconds))
    }

    /// What a trained model does with the first token, on a batch of the test text; queries of the last three quarters.
    fn sinks(&self, trainer: &mut Trainer, seed: u64) -> Result<Sinks, Error> {
        let (task, training) = (self.text.task(seed)?, &self.text.training);
        probe(trainer, &test_batch(&task, training.batch)?, training.time / 4)
    }
}
