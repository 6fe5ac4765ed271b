//! What contestants are compared on.

use memwall_tasks::{
    ForgettingMqarConfig, LongFillerMqarConfig, MqarConfig, QueryPlaces, GeneratorConfig, GeneratedData, GeneratedTask,
};

use super::Budget;
use crate::Error;

/// A task by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Multi-query recall, as Zoology defines it.
    Mqar,
    /// The same with keys that are written again: the latest value counts.
    MqarForgetting,
    /// The same among long random filler.
    MqarLongFiller,
    /// The next byte of a text.
    Text,
}

/// Every task, by the name that [`Subject::name`] gives it.
pub const SUBJECTS: [Subject; 4] = [Subject::Mqar, Subject::MqarForgetting, Subject::MqarLongFiller, Subject::Text];

/// Tokens of a sequence for each pair of a key and a value.
const TOKENS_PER_PAIR: usize = 8;
/// How strongly queries follow their pairs, as published.
const POWER: f64 = 0.01;

impl Subject {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Mqar => "mqar",
            Subject::MqarForgetting => "mqar-forgetting",
            Subject::MqarLongFiller => "mqar-long-filler",
            Subject::Text => "text",
        }
    }

    /// What a score is.
    pub fn metric(self) -> &'static str {
        if self == Subject::Text { "nats a byte" } else { "accuracy" }
    }

    /// Whether the larger score is the better.
    pub fn higher_is_better(self) -> bool {
        self != Subject::Text
    }

    /// Ids of its vocabulary, for sequences of `time` tokens.
    pub(super) fn vocabulary(self, time: usize) -> usize {
        if self == Subject::Text { 256 } else { 2 * time }
    }

    /// The recall task of a seed, under a budget.
    pub(super) fn recall(self, budget: &Budget, measured: usize, seed: u64) -> Result<GeneratedTask, Error> {
        let (vocabulary, time) = (self.vocabulary(budget.time), budget.time);
        let pairs = (time / TOKENS_PER_PAIR).max(1);
        let of = |batches: u64| {
            let examples = batches * budget.batch as u64;
            vec![match self {
                Subject::MqarForgetting => GeneratorConfig::ForgettingMqar(ForgettingMqarConfig {
                    vocab_size: vocabulary,
                    input_seq_len: time,
                    num_examples: examples,
                    num_kv_pairs: pairs,
                    num_updates: pairs.div_ceil(2),
                    power_a: POWER,
                    random_non_queries: false,
                }),
                Subject::MqarLongFiller => GeneratorConfig::LongFillerMqar(LongFillerMqarConfig {
                    vocab_size: vocabulary,
                    input_seq_len: time,
                    num_examples: examples,
                    num_kv_pairs: pairs,
                    num_filler_ids: vocabulary / 2,
                    query_places: QueryPlaces::End,
                }),
                Subject::Mqar | Subject::Text => {
                    let config = MqarConfig::new(vocabulary, time, pairs, examples);
                    GeneratorConfig::Mqar(MqarConfig { power_a: POWER, random_non_queries: false, ..config })
                }
            }]
        };
        GeneratedTask::new(GeneratedData {
            train_configs: of(budget.steps),
            validation_configs: of(measured as u64),
            test_configs: of(measured as u64),
            seed,
        })
        .map_err(Error::experiment)
    }
}
