//! What can be wrong with a graph, and where.

use memwall_store::{ArenaError, ReservedError};

/// Why a graph was refused, or why a run of it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// An operator refused its inputs.
    #[error("{op} in {scope}: {what}")]
    Operator {
        /// The operator's name.
        op: &'static str,
        /// The layer that it is in.
        scope: String,
        /// Both shapes, and what would be right.
        what: String,
    },
    /// An operator has no gradient.
    #[error("{op} in {scope} has no gradient: {why}")]
    NoGradient {
        /// The operator's name.
        op: &'static str,
        /// The layer that it is in.
        scope: String,
        /// The operator's own reason.
        why: String,
    },
    /// A state was read after it had been written.
    #[error("{op} in {scope} reads an old version of state {state}: use the value that its last write returned")]
    Stale {
        /// The operator's name.
        op: &'static str,
        /// The layer that it is in.
        scope: String,
        /// The state's name.
        state: String,
    },
    /// Two values have the same name, or one has another type than before.
    #[error("{name}: {what}")]
    Name {
        /// The name of the weight, state, input or output.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A run was asked for sizes beyond the plan.
    #[error("run-time dimension {name} is {asked}, planned for at most {max}")]
    Dimension {
        /// The dimension's name.
        name: String,
        /// The size asked for.
        asked: usize,
        /// The planned maximum.
        max: usize,
    },
    /// There is no room for a weight or state.
    #[error(transparent)]
    Reserved(#[from] ReservedError),
    /// There is no room for the activations.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A law of the arena was broken: a bug in an operator.
    #[error("{op} in {scope} wrote outside its own tensors: the fence of {of} is damaged")]
    Fence {
        /// The operator that ran last.
        op: &'static str,
        /// The layer that it is in.
        scope: String,
        /// The tensor whose fence is damaged.
        of: String,
    },
    /// A value that should be finite is not.
    #[error("{op} in {scope} made {what}, the first operator that did")]
    NotFinite {
        /// The operator's name.
        op: &'static str,
        /// The layer that it is in.
        scope: String,
        /// What it made, e.g. `NaN in output 0`.
        what: String,
    },
}
