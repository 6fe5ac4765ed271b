//! A tensor of one value.

use memwall_kernels::Real;

use crate::io::Io;
use crate::op::{Cost, Gradient, NodeSizes, Op, Rows};
use crate::real;
use crate::shape::Type;

/// y = c everywhere.
#[derive(Clone, Debug)]
pub struct Fill {
    ty: Type,
    value: f64,
}

impl Fill {
    /// A tensor of type `ty` (F32 or F64) that holds `value`.
    pub fn new(ty: Type, value: f64) -> Fill {
        Fill { ty, value }
    }
}

impl Op for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![self.ty.clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => io.output::<T>(0).fill(T::of(self.value)));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(0.0)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
