//! One training run of a claim: a model on a task, by steps, to a figure chosen by and a figure reported.

use memwall_graph::Memory;
use memwall_kernels::gemm::Compute;
use memwall_nn::ModelConfig;
use memwall_tasks::{Batches, Position, Split, Task, Tokens, metrics};
use memwall_train::{Batch, Evaluated, InputNoise, Optimizer, Schedule, TrainError, Trainer, TrainerOptions};

use crate::{Error, Run, Trial};

/// What every arm of a comparison gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Training {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences in a step, and in a batch of a measurement.
    pub batch: usize,
    /// Tokens of a sequence.
    pub time: usize,
    /// Batches of the validation split, and of the test split, that are measured.
    pub measured: usize,
    /// What is measured.
    pub figure: Figure,
}

/// A figure of a model on a split.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Figure {
    /// Share of the labelled positions at which the largest logit is the target's.
    Accuracy,
    /// Mean surprise in nats of a labelled position.
    Nats,
}

impl Training {
    /// A trainer of `config` with weights of `seed`.
    pub(crate) fn trainer(&self, run: &Run, config: &ModelConfig, seed: u64) -> Result<Trainer, Error> {
        self.noisy_trainer(run, config, seed, None)
    }

    /// A trainer whose inputs are noisy, in training and in measurements.
    pub(crate) fn noisy_trainer(
        &self,
        run: &Run,
        config: &ModelConfig,
        seed: u64,
        noise: Option<InputNoise>,
    ) -> Result<Trainer, Error> {
        let options = TrainerOptions {
            tokens: self.batch * self.time,
            sequences: self.batch,
            threads: run.threads(),
            compute: Compute::F32,
            recompute: 0,
            seed,
            input_noise: noise,
            distillation: None,
            fences: false,
        };
        Trainer::new(config.clone(), options, Memory::within(run.budget())).map_err(Error::experiment)
    }

    /// Trains with a cosine from `rate` to 0 after a twentieth of warm-up, and gives the losses of the steps.
    ///
    /// Loss or gradients that are not finite end it: the last loss is then NaN.
    pub(crate) fn train<T: Task<Example = Tokens>>(
        &self,
        run: &Run,
        trainer: &mut Trainer,
        task: &T,
        rate: f64,
    ) -> Result<Vec<f64>, Error> {
        let schedule = Schedule { peak: rate, last: 0.0, warm_up: self.steps / 20, steps: self.steps };
        let optimizer = Optimizer { decay_all: true, ..Optimizer::default() };
        let mut batches =
            Batches::new(task, Split::Train, self.batch, Position::default()).map_err(Error::experiment)?;
        let mut losses = Vec::with_capacity(self.steps as usize);
        for step in 0..self.steps {
            if step % 32 == 0 {
                run.step("training steps", step, self.steps)?;
            }
            let batch = packed(&batches.next_batch().map_err(Error::experiment)?);
            match trainer.step(&[batch], schedule.rate(step), &optimizer) {
                Ok(report) => losses.push(report.loss),
                Err(TrainError::NotFinite { .. }) => {
                    losses.push(f64::NAN);
                    break;
                }
                Err(error) => return Err(Error::experiment(error)),
            }
        }
        Ok(losses)
    }

    /// The figure of a split.
    pub(crate) fn measure<T: Task<Example = Tokens>>(
        &self,
        trainer: &mut Trainer,
        task: &T,
        split: Split,
    ) -> Result<f64, Error> {
        self.mean(trainer, task, split, |_, batch, evaluated| {
            let figure = match self.figure {
                Figure::Accuracy => accuracy(&batch.targets, evaluated)?,
                Figure::Nats => evaluated.loss,
            };
            Ok((figure, batch.labels() as f64))
        })
    }

    /// The mean of a figure over the batches of a split that are measured, each with its weight; `figure` is told the first
    /// example of the batch. Longer sequences than those of training go in smaller batches.
    pub(crate) fn mean<T: Task<Example = Tokens>>(
        &self,
        trainer: &mut Trainer,
        task: &T,
        split: Split,
        figure: impl Fn(u64, &memwall_tasks::Batch, &Evaluated) -> Result<(f64, f64), Error>,
    ) -> Result<f64, Error> {
        let time = task.example(split, 0).map_err(Error::experiment)?.time();
        let size = (self.batch * self.time / time.max(self.time)).max(1);
        let mut batches = Batches::new(task, split, size, Position::default()).map_err(Error::experiment)?;
        let (mut sum, mut count) = (0.0, 0.0);
        for _ in 0..self.measured {
            let first = batches.position();
            if first.epoch > 0 {
                break;
            }
            let batch = batches.next_batch().map_err(Error::experiment)?;
            let evaluated = trainer.evaluate(&packed(&batch)).map_err(Error::experiment)?;
            let (value, weight) = figure(first.index, &batch, &evaluated)?;
            sum += weight * value;
            count += weight;
        }
        Ok(sum / count)
    }

    /// Trains `config` from `seed` at `rate` and measures it; a run that diverged has figures that are not numbers.
    pub(crate) fn trial<T: Task<Example = Tokens>>(
        &self,
        run: &Run,
        config: &ModelConfig,
        task: &T,
        rate: f64,
        seed: u64,
    ) -> Result<Trial, Error> {
        Ok(self.trained(run, config, task, rate, seed)?.0)
    }

    /// A trial, and the model that it trained.
    pub(crate) fn trained<T: Task<Example = Tokens>>(
        &self,
        run: &Run,
        config: &ModelConfig,
        task: &T,
        rate: f64,
        seed: u64,
    ) -> Result<(Trial, Trainer), Error> {
        let mut trainer = self.trainer(run, config, seed)?;
        let figure = |trainer: &mut Trainer, split| self.measure(trainer, task, split);
        let trial = self.trial_of(run, &mut trainer, task, rate, figure)?;
        Ok((trial, trainer))
    }

    /// A trial of a new trainer, with a figure of one's own.
    pub(crate) fn trial_of<T: Task<Example = Tokens>>(
        &self,
        run: &Run,
        trainer: &mut Trainer,
        task: &T,
        rate: f64,
        figure: impl Fn(&mut Trainer, Split) -> Result<f64, Error>,
    ) -> Result<Trial, Error> {
        let losses = self.train(run, trainer, task, rate)?;
        let diverged = losses.last().is_none_or(|loss| loss.is_nan());
        let mut of = |split| if diverged { Ok(f64::NAN) } else { figure(trainer, split) };
        let (validation, score) = (of(Split::Validation)?, of(Split::Test)?);
        Ok(Trial {
            validation,
            score,
            parameters: parameters(trainer),
            tokens: self.steps * (self.batch * self.time) as u64,
            steps: self.steps,
        })
    }
}

fn parameters(trainer: &Trainer) -> u64 {
    trainer.parameters().map(|name| trainer.memory().get::<f32>(name).map_or(0, <[f32]>::len) as u64).sum()
}

/// A batch of a task as the trainer takes it: whole sequences behind each other.
pub(crate) fn packed(batch: &memwall_tasks::Batch) -> Batch {
    Batch { ids: batch.inputs.clone(), targets: batch.targets.clone(), lengths: vec![batch.time; batch.rows] }
}

fn accuracy(targets: &[i32], evaluated: &Evaluated) -> Result<f64, Error> {
    let vocabulary = evaluated.logits.len() / targets.len();
    let predicted = evaluated
        .logits
        .chunks_exact(vocabulary)
        .map(|row| metrics::argmax(row).map(|id| id as i32))
        .collect::<Result<Vec<i32>, _>>()
        .map_err(Error::experiment)?;
    Ok(metrics::accuracy(targets, &predicted).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use memwall_nn::{ChannelConfig, LayerConfig, MixerConfig, ShortConvConfig};
    use memwall_tasks::{Corpus, Documents, Fractions, TextTask};

    use super::*;
    use crate::{About, Falsifier, Settings};

    static ABOUT: About = About {
        system: 1,
        name: "trial-test",
        data: &[],
        checks: &[],
        falsifier: Falsifier { what: "", against: "" },
        source: "",
    };

    const TRAINING: Training = Training { steps: 60, batch: 4, time: 12, measured: 2, figure: Figure::Nats };

    /// `abcabc…`: each letter follows from the one before.
    fn alphabet() -> TextTask {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc".repeat(400)).unwrap();
        let fractions = Fractions { validation: 0.2, test: 0.2 };
        let corpus = Corpus::read_bytes(&[file.path().to_owned()], &Documents::Files, fractions).unwrap();
        TextTask::new(Arc::new(corpus), TRAINING.time, 128, 1).unwrap()
    }

    fn model() -> ModelConfig {
        let mixer = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
        ModelConfig::new(128, 16, TRAINING.time, vec![LayerConfig { mixer, channel: ChannelConfig::None }])
    }

    fn trial(training: Training, rate: f64) -> Trial {
        let settings = Settings { threads: 1, ..Settings::default() };
        let run = Run::new(&ABOUT, &settings, &|_| ()).unwrap();
        training.trial(&run, &model(), &alphabet(), rate, 1).unwrap()
    }

    #[test]
    fn a_trial_learns_and_counts_what_it_used() {
        let none = trial(Training { steps: 0, ..TRAINING }, 2e-2);
        assert!(none.score.is_nan(), "a model that took no step is no trial");
        let one = trial(Training { steps: 1, ..TRAINING }, 1e-9);
        assert!((one.score - 128f64.ln()).abs() < 0.1, "{}", one.score);
        let trained = trial(TRAINING, 2e-2);
        assert!(trained.score < 0.1 && trained.validation < 0.1, "{trained:?}");
        assert_eq!((trained.steps, trained.tokens), (60, 60 * 4 * 12));
        let accurate = trial(Training { figure: Figure::Accuracy, ..TRAINING }, 2e-2);
        assert_eq!((accurate.score, accurate.parameters), (1.0, trained.parameters));
        // Embedding and head, W_in, W_out and taps, two norms.
        assert_eq!(trained.parameters, (2 * 128 * 16 + 4 * 16 * 16 + 3 * 16 + 2 * 16) as u64);
    }

    #[test]
    fn a_trial_that_diverges_has_no_figures() {
        let diverged = trial(TRAINING, 1e30);
        assert!(diverged.score.is_nan() && diverged.validation.is_nan(), "{diverged:?}");
    }
}
