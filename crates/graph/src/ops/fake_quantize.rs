//! Numbers as a format holds them, with a gradient that goes straight through: what training with quantization is made of.

use memwall_formats::{Dtype, Quantizer, format};
pub use memwall_kernels::fake_quantize::Along;
use memwall_kernels::fake_quantize::{fake_quantize, fake_quantize_scratch, reached};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Sizes, Type};
use crate::{GraphError, real};

/// Which values the gradient passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StraightThrough {
    /// All of them: rounding and clipping count as the identity.
    #[default]
    All,
    /// Those that the format does not clip: rounding counts as the identity, clipping as what it is.
    Reached,
}

/// What x is computed in: formats store what 32 bits hold, f64 stays for gradient checks.
fn element(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
}

/// y, x as a format holds it: encoded and decoded. Input x [.., W], stored in any format; the leading axes are rows.
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantize {
    /// The format, and what shares a scale.
    pub quantizer: Quantizer,
    /// Which way blocks lie.
    pub along: Along,
    /// Which values the gradient passes.
    pub straight: StraightThrough,
}

impl FakeQuantize {
    /// Blocks along the rows, a gradient for all values.
    pub fn new(quantizer: Quantizer) -> FakeQuantize {
        FakeQuantize { quantizer, along: Along::Rows, straight: StraightThrough::All }
    }

    fn check(&self, x: &Type) -> Result<(), String> {
        if x.dtype == Dtype::I32 || x.shape.rank() == 0 {
            return Err(format!("x is {x}; rows of real numbers are needed"));
        }
        let Some(cols) = x.shape.width() else { return Err(format!("x is {x}; a fixed width is needed")) };
        let length = match self.along {
            Along::Rows => Some(cols),
            // Rows known only when they come are checked then.
            Along::Columns => x.shape.rows().and_then(|rows| rows.known()),
        };
        length.map_or(Ok(()), |length| self.quantizer.check(length)).map_err(|e| e.to_string())
    }

    fn rows(&self) -> Rows {
        let own = self.along == Along::Rows && self.quantizer.rows_are_independent();
        if own { Rows::Independent } else { Rows::Mixed }
    }

    fn scratch(&self, x: &(Type, Sizes), threads: usize) -> usize {
        let (rows, cols) = (x.1.rows(), x.1.width());
        let element_bytes = element(x.0.dtype).block_bytes();
        let decoded = if element(x.0.dtype) == x.0.dtype { 0 } else { rows * cols * element_bytes };
        decoded + fake_quantize_scratch(&self.quantizer, self.along, rows, cols, element_bytes, threads)
    }

    /// Refuses columns that are no whole blocks, which a graph of any number of rows cannot know before.
    fn check_run(&self, x: Sizes) -> Result<(), String> {
        match self.along {
            Along::Rows => Ok(()),
            Along::Columns => self.quantizer.check(x.rows()).map_err(|e| format!("down the columns, {e}")),
        }
    }
}

impl Op for FakeQuantize {
    fn name(&self) -> &'static str {
        "fake_quantize"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        self.check(inputs[0])?;
        Ok(vec![Type { shape: inputs[0].shape.clone(), dtype: element(inputs[0].dtype) }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (q, cols, stored) = (&self.quantizer, io.in_sizes(0).width(), io.in_dtype(0));
        self.check_run(io.in_sizes(0))?;
        if element(stored) != stored {
            let bytes = io.in_sizes(0).elements() * size_of::<f32>();
            let (x, scratch) = io.scratch().split_at_mut(bytes);
            let x: &mut [f32] = bytemuck::cast_slice_mut(x);
            format(stored).decode(cols, io.in_bytes(0), x).map_err(|e| e.to_string())?;
            return fake_quantize::<f32>(io.pool(), q, self.along, cols, x, io.output(0), scratch)
                .map_err(|e| e.to_string());
        }
        let done = real!(io.out_dtype(0), T => {
            fake_quantize::<T>(io.pool(), q, self.along, cols, io.input(0), io.output(0), io.scratch())
        });
        done.map_err(|e| e.to_string())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Surrogate(match self.straight {
            StraightThrough::All => {
                "Bengio et al. 2013 (arXiv 1308.3432), straight-through: rounding and clipping as the identity"
            }
            StraightThrough::Reached => {
                "Hubara et al. 2016 (arXiv 1602.02830), straight-through within what the format reaches, 0 where it clips"
            }
        })
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        let stored = g.ty(node.inputs[0]).dtype;
        if element(stored) != stored {
            return Err(g.no_gradient("fake_quantize", format!("x is stored as {stored}; training needs F32")));
        }
        Ok(vec![Some(match self.straight {
            StraightThrough::All => dy,
            StraightThrough::Reached => g.push1(Mask(*self), &[node.inputs[0], dy])?,
        })])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(6.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        self.rows()
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        self.scratch(&sizes.inputs[0], threads)
    }
}

/// dy where x is not clipped, 0 elsewhere. Inputs: x and dy.
#[derive(Clone, Copy, Debug)]
struct Mask(FakeQuantize);

impl Op for Mask {
    fn name(&self) -> &'static str {
        "fake_quantize_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let Mask(FakeQuantize { quantizer: q, along, .. }) = self;
        let cols = io.in_sizes(0).width();
        let done = real!(io.out_dtype(0), T => {
            let dx = io.output::<T>(0);
            let done = reached::<T>(io.pool(), q, *along, cols, io.input(0), dx, io.scratch());
            dx.iter_mut().zip(io.input::<T>(1)).for_each(|(dx, dy)| *dx = if *dx == 0.0 { 0.0 } else { *dy });
            done
        });
        done.map_err(|e| e.to_string())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of rounding are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(6.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        self.0.rows()
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        self.0.scratch(&sizes.inputs[0], threads)
    }
}
