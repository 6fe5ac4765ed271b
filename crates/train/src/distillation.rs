//! A teacher beside the training: a model file whose likeliest tokens the student learns from.
//!
//! The teacher reads the batch of every step and keeps the K likeliest ids of each position; nothing of it is stored.

use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::ops::{self, distillation::Distillation};
use memwall_graph::{Dim, Executor, Graph, GraphError, Memory, PlanOptions, RunDim, Value, fuse};
use memwall_kernels::Pool;
use memwall_kernels::cross_entropy::IGNORE;
use memwall_nn::{ModelConfig, Sequences, WeightTypes};

use crate::start::{Start, StartError};
use crate::trainer::{Batch, TrainError, TrainerOptions, feed_tokens};

const IDS: &str = "teacher_ids";
const LOGS: &str = "teacher_log_probabilities";

/// How a student learns from a teacher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillationOptions {
    /// K, the likeliest ids of each position that the teacher tells.
    pub top_k: usize,
    /// τ of the comparison within them.
    pub temperature: f64,
    /// The share of the loss; the rest is cross-entropy with the text.
    pub weight: f64,
}

impl DistillationOptions {
    /// Adds the loss: the share of distillation of `logits`, and of the cross-entropy `text` what is left.
    pub(crate) fn loss(&self, g: &mut Graph, rows: RunDim, logits: Value, text: Value) -> Result<Value, GraphError> {
        let shape = || [Dim::from(rows), Dim::from(self.top_k)];
        let ids = g.input(IDS, shape(), Dtype::I32)?;
        let logs = g.input(LOGS, shape(), Dtype::F32)?;
        let taught = g.push(Distillation { temperature: self.temperature }, &[logits, ids, logs])?[0];
        let (taught, text) = (ops::scale(g, taught, self.weight)?, ops::scale(g, text, 1.0 - self.weight)?);
        ops::add(g, taught, text)
    }
}

/// A model that tells its likeliest tokens.
pub struct Teacher {
    executor: Executor,
    memory: Memory,
    rows: RunDim,
    sequences: RunDim,
}

/// The teacher's graph: the logits of all rows.
pub(crate) fn teacher_graph(config: &ModelConfig, options: &TrainerOptions) -> Result<Graph, GraphError> {
    let mut g = Graph::new(Dtype::F32);
    g.set_compute(options.compute);
    let rows = g.run_dim("rows", options.tokens)?;
    let sequences = g.run_dim("sequences", options.sequences)?;
    let types = WeightTypes::new();
    let seqs = Sequences::whole(&mut g, rows, sequences)?;
    let hidden = config.hidden(&mut g, &types, &seqs)?;
    let logits = config.logits(&mut g, &types, hidden, None)?;
    g.output("logits", logits);
    Ok(fuse(&g))
}

impl Teacher {
    /// Loads a teacher for batches as `options` say.
    pub(crate) fn load(start: &Start, config: &ModelConfig, options: &TrainerOptions) -> Result<Teacher, StartError> {
        let graph = teacher_graph(config, options)?;
        let mut memory = Memory::new();
        start.load(&graph, &mut memory)?;
        Ok(Teacher::new(graph, memory, options)?)
    }

    /// A teacher whose weights are in `memory`.
    pub(crate) fn new(mut graph: Graph, mut memory: Memory, options: &TrainerOptions) -> Result<Teacher, GraphError> {
        let rows = graph.run_dim("rows", options.tokens)?;
        let sequences = graph.run_dim("sequences", options.sequences)?;
        let pool = Arc::new(Pool::new(options.threads));
        let executor = Executor::new(graph, PlanOptions::default(), &mut memory, pool)?;
        Ok(Teacher { executor, memory, rows, sequences })
    }

    /// Gives the student's graph what the teacher says to a batch; positions without a target are not taught.
    pub(crate) fn teach(&mut self, student: &mut Executor, batch: &Batch) -> Result<(), TrainError> {
        let e = &mut self.executor;
        e.set_dim(self.rows, batch.ids.len())?;
        e.set_dim(self.sequences, batch.lengths.len())?;
        feed_tokens(e, batch);
        e.run(&mut self.memory)?;
        let logits = e.output::<f32>("logits");
        let vocabulary = logits.len() / batch.ids.len();
        let (Some(ids), Some(logs)) = (student.graph().find(IDS), student.graph().find(LOGS)) else {
            return Err(TrainError::Batch { what: "the student is not planned with a teacher".into() });
        };
        let k = student.input::<i32>(ids).len() / batch.ids.len();
        let mut order: Vec<usize> = Vec::with_capacity(vocabulary);
        for (t, row) in logits.chunks_exact(vocabulary).enumerate() {
            if batch.targets[t] == IGNORE {
                student.input::<i32>(ids)[t * k..][..k].fill(IGNORE);
                student.input::<f32>(logs)[t * k..][..k].fill(0.0);
                continue;
            }
            let kept = likeliest(row, k, &mut order);
            let sum = log_sum_exp(row);
            for (i, &id) in kept.iter().enumerate() {
                student.input::<i32>(ids)[t * k + i] = id as i32;
                student.input::<f32>(logs)[t * k + i] = (f64::from(row[id]) - sum) as f32;
            }
        }
        Ok(())
    }
}

/// The `k` ids with the largest logits, the largest first; of equal ones the smaller id.
fn likeliest<'a>(row: &[f32], k: usize, order: &'a mut Vec<usize>) -> &'a [usize] {
    order.clear();
    order.extend(0..row.len());
    let larger = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, larger);
        order.truncate(k);
    }
    order.sort_unstable_by(larger);
    order
}

/// ln Σ e^x.
fn log_sum_exp(row: &[f32]) -> f64 {
    let most = f64::from(row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)));
    most + row.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_equal_ones_by_id() {
        let mut order = Vec::new();
        let row = [0.5, 2.0, -1.0, 2.0, 7.0];
        assert_eq!(likeliest(&row, 3, &mut order), [4, 1, 3]);
        assert_eq!(likeliest(&row, 5, &mut order), [4, 1, 3, 0, 2]);
        assert!((log_sum_exp(&[0.0, 0.0]) - f64::ln(2.0)).abs() < 1e-15);
    }
}
