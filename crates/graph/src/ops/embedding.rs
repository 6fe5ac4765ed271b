//! Rows of an embedding table, in any storage format, by token id.

use memwall_formats::Dtype;
use memwall_kernels::embedding::{embedding, embedding_backward};
use memwall_kernels::linear::{Weights, embed};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Shape, Type};
use crate::{GraphError, real};

/// `y[t] = table[ids[t]]`. Inputs: ids `[N]` I32, table `[V, D]`. Output: `[N, D]` of the graph's element type.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// F32 or F64.
    pub elem: Dtype,
}

fn check_ids(ids: &[i32], vocabulary: usize) -> Result<(), String> {
    match ids.iter().position(|&id| id < 0 || id as usize >= vocabulary) {
        Some(t) => Err(format!("token id {} at row {t} is not in the vocabulary of {vocabulary}", ids[t])),
        None => Ok(()),
    }
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let ([n], [_, d]) = (inputs[0].shape.dims(), inputs[1].shape.dims()) else {
            return Err(format!("ids {} and table {}; [N] and [V, D] are needed", inputs[0].shape, inputs[1].shape));
        };
        if (self.elem == Dtype::F64) != (inputs[1].dtype == Dtype::F64) {
            return Err(format!("a table of {} does not give activations of {}", inputs[1].dtype, self.elem));
        }
        Ok(vec![Type::new([*n, *d], self.elem)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (ids, table) = (io.input::<i32>(0), io.in_sizes(1));
        check_ids(ids, table.axis(0))?;
        match io.in_dtype(1) {
            Dtype::F32 | Dtype::F64 => real!(io.out_dtype(0), T => {
                embedding::<T>(io.pool(), table.axis(1), io.input(1), ids, io.output(0));
            }),
            dtype => {
                let w = Weights { dtype, bytes: io.in_bytes(1), n: table.axis(0), k: table.axis(1) };
                embed(io.pool(), w, ids, io.output(0));
            }
        }
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None, None]) };
        let table = g.ty(node.inputs[1]);
        if table.dtype != self.elem {
            return Err(g.no_gradient("embedding", format!("its table is stored as {}", table.dtype)));
        }
        let shape = table.shape.clone();
        Ok(vec![None, Some(g.push1(EmbeddingBackward { shape }, &[node.inputs[0], dy])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let rows = sizes.outputs[0].1.elements() as f64;
        let table = sizes.inputs[1].0.dtype;
        let read = rows * table.block_bytes() as f64 / table.block_len() as f64;
        Cost { operations: 0.0, bytes_read: read, bytes_written: rows * self.elem.block_bytes() as f64 }
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// Inputs: ids, gradient of the rows. Output: gradient of the table.
#[derive(Clone, Debug)]
struct EmbeddingBackward {
    shape: Shape,
}

impl Op for EmbeddingBackward {
    fn name(&self) -> &'static str {
        "embedding_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![Type { shape: self.shape.clone(), dtype: inputs[1].dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (ids, sizes) = (io.input::<i32>(0), io.out_sizes(0));
        check_ids(ids, sizes.axis(0))?;
        real!(io.out_dtype(0), T => {
            let table = io.output::<T>(0);
            table.fill(bytemuck::Zeroable::zeroed());
            embedding_backward::<T>(io.pool(), sizes.axis(1), ids, io.input(1), table);
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of an embedding are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[1].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}
