//! Text as a task: predict the next token in windows of a corpus.
//!
//! Training windows start at random positions, one after another without end; validation and test windows follow each other
//! without overlap, the last one shorter, so that every token but a part's first is predicted exactly once.

use super::corpus::Corpus;
use crate::philox::Philox;
use crate::task::{ConfigError, IGNORE, Metric, Split, Task, TaskError, Tokens};
use std::sync::Arc;

/// Windows of a corpus as a [`Task`].
#[derive(Debug, Clone)]
pub struct TextTask {
    corpus: Arc<Corpus>,
    time: usize,
    vocab_size: usize,
    seed: u64,
}

impl TextTask {
    /// Windows of `time` tokens of a vocabulary of `vocab_size` ids; `seed` chooses the training windows.
    ///
    /// # Errors
    /// A window of no tokens, one longer than the training part less one token, or a vocabulary without some id.
    pub fn new(corpus: Arc<Corpus>, time: usize, vocab_size: usize, seed: u64) -> Result<TextTask, TaskError> {
        let error =
            |key, value: usize, reason: String| ConfigError { task: "text", key, value: value.to_string(), reason };
        if time == 0 {
            return Err(error("window", time, "it must be at least 1 token".into()).into());
        }
        let tokens = corpus.part(Split::Train).len();
        if tokens <= time {
            let reason = format!("the training part has {tokens} tokens; it must have more than a window");
            return Err(error("window", time, reason).into());
        }
        if corpus.vocab_size() > vocab_size {
            let reason = format!("the corpus has the id {}", corpus.vocab_size() - 1);
            return Err(error("vocab_size", vocab_size, reason).into());
        }
        Ok(TextTask { corpus, time, vocab_size, seed })
    }

    /// The corpus.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// The first token of a window.
    pub fn start(&self, split: Split, index: u64) -> usize {
        match split {
            Split::Train => {
                let starts = self.corpus.part(Split::Train).len() - self.time;
                Philox::new(self.seed, index).below(starts as u64) as usize
            }
            _ => usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(self.time),
        }
    }
}

impl Task for TextTask {
    type Example = Tokens;
    /// The natural logarithm of the probability given to each target `[T]`.
    type Answer = Vec<f32>;

    fn name(&self) -> &str {
        "text"
    }

    fn metric(&self) -> Metric {
        Metric::BitsPerToken
    }

    fn groups(&self, split: Split) -> Vec<u64> {
        if split == Split::Train {
            return vec![u64::MAX];
        }
        let predicted = self.corpus.part(split).len().saturating_sub(1);
        let (full, rest) = (predicted / self.time, predicted % self.time);
        [full as u64, u64::from(rest > 0)].into_iter().filter(|&size| size > 0).collect()
    }

    fn example(&self, split: Split, index: u64) -> Result<Tokens, TaskError> {
        let groups = self.groups(split);
        let examples = groups.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        if index >= examples {
            return Err(TaskError::OutOfRange { task: self.name().to_string(), split, index, examples });
        }
        let mut inputs = self.corpus.part(split).window(self.start(split, index), self.time + 1);
        let targets = inputs[1..].to_vec();
        inputs.pop();
        let group = usize::from(groups.len() > 1 && index >= groups[0]);
        Ok(Tokens { inputs, channels: 1, targets, split, group })
    }

    fn score(&self, example: &Tokens, answer: &Vec<f32>) -> Result<f64, TaskError> {
        let (found, expected) = (answer.len(), example.time());
        if found != expected || expected == 0 {
            return Err(TaskError::AnswerShape { task: self.name().to_string(), found, expected });
        }
        let scored: Vec<f64> = answer
            .iter()
            .zip(&example.targets)
            .filter(|&(_, &target)| target != IGNORE)
            .map(|(&log_p, _)| crate::metrics::bits(f64::from(-log_p)))
            .collect();
        Ok(scored.iter().sum::<f64>() / scored.len() as f64)
    }

    /// Natural text has none.
    fn oracle(&self, _: &Tokens) -> Option<Vec<f32>> {
        None
    }

    /// Every id of the vocabulary equally likely.
    fn guess(&self, example: &Tokens, _: &mut Philox) -> Vec<f32> {
        vec![-(self.vocab_size as f32).ln(); example.time()]
    }

    fn chance(&self, _: &Tokens) -> f64 {
        // As f32 has it: the guess is given in that.
        crate::metrics::bits(f64::from((self.vocab_size as f32).ln()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batches, Position};
    use crate::text::{Documents, Fractions};

    /// Bytes without long repeats, the same each time.
    fn corpus(bytes: usize) -> Arc<Corpus> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let mut rng = Philox::new(5, 0);
        let text: Vec<u8> = (0..bytes).map(|_| b'a' + rng.below(26) as u8).collect();
        std::fs::write(&path, text).unwrap();
        Arc::new(Corpus::read_bytes(&[path], &Documents::Files, Fractions { validation: 0.1, test: 0.1 }).unwrap())
    }

    #[test]
    fn the_laws_of_tasks_hold() {
        let corpus = corpus(20_000);
        crate::laws::task(&|seed| TextTask::new(corpus.clone(), 16, 256, seed).unwrap(), &|e| {
            e.inputs.iter().map(|&id| id as u8).collect()
        });
    }

    #[test]
    fn targets_are_the_inputs_moved_by_one() {
        let task = TextTask::new(corpus(1000), 8, 256, 3).unwrap();
        for split in Split::ALL {
            let example = task.example(split, 2).unwrap();
            let start = task.start(split, 2);
            assert_eq!(example.inputs, task.corpus().part(split).window(start, 8));
            assert_eq!(example.targets, task.corpus().part(split).window(start + 1, 8));
        }
    }

    #[test]
    fn held_out_windows_predict_every_token_but_the_first_once() {
        let task = TextTask::new(corpus(1003), 8, 256, 3).unwrap();
        for split in [Split::Validation, Split::Test] {
            let part = task.corpus().part(split);
            let batches = Batches::new(&task, split, 5, Position::default()).unwrap();
            let expected = batches.per_epoch();
            let batches: Vec<_> = batches.rest_of_epoch().collect::<Result<_, _>>().unwrap();
            assert_eq!(batches.len() as u64, expected);
            let predicted: Vec<i32> = batches.iter().flat_map(|batch| batch.targets.clone()).collect();
            assert_eq!(predicted, part.window(1, part.len()));
        }
    }

    #[test]
    fn training_windows_reach_every_start() {
        let task = TextTask::new(corpus(50), 8, 256, 3).unwrap();
        let starts: std::collections::BTreeSet<usize> = (0..2000).map(|i| task.start(Split::Train, i)).collect();
        assert!(starts.into_iter().eq(0..40 - 8));
    }

    #[test]
    fn impossible_settings_are_errors_that_name_them() {
        let corpus = corpus(100);
        for (time, vocab, key) in [(0, 256, "window = 0"), (80, 256, "window = 80"), (8, 99, "vocab_size = 99")] {
            let error = TextTask::new(corpus.clone(), time, vocab, 0).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(TextTask::new(corpus, 79, 256, 0).is_ok());
    }

    #[test]
    fn training_resumes_at_the_exact_example() {
        let task = TextTask::new(corpus(1000), 8, 256, 3).unwrap();
        let mut whole = Batches::new(&task, Split::Train, 4, Position::default()).unwrap();
        whole.next_batch().unwrap();
        let mut resumed = Batches::new(&task, Split::Train, 4, whole.position()).unwrap();
        for _ in 0..10 {
            assert_eq!(whole.next_batch().unwrap(), resumed.next_batch().unwrap());
        }
    }
}
