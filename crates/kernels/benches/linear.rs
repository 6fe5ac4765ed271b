//! Products with stored weights, beside what this machine can do: one row as a share of the read
//! bandwidth, many rows as a share of the int8, bf16 or f32 peak. The weights of one row rotate over
//! more memory than the caches hold. `cargo bench -p memwall-kernels --bench linear -- q4_k`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memwall_formats::{Dtype, format};
use memwall_kernels::Pool;
use memwall_kernels::linear::{Weights, linear, linear_scratch};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Weights that a benchmark goes around: more than any cache.
const ROTATE_BYTES: usize = 320 << 20;

/// Bytes read at a time, about those of a matrix.
const READ_BYTES: usize = 16 << 20;

const SHAPES: [(usize, usize); 2] = [(8192, 2048), (2048, 8192)];

/// Multiplications and additions of one product.
fn operations(m: usize, n: usize, k: usize) -> f64 {
    2.0 * (m * n * k) as f64
}

/// What this machine does at most, on all threads of a pool.
struct Limits {
    read_gbps: f64,
    int8_gops: f64,
    bf16_gops: f64,
    f32_gops: f64,
}

impl Limits {
    fn measure(pool: &Pool) -> Limits {
        let data = vec![1u64; ROTATE_BYTES / 8];
        let parts = pool.threads() * 8;
        let mut pieces = data.chunks_exact(READ_BYTES / 8).cycle();
        let read = best(60, || {
            let piece = pieces.next().expect("not empty");
            pool.run(parts, |part, _| {
                let len = piece.len() / parts;
                black_box(sum(&piece[part * len..(part + 1) * len]));
            });
        });
        let peak = |body: fn(usize) -> f64| {
            let seconds = best(60, || {
                pool.run(pool.threads(), |_, _| {
                    black_box(body(ROUNDS));
                })
            });
            (ROUNDS * pool.threads()) as f64 * body(0) / seconds / 1e9
        };
        Limits {
            read_gbps: READ_BYTES as f64 / read / 1e9,
            int8_gops: peak(registers::int8),
            bf16_gops: peak(registers::bf16),
            f32_gops: peak(registers::f32),
        }
    }

    /// The limit of products with weights of a type.
    fn peak_gops(&self, dtype: Dtype) -> f64 {
        match dtype {
            Dtype::F32 | Dtype::F16 => self.f32_gops,
            Dtype::BF16 => self.bf16_gops,
            _ => self.int8_gops,
        }
    }
}

/// Rounds of a peak: about 0.1 ms.
const ROUNDS: usize = 1 << 15;

fn best(times: usize, mut f: impl FnMut()) -> f64 {
    (0..times)
        .map(|_| {
            let begin = Instant::now();
            f();
            begin.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

fn sum(data: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512.
        return unsafe { registers::sum(data) };
    }
    data.iter().fold(0, |a, &b| a.wrapping_add(b))
}

/// Loops on registers alone: rounds of independent operations. Asked for no rounds they give the operations of one.
#[cfg(target_arch = "x86_64")]
mod registers {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const CHAINS: usize = 16;

    #[target_feature(enable = "avx512f")]
    pub fn sum(data: &[u64]) -> u64 {
        data.iter().fold(0, |a, &b| a.wrapping_add(b))
    }

    macro_rules! peak {
        ($name:ident, $body:ident, $features:literal, $per:literal, $zero:expr, $x:expr, $step:expr, $end:expr) => {
            pub fn $name(rounds: usize) -> f64 {
                if rounds == 0 || !super::has_avx512() {
                    return (CHAINS * $per) as f64;
                }
                // SAFETY: the processor has the instructions.
                unsafe { $body(rounds) }
            }
            #[target_feature(enable = $features)]
            fn $body(rounds: usize) -> f64 {
                let x = black_box($x);
                let mut sums = [$zero; CHAINS];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $step(*sum, x);
                    }
                }
                sums.into_iter().map($end).sum()
            }
        };
    }

    peak!(
        int8,
        int8_body,
        "avx512f,avx512vnni",
        128,
        _mm512_setzero_si512(),
        _mm512_set1_epi8(1),
        |a, x| _mm512_dpbusd_epi32(a, x, x),
        |a| f64::from(_mm512_reduce_add_epi32(a))
    );
    peak!(
        f32,
        f32_body,
        "avx512f",
        32,
        _mm512_setzero_ps(),
        _mm512_set1_ps(0.5),
        |a, x| _mm512_fmadd_ps(x, x, a),
        |a| f64::from(_mm512_reduce_add_ps(a))
    );
    peak!(
        bf16,
        bf16_body,
        "avx512f,avx512bf16",
        64,
        _mm512_setzero_ps(),
        // SAFETY: both are 64 bytes without invalid values.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(0x3f00_3f00)) },
        |a, x| _mm512_dpbf16_ps(a, x, x),
        |a| f64::from(_mm512_reduce_add_ps(a))
    );
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    memwall_kernels::Isa::detect() == memwall_kernels::Isa::Avx512
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    pub fn int8(_: usize) -> f64 {
        f64::NAN
    }
    pub fn bf16(_: usize) -> f64 {
        f64::NAN
    }
    pub fn f32(_: usize) -> f64 {
        f64::NAN
    }
}

/// Copies of one matrix in as much memory as asked for.
fn matrices(dtype: Dtype, n: usize, k: usize, bytes: usize) -> Vec<Vec<u8>> {
    let row = dtype.row_bytes(k).expect("whole blocks");
    let values: Vec<f32> = (0..64 * k).map(|i| ((i * 7919 % 4093) as f32 / 2046.5 - 1.0) * 0.05).collect();
    let mut rows = vec![0; 64 * row];
    if format(dtype).encode(k, &values, &mut rows).is_err() {
        // A type that is only read: any codes will do, with scales of 1/64.
        rows.fill(0x24);
    }
    let matrix: Vec<u8> = rows.iter().copied().cycle().take(n * row).collect();
    vec![matrix; bytes.div_ceil(n * row)]
}

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut table = Vec::new();
    for threads in if threads > 1 { vec![1, threads] } else { vec![1] } {
        let pool = Pool::new(threads);
        for dtype in Dtype::ALL.into_iter().filter(|d| !matches!(d, Dtype::F64 | Dtype::I32)) {
            for m in [1, 32, 512] {
                let mut group = c.benchmark_group(format!("{}/m={m}", dtype.name().to_lowercase()));
                group
                    .sample_size(10)
                    .warm_up_time(Duration::from_millis(100))
                    .measurement_time(Duration::from_millis(600));
                for (n, k) in SHAPES {
                    let bytes = n * dtype.row_bytes(k).expect("whole blocks");
                    group.throughput(if m == 1 {
                        Throughput::Bytes(bytes as u64)
                    } else {
                        Throughput::Elements(operations(m, n, k) as u64)
                    });
                    let mut fastest = f64::INFINITY;
                    group.bench_function(BenchmarkId::new(format!("{threads} threads"), format!("{n}x{k}")), |b| {
                        let stored = matrices(dtype, n, k, ROTATE_BYTES);
                        let x: Vec<f32> = (0..m * k).map(|i| ((i * 31 % 257) as f32 - 128.0) / 64.0).collect();
                        let mut y = vec![0.0; m * n];
                        let mut scratch = vec![0; linear_scratch(dtype, m, n, k, threads)];
                        let mut next = 0;
                        b.iter_custom(|times| {
                            let mut total = Duration::ZERO;
                            for _ in 0..times {
                                let w = Weights { dtype, bytes: &stored[next % stored.len()], n, k };
                                next += 1;
                                let begin = Instant::now();
                                linear(&pool, w, &x, m, &mut y, &mut scratch);
                                let time = begin.elapsed();
                                fastest = fastest.min(time.as_secs_f64());
                                total += time;
                            }
                            total
                        });
                    });
                    if fastest.is_finite() {
                        table.push((threads, dtype, m, n, k, bytes, fastest));
                    }
                }
            }
        }
    }
    report(&table);
}

/// The fastest call of each benchmark beside the limits of the machine, measured last.
fn report(table: &[(usize, Dtype, usize, usize, usize, usize, f64)]) {
    let mut limits: Option<(usize, Limits)> = None;
    for &(threads, dtype, m, n, k, bytes, seconds) in table {
        if limits.as_ref().is_none_or(|(of, _)| *of != threads) {
            let l = Limits::measure(&Pool::new(threads));
            println!(
                "{threads} threads: read {:.1} GB/s; int8 {:.0}, bf16 {:.0}, f32 {:.0} Gop/s",
                l.read_gbps, l.int8_gops, l.bf16_gops, l.f32_gops
            );
            limits = Some((threads, l));
        }
        let Some((_, limits)) = &limits else { continue };
        let (figure, unit, limit) = if m == 1 {
            (bytes as f64 / seconds / 1e9, "GB/s", limits.read_gbps)
        } else {
            (operations(m, n, k) / seconds / 1e9, "Gop/s", limits.peak_gops(dtype))
        };
        println!(
            "{threads} threads {:7} m={m:<4}{n}x{k}: {figure:7.1} {unit:5} {:3.0} % of the limit",
            dtype.name(),
            100.0 * figure / limit
        );
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
