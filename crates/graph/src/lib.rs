//! Operators, automatic differentiation, memory planning, execution.
//!
//! A model is a [`Graph`]: operators with shapes, formats and names, built without touching a
//! weight. Passes read it: [`differentiate`] adds the backward operators, [`prune`], [`fuse`],
//! [`join_products`] and [`recompute`] rewrite it without changing a bit of the result, [`Plan`] gives every tensor an
//! offset in one arena, and an [`Executor`] runs it there, on weights and states in a [`Memory`].

pub mod check;
mod differentiate;
mod error;
mod execute;
mod fuse;
mod graph;
mod io;
mod join_products;
mod memory;
mod op;
pub mod ops;
mod plan;
mod prune;
mod recompute;
mod run;
mod shape;

pub use differentiate::{differentiate, pull_back, weights};
pub use error::GraphError;
pub use execute::Executor;
pub use fuse::fuse;
pub use graph::{Graph, Node, Phase, RunDimInfo, Segment, Source, Value, ValueInfo};
pub use io::{Io, Slot};
pub use join_products::join_products;
pub use memory::{Memory, Region};
pub use op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
pub use plan::{ALIGN, Buffer, Place, Plan, PlanOptions};
pub use prune::prune;
pub use recompute::{recompute, recompute_pointwise};
pub use shape::{Dim, MAX_RANK, RunDim, Shape, Sizes, Type};
