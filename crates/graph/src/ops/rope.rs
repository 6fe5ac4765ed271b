//! Rotary positions: one table of angles a step, and the turn of q and k by it.

use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_kernels::rope::{Pairing, rope, rope_table};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Cosines and sines [N, 2 · pairs] of positions `[N]`; a second input divides the frequencies (`[pairs]`, F32).
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Radians a position, for each pair.
    pub inverse_frequency: Arc<[f64]>,
    /// Factor of cosines and sines.
    pub magnitude: f64,
    /// F32 or F64.
    pub elem: Dtype,
}

impl Op for RopeTable {
    fn name(&self) -> &'static str {
        "rope_table"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [n] = inputs[0].shape.dims() else {
            return Err(format!("positions are {}, [N] is needed", inputs[0].shape));
        };
        let pairs = self.inverse_frequency.len();
        if let Some(factors) = inputs.get(1).filter(|f| ***f != Type::new([pairs], Dtype::F32)) {
            return Err(format!("rope factors are {factors}, F32[{pairs}] is needed"));
        }
        Ok(vec![Type::new([*n, (2 * pairs).into()], self.elem)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let factors = (io.inputs() > 1).then(|| io.input::<f32>(1));
        real!(io.out_dtype(0), T => {
            rope_table::<T>(io.input(0), &self.inverse_frequency, factors, self.magnitude, io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("positions are integers")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(20.0 * sizes.outputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// x [N, H, W] with its pairs turned by a table [N, 2 · pairs].
#[derive(Clone, Debug)]
pub struct Rope {
    /// Which channels make a pair.
    pub pairing: Pairing,
    /// Turns the other way: the gradient of the turn.
    pub back: bool,
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (x, table) = (inputs[0], inputs[1]);
        let ([n, _, width], [rows, pairs]) = (x.shape.dims(), table.shape.dims()) else {
            return Err(format!("x is {}, the table {}; [N, H, W] and [N, 2·pairs] are needed", x.shape, table.shape));
        };
        if n != rows || pairs.known() > width.known() || x.dtype != table.dtype {
            return Err(format!("a table {table} does not fit x {x}"));
        }
        Ok(vec![x.clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (heads, width) = (io.in_sizes(0).axis(1), io.in_sizes(0).axis(2));
        real!(io.out_dtype(0), T => {
            rope::<T>(io.pool(), self.pairing, heads, width, io.input(0), io.input(1), self.back, io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None, None]) };
        // The turn is orthogonal up to the table's magnitude, so its transpose is the turn back.
        let op = Rope { pairing: self.pairing, back: !self.back };
        Ok(vec![Some(g.push1(op, &[dy, node.inputs[1]])?), None])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(3.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
