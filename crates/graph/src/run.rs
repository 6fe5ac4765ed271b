//! Binds a planned graph to memory and runs its nodes: the inner part of an executor and of a loop.

use std::cell::Cell;

use memwall_formats::Dtype;
use memwall_kernels::Pool;

use crate::GraphError;
use crate::graph::{Graph, Source, Value};
use crate::io::{Io, Slot};
use crate::op::Alias;
use crate::plan::{ALIGN, Buffer, Place, Plan};
use crate::shape::Shape;

/// What dead and not yet written memory holds under the arena's laws: NaN in every float type.
const POISON: u8 = 0xFF;
/// What fences hold.
const FENCE: u8 = 0xA5;

/// A graph and its plan, with a slot for every tensor.
pub(crate) struct Runner {
    pub(crate) graph: Graph,
    pub(crate) plan: Plan,
    pub(crate) runs: Vec<usize>,
    pub(crate) slots: Vec<Slot>,
    /// Slots of each node's inputs and outputs, contiguous.
    node_slots: Vec<(Vec<Slot>, Vec<Slot>)>,
    /// The sizes have changed since they were last resolved.
    pub(crate) stale: bool,
    pub(crate) check_finite: bool,
}

// SAFETY: slots point into memory that the caller of `bind` lends for the run that follows; every run binds anew.
unsafe impl Send for Runner {}

impl Runner {
    pub(crate) fn new(graph: Graph, plan: Plan) -> Runner {
        let nowhere = Slot { ptr: std::ptr::null_mut(), sizes: Shape::from([0]).sizes(&[]), dtype: graph.elem() };
        let node_slots =
            graph.nodes().iter().map(|n| (vec![nowhere; n.inputs.len()], vec![nowhere; n.outputs.len()])).collect();
        let runs = graph.max_sizes();
        let slots = vec![nowhere; graph.value_count()];
        Runner { graph, plan, runs, slots, node_slots, stale: true, check_finite: false }
    }

    /// Points every slot at its memory: the arena's, or what `lent` says for weights, states and lent inputs.
    pub(crate) fn bind(&mut self, arena: *mut u8, mut lent: impl FnMut(Value) -> *mut u8) {
        let Runner { graph, plan, runs, slots, .. } = self;
        for (value, info) in graph.values() {
            let slot = &mut slots[value.index()];
            if self.stale {
                slot.sizes = info.ty.shape.sizes(runs);
                slot.dtype = info.ty.dtype;
            }
            slot.ptr = match (&info.source, plan.place(value)) {
                (Source::Constant(bytes), _) => bytes.as_ptr().cast_mut(),
                (Source::Weight | Source::State | Source::Input, Place::Memory) => lent(value),
                (_, Place::Arena(b)) => arena.wrapping_add(plan.buffers[b].offset),
                _ => std::ptr::null_mut(),
            };
        }
        // Views and writes follow what they share memory with, in the order in which they are made.
        for node in graph.nodes() {
            for (output, v) in node.outputs.iter().enumerate() {
                let Some(alias) = node.op.alias(output) else { continue };
                let (Alias::View { input, .. } | Alias::Write { input }) = alias;
                let from = slots[node.inputs[input].index()];
                let skip = if let Alias::View { offset, .. } = alias { offset } else { 0 };
                slots[v.index()].ptr = from.ptr.wrapping_add(skip / from.dtype.block_len() * from.dtype.block_bytes());
            }
        }
        for (node, (inputs, outputs)) in self.graph.nodes().iter().zip(&mut self.node_slots) {
            for (slot, v) in inputs.iter_mut().zip(&node.inputs) {
                *slot = self.slots[v.index()];
            }
            for (slot, v) in outputs.iter_mut().zip(&node.outputs) {
                *slot = self.slots[v.index()];
            }
        }
        self.stale = false;
    }

    /// Runs every node once, in memory as bound.
    pub(crate) fn run(&mut self, arena: *mut u8, pool: &Pool) -> Result<(), GraphError> {
        let laws = self.plan.options.fences;
        if laws {
            self.poison_all(arena);
        }
        for i in 0..self.graph.nodes().len() {
            let scratch = match self.plan.scratch[i] {
                Some(b) => (arena.wrapping_add(self.plan.buffers[b].offset), self.plan.buffers[b].bytes),
                None => (std::ptr::NonNull::<u64>::dangling().as_ptr().cast::<u8>(), 0),
            };
            let node = &self.graph.nodes()[i];
            let (inputs, outputs) = &self.node_slots[i];
            let io = Io { inputs, outputs, scratch, pool, taken: Cell::new(0) };
            node.op.run(&io).map_err(|what| GraphError::Operator {
                op: node.op.name(),
                scope: node.scope.to_string(),
                what,
            })?;
            if self.check_finite {
                self.look_for_not_finite(i)?;
            }
            if laws {
                self.check_fences(arena, i)?;
                self.poison_dead(arena, i);
            }
        }
        Ok(())
    }

    fn look_for_not_finite(&self, i: usize) -> Result<(), GraphError> {
        let node = &self.graph.nodes()[i];
        for (k, slot) in self.node_slots[i].1.iter().enumerate() {
            if !matches!(slot.dtype, Dtype::F32 | Dtype::F64) || matches!(node.op.alias(k), Some(Alias::View { .. })) {
                continue;
            }
            // SAFETY: the slot was bound for this run and its node has written it.
            let bytes = unsafe { std::slice::from_raw_parts(slot.ptr, slot.bytes()) };
            let found = match slot.dtype {
                Dtype::F64 => bytemuck::cast_slice::<u8, f64>(bytes).iter().copied().find(|x| !x.is_finite()),
                _ => bytemuck::cast_slice::<u8, f32>(bytes).iter().map(|&x| f64::from(x)).find(|x| !x.is_finite()),
            };
            if let Some(x) = found {
                let (op, scope) = (node.op.name(), node.scope.to_string());
                let kind = if x.is_nan() { "NaN" } else { "an infinity" };
                return Err(GraphError::NotFinite { op, scope, what: format!("{kind} in output {k}") });
            }
        }
        Ok(())
    }

    // The laws of the arena: what is not alive is poison, what is between tensors is a fence.

    fn poison_all(&self, arena: *mut u8) {
        let is_input = |b: &Buffer| b.value.is_some_and(|v| matches!(self.graph.info(v).source, Source::Input));
        let inputs: Vec<&Buffer> = self.plan.buffers.iter().filter(|b| is_input(b)).collect();
        for buffer in &self.plan.buffers {
            // Inputs are written already; what comes later to the same place is poisoned when they die.
            if !inputs.iter().any(|input| overlap(buffer, input)) {
                bytes(arena, buffer.offset, buffer.bytes).fill(POISON);
            }
        }
        for buffer in self.plan.buffers.iter().filter(|b| b.birth == 0) {
            set_fences(arena, buffer);
        }
    }

    fn check_fences(&self, arena: *mut u8, i: usize) -> Result<(), GraphError> {
        for buffer in self.plan.buffers.iter().filter(|b| b.birth <= i && i <= b.death) {
            let whole = bytes(arena, buffer.offset - ALIGN, buffer.bytes + 2 * ALIGN);
            let (before, after) = (&whole[..ALIGN], &whole[ALIGN + buffer.bytes..]);
            if before.iter().chain(after).any(|&x| x != FENCE) {
                let node = &self.graph.nodes()[i];
                let of = match buffer.value {
                    Some(v) => format!("value {} ({})", v.0, self.graph.info(v).name),
                    None => "its scratch memory".into(),
                };
                return Err(GraphError::Fence { op: node.op.name(), scope: node.scope.to_string(), of });
            }
        }
        Ok(())
    }

    fn poison_dead(&self, arena: *mut u8, i: usize) {
        for buffer in self.plan.buffers.iter().filter(|b| b.death == i) {
            bytes(arena, buffer.offset, buffer.bytes).fill(POISON);
        }
        for buffer in self.plan.buffers.iter().filter(|b| b.birth == i + 1) {
            set_fences(arena, buffer);
        }
    }
}

fn set_fences(arena: *mut u8, buffer: &Buffer) {
    bytes(arena, buffer.offset - ALIGN, ALIGN).fill(FENCE);
    bytes(arena, buffer.offset + buffer.bytes, ALIGN).fill(FENCE);
}

/// A range of the arena, between two nodes.
fn bytes<'a>(arena: *mut u8, offset: usize, len: usize) -> &'a mut [u8] {
    // SAFETY: the plan's buffers and their fences lie inside the arena, and no kernel runs between two nodes.
    unsafe { std::slice::from_raw_parts_mut(arena.add(offset), len) }
}

fn overlap(a: &Buffer, b: &Buffer) -> bool {
    a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}
