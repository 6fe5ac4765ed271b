//! What gated linear attention refuses, and why.

use super::{Gate, Gla};
use crate::Real;

/// An input that gated linear attention refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GlaError {
    /// A size that must be at least 1.
    #[error("{0} is 0")]
    Zero(&'static str),
    /// Heads that cannot share keys evenly.
    #[error("{heads} heads cannot share {kv_heads} key heads: the first must be a multiple of the second")]
    Heads {
        /// Query heads.
        heads: usize,
        /// Key heads.
        kv_heads: usize,
    },
    /// A chunk length that the two-level scheme cannot divide.
    #[error("chunks of {0} tokens: use a multiple of 16")]
    Chunk(usize),
    /// A scale that is not a number.
    #[error("the scale is {0}")]
    Scale(f64),
    /// A tensor of the wrong size.
    #[error("{tensor} has {found} elements, not {expected} = {shape}")]
    Shape {
        /// The tensor's name.
        tensor: &'static str,
        /// Elements it has.
        found: usize,
        /// Elements it should have.
        expected: usize,
        /// Its shape in letters.
        shape: &'static str,
    },
    /// Sequence offsets that are not 0, ..., N in order.
    #[error("cu_seqlens must rise from 0 to the number of tokens {tokens}: entry {index} is {value}")]
    Offsets {
        /// Tokens of all sequences.
        tokens: usize,
        /// The first wrong entry.
        index: usize,
        /// Its value.
        value: i32,
    },
    /// A log-gate that is not a number, or infinite.
    #[error("log-gate {index} (token {token}) is {value}: it must be finite; -1e30 forgets everything")]
    GateNotFinite {
        /// Where in the tensor.
        index: usize,
        /// Of which token.
        token: usize,
        /// The value.
        value: f64,
    },
    /// A gate that makes the state grow.
    #[error("log-gate {index} (token {token}) is {value}, above 0: the state would grow; allow it by `growing_gates`")]
    GateGrows {
        /// Where in the tensor.
        index: usize,
        /// Of which token.
        token: usize,
        /// The value.
        value: f64,
    },
}

impl Gla {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, heads that do not divide, a chunk that is no multiple of 16, a scale that is not finite.
    pub fn check_options(&self) -> Result<(), GlaError> {
        let sizes = [
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("key_width", self.key_width),
            ("value_width", self.value_width),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(GlaError::Zero(name));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(GlaError::Heads { heads: self.heads, kv_heads: self.kv_heads });
        }
        if self.chunk == 0 || !self.chunk.is_multiple_of(16) {
            return Err(GlaError::Chunk(self.chunk));
        }
        if !self.scale.is_finite() {
            return Err(GlaError::Scale(self.scale));
        }
        Ok(())
    }

    /// Checks options, shapes and offsets; reads no element of q, k, v or g.
    ///
    /// # Errors
    /// Those of [`Gla::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        g: Gate<'_, T>,
        cu: &[i32],
        initial_state: Option<&[T]>,
    ) -> Result<(), GlaError> {
        self.check_options()?;
        let tokens = q.len() / (self.heads * self.key_width);
        let shape = |tensor, found, expected, shape| {
            if found == expected { Ok(()) } else { Err(GlaError::Shape { tensor, found, expected, shape }) }
        };
        shape("q", q.len(), tokens * self.heads * self.key_width, "[N, H, K]")?;
        shape("k", k.len(), tokens * self.kv_heads * self.key_width, "[N, Hk, K]")?;
        shape("v", v.len(), tokens * self.kv_heads * self.value_width, "[N, Hk, V]")?;
        match g {
            Gate::None => {}
            Gate::Head(g) => shape("g", g.len(), tokens * self.kv_heads, "[N, Hk]")?,
            Gate::Channel(g) => shape("g", g.len(), tokens * self.kv_heads * self.key_width, "[N, Hk, K]")?,
        }
        if cu.len() < 2 {
            return Err(GlaError::Shape { tensor: "cu_seqlens", found: cu.len(), expected: 2, shape: "[B + 1]" });
        }
        let wrong = |index: usize| GlaError::Offsets { tokens, index, value: cu[index] };
        if cu[0] != 0 {
            return Err(wrong(0));
        }
        if let Some(index) = (1..cu.len()).find(|&i| cu[i] < cu[i - 1]) {
            return Err(wrong(index));
        }
        if cu[cu.len() - 1] as usize != tokens {
            return Err(wrong(cu.len() - 1));
        }
        if let Some(state) = initial_state {
            shape("initial_state", state.len(), self.state_elements(cu.len() - 1), "[B, H, K, V]")?;
        }
        Ok(())
    }

    /// Checks everything that the kernels assume, gates included; they themselves check only shapes.
    ///
    /// A gate that is not checked and is NaN makes what follows it NaN.
    ///
    /// # Errors
    /// Those of [`Gla::check_shapes`]; a gate that is NaN, infinite or, unless allowed, above 0.
    pub fn check<T: Real>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        g: Gate<'_, T>,
        cu: &[i32],
        initial_state: Option<&[T]>,
    ) -> Result<(), GlaError> {
        self.check_shapes(q, k, v, g, cu, initial_state)?;
        let row = match g {
            Gate::None => return Ok(()),
            Gate::Head(_) => self.kv_heads,
            Gate::Channel(_) => self.kv_heads * self.key_width,
        };
        let bad = |x: &T| !x.is_finite() || (*x > T::ZERO && !self.growing_gates);
        if let Some((index, x)) = g.values().iter().enumerate().find(|(_, x)| bad(x)) {
            let (token, value) = (index / row, x.f64());
            return Err(if x.is_finite() {
                GlaError::GateGrows { index, token, value }
            } else {
                GlaError::GateNotFinite { index, token, value }
            });
        }
        Ok(())
    }
}
