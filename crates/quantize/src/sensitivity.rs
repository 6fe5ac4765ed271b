//! What each format of each weight costs the model: predicted mean KL divergence.
//!
//! For one weight the divergence grows as the square of the error of its layer's outputs, while that is small. So one
//! measurement a weight is enough: the model with that weight alone in a middling format gives KL over output error, and the
//! output errors of the other formats, which need no run of the model, give their KL. Divergences of several weights are
//! taken to add up.

use memwall_fit::{EngineOptions, WeightTier, step_graph};
use memwall_formats::{Dtype, format};
use memwall_graph::Memory;
use memwall_infer::perplexity::Windows;
use memwall_infer::{Engine, Loading, Model};
use memwall_kernels::Pool;
use memwall_nn::{EMBEDDING, WeightTypes};
use memwall_store::Budget;

use crate::calibrate::{Calibration, CalibrationText};
use crate::methods::{Inputs, Method};
use crate::plan::Choice;
use crate::statistics::{Collect, InputStatistics};
use crate::{QuantizeError, rows};

/// What the formats of a weight cost.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// The weight, by memwall's name.
    pub weight: String,
    /// The formats that its rows can have.
    pub formats: Vec<Dtype>,
    /// Bytes and predicted KL in each.
    pub choices: Vec<Choice>,
}

/// Bits a value of the format that is measured, more or less.
const PROBE_BITS: f64 = 4.0;

/// What is measured, and how.
pub struct Measurement<'a> {
    /// The model.
    pub model: &'a Model,
    /// The text; its inputs are summed over all windows, the divergence is the mean over the second half of each.
    pub text: CalibrationText<'a>,
    /// How weights are encoded.
    pub method: &'static dyn Method,
    /// The formats to choose from; each weight gets those that its rows can have.
    pub formats: &'a [Dtype],
    /// Windows that each divergence is measured on.
    pub windows: usize,
    /// Threads.
    pub threads: usize,
}

impl Measurement<'_> {
    /// Measures every matrix that multiplies, and the embedding; `done` hears of each. The model is held twice in f32.
    ///
    /// # Errors
    /// If the text is too short, the model does not run, or the budget refuses.
    pub fn run(&self, budget: &Budget, mut done: impl FnMut(&Sensitivity)) -> Result<Vec<Sensitivity>, QuantizeError> {
        let collect = self.method.collect().unwrap_or(Collect::Squares);
        let mut run = Calibration::new(self.model, self.text, collect, self.threads, budget)?;
        let mut divergence = Divergence::new(self, budget)?;
        let pool = Pool::new(self.threads);
        let mut all = Vec::new();
        if !self.model.checkpoint().config.tie_embeddings {
            all.push(self.of(EMBEDDING, None, &mut divergence, &pool)?);
            done(&all[0]);
        }
        while let Some(block) = run.next_block()? {
            for s in &block {
                for weight in s.weights() {
                    let found = self.of(weight, Some(s), &mut divergence, &pool)?;
                    done(&found);
                    all.push(found);
                }
            }
        }
        Ok(all)
    }

    fn of(
        &self,
        weight: &str,
        inputs: Option<&InputStatistics>,
        divergence: &mut Divergence<'_>,
        pool: &Pool,
    ) -> Result<Sensitivity, QuantizeError> {
        let original = divergence.values(weight);
        let tensor = &self.model.checkpoint().tensors[weight];
        let width = tensor.shape.last().copied().unwrap_or(1);
        let formats: Vec<Dtype> =
            self.formats.iter().copied().filter(|d| d.row_bytes(width).is_some_and(|_| width > 0)).collect();
        let mean_squares = inputs.map_or_else(|| vec![1.0; width], InputStatistics::mean_squares);
        let moments = inputs.and_then(InputStatistics::moments);
        let far = |d: &Dtype| (d.bits_per_value() - PROBE_BITS).abs();
        let probe = formats.iter().copied().min_by(|a, b| far(a).total_cmp(&far(b)));
        let (mut errors, mut bytes, mut kl_per_error) = (Vec::new(), Vec::new(), 0.0);
        for &dtype in &formats {
            let inputs = Inputs { mean_squares: &mean_squares, moments };
            let encoder = self.method.encoder(format(dtype), inputs, pool)?;
            let encoded = rows::encode(&*encoder, dtype, width, &original, self.threads)?;
            bytes.push(encoded.len() as u64);
            let mut stored = vec![0.0; original.len()];
            format(dtype).decode(width, &encoded, &mut stored)?;
            let error = output_error(&mean_squares, &original, &stored);
            errors.push(error);
            if Some(dtype) == probe && error > 0.0 {
                kl_per_error = divergence.with(weight, &stored)?.max(0.0) / error;
            }
        }
        let choices = bytes.iter().zip(&errors).map(|(&bytes, error)| Choice { bytes, loss: kl_per_error * error });
        Ok(Sensitivity { weight: weight.into(), choices: choices.collect(), formats })
    }
}

/// Σ_j E[x_j²] Σ_i (w_ij - ŵ_ij)²: the mean square of the outputs' error, were inputs independent.
fn output_error(mean_squares: &[f32], original: &[f32], stored: &[f32]) -> f64 {
    let width = mean_squares.len();
    let mut sums = vec![0.0f64; width];
    for (x, y) in original.chunks_exact(width).zip(stored.chunks_exact(width)) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += f64::from(x - y) * f64::from(x - y);
        }
    }
    sums.iter().zip(mean_squares).map(|(sum, m)| sum * f64::from(*m)).sum()
}

/// The model in f32 beside itself with one weight changed.
struct Divergence<'a> {
    measurement: &'a Measurement<'a>,
    reference: Engine,
    /// Of the changed model; taken out while its engine runs.
    memory: Option<Memory>,
    options: EngineOptions,
}

impl<'a> Divergence<'a> {
    fn new(measurement: &'a Measurement<'a>, budget: &Budget) -> Result<Divergence<'a>, QuantizeError> {
        let context = measurement.text.context;
        let options = EngineOptions {
            threads: measurement.threads,
            context,
            step: context,
            outputs: context,
            tier: WeightTier::Ram,
            ..EngineOptions::default()
        };
        let config = &measurement.model.checkpoint().config;
        let (graph, _) = step_graph(config, &WeightTypes::new(), &options)?;
        let load = || -> Result<Memory, QuantizeError> {
            let mut memory = Memory::within(budget);
            let how = Loading { tier: WeightTier::Ram, threads: options.threads, behind: None };
            measurement.model.load(&graph, &mut memory, how)?;
            Ok(memory)
        };
        let reference = Engine::over(config, load()?, options)?;
        Ok(Divergence { measurement, reference, memory: Some(load()?), options })
    }

    fn values(&self, weight: &str) -> Vec<f32> {
        let values = self.memory.as_ref().and_then(|m| m.get::<f32>(weight));
        values.expect("every weight of the graph is loaded in f32").to_vec()
    }

    /// The mean KL divergence of the model whose weight `weight` has `values`.
    fn with(&mut self, weight: &str, values: &[f32]) -> Result<f64, QuantizeError> {
        let Measurement { model, text, windows, .. } = *self.measurement;
        let original = self.values(weight);
        let mut memory = self.memory.take().expect("put back after every run");
        memory.set(weight, Dtype::F32, values)?;
        let mut engine = Engine::over(&model.checkpoint().config, memory, self.options)?;
        let windows_of = Windows { tokens: text.tokens, context: text.context, bos: text.bos };
        let score = windows_of.score(&mut engine, Some(&mut self.reference), |window, _| window < windows)?;
        let mut memory = engine.into_memory();
        memory.set(weight, Dtype::F32, &original)?;
        self.memory = Some(memory);
        Ok(score.mean_kl())
    }
}
