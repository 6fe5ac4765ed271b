//! The exact Bayes filter of a known grammar: no model can name more states than it does.
//!
//! It holds the probability of every state and of every number of gap steps still to come. Of the rule that strings which grew
//! too long are drawn again it does not know; that rule touches few strings.

use super::gaps::{Filler, Gaps};
use super::grammar::{END, Grammar};
use super::task::{Selectivity, largest_at};
use crate::task::{Split, TaskError};

/// The probabilities of the states at each step [T, N], given the inputs up to it.
pub fn posteriors(grammar: &Grammar, gaps: &Gaps, vocab: usize, inputs: &[i32]) -> Vec<Vec<f64>> {
    let (n, room) = (grammar.states(), gaps.high + 1);
    let forbidden: Vec<Vec<usize>> = (0..n).map(|s| grammar.forbidden(s, vocab)).collect();
    let fills = |state: usize, symbol: usize| match gaps.filler {
        Filler::Blank => f64::from(u8::from(symbol == vocab)),
        Filler::Ungrammatical if forbidden[state].contains(&symbol) => 1.0 / forbidden[state].len() as f64,
        Filler::Ungrammatical => 0.0,
    };
    // [state, gap steps to come]: before the first symbol as behind the end of a string.
    let mut p = vec![0.0; n * room];
    p[END * room] = 1.0;
    let mut all = Vec::with_capacity(inputs.len());
    for (t, &input) in inputs.iter().enumerate() {
        let symbol = input as usize;
        // Gaps begin behind an element, not a step; but before the first gap both counts are equal.
        let lengths = gaps.distribution(t);
        let mut next = vec![0.0; n * room];
        for state in 0..n {
            let filled = fills(state, symbol);
            for left in 1..room {
                next[state * room + left - 1] += p[state * room + left] * filled;
            }
            let ready = p[state * room];
            if ready > 0.0 {
                let follow = if state == END { &grammar.starts } else { &grammar.next[state] };
                for &to in follow.iter().filter(|&&to| grammar.symbols[to] == symbol) {
                    for (left, length) in lengths.iter().enumerate() {
                        next[to * room + left] += ready / follow.len() as f64 * length;
                    }
                }
            }
        }
        let total: f64 = next.iter().sum();
        p = next.into_iter().map(|x| x / total).collect();
        all.push(p.chunks_exact(room).map(|of| of.iter().sum()).collect());
    }
    all
}

/// The share of elements that the filter names, of `examples` examples of a split, each at its last step.
///
/// # Errors
/// [`TaskError::OutOfRange`].
pub fn accuracy(task: &Selectivity, split: Split, examples: u64) -> Result<f64, TaskError> {
    let (mut right, mut count) = (0.0, 0.0);
    for index in 0..examples {
        let (inputs, targets, elements) = task.sequence(split, index)?;
        let known = posteriors(task.grammar(), task.gaps(split), task.input_ids() - 1, &inputs);
        for steps in elements {
            count += 1.0;
            let last = steps.end - 1;
            right += f64::from(u8::from(largest_at(&known[last]) == targets[last] as usize));
        }
    }
    Ok(if count > 0.0 { right / count } else { 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selectivity::{GrammarConfig, Part, SelectivityData};
    use crate::task::Task;

    fn task(gaps: Gaps, seed: u64) -> Selectivity {
        let part = || Part { gaps: gaps.clone(), input_seq_len: 64, num_examples: 200 };
        let grammar = GrammarConfig::new(9, 8, 8);
        Selectivity::new(SelectivityData { grammar, train: part(), validation: part(), test: part(), seed }).unwrap()
    }

    fn distractors() -> Gaps {
        Gaps { filler: Filler::Ungrammatical, probability: 0.3, start: 5, ..Gaps::blanks(1, 2) }
    }

    #[test]
    fn the_states_are_known_but_for_the_first_symbols_of_strings() {
        for seed in 1..=3 {
            for gaps in [Gaps::blanks(0, 0), Gaps::blanks(1, 10), distractors()] {
                let found = accuracy(&task(gaps.clone(), seed), Split::Test, 50).unwrap();
                assert!((0.97..=1.0).contains(&found), "{gaps:?}: {found}");
            }
        }
    }

    #[test]
    fn what_is_said_of_probabilities_is_so() {
        // Of the states that are held for likely with p, a share of p is right: by the probability of the true state.
        for gaps in [Gaps::blanks(0, 0), distractors()] {
            let task = task(gaps, 2);
            let (mut said, mut was, mut variance) = (0.0, 0.0, 0.0);
            for index in 0..200 {
                let e = task.example(Split::Train, index).unwrap();
                let known = posteriors(task.grammar(), task.gaps(Split::Train), 9, &e.inputs);
                for (p, &target) in known.iter().zip(&e.targets) {
                    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                    assert!(p[target as usize] > 0.0, "what happened was possible");
                    for (state, &p) in p.iter().enumerate().filter(|(_, p)| (0.05..0.95).contains(*p)) {
                        said += p;
                        was += f64::from(u8::from(state == target as usize));
                        variance += p * (1.0 - p);
                    }
                }
            }
            // Steps of a string are not independent: five standard errors of independent ones.
            assert!((said - was).abs() < 5.0 * f64::sqrt(variance) + 1.0, "{said} said, {was} were");
        }
    }
}
