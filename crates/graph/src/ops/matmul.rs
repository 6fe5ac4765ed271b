//! Matrix product of two activations, or of an activation and a weight of the same element type.

use memwall_kernels::gemm::{Compute, Gemm, gemm, gemm_scratch};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Shape, Sizes, Type};
use crate::{GraphError, real};

/// `C[m,n] = op(A)[m,k] · op(B)[k,n]`; leading axes of a matrix are its rows.
#[derive(Clone, Copy, Debug)]
pub struct MatMul {
    /// A is stored as `[k,m]`.
    pub a_trans: bool,
    /// B is stored as `[n,k]`.
    pub b_trans: bool,
    /// The precision of the operands.
    pub compute: Compute,
}

impl MatMul {
    fn dims(&self, a: Sizes, b: Sizes) -> Gemm {
        let (m, k) = if self.a_trans { (a.width(), a.rows()) } else { (a.rows(), a.width()) };
        let n = if self.b_trans { b.rows() } else { b.width() };
        Gemm { m, n, k, a_trans: self.a_trans, b_trans: self.b_trans, accumulate: false, compute: self.compute }
    }
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (a, b) = (inputs[0], inputs[1]);
        let split = |t: &Type, trans: bool| {
            let width = t.shape.dims().last().copied();
            let (rows, width) = (t.shape.rows()?, width?);
            Some(if trans { (width, rows) } else { (rows, width) })
        };
        let both = split(a, self.a_trans).zip(split(b, self.b_trans));
        let Some(((_, ka), (kb, n))) = both.filter(|((_, ka), (kb, _))| ka == kb) else {
            let t = |on| if on { "ᵀ" } else { "" };
            return Err(format!(
                "{}{} · {}{}: inner sizes must be equal",
                a.shape,
                t(self.a_trans),
                b.shape,
                t(self.b_trans)
            ));
        };
        debug_assert_eq!(ka, kb);
        if a.dtype != b.dtype {
            return Err(format!("element types {} and {} differ", a.dtype, b.dtype));
        }
        let shape = if self.a_trans {
            Shape::from([*a.shape.dims().last().expect("checked"), n])
        } else {
            a.shape.with_width(n)
        };
        Ok(vec![Type { shape, dtype: a.dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let g = self.dims(io.in_sizes(0), io.in_sizes(1));
        real!(io.out_dtype(0), T => gemm::<T>(io.pool(), g, io.input(0), io.input(1), io.output(0), io.scratch()));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dc) = node.grads[0] else { return Ok(vec![None, None]) };
        let (a, b) = (node.inputs[0], node.inputs[1]);
        let product = |a_trans, b_trans| MatMul { a_trans, b_trans, compute: self.compute };
        let mut grads = vec![None, None];
        if node.wanted[0] {
            // dA = dC·op(B)ᵀ; if A is stored transposed, dAᵀ = op(B)·dCᵀ
            grads[0] = Some(if self.a_trans {
                g.push1(product(self.b_trans, true), &[b, dc])?
            } else {
                g.push1(product(false, !self.b_trans), &[dc, b])?
            });
        }
        if node.wanted[1] {
            grads[1] = Some(if self.b_trans {
                g.push1(product(true, self.a_trans), &[dc, a])?
            } else {
                g.push1(product(!self.a_trans, false), &[a, dc])?
            });
        }
        for (grad, input) in grads.iter_mut().zip([a, b]) {
            // A product has two axes where its input may have had more.
            if let Some(v) = *grad
                && g.shape(v) != g.shape(input)
            {
                *grad = Some(super::reshape(g, v, g.shape(input).clone())?);
            }
        }
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let g = self.dims(sizes.inputs[0].1, sizes.inputs[1].1);
        sizes.streaming(2.0 * g.m as f64 * g.n as f64 * g.k as f64)
    }

    fn rows(&self) -> Rows {
        if self.a_trans { Rows::Mixed } else { Rows::Independent }
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let g = self.dims(sizes.inputs[0].1, sizes.inputs[1].1);
        gemm_scratch(&g, sizes.outputs[0].0.dtype.block_bytes(), threads)
    }
}
