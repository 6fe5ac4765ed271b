//! Batches of token examples in a fixed order, with an exact position to resume from.

use crate::task::{IGNORE, Split, Task, TaskError, Tokens};
use serde::{Deserialize, Serialize};

/// B sequences of T positions, put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Ids [B, T, channels].
    pub inputs: Vec<i32>,
    /// Targets [B, T], [`IGNORE`] where nothing is asked.
    pub targets: Vec<i32>,
    /// B.
    pub rows: usize,
    /// T.
    pub time: usize,
    /// Ids per position.
    pub channels: usize,
    /// The group of the split that all of them belong to.
    pub group: usize,
}

impl Batch {
    /// Puts sequences of one shape together.
    ///
    /// # Errors
    /// None at all, or different lengths, channels or groups.
    pub fn stack(examples: &[Tokens]) -> Result<Batch, TaskError> {
        let error = |reason: &str| TaskError::Batch { rows: examples.len(), reason: reason.to_string() };
        let first = examples.first().ok_or_else(|| error("a batch needs at least one"))?;
        let shape = |e: &Tokens| (e.time(), e.channels, e.group, e.inputs.len());
        if examples.iter().any(|e| shape(e) != shape(first)) {
            return Err(error("its sequences differ in length, channels or group"));
        }
        let mut batch = Batch {
            inputs: Vec::with_capacity(examples.len() * first.inputs.len()),
            targets: Vec::with_capacity(examples.len() * first.time()),
            rows: examples.len(),
            time: first.time(),
            channels: first.channels,
            group: first.group,
        };
        for example in examples {
            batch.inputs.extend_from_slice(&example.inputs);
            batch.targets.extend_from_slice(&example.targets);
        }
        Ok(batch)
    }

    /// Positions at which something is asked.
    pub fn labels(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }
}

/// Where in the examples of a split a run is: what the next batch starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the split that are complete.
    pub epoch: u64,
    /// Examples of this pass that are used.
    pub index: u64,
}

/// The batches of a split in order; groups are not mixed and the last batch of a group is smaller, never dropped.
pub struct Batches<'a, T: ?Sized> {
    task: &'a T,
    split: Split,
    batch_size: usize,
    /// The end of each group.
    ends: Vec<u64>,
    position: Position,
}

impl<'a, T: Task<Example = Tokens> + ?Sized> Batches<'a, T> {
    /// Batches of up to `batch_size` examples from `position` on.
    ///
    /// # Errors
    /// A batch size of 0, a split without examples, or a position beyond its end.
    pub fn new(task: &'a T, split: Split, batch_size: usize, position: Position) -> Result<Batches<'a, T>, TaskError> {
        let mut end = 0u64;
        let ends: Vec<u64> = task
            .groups(split)
            .into_iter()
            .map(|size| {
                end = end.saturating_add(size);
                end
            })
            .collect();
        if batch_size == 0 || end == 0 {
            let reason =
                if end == 0 { format!("{} has none in {split}", task.name()) } else { "batch_size is 0".into() };
            return Err(TaskError::Batch { rows: batch_size, reason });
        }
        if position.index >= end {
            let task = task.name().to_string();
            return Err(TaskError::OutOfRange { task, split, index: position.index, examples: end });
        }
        Ok(Batches { task, split, batch_size, ends, position })
    }

    /// The position of the next batch.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Batches of a whole pass.
    pub fn per_epoch(&self) -> u64 {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| (end - start).div_ceil(self.batch_size as u64)).sum()
    }

    /// The next batch; after the last one of a pass the next pass begins.
    ///
    /// # Errors
    /// What [`Task::example`] returns.
    pub fn next_batch(&mut self) -> Result<Batch, TaskError> {
        let start = self.position.index;
        let group_end = self.ends.iter().copied().find(|&end| end > start).unwrap_or(start);
        let end = group_end.min(start.saturating_add(self.batch_size as u64));
        let examples = (start..end).map(|i| self.task.example(self.split, i)).collect::<Result<Vec<_>, _>>()?;
        let batch = Batch::stack(&examples)?;
        self.position = if self.ends.last() == Some(&end) {
            Position { epoch: self.position.epoch + 1, index: 0 }
        } else {
            Position { index: end, ..self.position }
        };
        Ok(batch)
    }

    /// The batches up to the end of this pass.
    pub fn rest_of_epoch(mut self) -> impl Iterator<Item = Result<Batch, TaskError>> {
        let epoch = self.position.epoch;
        std::iter::from_fn(move || (self.position.epoch == epoch).then(|| self.next_batch()))
    }
}
