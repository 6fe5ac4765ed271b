//! What trained models do: characters of plays, with the memory in place and out of it; recall beyond the windows.

use std::collections::HashMap;
use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::ops::cross_entropy::CrossEntropy;
use memwall_graph::ops::select_rows::SelectRows;
use memwall_graph::{Executor, Graph, GraphError, PlanOptions, Value};
use memwall_kernels::Pool;
use memwall_nn::{ModelConfig, Sequences, WeightTypes};
use memwall_tasks::{
    Batches, GeneratedData, GeneratedTask, GeneratorConfig, MqarConfig, Philox, Position, Split, TextTask,
};
use memwall_train::Trainer;

use super::models::{SAMBAY, Sizes, WINDOWED, YOCO};
use crate::{
    Better, Error, Run, SweepPlan, TuneOn,
    characters::Characters,
    evidence::Sweep,
    sweep,
    trial::{Figure, Training, packed},
};

/// Losses of the trained SambaY models, one a seed, as they are and with the memory of other tokens.
pub(super) struct Shuffled {
    pub(super) intact: Vec<f64>,
    pub(super) shuffled: Vec<f64>,
}

/// Loss on characters of SambaY and of Samba+YOCO.
pub(super) fn characters(run: &Run) -> Result<(Sweep, Shuffled), Error> {
    let text = Characters::read(run)?;
    let sizes = Sizes {
        vocabulary: 256,
        width: run.pick(16, 64, 256),
        layers: 8,
        heads: 4,
        context: text.training.time,
        window: run.pick(4, 32, 64),
        differential: false,
    };
    let plan = SweepPlan {
        what: "characters",
        arms: &[YOCO, SAMBAY],
        rates: &[1e-3, 3e-3, 1e-2],
        better: Better::Lower,
        tune_on: TuneOn::FirstSeed,
    };
    let mut losses: HashMap<(u64, u64), [f64; 2]> = HashMap::new();
    let swept = sweep(run, plan, |arm, rate, seed| {
        let (config, task) = (sizes.model(arm)?, text.task(seed)?);
        let (trial, mut trainer) = text.training.trained(run, &config, &task, rate, seed)?;
        if arm == SAMBAY {
            let both =
                with_other_memory(run, &text.training, &config, sizes.memory_layer(), &mut trainer, &task, seed)?;
            losses.insert((rate.to_bits(), seed), both);
        }
        Ok(trial)
    })?;
    let rate = swept.arms.iter().find(|arm| arm.name == SAMBAY).map_or(0, |arm| arm.chosen_rate.to_bits());
    let of = |i: usize| {
        let loss = |seed: &u64| losses.get(&(rate, *seed)).map_or(f64::NAN, |both| both[i]);
        run.seeds().iter().map(loss).collect::<Vec<f64>>()
    };
    let shuffled = Shuffled { intact: of(0), shuffled: of(1) };
    Ok((swept, shuffled))
}

/// The model over whole sequences, whose layers above `source` read the memory of row `order[i]` in row i.
fn reordered(
    config: &ModelConfig,
    source: usize,
    tokens: usize,
    sequences: usize,
) -> Result<(Graph, [Value; 3]), GraphError> {
    let (mut g, types) = (Graph::new(Dtype::F32), WeightTypes::new());
    let seqs = Sequences::whole(&mut g, tokens, sequences)?;
    let order = g.input("order", [tokens], Dtype::I32)?;
    let targets = g.input("targets", [tokens], Dtype::I32)?;
    let mut x = config.embed(&mut g, &types, &seqs)?;
    for i in 0..config.layers.len() {
        x = config.block(&mut g, &types, &seqs, i, x)?;
        if i == source {
            let memory = seqs.memory(source).ok_or_else(|| g.refused("select_rows", "the layer has no memory"))?;
            let memory = g.push1(SelectRows, &[memory, order])?;
            seqs.set_memory(source, memory);
        }
    }
    let x = config.last_norm(&mut g, x)?;
    let logits = config.logits(&mut g, &types, x, None)?;
    let loss = g.push(CrossEntropy, &[logits, targets])?[0];
    g.output("loss", loss);
    Ok((g, [seqs.ids, order, targets]))
}

/// Mean loss on test text of a trained model: each token reads its own memory; each reads that of a random one of its
/// sequence.
fn with_other_memory(
    run: &Run,
    training: &Training,
    config: &ModelConfig,
    source: usize,
    trainer: &mut Trainer,
    task: &TextTask,
    seed: u64,
) -> Result<[f64; 2], Error> {
    let tokens = training.batch * training.time;
    let (g, [ids, order, targets]) = reordered(config, source, tokens, training.batch).map_err(Error::experiment)?;
    let cu_seqlens = g.find("cu_seqlens").ok_or_else(|| Error::experiment("the graph has no offsets"))?;
    let pool = Arc::new(Pool::new(run.threads()));
    let memory = trainer.memory_mut();
    let mut e = Executor::new(g, PlanOptions::default(), memory, pool).map_err(Error::experiment)?;
    let mut batches =
        Batches::new(task, Split::Test, training.batch, Position::default()).map_err(Error::experiment)?;
    let mut rng = Philox::new(seed, 4);
    let mut sums = [0.0; 2];
    for _ in 0..training.measured {
        let batch = packed(&batches.next_batch().map_err(Error::experiment)?);
        for (sum, shuffles) in sums.iter_mut().zip([false, true]) {
            // A run may write over its inputs.
            e.input::<i32>(ids).copy_from_slice(&batch.ids);
            e.input::<i32>(targets).copy_from_slice(&batch.targets);
            for (i, to) in e.input::<i32>(cu_seqlens).iter_mut().enumerate() {
                *to = (i * training.time) as i32;
            }
            let rows = e.input::<i32>(order);
            rows.iter_mut().enumerate().for_each(|(i, row)| *row = i as i32);
            for sequence in rows.chunks_exact_mut(training.time).filter(|_| shuffles) {
                for i in (1..sequence.len()).rev() {
                    sequence.swap(i, (rng.unit() * (i + 1) as f64) as usize % (i + 1));
                }
            }
            e.run(memory).map_err(Error::experiment)?;
            *sum += f64::from(e.output::<f32>("loss")[0]) / training.measured as f64;
        }
    }
    Ok(sums)
}

/// Recall of pairs beyond the windows: layer L/2 + 1 sees all tokens, or has a window too.
pub(super) fn recall(run: &Run) -> Result<Sweep, Error> {
    let (vocabulary, time, pairs) = run.pick((40, 32, 2), (128, 256, 16), (512, 256, 32));
    let sizes = Sizes {
        vocabulary,
        width: run.pick(16, 32, 64),
        layers: 8,
        heads: 2,
        context: time,
        window: run.pick(4, 16, 16),
        differential: false,
    };
    let training = Training {
        steps: run.pick(3, 800, 10_000),
        batch: run.pick(2, 16, 32),
        time,
        measured: run.pick(2, 8, 32),
        figure: Figure::Accuracy,
    };
    let plan = SweepPlan {
        what: "recall",
        arms: &[WINDOWED, SAMBAY],
        rates: &[1e-3, 3e-3, 1e-2],
        better: Better::Higher,
        tune_on: TuneOn::FirstSeed,
    };
    sweep(run, plan, |arm, rate, seed| {
        let of = |batches: u64| {
            let config = MqarConfig::new(vocabulary, time, pairs, batches * training.batch as u64);
            vec![GeneratorConfig::Mqar(MqarConfig { random_non_queries: false, ..config })]
        };
        let task = GeneratedTask::new(GeneratedData {
            train_configs: of(training.steps),
            validation_configs: of(training.measured as u64),
            test_configs: of(training.measured as u64),
            seed,
        });
        training.trial(run, &sizes.model(arm)?, &task.map_err(Error::experiment)?, rate, seed)
    })
}
