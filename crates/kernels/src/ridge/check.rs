//! What the regression refuses, and why.

use super::{Ridge, RidgeInputs};
use crate::Real;

/// The widest head: a step keeps its iterates on the stack.
pub const MOST_WIDTH: usize = 1024;

/// The share of a state's largest element by which mirrored elements may differ.
const SYMMETRY: f64 = 1e-4;

/// An input that the regression refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RidgeError {
    /// A size that must be at least 1.
    #[error("{0} is 0")]
    Zero(&'static str),
    /// Heads that are too wide.
    #[error("width is {0}, at most {MOST_WIDTH} is possible")]
    Width(usize),
    /// A ridge that leaves the matrix singular, or is no number.
    #[error("ridge_strength is {0}: it must be above 0, and finite")]
    Strength(f64),
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
    /// A state that is no sum of k kᵀ.
    #[error(
        "initial_state: head {head} of sequence {sequence} is not symmetric: element ({row}, {column}) is {value}, \
         element ({column}, {row}) is {mirrored}"
    )]
    Asymmetric {
        /// Of which sequence.
        sequence: usize,
        /// Of which head.
        head: usize,
        /// The row of the first element that differs.
        row: usize,
        /// Its column.
        column: usize,
        /// The value there.
        value: f64,
        /// The value across the diagonal.
        mirrored: f64,
    },
}

impl Ridge {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, a head that is too wide, a ridge strength of 0 or less, a chunk that is no multiple of 16.
    pub fn check_options(&self) -> Result<(), RidgeError> {
        let sizes = [("heads", self.heads), ("width", self.width)];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(RidgeError::Zero(name));
        }
        if self.width > MOST_WIDTH {
            return Err(RidgeError::Width(self.width));
        }
        if !(self.ridge_strength > 0.0 && self.ridge_strength.is_finite()) {
            return Err(RidgeError::Strength(self.ridge_strength));
        }
        if self.chunk == 0 || !self.chunk.is_multiple_of(16) {
            return Err(RidgeError::Chunk(self.chunk));
        }
        Ok(())
    }

    /// Checks options, shapes and offsets; reads no element of the other tensors.
    ///
    /// # Errors
    /// Those of [`Ridge::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(&self, x: &RidgeInputs<'_, T>) -> Result<(), RidgeError> {
        self.check_options()?;
        let row = self.heads * self.width;
        let tokens = x.q.len() / row;
        let shape = |tensor, found, expected, shape| {
            if found == expected { Ok(()) } else { Err(RidgeError::Shape { tensor, found, expected, shape }) }
        };
        shape("q", x.q.len(), tokens * row, "[N, H, D]")?;
        shape("k", x.k.len(), tokens * row, "[N, H, D]")?;
        if let Some(g) = x.g {
            shape("g", g.len(), tokens * self.heads, "[N, H]")?;
        }
        let cu = x.cu_seqlens;
        if cu.len() < 2 {
            return Err(RidgeError::Shape { tensor: "cu_seqlens", found: cu.len(), expected: 2, shape: "[B + 1]" });
        }
        let wrong = |index: usize| RidgeError::Offsets { tokens, index, value: cu[index] };
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
            shape("initial_state", state.len(), self.state_elements(cu.len() - 1), "[B, H, D, D]")?;
        }
        Ok(())
    }

    /// Checks everything that the kernels assume, gates and states included; they themselves check only shapes.
    ///
    /// # Errors
    /// Those of [`Ridge::check_shapes`]; a gate that is NaN, infinite or above 0; a state that is not symmetric.
    pub fn check<T: Real>(&self, x: &RidgeInputs<'_, T>) -> Result<(), RidgeError> {
        self.check_shapes(x)?;
        let gates = x.g.unwrap_or_default().iter().enumerate();
        if let Some((index, g)) = gates.into_iter().find(|(_, g)| !g.is_finite() || **g > T::ZERO) {
            return Err(RidgeError::Gate { index, token: index / self.heads, value: g.f64() });
        }
        let states = x.initial_state.unwrap_or_default().chunks_exact(self.width * self.width).enumerate();
        for (index, state) in states {
            self.check_symmetric(index, state)?;
        }
        Ok(())
    }

    fn check_symmetric<T: Real>(&self, index: usize, state: &[T]) -> Result<(), RidgeError> {
        let largest = state.iter().map(|x| x.f64().abs()).fold(0.0, f64::max);
        for row in 0..self.width {
            for column in 0..row {
                let value = state[row * self.width + column].f64();
                let mirrored = state[column * self.width + row].f64();
                let alike = (value - mirrored).abs() <= SYMMETRY * largest;
                if !alike {
                    let (sequence, head) = (index / self.heads, index % self.heads);
                    return Err(RidgeError::Asymmetric { sequence, head, row, column, value, mirrored });
                }
            }
        }
        Ok(())
    }
}
