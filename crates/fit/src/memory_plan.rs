//! How many bytes a model needs under given options, read off its planned step graph before anything is allocated.

use memwall_graph::{Plan, PlanOptions, Source};
use memwall_store::whole_pages;

use crate::placement::{placements, weight_bytes};
use crate::{EngineOptions, FitError, Header, step_graph};

/// What is held where, in bytes, and the options that ask for it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan {
    /// The options.
    pub options: EngineOptions,
    /// Weights, as they are held.
    pub weights_bytes: usize,
    /// Keys and values, for the whole context.
    pub kv_bytes: usize,
    /// Recurrent states.
    pub state_bytes: usize,
    /// Activations of a step.
    pub arena_bytes: usize,
    /// Rows of a weight on their way into another format, while the model is loaded.
    pub staging_bytes: usize,
    /// The process itself: program, tokenizer, tables.
    pub other_bytes: usize,
}

impl MemoryPlan {
    /// The plan of a model under `options`, when the process itself holds `other` bytes.
    ///
    /// # Errors
    /// If the options do not fit the model, or a weight is missing or has another shape.
    pub fn of(header: Header<'_>, options: EngineOptions, other: usize) -> Result<MemoryPlan, FitError> {
        options.check_for(header)?;
        let (graph, _) = step_graph(&header.checkpoint.config, &header.types(options.weights), &options)?;
        let runs = graph.max_sizes();
        let (mut kv, mut state) = (0, 0);
        for (_, info) in graph.values().filter(|(_, info)| matches!(info.source, Source::State)) {
            let bytes = whole_pages(info.ty.bytes(&runs));
            if is_cache(&info.name) { kv += bytes } else { state += bytes }
        }
        let plan = PlanOptions { fences: options.fences, threads: options.threads, ..PlanOptions::default() };
        let arena = whole_pages(Plan::new(&graph, plan).arena_bytes);
        let weights = weight_bytes(header, &placements(header, &graph)?, options.tier);
        Ok(MemoryPlan {
            options,
            weights_bytes: weights.held,
            kv_bytes: kv,
            state_bytes: state,
            arena_bytes: arena,
            staging_bytes: weights.staging,
            other_bytes: other,
        })
    }

    /// All of it.
    pub fn total_bytes(&self) -> usize {
        let parts = [
            self.weights_bytes,
            self.kv_bytes,
            self.state_bytes,
            self.arena_bytes,
            self.staging_bytes,
            self.other_bytes,
        ];
        parts.into_iter().fold(0, usize::saturating_add)
    }
}

/// Whether a state is a cache of keys or values rather than a recurrent state.
pub fn is_cache(name: &str) -> bool {
    name.ends_with(".keys") || name.ends_with(".values")
}
