//! What buffers of trained models hold: the share of pairs in it, and how it grows, when filler is one token and when it is
//! random.

use std::sync::Arc;

use memwall_graph::{Executor, Graph, GraphError, PlanOptions, Value};
use memwall_kernels::Pool;
use memwall_nn::{EideticConfig, MixerConfig, ModelConfig, Sequences, WeightTypes};
use memwall_tasks::{Batches, GeneratedData, GeneratedTask, Position, QueryPlaces, Split, Task, Tokens};
use memwall_train::Trainer;

use super::learning::{EIDETIC, Sizes, filler, many_pairs, median};
use crate::evidence::{Curve, Line, Point};
use crate::trial::packed;
use crate::{Error, Run};

/// A model over whole sequences whose output is, of each token, the chunk from which on the last buffer is without it.
fn selecting(config: &ModelConfig, tokens: usize, sequences: usize) -> Result<(Graph, Value), GraphError> {
    let mut g = Graph::new(memwall_formats::Dtype::F32);
    let seqs = Sequences::whole(&mut g, tokens, sequences)?;
    config.hidden(&mut g, &WeightTypes::new(), &seqs)?;
    let selection = g.nodes().iter().rev().find(|node| node.op.name() == "eidetic_selection");
    let until = selection.map(|node| node.outputs[0]).ok_or_else(|| g.refused("bmojo", "no layer has a buffer"))?;
    g.output("until", until);
    Ok((g, seqs.ids))
}

/// Tokens of some batches: their ids, and of each the chunk from which on the buffer is without it.
struct Selected {
    ids: Vec<i32>,
    until: Vec<i32>,
}

/// What a model does with `batches` of `batch` sequences of `time` tokens.
fn selected<T: Task<Example = Tokens>>(
    run: &Run,
    config: &ModelConfig,
    trainer: &mut Trainer,
    task: &T,
    (batch, time, batches): (usize, usize, usize),
) -> Result<Selected, Error> {
    let (g, ids) = selecting(config, batch * time, batch).map_err(Error::experiment)?;
    let inputs = ["cu_seqlens", "positions"].map(|name| g.find(name));
    let memory = trainer.memory_mut();
    let pool = Arc::new(Pool::new(run.threads()));
    let mut e = Executor::new(g, PlanOptions::default(), memory, pool).map_err(Error::experiment)?;
    let mut all = Selected { ids: Vec::new(), until: Vec::new() };
    let mut examples = Batches::new(task, Split::Test, batch, Position::default()).map_err(Error::experiment)?;
    for _ in 0..batches {
        let batch = packed(&examples.next_batch().map_err(Error::experiment)?);
        e.input::<i32>(ids).copy_from_slice(&batch.ids);
        for (value, of) in inputs.into_iter().zip([|i, time| i * time, |i, time| i % time]) {
            if let Some(value) = value.filter(|&value| e.reads(value)) {
                e.input::<i32>(value).iter_mut().enumerate().for_each(|(i, to)| *to = of(i, time) as i32);
            }
        }
        e.run(memory).map_err(Error::experiment)?;
        all.ids.extend_from_slice(&batch.ids);
        all.until.extend_from_slice(e.output::<i32>("until"));
    }
    Ok(all)
}

/// The tokens in the buffer of `chunk` of a sequence.
fn held(until: &[i32], window: usize, chunk: usize) -> impl Iterator<Item = usize> {
    let left = if chunk == 0 { 0 } else { (chunk - 1) * window + 1 };
    (0..left.min(until.len())).filter(move |&t| until[t] > chunk as i32)
}

/// A trained model's buffer.
struct Held {
    /// What the model recalls.
    recall: f64,
    /// Share of keys and values of pairs among the tokens of the buffers that the first queries see.
    pairs: f64,
    growth: Growth,
}

impl Held {
    fn of(run: &Run, sizes: &Sizes, random: bool, rate: f64, seed: u64) -> Result<Held, Error> {
        let (task, config) = (sizes.task(random, seed)?, sizes.model(EIDETIC)?);
        let (trial, mut trainer) = sizes.training.trained(run, &config, &task, rate, seed)?;
        let (time, window) = (sizes.training.time, sizes.window);
        let shape = (sizes.training.batch, time, sizes.training.measured);
        let found = selected(run, &config, &mut trainer, &task, shape)?;
        let (mut pairs, mut all) = (0, 0);
        // No query is among what the first of them sees.
        let chunk = (time - 2 * sizes.pairs) / window;
        for (ids, until) in found.ids.chunks_exact(time).zip(found.until.chunks_exact(time)) {
            for token in held(until, window, chunk) {
                pairs += usize::from(ids[token] as usize >= filler(random));
                all += 1;
            }
        }
        let growth = Growth::of(run, sizes, random, &config, &mut trainer, seed)?;
        Ok(Held { recall: trial.score, pairs: pairs as f64 / all.max(1) as f64, growth })
    }
}

/// The buffers of trained models, a seed each: under filler of one token, under random filler.
pub(super) struct Buffers {
    held: [Vec<Held>; 2],
    pairs: usize,
    slots: usize,
}

impl Buffers {
    /// Trains B'MOJO on many pairs at `rate`.
    pub(super) fn trained(run: &Run, rate: f64) -> Result<Buffers, Error> {
        let (sizes, seeds) = (many_pairs(run), run.seeds());
        let mut held = [Vec::new(), Vec::new()];
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("selection among many pairs", i as u64, seeds.len() as u64)?;
            for (held, random) in held.iter_mut().zip([false, true]) {
                held.push(Held::of(run, &sizes, random, rate, seed)?);
            }
        }
        Ok(Buffers { held, pairs: sizes.pairs, slots: sizes.slots() })
    }

    /// Share of pairs in the buffer, a seed each: under filler of one token, under random filler.
    pub(super) fn precision(&self) -> [Vec<f64>; 2] {
        self.held.each_ref().map(|of| of.iter().map(|held| held.pairs).collect())
    }

    /// What these models recall.
    pub(super) fn note(&self) -> String {
        let recall = |of: &Vec<Held>| median(&of.iter().map(|held| held.recall).collect::<Vec<f64>>());
        let [constant, random] = self.held.each_ref().map(recall);
        let Buffers { pairs, slots, .. } = self;
        format!(
            "selection is measured on {pairs} pairs and a buffer of {slots} tokens, after fewer steps at the same rate; \
             recall there is {constant:.3}, among random filler {random:.3}"
        )
    }

    /// Bytes of a buffer with a threshold, over the length.
    pub(super) fn growth(&self) -> Curve {
        let line = |(name, seeds): (&str, &Vec<Held>)| {
            let lengths = seeds.first().map_or(&[][..], |held| &held.growth.points);
            let at = |i: usize| seeds.iter().map(|held| held.growth.points.get(i).map_or(f64::NAN, |p| p[1])).collect();
            Line {
                name: name.into(),
                points: lengths.iter().enumerate().map(|(i, p)| Point { x: p[0], per_seed: at(i) }).collect(),
            }
        };
        Curve {
            what: format!(
                "bytes of keys and values in a buffer of up to {CAP} tokens whose innovation is {THRESHOLD} or more"
            ),
            x_label: "tokens read".into(),
            y_label: "bytes".into(),
            log_x: true,
            log_y: false,
            lines: ["filler of one token", "random filler"].into_iter().zip(&self.held).map(line).collect(),
        }
    }
}

/// Bytes of the tokens in a buffer with a threshold, over the length of a sequence.
struct Growth {
    /// Tokens read, and bytes held.
    points: Vec<[f64; 2]>,
}

/// The innovation from which on a token enters: as large as the output itself.
const THRESHOLD: f64 = 1.0;
/// Slots of a buffer with a threshold.
const CAP: usize = 256;

impl Growth {
    /// Of a trained model over one long sequence with pairs and queries anywhere.
    fn of(
        run: &Run,
        sizes: &Sizes,
        random: bool,
        config: &ModelConfig,
        trainer: &mut Trainer,
        seed: u64,
    ) -> Result<Growth, Error> {
        let time = run.pick(64, 4096, 16_384);
        let mut config = config.clone();
        let mut token = 0;
        for layer in &mut config.layers {
            if let MixerConfig::Bmojo(bmojo) = &mut layer.mixer {
                bmojo.eidetic = bmojo.eidetic.map(|e| EideticConfig { size: CAP, threshold: Some(THRESHOLD), ..e });
                // Key and value in f32.
                token = 2 * 4 * bmojo.kv_heads * bmojo.head_dim;
            }
        }
        // As many pairs a token as training had.
        let pairs = (sizes.pairs * time / sizes.training.time).min(sizes.keys);
        let one = || vec![sizes.examples(random, time, pairs, QueryPlaces::Anywhere, 1)];
        let data = GeneratedData { train_configs: one(), validation_configs: one(), test_configs: one(), seed };
        let task = GeneratedTask::new(data).map_err(Error::experiment)?;
        let until = selected(run, &config, trainer, &task, (1, time, 1))?.until;
        let lengths = std::iter::successors(Some(2 * sizes.window), |n| Some(2 * n)).take_while(|&n| n <= time);
        let points = lengths.map(|n| {
            let count = held(&until[..n], sizes.window, (n - 1) / sizes.window).count();
            [n as f64, (count * token) as f64]
        });
        Ok(Growth { points: points.collect() })
    }
}

#[cfg(test)]
mod tests {
    use memwall_kernels::bmojo::{Selection, naive, select, select_scratch};
    use memwall_tasks::Philox;

    use super::*;
    use crate::random::normal;

    #[test]
    fn tokens_of_a_buffer_are_those_of_its_definition() {
        let (mut rng, window, slots) = (Philox::new(9, 0), 4, 5);
        let scores: Vec<f64> = (0..70).map(|_| normal(&mut rng)).collect();
        let (selection, mut until) = (Selection { window, slots, threshold: Some(0.3) }, vec![0; 70]);
        let mut scratch = vec![0; select_scratch::<f64>(&selection, 1)];
        select(&Pool::new(1), &selection, &scores, &[0, 70], &mut until, &mut scratch).unwrap();
        for chunk in 0..18 {
            let want = naive::buffer(window, slots, Some(0.3), &scores, chunk);
            assert_eq!(held(&until, window, chunk).collect::<Vec<_>>(), want, "chunk {chunk}");
        }
    }
}
