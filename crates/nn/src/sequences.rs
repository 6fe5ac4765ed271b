//! What a layer knows of the sequences that pass through it: positions, lengths, and where their memory is.
//!
//! One definition of a layer serves training (whole packed sequences, differentiable) and inference
//! (a step's rows over kept states): layers ask here for what differs.

use std::cell::RefCell;
use std::sync::Arc;

use memwall_cache::{CachePolicy, Full, KvFormat, KvLayer, Rows, SlidingWindow};
use memwall_formats::Dtype;
use memwall_graph::ops::attention::Attention;
use memwall_graph::ops::rope::{Rope, RopeTable};
use memwall_graph::{Dim, Graph, GraphError, RunDim, Value};
use memwall_kernels::attention::Attention as Kernel;

use crate::rope::RopeConfig;

/// Where sequences keep what they have seen.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Nowhere: whole sequences, packed; `cu_seqlens` [B + 1] says where each begins.
    Whole {
        /// Offsets of the sequences, [B + 1] I32.
        cu_seqlens: Value,
    },
    /// In slots: rows continue sequences.
    Slots {
        /// Slot and position of each row, and the room that is planned.
        rows: Rows,
        /// Slot of each row, `[N]` I32.
        slots: Value,
        /// How keys and values are stored.
        kv: KvFormat,
        /// Tokens that can be taken back.
        rollback: usize,
    },
}

/// The sequences of a graph.
#[derive(Debug)]
pub struct Sequences {
    /// Token of each row, `[N]` I32.
    pub ids: Value,
    /// Position of each row in its sequence, `[N]` I32.
    pub positions: Value,
    /// Where sequences keep what they have seen.
    pub kept: Kept,
    /// How many rows: a run-time dimension, or fixed.
    pub tokens: Dim,
    /// Angles of rotary positions, made once for all layers with the same settings.
    tables: RefCell<Vec<(RopeConfig, usize, Value)>>,
    /// What layers hand to later ones beside the residual stream, by name.
    shared: RefCell<Vec<(&'static str, Value)>>,
}

impl Sequences {
    /// Whole packed sequences: `tokens` rows in `sequences` sequences.
    ///
    /// # Errors
    /// If inputs of these names exist with other types.
    pub fn whole(g: &mut Graph, tokens: impl Into<Dim>, sequences: impl Into<Dim>) -> Result<Sequences, GraphError> {
        let tokens = tokens.into();
        let ids = g.input("ids", [tokens], Dtype::I32)?;
        let positions = g.input("positions", [tokens], Dtype::I32)?;
        let cu_seqlens = g.input("cu_seqlens", [sequences.into().plus(1)], Dtype::I32)?;
        let kept = Kept::Whole { cu_seqlens };
        Ok(Sequences { ids, positions, kept, tokens, tables: RefCell::default(), shared: RefCell::default() })
    }

    /// Rows that continue up to `slots` sequences of up to `context` tokens; up to `step` rows at a time.
    ///
    /// # Errors
    /// As [`Sequences::whole`].
    pub fn slots(
        g: &mut Graph,
        rows: RunDim,
        step: usize,
        slots: usize,
        context: usize,
        kv: KvFormat,
        rollback: usize,
    ) -> Result<Sequences, GraphError> {
        let tokens = Dim::from(rows);
        let ids = g.input("ids", [tokens], Dtype::I32)?;
        let positions = g.input("positions", [tokens], Dtype::I32)?;
        let of_row = g.input("slots", [tokens], Dtype::I32)?;
        let both = g.input("rows", [tokens, 2.into()], Dtype::I32)?;
        let rows = Rows { rows: both, slots, context, step };
        let kept = Kept::Slots { rows, slots: of_row, kv, rollback };
        Ok(Sequences { ids, positions, kept, tokens, tables: RefCell::default(), shared: RefCell::default() })
    }

    /// Hands a value to later layers of the same graph, under a name; a later one of that name takes its place.
    pub(crate) fn share(&self, name: &'static str, value: Value) {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|(other, _)| *other != name);
        shared.push((name, value));
    }

    /// What an earlier layer of the graph has handed on under `name`.
    pub(crate) fn shared(&self, name: &str) -> Option<Value> {
        self.shared.borrow().iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// Turns q or k [N, H, W] by the positions of its rows.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn rotate(&self, g: &mut Graph, rope: &RopeConfig, head_dim: usize, x: Value) -> Result<Value, GraphError> {
        let found = self.tables.borrow().iter().find(|(r, d, _)| r == rope && *d == head_dim).map(|(.., v)| *v);
        let table = match found {
            Some(table) => table,
            None => {
                let inverse_frequency: Arc<[f64]> = rope.inverse_frequencies(head_dim).into();
                let pairs = inverse_frequency.len();
                let mut inputs = vec![self.positions];
                if rope.frequency_factors {
                    inputs.push(g.weight("rope_freqs.weight", [pairs], Dtype::F32)?);
                }
                let op = RopeTable { inverse_frequency, magnitude: rope.magnitude(), elem: g.elem() };
                let table = g.push1(op, &inputs)?;
                self.tables.borrow_mut().push((rope.clone(), head_dim, table));
                table
            }
        };
        g.push1(Rope { pairing: rope.pairing(), back: false }, &[x, table])
    }

    /// Attention from q [N, H, K] to k [N, G, K] and v [N, G, V] and what was kept before; o [N, H, V].
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn attend(
        &self,
        g: &mut Graph,
        name: &str,
        kernel: &Kernel,
        q: Value,
        k: Value,
        v: Value,
    ) -> Result<Value, GraphError> {
        match &self.kept {
            Kept::Whole { cu_seqlens } => {
                let made = g.push(Attention::new(*kernel), &[q, k, v, *cu_seqlens])?;
                Ok(made[0])
            }
            Kept::Slots { rows, kv, rollback, .. } => {
                let layer = layer(name, kernel);
                let policy = policy(kernel.window.0.map(|left| left + 1), *kv, *rollback);
                let kept = policy.write(g, &layer, rows, k, v)?;
                Ok(policy.attend(g, kernel, kept, rows, q)?.0)
            }
        }
    }

    /// Bytes that a sequence's attention cache needs in a layer, for up to `tokens` tokens.
    pub fn kv_bytes(&self, name: &str, kernel: &Kernel, tokens: usize) -> usize {
        match &self.kept {
            Kept::Whole { .. } => 0,
            Kept::Slots { rows, kv, rollback, .. } => {
                let policy = policy(kernel.window.0.map(|left| left + 1), *kv, *rollback);
                policy.bytes(&layer(name, kernel), tokens, rows.step)
            }
        }
    }
}

fn layer(name: &str, kernel: &Kernel) -> KvLayer {
    let (kv_heads, key_width, value_width) = (kernel.kv_heads, kernel.key_width, kernel.value_width);
    KvLayer { name: name.into(), kv_heads, key_width, value_width }
}

/// The policy of a layer: all tokens, or those that its window can see.
pub fn policy(window: Option<usize>, format: KvFormat, rollback: usize) -> Box<dyn CachePolicy> {
    match window {
        Some(window) => Box::new(SlidingWindow { window, rollback, format }),
        None => Box::new(Full { format }),
    }
}
