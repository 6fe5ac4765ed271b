//! Attention over a KV cache for those rows only that look up their past: the other rows' queries are not computed.

use memwall_formats::Dtype;
use memwall_kernels::attention::{Attention as Kernel, CacheRow, attention_cached, attention_cached_scratch};

use super::cached_attention::{CachedAttention, row_bytes, view};
use crate::io::Io;
use crate::op::{Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;

/// Inputs: those of [`CachedAttention`] without slopes, and the rows' scores [N, 1]. Output: o [N, H, V], 0 in rows whose score
/// is 0. The bits of the other rows are those of [`CachedAttention`].
#[derive(Clone, Debug)]
pub struct SelectedAttention {
    kernel: Kernel,
}

impl SelectedAttention {
    /// Attention with those heads, widths and masks.
    pub fn new(kernel: Kernel) -> SelectedAttention {
        SelectedAttention { kernel }
    }

    /// Elements of a row's query, output and log-sum-exps.
    fn row(&self) -> [usize; 3] {
        let k = &self.kernel;
        [k.heads * k.key_width, k.heads * k.value_width, k.heads]
    }
}

/// Scratch bytes of `n` elements, a multiple of 64.
fn bytes(n: usize) -> usize {
    (n * size_of::<f32>()).next_multiple_of(64)
}

impl Op for SelectedAttention {
    fn name(&self) -> &'static str {
        "selected_attention"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let made = CachedAttention::new(self.kernel).infer(&inputs[..4])?;
        let scores = Type::new([inputs[0].shape.dims()[0], 1.into()], Dtype::F32);
        match inputs.get(4) {
            Some(given) if **given == scores && inputs.len() == 5 => Ok(vec![made[0].clone()]),
            given => Err(format!("scores are {given:?}, {scores} is needed")),
        }
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let k = view(io.in_bytes(1), io.in_dtype(1), io.in_sizes(1));
        let v = view(io.in_bytes(2), io.in_dtype(2), io.in_sizes(2));
        let (q, given, scores) = (io.input::<f32>(0), io.input::<i32>(3), io.input::<f32>(4));
        let (slots, n, [query, output, heads]) = (io.in_sizes(1).axis(0), scores.len(), self.row());
        let (places, scratch) = io.scratch().split_at_mut(row_bytes(n));
        let (queries, scratch) = scratch.split_at_mut(bytes(n * query));
        let (outputs, scratch) = scratch.split_at_mut(bytes(n * output));
        let (sums, scratch) = scratch.split_at_mut(bytes(n * heads));
        let places: &mut [CacheRow] = bytemuck::cast_slice_mut(places);
        let [queries, outputs, sums]: [&mut [f32]; 3] = [queries, outputs, sums].map(bytemuck::cast_slice_mut);
        let mut count = 0;
        for ((row, q), _) in given.chunks_exact(2).zip(q.chunks_exact(query)).zip(scores).filter(|(_, s)| **s != 0.0) {
            if row[0] < 0 || row[1] < 0 || row[0] as usize >= slots {
                return Err(format!("row at slot {}, position {} of a cache with {slots} slots", row[0], row[1]));
            }
            places[count] = CacheRow { sequence: row[0] as usize, position: row[1] as usize };
            queries[count * query..][..query].copy_from_slice(q);
            count += 1;
        }
        let o = &mut outputs[..count * output];
        let (queries, places) = (&queries[..count * query], &places[..count]);
        if count > 0 {
            let lse = &mut sums[..count * heads];
            attention_cached(io.pool(), &self.kernel, queries, places, k, v, None, o, lse, scratch);
        }
        let mut made = o.chunks_exact(output);
        for (to, score) in io.output::<f32>(0).chunks_exact_mut(output).zip(scores) {
            match (*score != 0.0).then(|| made.next()).flatten() {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0.0),
            }
        }
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("a cache keeps no graph of what was written to it")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        // The worst case: every row looks up its past.
        let [n, keys] = [sizes.inputs[0].1.axis(0), sizes.inputs[1].1.axis(1)].map(|x| x as f64);
        let k = &self.kernel;
        sizes.streaming(n * keys * k.heads as f64 * 2.0 * (k.key_width + k.value_width) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let n = sizes.inputs[0].1.axis(0);
        let copies: usize = self.row().map(|width| bytes(n * width)).iter().sum();
        row_bytes(n) + copies + attention_cached_scratch(&self.kernel, n, sizes.inputs[1].1.axis(1), threads)
    }
}
