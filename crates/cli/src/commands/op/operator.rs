//! What an operator is, seen from outside: its documentation is what its inputs are checked against.

use memwall_graph::Value;

use super::builder::Builder;
use super::tensors::NamedTensors;

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Real numbers.
    Real,
    /// Integers.
    Integer,
    /// Encoded numbers.
    Bytes,
    /// 0: hidden.
    Mask,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Real => "real",
            Kind::Integer => "integer",
            Kind::Bytes => "U8",
            Kind::Mask => "mask",
        }
    }
}

/// A tensor that an operator takes or gives.
pub struct Argument {
    /// Its name in the file.
    pub name: &'static str,
    /// Its shape, as [`super::shapes`] reads it.
    pub shape: &'static str,
    /// What its elements are.
    pub kind: Kind,
    /// It may be left out.
    pub optional: bool,
    /// What it is.
    pub about: &'static str,
}

/// Real numbers.
pub const fn real(name: &'static str, shape: &'static str, about: &'static str) -> Argument {
    Argument { name, shape, kind: Kind::Real, optional: false, about }
}

/// Integers.
pub const fn integer(name: &'static str, shape: &'static str, about: &'static str) -> Argument {
    Argument { name, shape, kind: Kind::Integer, optional: false, about }
}

/// Encoded numbers.
pub const fn bytes(name: &'static str, shape: &'static str, about: &'static str) -> Argument {
    Argument { name, shape, kind: Kind::Bytes, optional: false, about }
}

/// A mask, 0 where hidden.
pub const fn mask(name: &'static str, shape: &'static str, about: &'static str) -> Argument {
    Argument { name, shape, kind: Kind::Mask, optional: false, about }
}

impl Argument {
    /// The same, but it may be left out.
    pub const fn optional(self) -> Argument {
        Argument { optional: true, ..self }
    }
}

/// A way to compute an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// All positions at once
    Parallel,
    /// Chunks of positions, with a state between them
    Chunked,
    /// One position after the other, on a state
    Recurrent,
}

impl Form {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Form::Parallel => "parallel",
            Form::Chunked => "chunked",
            Form::Recurrent => "recurrent",
        }
    }
}

/// An output of the graph: its name, its value, and its shape for the reader if the graph's is another.
pub struct Made {
    /// Its documented name.
    pub name: &'static str,
    /// The value.
    pub value: Value,
    /// Its shape in the file, of as many elements.
    pub shape: Option<Vec<usize>>,
}

/// An output as the graph shapes it.
pub fn made(name: &'static str, value: Value) -> Made {
    Made { name, value, shape: None }
}

/// Why what changes a state in place has no gradient.
pub const IN_PLACE: &str = "it changes a state in place; the operator over whole sequences has one";

/// How an operator is computed.
pub enum How {
    /// By the graph, which also differentiates it.
    Graph(fn(&mut Builder<'_>) -> anyhow::Result<Vec<Made>>),
    /// By the graph, on states that it changes in place: with why it has no gradient.
    Step(fn(&mut Builder<'_>) -> anyhow::Result<Vec<Made>>, &'static str),
    /// By a kernel or a format alone; with why it has no gradient.
    Alone(fn(&mut Builder<'_>) -> anyhow::Result<NamedTensors>, &'static str),
}

impl How {
    /// Why there is no gradient, if there is none.
    pub fn no_gradient(&self) -> Option<&'static str> {
        match self {
            How::Graph(_) => None,
            How::Step(_, why) | How::Alone(_, why) => Some(why),
        }
    }
}

/// An operator, mixer or format.
pub struct Operator {
    /// Its name.
    pub name: &'static str,
    /// Its equation, and its source.
    pub about: &'static str,
    /// What it takes, required or not.
    pub inputs: &'static [Argument],
    /// More inputs whose names its configuration decides: weights.
    pub weights: Option<&'static str>,
    /// What it gives.
    pub outputs: &'static [Argument],
    /// Its options, by name in [`super::attributes::ALL`].
    pub attributes: &'static [&'static str],
    /// Its forms, if there is a choice; the first is what runs when none is named.
    pub forms: &'static [Form],
    /// How it is computed.
    pub how: How,
}
