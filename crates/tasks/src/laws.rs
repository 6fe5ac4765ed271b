//! The laws that every [`Task`] keeps, built-in or a user's: call [`task`] in a test.

use crate::philox::Philox;
use crate::task::{Split, Task};
use std::collections::HashMap;

/// Examples of a split that the laws look at.
const LOOKED_AT: u64 = 200;

/// Runs every law; `make` makes the task from a seed, `seen` gives what a model sees of an example, as bytes. The task needs
/// examples in at least two splits, and enough possible ones that equal ones do not come by chance.
///
/// # Panics
/// With the law that does not hold.
pub fn task<T: Task>(make: &dyn Fn(u64) -> T, seen: &dyn Fn(&T::Example) -> Vec<u8>) {
    examples_are_a_function_of_seed_split_and_index(make);
    examples_end_where_the_groups_end(&make(1));
    splits_do_not_leak(&make(1), seen);
    the_oracle_is_perfect(&make(1));
    guessing_scores_chance(&make(1));
}

fn examples_of<T: Task>(task: &T, split: Split) -> u64 {
    task.groups(split).into_iter().fold(0, u64::saturating_add)
}

/// Indices spread over a split.
fn indices(examples: u64) -> Vec<u64> {
    let count = examples.min(LOOKED_AT);
    (0..count).map(|i| (u128::from(i) * u128::from(examples) / u128::from(count)) as u64).collect()
}

fn all_examples<T: Task>(task: &T) -> Vec<(Split, u64, T::Example)> {
    let of = |split| {
        let example = move |i| task.example(split, i).expect("law: an index below the number of examples has one");
        indices(examples_of(task, split)).into_iter().map(move |i| (split, i, example(i)))
    };
    Split::ALL.into_iter().flat_map(of).collect()
}

fn examples_are_a_function_of_seed_split_and_index<T: Task>(make: &dyn Fn(u64) -> T) {
    let (task, again) = (make(1), make(1));
    let examples = all_examples(&task);
    assert!(!examples.is_empty(), "law: {} has examples", task.name());
    for (split, i, example) in examples.iter().rev() {
        let other = again.example(*split, *i).expect("the same task has the same examples");
        assert!(*example == other, "law: example {i} of {split} is the same in any order, for anyone who asks");
    }
    let other = make(2);
    assert_eq!(other.groups(Split::Train), task.groups(Split::Train), "law: a seed changes contents, not sizes");
    let train: Vec<_> = examples.iter().filter(|(split, ..)| *split == Split::Train).collect();
    let equal = train.iter().filter(|(s, i, e)| other.example(*s, *i).is_ok_and(|o| o == *e)).count();
    assert!(train.is_empty() || 10 * equal <= train.len(), "law: another seed gives other training examples");
}

fn examples_end_where_the_groups_end<T: Task>(task: &T) {
    for split in Split::ALL {
        let end = examples_of(task, split);
        assert!(task.example(split, end).is_err(), "law: {split} ends after {end} examples");
    }
}

fn splits_do_not_leak<T: Task>(task: &T, seen: &dyn Fn(&T::Example) -> Vec<u8>) {
    let mut known: HashMap<Vec<u8>, (Split, u64)> = HashMap::new();
    for (split, i, example) in all_examples(task) {
        if let Some((other, j)) = known.insert(seen(&example), (split, i)) {
            assert!(other == split, "law: example {j} of {other} is example {i} of {split} too");
        }
    }
    let splits = Split::ALL.into_iter().filter(|&split| examples_of(task, split) > 0).count();
    assert!(splits >= 2, "law: a leak between splits shows only where there are two");
}

fn the_oracle_is_perfect<T: Task>(task: &T) {
    for (split, i, example) in all_examples(task) {
        if let Some(answer) = task.oracle(&example) {
            let score = task.score(&example, &answer).expect("law: the oracle's answer can be scored");
            assert_eq!(score, task.metric().best(), "law: the oracle is right about example {i} of {split}");
        }
    }
}

fn guessing_scores_chance<T: Task>(task: &T) {
    let mut rng = Philox::new(0xC4A2CE, 0);
    let (mut sum, mut squares, mut expected, mut count) = (0.0, 0.0, 0.0, 0.0);
    for (_, _, example) in all_examples(task) {
        for _ in 0..20 {
            let answer = task.guess(&example, &mut rng);
            let score = task.score(&example, &answer).expect("law: a guess can be scored");
            let chance = task.chance(&example);
            sum += score;
            expected += chance;
            squares += (score - chance).powi(2);
            count += 1.0;
        }
    }
    // Five standard errors: a right implementation fails about once in two million.
    let error = 5.0 * f64::sqrt(squares) / count + 1e-9;
    let (mean, expected) = (sum / count, expected / count);
    assert!((mean - expected).abs() <= error, "law: guesses score {mean}, chance is said to be {expected} ± {error}");
    let better = task.metric().compare(task.metric().best(), expected);
    assert!(better < 0.0, "law: chance ({expected}) is worse than the best score");
}
