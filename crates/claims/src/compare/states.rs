//! Trials on hidden states, and the bounds that stand beside them.

use memwall_nn::ModelConfig;
use memwall_tasks::selectivity::{Selectivity, element_accuracy, filter, ngram};
use memwall_tasks::{Split, Task};
use memwall_train::{InputNoise, Trainer};

use super::Bound;
use crate::trial::Training;
use crate::{Error, Run, Trial};

/// The most symbols that an n-gram remembers.
const SYMBOLS: usize = 4;

/// Trains and measures the share of elements whose state is named.
pub(crate) fn trial(
    run: &Run,
    training: &Training,
    model: &ModelConfig,
    task: &Selectivity,
    noise: Option<InputNoise>,
    rate: f64,
    seed: u64,
) -> Result<(Trial, Trainer), Error> {
    let mut trainer = training.noisy_trainer(run, model, seed, noise)?;
    let trial = training.trial_of(run, &mut trainer, task, rate, |t, split| measure(training, t, task, split))?;
    Ok((trial, trainer))
}

/// The share of elements of a split whose state is named.
pub(crate) fn measure(
    training: &Training,
    trainer: &mut Trainer,
    task: &Selectivity,
    split: Split,
) -> Result<f64, Error> {
    training.mean(trainer, task, split, |first, batch, evaluated| {
        let width = evaluated.logits.len() / batch.targets.len();
        let (mut right, mut count) = (0.0, 0.0);
        for row in 0..batch.rows {
            let elements = task.elements(split, first + row as u64).map_err(Error::experiment)?;
            let steps = row * batch.time..(row + 1) * batch.time;
            let logits = &evaluated.logits[steps.start * width..steps.end * width];
            right += elements.len() as f64 * element_accuracy(logits, &batch.targets[steps], &elements);
            count += elements.len() as f64;
        }
        Ok((right / count, count))
    })
}

/// The Bayes filter, and what the last symbols allow, on the test sequences of every seed.
pub(super) fn bounds(tasks: &[Selectivity], training: &Training) -> Result<Vec<Bound>, Error> {
    let of = |name: String, score: &dyn Fn(&Selectivity, u64) -> Result<f64, memwall_tasks::TaskError>| {
        let asked = |task: &Selectivity| {
            let examples = (training.measured * training.batch) as u64;
            score(task, examples.min(task.groups(Split::Test)[0])).map_err(Error::experiment)
        };
        Ok::<_, Error>(Bound { name, scores: tasks.iter().map(asked).collect::<Result<_, _>>()? })
    };
    let mut all = vec![of("Bayes filter".into(), &|task, examples| filter::accuracy(task, Split::Test, examples))?];
    let learned = |task: &Selectivity| task.groups(Split::Train)[0];
    for symbols in 0..=SYMBOLS {
        let name = match symbols {
            0 => "most common state".into(),
            n => format!("last {n} symbols"),
        };
        all.push(of(name, &|task, examples| ngram::accuracy(task, symbols, learned(task), examples))?);
    }
    Ok(all)
}
