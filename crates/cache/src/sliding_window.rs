//! The last tokens only, in a ring: slot = position mod capacity. Memory does not grow with the sequence.

use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::attention::Attention;

use crate::full::{attend_rows, write_rows};
use crate::policy::{CachePolicy, Kept, KvFormat, KvLayer, Rollback, Rows};

/// Keeps what a window of `window` tokens can see, and `rollback` tokens more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// A token sees itself and the `window − 1` tokens before it.
    pub window: usize,
    /// Tokens that can be taken back.
    pub rollback: usize,
    /// How keys and values are stored.
    pub format: KvFormat,
}

impl CachePolicy for SlidingWindow {
    fn name(&self) -> &'static str {
        "sliding_window"
    }

    fn capacity(&self, context: usize, step: usize) -> usize {
        // A step's rows are all written before the first of them looks back.
        (self.window + self.rollback + step.saturating_sub(1)).min(context)
    }

    fn rollback(&self) -> Rollback {
        Rollback::Tokens(self.rollback)
    }

    fn format(&self) -> KvFormat {
        self.format
    }

    fn write(&self, g: &mut Graph, layer: &KvLayer, rows: &Rows, k: Value, v: Value) -> Result<Kept, GraphError> {
        write_rows(g, self.format, self.capacity(rows.context, rows.step), layer, rows, k, v)
    }

    fn attend(
        &self,
        g: &mut Graph,
        attention: &Attention,
        kept: Kept,
        rows: &Rows,
        q: Value,
    ) -> Result<(Value, Value), GraphError> {
        let mut attention = *attention;
        let left = self.window - 1;
        attention.window.0 = Some(attention.window.0.map_or(left, |w| w.min(left)));
        attend_rows(g, &attention, kept, rows, q)
    }
}
