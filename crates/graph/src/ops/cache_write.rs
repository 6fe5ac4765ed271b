//! Writes a step's rows into a cache, each at its sequence's slot and position.

use memwall_formats::{Dtype, format};

use crate::io::Io;
use crate::op::{Alias, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;

/// Inputs: the cache [slots, capacity, W], x [N, W], rows [N, 2] (slot, position). Output: the
/// cache, in which row i stands at `[slot, position % capacity]`, encoded in the cache's format.
#[derive(Clone, Debug)]
pub struct CacheWrite;

impl Op for CacheWrite {
    fn name(&self) -> &'static str {
        "cache_write"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (cache, x) = (inputs[0], inputs[1]);
        let width = x.shape.elements().zip(x.shape.dims().first()).and_then(|(all, n)| {
            let w: Option<usize> = x.shape.dims()[1..].iter().map(|d| d.known()).product();
            w.filter(|&w| n.times(w) == all)
        });
        if cache.shape.rank() != 3 || width.is_none() || cache.shape.width() != width || x.dtype != Dtype::F32 {
            return Err(format!("{x} does not fit a cache of {cache}: the last axes must be equal"));
        }
        Ok(vec![cache.clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let sizes = io.out_sizes(0);
        let (slots, capacity, width) = (sizes.axis(0), sizes.axis(1), sizes.axis(2));
        let encoder = format(io.out_dtype(0));
        let row_bytes = io.out_dtype(0).row_bytes(width).expect("checked when the cache was made");
        let (x, rows, cache) = (io.input::<f32>(1), io.input::<i32>(2), io.out_bytes(0));
        for (x, row) in x.chunks_exact(width).zip(rows.chunks_exact(2)) {
            let (slot, position) = (row[0] as usize, row[1] as usize);
            if row[0] < 0 || row[1] < 0 || slot >= slots {
                return Err(format!("row at slot {}, position {} of a cache with {slots} slots", row[0], row[1]));
            }
            let at = (slot * capacity + position % capacity) * row_bytes;
            encoder.encode(width, x, &mut cache[at..at + row_bytes]).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it writes a state in place")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let x = sizes.inputs[1].1.elements() as f64;
        let per = sizes.inputs[0].0.dtype;
        let written = x * per.block_bytes() as f64 / per.block_len() as f64;
        Cost { operations: 0.0, bytes_read: 4.0 * x, bytes_written: written }
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn alias(&self, _: usize) -> Option<Alias> {
        Some(Alias::Write { input: 0 })
    }
}
