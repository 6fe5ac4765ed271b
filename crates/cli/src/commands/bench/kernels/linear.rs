//! Products with stored weights at the rows of decoding, of a batch and of prefill; dense products.

use std::io::Write;

use memwall_formats::{Dtype, format};
use memwall_kernels::Pool;
use memwall_kernels::gemm::{Compute, Gemm, gemm, gemm_scratch};
use memwall_kernels::linear::{Weights, linear, linear_scratch};

use super::{Bound, Case, ROTATE_BYTES, Report, uniform};

/// Outputs N and inputs K of a matrix.
const N: usize = 4096;
const K: usize = 2048;
/// Rows of x.
const ROWS: [usize; 3] = [1, 32, 512];
/// Rows that are encoded; a matrix repeats them, which changes no time.
const ENCODED: usize = 32;

const FORMATS: [Dtype; 18] = [
    Dtype::F32,
    Dtype::BF16,
    Dtype::F16,
    Dtype::Q8_0,
    Dtype::Q6_K,
    Dtype::FP6,
    Dtype::Q5_K,
    Dtype::Q5_1,
    Dtype::Q5_0,
    Dtype::Q4_K,
    Dtype::Q4_1,
    Dtype::Q4_0,
    Dtype::NVFP4,
    Dtype::MXFP4,
    Dtype::Q2_0,
    Dtype::TQ2_0,
    Dtype::TQ1_0,
    Dtype::Q1_0,
];

pub(super) fn run(pool: &Pool, report: &mut Report<'_, impl Write>) -> anyhow::Result<()> {
    for dtype in FORMATS {
        let row = dtype.row_bytes(K).unwrap_or(0);
        let mut encoded = vec![0; ENCODED * row];
        format(dtype).encode(K, &uniform(ENCODED * K, 3), &mut encoded)?;
        let matrix = encoded.repeat(N / ENCODED);
        // Aligned as a mapped file is, so that formats of whole words can be read in place.
        let mut words = vec![0_u64; ROTATE_BYTES.div_ceil(matrix.len()) * matrix.len() / size_of::<u64>()];
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        all.chunks_exact_mut(matrix.len()).for_each(|to| to.copy_from_slice(&matrix));
        let copies: Vec<&[u8]> = all.chunks_exact(matrix.len()).collect();
        for m in ROWS {
            let (x, mut y) = (uniform(m * K, 4), vec![0.0; m * N]);
            let mut scratch = vec![0; linear_scratch(dtype, m, N, K, pool.threads())];
            let bound = match dtype {
                _ if m == 1 => Bound::Bytes,
                Dtype::F32 | Dtype::F16 => Bound::F32,
                Dtype::BF16 | Dtype::FP6 => Bound::Bf16,
                _ => Bound::Int8,
            };
            let work = if m == 1 { matrix.len() as f64 } else { 2.0 * (m * N * K) as f64 };
            let case = Case { kernel: "linear", sizes: format!("{dtype} M {m} N {N} K {K}"), bound, work };
            report.measure(&case, |i| {
                let w = Weights { dtype, bytes: copies[i % copies.len()], n: N, k: K };
                linear(pool, w, &x, m, &mut y, &mut scratch);
            })?;
        }
    }
    for (compute, bound, name) in [(Compute::F32, Bound::F32, "f32"), (Compute::Bf16, Bound::Bf16, "bf16")] {
        let g = Gemm { m: 512, n: 2048, k: 2048, a_trans: false, b_trans: true, accumulate: false, compute };
        let (a, b, mut c) = (uniform(g.m * g.k, 1), uniform(g.n * g.k, 2), vec![0.0; g.m * g.n]);
        let mut scratch = vec![0; gemm_scratch(&g, size_of::<f32>(), pool.threads())];
        let (sizes, work) = (format!("{name} M {} N {} K {}", g.m, g.n, g.k), 2.0 * (g.m * g.n * g.k) as f64);
        let case = Case { kernel: "gemm", sizes, bound, work };
        report.measure(&case, |_| gemm::<f32>(pool, g, &a, &b, &mut c, &mut scratch))?;
    }
    Ok(())
}
