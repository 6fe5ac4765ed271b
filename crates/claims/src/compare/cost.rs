//! What a contestant takes: bytes of state, memory of a step, time.

use std::time::Instant;

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_graph::Graph;
use memwall_nn::Sequences;
use memwall_train::{Batch, Optimizer};
use serde::Serialize;

use super::{Contestant, Subject};
use crate::trial::Training;
use crate::{Error, Run};

/// Steps that are timed, after one that is not.
const TIMED: usize = 5;

/// What training and running a contestant takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Bytes that a sequence keeps between tokens at its full length, keys, values and states in f32.
    pub state_bytes: usize,
    /// Bytes of activations and gradients of a training step.
    pub step_bytes: usize,
    /// Tokens a second of training: the median of five steps.
    pub tokens_per_second: f64,
}

pub(super) fn of(run: &Run, training: &Training, contestant: &Contestant, subject: Subject) -> Result<Cost, Error> {
    let model = &contestant.model;
    let mut g = Graph::new(Dtype::F32);
    let rows = g.run_dim("rows", 1).map_err(Error::experiment)?;
    let kv = KvFormat::both(Dtype::F32);
    let seqs = Sequences::slots(&mut g, rows, 1, 1, model.max_context, kv, 0).map_err(Error::experiment)?;
    let mut trainer = training.noisy_trainer(run, model, 1, subject.noise())?;
    let tokens = training.batch * training.time;
    let ids: Vec<i32> = (0..tokens).map(|i| (i % model.vocab_size) as i32).collect();
    let batch = Batch { targets: ids.clone(), ids, lengths: vec![training.time; training.batch] };
    let mut seconds = Vec::with_capacity(TIMED);
    for turn in 0..=TIMED {
        let begin = Instant::now();
        trainer.step(std::slice::from_ref(&batch), 1e-4, &Optimizer::default()).map_err(Error::experiment)?;
        if turn > 0 {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Cost {
        state_bytes: model.state_bytes(model.max_context, &seqs),
        step_bytes: trainer.plan().arena_bytes,
        tokens_per_second: tokens as f64 / seconds[TIMED / 2],
    })
}
