//! What the recurrence of RWKV-5 and RWKV-6 refuses.

use super::{Wkv6, Wkv6Inputs};
use crate::Real;
use crate::refused::{RecurrenceError, chunk, gates, offsets, shape, sizes, state, width};

/// The widest key: a sweep keeps a row of decays on the stack.
pub const MOST_KEYS: usize = 1024;

/// Refuses sizes of 0 and keys that are too wide.
pub(crate) fn check_widths(heads: usize, keys: usize, values: usize) -> Result<(), RecurrenceError> {
    sizes([("heads", heads), ("key_width", keys), ("value_width", values)])?;
    width("key_width", keys, MOST_KEYS)
}

impl Wkv6 {
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
    /// Those of [`Wkv6::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(&self, x: &Wkv6Inputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_options()?;
        let tokens = x.r.len() / (self.heads * self.key_width);
        let keys = tokens * self.heads * self.key_width;
        shape("r", x.r.len(), keys, "[N, H, K]")?;
        shape("k", x.k.len(), keys, "[N, H, K]")?;
        shape("v", x.v.len(), tokens * self.heads * self.value_width, "[N, H, V]")?;
        shape("log_decay", x.log_decay.len(), keys, "[N, H, K]")?;
        shape("bonus", x.bonus.len(), self.heads * self.key_width, "[H, K]")?;
        offsets(x.cu_seqlens, tokens)?;
        state(x.initial_state, self.state_elements(x.cu_seqlens.len() - 1), "[B, H, K, V]")
    }

    /// Checks everything that the kernels assume, log-decays included; they themselves check only shapes.
    ///
    /// # Errors
    /// Those of [`Wkv6::check_shapes`]; a log-decay that is NaN, infinite or above 0.
    pub fn check<T: Real>(&self, x: &Wkv6Inputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_shapes(x)?;
        gates("log_decay", x.log_decay, self.heads * self.key_width, None)
    }

    pub(super) fn expect_shapes<T: Real>(&self, x: &Wkv6Inputs<'_, T>) {
        if let Err(error) = self.check_shapes(x) {
            panic!("wkv6: {error}");
        }
    }
}
