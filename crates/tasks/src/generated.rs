//! Generators as a task: segments per split, each with a seed that no segment of another split can have.

use crate::generator::{Generator, GeneratorConfig};
use crate::philox::Philox;
use crate::task::{Metric, Split, Task, TaskError, Tokens};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The segments of an experiment, as recipes write them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedData {
    /// Segments to train on, in this order.
    pub train_configs: Vec<GeneratorConfig>,
    /// Segments to choose by; may be none.
    #[serde(default)]
    pub validation_configs: Vec<GeneratorConfig>,
    /// Segments to report.
    pub test_configs: Vec<GeneratorConfig>,
    /// What all examples are made from.
    #[serde(default = "data_seed")]
    pub seed: u64,
}

fn data_seed() -> u64 {
    123
}

/// Generators as a [`Task`].
#[derive(Debug)]
pub struct GeneratedTask {
    train: Vec<Segment>,
    validation: Vec<Segment>,
    test: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    seed: u64,
    generator: Box<dyn Generator>,
}

/// Where the seeds of a split's segments come from; the ranges are disjoint, so splits never share one.
const fn seeds(split: Split) -> Range<u64> {
    match split {
        Split::Train => 0..1 << 31,
        Split::Test => 1 << 31..1 << 32,
        Split::Validation => 1 << 32..1 << 33,
    }
}

impl GeneratedTask {
    /// The task of these settings.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn new(data: GeneratedData) -> Result<GeneratedTask, TaskError> {
        let generators = |configs: Vec<GeneratorConfig>| configs.into_iter().map(GeneratorConfig::generator).collect();
        GeneratedTask::of_generators(
            data.seed,
            generators(data.train_configs),
            generators(data.validation_configs),
            generators(data.test_configs),
        )
    }

    /// The task of any generators.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn of_generators(
        seed: u64,
        train: Vec<Box<dyn Generator>>,
        validation: Vec<Box<dyn Generator>>,
        test: Vec<Box<dyn Generator>>,
    ) -> Result<GeneratedTask, TaskError> {
        let segments = |split: Split, generators: Vec<Box<dyn Generator>>| {
            let range = seeds(split);
            let mut rng = Philox::new(seed, split as u64);
            let mut made: Vec<Segment> = Vec::with_capacity(generators.len());
            for generator in generators {
                generator.check()?;
                let seed = loop {
                    let seed = range.start + rng.below(range.end - range.start);
                    if made.iter().all(|segment| segment.seed != seed) {
                        break seed;
                    }
                };
                made.push(Segment { seed, generator });
            }
            Ok::<_, TaskError>(made)
        };
        Ok(GeneratedTask {
            train: segments(Split::Train, train)?,
            validation: segments(Split::Validation, validation)?,
            test: segments(Split::Test, test)?,
        })
    }

    fn segments(&self, split: Split) -> &[Segment] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }

    /// The generator of a group of a split, for slices of a metric by its setting.
    pub fn generator(&self, split: Split, group: usize) -> Option<&dyn Generator> {
        self.segments(split).get(group).map(|segment| &*segment.generator)
    }

    /// What scores of a group are sliced by: `asked` and `input_seq_len`.
    pub fn slices(&self, split: Split, group: usize) -> Vec<(&'static str, usize)> {
        self.generator(split, group).map_or(Vec::new(), |generator| {
            vec![("asked", generator.asked()), ("input_seq_len", generator.input_seq_len())]
        })
    }

    fn of_example(&self, example: &Tokens) -> Option<&dyn Generator> {
        self.generator(example.split, example.group)
    }
}

impl Task for GeneratedTask {
    type Example = Tokens;
    /// The id predicted at each position `[T]`.
    type Answer = Vec<i32>;

    /// The name of its generators, or `generated` when they differ.
    fn name(&self) -> &str {
        let mut names = [&self.train, &self.validation, &self.test].into_iter().flatten().map(|s| s.generator.name());
        match names.next() {
            Some(first) if names.all(|name| name == first) => first,
            _ => "generated",
        }
    }

    fn metric(&self) -> Metric {
        Metric::Accuracy
    }

    fn groups(&self, split: Split) -> Vec<u64> {
        self.segments(split).iter().map(|segment| segment.generator.num_examples()).collect()
    }

    fn example(&self, split: Split, index: u64) -> Result<Tokens, TaskError> {
        let mut within = index;
        for (group, segment) in self.segments(split).iter().enumerate() {
            let examples = segment.generator.num_examples();
            if within < examples {
                let (inputs, targets) = segment.generator.generate(&mut Philox::new(segment.seed, within));
                return Ok(Tokens { inputs, channels: segment.generator.channels(), targets, split, group });
            }
            within -= examples;
        }
        let examples = self.groups(split).iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        Err(TaskError::OutOfRange { task: self.name().to_string(), split, index, examples })
    }

    fn score(&self, example: &Tokens, answer: &Vec<i32>) -> Result<f64, TaskError> {
        let (found, expected) = (answer.len(), example.time());
        if found != expected {
            return Err(TaskError::AnswerShape { task: self.name().to_string(), found, expected });
        }
        Ok(crate::metrics::accuracy(&example.targets, answer).unwrap_or(1.0))
    }

    fn oracle(&self, example: &Tokens) -> Option<Vec<i32>> {
        self.of_example(example).map(|generator| generator.answer(&example.inputs))
    }

    fn guess(&self, example: &Tokens, rng: &mut Philox) -> Vec<i32> {
        let values = self.of_example(example).map_or(0..1, Generator::values);
        example.targets.iter().map(|_| values.start + rng.below(values.len() as u64) as i32).collect()
    }

    fn chance(&self, example: &Tokens) -> f64 {
        self.of_example(example).map_or(0.0, |generator| 1.0 / generator.values().len() as f64)
    }
}

#[cfg(test)]
mod tests;
