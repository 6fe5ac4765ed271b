//! Slices in, slices out, as fast as the processor goes; forward and backward.
//!
//! Every kernel takes a [`Pool`], splits its work into fixed tiles (never by the number of
//! threads), and keeps the **row law**: the reduction order of an output element depends on the
//! length of that reduction and on the instruction set only, never on how many rows, columns,
//! threads or splits the call has. Scratch memory is passed in; no kernel allocates.

pub mod adamw;
pub mod attention;
pub mod bmojo;
pub mod cast;
pub mod conv1d;
pub mod cross_entropy;
pub mod delta;
mod disjoint;
pub mod distillation;
pub mod embedding;
pub mod experts;
pub mod fake_quantize;
pub mod feature_map;
pub mod gemm;
pub mod gla;
pub mod hadamard;
mod isa;
#[cfg(test)]
mod laws;
pub mod limits;
pub mod linear;
pub mod long_conv;
pub mod map;
pub mod max_sim;
pub mod mlstm;
pub mod norm;
pub mod normalizer;
mod pool;
mod real;
pub mod recurrence;
mod refused;
pub mod ridge;
pub mod rope;
mod rows;
mod scratch;
pub mod selective_scan;
mod simd;
mod slots;
pub mod softmax;
pub mod sum;
pub mod transpose;
pub mod wkv4;
pub mod wkv6;
pub mod wkv7;

pub use isa::{Isa, isa};
pub use pool::Pool;
pub use real::Real;
pub use refused::RecurrenceError;
