//! What a training holds, by account, before anything is allocated; and how much is recomputed to fit a budget.

use memwall_formats::Dtype;
use memwall_graph::{Graph, Plan, PlanOptions, Source};
use memwall_infer::{EngineOptions, InferError, step_graph};
use memwall_nn::{ModelConfig, WeightTypes};
use memwall_store::{Budget, BudgetError, Reservation, format_size, whole_pages};

use crate::distillation::teacher_graph;
use crate::trainer::{TrainError, TrainerOptions, evaluation_graph, planned_step};

/// Bytes of a training, by account; the options are those of the trainer that they belong to.
#[derive(Clone, Copy, Debug)]
pub struct TrainingPlan {
    /// The trainer's options, with the blocks that are recomputed.
    pub options: TrainerOptions,
    /// Master weights.
    pub weights_bytes: usize,
    /// First and second moments.
    pub moments_bytes: usize,
    /// Gradients of a step, and their sum over micro-batches where there are several.
    pub gradients_bytes: usize,
    /// Activations of a step and of an evaluation.
    pub arena_bytes: usize,
    /// Weights and activations of the teacher.
    pub teacher_bytes: usize,
    /// Caches, states and activations of the text that is sampled.
    pub sample_bytes: usize,
    /// The process itself and the text.
    pub other_bytes: usize,
}

/// What is trained, besides the trainer's options.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// The teacher, if there is one.
    pub teacher: Option<&'a ModelConfig>,
    /// The engine that writes samples, if any are wanted.
    pub sample: Option<EngineOptions>,
    /// What the process holds besides.
    pub other_bytes: usize,
}

impl TrainingPlan {
    /// The plan of `work` under `options`.
    ///
    /// # Errors
    /// If the model cannot be built or differentiated.
    pub fn of(work: &Work<'_>, options: TrainerOptions) -> Result<TrainingPlan, TrainError> {
        let (step, update) = planned_step(work.config, &options)?;
        let runs = step.max_sizes();
        // Each tensor in memory has pages of its own.
        let bytes = |name: &str| step.find(name).map_or(0, |v| whole_pages(step.ty(v).bytes(&runs)));
        let trained: usize = update.weights().map(bytes).sum();
        let weights = step.values().filter(|(_, info)| matches!(info.source, Source::Weight));
        let weights_bytes = weights.map(|(_, info)| whole_pages(info.ty.bytes(&runs))).sum();
        let gradients: usize = step
            .outputs()
            .iter()
            .filter(|(name, _)| update.gradients().any(|gradient| *gradient == **name))
            .map(|(_, v)| step.ty(*v).bytes(&runs))
            .sum();
        let plan = PlanOptions { fences: options.fences, threads: options.threads, ..PlanOptions::default() };
        let arena = |g: &Graph| Plan::new(g, plan).arena_bytes;
        let summed = if work.accumulate > 1 { trained } else { 0 };
        Ok(TrainingPlan {
            options,
            weights_bytes,
            moments_bytes: 2 * trained,
            gradients_bytes: gradients + summed,
            arena_bytes: arena(&step).saturating_sub(gradients) + arena(&evaluation_graph(work.config, &options)?),
            teacher_bytes: work.teacher.map_or(Ok(0), |teacher| teacher_bytes(teacher, &options, plan))?,
            sample_bytes: work.sample.map_or(Ok(0), |engine| sample_bytes(work.config, &engine))?,
            other_bytes: work.other_bytes,
        })
    }

    /// All of it.
    pub fn total_bytes(&self) -> usize {
        self.accounts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Names of the accounts, and their bytes.
    pub fn accounts(&self) -> [(&'static str, usize); 7] {
        [
            ("weights", self.weights_bytes),
            ("moments", self.moments_bytes),
            ("gradients", self.gradients_bytes),
            ("arena", self.arena_bytes),
            ("teacher", self.teacher_bytes),
            ("sample", self.sample_bytes),
            ("other", self.other_bytes),
        ]
    }

    /// The plan that fits `limit`: as many blocks recomputed as `options` says, or, when `free`, as few as fit.
    ///
    /// What is recomputed changes no bit of the result.
    ///
    /// # Errors
    /// [`TrainError::Infeasible`] with the smallest plan if none fits; what [`TrainingPlan::of`] returns.
    pub fn choose(
        work: &Work<'_>,
        options: TrainerOptions,
        free: bool,
        limit: Option<usize>,
    ) -> Result<TrainingPlan, TrainError> {
        let most = if free { work.config.layers.len() } else { options.recompute };
        let least = if free { 0 } else { options.recompute };
        let mut smallest: Option<TrainingPlan> = None;
        for recompute in least..=most {
            let plan = TrainingPlan::of(work, TrainerOptions { recompute, ..options })?;
            if limit.is_none_or(|limit| plan.total_bytes() <= limit) {
                return Ok(plan);
            }
            if smallest.is_none_or(|s| plan.total_bytes() < s.total_bytes()) {
                smallest = Some(plan);
            }
        }
        match smallest {
            Some(plan) => Err(TrainError::Infeasible { limit: limit.unwrap_or(usize::MAX), plan: Box::new(plan) }),
            None => TrainingPlan::of(work, options),
        }
    }

    /// Takes every account from a budget.
    ///
    /// # Errors
    /// If the budget does not hold it.
    pub fn take(&self, budget: &Budget) -> Result<Vec<Reservation>, BudgetError> {
        self.accounts().into_iter().map(|(name, bytes)| budget.take(name, bytes)).collect()
    }
}

/// The refusal of a budget in words.
pub(crate) fn infeasible(limit: usize, plan: &TrainingPlan) -> String {
    let total = plan.total_bytes();
    let accounts = plan.accounts().into_iter().filter(|(_, bytes)| *bytes > 0);
    let accounts: Vec<String> = accounts.map(|(name, bytes)| format!("{name} {}", format_size(bytes))).collect();
    format!(
        "a budget of {} ({limit} bytes) is too small: the minimum that would work is {} ({total} bytes), with {} blocks \
         recomputed: {}; a smaller train.batch with a larger train.accumulate needs less",
        format_size(limit),
        format_size(total),
        plan.options.recompute,
        accounts.join(", ")
    )
}

/// Weights and activations of a teacher.
fn teacher_bytes(config: &ModelConfig, options: &TrainerOptions, plan: PlanOptions) -> Result<usize, TrainError> {
    let graph = teacher_graph(config, options)?;
    let runs = graph.max_sizes();
    let weights = graph.values().filter(|(_, info)| matches!(info.source, Source::Weight));
    let weights: usize = weights.map(|(_, info)| whole_pages(info.ty.bytes(&runs))).sum();
    Ok(weights + Plan::new(&graph, plan).arena_bytes)
}

/// States and activations of an engine over weights that are there already.
fn sample_bytes(config: &ModelConfig, options: &EngineOptions) -> Result<usize, TrainError> {
    let (graph, _) = step_graph(config, &WeightTypes::new(), options).map_err(InferError::from)?;
    let runs = graph.max_sizes();
    let states = graph.values().filter(|(_, info)| matches!(info.source, Source::State));
    let states: usize = states.map(|(_, info)| whole_pages(info.ty.bytes(&runs))).sum();
    let plan = PlanOptions { threads: options.threads, ..PlanOptions::default() };
    // The logits of a token, as candidates to draw from.
    let candidates = 2 * config.vocab_size * Dtype::F32.block_bytes();
    Ok(states + Plan::new(&graph, plan).arena_bytes + candidates)
}
