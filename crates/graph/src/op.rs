//! What an operator is: a shape rule, a kernel call, a gradient, a cost, and its independent axes.

use std::fmt;

use crate::GraphError;
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::shape::{Sizes, Type};

/// Work of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Multiplications and additions, each counted as one.
    pub operations: f64,
    /// Bytes read from tensors.
    pub bytes_read: f64,
    /// Bytes written to tensors.
    pub bytes_written: f64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, o: Cost) -> Cost {
        Cost {
            operations: self.operations + o.operations,
            bytes_read: self.bytes_read + o.bytes_read,
            bytes_written: self.bytes_written + o.bytes_written,
        }
    }
}

/// What kind of gradient an operator has; never silently none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// The derivative.
    Exact,
    /// The derivative of the solution of an equation; with its reference.
    Implicit(&'static str),
    /// A stand-in for a derivative that is zero or missing; with its reference.
    Surrogate(&'static str),
    /// None; with the reason.
    Refused(&'static str),
}

/// How rows of an operator depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Row i of each output depends on row i of the listed inputs, and on all of the others.
    Independent,
    /// Rows depend on each other within a sequence.
    Sequence,
    /// Any row may depend on any other.
    Mixed,
}

/// How an output shares memory with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// The output is the same memory, from this element on, under another shape.
    View {
        /// Which input.
        input: usize,
        /// The first element.
        offset: usize,
    },
    /// The output is the next version of a state: the input's memory, changed in place.
    Write {
        /// Which input.
        input: usize,
    },
}

/// The types and shapes of one node in one run.
pub struct NodeSizes<'a> {
    /// The inputs' types with their sizes.
    pub inputs: &'a [(Type, Sizes)],
    /// The outputs' types with their sizes.
    pub outputs: &'a [(Type, Sizes)],
}

impl NodeSizes<'_> {
    fn bytes(of: &[(Type, Sizes)]) -> f64 {
        of.iter().map(|(t, s)| (s.rows() * t.dtype.row_bytes(s.width()).unwrap_or(0)) as f64).sum()
    }

    /// A cost that reads every input once and writes every output once.
    pub fn streaming(&self, operations: f64) -> Cost {
        Cost { operations, bytes_read: Self::bytes(self.inputs), bytes_written: Self::bytes(self.outputs) }
    }
}

/// A node as its operator sees it while it is differentiated.
pub struct Backward<'a> {
    /// The node's inputs.
    pub inputs: &'a [Value],
    /// The node's outputs.
    pub outputs: &'a [Value],
    /// The gradient of each output, where there is one.
    pub grads: &'a [Option<Value>],
    /// Which inputs need a gradient.
    pub wanted: &'a [bool],
}

/// An operator. Users may add their own; the built-in ones are in [`crate::ops`], one file each.
pub trait Op: fmt::Debug + Send + Sync + 'static {
    /// The operator's name, as in plans and errors.
    fn name(&self) -> &'static str;

    /// The types of the outputs.
    ///
    /// # Errors
    /// Says which shapes do not fit, and what would be right.
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String>;

    /// Computes the outputs.
    ///
    /// # Errors
    /// Says what is wrong with the values of the inputs, e.g. a token id beyond the vocabulary.
    fn run(&self, io: &Io<'_>) -> Result<(), String>;

    /// What kind of gradient the operator has.
    fn gradient(&self) -> Gradient;

    /// Adds the operators of the gradient to the graph; a gradient for each wanted input, or none where it is zero.
    ///
    /// # Errors
    /// If an added operator refuses its inputs, or the operator has no gradient.
    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let _ = node;
        Err(g.no_gradient(self.name(), "it declares one but does not build it"))
    }

    /// Work of a call with these sizes.
    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost;

    /// How rows depend on each other.
    fn rows(&self) -> Rows;

    /// How output `output` shares memory with an input, if it does.
    fn alias(&self, output: usize) -> Option<Alias> {
        let _ = output;
        None
    }

    /// Inputs in whose memory output `output` may be computed, if they are not needed later.
    fn in_place(&self, output: usize) -> &[usize] {
        let _ = output;
        &[]
    }

    /// Bytes of scratch memory that a call with these sizes needs.
    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let _ = (sizes, threads);
        0
    }

    /// This operator as a pointwise program, if it is one: what the fusion pass joins.
    fn as_pointwise(&self) -> Option<&crate::ops::pointwise::Pointwise> {
        None
    }

    /// This operator as a product with weights, if it is one: what [`crate::join_products`] joins.
    fn as_linear(&self) -> Option<&crate::ops::linear::Linear> {
        None
    }
}
