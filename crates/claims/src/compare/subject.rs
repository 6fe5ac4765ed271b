//! What contestants are compared on.

use memwall_tasks::selectivity::{Filler, Gaps, GrammarConfig, Part, Selectivity, SelectivityData};
use memwall_tasks::{
    CopyingConfig, ForgettingMqarConfig, GeneratedData, GeneratedTask, GeneratorConfig, Group, LongFillerMqarConfig,
    MqarConfig, QueryPlaces, StateTrackingConfig,
};
use memwall_train::InputNoise;

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
    /// Tokens given back in order.
    Copying,
    /// The same with the tokens scattered among blanks.
    SelectiveCopying,
    /// Parity of ones so far.
    Parity,
    /// The product so far of permutations of 3 points.
    StateTrackingS3,
    /// The product so far of permutations of 5 points.
    StateTrackingS5,
    /// The hidden state of an automaton, a blank behind each symbol.
    SelectivityMemory,
    /// The same with up to ten noisy blanks behind each symbol.
    Selectivity,
    /// The same with ungrammatical symbols now and then instead of blanks.
    SelectivityDistractors,
    /// Learned as [`Subject::Selectivity`], asked with fifty blanks behind each symbol.
    SelectivityLongGaps,
    /// The next byte of a text.
    Text,
}

/// Every task, by the name that [`Subject::name`] gives it.
pub const SUBJECTS: [Subject; 13] = [
    Subject::Mqar,
    Subject::MqarForgetting,
    Subject::MqarLongFiller,
    Subject::Copying,
    Subject::SelectiveCopying,
    Subject::Parity,
    Subject::StateTrackingS3,
    Subject::StateTrackingS5,
    Subject::SelectivityMemory,
    Subject::Selectivity,
    Subject::SelectivityDistractors,
    Subject::SelectivityLongGaps,
    Subject::Text,
];

/// The automata: 8 letters, each written by 8 states, and the end.
const LETTERS: usize = 8;
/// How many times longer the sequences with long gaps are.
const LONGER: usize = 4;

/// Tokens of a sequence for each pair of a key and a value.
const TOKENS_PER_PAIR: usize = 8;
/// Ids of the tokens that are copied.
const COPIED_IDS: usize = 16;
/// How strongly queries follow their pairs, as published.
const POWER: f64 = 0.01;

impl Subject {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Mqar => "mqar",
            Subject::MqarForgetting => "mqar-forgetting",
            Subject::MqarLongFiller => "mqar-long-filler",
            Subject::Copying => "copying",
            Subject::SelectiveCopying => "selective-copying",
            Subject::Parity => "parity",
            Subject::StateTrackingS3 => "state-tracking-s3",
            Subject::StateTrackingS5 => "state-tracking-s5",
            Subject::SelectivityMemory => "selectivity-memory",
            Subject::Selectivity => "selectivity",
            Subject::SelectivityDistractors => "selectivity-distractors",
            Subject::SelectivityLongGaps => "selectivity-long-gaps",
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

    /// Ids of its vocabulary, of inputs and answers, for sequences of `time` tokens.
    pub(super) fn vocabulary(self, time: usize) -> usize {
        match self {
            Subject::Text => 256,
            Subject::Mqar | Subject::MqarForgetting | Subject::MqarLongFiller => 2 * time,
            Subject::Copying | Subject::SelectiveCopying => 2 + COPIED_IDS,
            Subject::Parity => Group::Parity.order(),
            Subject::StateTrackingS3 => Group::S3.order(),
            Subject::StateTrackingS5 => Group::S5.order(),
            _ => grammar().states().max(grammar().vocab_size + 1),
        }
    }

    /// Whether answers are ids of the inputs, so that one table can serve both.
    pub(super) fn answers_are_inputs(self) -> bool {
        !self.is_selectivity()
    }

    pub(super) fn is_selectivity(self) -> bool {
        matches!(
            self,
            Subject::SelectivityMemory
                | Subject::Selectivity
                | Subject::SelectivityDistractors
                | Subject::SelectivityLongGaps
        )
    }

    /// The most tokens of a sequence, of those that are asked with too.
    pub(super) fn longest(self, time: usize) -> usize {
        if self == Subject::SelectivityLongGaps { LONGER * time } else { time }
    }

    /// Noise on the inputs, where there is some: as strong as published.
    pub(super) fn noise(self) -> Option<InputNoise> {
        let noise = || InputNoise { amplitude: 0.2, ids: grammar().vocab_size };
        matches!(self, Subject::Selectivity | Subject::SelectivityLongGaps).then(noise)
    }

    /// The selectivity task of a seed, under a budget.
    pub(super) fn selectivity(self, budget: &Budget, measured: usize, seed: u64) -> Result<Selectivity, Error> {
        let distractors = || Gaps {
            filler: Filler::Ungrammatical,
            probability: 0.1,
            // A quarter of a sequence without any, as published.
            start: budget.time / 4,
            ..Gaps::blanks(1, 1)
        };
        let (learned, asked) = match self {
            Subject::SelectivityMemory => (Gaps::blanks(1, 1), Gaps::blanks(1, 1)),
            Subject::SelectivityDistractors => (distractors(), distractors()),
            Subject::SelectivityLongGaps => (Gaps::blanks(1, 10), Gaps::blanks(50, 50)),
            _ => (Gaps::blanks(1, 10), Gaps::blanks(10, 10)),
        };
        let part = |gaps: &Gaps, input_seq_len: usize, batches: u64| Part {
            gaps: gaps.clone(),
            input_seq_len,
            num_examples: batches * budget.batch as u64,
        };
        Selectivity::new(SelectivityData {
            grammar: grammar(),
            train: part(&learned, budget.time, budget.steps),
            validation: part(&learned, budget.time, measured as u64),
            test: part(&asked, self.longest(budget.time), measured as u64),
            seed,
        })
        .map_err(Error::experiment)
    }

    /// The generated task of a seed, under a budget.
    pub(super) fn generated(self, budget: &Budget, measured: usize, seed: u64) -> Result<GeneratedTask, Error> {
        let (vocabulary, time) = (self.vocabulary(budget.time), budget.time);
        let pairs = (time / TOKENS_PER_PAIR).max(1);
        let of = |batches: u64| {
            let examples = batches * budget.batch as u64;
            let tracking = |group| {
                GeneratorConfig::StateTracking(StateTrackingConfig {
                    group,
                    input_seq_len: time,
                    num_examples: examples,
                })
            };
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
                Subject::Copying | Subject::SelectiveCopying => GeneratorConfig::Copying(CopyingConfig {
                    vocab_size: vocabulary,
                    input_seq_len: time,
                    num_examples: examples,
                    num_tokens: (time / 4).max(1),
                    selective: self == Subject::SelectiveCopying,
                }),
                Subject::Parity => tracking(Group::Parity),
                Subject::StateTrackingS3 => tracking(Group::S3),
                Subject::StateTrackingS5 => tracking(Group::S5),
                _ => {
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

/// The family of the automata.
fn grammar() -> GrammarConfig {
    GrammarConfig::new(LETTERS + 1, LETTERS, LETTERS)
}
