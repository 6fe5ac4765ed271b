//! Every token's keys and values, in a chosen format: exact attention over what it decodes to.

use memwall_graph::ops::{cache_write::CacheWrite, cached_attention::CachedAttention};
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::attention::Attention;

use crate::policy::{CachePolicy, Kept, KvFormat, KvLayer, Rollback, Rows};

/// Keeps all tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// How keys and values are stored.
    pub format: KvFormat,
}

impl CachePolicy for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn capacity(&self, context: usize, _: usize) -> usize {
        context
    }

    fn rollback(&self) -> Rollback {
        Rollback::Any
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
        attend_rows(g, attention, kept, rows, q)
    }
}

/// Writes rows to states `name.keys` and `name.values` of [slots, capacity, ..].
pub(crate) fn write_rows(
    g: &mut Graph,
    format: KvFormat,
    capacity: usize,
    layer: &KvLayer,
    rows: &Rows,
    k: Value,
    v: Value,
) -> Result<Kept, GraphError> {
    format.check(layer).map_err(|e| g.refused("cache_write", e.to_string()))?;
    let keys = g.state(&format!("{}.keys", layer.name), [rows.slots, capacity, layer.key_row()], format.k)?;
    let values = g.state(&format!("{}.values", layer.name), [rows.slots, capacity, layer.value_row()], format.v)?;
    Ok(Kept { k: g.push1(CacheWrite, &[keys, k, rows.rows])?, v: g.push1(CacheWrite, &[values, v, rows.rows])? })
}

/// Exact attention over what is in the cache.
pub(crate) fn attend_rows(
    g: &mut Graph,
    attention: &Attention,
    kept: Kept,
    rows: &Rows,
    q: Value,
) -> Result<(Value, Value), GraphError> {
    let made = g.push(CachedAttention::new(*attention), &[q, kept.k, kept.v, rows.rows])?;
    Ok((made[0], made[1]))
}
