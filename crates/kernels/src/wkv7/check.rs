//! What the generalized delta rule refuses.

use super::{Wkv7, Wkv7Inputs};
use crate::Real;
use crate::refused::{RecurrenceError, chunk, gates, offsets, shape, state};
use crate::wkv6::check_widths;

impl Wkv7 {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, keys that are too wide, a chunk that is no multiple of 16.
    pub fn check_options(&self) -> Result<(), RecurrenceError> {
        check_widths(self.heads, self.key_width, self.value_width)?;
        chunk(self.chunk)
    }

    /// Checks options, shapes and offsets; reads no element of the other tensors.
    ///
    /// # Errors
    /// Those of [`Wkv7::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(&self, x: &Wkv7Inputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_options()?;
        let tokens = x.r.len() / (self.heads * self.key_width);
        let keys = tokens * self.heads * self.key_width;
        for (name, tensor) in [("r", x.r), ("k", x.k), ("a", x.a), ("b", x.b), ("log_decay", x.log_decay)] {
            shape(name, tensor.len(), keys, "[N, H, K]")?;
        }
        shape("v", x.v.len(), tokens * self.heads * self.value_width, "[N, H, V]")?;
        offsets(x.cu_seqlens, tokens)?;
        state(x.initial_state, self.state_elements(x.cu_seqlens.len() - 1), "[B, H, K, V]")
    }

    /// Checks everything that the kernels assume, log-decays included; they themselves check only shapes.
    ///
    /// # Errors
    /// Those of [`Wkv7::check_shapes`]; a log-decay that is NaN, infinite or above 0.
    pub fn check<T: Real>(&self, x: &Wkv7Inputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_shapes(x)?;
        gates("log_decay", x.log_decay, self.heads * self.key_width, None)
    }

    pub(super) fn expect_shapes<T: Real>(&self, x: &Wkv7Inputs<'_, T>) {
        if let Err(error) = self.check_shapes(x) {
            panic!("wkv7: {error}");
        }
    }
}
