//! How many bytes a model needs under given options, and the options that fit a budget.
//!
//! Bytes are read off the planned step graph, before anything is allocated. Shrinking goes one way only, so that a
//! larger budget never lowers context or speed: first the context shrinks to what is needed, then the rows of a step.

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_graph::{Plan, PlanOptions, Source};

use crate::engine::{EngineOptions, check_options, step_graph};
use crate::{InferError, Model};

/// Rows of a step that are kept while the context can shrink instead.
const STEP_BEFORE_CONTEXT: usize = 64;
/// The most rows of a step: more make prefill no faster.
const STEP: usize = 512;

/// What is held where, in bytes, and the options that ask for it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan {
    /// The options.
    pub options: EngineOptions,
    /// The format of most weights.
    pub weights_format: Dtype,
    /// Weights, as the file stores them and where they are decoded.
    pub weights_bytes: usize,
    /// Keys and values, for the whole context.
    pub kv_bytes: usize,
    /// Recurrent states.
    pub state_bytes: usize,
    /// Activations of a step.
    pub arena_bytes: usize,
    /// The process itself: program, tokenizer, tables.
    pub other_bytes: usize,
}

impl MemoryPlan {
    /// The plan of `model` under `options`, when the process itself holds `other` bytes.
    ///
    /// # Errors
    /// If the options do not fit the model.
    pub fn of(model: &Model, options: EngineOptions, other: usize) -> Result<MemoryPlan, InferError> {
        check_options(&model.checkpoint().config, &options)?;
        let (graph, _) = step_graph(model, &options)?;
        let runs = graph.max_sizes();
        let (mut kv, mut state) = (0, 0);
        for (_, info) in graph.values().filter(|(_, info)| matches!(info.source, Source::State)) {
            let bytes = info.ty.bytes(&runs);
            if is_cache(&info.name) { kv += bytes } else { state += bytes }
        }
        let plan = PlanOptions { fences: options.fences, threads: options.threads, ..PlanOptions::default() };
        let arena = Plan::new(&graph, plan).arena_bytes;
        let checkpoint = model.checkpoint();
        let weights = checkpoint.weight_bytes() as usize + model.decoded_bytes(&graph);
        Ok(MemoryPlan {
            options,
            weights_format: checkpoint.main_format(),
            weights_bytes: weights,
            kv_bytes: kv,
            state_bytes: state,
            arena_bytes: arena,
            other_bytes: other,
        })
    }

    /// All of it.
    pub fn total_bytes(&self) -> usize {
        self.weights_bytes + self.kv_bytes + self.state_bytes + self.arena_bytes + self.other_bytes
    }

    /// The plan with the largest context (or the one asked for) and step that a limit holds.
    ///
    /// # Errors
    /// [`InferError::Infeasible`] with the minimum that would work; also if the options do not fit the model.
    pub fn choose(model: &Model, wish: &Wish, limit: Option<usize>, other: usize) -> Result<MemoryPlan, InferError> {
        let most = model.checkpoint().config.max_context;
        let (least, most) = match wish.context {
            Some(context) => (context, context),
            None => (wish.needed.clamp(1, most), most),
        };
        let plan = |context, step| {
            let options = EngineOptions {
                threads: wish.threads,
                context,
                slots: 1,
                step,
                outputs: wish.outputs.min(step),
                kv: wish.kv,
                ..EngineOptions::default()
            };
            MemoryPlan::of(model, options, other)
        };
        let fits = |p: &MemoryPlan| limit.is_none_or(|limit| p.total_bytes() <= limit);
        let small = STEP_BEFORE_CONTEXT.min(most);
        let mut best = plan(least, 1)?;
        if !fits(&best) {
            let limit = limit.unwrap_or(usize::MAX);
            return Err(InferError::Infeasible { limit, plan: Box::new(best) });
        }
        // Rows of a step up to the small one, then context, then rows up to the large one.
        let mut grow = |low: usize, high: usize, make: &dyn Fn(usize) -> Result<MemoryPlan, InferError>| {
            let (mut low, mut high) = (low, high);
            let whole = make(high)?;
            if fits(&whole) {
                best = whole;
                return Ok::<bool, InferError>(true);
            }
            while low + 1 < high {
                let middle = low + (high - low) / 2;
                let tried = make(middle)?;
                if fits(&tried) {
                    (low, best) = (middle, tried);
                } else {
                    high = middle;
                }
            }
            Ok(false)
        };
        if grow(1, small, &|step| plan(least, step))? && grow(least, most, &|context| plan(context, small))? {
            grow(small, STEP.min(most), &|step| plan(most, step))?;
        }
        Ok(best)
    }
}

/// What the caller wants of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The context, or `None` for the largest that fits.
    pub context: Option<usize>,
    /// Tokens that the context must hold at least.
    pub needed: usize,
    /// Threads.
    pub threads: usize,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Rows of a step whose logits are wanted at once.
    pub outputs: usize,
}

/// Whether a state is a cache of keys or values rather than a recurrent state.
pub(crate) fn is_cache(name: &str) -> bool {
    name.ends_with(".keys") || name.ends_with(".values")
}
