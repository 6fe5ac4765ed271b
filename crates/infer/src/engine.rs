//! Executes a model's step graph for the sequences in its slots.
//!
//! One graph serves prefill, decode and mixed batches: a step's rows are tokens of any sequences,
//! each with its slot and position. The plan is made once, for the most rows; a step of fewer rows
//! computes fewer.

use std::sync::Arc;

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_graph::{Executor, Graph, Memory, Plan, PlanOptions, RunDim, Source, Value, prune};
use memwall_kernels::Pool;
use memwall_nn::{MixerConfig, ModelConfig, Sequences, WeightTypes};
use memwall_store::{Budget, Reservation};

use crate::memory_plan::is_cache;
use crate::{InferError, MemoryPlan, Model};

/// What an engine is planned for.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Threads, at least 1.
    pub threads: usize,
    /// The most tokens of a sequence.
    pub context: usize,
    /// Sequences at the same time.
    pub slots: usize,
    /// The most rows of a step: longer prompts are prefilled in parts.
    pub step: usize,
    /// The most rows of a step whose logits are wanted.
    pub outputs: usize,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Tokens that can be taken back from windowed caches.
    pub rollback: usize,
    /// Checks the arena's laws in every step (slow).
    pub fences: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            threads: 1,
            context: 512,
            slots: 1,
            step: 512,
            outputs: 1,
            kv: KvFormat::both(Dtype::F16),
            rollback: 0,
            fences: false,
        }
    }
}

/// Tokens that continue the sequence in a slot.
#[derive(Clone, Copy, Debug)]
pub struct StepRows<'a> {
    /// The slot.
    pub slot: usize,
    /// The tokens.
    pub tokens: &'a [u32],
}

/// Which rows' logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The last of each sequence.
    Last,
    /// All.
    All,
}

/// A model's step graph, planned, with the memory of its sequences.
pub struct Engine {
    executor: Executor,
    memory: Memory,
    options: EngineOptions,
    vocab: usize,
    rows: RunDim,
    outputs: RunDim,
    inputs: Inputs,
    lengths: Vec<usize>,
    /// Recurrent states: what they hold does not say of which position it is.
    states: Vec<String>,
    rewinds: bool,
    _held: Vec<Reservation>,
}

struct Inputs {
    ids: Value,
    positions: Value,
    slots: Value,
    rows: Value,
    chosen: Value,
}

/// The step graph of `model`, without any memory for it: what a planner reads.
///
/// # Errors
/// If the model cannot be built.
pub fn step_graph(model: &Model, options: &EngineOptions) -> Result<(Graph, Sequences), InferError> {
    let checkpoint = model.checkpoint();
    step_graph_of(&checkpoint.config, &checkpoint.types(), options)
}

/// The step graph of a model whose matrices are stored in `types`, F32 where it says nothing.
///
/// # Errors
/// If the model cannot be built.
pub fn step_graph_of(
    config: &ModelConfig,
    types: &WeightTypes,
    options: &EngineOptions,
) -> Result<(Graph, Sequences), InferError> {
    let mut g = Graph::new(Dtype::F32);
    let rows = g.run_dim("rows", options.step)?;
    let outputs = g.run_dim("outputs", options.outputs)?;
    let seqs =
        Sequences::slots(&mut g, rows, options.step, options.slots, options.context, options.kv, options.rollback)?;
    let chosen = g.input("chosen", [memwall_graph::Dim::from(outputs)], Dtype::I32)?;
    let hidden = config.hidden(&mut g, types, &seqs)?;
    let logits = config.logits(&mut g, types, hidden, Some(chosen))?;
    g.output("logits", logits);
    Ok((memwall_graph::fuse(&prune(&g)), seqs))
}

/// Checks that a model can have these options.
pub(crate) fn check_options(config: &ModelConfig, options: &EngineOptions) -> Result<(), InferError> {
    if options.context == 0 || options.context > config.max_context {
        let most = config.max_context;
        return Err(InferError::request(format!(
            "a context of {} tokens; this model has 1 to {most}",
            options.context
        )));
    }
    for (name, n) in
        [("threads", options.threads), ("slots", options.slots), ("step", options.step), ("outputs", options.outputs)]
    {
        if n == 0 {
            return Err(InferError::request(format!("{name} is 0, at least 1 is needed")));
        }
    }
    Ok(())
}

impl Engine {
    /// Plans `model` and takes the memory.
    ///
    /// # Errors
    /// If the options do not fit the model, or a weight is missing or wrong.
    pub fn new(model: &Model, options: EngineOptions) -> Result<Engine, InferError> {
        Engine::with_budget(model, options, &Budget::unlimited())
    }

    /// Plans `model`, takes its bytes from `budget` by name, and only then the memory itself.
    ///
    /// # Errors
    /// As [`Engine::new`]; and if the budget does not hold the plan.
    pub fn with_budget(model: &Model, options: EngineOptions, budget: &Budget) -> Result<Engine, InferError> {
        let planned = MemoryPlan::of(model, options, 0)?;
        let accounts = [
            ("weights", planned.weights_bytes),
            ("kv", planned.kv_bytes),
            ("state", planned.state_bytes),
            ("arena", planned.arena_bytes),
        ];
        let held = accounts.into_iter().map(|(name, bytes)| budget.take(name, bytes)).collect::<Result<_, _>>()?;
        let (graph, seqs) = step_graph(model, &options)?;
        let mut memory = Memory::new();
        model.load(&graph, &mut memory)?;
        Engine::assemble(&model.checkpoint().config, graph, seqs, memory, options, held)
    }

    /// Plans a model whose weights are in `memory` as F32, under memwall's names: one that is being trained.
    /// [`Engine::into_memory`] gives the memory back.
    ///
    /// # Errors
    /// If the options do not fit the model, or a weight is missing or wrong; the memory is then gone.
    pub fn over(config: &ModelConfig, memory: Memory, options: EngineOptions) -> Result<Engine, InferError> {
        check_options(config, &options)?;
        let (graph, seqs) = step_graph_of(config, &WeightTypes::new(), &options)?;
        let mut engine = Engine::assemble(config, graph, seqs, memory, options, Vec::new())?;
        (0..options.slots).for_each(|slot| engine.clear(slot));
        Ok(engine)
    }

    /// The weights and states.
    pub fn into_memory(self) -> Memory {
        self.memory
    }

    fn assemble(
        config: &ModelConfig,
        graph: Graph,
        seqs: Sequences,
        mut memory: Memory,
        options: EngineOptions,
        held: Vec<Reservation>,
    ) -> Result<Engine, InferError> {
        let find =
            |name: &str| graph.find(name).ok_or_else(|| InferError::request(format!("the graph has no input {name}")));
        let inputs = Inputs {
            ids: seqs.ids,
            positions: seqs.positions,
            slots: find("slots")?,
            rows: find("rows")?,
            chosen: find("chosen")?,
        };
        let mut dims = graph.clone();
        let (rows, outputs) = (dims.run_dim("rows", options.step)?, dims.run_dim("outputs", options.outputs)?);
        let plan = PlanOptions { fences: options.fences, ..Default::default() };
        let executor = Executor::new(graph, plan, &mut memory, Arc::new(Pool::new(options.threads)))?;
        let states = executor.graph().values().filter(|(_, info)| matches!(info.source, Source::State));
        let states = states.map(|(_, info)| info.name.to_string()).filter(|name| !is_cache(name)).collect();
        Ok(Engine {
            executor,
            memory,
            options,
            vocab: config.vocab_size,
            rows,
            outputs,
            inputs,
            lengths: vec![0; options.slots],
            states,
            rewinds: config.layers.iter().all(|l| matches!(&l.mixer, MixerConfig::Attention(a) if a.window.is_none())),
            _held: held,
        })
    }

    /// What the engine was planned for.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The plan of a step.
    pub fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    /// The step graph.
    pub fn graph(&self) -> &Graph {
        self.executor.graph()
    }

    /// Tokens of the sequence in a slot.
    pub fn length(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Empties a slot.
    pub fn clear(&mut self, slot: usize) {
        self.lengths[slot] = 0;
        for name in &self.states {
            // Slots are the outermost dimension of every state.
            if let Some(state) = self.memory.get_mut::<u8>(name) {
                let bytes = state.len() / self.options.slots;
                state[slot * bytes..(slot + 1) * bytes].fill(0);
            }
        }
    }

    /// Takes back the tokens of a slot from `length` on; false if the model cannot forget them one by one.
    pub fn rewind(&mut self, slot: usize, length: usize) -> bool {
        let possible = length == self.lengths[slot] || (self.rewinds && length < self.lengths[slot]);
        if possible {
            self.lengths[slot] = length;
        }
        possible
    }

    /// Runs one step; the logits of the wanted rows, [rows, vocabulary], in the order of the rows.
    ///
    /// # Errors
    /// If the rows do not fit what was planned, or a token is not in the vocabulary.
    pub fn step(&mut self, batch: &[StepRows<'_>], wanted: Wanted) -> Result<&[f32], InferError> {
        let rows: usize = batch.iter().map(|b| b.tokens.len()).sum();
        let outputs = if wanted == Wanted::All { rows } else { batch.len() };
        self.check(batch, rows, outputs)?;
        self.executor.set_dim(self.rows, rows)?;
        self.executor.set_dim(self.outputs, outputs)?;
        let (mut row, mut output) = (0, 0);
        for b in batch {
            let start = self.lengths[b.slot];
            for (i, &token) in b.tokens.iter().enumerate() {
                let position = (start + i) as i32;
                let last = i + 1 == b.tokens.len();
                self.put(self.inputs.ids, row, &[token as i32]);
                self.put(self.inputs.positions, row, &[position]);
                self.put(self.inputs.slots, row, &[b.slot as i32]);
                self.put(self.inputs.rows, row, &[b.slot as i32, position]);
                if wanted == Wanted::All || last {
                    self.put(self.inputs.chosen, output, &[row as i32]);
                    output += 1;
                }
                row += 1;
            }
        }
        self.executor.run(&mut self.memory)?;
        for b in batch {
            self.lengths[b.slot] += b.tokens.len();
        }
        Ok(self.executor.output("logits"))
    }

    /// Runs a prompt in parts of at most `step` rows; the logits of its last token.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn prefill(&mut self, slot: usize, tokens: &[u32]) -> Result<&[f32], InferError> {
        let mut parts = tokens.chunks(self.options.step).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return self.step(&[StepRows { slot, tokens: part }], Wanted::Last);
            }
            self.step(&[StepRows { slot, tokens: part }], Wanted::Last)?;
        }
        Err(InferError::request("an empty prompt has no last token"))
    }

    fn put(&mut self, input: Value, at: usize, values: &[i32]) {
        // Recurrent models read slots, attention reads rows: a model may read only one of them.
        if self.executor.reads(input) {
            self.executor.input::<i32>(input)[at * values.len()..(at + 1) * values.len()].copy_from_slice(values);
        }
    }

    fn check(&self, batch: &[StepRows<'_>], rows: usize, outputs: usize) -> Result<(), InferError> {
        let o = &self.options;
        if rows == 0 || rows > o.step || outputs > o.outputs {
            return Err(InferError::request(format!(
                "a step of {rows} rows and {outputs} outputs; planned for 1 to {} rows and {} outputs",
                o.step, o.outputs
            )));
        }
        for (i, b) in batch.iter().enumerate() {
            if b.slot >= o.slots || batch[..i].iter().any(|other| other.slot == b.slot) || b.tokens.is_empty() {
                return Err(InferError::request(format!(
                    "slot {} of {} with {} tokens, each slot once",
                    b.slot,
                    o.slots,
                    b.tokens.len()
                )));
            }
            let length = self.lengths[b.slot] + b.tokens.len();
            if length > o.context {
                return Err(InferError::request(format!("{length} tokens in a context of {}", o.context)));
            }
            if let Some(token) = b.tokens.iter().find(|&&t| t as usize >= self.vocab) {
                return Err(InferError::request(format!("token {token} in a vocabulary of {}", self.vocab)));
            }
        }
        Ok(())
    }
}
