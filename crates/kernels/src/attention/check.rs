//! What attention refuses, by name.

use super::{Attention, BlockMask};
use crate::gemm::Compute;

/// Shapes of a call, as the caller believes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shapes<'a> {
    /// `[Nq, H, K]`.
    pub q: [usize; 3],
    /// `[Nk, G, K]`.
    pub k: [usize; 3],
    /// `[Nk, G, V]`.
    pub v: [usize; 3],
    /// Where the queries of each sequence begin, and the end.
    pub cu_seqlens_q: &'a [i32],
    /// Where the keys of each sequence begin, and the end.
    pub cu_seqlens_k: &'a [i32],
    /// Slopes passed, if any.
    pub alibi_slopes: Option<usize>,
    /// Block-sparse mask, if any.
    pub block_mask: Option<&'a BlockMask>,
    /// The call is in f64.
    pub double: bool,
}

/// Why a call of attention is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the message says it
pub enum AttentionError {
    #[error("{what} is {found}; it must be at least 1")]
    Zero { what: &'static str, found: usize },
    #[error("{heads} query heads are not a multiple of {kv_heads} KV heads")]
    Heads { heads: usize, kv_heads: usize },
    #[error("{tensor} has shape {found:?}; it must be {expected:?}")]
    Shape { tensor: &'static str, found: [usize; 3], expected: [usize; 3] },
    #[error("dropout is {0}; it must be in [0, 1)")]
    Dropout(f64),
    #[error("{what} is {value}; it must be finite{and}")]
    Number { what: &'static str, value: f64, and: &'static str },
    #[error("{what}: {reason}")]
    Offsets { what: &'static str, reason: String },
    #[error("ALiBi needs one slope for each of {heads} heads, and slopes need `alibi`: {found:?} passed")]
    Slopes { heads: usize, found: Option<usize> },
    #[error("the block mask covers {covers:?} queries × keys; the longest sequences have {needed:?}")]
    BlockMask { covers: [usize; 2], needed: [usize; 2] },
    #[error("bf16 operands need f32 tensors; these are f64")]
    Compute,
    #[error("attention over a cache is causal, without dropout, in f32: `{0}` says otherwise")]
    Cached(&'static str),
}

fn offsets(what: &'static str, cu: &[i32], tokens: usize) -> Result<usize, AttentionError> {
    let bad = |reason| Err(AttentionError::Offsets { what, reason });
    match (cu.first(), cu.last()) {
        (Some(0), Some(&last)) if last as i64 == tokens as i64 => {}
        _ => return bad(format!("must begin with 0 and end with the {tokens} tokens, but is {cu:?}")),
    }
    match cu.windows(2).find(|w| w[1] < w[0]) {
        Some(w) => bad(format!("must not fall, but {} follows {}", w[1], w[0])),
        None => Ok(cu.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)),
    }
}

impl Attention {
    /// Refuses what no call could mean, whatever its tensors.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check_self(&self) -> Result<(), AttentionError> {
        for (what, found) in [
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("key_width", self.key_width),
            ("value_width", self.value_width),
        ] {
            if found == 0 {
                return Err(AttentionError::Zero { what, found });
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(AttentionError::Heads { heads: self.heads, kv_heads: self.kv_heads });
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(AttentionError::Dropout(self.dropout));
        }
        if !self.scale.is_finite() {
            return Err(AttentionError::Number { what: "scale", value: self.scale, and: "" });
        }
        match self.softcap {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(AttentionError::Number { what: "softcap", value, and: " and above 0" })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a call whose shapes, offsets, slopes or masks do not fit each other.
    ///
    /// No keys at all (M = 0) is allowed: outputs are 0 and `L` is −∞.
    ///
    /// # Errors
    /// The tensor, offset or field that is wrong, and what it must be.
    pub fn check(&self, shapes: &Shapes) -> Result<(), AttentionError> {
        self.check_self()?;
        let (nq, nk) = (shapes.q[0], shapes.k[0]);
        for (tensor, found, expected) in [
            ("q", shapes.q, [nq, self.heads, self.key_width]),
            ("k", shapes.k, [nk, self.kv_heads, self.key_width]),
            ("v", shapes.v, [nk, self.kv_heads, self.value_width]),
        ] {
            if found != expected {
                return Err(AttentionError::Shape { tensor, found, expected });
            }
        }
        let longest_q = offsets("cu_seqlens_q", shapes.cu_seqlens_q, nq)?;
        let longest_k = offsets("cu_seqlens_k", shapes.cu_seqlens_k, nk)?;
        if shapes.cu_seqlens_q.len() != shapes.cu_seqlens_k.len() {
            let reason = format!(
                "{} sequences, but cu_seqlens_q has {}",
                shapes.cu_seqlens_k.len() - 1,
                shapes.cu_seqlens_q.len() - 1
            );
            return Err(AttentionError::Offsets { what: "cu_seqlens_k", reason });
        }
        if shapes.alibi_slopes != self.alibi.then_some(self.heads) {
            return Err(AttentionError::Slopes { heads: self.heads, found: shapes.alibi_slopes });
        }
        if let Some(mask) = shapes.block_mask {
            let covers = [mask.rows * mask.row_blocks(), mask.cols * mask.col_blocks];
            if mask.rows == 0 || mask.cols == 0 || covers[0] < longest_q || covers[1] < longest_k {
                return Err(AttentionError::BlockMask { covers, needed: [longest_q, longest_k] });
            }
        }
        if shapes.double && self.compute == Compute::Bf16 {
            return Err(AttentionError::Compute);
        }
        Ok(())
    }

    /// Refuses what [`attention_cached`](super::attention_cached) cannot do.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check_cached(&self) -> Result<(), AttentionError> {
        self.check_self()?;
        match () {
            () if !self.causal => Err(AttentionError::Cached("causal: false")),
            () if self.dropout != 0.0 => Err(AttentionError::Cached("dropout")),
            () if self.compute == Compute::Bf16 => Err(AttentionError::Cached("compute: Bf16")),
            () => Ok(()),
        }
    }
}
