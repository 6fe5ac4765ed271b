//! The laws of the gated delta rule: all forms agree, however the work is cut.

mod bits;
mod case;
mod forms;
mod refusals;
