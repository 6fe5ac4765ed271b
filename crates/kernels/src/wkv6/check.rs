//! What the recurrences of RWKV with matrix states refuse, and why.

use super::{Wkv6, Wkv6Inputs};
use crate::Real;

/// The widest key: a sweep keeps a row of decays on the stack.
pub const MOST_KEYS: usize = 1024;
/// Tokens of the blocks that chunks are made of.
const BLOCK: usize = 16;

/// An input that is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WkvError {
    /// A size that must be at least 1.
    #[error("{0} is 0")]
    Zero(&'static str),
    /// Keys that are too wide.
    #[error("key_width is {0}, at most {MOST_KEYS} is possible")]
    Width(usize),
    /// A chunk length that is no whole number of blocks.
    #[error("chunks of {0} tokens: use a multiple of 16")]
    Chunk(usize),
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
    /// A log-decay that is NaN, infinite or above 0.
    #[error(
        "log_decay: element {index} (token {token}) is {value}: it must be finite and at most 0; -1e30 forgets everything"
    )]
    Decay {
        /// Where in the tensor.
        index: usize,
        /// Of which token.
        token: usize,
        /// The value.
        value: f64,
    },
}

/// Refuses sizes of 0 and keys that are too wide.
pub(crate) fn check_widths(heads: usize, keys: usize, values: usize) -> Result<(), WkvError> {
    let sizes = [("heads", heads), ("key_width", keys), ("value_width", values)];
    if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
        return Err(WkvError::Zero(name));
    }
    if keys > MOST_KEYS {
        return Err(WkvError::Width(keys));
    }
    Ok(())
}

/// Refuses a tensor of another size.
pub(crate) fn expect(tensor: &'static str, found: usize, expected: usize, shape: &'static str) -> Result<(), WkvError> {
    if found == expected { Ok(()) } else { Err(WkvError::Shape { tensor, found, expected, shape }) }
}

/// Refuses offsets that do not rise from 0 to the number of tokens.
pub(crate) fn check_offsets(cu: &[i32], tokens: usize) -> Result<(), WkvError> {
    expect("cu_seqlens", cu.len(), cu.len().max(2), "[B + 1]")?;
    let wrong = |index: usize| WkvError::Offsets { tokens, index, value: cu[index] };
    if cu[0] != 0 {
        return Err(wrong(0));
    }
    if let Some(index) = (1..cu.len()).find(|&i| cu[i] < cu[i - 1]) {
        return Err(wrong(index));
    }
    if cu[cu.len() - 1] as usize != tokens {
        return Err(wrong(cu.len() - 1));
    }
    Ok(())
}

/// Refuses log-decays that are NaN, infinite or above 0, `row` of them a token.
pub(crate) fn check_decays<T: Real>(log_decay: &[T], row: usize) -> Result<(), WkvError> {
    let outside = |g: &T| !g.is_finite() || *g > T::ZERO;
    match log_decay.iter().enumerate().find(|(_, g)| outside(g)) {
        Some((index, g)) => Err(WkvError::Decay { index, token: index / row, value: g.f64() }),
        None => Ok(()),
    }
}

/// Refuses initial states of another size.
pub(crate) fn check_state<T>(state: Option<&[T]>, expected: usize) -> Result<(), WkvError> {
    state.map_or(Ok(()), |state| expect("initial_state", state.len(), expected, "[B, H, K, V]"))
}

impl Wkv6 {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, keys that are too wide, a chunk that is no multiple of 16.
    pub fn check_options(&self) -> Result<(), WkvError> {
        check_widths(self.heads, self.key_width, self.value_width)?;
        if self.chunk == 0 || !self.chunk.is_multiple_of(BLOCK) {
            return Err(WkvError::Chunk(self.chunk));
        }
        Ok(())
    }

    /// Checks options, shapes and offsets; reads no element of the other tensors.
    ///
    /// # Errors
    /// Those of [`Wkv6::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(&self, x: &Wkv6Inputs<'_, T>) -> Result<(), WkvError> {
        self.check_options()?;
        let tokens = x.r.len() / (self.heads * self.key_width);
        let keys = tokens * self.heads * self.key_width;
        expect("r", x.r.len(), keys, "[N, H, K]")?;
        expect("k", x.k.len(), keys, "[N, H, K]")?;
        expect("v", x.v.len(), tokens * self.heads * self.value_width, "[N, H, V]")?;
        expect("log_decay", x.log_decay.len(), keys, "[N, H, K]")?;
        expect("bonus", x.bonus.len(), self.heads * self.key_width, "[H, K]")?;
        check_offsets(x.cu_seqlens, tokens)?;
        check_state(x.initial_state, self.state_elements(x.cu_seqlens.len() - 1))
    }

    /// Checks everything that the kernels assume, log-decays included; they themselves check only shapes.
    ///
    /// # Errors
    /// Those of [`Wkv6::check_shapes`]; a log-decay that is NaN, infinite or above 0.
    pub fn check<T: Real>(&self, x: &Wkv6Inputs<'_, T>) -> Result<(), WkvError> {
        self.check_shapes(x)?;
        check_decays(x.log_decay, self.heads * self.key_width)
    }

    pub(super) fn expect_shapes<T: Real>(&self, x: &Wkv6Inputs<'_, T>) {
        if let Err(error) = self.check_shapes(x) {
            panic!("wkv6: {error}");
        }
    }
}
