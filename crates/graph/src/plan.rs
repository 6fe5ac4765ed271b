//! Plans the memory of execution: the lifetime of every tensor, and an offset in one arena for each.
//!
//! The peak is known, to the byte, before anything runs. Tensors that live at the same time never
//! overlap; a tensor may be computed in the memory of one that dies with it. Placement is best fit
//! by decreasing size (offline dynamic storage allocation), each tensor at the lowest free offset.

use crate::graph::{Graph, Source, Value};
use crate::op::{Alias, NodeSizes};
use crate::shape::{Sizes, Type};

/// Offsets and sizes in the arena are multiples of this many bytes.
pub const ALIGN: usize = 64;

/// How to plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Threads that will run, which some operators' scratch memory depends on (0 counts as 1).
    pub threads: usize,
    /// Puts a fence before and after every tensor, for the laws of the arena.
    pub fences: bool,
    /// Never computes a tensor in the memory of another.
    pub no_reuse: bool,
    /// Inputs live in memory of the caller's own, not in the arena: the body of a loop.
    pub lent_inputs: bool,
}

/// A piece of the arena and when it is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The value that it was made for; `None` for the scratch memory of node `birth`.
    pub value: Option<Value>,
    /// First byte.
    pub offset: usize,
    /// Size in bytes, a multiple of [`ALIGN`].
    pub bytes: usize,
    /// The node that first writes it; inputs are born at 0.
    pub birth: usize,
    /// The last node that reads it.
    pub death: usize,
}

/// Where the memory of a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the arena, in this buffer.
    Arena(usize),
    /// In the caller's memory: a weight, a state, or a lent input.
    Memory,
    /// In the graph: a constant.
    Constant,
    /// Nowhere: no node makes or reads it.
    Nowhere,
}

/// An offset for every tensor of a graph.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The pieces of the arena.
    pub buffers: Vec<Buffer>,
    /// For each node, its scratch buffer.
    pub scratch: Vec<Option<usize>>,
    /// Size of the arena in bytes.
    pub arena_bytes: usize,
    /// The most bytes that live at the same time: no plan can be smaller.
    pub lower_bound: usize,
    /// The options that the plan was made with.
    pub options: PlanOptions,
    places: Vec<Place>,
}

impl Plan {
    /// Plans `graph` for the largest sizes of its run-time dimensions.
    pub fn new(graph: &Graph, options: PlanOptions) -> Plan {
        let max = graph.max_sizes();
        let last = graph.nodes().len();
        let n = graph.value_count();

        // The last node that reads each root, through whatever views.
        let mut death = vec![0usize; n];
        let mut used = vec![false; n];
        for (i, node) in graph.nodes().iter().enumerate() {
            for &v in node.inputs.iter().chain(&node.outputs) {
                let root = graph.root(v).index();
                death[root] = i;
                used[root] = true;
            }
        }
        for (_, v) in graph.outputs() {
            let root = graph.root(*v).index();
            death[root] = last;
            used[root] = true;
        }

        let mut places = vec![Place::Nowhere; n];
        let mut buffers: Vec<Buffer> = Vec::new();
        let size = |v: Value| graph.ty(v).bytes(&max).next_multiple_of(ALIGN).max(ALIGN);
        for (v, info) in graph.values() {
            match info.source {
                Source::Weight | Source::State => places[v.index()] = Place::Memory,
                Source::Input if options.lent_inputs => places[v.index()] = Place::Memory,
                Source::Constant(_) => places[v.index()] = Place::Constant,
                Source::Input if used[v.index()] => {
                    places[v.index()] = Place::Arena(buffers.len());
                    buffers.push(Buffer {
                        value: Some(v),
                        offset: 0,
                        bytes: size(v),
                        birth: 0,
                        death: death[v.index()],
                    });
                }
                Source::Input | Source::Node { .. } | Source::Nowhere => {}
            }
        }
        let mut scratch = vec![None; graph.nodes().len()];
        for (i, node) in graph.nodes().iter().enumerate() {
            for (output, &v) in node.outputs.iter().enumerate() {
                let end = death[v.index()].max(i);
                let place = match node.op.alias(output) {
                    Some(Alias::View { input, .. } | Alias::Write { input }) => {
                        places[graph.root(node.inputs[input]).index()]
                    }
                    None => {
                        let reused = if options.no_reuse {
                            None
                        } else {
                            reusable(graph, i, output, &buffers, &places, &death, &max)
                        };
                        if let Some(b) = reused {
                            buffers[b].death = end;
                            Place::Arena(b)
                        } else {
                            buffers.push(Buffer { value: Some(v), offset: 0, bytes: size(v), birth: i, death: end });
                            Place::Arena(buffers.len() - 1)
                        }
                    }
                };
                places[v.index()] = place;
            }
            let sized = |values: &[Value]| -> Vec<(Type, Sizes)> {
                values.iter().map(|&v| (graph.ty(v).clone(), graph.shape(v).sizes(&max))).collect()
            };
            let (inputs, outputs) = (sized(&node.inputs), sized(&node.outputs));
            let bytes = node.op.scratch(&NodeSizes { inputs: &inputs, outputs: &outputs }, options.threads.max(1));
            if bytes > 0 {
                scratch[i] = Some(buffers.len());
                buffers.push(Buffer {
                    value: None,
                    offset: 0,
                    bytes: bytes.next_multiple_of(ALIGN),
                    birth: i,
                    death: i,
                });
            }
        }

        let fence = if options.fences { ALIGN } else { 0 };
        let arena_bytes = place(&mut buffers, fence);
        let lower_bound = most_live(&buffers, fence);
        Plan { buffers, scratch, arena_bytes, lower_bound, options, places }
    }

    /// Where the memory of `value` is.
    pub fn place(&self, value: Value) -> Place {
        self.places[value.index()]
    }
}

/// The buffer of an input of node `i` in whose memory its output may be computed.
fn reusable(
    graph: &Graph,
    i: usize,
    output: usize,
    buffers: &[Buffer],
    places: &[Place],
    death: &[usize],
    max: &[usize],
) -> Option<usize> {
    let node = &graph.nodes()[i];
    let made = node.outputs[output];
    node.op.in_place(output).iter().find_map(|&input| {
        let v = node.inputs[input];
        let root = graph.root(v);
        let Place::Arena(b) = places[root.index()] else { return None };
        let dies_here = death[root.index()] == i && buffers[b].death == i;
        let whole = graph.ty(v).bytes(max) == graph.ty(made).bytes(max)
            && graph.ty(root).bytes(max) == graph.ty(made).bytes(max);
        // Another input that is a view of the same memory would be overwritten while it is read.
        let alone = node
            .inputs
            .iter()
            .enumerate()
            .all(|(k, &o)| k == input || places[graph.root(o).index()] != Place::Arena(b));
        let free = node.outputs[..output].iter().all(|o| places[o.index()] != Place::Arena(b));
        (dies_here && whole && alone && free).then_some(b)
    })
}

/// Gives every buffer an offset; returns the end of the highest.
fn place(buffers: &mut [Buffer], fence: usize) -> usize {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&b| (std::cmp::Reverse(buffers[b].bytes), buffers[b].birth));
    let mut placed: Vec<usize> = Vec::new(); // in order of offset
    let mut end = 0;
    for b in order {
        let need = buffers[b].bytes + 2 * fence;
        let (mut at, mut best): (usize, Option<(usize, usize)>) = (0, None);
        for &o in &placed {
            let other = &buffers[o];
            if other.death < buffers[b].birth || buffers[b].death < other.birth {
                continue;
            }
            let start = other.offset - fence;
            if start >= at + need && best.is_none_or(|(gap, _)| start - at < gap) {
                best = Some((start - at, at));
            }
            at = at.max(other.offset + other.bytes + fence);
        }
        let start = best.map_or(at, |(_, at)| at);
        buffers[b].offset = start + fence;
        end = end.max(start + need);
        let position = placed.partition_point(|&o| buffers[o].offset < buffers[b].offset);
        placed.insert(position, b);
    }
    end
}

fn most_live(buffers: &[Buffer], fence: usize) -> usize {
    let mut changes: Vec<(usize, bool, usize)> = Vec::new();
    for b in buffers {
        let bytes = b.bytes + 2 * fence;
        changes.push((b.birth, true, bytes));
        changes.push((b.death + 1, false, bytes));
    }
    changes.sort_by_key(|&(at, born, _)| (at, born)); // deaths before births
    let (mut live, mut most) = (0, 0);
    for (_, born, bytes) in changes {
        if born {
            live += bytes;
            most = most.max(live);
        } else {
            live -= bytes;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buffers_that_live_together_never_overlap(
            spans in prop::collection::vec((1usize..5000, 0usize..60, 0usize..20), 1..80), fence in 0usize..2,
        ) {
            let mut buffers: Vec<Buffer> = spans.iter().map(|&(bytes, birth, life)| Buffer {
                value: None, offset: 0, bytes: bytes.next_multiple_of(ALIGN), birth, death: birth + life,
            }).collect();
            let fence = fence * ALIGN;
            let end = place(&mut buffers, fence);
            for (i, a) in buffers.iter().enumerate() {
                prop_assert!(a.offset >= fence && a.offset + a.bytes + fence <= end);
                for b in &buffers[..i] {
                    let together = a.birth <= b.death && b.birth <= a.death;
                    let apart = a.offset + a.bytes + 2 * fence <= b.offset || b.offset + b.bytes + 2 * fence <= a.offset;
                    prop_assert!(!together || apart, "{a:?} {b:?}");
                }
            }
            prop_assert!(end >= most_live(&buffers, fence));
        }
    }
}
