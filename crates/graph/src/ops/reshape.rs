//! The same elements under another shape; costs nothing.

use crate::GraphError;
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Shape, Type};

/// y = x with shape `shape`.
#[derive(Clone, Debug)]
pub struct Reshape {
    shape: Shape,
}

impl Reshape {
    /// A view with that shape, of as many elements.
    pub fn new(shape: impl Into<Shape>) -> Reshape {
        Reshape { shape: shape.into() }
    }
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let x = inputs[0];
        if x.shape.elements().is_none() || x.shape.elements() != self.shape.elements() {
            return Err(format!("{} and {} do not have as many elements", x.shape, self.shape));
        }
        if x.dtype.is_block() && x.shape.width() != self.shape.width() {
            return Err(format!("rows of {} blocks cannot be cut from {} to {}", x.dtype, x.shape, self.shape));
        }
        Ok(vec![Type { shape: self.shape.clone(), dtype: x.dtype }])
    }

    fn run(&self, _: &Io<'_>) -> Result<(), String> {
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        let shape = g.shape(node.inputs[0]).clone();
        Ok(vec![Some(g.push1(Reshape { shape }, &[dy])?)])
    }

    fn cost(&self, _: &NodeSizes<'_>) -> Cost {
        Cost::default()
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn alias(&self, _: usize) -> Option<Alias> {
        Some(Alias::View { input: 0, offset: 0 })
    }
}
