//! Token mixers, one file each.

pub mod attention;
pub mod base_conv;
pub mod bmojo;
pub mod decay;
pub mod delta_net;
pub mod differential;
pub mod gate_layout;
pub mod gated_associative;
pub mod gated_kalmanet;
pub mod gated_memory_unit;
pub mod gla;
pub mod hgrn2;
pub mod linear_attention;
mod linear_memory;
pub mod mamba;
pub mod mamba2;
pub mod mlstm;
pub mod retention;
pub mod rwkv4;
pub mod rwkv5;
pub mod rwkv6;
pub mod rwkv7;
pub mod rwkv_channel_mix;
pub mod selective_attention;
pub mod short_conv;
pub mod token_shift;

use memwall_graph::{Graph, GraphError, Value};

use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// A way to compute a mixer; all that one declares agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All positions at once.
    Parallel,
    /// Blocks of positions, with a state between them.
    Chunked,
    /// One position after the other, on a state.
    Recurrent,
}

/// What moves information between the tokens of a sequence.
pub trait Mixer {
    /// Whether position t depends on positions up to t only.
    fn causal(&self) -> bool;

    /// The forms that this mixer has.
    fn forms(&self) -> &'static [Form];

    /// Adds the mixer to the graph: `x` [N, D] of packed sequences in, [N, D] out; weights are named `name`.*.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    fn forward(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError>;

    /// Whether it keeps nothing of its own, and reads what earlier layers keep: then a step needs it for those rows only
    /// whose outputs are wanted.
    fn reads_only(&self) -> bool {
        false
    }

    /// Bytes of state that a sequence of `tokens` tokens needs between steps, in a model of width `d_model`.
    fn state_bytes(&self, d_model: usize, name: &str, tokens: usize, seqs: &Sequences) -> usize;
}
