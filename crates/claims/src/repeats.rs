//! Text whose passages return after hundreds of letters: what a model with a longer context can tell and one with a
//! shorter cannot.

use memwall_tasks::{IGNORE, Metric, Philox, Split, Task, TaskError, Tokens};

/// Letters of a piece of text: a passage, three times, and its first letter again.
pub(crate) const PIECE: usize = 1024;
/// Letters after which a passage returns.
const PASSAGE: usize = 341;

/// Windows of a text of pieces that have nothing in common; each letter is to be predicted from those before it.
///
/// The same letters make up the text whatever the length of the windows.
pub(crate) struct Repeats {
    /// Letters of a window, a divisor of [`PIECE`].
    pub time: usize,
    /// Different letters, drawn with equal chance.
    pub letters: usize,
    /// Pieces of the text of validation and test.
    pub pieces: u64,
    pub seed: u64,
}

impl Repeats {
    fn piece(&self, split: Split, piece: u64) -> Vec<i32> {
        let mut rng = Philox::new(self.seed, 3 * piece + split as u64);
        let passage: Vec<i32> = (0..PASSAGE).map(|_| rng.below(self.letters as u64) as i32).collect();
        passage.iter().copied().cycle().take(PIECE).collect()
    }
}

impl Task for Repeats {
    type Example = Tokens;
    /// The natural logarithm of the probability given to each target `[T]`.
    type Answer = Vec<f32>;

    fn name(&self) -> &str {
        "repeats"
    }

    fn metric(&self) -> Metric {
        Metric::BitsPerToken
    }

    fn groups(&self, split: Split) -> Vec<u64> {
        vec![if split == Split::Train { u64::MAX / 4 } else { self.pieces * (PIECE / self.time) as u64 }]
    }

    fn example(&self, split: Split, index: u64) -> Result<Tokens, TaskError> {
        let examples = self.groups(split)[0];
        if index >= examples {
            return Err(TaskError::OutOfRange { task: self.name().to_owned(), split, index, examples });
        }
        let windows = (PIECE / self.time) as u64;
        let (piece, start) = (self.piece(split, index / windows), (index % windows) as usize * self.time);
        let inputs = piece[start..start + self.time].to_vec();
        // The last letter of a piece is followed by one that nothing tells.
        let mut targets = piece[start + 1..(start + self.time + 1).min(PIECE)].to_vec();
        targets.resize(self.time, IGNORE);
        Ok(Tokens { inputs, channels: 1, targets, split, group: 0 })
    }

    fn score(&self, example: &Tokens, answer: &Vec<f32>) -> Result<f64, TaskError> {
        let (found, expected) = (answer.len(), example.time());
        if found != expected {
            return Err(TaskError::AnswerShape { task: self.name().to_owned(), found, expected });
        }
        let asked = answer.iter().zip(&example.targets).filter(|&(_, &target)| target != IGNORE);
        let bits: Vec<f64> = asked.map(|(&log_p, _)| memwall_tasks::metrics::bits(f64::from(-log_p))).collect();
        Ok(bits.iter().sum::<f64>() / bits.len() as f64)
    }

    /// Nobody knows the letters of a passage that is new.
    fn oracle(&self, _: &Tokens) -> Option<Vec<f32>> {
        None
    }

    /// Every letter equally likely.
    fn guess(&self, example: &Tokens, _: &mut Philox) -> Vec<f32> {
        vec![-(self.letters as f32).ln(); example.time()]
    }

    fn chance(&self, _: &Tokens) -> f64 {
        memwall_tasks::metrics::bits(f64::from((self.letters as f32).ln()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeats(time: usize, seed: u64) -> Repeats {
        Repeats { time, letters: 64, pieces: 8, seed }
    }

    #[test]
    fn the_laws_of_tasks_hold() {
        for time in [256, 1024] {
            memwall_tasks::laws::task(&|seed| repeats(time, seed), &|e| e.inputs.iter().map(|&id| id as u8).collect());
        }
    }

    #[test]
    fn windows_of_any_length_are_the_same_text_in_which_only_long_ones_see_a_passage_return() {
        let letters = |time, count| -> Vec<i32> {
            (0..count).flat_map(|i| repeats(time, 3).example(Split::Test, i).unwrap().inputs).collect()
        };
        assert_eq!(letters(256, 8), letters(1024, 2));
        let long = repeats(1024, 3).example(Split::Test, 1).unwrap();
        assert_eq!(long.inputs[..1024 - PASSAGE], long.inputs[PASSAGE..]);
        assert_eq!(long.targets[..1023], long.inputs[1..]);
        assert_eq!(long.targets[1023], IGNORE);
        let short = repeats(256, 3).example(Split::Test, 1).unwrap();
        assert!(short.inputs.len() < PASSAGE && short.targets[255] == letters(256, 3)[512]);
    }
}
