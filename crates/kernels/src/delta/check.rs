//! What the gated delta rule refuses.

use super::{Delta, DeltaInputs, Gate};
use crate::Real;
use crate::refused::{RecurrenceError, chunk, gates, heads, offsets, scale, shape, sizes, state, width};

/// The widest key: a step keeps a row of decays on the stack.
pub const MOST_KEYS: usize = 1024;

impl Delta {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, keys that are too wide, heads that do not divide, a chunk that is no multiple of 16, a scale that is not finite.
    pub fn check_options(&self) -> Result<(), RecurrenceError> {
        sizes([
            ("heads", self.heads),
            ("key_heads", self.key_heads),
            ("key_width", self.key_width),
            ("value_width", self.value_width),
        ])?;
        width("key_width", self.key_width, MOST_KEYS)?;
        heads(self.heads, self.key_heads)?;
        chunk(self.chunk)?;
        scale(self.scale)
    }

    /// Checks options, shapes and offsets; reads no element of the other tensors.
    ///
    /// # Errors
    /// Those of [`Delta::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(&self, x: &DeltaInputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_options()?;
        let tokens = x.q.len() / (self.key_heads * self.key_width);
        shape("q", x.q.len(), tokens * self.key_heads * self.key_width, "[N, Hk, K]")?;
        shape("k", x.k.len(), tokens * self.key_heads * self.key_width, "[N, Hk, K]")?;
        shape("v", x.v.len(), tokens * self.heads * self.value_width, "[N, H, V]")?;
        shape("beta", x.beta.len(), tokens * self.heads, "[N, H]")?;
        match x.g {
            Gate::None => {}
            Gate::Head(g) => shape("g", g.len(), tokens * self.heads, "[N, H]")?,
            Gate::Channel(g) => shape("g", g.len(), tokens * self.heads * self.key_width, "[N, H, K]")?,
        }
        offsets(x.cu_seqlens, tokens)?;
        state(x.initial_state, self.state_elements(x.cu_seqlens.len() - 1), "[B, H, K, V]")
    }

    /// Checks everything that the kernels assume, gates and β included; they themselves check only shapes.
    ///
    /// # Errors
    /// Those of [`Delta::check_shapes`]; a gate that is NaN, infinite or above 0; a β outside 0 to 2.
    pub fn check<T: Real>(&self, x: &DeltaInputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_shapes(x)?;
        let row = if matches!(x.g, Gate::Channel(_)) { self.heads * self.key_width } else { self.heads };
        gates("g", x.g.values(), row, None)?;
        let outside = |b: &T| !(0.0..=2.0).contains(&b.f64());
        match x.beta.iter().enumerate().find(|(_, b)| outside(b)) {
            Some((index, b)) => Err(RecurrenceError::Beta { index, token: index / self.heads, value: b.f64() }),
            None => Ok(()),
        }
    }
}
