//! What recurrences over packed sequences refuse, and why.

use crate::Real;

/// Tokens of the blocks that chunks are made of.
pub(crate) const BLOCK: usize = 16;

/// An input that a recurrence refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecurrenceError {
    /// A size that must be at least 1.
    #[error("{0} is 0")]
    Zero(&'static str),
    /// Rows that are too wide: a step keeps one on the stack.
    #[error("{name} is {width}, at most {most} is possible")]
    Width {
        /// The size's name.
        name: &'static str,
        /// What it is.
        width: usize,
        /// The largest.
        most: usize,
    },
    /// Heads that cannot share other heads evenly.
    #[error("{heads} heads cannot share {shared} key heads: the first must be a multiple of the second")]
    Heads {
        /// Heads that share.
        heads: usize,
        /// Heads that are shared.
        shared: usize,
    },
    /// A chunk length that is no whole number of blocks.
    #[error("chunks of {0} tokens: use a multiple of {BLOCK}")]
    Chunk(usize),
    /// A scale that is not a number.
    #[error("the scale is {0}")]
    Scale(f64),
    /// A ridge that leaves a matrix singular, or is no number.
    #[error("ridge_strength is {0}: it must be above 0, and finite")]
    Strength(f64),
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
        "{tensor}: log-gate {index} (token {token}) is {value}: it must be finite and at most 0; -1e30 forgets everything"
    )]
    Gate {
        /// The tensor's name.
        tensor: &'static str,
        /// Where in the tensor.
        index: usize,
        /// Of which token.
        token: usize,
        /// The value.
        value: f64,
    },
    /// A gate that makes the state grow, where that could be allowed.
    #[error(
        "{tensor}: log-gate {index} (token {token}) is {value}, above 0: the state would grow; allow it by `growing_gates`"
    )]
    GateGrows {
        /// The tensor's name.
        tensor: &'static str,
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

/// Refuses sizes of 0.
pub(crate) fn sizes<const N: usize>(sizes: [(&'static str, usize); N]) -> Result<(), RecurrenceError> {
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(RecurrenceError::Zero(name)),
        None => Ok(()),
    }
}

/// Refuses rows that are too wide.
pub(crate) fn width(name: &'static str, width: usize, most: usize) -> Result<(), RecurrenceError> {
    if width <= most { Ok(()) } else { Err(RecurrenceError::Width { name, width, most }) }
}

/// Refuses heads that cannot share others evenly.
pub(crate) fn heads(heads: usize, shared: usize) -> Result<(), RecurrenceError> {
    if heads.is_multiple_of(shared) { Ok(()) } else { Err(RecurrenceError::Heads { heads, shared }) }
}

/// Refuses chunks that are no whole number of blocks.
pub(crate) fn chunk(chunk: usize) -> Result<(), RecurrenceError> {
    if chunk > 0 && chunk.is_multiple_of(BLOCK) { Ok(()) } else { Err(RecurrenceError::Chunk(chunk)) }
}

/// Refuses scales that are not finite.
pub(crate) fn scale(scale: f64) -> Result<(), RecurrenceError> {
    if scale.is_finite() { Ok(()) } else { Err(RecurrenceError::Scale(scale)) }
}

/// Refuses a tensor of another size.
pub(crate) fn shape(
    tensor: &'static str,
    found: usize,
    expected: usize,
    shape: &'static str,
) -> Result<(), RecurrenceError> {
    if found == expected { Ok(()) } else { Err(RecurrenceError::Shape { tensor, found, expected, shape }) }
}

/// Refuses offsets that do not rise from 0 to the number of tokens.
pub(crate) fn offsets(cu: &[i32], tokens: usize) -> Result<(), RecurrenceError> {
    shape("cu_seqlens", cu.len(), cu.len().max(2), "[B + 1]")?;
    let wrong = |index: usize| Err(RecurrenceError::Offsets { tokens, index, value: cu[index] });
    if cu[0] != 0 {
        return wrong(0);
    }
    if let Some(index) = (1..cu.len()).find(|&i| cu[i] < cu[i - 1]) {
        return wrong(index);
    }
    if cu[cu.len() - 1] as usize != tokens {
        return wrong(cu.len() - 1);
    }
    Ok(())
}

/// Refuses initial states of another size.
pub(crate) fn state<T>(state: Option<&[T]>, expected: usize, letters: &'static str) -> Result<(), RecurrenceError> {
    state.map_or(Ok(()), |state| shape("initial_state", state.len(), expected, letters))
}

/// Refuses log-gates that are NaN, infinite or, unless states may grow, above 0; `row` of them a token.
pub(crate) fn gates<T: Real>(
    tensor: &'static str,
    gates: &[T],
    row: usize,
    growing: Option<bool>,
) -> Result<(), RecurrenceError> {
    let outside = |g: &T| !g.is_finite() || *g > T::ZERO && growing != Some(true);
    let Some((index, g)) = gates.iter().enumerate().find(|(_, g)| outside(g)) else { return Ok(()) };
    let (token, value) = (index / row, g.f64());
    Err(match growing {
        Some(false) if g.is_finite() => RecurrenceError::GateGrows { tensor, index, token, value },
        _ => RecurrenceError::Gate { tensor, index, token, value },
    })
}
