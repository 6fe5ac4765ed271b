//! Attention: forward, backward, and decoding over a cache.

use std::io::Write;

use memwall_formats::{Dtype, format};
use memwall_kernels::Pool;
use memwall_kernels::attention::{
    Attention, CacheRow, CacheView, attention_backward, attention_backward_scratch, attention_cached,
    attention_cached_scratch, attention_forward, attention_scratch,
};

use super::{Bound, Case, ROTATE_BYTES, Report, uniform};

const HEADS: usize = 8;
const WIDTH: usize = 64;
/// Tokens of a sequence in training, and in a cache.
const TOKENS: usize = 1024;
const CACHED: usize = 2048;

pub(super) fn run(pool: &Pool, report: &mut Report<'_, impl Write>) -> anyhow::Result<()> {
    let a = Attention {
        heads: HEADS,
        kv_heads: HEADS,
        key_width: WIDTH,
        value_width: WIDTH,
        causal: true,
        ..Default::default()
    };
    let n = TOKENS * HEADS * WIDTH;
    let (q, k, v, d_o) = (uniform(n, 1), uniform(n, 2), uniform(n, 3), uniform(n, 4));
    let (mut o, mut lse) = (vec![0.0; n], vec![0.0; HEADS * TOKENS]);
    let (mut dq, mut dk, mut dv) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    let cu = [0, TOKENS as i32];
    // Two products forward and five backward, over half of the pairs.
    let product = (TOKENS * (TOKENS + 1) * HEADS * WIDTH) as f64;
    let sizes = format!("causal, T {TOKENS} H {HEADS} K {WIDTH}");
    let mut scratch = vec![0; attention_scratch::<f32>(&a, 1, pool.threads())];
    let case = Case { kernel: "attention", sizes: sizes.clone(), bound: Bound::F32, work: 2.0 * product };
    report.measure(&case, |_| {
        attention_forward(pool, &a, &q, &k, &v, &cu, &cu, None, None, &mut o, &mut lse, &mut scratch);
    })?;
    let mut scratch = vec![0; attention_backward_scratch::<f32>(&a, TOKENS, pool.threads())];
    let case = Case { kernel: "attention_backward", sizes, bound: Bound::F32, work: 5.0 * product };
    report.measure(&case, |_| {
        attention_backward(
            pool,
            &a,
            &q,
            &k,
            &v,
            &cu,
            &cu,
            None,
            None,
            &o,
            &lse,
            &d_o,
            &mut dq,
            &mut dk,
            &mut dv,
            &mut scratch,
        );
    })?;
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Q8_0] {
        decode(pool, report, &a, dtype)?;
    }
    Ok(())
}

/// One new row over a full cache, of another sequence each time.
fn decode(pool: &Pool, report: &mut Report<'_, impl Write>, a: &Attention, dtype: Dtype) -> anyhow::Result<()> {
    let row = HEADS * WIDTH;
    let row_bytes = dtype.row_bytes(row).unwrap_or(0);
    let sequence = CACHED * row_bytes;
    let sequences = (ROTATE_BYTES / 2).div_ceil(sequence);
    let mut encoded = vec![0; sequence];
    format(dtype).encode(row, &uniform(CACHED * row, 5), &mut encoded)?;
    let mut words = vec![0_u64; sequences * sequence / size_of::<u64>()];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)
        .chunks_exact_mut(sequence)
        .for_each(|to| to.copy_from_slice(&encoded));
    let bytes: &[u8] = bytemuck::cast_slice(&words);
    let cache = CacheView { dtype, bytes, seq_stride_bytes: sequence, row_stride_bytes: row_bytes, capacity: CACHED };
    let values = words.clone();
    let values = CacheView { bytes: bytemuck::cast_slice(&values), ..cache };
    let (q, mut o, mut lse) = (uniform(row, 6), vec![0.0; row], vec![0.0; HEADS]);
    let mut scratch = vec![0; attention_cached_scratch(a, 1, CACHED, pool.threads())];
    let sizes = format!("{dtype} cache, {CACHED} tokens, H {HEADS} K {WIDTH}");
    let case = Case { kernel: "cached_attention", sizes, bound: Bound::Bytes, work: 2.0 * sequence as f64 };
    report.measure(&case, |i| {
        let rows = [CacheRow { sequence: i % sequences, position: CACHED - 1 }];
        attention_cached(pool, a, &q, &rows, cache, values, None, &mut o, &mut lse, &mut scratch);
    })
}
