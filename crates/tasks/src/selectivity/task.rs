//! Sequences of strings of a grammar as a task.

use super::gaps::{Filler, Gaps};
use super::grammar::{END, Grammar, GrammarConfig};
use crate::check::Check;
use crate::philox::Philox;
use crate::task::{ConfigError, Metric, Split, Task, TaskError, Tokens};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The sequences of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What stands between symbols.
    pub gaps: Gaps,
    /// T, steps of a sequence, gaps among them; strings follow each other and the last is cut.
    pub input_seq_len: usize,
    /// Sequences.
    pub num_examples: u64,
}

/// The setting of an experiment, as recipes write it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectivityData {
    /// The family of grammars.
    pub grammar: GrammarConfig,
    /// What is learned from.
    pub train: Part,
    /// What choices are made by.
    pub validation: Part,
    /// What is reported; its gaps may be longer.
    pub test: Part,
    /// What grammar and sequences are made from.
    pub seed: u64,
}

/// Strings of one grammar with gaps; at every step the state that wrote the last symbol is asked for.
///
/// The inputs are symbols (the end 0, letters from 1) and the blank V; answers are states, grouped by letter, the end 0.
#[derive(Debug)]
pub struct Selectivity {
    grammar: Grammar,
    vocab: usize,
    parts: [Part; 3],
    seeds: [u64; 3],
    /// The symbols that cannot follow each state.
    forbidden: Vec<Vec<usize>>,
}

/// Inputs, targets, and the steps of each element: its symbol and the gap behind it.
pub(super) type Sequence = (Vec<i32>, Vec<i32>, Vec<Range<usize>>);

impl Selectivity {
    /// Draws the grammar.
    ///
    /// # Errors
    /// The first setting that cannot be, or that no grammar was found.
    pub fn new(data: SelectivityData) -> Result<Selectivity, ConfigError> {
        let SelectivityData { grammar, train, validation, test, seed } = data;
        let parts = [train, validation, test];
        let check = Check("selectivity");
        for part in &parts {
            part.gaps.check()?;
            let t = part.input_seq_len;
            check.that(t > 0, "input_seq_len", t, || "it must be at least 1".into())?;
        }
        let mut rng = Philox::new(seed, 0);
        let drawn = Grammar::draw(&grammar, rng.bits())?;
        let vocab = grammar.vocab_size;
        let forbidden: Vec<Vec<usize>> = (0..drawn.states()).map(|s| drawn.forbidden(s, vocab)).collect();
        for part in parts.iter().filter(|p| p.gaps.filler == Filler::Ungrammatical && p.gaps.high > 0) {
            let states = forbidden.iter().filter(|f| f.is_empty()).count();
            check.that(states == 0, "gaps.filler", format!("{:?}", part.gaps.filler), || {
                format!("every symbol may follow {states} of the states; a lower transition_density helps")
            })?;
        }
        let seeds = [0; 3].map(|_| rng.bits());
        Ok(Selectivity { grammar: drawn, vocab, parts, seeds, forbidden })
    }

    /// The automaton.
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }

    /// V + 1, the ids of inputs.
    pub fn input_ids(&self) -> usize {
        self.vocab + 1
    }

    /// The id of the blank.
    pub fn blank(&self) -> i32 {
        self.vocab as i32
    }

    /// N, the states that an answer can be.
    pub fn states(&self) -> usize {
        self.grammar.states()
    }

    /// The gaps of a split.
    pub fn gaps(&self, split: Split) -> &Gaps {
        &self.part(split).gaps
    }

    /// The steps of each element of an example: its symbol and the gap behind it.
    ///
    /// # Errors
    /// [`TaskError::OutOfRange`].
    pub fn elements(&self, split: Split, index: u64) -> Result<Vec<Range<usize>>, TaskError> {
        Ok(self.sequence(split, index)?.2)
    }

    fn part(&self, split: Split) -> &Part {
        &self.parts[slot(split)]
    }

    pub(super) fn sequence(&self, split: Split, index: u64) -> Result<Sequence, TaskError> {
        let part = self.part(split);
        if index >= part.num_examples {
            let task = self.name().to_string();
            return Err(TaskError::OutOfRange { task, split, index, examples: part.num_examples });
        }
        let mut rng = Philox::new(self.seeds[slot(split)], index);
        let time = part.input_seq_len;
        let (mut inputs, mut targets, mut elements) = (Vec::with_capacity(time), Vec::with_capacity(time), Vec::new());
        while inputs.len() < time {
            for state in self.grammar.string(&mut rng) {
                let begin = inputs.len();
                if begin >= time {
                    break;
                }
                inputs.push(self.grammar.symbols[state] as i32);
                for _ in 0..part.gaps.steps(elements.len(), &mut rng) {
                    inputs.push(match part.gaps.filler {
                        Filler::Blank => self.blank(),
                        Filler::Ungrammatical => {
                            let none = &self.forbidden[state];
                            none[rng.below(none.len() as u64) as usize] as i32
                        }
                    });
                }
                inputs.truncate(time);
                targets.resize(inputs.len(), state as i32);
                elements.push(begin..inputs.len());
            }
        }
        Ok((inputs, targets, elements))
    }
}

fn slot(split: Split) -> usize {
    match split {
        Split::Train => 0,
        Split::Validation => 1,
        Split::Test => 2,
    }
}

impl Task for Selectivity {
    type Example = Tokens;
    /// The state at each step `[T]`.
    type Answer = Vec<i32>;

    fn name(&self) -> &str {
        "selectivity"
    }

    fn metric(&self) -> Metric {
        Metric::Accuracy
    }

    fn groups(&self, split: Split) -> Vec<u64> {
        vec![self.part(split).num_examples]
    }

    fn example(&self, split: Split, index: u64) -> Result<Tokens, TaskError> {
        let (inputs, targets, _) = self.sequence(split, index)?;
        Ok(Tokens { inputs, channels: 1, targets, split, group: 0 })
    }

    /// The share of steps; [`element_accuracy`] is the published measure.
    fn score(&self, example: &Tokens, answer: &Vec<i32>) -> Result<f64, TaskError> {
        let (found, expected) = (answer.len(), example.time());
        if found != expected {
            return Err(TaskError::AnswerShape { task: self.name().to_string(), found, expected });
        }
        Ok(crate::metrics::accuracy(&example.targets, answer).unwrap_or(1.0))
    }

    /// None: the first symbols of a string leave the state open. [`filter`](super::filter) answers as well as can be.
    fn oracle(&self, _: &Tokens) -> Option<Vec<i32>> {
        None
    }

    fn guess(&self, example: &Tokens, rng: &mut Philox) -> Vec<i32> {
        example.targets.iter().map(|_| rng.below(self.states() as u64) as i32).collect()
    }

    fn chance(&self, _: &Tokens) -> f64 {
        1.0 / self.states() as f64
    }
}

/// The share of elements whose state has the largest probability, summed over the element's steps, as published.
///
/// `logits` [T, W] with W at least the number of states, `targets` `[T]`; 1 without elements.
///
/// # Panics
/// If an element reaches beyond T.
pub fn element_accuracy(logits: &[f32], targets: &[i32], elements: &[Range<usize>]) -> f64 {
    let width = logits.len() / targets.len().max(1);
    let right = |steps: &&Range<usize>| {
        let mut sum = vec![0.0; width];
        for t in (*steps).clone() {
            let row = &logits[t * width..][..width];
            let largest = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let e: Vec<f64> = row.iter().map(|&x| f64::from(x - largest).exp()).collect();
            let total: f64 = e.iter().sum();
            sum.iter_mut().zip(e).for_each(|(s, e)| *s += e / total);
        }
        largest_at(&sum) == targets[steps.start] as usize
    };
    match elements.len() {
        0 => 1.0,
        n => elements.iter().filter(right).count() as f64 / n as f64,
    }
}

/// The first place of the largest number.
pub(super) fn largest_at(x: &[f64]) -> usize {
    (1..x.len()).fold(END, |best, i| if x[i] > x[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(gaps: Gaps) -> Part {
        Part { gaps, input_seq_len: 64, num_examples: 80 }
    }

    fn data(gaps: &Gaps, seed: u64) -> SelectivityData {
        let grammar = GrammarConfig::new(9, 8, 8);
        let [train, validation, test] = [0; 3].map(|_| part(gaps.clone()));
        SelectivityData { grammar, train, validation, test, seed }
    }

    fn kinds() -> [Gaps; 3] {
        let distractors = Gaps { filler: Filler::Ungrammatical, probability: 0.1, start: 20, ..Gaps::blanks(1, 1) };
        [Gaps::blanks(0, 0), Gaps::blanks(1, 10), distractors]
    }

    #[test]
    fn the_laws_of_tasks_hold() {
        let bytes = |e: &Tokens| e.inputs.iter().flat_map(|id| id.to_le_bytes()).collect();
        for gaps in kinds() {
            crate::laws::task(&|seed| Selectivity::new(data(&gaps, seed)).unwrap(), &bytes);
        }
    }

    #[test]
    fn elements_are_symbols_and_their_gaps() {
        for gaps in kinds() {
            let task = Selectivity::new(data(&gaps, 1)).unwrap();
            let g = task.grammar();
            for index in 0..80 {
                let e = task.example(Split::Train, index).unwrap();
                let elements = task.elements(Split::Train, index).unwrap();
                assert_eq!(elements[0].start, 0);
                assert!(elements.windows(2).all(|w| w[0].end == w[1].start));
                assert_eq!(elements[elements.len() - 1].end, 64);
                let states: Vec<usize> = elements.iter().map(|r| e.targets[r.start] as usize).collect();
                for (i, (steps, &state)) in elements.iter().zip(&states).enumerate() {
                    assert_eq!(e.inputs[steps.start] as usize, g.symbols[state]);
                    assert!(e.targets[steps.clone()].iter().all(|&t| t as usize == state));
                    let gap = &e.inputs[steps.start + 1..steps.end];
                    assert!(gap.len() <= gaps.high && (i >= gaps.start || gap.is_empty()));
                    assert!(steps.end == 64 || gaps.probability < 1.0 || gap.len() >= gaps.low);
                    for &id in gap {
                        match gaps.filler {
                            Filler::Blank => assert_eq!(id, task.blank()),
                            Filler::Ungrammatical => {
                                assert!(g.next[state].iter().all(|&n| g.symbols[n] != id as usize));
                            }
                        }
                    }
                }
                for w in states.windows(2) {
                    let follows = if w[0] == END { &g.starts } else { &g.next[w[0]] };
                    assert!(follows.contains(&w[1]), "an element follows the one before in the grammar");
                }
            }
        }
    }

    #[test]
    fn the_probability_of_an_element_is_summed_over_its_steps() {
        // Two steps of one element: 0.9 for state 1, then 0.8 for state 0 and 0.2 for 1: the sum is for state 1.
        let logits = [0.1f32.ln(), 0.9f32.ln(), 0.8f32.ln(), 0.2f32.ln()];
        assert_eq!(element_accuracy(&logits, &[1, 1], std::slice::from_ref(&(0..2))), 1.0);
        assert_eq!(element_accuracy(&logits, &[1, 1], &[0..1, 1..2]), 0.5);
        assert_eq!(element_accuracy(&[], &[], &[]), 1.0);
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let error = |d: SelectivityData| Selectivity::new(d).unwrap_err().to_string();
        let good = || data(&Gaps::blanks(1, 2), 1);
        assert!(
            error(SelectivityData { train: Part { input_seq_len: 0, ..part(Gaps::blanks(1, 2)) }, ..good() })
                .contains("input_seq_len = 0")
        );
        assert!(error(SelectivityData { test: part(Gaps::blanks(2, 1)), ..good() }).contains("gaps.low"));
        let everything = GrammarConfig { transition_density: Some(1.0), ..GrammarConfig::new(9, 8, 8) };
        let ungrammatical = part(Gaps { filler: Filler::Ungrammatical, ..Gaps::blanks(1, 1) });
        let error = error(SelectivityData { grammar: everything, train: ungrammatical, ..good() });
        assert!(error.contains("every symbol may follow"), "{error}");
        let task = Selectivity::new(good()).unwrap();
        assert!(task.example(Split::Test, 80).unwrap_err().to_string().contains("example 80 of test"));
    }
}
