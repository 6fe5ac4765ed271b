//! A mixture of experts: each token goes through a few of many gated MLPs, chosen by a router.
//!
//! y_t = Σ_{e ∈ chosen(t)} w_t,e · W_down,e (silu(W_gate,e x_t) ⊙ W_up,e x_t). Only chosen experts are computed: tokens are
//! put in the order of their experts (`order.rs`), so that each expert is a product over its own rows. A token's sum runs over
//! its experts by rising number, so that it does not depend on the tokens beside it.
//!
//! Shapes: x and y [N, D], chosen and weights [N, k], W_gate and W_up [E, F, D], W_down [E, D, F].

mod backward;
mod combine;
mod dense;
mod forward;
mod order;
mod route;
#[cfg(test)]
mod tests;

pub use backward::{Gradients, experts_backward, experts_backward_scratch};
pub use dense::{experts_dense, experts_dense_scratch};
pub use forward::{experts, experts_scratch};
pub use order::check_chosen;
pub use route::{Route, Scores, route, route_backward};

/// The sizes of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Experts E.
    pub experts: usize,
    /// Experts of a token k, at most E.
    pub active: usize,
    /// Width D of x and y.
    pub width: usize,
    /// Width F of an expert's hidden layer.
    pub hidden: usize,
}
