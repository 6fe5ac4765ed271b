//! One training step: forward and backward as one planned graph, then AdamW on every weight.

use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::ops::cross_entropy::CrossEntropy;
use memwall_graph::{
    Executor, Graph, GraphError, Memory, Plan, PlanOptions, RunDim, Segment, Value, differentiate, fuse, ops, prune,
    recompute, recompute_pointwise, weights,
};
use memwall_infer::InferError;
use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;
use memwall_nn::{ModelConfig, Sequences, WeightTypes};

use crate::distillation::{DistillationOptions, Teacher};
use crate::gates::{self, Gates};
use crate::initialize;
use crate::input_noise::{self, InputNoise};
use crate::memory_plan::{TrainingPlan, infeasible};
use crate::update::Update;

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The graph could not be built or run.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A batch that does not fit what was planned.
    #[error("{what}")]
    Batch {
        /// What does not fit.
        what: String,
    },
    /// No plan fits the budget.
    #[error("{}", infeasible(*limit, plan))]
    Infeasible {
        /// The budget in bytes.
        limit: usize,
        /// The smallest plan there is; its total is the minimum that would work.
        plan: Box<TrainingPlan>,
    },
    /// A sample cannot be written.
    #[error(transparent)]
    Sample(#[from] InferError),
    /// The loss or a gradient is not a number any more.
    #[error("step {step}: {what}")]
    NotFinite {
        /// The step, counted from 0.
        step: u64,
        /// What is not finite, and the operator that made it first.
        what: String,
    },
}

/// AdamW's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// λ, of matrices; vectors (norms, biases) do not decay unless `decay_all`.
    pub weight_decay: f64,
    /// Vectors decay too.
    pub decay_all: bool,
    /// Gradients are scaled down to this norm, if given.
    pub clip: Option<f64>,
}

impl Default for Optimizer {
    fn default() -> Optimizer {
        Optimizer { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, decay_all: false, clip: Some(1.0) }
    }
}

/// What a trainer is planned for.
#[derive(Clone, Copy, Debug)]
pub struct TrainerOptions {
    /// The most tokens of a micro-batch, over all its sequences.
    pub tokens: usize,
    /// The most sequences of a micro-batch.
    pub sequences: usize,
    /// Threads.
    pub threads: usize,
    /// Precision of the operands of matrix products.
    pub compute: Compute,
    /// Blocks whose inside is computed again in the backward pass, counted from the first.
    pub recompute: usize,
    /// Seed of the first weights.
    pub seed: u64,
    /// Noise on the inputs of every step and of every evaluation.
    pub input_noise: Option<InputNoise>,
    /// What a teacher's share of the loss is; needs [`Trainer::set_teacher`].
    pub distillation: Option<DistillationOptions>,
    /// Checks the arena's laws in every step (slow).
    pub fences: bool,
}

/// Packed sequences with a target for each token (−100: does not count).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Tokens.
    pub ids: Vec<i32>,
    /// What comes next.
    pub targets: Vec<i32>,
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Mean loss in nats before the step.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
}

/// A micro-batch without learning.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// Mean loss in nats of the tokens that count.
    pub loss: f64,
    /// Negative log-likelihood of each token.
    pub nll: Vec<f32>,
    /// Logits [tokens, vocabulary].
    pub logits: Vec<f32>,
}

struct Inputs {
    rows: RunDim,
    sequences: RunDim,
    targets: Value,
}

/// A model with its optimizer.
pub struct Trainer {
    config: ModelConfig,
    options: TrainerOptions,
    memory: Memory,
    step_graph: Executor,
    eval_graph: Option<Executor>,
    inputs: Inputs,
    update: Update,
    teacher: Option<Teacher>,
    pool: Arc<Pool>,
    steps: u64,
}

/// A model and its loss in a graph.
struct Built {
    loss: Value,
    nll: Value,
    logits: Value,
    /// What layers add to the loss that is lowered, `[1]` each.
    of_layers: Vec<Value>,
}

/// Adds model and loss to `g`.
fn build(g: &mut Graph, config: &ModelConfig, options: &TrainerOptions) -> Result<Built, GraphError> {
    g.set_compute(options.compute);
    let rows = g.run_dim("rows", options.tokens)?;
    let sequences = g.run_dim("sequences", options.sequences)?;
    let types = WeightTypes::new();
    let seqs = Sequences::whole(g, rows, sequences)?;
    let embedded = input_noise::embed(g, config, &types, &seqs, options.input_noise)?;
    let hidden = config.hidden_of(g, &types, &seqs, embedded)?;
    let logits = config.logits(g, &types, hidden, None)?;
    let targets = g.input("targets", [memwall_graph::Dim::from(rows)], Dtype::I32)?;
    let loss = g.push(CrossEntropy, &[logits, targets])?;
    Ok(Built { loss: loss[0], nll: loss[1], logits, of_layers: seqs.losses() })
}

/// Forward and backward pass of a step, without memory for it, and the weights that it trains: what a planner reads.
pub(crate) fn planned_step(config: &ModelConfig, options: &TrainerOptions) -> Result<(Graph, Update), GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let Built { mut loss, logits, of_layers, .. } = build(&mut g, config, options)?;
    if let Some(distillation) = &options.distillation {
        let rows = g.run_dim("rows", options.tokens)?;
        loss = distillation.loss(&mut g, rows, logits, loss)?;
    }
    loss = gates::penalty(&mut g, config, loss)?;
    let trained = weights(&g);
    let mut lowered = loss;
    for of_layer in of_layers {
        lowered = ops::add(&mut g, lowered, of_layer)?;
    }
    let grads = differentiate(&mut g, lowered, &trained)?;
    g.output("loss", loss);
    let update = Update::new(&mut g, &trained, &grads);
    let again: Vec<Segment> = (0..options.recompute as u32).map(Segment).collect();
    Ok((fuse(&recompute_pointwise(&recompute(&prune(&g), &again))), update))
}

/// The forward pass alone, without memory for it.
pub(crate) fn evaluation_graph(config: &ModelConfig, options: &TrainerOptions) -> Result<Graph, GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let Built { loss, nll, logits, .. } = build(&mut g, config, options)?;
    g.output("loss", loss);
    g.output("nll", nll);
    g.output("logits", logits);
    Ok(fuse(&g))
}

fn inputs(g: &Graph, options: &TrainerOptions) -> Result<Inputs, GraphError> {
    let mut dims = g.clone();
    let find = |name: &str| {
        g.find(name).ok_or_else(|| GraphError::Name { name: name.into(), what: "is no input of the graph".into() })
    };
    Ok(Inputs {
        rows: dims.run_dim("rows", options.tokens)?,
        sequences: dims.run_dim("sequences", options.sequences)?,
        targets: find("targets")?,
    })
}

/// The graph of a training step, without any memory for it: what a planner reads.
///
/// # Errors
/// If the model cannot be built or differentiated.
pub fn step_graph(config: &ModelConfig, options: &TrainerOptions) -> Result<Graph, TrainError> {
    Ok(planned_step(config, options)?.0)
}

impl Trainer {
    /// Plans a model's training step and gives the weights that `memory` does not have their first values.
    ///
    /// # Errors
    /// If the model cannot be built or differentiated.
    pub fn new(config: ModelConfig, options: TrainerOptions, mut memory: Memory) -> Result<Trainer, TrainError> {
        let (g, mut update) = planned_step(&config, &options)?;
        update.set_weight_decay(gates::weight_decay);
        gates::initialize(&g, &mut memory, &config)?;
        initialize(&g, &mut memory, config.layers.len(), options.seed)?;
        let pool = Arc::new(Pool::new(options.threads));
        let inputs = inputs(&g, &options)?;
        update.moments(&mut memory)?;
        let plan = PlanOptions { fences: options.fences, ..Default::default() };
        let step_graph = Executor::new(g, plan, &mut memory, pool.clone())?;
        Ok(Trainer {
            config,
            options,
            memory,
            step_graph,
            eval_graph: None,
            inputs,
            update,
            teacher: None,
            pool,
            steps: 0,
        })
    }

    /// The model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Weights and moments.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Weights and moments, to be loaded from a checkpoint.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Names of the trained weights.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.update.weights()
    }

    /// Gives weights a decay of their own; where `own` says nothing the optimizer's counts, but for gates of corrections, which
    /// do not decay.
    pub fn set_weight_decay(&mut self, own: impl Fn(&str) -> Option<f64>) {
        self.update.set_weight_decay(|name| own(name).or_else(|| gates::weight_decay(name)));
    }

    /// Gives the teacher that the options speak of.
    pub fn set_teacher(&mut self, teacher: Teacher) {
        self.teacher = Some(teacher);
    }

    /// Where the gates of low-rank corrections are, if the model has any.
    pub fn gates(&self) -> Option<Gates> {
        gates::read(&self.config, &self.memory, self.parameters())
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Continues at step `steps`.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// The plan of a step.
    pub fn plan(&self) -> &Plan {
        self.step_graph.plan()
    }

    /// The graph of a step.
    pub fn graph(&self) -> &Graph {
        self.step_graph.graph()
    }

    /// One optimizer step on the mean gradient of `micro_batches`, which should have as many tokens each.
    ///
    /// # Errors
    /// If a batch does not fit, or loss or gradient are not finite: the weights are then unchanged.
    pub fn step(
        &mut self,
        micro_batches: &[Batch],
        rate: f64,
        optimizer: &Optimizer,
    ) -> Result<StepReport, TrainError> {
        let StepReport { loss, gradient_norm } = self.gradient(micro_batches)?;
        let Trainer { config, step_graph, update, memory, pool, steps, .. } = self;
        if let Some(correction) = gates::correction(config) {
            let share = correction.schedule.share(*steps);
            update.set_rate_share(|name| if gates::is_gate(name) { share } else { 1.0 });
        }
        let several = micro_batches.len() > 1;
        let scale = optimizer.clip.map_or(1.0, |clip| (clip / gradient_norm.max(1e-30)).min(1.0));
        update.apply(pool, step_graph, several, memory, optimizer, rate, scale, self.steps + 1);
        self.steps += 1;
        Ok(StepReport { loss, gradient_norm })
    }

    /// Whether a step on `micro_batches` would be a good one, without learning.
    ///
    /// # Errors
    /// If a batch does not fit, or loss or gradient are not finite.
    pub fn check(&mut self, micro_batches: &[Batch]) -> Result<(), TrainError> {
        self.gradient(micro_batches).map(drop)
    }

    /// Loss and mean gradient, which must be finite.
    fn gradient(&mut self, micro_batches: &[Batch]) -> Result<StepReport, TrainError> {
        let parts = micro_batches.len();
        let mut loss = 0.0;
        for (part, batch) in micro_batches.iter().enumerate() {
            self.feed_step(batch)?;
            if let Err(error) = self.step_graph.run(&mut self.memory) {
                return Err(self.find_not_finite(micro_batches).unwrap_or(TrainError::Graph(error)));
            }
            loss += f64::from(self.step_graph.output::<f32>("loss")[0]) / parts as f64;
            if parts > 1 {
                self.update.accumulate(&self.pool, &self.step_graph, part, parts);
            }
        }
        let gradient_norm = self.update.gradient_norm(&self.pool, &self.step_graph, parts > 1);
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Err(self.not_finite(micro_batches, loss));
        }
        Ok(StepReport { loss, gradient_norm })
    }

    /// Gives the step's graph a batch, and what the teacher says to it.
    fn feed_step(&mut self, batch: &Batch) -> Result<(), TrainError> {
        feed(&mut self.step_graph, &self.inputs, batch, &self.options)?;
        match (&self.options.distillation, &mut self.teacher) {
            (Some(_), Some(teacher)) => teacher.teach(&mut self.step_graph, batch),
            (Some(_), None) => Err(TrainError::Batch { what: "a step with distillation needs a teacher".into() }),
            (None, _) => Ok(()),
        }
    }

    /// Loss, nll and logits of a batch, without learning.
    ///
    /// # Errors
    /// If the batch does not fit.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<Evaluated, TrainError> {
        let e = self.run_evaluation(batch)?;
        let loss = f64::from(e.output::<f32>("loss")[0]);
        Ok(Evaluated { loss, nll: e.output("nll").to_vec(), logits: e.output("logits").to_vec() })
    }

    /// The negative log-likelihood in nats of each token of a batch.
    ///
    /// # Errors
    /// If the batch does not fit.
    pub fn surprise(&mut self, batch: &Batch) -> Result<&[f32], TrainError> {
        Ok(self.run_evaluation(batch)?.output("nll"))
    }

    fn run_evaluation(&mut self, batch: &Batch) -> Result<&Executor, TrainError> {
        if self.eval_graph.is_none() {
            let g = evaluation_graph(&self.config, &self.options)?;
            self.eval_graph = Some(Executor::new(g, PlanOptions::default(), &mut self.memory, self.pool.clone())?);
        }
        let Some(e) = self.eval_graph.as_mut() else {
            return Err(TrainError::Batch { what: "no evaluation graph".into() });
        };
        let inputs = inputs(e.graph(), &self.options)?;
        feed(e, &inputs, batch, &self.options)?;
        e.run(&mut self.memory)?;
        Ok(e)
    }

    /// What is not finite in a step whose loss or gradient is not.
    fn not_finite(&mut self, micro_batches: &[Batch], loss: f64) -> TrainError {
        let step = self.steps;
        self.find_not_finite(micro_batches).unwrap_or_else(|| {
            let what = format!("the loss is {loss}, or the sum of the micro-batches' gradients is infinite");
            TrainError::NotFinite { step, what }
        })
    }

    /// Runs the step again with a check after every operator, to name the first that made a NaN or an infinity.
    fn find_not_finite(&mut self, micro_batches: &[Batch]) -> Option<TrainError> {
        let bad = |name: &str| self.memory.get::<f32>(name).is_some_and(|w| w.iter().any(|x| !x.is_finite()));
        let weight = self.parameters().find(|name| bad(name)).map(|name| format!("; weight {name} is not finite"));
        self.step_graph.check_finite(true);
        let mut found = None;
        for batch in micro_batches {
            if self.feed_step(batch).is_ok()
                && let Err(error @ GraphError::NotFinite { .. }) = self.step_graph.run(&mut self.memory)
            {
                found = Some(error);
                break;
            }
        }
        self.step_graph.check_finite(false);
        // An operator may refuse such a weight before any makes such a value.
        let what = match (found, weight) {
            (Some(found), weight) => format!("{found}{}", weight.unwrap_or_default()),
            (None, Some(weight)) => weight.trim_start_matches("; ").to_owned(),
            (None, None) => return None,
        };
        Some(TrainError::NotFinite { step: self.steps, what })
    }
}

fn feed(e: &mut Executor, inputs: &Inputs, batch: &Batch, options: &TrainerOptions) -> Result<(), TrainError> {
    let n: usize = batch.lengths.iter().sum();
    if n != batch.ids.len() || n != batch.targets.len() || n == 0 {
        let what = format!("{} tokens and {} targets in sequences of {n} in all", batch.ids.len(), batch.targets.len());
        return Err(TrainError::Batch { what });
    }
    if n > options.tokens || batch.lengths.len() > options.sequences {
        let what = format!(
            "{n} tokens in {} sequences; planned for {} in {}",
            batch.lengths.len(),
            options.tokens,
            options.sequences
        );
        return Err(TrainError::Batch { what });
    }
    e.set_dim(inputs.rows, n)?;
    e.set_dim(inputs.sequences, batch.lengths.len())?;
    feed_tokens(e, batch);
    e.input::<i32>(inputs.targets).copy_from_slice(&batch.targets);
    if let Some(noise) = options.input_noise {
        input_noise::feed(e, noise, &batch.ids, options.seed);
    }
    Ok(())
}

/// Gives a graph of whole sequences its tokens, and of positions and offsets what it reads.
pub(crate) fn feed_tokens(e: &mut Executor, batch: &Batch) {
    let input = |e: &Executor, name: &str| e.graph().find(name).filter(|&v| e.reads(v));
    if let Some(ids) = input(e, "ids") {
        e.input::<i32>(ids).copy_from_slice(&batch.ids);
    }
    if let Some(positions) = input(e, "positions") {
        let positions = e.input::<i32>(positions).iter_mut();
        positions.zip(batch.lengths.iter().flat_map(|&l| 0..l as i32)).for_each(|(to, p)| *to = p);
    }
    if let Some(offsets) = input(e, "cu_seqlens") {
        let mut at = 0;
        let ends = batch.lengths.iter().map(|&l| {
            at += l as i32;
            at
        });
        e.input::<i32>(offsets).iter_mut().zip(std::iter::once(0).chain(ends)).for_each(|(to, c)| *to = c);
    }
}
