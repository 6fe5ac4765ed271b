//! Exact softmax attention, tile by tile: forward, backward, and over a cache.
//!
//! `O = softmax(mask(c·tanh(τ·Q·Kᵀ/c) − slope·|i − j|)) · V`, and the log-sum-exp `L` of each row.
//! The T × T matrix of scores never exists: a block of query rows meets one tile of 64 keys after
//! the other, with a running maximum, sum and output (FlashAttention, arXiv 2205.14135, in the loop
//! order of its second version); the backward pass computes the tiles again from `L`.
//!
//! **One order for everything.** A score is one chain of fused multiply-adds over the key width,
//! lanes over keys. Tiles lie at multiples of 64 of the absolute key position; eight of them make a
//! group, with a maximum, sum and output of its own, to which keys add in ascending order; groups
//! fold into the row in ascending order. So the bits of a row depend on its own query and visible
//! keys only: not on the other rows of the call, how a prefill was cut, the number of threads, the
//! format that a cache decodes from, or whether there is a cache at all.
//!
//! Layout: packed tokens: q `[Nq, H, K]`, k `[Nk, G, K]`, v and o `[N, H or G, V]`, `L` `[H, Nq]`;
//! sequences lie behind each other, cut by `cu_seqlens` (i32, one more than sequences). Query head
//! h reads KV head h·G/H. Causal masks and windows are aligned at the bottom right: row i of N sits
//! at position i + M − N of M keys.

mod backward;
mod block;
mod block_mask;
#[cfg(target_arch = "x86_64")]
mod cache_avx512;
mod cache_view;
mod cached;
mod check;
mod direct;
mod dropout;
mod forward;
pub mod io;
pub mod materialized;
mod merge;
pub mod naive;
mod product;
mod row;
use crate::scratch;
mod state;
mod tile;
mod visible;

pub use backward::{attention_backward, attention_backward_scratch};
pub use block_mask::BlockMask;
pub use cache_view::CacheView;
pub use cached::{CacheRow, attention_cached, attention_cached_scratch};
pub use check::{AttentionError, Shapes};
pub use dropout::dropout_keeps;
pub use forward::{attention_forward, attention_scratch};
pub use merge::merge;

use crate::gemm::Compute;

/// What kind of attention: shapes, mask and scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads H.
    pub heads: usize,
    /// Key and value heads G, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width K of a query or key.
    pub key_width: usize,
    /// Width V of a value or output.
    pub value_width: usize,
    /// τ, by which products of query and key are multiplied; usually 1/√K.
    pub scale: f64,
    /// Row at position p sees keys up to p.
    pub causal: bool,
    /// Row at position p sees keys from p − left to p + right, both included; `None`: no bound.
    pub window: (Option<usize>, Option<usize>),
    /// A row looks from so many positions before its own: causal mask, window and slopes are measured from there.
    pub lag: usize,
    /// The keys are some of those that a softmax is over: backward, O and L are those of all of them.
    pub partial: bool,
    /// c: scores become c·tanh(score/c).
    pub softcap: Option<f64>,
    /// Slopes are passed, one a head: slope·|p − j| is taken off the score of key j.
    pub alibi: bool,
    /// Probability, in [0, 1), with which an attention weight is dropped.
    pub dropout: f64,
    /// Decides, with sequence, head, query and key, which weights are dropped.
    pub seed: u64,
    /// `Bf16`: operands of every product, weights and their gradients included, are rounded to bf16 and summed in f32.
    pub compute: Compute,
}

impl Default for Attention {
    fn default() -> Self {
        Attention {
            heads: 1,
            kv_heads: 1,
            key_width: 64,
            value_width: 64,
            scale: 0.125,
            causal: false,
            window: (None, None),
            lag: 0,
            partial: false,
            softcap: None,
            alibi: false,
            dropout: 0.0,
            seed: 0,
            compute: Compute::F32,
        }
    }
}

impl Attention {
    /// Query heads that share a KV head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

#[cfg(test)]
mod tests;
