//! What a layer knows of the sequences that pass through it: positions, lengths, and where their memory is.
//!
//! One definition of a layer serves training (whole packed sequences, differentiable) and inference
//! (a step's rows over kept states): layers ask here for what differs.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use memwall_cache::{CachePolicy, Full, KvFormat, KvLayer, Rows, SlidingWindow};
use memwall_formats::Dtype;
use memwall_graph::ops::attention::Attention;
use memwall_graph::ops::rope::{Rope, RopeTable};
use memwall_graph::ops::select_rows::SelectRows;
use memwall_graph::ops::selected_attention::SelectedAttention;
use memwall_graph::{Dim, Graph, GraphError, RunDim, Value, ops};
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

/// What a layer hands to later ones beside the residual stream, by the layer that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// Values of the first layer, which later ones mix with their own.
    FirstValues,
    /// What a layer has read from its memory, before its output gate: [N, W].
    Memory(usize),
    /// Keys that a layer's rows can see, as [`KeyValues`] has them.
    Keys(usize),
    /// The values to them.
    Values(usize),
}

/// Keys and values that rows attend to: of their own sequences, or what was kept of them.
#[derive(Clone, Copy, Debug)]
pub struct KeyValues {
    /// Keys: [N, G, K] of whole sequences, or [slots, capacity, G·K] of kept ones.
    pub k: Value,
    /// Values: the same, with V.
    pub v: Value,
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
    /// What layers have handed to later ones.
    shared: RefCell<Vec<(Shared, Value)>>,
    /// What layers add to a loss.
    losses: RefCell<Vec<Value>>,
    /// Scores [N, 1] of the rows that attend, if not all do.
    looking_up: Cell<Option<Value>>,
    /// The layer that is being added.
    layer: Cell<usize>,
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
        Ok(Sequences::of(ids, positions, kept, tokens))
    }

    fn of(ids: Value, positions: Value, kept: Kept, tokens: Dim) -> Sequences {
        let (tables, shared, losses, looking_up, layer) = Default::default();
        Sequences { ids, positions, kept, tokens, tables, shared, losses, looking_up, layer }
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
        Ok(Sequences::of(ids, positions, kept, tokens))
    }

    /// The same sequences, of whose rows only those that `chosen` `[M]` names go on: for layers that keep nothing
    /// themselves. What earlier layers have handed on is there, of those rows.
    ///
    /// # Errors
    /// If the sequences are whole ones, whose rows attend to each other; or an operator refuses its inputs.
    pub fn narrowed(&self, g: &mut Graph, chosen: Value) -> Result<Sequences, GraphError> {
        let Kept::Slots { rows, slots, kv, rollback } = &self.kept else {
            return Err(g.refused("select_rows", "rows of whole sequences cannot go on alone; keep them in slots"));
        };
        let tokens = g.shape(chosen).dims()[0];
        let one = |g: &mut Graph, x: Value| {
            let column = ops::reshape(g, x, [self.tokens, 1.into()])?;
            let column = g.push1(SelectRows, &[column, chosen])?;
            ops::reshape(g, column, [tokens])
        };
        let (ids, positions, slots) = (one(g, self.ids)?, one(g, self.positions)?, one(g, *slots)?);
        let rows = Rows { rows: g.push1(SelectRows, &[rows.rows, chosen])?, ..*rows };
        let kept = Kept::Slots { rows, slots, kv: *kv, rollback: *rollback };
        let narrowed = Sequences::of(ids, positions, kept, tokens);
        for &(what, value) in self.shared.borrow().iter() {
            let value = match what {
                Shared::Keys(_) | Shared::Values(_) => value,
                Shared::Memory(_) => g.push1(SelectRows, &[value, chosen])?,
                // For layers with states, which cannot go on alone.
                Shared::FirstValues => continue,
            };
            narrowed.shared.borrow_mut().push((what, value));
        }
        Ok(narrowed)
    }

    /// What layer `layer` has read from its memory, [N, W], if it stands in the graph and has one.
    pub fn memory(&self, layer: usize) -> Option<Value> {
        self.shared(Shared::Memory(layer))
    }

    /// Puts another value in the place of the memory of layer `layer`, for the layers after it: an ablation.
    pub fn set_memory(&self, layer: usize, memory: Value) {
        self.share(Shared::Memory(layer), memory);
    }

    /// Says that layer `layer` of the model is added next.
    pub(crate) fn enter(&self, layer: usize) {
        self.layer.set(layer);
    }

    /// The layer that is being added.
    pub(crate) fn layer(&self) -> usize {
        self.layer.get()
    }

    /// Losses `[1]` of layers so far, each with its weight: what training adds to the loss of the model's task.
    pub fn losses(&self) -> Vec<Value> {
        self.losses.borrow().clone()
    }

    /// Says that training also lowers `loss` `[1]`.
    pub(crate) fn add_loss(&self, loss: Value) {
        self.losses.borrow_mut().push(loss);
    }

    /// Hands a value to later layers of the same graph; a later one of that name takes its place.
    pub(crate) fn share(&self, what: Shared, value: Value) {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|(other, _)| *other != what);
        shared.push((what, value));
    }

    /// What an earlier layer of the graph has handed on.
    pub(crate) fn shared(&self, what: Shared) -> Option<Value> {
        self.shared.borrow().iter().find(|(other, _)| *other == what).map(|(_, value)| *value)
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

    /// Puts k [N, G, K] and v [N, G, V] of the layer `name` where its rows, and those of later layers, can see them.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn keep(
        &self,
        g: &mut Graph,
        name: &str,
        kernel: &Kernel,
        k: Value,
        v: Value,
    ) -> Result<KeyValues, GraphError> {
        let visible = match &self.kept {
            Kept::Whole { .. } => KeyValues { k, v },
            Kept::Slots { rows, kv, rollback, .. } => {
                let policy = policy(kept_window(kernel), *kv, *rollback);
                let kept = policy.write(g, &layer(name, kernel), rows, k, v)?;
                KeyValues { k: kept.k, v: kept.v }
            }
        };
        self.share(Shared::Keys(self.layer()), visible.k);
        self.share(Shared::Values(self.layer()), visible.v);
        Ok(visible)
    }

    /// The keys and values of layer `source`.
    ///
    /// # Errors
    /// If no such layer stands before this one in the graph.
    pub fn kept_by(&self, g: &Graph, source: usize) -> Result<KeyValues, GraphError> {
        match (self.shared(Shared::Keys(source)), self.shared(Shared::Values(source))) {
            (Some(k), Some(v)) => Ok(KeyValues { k, v }),
            _ => Err(g.refused(
                "attention",
                format!(
                    "kv_source is {source}, but no layer {source} with keys and values stands before it in the graph"
                ),
            )),
        }
    }

    /// Adds what `build` adds, where of kept sequences only rows attend whose score `[N, 1]` is not 0: others have 0.
    pub(crate) fn looking_up<T>(&self, scores: Option<Value>, build: impl FnOnce() -> T) -> T {
        let before = self.looking_up.replace(scores);
        let built = build();
        self.looking_up.set(before);
        built
    }

    /// Attention from q [N, H, K] to what its rows can see; o [N, H, V].
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn attend(&self, g: &mut Graph, kernel: &Kernel, q: Value, visible: KeyValues) -> Result<Value, GraphError> {
        if let (Kept::Slots { rows, .. }, Some(scores)) = (&self.kept, self.looking_up.get()) {
            let KeyValues { k, v } = visible;
            return g.push1(SelectedAttention::new(*kernel), &[q, k, v, rows.rows, scores]);
        }
        Ok(self.attend_with_lse(g, kernel, q, visible)?.0)
    }

    /// [`Sequences::attend`], and the log-sum-exp of each row, [H, N].
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn attend_with_lse(
        &self,
        g: &mut Graph,
        kernel: &Kernel,
        q: Value,
        visible: KeyValues,
    ) -> Result<(Value, Value), GraphError> {
        let KeyValues { k, v } = visible;
        match &self.kept {
            Kept::Whole { cu_seqlens } => {
                let made = g.push(Attention::new(*kernel), &[q, k, v, *cu_seqlens])?;
                Ok((made[0], made[1]))
            }
            Kept::Slots { rows, kv, rollback, .. } => {
                let policy = policy(kept_window(kernel), *kv, *rollback);
                policy.attend(g, kernel, memwall_cache::Kept { k, v }, rows, q)
            }
        }
    }

    /// Bytes that a sequence's attention cache needs in a layer, for up to `tokens` tokens.
    pub fn kv_bytes(&self, name: &str, kernel: &Kernel, tokens: usize) -> usize {
        match &self.kept {
            Kept::Whole { .. } => 0,
            Kept::Slots { rows, kv, rollback, .. } => {
                let policy = policy(kept_window(kernel), *kv, *rollback);
                policy.bytes(&layer(name, kernel), tokens, rows.step)
            }
        }
    }
}

/// Tokens that a layer's cache must hold; all if there is no window.
fn kept_window(kernel: &Kernel) -> Option<usize> {
    kernel.window.0.map(|left| left.saturating_add(kernel.lag).saturating_add(1))
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
