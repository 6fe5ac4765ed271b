//! The trait that every KV-cache policy implements.

use memwall_formats::Dtype;
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::attention::{Attention, CacheView};
use serde::{Deserialize, Serialize};

/// Why a cache cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CacheError {
    /// A format that a cache cannot have.
    #[error("a cache cannot store {dtype}; use F32, F16, BF16 or Q8_0")]
    Format {
        /// The format asked for.
        dtype: Dtype,
    },
    /// Rows that the format cannot hold.
    #[error("{dtype} stores blocks of {block}, but a token has {row} values a layer; use F16")]
    Row {
        /// The format asked for.
        dtype: Dtype,
        /// Values of its blocks.
        block: usize,
        /// Values of a token's keys.
        row: usize,
    },
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvFormat {
    /// Format of keys.
    #[serde(with = "dtype_name")]
    pub k: Dtype,
    /// Format of values.
    #[serde(with = "dtype_name")]
    pub v: Dtype,
}

mod dtype_name {
    use memwall_formats::Dtype;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(d: &Dtype, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&d.name().to_ascii_lowercase())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Dtype, D::Error> {
        let name = String::deserialize(d)?;
        Dtype::from_name(&name)
            .ok_or_else(|| D::Error::custom(format!("unknown format {name}; use f32, f16, bf16 or q8_0")))
    }
}

impl KvFormat {
    /// Keys and values both in `dtype`.
    pub const fn both(dtype: Dtype) -> KvFormat {
        KvFormat { k: dtype, v: dtype }
    }

    /// Checks that rows of a layer fit.
    ///
    /// # Errors
    /// Names the format and what would be right.
    pub fn check(self, layer: &KvLayer) -> Result<(), CacheError> {
        for (dtype, row) in [(self.k, layer.key_row()), (self.v, layer.value_row())] {
            if !CacheView::DTYPES.contains(&dtype) {
                return Err(CacheError::Format { dtype });
            }
            if dtype.row_bytes(row).is_none() {
                return Err(CacheError::Row { dtype, block: dtype.block_len(), row });
            }
        }
        Ok(())
    }

    /// Bytes of one token in one layer.
    ///
    /// # Panics
    /// If [`KvFormat::check`] refuses the layer.
    pub fn token_bytes(self, layer: &KvLayer) -> usize {
        let bytes = |d: Dtype, row| d.row_bytes(row).expect("checked by `KvFormat::check`");
        bytes(self.k, layer.key_row()) + bytes(self.v, layer.value_row())
    }
}

/// The attention layer that a cache serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayer {
    /// Its name, e.g. `model.layers.3.self_attn`.
    pub name: String,
    /// Heads G of keys and values.
    pub kv_heads: usize,
    /// Width K of a key.
    pub key_width: usize,
    /// Width V of a value.
    pub value_width: usize,
}

impl KvLayer {
    /// Values of a token's keys.
    pub fn key_row(&self) -> usize {
        self.kv_heads * self.key_width
    }

    /// Values of a token's values.
    pub fn value_row(&self) -> usize {
        self.kv_heads * self.value_width
    }
}

/// A step's rows, and the room that caches are planned for.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Slot and position of each row, [N, 2] I32.
    pub rows: Value,
    /// Sequences that can be kept at the same time.
    pub slots: usize,
    /// The most tokens of a sequence.
    pub context: usize,
    /// The most rows of a step.
    pub step: usize,
}

/// What a layer's cache is in the graph, after a step's rows have been written.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Keys, [slots, capacity, G·K].
    pub k: Value,
    /// Values, [slots, capacity, G·V].
    pub v: Value,
}

/// How far a sequence can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollback {
    /// To any earlier length.
    Any,
    /// By at most so many tokens.
    Tokens(usize),
}

/// What a KV cache keeps, and how.
pub trait CachePolicy: std::fmt::Debug + Send + Sync {
    /// The policy's name, as in plans.
    fn name(&self) -> &'static str;

    /// Slots that a sequence of up to `context` tokens needs, if a step has up to `step` rows.
    fn capacity(&self, context: usize, step: usize) -> usize;

    /// How far a sequence can be taken back.
    fn rollback(&self) -> Rollback;

    /// The format of what is kept.
    fn format(&self) -> KvFormat;

    /// Bytes that a sequence of up to `context` tokens needs in a layer: never exceeded.
    fn bytes(&self, layer: &KvLayer, context: usize, step: usize) -> usize {
        self.capacity(context, step) * self.format().token_bytes(layer)
    }

    /// Writes a step's keys [N, G, K] and values [N, G, V].
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    fn write(&self, g: &mut Graph, layer: &KvLayer, rows: &Rows, k: Value, v: Value) -> Result<Kept, GraphError>;

    /// Attends from q [N, H, K] to what has been kept; o [N, H, V] and the log-sum-exp [H, N].
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    fn attend(
        &self,
        g: &mut Graph,
        attention: &Attention,
        kept: Kept,
        rows: &Rows,
        q: Value,
    ) -> Result<(Value, Value), GraphError>;
}
