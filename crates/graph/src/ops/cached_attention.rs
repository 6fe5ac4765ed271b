//! Attention of a step's rows over a KV cache, of several sequences at once.

use memwall_formats::Dtype;
use memwall_kernels::attention::{
    Attention as Kernel, CacheRow, CacheView, attention_cached, attention_cached_scratch,
};

use crate::io::Io;
use crate::op::{Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Sizes, Type};

/// Inputs: q [N, H, K], keys and values [slots, capacity, G·width] in any format a cache has, rows
/// [N, 2] (which cache slot and which position each row is), and slopes `[H]` if there is ALiBi. Outputs: o [N, H, V], log-sum-exp [H, N].
#[derive(Clone, Debug)]
pub struct CachedAttention {
    kernel: Kernel,
}

impl CachedAttention {
    /// Attention with those heads, widths and masks.
    pub fn new(kernel: Kernel) -> CachedAttention {
        CachedAttention { kernel }
    }
}

pub(super) fn view<'a>(bytes: &'a [u8], dtype: Dtype, sizes: Sizes) -> CacheView<'a> {
    let row = dtype.row_bytes(sizes.axis(2)).unwrap_or(0);
    CacheView { dtype, bytes, seq_stride_bytes: sizes.axis(1) * row, row_stride_bytes: row, capacity: sizes.axis(1) }
}

/// Scratch bytes for the rows, a multiple of 64.
pub(super) fn row_bytes(rows: usize) -> usize {
    (rows * size_of::<CacheRow>()).next_multiple_of(64)
}

impl Op for CachedAttention {
    fn name(&self) -> &'static str {
        "cached_attention"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let k = &self.kernel;
        let n = inputs[0].shape.dims().first().copied().unwrap_or(0.into());
        if inputs[0] != &Type::new([n, k.heads.into(), k.key_width.into()], Dtype::F32) {
            return Err(format!("q is {}, F32[N, {}, {}] is needed", inputs[0], k.heads, k.key_width));
        }
        for (cache, width, name) in [(inputs[1], k.key_width, "keys"), (inputs[2], k.value_width, "values")] {
            if cache.shape.rank() != 3 || cache.shape.width() != Some(k.kv_heads * width) {
                return Err(format!(
                    "the cache of {name} is {}, [slots, capacity, {}] is needed",
                    cache.shape,
                    k.kv_heads * width
                ));
            }
            if !CacheView::DTYPES.contains(&cache.dtype) {
                return Err(format!("a cache of {} cannot be read; use F32, F16, BF16 or Q8_0", cache.dtype));
            }
        }
        k.check_cached().map_err(|e| e.to_string())?;
        let slopes = Type::new([k.heads], Dtype::F32);
        if inputs.len() != 4 + usize::from(k.alibi) || inputs.get(4).is_some_and(|given| **given != slopes) {
            return Err(format!("{} inputs; ALiBi needs one more than the others, {slopes}", inputs.len()));
        }
        let o = Type::new([n, k.heads.into(), k.value_width.into()], Dtype::F32);
        Ok(vec![o, Type::new([k.heads.into(), n], Dtype::F32)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let k = view(io.in_bytes(1), io.in_dtype(1), io.in_sizes(1));
        let v = view(io.in_bytes(2), io.in_dtype(2), io.in_sizes(2));
        let given = io.input::<i32>(3).chunks_exact(2);
        let slots = io.in_sizes(1).axis(0);
        let (head, scratch) = io.scratch().split_at_mut(row_bytes(given.len()));
        let rows: &mut [CacheRow] = &mut bytemuck::cast_slice_mut(head)[..given.len()];
        for (to, row) in rows.iter_mut().zip(given) {
            if row[0] < 0 || row[1] < 0 || row[0] as usize >= slots {
                return Err(format!("row at slot {}, position {} of a cache with {slots} slots", row[0], row[1]));
            }
            *to = CacheRow { sequence: row[0] as usize, position: row[1] as usize };
        }
        let slopes = self.kernel.alibi.then(|| io.input(4));
        attention_cached(io.pool(), &self.kernel, io.input(0), rows, k, v, slopes, io.output(0), io.output(1), scratch);
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("a cache keeps no graph of what was written to it")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        // Of the cache a step reads what is filled; the worst case is all of it, once for each sequence.
        let n = sizes.inputs[0].1.axis(0) as f64;
        let keys = sizes.inputs[1].1.axis(1) as f64;
        let k = &self.kernel;
        sizes.streaming(n * keys * k.heads as f64 * 2.0 * (k.key_width + k.value_width) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let n = sizes.inputs[0].1.axis(0);
        row_bytes(n) + attention_cached_scratch(&self.kernel, n, sizes.inputs[1].1.axis(1), threads)
    }
}
