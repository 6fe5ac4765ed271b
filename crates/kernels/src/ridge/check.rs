//! What the regression refuses.

use super::{Ridge, RidgeInputs};
use crate::Real;
use crate::refused::{RecurrenceError, chunk, gates, offsets, shape, sizes, state, width};

/// The widest head: a step keeps its iterates on the stack.
pub const MOST_WIDTH: usize = 1024;

/// The share of a state's largest element by which mirrored elements may differ.
const SYMMETRY: f64 = 1e-4;

impl Ridge {
    /// Checks the options alone.
    ///
    /// # Errors
    /// A size of 0, a head that is too wide, a ridge strength of 0 or less, a chunk that is no multiple of 16.
    pub fn check_options(&self) -> Result<(), RecurrenceError> {
        sizes([("heads", self.heads), ("width", self.width)])?;
        width("width", self.width, MOST_WIDTH)?;
        if !(self.ridge_strength > 0.0 && self.ridge_strength.is_finite()) {
            return Err(RecurrenceError::Strength(self.ridge_strength));
        }
        chunk(self.chunk)
    }

    /// Checks options, shapes and offsets; reads no element of the other tensors.
    ///
    /// # Errors
    /// Those of [`Ridge::check_options`], a tensor of the wrong size, offsets that do not rise from 0 to N.
    pub fn check_shapes<T: Real>(&self, x: &RidgeInputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_options()?;
        let row = self.heads * self.width;
        let tokens = x.q.len() / row;
        shape("q", x.q.len(), tokens * row, "[N, H, D]")?;
        shape("k", x.k.len(), tokens * row, "[N, H, D]")?;
        if let Some(g) = x.g {
            shape("g", g.len(), tokens * self.heads, "[N, H]")?;
        }
        offsets(x.cu_seqlens, tokens)?;
        state(x.initial_state, self.state_elements(x.cu_seqlens.len() - 1), "[B, H, D, D]")
    }

    /// Checks everything that the kernels assume, gates and states included; they themselves check only shapes.
    ///
    /// # Errors
    /// Those of [`Ridge::check_shapes`]; a gate that is NaN, infinite or above 0; a state that is not symmetric.
    pub fn check<T: Real>(&self, x: &RidgeInputs<'_, T>) -> Result<(), RecurrenceError> {
        self.check_shapes(x)?;
        gates("g", x.g.unwrap_or_default(), self.heads, None)?;
        let states = x.initial_state.unwrap_or_default().chunks_exact(self.width * self.width).enumerate();
        for (index, state) in states {
            self.check_symmetric(index, state)?;
        }
        Ok(())
    }

    fn check_symmetric<T: Real>(&self, index: usize, state: &[T]) -> Result<(), RecurrenceError> {
        let largest = state.iter().map(|x| x.f64().abs()).fold(0.0, f64::max);
        for row in 0..self.width {
            for column in 0..row {
                let value = state[row * self.width + column].f64();
                let mirrored = state[column * self.width + row].f64();
                let alike = (value - mirrored).abs() <= SYMMETRY * largest;
                if !alike {
                    let (sequence, head) = (index / self.heads, index % self.heads);
                    return Err(RecurrenceError::Asymmetric { sequence, head, row, column, value, mirrored });
                }
            }
        }
        Ok(())
    }
}
