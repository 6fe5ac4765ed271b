//! What gated linear attention refuses.

use super::{Gate, Gla};
use crate::Real;
use crate::refused::{RecurrenceError, chunk, gates, heads, offsets, scale, shape, sizes, state};

impl Gla {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, heads that do not divide, a chunk that is no multiple of 16, a scale that is not finite.
    pub fn check_options(&self) -> Result<(), RecurrenceError> {
        sizes([
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("key_width", self.key_width),
            ("value_width", self.value_width),
        ])?;
        heads(self.heads, self.kv_heads)?;
        chunk(self.chunk)?;
        scale(self.scale)
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
    ) -> Result<(), RecurrenceError> {
        self.check_options()?;
        let tokens = q.len() / (self.heads * self.key_width);
        shape("q", q.len(), tokens * self.heads * self.key_width, "[N, H, K]")?;
        shape("k", k.len(), tokens * self.kv_heads * self.key_width, "[N, Hk, K]")?;
        shape("v", v.len(), tokens * self.kv_heads * self.value_width, "[N, Hk, V]")?;
        match g {
            Gate::None => {}
            Gate::Head(g) => shape("g", g.len(), tokens * self.kv_heads, "[N, Hk]")?,
            Gate::Channel(g) => shape("g", g.len(), tokens * self.kv_heads * self.key_width, "[N, Hk, K]")?,
        }
        offsets(cu, tokens)?;
        state(initial_state, self.state_elements(cu.len() - 1), "[B, H, K, V]")
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
    ) -> Result<(), RecurrenceError> {
        self.check_shapes(q, k, v, g, cu, initial_state)?;
        let row = if matches!(g, Gate::Channel(_)) { self.kv_heads * self.key_width } else { self.kv_heads };
        gates("g", g.values(), row, Some(self.growing_gates))
    }
}
