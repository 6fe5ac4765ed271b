//! Executes a model's step graph for the sequences in its slots.
//!
//! One graph serves prefill, decode and mixed batches: a step's rows are tokens of any sequences,
//! each with its slot and position. The plan is made once, for the most rows; a step of fewer rows
//! computes fewer.

use std::sync::Arc;

use memwall_fit::{EngineOptions, MemoryPlan, is_cache, step_graph};
use memwall_formats::Dtype;
use memwall_graph::{Executor, Graph, Memory, Plan, PlanOptions, Region, RunDim, Source, Value};
use memwall_kernels::Pool;
use memwall_nn::{ModelConfig, Sequences, WeightTypes};
use memwall_store::{Budget, Reservation};

use crate::load::has_not_finite;
use crate::{Behind, Conversion, InferError, Loading, Model};

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
    caches: Vec<Cache>,
    /// Recurrent states: what they hold does not say of which position it is.
    states: Vec<String>,
    rewinds: bool,
    conversion: Conversion,
}

/// Keys or values of a layer: they grow as sequences do.
struct Cache {
    region: Region,
    /// Tokens that it has room for, a sequence.
    capacity: usize,
    row_bytes: usize,
}

struct Inputs {
    ids: Value,
    positions: Value,
    slots: Value,
    rows: Value,
    chosen: Value,
}

impl Engine {
    /// Plans `model` and takes the memory.
    ///
    /// # Errors
    /// If the options do not fit the model, or a weight is missing or wrong.
    pub fn new(model: &Model, options: EngineOptions) -> Result<Engine, InferError> {
        Engine::with_budget(model, options, &Budget::unlimited())
    }

    /// Plans `model` and takes the memory from `budget` by name; keys and values as sequences grow.
    ///
    /// # Errors
    /// As [`Engine::new`]; and if the budget does not hold the plan: nothing is allocated then.
    pub fn with_budget(model: &Model, options: EngineOptions, budget: &Budget) -> Result<Engine, InferError> {
        Engine::behind(model, options, budget, None)
    }

    /// As [`Engine::with_budget`], with the tier of the weights put behind another one.
    ///
    /// # Errors
    /// As [`Engine::with_budget`].
    pub fn behind(
        model: &Model,
        options: EngineOptions,
        budget: &Budget,
        behind: Option<Behind<'_>>,
    ) -> Result<Engine, InferError> {
        let planned = MemoryPlan::of(model.header(), options, 0)?;
        let accounts = [
            ("weights", planned.weights_bytes),
            ("kv", planned.kv_bytes),
            ("state", planned.state_bytes),
            ("arena", planned.arena_bytes),
            ("io", planned.staging_bytes),
        ];
        // Refused as a whole, before a part of it is allocated.
        let room: Vec<Reservation> =
            accounts.into_iter().map(|(name, bytes)| budget.take(name, bytes)).collect::<Result<_, _>>()?;
        drop(room);
        let config = &model.checkpoint().config;
        let (graph, seqs) = step_graph(config, &model.header().types(options.weights), &options)?;
        let mut memory = Memory::within(budget);
        let how = Loading { tier: options.tier, threads: options.threads, behind };
        let conversion = model.load(&graph, &mut memory, how)?;
        let mut engine = Engine::assemble(config, graph, &seqs, memory, options)?;
        engine.conversion = conversion;
        Ok(engine)
    }

    /// Plans a model whose weights are in `memory` as F32, under memwall's names: one that is being trained.
    /// [`Engine::into_memory`] gives the memory back.
    ///
    /// # Errors
    /// If the options do not fit the model, or a weight is missing or wrong; the memory is then gone.
    pub fn over(config: &ModelConfig, memory: Memory, options: EngineOptions) -> Result<Engine, InferError> {
        let (graph, seqs) = step_graph(config, &WeightTypes::new(), &options)?;
        let mut engine = Engine::assemble(config, graph, &seqs, memory, options)?;
        for slot in 0..options.slots {
            engine.clear(slot)?;
        }
        Ok(engine)
    }

    /// The weights and states.
    pub fn into_memory(self) -> Memory {
        self.memory
    }

    fn assemble(
        config: &ModelConfig,
        graph: Graph,
        seqs: &Sequences,
        mut memory: Memory,
        options: EngineOptions,
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
        let (mut caches, mut states) = (Vec::new(), Vec::new());
        for (_, info) in graph.values().filter(|(_, info)| matches!(info.source, Source::State)) {
            if is_cache(&info.name) {
                // [slots, capacity, row]
                let sizes = info.ty.shape.sizes(&graph.max_sizes());
                let (capacity, part) = (sizes.axis(1), info.ty.bytes(&graph.max_sizes()) / options.slots);
                let region = memory.reserve("kv", &info.name, info.ty.dtype, options.slots, part)?;
                caches.push(Cache { region, capacity, row_bytes: part / capacity.max(1) });
            } else {
                states.push(info.name.to_string());
            }
        }
        let plan = PlanOptions { fences: options.fences, ..Default::default() };
        let executor = Executor::new(graph, plan, &mut memory, Arc::new(Pool::new(options.threads)))?;
        Ok(Engine {
            executor,
            memory,
            options,
            vocab: config.vocab_size,
            rows,
            outputs,
            inputs,
            lengths: vec![0; options.slots],
            caches,
            states,
            rewinds: config.layers.iter().all(|layer| layer.mixer.rewinds()),
            conversion: Conversion::default(),
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

    /// What was converted when the weights were loaded.
    pub fn conversion(&self) -> Conversion {
        self.conversion
    }

    /// The weights as they are held: name, format, bytes.
    pub fn weights(&self) -> impl Iterator<Item = (&str, Dtype, &[u8])> {
        let graph = self.executor.graph();
        let is_weight = |name: &str| graph.find(name).is_some_and(|v| matches!(graph.info(v).source, Source::Weight));
        self.memory.iter().filter(move |(name, ..)| is_weight(name))
    }

    /// The first weight stored as a float that holds a NaN or an infinity, if any; reads them all.
    pub fn find_not_finite(&self) -> Option<&str> {
        self.weights().find(|(_, dtype, bytes)| has_not_finite(*dtype, bytes)).map(|(name, ..)| name)
    }

    /// Empties a slot; the memory of its keys and values goes back to the budget.
    ///
    /// # Errors
    /// If the operating system does not take it.
    pub fn clear(&mut self, slot: usize) -> Result<(), InferError> {
        self.lengths[slot] = 0;
        for cache in &self.caches {
            self.memory.resize(cache.region, slot, 0)?;
        }
        for name in &self.states {
            // Slots are the outermost dimension of every state.
            if let Some(state) = self.memory.get_mut::<u8>(name) {
                let bytes = state.len() / self.options.slots;
                state[slot * bytes..(slot + 1) * bytes].fill(0);
            }
        }
        Ok(())
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
    /// If the rows do not fit what was planned, a token is not in the vocabulary, or the budget has no room for the
    /// keys and values of so many tokens.
    pub fn step(&mut self, batch: &[StepRows<'_>], wanted: Wanted) -> Result<&[f32], InferError> {
        let rows: usize = batch.iter().map(|b| b.tokens.len()).sum();
        let outputs = if wanted == Wanted::All { rows } else { batch.len() };
        self.check(batch, rows, outputs)?;
        for b in batch {
            let length = self.lengths[b.slot] + b.tokens.len();
            for cache in &self.caches {
                self.memory.resize(cache.region, b.slot, cache.row_bytes * length.min(cache.capacity))?;
            }
        }
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
