//! B'MOJO: one softmax over recent tokens, a fading memory's outputs at older ones, and old tokens that it failed to predict.
//!
//! With a window of W tokens, query i of a sequence sees the keys k_j of j in [i − W + 1, i], the keys k'_j of the fading
//! memory's outputs f_j of j in [i − 2W + 1, i − W], and eidetic keys k″_j of chosen tokens j ≤ i − 2W:
//! o_i = Σ P_ij v_j + Σ P'_ij v'_j + Σ P″_ij v_j, P a softmax over all three sets. Each set is attention of its own, joined
//! by log-sum-exps; backward each has the joint output and the joint log-sum-exp, from which its share of P follows.
//!
//! **Which tokens are eidetic.** Innovation: ŷ_t = Σ_{s=1..l} w_s ⊙ f_{t−s} predicts f_t, and
//! e_t = mean_d (f_t − ŷ_t)² / (m_t + ε), with m_t the mean square of the channel so far, weighted by 0.99 to the age:
//! scores do not depend on the scale of f. At position cW the buffer M_c is the E tokens of the highest scores of all
//! j ≤ (c − 1)W, that have left the window, the later one where scores are equal; queries cW to cW + W − 1 see those of M_c
//! that the fading window has passed. A token that has dropped out of M_c is in no later one, so one number a token says it
//! all: the chunk from which on it is gone.
//!
//! Source: "B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading Memory" (2024), arXiv
//! 2407.06324. The eidetic part was outlined, never released: normalization, chunks and ties are this module's.

mod eidetic;
mod innovation;
mod joint;
mod lists;
pub mod naive;
mod selection;
mod step;
#[cfg(test)]
mod tests;

pub use innovation::{Innovation, innovation, innovation_gradient, innovation_step};
pub use joint::{BmojoGradients, BmojoInputs, bmojo, bmojo_backward, bmojo_backward_scratch, bmojo_scratch};
pub use selection::{Selection, SelectionError, select, select_scratch};
pub use step::{EideticStep, eidetic_step, eidetic_step_scratch};

use crate::attention::Attention;
use crate::gemm::Compute;

/// Heads, widths and window of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bmojo {
    /// Query heads H.
    pub heads: usize,
    /// Key and value heads G, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width K of a query or key.
    pub key_width: usize,
    /// Width V of a value.
    pub value_width: usize,
    /// τ, by which products of query and key are multiplied.
    pub scale: f64,
    /// W: a token sees itself and W − 1 tokens before it, and the fading memory at the W before those; at least 1.
    pub window: usize,
    /// E, tokens that the eidetic buffer holds.
    pub slots: usize,
    /// Of the products of both windows.
    pub compute: Compute,
}

impl Bmojo {
    /// Attention to the window.
    pub fn recent(&self) -> Attention {
        Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            key_width: self.key_width,
            value_width: self.value_width,
            scale: self.scale,
            causal: true,
            window: (Some(self.window - 1), None),
            compute: self.compute,
            partial: true,
            ..Attention::default()
        }
    }

    /// Attention to the fading memory's outputs at the W tokens before the window.
    pub fn fading(&self) -> Attention {
        Attention { lag: self.window, ..self.recent() }
    }

    /// Query heads that share a KV head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}
