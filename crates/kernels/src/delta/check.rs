//! What the gated delta rule refuses, and why.

use super::{Delta, DeltaInputs, Gate};
use crate::Real;

/// The widest key: a step keeps a row of decays on the stack.
pub const MOST_KEYS: usize = 1024;

/// An input that the gated delta rule refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeltaError {
    /// A size that must be at least 1.
    #[error("{0} is 0")]
    Zero(&'static str),
    /// Keys that are too wide.
    #[error("key_width is {0}, at most {MOST_KEYS} is possible")]
    Width(usize),
    /// Heads that cannot share keys evenly.
    #[error("{heads} heads cannot share {key_heads} key heads: the first must be a multiple of the second")]
    Heads {
        /// Heads of values.
        heads: usize,
        /// Heads of queries and keys.
        key_heads: usize,
    },
    /// A chunk length that is no whole number of blocks.
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
    /// A log-gate that is NaN, infinite or above 0.
    #[error(
        "g: log-gate {index} (token {token}) is {value}: it must be finite and at most 0; -1e30 forgets everything"
    )]
    Gate {
        /// Where in the tensor.
        index: usize,
        /// Of which token.
        token: usize,
        /// The value.
        value: f64,
    },
    /// A β outside 0 to 2.
    #[error("beta: element {index} (token {token}) is {value}: it must be from 0 to 2")]
    Beta {
        /// Where in the tensor.
        index: usize,
        /// Of which token.
        token: usize,
        /// The value.
        value: f64,
    },
}

impl Delta {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, keys that are too wide, heads that do not divide, a chunk that is no multiple of 16, a scale that is not finite.
    pub fn check_options(&self) -> Result<(), DeltaError> {
        let sizes = [
            ("heads", self.heads),
            ("key_heads", self.key_heads),
            ("key_width", self.key_width),
            ("value_width", self.value_width),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(DeltaError::Zero(name));
        }
        if self.key_width > MOST_KEYS {
            return Err(DeltaError::Width(self.key_width));
        }
        if !self.heads.is_multiple_of(self.key_heads) {
            return Err(DeltaError::Heads { heads: self.heads, key_heads: self.key_heads });
        }
        if self.chunk == 0 || !self.chunk.is_multiple_of(super::chunk::SUB) {
            return Err(DeltaError::Chunk(self.chunk));
        }
        if !self.scale.is_finite() {
            return Err(DeltaError::Scale(self.scale));
        }
        Ok(())
    }

    /// Checks options, shapes and offsets; reads no element of the other tensors.
    ///
    /// # Errors
    /// Those of [`Delta::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(&self, x: &DeltaInputs<'_, T>) -> Result<(), DeltaError> {
        self.check_options()?;
        let tokens = x.q.len() / (self.key_heads * self.key_width);
        let shape = |tensor, found, expected, shape| {
            if found == expected { Ok(()) } else { Err(DeltaError::Shape { tensor, found, expected, shape }) }
        };
        shape("q", x.q.len(), tokens * self.key_heads * self.key_width, "[N, Hk, K]")?;
        shape("k", x.k.len(), tokens * self.key_heads * self.key_width, "[N, Hk, K]")?;
        shape("v", x.v.len(), tokens * self.heads * self.value_width, "[N, H, V]")?;
        shape("beta", x.beta.len(), tokens * self.heads, "[N, H]")?;
        match x.g {
            Gate::None => {}
            Gate::Head(g) => shape("g", g.len(), tokens * self.heads, "[N, H]")?,
            Gate::Channel(g) => shape("g", g.len(), tokens * self.heads * self.key_width, "[N, H, K]")?,
        }
        let cu = x.cu_seqlens;
        if cu.len() < 2 {
            return Err(DeltaError::Shape { tensor: "cu_seqlens", found: cu.len(), expected: 2, shape: "[B + 1]" });
        }
        let wrong = |index: usize| DeltaError::Offsets { tokens, index, value: cu[index] };
        if cu[0] != 0 {
            return Err(wrong(0));
        }
        if let Some(index) = (1..cu.len()).find(|&i| cu[i] < cu[i - 1]) {
            return Err(wrong(index));
        }
        if cu[cu.len() - 1] as usize != tokens {
            return Err(wrong(cu.len() - 1));
        }
        if let Some(state) = x.initial_state {
            shape("initial_state", state.len(), self.state_elements(cu.len() - 1), "[B, H, K, V]")?;
        }
        Ok(())
    }

    /// Checks everything that the kernels assume, gates and β included; they themselves check only shapes.
    ///
    /// # Errors
    /// Those of [`Delta::check_shapes`]; a gate that is NaN, infinite or above 0; a β outside 0 to 2.
    pub fn check<T: Real>(&self, x: &DeltaInputs<'_, T>) -> Result<(), DeltaError> {
        self.check_shapes(x)?;
        let row = if matches!(x.g, Gate::Channel(_)) { self.heads * self.key_width } else { self.heads };
        let gates = x.g.values().iter().enumerate();
        if let Some((index, g)) = gates.into_iter().find(|(_, g)| !g.is_finite() || **g > T::ZERO) {
            return Err(DeltaError::Gate { index, token: index / row, value: g.f64() });
        }
        let outside = |b: &T| !(0.0..=2.0).contains(&b.f64());
        if let Some((index, b)) = x.beta.iter().enumerate().find(|(_, b)| outside(b)) {
            return Err(DeltaError::Beta { index, token: index / self.heads, value: b.f64() });
        }
        Ok(())
    }
}
