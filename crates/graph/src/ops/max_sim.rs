//! Late interaction of queries and documents: Σ_i max_j q_i · d_j.

use memwall_formats::Dtype;
use memwall_kernels::Real;
use memwall_kernels::max_sim::{MaxSimInputs, max_sim, max_sim_backward};

use super::{check_offsets, check_rows};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Inputs: q [N, D], d [M, D], where queries begin [A + 1], where documents begin [B + 1], and which tokens of queries `[N]`
/// and documents `[M]` count, 0 for those that do not. Outputs: scores [A, B], and the winners [N, B]: rows of d, −1 for none.
#[derive(Clone, Copy, Debug)]
pub struct MaxSim;

fn inputs<'a, T: Real>(io: &Io<'a>) -> MaxSimInputs<'a, T> {
    MaxSimInputs {
        q: io.input(0),
        d: io.input(1),
        cu_queries: io.input(2),
        cu_documents: io.input(3),
        query_counts: io.input(4),
        document_counts: io.input(5),
    }
}

fn operations(sizes: &NodeSizes<'_>) -> f64 {
    let [q, d] = [0, 1].map(|i| sizes.inputs[i].1.elements() as f64);
    2.0 * q * d / sizes.inputs[0].1.width().max(1) as f64
}

impl Op for MaxSim {
    fn name(&self) -> &'static str {
        "max_sim"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [q, d, cu_queries, cu_documents, query_counts, document_counts] = inputs else {
            return Err(format!("{} inputs, 6 needed", inputs.len()));
        };
        let width = q.shape.width().filter(|&w| w > 0);
        let (Some(width), &[n, _], &[m, _]) = (width, q.shape.dims(), d.shape.dims()) else {
            return Err(format!("q and d are {} and {}; [N, D] and [M, D] are needed", q.shape, d.shape));
        };
        check_rows("d", d, m, &[width])?;
        check_rows("the tokens of queries that count", query_counts, n, &[])?;
        check_rows("the tokens of documents that count", document_counts, m, &[])?;
        let count = |name: &str, cu: &Type| {
            let first = cu.shape.dims().first().and_then(|d| d.minus(1));
            first.ok_or_else(|| format!("{name} is {}, one more than there are is needed", cu.shape))
        };
        let (a, b) = (count("cu_queries", cu_queries)?, count("cu_documents", cu_documents)?);
        if d.dtype != q.dtype {
            return Err(format!("element types {} and {} differ", q.dtype, d.dtype));
        }
        Ok(vec![Type::new([a, b], q.dtype), Type::new([n, b], Dtype::I32)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        check_offsets(io.input(2), io.in_sizes(0).axis(0)).map_err(|e| format!("queries: {e}"))?;
        check_offsets(io.input(3), io.in_sizes(1).axis(0)).map_err(|e| format!("documents: {e}"))?;
        real!(io.out_dtype(0), T => max_sim::<T>(io.pool(), &inputs(io), io.output(0), io.output(1)));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(d_scores) = node.grads[0] else { return Ok(vec![None; 6]) };
        let mut inputs = node.inputs.to_vec();
        inputs.extend([node.outputs[1], d_scores]);
        let mut grads: Vec<Option<Value>> = g.push(MaxSimBackward, &inputs)?.into_iter().map(Some).collect();
        grads.resize(6, None);
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(operations(sizes))
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// Inputs: those of [`MaxSim`], the winners, the gradient of the scores. Outputs: gradients of q and d.
#[derive(Clone, Copy, Debug)]
struct MaxSimBackward;

impl Op for MaxSimBackward {
    fn name(&self) -> &'static str {
        "max_sim_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            max_sim_backward::<T>(io.pool(), &inputs(io), io.input(6), io.input(7), io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of late interaction are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(4.0 * sizes.inputs[6].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}
