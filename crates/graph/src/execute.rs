//! Runs a planned graph: kernels over the arena; nothing is allocated while it runs.

use std::sync::Arc;

use bytemuck::Pod;
use memwall_kernels::Pool;
use memwall_store::Arena;

use crate::GraphError;
use crate::graph::{Graph, Source, Value};
use crate::memory::Memory;
use crate::op::Alias;
use crate::plan::{Place, Plan, PlanOptions};
use crate::run::Runner;
use crate::shape::RunDim;

/// A graph, its plan, and the memory that its activations live in.
pub struct Executor {
    runner: Runner,
    arena: Arena,
    pool: Arc<Pool>,
    /// For each value: its index in the caller's memory, for weights and states.
    bound: Vec<usize>,
}

impl Executor {
    /// Plans `graph`, takes its arena, and binds its weights and states to `memory`.
    ///
    /// States that `memory` does not have are made there, zero; they and the arena are taken from its budget.
    ///
    /// # Errors
    /// If a weight is missing in `memory`, has another size or element type, or is written but read-only; or if the budget
    /// refuses.
    pub fn new(
        graph: Graph,
        options: PlanOptions,
        memory: &mut Memory,
        pool: Arc<Pool>,
    ) -> Result<Executor, GraphError> {
        let plan = Plan::new(&graph, PlanOptions { threads: pool.threads(), ..options });
        let runs = graph.max_sizes();
        let mut bound = vec![usize::MAX; graph.value_count()];
        for (v, info) in graph.values() {
            bound[v.index()] = match info.source {
                Source::State => memory.owned(&info.name, &info.ty, &runs)?,
                Source::Weight => {
                    let i = memory.index(&info.name).ok_or_else(|| GraphError::Name {
                        name: info.name.to_string(),
                        what: format!("this weight is missing; {} is needed", info.ty),
                    })?;
                    memory.check(i, &info.ty, info.ty.bytes(&runs))?;
                    i
                }
                _ => continue,
            };
        }
        for node in graph.nodes() {
            for (output, _) in node.outputs.iter().enumerate() {
                let Some(Alias::Write { input }) = node.op.alias(output) else { continue };
                let root = graph.root(node.inputs[input]);
                let i = bound[root.index()];
                if i != usize::MAX && !memory.is_writable(i) {
                    let what = "is written by the graph, but read-only in memory".into();
                    return Err(GraphError::Name { name: graph.info(root).name.to_string(), what });
                }
            }
        }
        let arena = Arena::new(memory.budget(), "arena", plan.arena_bytes)?;
        Ok(Executor { runner: Runner::new(graph, plan), arena, pool, bound })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.runner.graph
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.runner.plan
    }

    /// Stops at the first operator that makes a NaN or an infinity.
    pub fn check_finite(&mut self, on: bool) {
        self.runner.check_finite = on;
    }

    /// Sets a run-time dimension; the others keep their sizes (their maximum at first).
    ///
    /// # Errors
    /// If `size` is beyond the planned maximum.
    pub fn set_dim(&mut self, dim: RunDim, size: usize) -> Result<(), GraphError> {
        let info = &self.runner.graph.run_dims()[dim.0 as usize];
        if size > info.max {
            return Err(GraphError::Dimension { name: info.name.clone(), asked: size, max: info.max });
        }
        let run = &mut self.runner.runs[dim.0 as usize];
        self.runner.stale |= *run != size;
        *run = size;
        Ok(())
    }

    /// The size of a run-time dimension.
    pub fn dim(&self, dim: RunDim) -> usize {
        self.runner.runs[dim.0 as usize]
    }

    /// The elements of an input under the present sizes, to be written before each [`Executor::run`].
    ///
    /// # Panics
    /// If `value` is no input that a node reads, or has elements of another size.
    pub fn input<T: Pod>(&mut self, value: Value) -> &mut [T] {
        let name = &self.graph().info(value).name;
        assert!(matches!(self.graph().info(value).source, Source::Input), "{name} is no input");
        let Place::Arena(b) = self.plan().place(value) else { panic!("no node reads input {name}") };
        let bytes = self.graph().ty(value).bytes(&self.runner.runs);
        let from = self.plan().buffers[b].offset;
        bytemuck::cast_slice_mut(&mut self.arena.as_mut_slice()[from..from + bytes])
    }

    /// Whether a node reads this input.
    pub fn reads(&self, value: Value) -> bool {
        matches!(self.plan().place(value), Place::Arena(_))
    }

    /// The elements of an output after [`Executor::run`], under the sizes of that run.
    ///
    /// # Panics
    /// If there is no output of that name in the arena, or it has elements of another size.
    pub fn output<T: Pod>(&self, name: &str) -> &[T] {
        let (_, value) =
            self.graph().outputs().iter().find(|(n, _)| &**n == name).unwrap_or_else(|| panic!("no output {name}"));
        let root = self.graph().root(*value);
        assert!(
            matches!(self.plan().place(root), Place::Arena(_)),
            "output {name} is no activation: read it in memory"
        );
        let slot = &self.runner.slots[value.index()];
        assert!(!slot.ptr.is_null(), "output {name} is read after a run");
        let from = slot.ptr as usize - self.arena.as_slice().as_ptr() as usize;
        bytemuck::cast_slice(&self.arena.as_slice()[from..from + slot.bytes()])
    }

    /// Runs every node once.
    ///
    /// # Errors
    /// If an operator refuses the values of its inputs, and under the checks that were asked for.
    pub fn run(&mut self, memory: &mut Memory) -> Result<(), GraphError> {
        let arena = self.arena.as_mut_slice().as_mut_ptr();
        let bound = &self.bound;
        self.runner.bind(arena, |v| memory.pointer(bound[v.index()]));
        self.runner.run(arena, &self.pool)
    }
}
