//! Where attention rests that has nothing to do: what the first token draws with and without a gate.
//!
//! Eight layers without positions read a start token, background, one token to keep and few triggers that ask for it
//! ([`TriggeredCopyingConfig`]); each background token's answer follows from itself. Asked once everywhere, and once with a
//! loss at the triggers alone, which asks nothing of attention elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::{Executor, Graph, PlanOptions};
use memwall_kernels::Pool;
use memwall_nn::{
    Activation, AttentionConfig, ChannelConfig, GateConfig, LayerConfig, MixerConfig, ModelConfig, Sequences,
    SinkProbe, Sinks, WeightTypes,
};
use memwall_tasks::{
    Batches, GeneratedData, GeneratedTask, GeneratorConfig, Position, Split, Task, Tokens, TriggeredCopyingConfig,
};
use memwall_train::{Batch, Trainer};

use super::learning::{ELEMENTWISE, PLAIN};
use crate::evidence::Sweep;
use crate::trial::{Figure, Training, packed};
use crate::{Better, Error, Measured, Run, SweepPlan, TuneOn, sweep};

/// What a trained model does with the first token of `batch`; of queries from position `from` on.
pub(super) fn probe(trainer: &mut Trainer, batch: &Batch, from: usize) -> Result<Sinks, Error> {
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, batch.ids.len(), batch.lengths.len()).map_err(Error::experiment)?;
    let hidden = trainer.config().hidden(&mut g, &WeightTypes::new(), &seqs).map_err(Error::experiment)?;
    g.output("hidden", hidden);
    let probe = SinkProbe::new(&mut g, trainer.config());
    let positions: Vec<i32> = batch.lengths.iter().flat_map(|&n| 0..n as i32).collect();
    let ends = batch.lengths.iter().scan(0, |at, &n| {
        *at += n as i32;
        Some(*at)
    });
    let cu_seqlens: Vec<i32> = std::iter::once(0).chain(ends).collect();
    let given = [("ids", &batch.ids), ("positions", &positions), ("cu_seqlens", &cu_seqlens)];
    let pool = Arc::new(Pool::new(1));
    let mut e = Executor::new(g, PlanOptions::default(), trainer.memory_mut(), pool).map_err(Error::experiment)?;
    for (name, values) in given {
        if let Some(value) = e.graph().find(name).filter(|&value| e.reads(value)) {
            e.input::<i32>(value).copy_from_slice(values);
        }
    }
    e.run(trainer.memory_mut()).map_err(Error::experiment)?;
    Ok(probe.read(&e, &batch.lengths, from))
}

/// The first batch of the test split of a task.
pub(super) fn test_batch<T: Task<Example = Tokens>>(task: &T, size: usize) -> Result<Batch, Error> {
    let mut batches = Batches::new(task, Split::Test, size, Position::default()).map_err(Error::experiment)?;
    Ok(packed(&batches.next_batch().map_err(Error::experiment)?))
}

/// What one kind of loss showed.
pub(super) struct Resting {
    /// The share of attention that the first token draws, plain and gated, a seed each at the chosen rates.
    pub(super) shares: Measured,
    pub(super) sweep: Sweep,
}

/// Trains plain and gated models on triggers and looks where their attention rests.
pub(super) fn resting(run: &Run, only_triggers: bool) -> Result<Resting, Error> {
    let training = Training {
        steps: run.pick(3, 1000, 8000),
        batch: run.pick(2, 16, 32),
        time: run.pick(16, 64, 128),
        measured: run.pick(1, 8, 32),
        figure: Figure::Accuracy,
    };
    let plan = SweepPlan {
        what: if only_triggers { "triggers, asked alone" } else { "triggers" },
        arms: &[ELEMENTWISE, PLAIN],
        rates: &[1e-3, 3e-3, 1e-2],
        better: Better::Higher,
        tune_on: TuneOn::FirstSeed,
    };
    let mut seen: HashMap<(String, u64, u64), f64> = HashMap::new();
    let sweep = sweep(run, plan, |arm, rate, seed| {
        let (task, model) = (task(&training, only_triggers, seed)?, model(run, &training, arm));
        let (trial, mut trainer) = training.trained(run, &model, &task, rate, seed)?;
        let sinks = probe(&mut trainer, &test_batch(&task, training.batch)?, training.time / 4)?;
        let share = sinks.layers.iter().map(|layer| layer.first_token_share).sum::<f64>() / sinks.layers.len() as f64;
        seen.insert((arm.to_owned(), rate.to_bits(), seed), share);
        Ok(trial)
    })?;
    let shares = |name: &str| -> Vec<f64> {
        let rate = sweep.arms.iter().find(|arm| arm.name == name).map_or(0, |arm| arm.chosen_rate.to_bits());
        let of = |seed: &u64| seen.get(&(name.to_owned(), rate, *seed)).copied().unwrap_or(f64::NAN);
        run.seeds().iter().map(of).collect()
    };
    Ok(Resting { shares: Measured::pairs(&shares(PLAIN), &shares(ELEMENTWISE)), sweep })
}

fn task(training: &Training, only_triggers: bool, seed: u64) -> Result<GeneratedTask, Error> {
    let of = |batches: u64| {
        vec![GeneratorConfig::TriggeredCopying(TriggeredCopyingConfig {
            vocab_size: 66,
            input_seq_len: training.time,
            num_examples: batches * training.batch as u64,
            num_triggers: training.time / 16,
            only_triggers,
        })]
    };
    GeneratedTask::new(GeneratedData {
        train_configs: of(training.steps),
        validation_configs: of(training.measured as u64),
        test_configs: of(training.measured as u64),
        seed,
    })
    .map_err(Error::experiment)
}

/// Layers of one head of attention, gated a channel or not, and a gated MLP; nothing tells positions.
fn model(run: &Run, training: &Training, arm: &str) -> ModelConfig {
    let (width, layers) = (run.pick(8, 32, 64), run.pick(2, 8, 8));
    let gate = (arm == ELEMENTWISE).then(GateConfig::default);
    let attention = AttentionConfig { gate, ..AttentionConfig::new(2, 2, width / 2) };
    let channel = ChannelConfig::Glu { hidden: 2 * width, activation: Activation::Silu, bias: false };
    let layer = LayerConfig { mixer: MixerConfig::Attention(attention), channel };
    ModelConfig::new(66, width, training.time, vec![layer; layers])
}
