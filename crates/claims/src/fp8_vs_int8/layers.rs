//! Outputs of layers whose inputs or weights are stored in eight bits.

use memwall_cache::KvFormat;
use memwall_fit::{EngineOptions, WeightTier, step_graph};
use memwall_formats::Dtype;
use memwall_graph::Memory;
use memwall_infer::{Engine, Loading, Model, StepRows, Wanted};
use memwall_nn::WeightTypes;
use memwall_tasks::Philox;
use memwall_tokenizer::Tokenizer;

use super::grid::{E4M3, Eight, decibel};
use crate::{Error, Run, random::normal};

/// Inputs and outputs of the layer.
const WIDTH: usize = 128;
/// The input that is amplified, and divided in the weight.
const LOUD: usize = 17;

/// A linear layer, `x` [rows, 128] and `w` [128, 128].
pub(super) struct Layer {
    x: Vec<f32>,
    w: Vec<f32>,
}

impl Layer {
    /// Normal inputs and weights, one input `times` as large and its weights so much smaller.
    pub(super) fn amplified(seed: u64, rows: usize, times: f32) -> Layer {
        let mut rng = Philox::new(seed, 212);
        let mut draw = |n: usize, loud: f32| -> Vec<f32> {
            (0..n).map(|i| normal(&mut rng) as f32 * if i % WIDTH == LOUD { loud } else { 1.0 }).collect()
        };
        Layer { x: draw(rows * WIDTH, times), w: draw(WIDTH * WIDTH, 1.0 / times) }
    }

    /// The same function with each input divided by √(max |x| / max |w|) and its weights multiplied by it.
    pub(super) fn equalized(mut self) -> Layer {
        let most = |values: &[f32], j: usize| values.iter().skip(j).step_by(WIDTH).fold(0f32, |m, v| m.max(v.abs()));
        for j in 0..WIDTH {
            let factor = (most(&self.x, j) / most(&self.w, j)).sqrt();
            self.x.iter_mut().skip(j).step_by(WIDTH).for_each(|x| *x /= factor);
            self.w.iter_mut().skip(j).step_by(WIDTH).for_each(|w| *w *= factor);
        }
        self
    }

    fn outputs(&self, x: &[f32]) -> Vec<f32> {
        let dot =
            |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32;
        x.chunks(WIDTH).flat_map(|x| self.w.chunks(WIDTH).map(move |w| dot(x, w))).collect()
    }

    /// Signal to noise of the outputs in dB, the inputs stored with one range, their largest magnitude.
    pub(super) fn output_db(&self, format: Eight) -> Result<f64, Error> {
        let range = self.x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let stored = format.back(range, &self.x)?;
        Ok(decibel(&self.outputs(&self.x), &self.outputs(&stored)))
    }

    /// How far INT8 is ahead of E4M3.
    pub(super) fn lead(&self) -> Result<f64, Error> {
        Ok(self.output_db(Eight::Int8)? - self.output_db(super::grid::ALL[E4M3].0)?)
    }
}

/// Signal to noise in dB of a model's logits, every matrix stored in each of two formats, a range a row.
pub(super) fn logits_db(
    run: &Run,
    model: &Model,
    text: &str,
    tokens: usize,
    formats: [Eight; 2],
) -> Result<[f64; 2], Error> {
    let tokenizer = Tokenizer::from_container(model.container()).map_err(Error::experiment)?;
    let mut ids = tokenizer.encode(text, true, false).map_err(Error::experiment)?;
    ids.truncate(tokens);
    let options = EngineOptions {
        threads: run.threads(),
        context: ids.len(),
        step: ids.len(),
        outputs: ids.len(),
        tier: WeightTier::Ram,
        kv: KvFormat::both(Dtype::F32),
        ..EngineOptions::default()
    };
    let config = &model.checkpoint().config;
    let (graph, _) = step_graph(config, &WeightTypes::new(), &options).map_err(Error::experiment)?;
    let logits = |format: Option<Eight>| -> Result<Vec<f32>, Error> {
        let mut memory = Memory::within(run.budget());
        let how = Loading { tier: WeightTier::Ram, threads: run.threads(), behind: None };
        model.load(&graph, &mut memory, how).map_err(Error::experiment)?;
        if let Some(format) = format {
            for (name, shape) in model.checkpoint().weights().into_iter().filter(|(_, shape)| shape.len() == 2) {
                let values = memory.get::<f32>(&name).map(<[f32]>::to_vec);
                let mut values = values.ok_or_else(|| Error::experiment(format!("weight {name} is not in f32")))?;
                for row in values.chunks_mut(shape[1]) {
                    let range = row.iter().fold(0f32, |m, x| m.max(x.abs()));
                    if range > 0.0 {
                        let stored = format.back(range, row)?;
                        row.copy_from_slice(&stored);
                    }
                }
                memory.set(&name, Dtype::F32, &values).map_err(Error::experiment)?;
            }
        }
        let mut engine = Engine::over(config, memory, options).map_err(Error::experiment)?;
        Ok(engine.step(&[StepRows { slot: 0, tokens: &ids }], Wanted::All).map_err(Error::experiment)?.to_vec())
    };
    let original = logits(None)?;
    let [a, b] = formats.map(|format| logits(Some(format)));
    Ok([decibel(&original, &a?), decibel(&original, &b?)])
}
