//! Attention: tiled against materialized, causal against not, and decoding over caches.
//!
//! Pairs are interleaved and minima and medians of ratios printed, because that survives a noisy
//! machine better than separate series: `cargo bench -p memwall-kernels --bench attention`.

use memwall_formats::Dtype;
use memwall_kernels::attention::*;
use memwall_kernels::gemm::Compute;
use memwall_kernels::{Pool, isa};
use std::time::Instant;

fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn milliseconds(f: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64() * 1e3
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Times `a` and `b` in turn; prints minima and the median of a/b. Returns the minimum of b.
fn pair(what: &str, runs: usize, flops: f64, a: (&str, &mut dyn FnMut()), b: (&str, &mut dyn FnMut())) {
    let (mut x, mut y) = (vec![], vec![]);
    for _ in 0..runs {
        x.push(milliseconds(a.1));
        y.push(milliseconds(b.1));
    }
    let ratio = median(x.iter().zip(&y).map(|(x, y)| x / y).collect());
    let least = |x: &[f64]| x.iter().copied().fold(f64::INFINITY, f64::min);
    let (x, y) = (least(&x), least(&y));
    println!(
        "{what}: {} {x:.2} ms, {} {y:.2} ms ({:.0} Gflop/s): least {:.2}×, median ratio {ratio:.2}×",
        a.0,
        b.0,
        flops / y / 1e6,
        x / y,
    );
}

struct Training {
    a: Attention,
    n: usize,
    pool: Pool,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_o: Vec<f32>,
    o: Vec<f32>,
    lse: Vec<f32>,
    gradients: [Vec<f32>; 3],
    cu: [i32; 2],
    scratch: Vec<u8>,
}

impl Training {
    fn new(a: Attention, n: usize, threads: usize) -> Training {
        let len = n * a.heads * a.key_width;
        let bytes = attention_scratch::<f32>(&a, 1, threads).max(attention_backward_scratch::<f32>(&a, n, threads));
        Training {
            a,
            n,
            pool: Pool::new(threads),
            q: numbers(1, len),
            k: numbers(2, n * a.kv_heads * a.key_width),
            v: numbers(3, n * a.kv_heads * a.value_width),
            d_o: numbers(4, len),
            o: vec![0.0; len],
            lse: vec![0.0; n * a.heads],
            gradients: [0; 3].map(|_| vec![0.0; len]),
            cu: [0, n as i32],
            scratch: vec![0; bytes],
        }
    }

    fn forward(&mut self) {
        let (a, cu) = (&self.a, &self.cu);
        attention_forward(
            &self.pool,
            a,
            &self.q,
            &self.k,
            &self.v,
            cu,
            cu,
            None,
            None,
            &mut self.o,
            &mut self.lse,
            &mut self.scratch,
        );
    }

    fn backward(&mut self) {
        let (a, cu) = (&self.a, &self.cu);
        let [dq, dk, dv] = &mut self.gradients;
        let kv = self.k.len();
        attention_backward(
            &self.pool,
            a,
            &self.q,
            &self.k,
            &self.v,
            cu,
            cu,
            None,
            None,
            &self.o,
            &self.lse,
            &self.d_o,
            dq,
            &mut dk[..kv],
            &mut dv[..kv],
            &mut self.scratch,
        );
    }

    /// Multiply-adds count twice; `products` of N × N × width a head.
    fn flops(&self, products: f64) -> f64 {
        let pairs = (self.n * self.n) as f64 * if self.a.causal { 0.5 } else { 1.0 };
        products * 2.0 * pairs * (self.a.heads * self.a.key_width) as f64
    }
}

fn training(threads: usize) {
    let a = Attention { heads: 2, kv_heads: 2, ..Attention::default() };
    for n in [512, 1024, 2048, 4096, 8192] {
        let mut ours = Training::new(a, n, threads);
        let mut theirs = Training::new(a, n, threads);
        let mut p = vec![0.5f32; a.heads * n * n];
        let (mut ds, mut dots) = (vec![0.5f32; n * n], vec![0.0; n * a.heads]);
        let mut scratch = vec![0; materialized::scratch::<f32>(&a, n, n, threads)];
        let runs = (40_000_000_000 / (n * n * 256 * 4)).clamp(3, 40);
        let (flops, label) = (ours.flops(2.0), format!("forward, N = {n}, {threads} threads"));
        pair(
            &label,
            runs,
            flops,
            ("materialized", &mut || {
                let t = &mut theirs;
                materialized::forward(&t.pool, &a, (n, n), &t.q, &t.k, &t.v, &mut p, &mut t.o, &mut scratch);
            }),
            ("tiled", &mut || ours.forward()),
        );
        let error = ours.o.iter().zip(&theirs.o).fold(0.0f32, |e, (a, b)| e.max((a - b).abs()));
        assert!(error < 1e-4, "the forms differ by {error}");
        let (flops, label) = (ours.flops(5.0), format!("backward, N = {n}, {threads} threads"));
        pair(
            &label,
            runs,
            flops,
            ("materialized", &mut || {
                let t = &mut theirs;
                let [dq, dk, dv] = &mut t.gradients;
                materialized::backward(
                    &t.pool,
                    &a,
                    (n, n),
                    [&t.q, &t.k, &t.v, &p, &t.o, &t.d_o],
                    [dq, dk, dv, &mut ds, &mut dots],
                    &mut scratch,
                );
            }),
            ("tiled", &mut || ours.backward()),
        );
        for (x, y) in ours.gradients.iter().zip(&theirs.gradients) {
            let error = x.iter().zip(y).fold(0.0f32, |e, (a, b)| e.max((a - b).abs()));
            assert!(error < 1e-3, "the forms differ by {error}");
        }
    }
    let n = 4096;
    for width in [64, 128] {
        let a = Attention { key_width: width, value_width: width, ..a };
        let mut plain = Training::new(a, n, threads);
        let mut causal = Training::new(Attention { causal: true, ..a }, n, threads);
        let flops = causal.flops(2.0);
        let label = format!("forward, N = {n}, width {width}, {threads} threads");
        pair(&label, 5, flops, ("plain", &mut || plain.forward()), ("causal", &mut || causal.forward()));
        let label = format!("backward, N = {n}, width {width}, {threads} threads");
        let flops = causal.flops(5.0);
        pair(&label, 5, flops, ("plain", &mut || plain.backward()), ("causal", &mut || causal.backward()));
        let mut half = Training::new(Attention { causal: true, compute: Compute::Bf16, ..a }, n, threads);
        let label = format!("forward, N = {n}, width {width}, causal, {threads} threads");
        let flops = causal.flops(2.0);
        pair(&label, 5, flops, ("f32", &mut || causal.forward()), ("bf16", &mut || half.forward()));
        let label = format!("backward, N = {n}, width {width}, causal, {threads} threads");
        let flops = causal.flops(5.0);
        pair(&label, 5, flops, ("f32", &mut || causal.backward()), ("bf16", &mut || half.backward()));
    }
}

/// The sum of all 64-bit words, by each thread of the pool: what reading costs.
fn read(pool: &Pool, bytes: &[u8]) -> u64 {
    let words: &[u64] = bytemuck::cast_slice(bytes);
    let total = std::sync::atomic::AtomicU64::new(0);
    let part = 1 << 17;
    pool.run(words.len().div_ceil(part), |task, _| {
        let words = &words[task * part..((task + 1) * part).min(words.len())];
        let quarter = words.len() / 4;
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| &words[i * quarter..(i + 1) * quarter]);
        let mut sums = [0u64; 32];
        for i in (0..quarter / 8 * 8).step_by(8) {
            for j in 0..8 {
                sums[j] ^= a[i + j];
                sums[8 + j] ^= b[i + j];
                sums[16 + j] ^= c[i + j];
                sums[24 + j] ^= d[i + j];
            }
        }
        total.fetch_add(sums.iter().fold(0, |sum, x| sum ^ x), std::sync::atomic::Ordering::Relaxed);
    });
    total.into_inner()
}

/// Values of 0.5 to 1 of either sign, as they lie in a cache.
fn cache_bytes(dtype: Dtype, len: usize) -> Vec<u64> {
    let mut words: Vec<u64> = vec![0; len.div_ceil(8)];
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for word in &mut words {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = match dtype {
            Dtype::F32 => x & 0x807f_ffff_807f_ffff | 0x3f00_0000_3f00_0000,
            Dtype::F16 => x & 0x83ff_83ff_83ff_83ff | 0x3800_3800_3800_3800,
            Dtype::BF16 => x & 0x807f_807f_807f_807f | 0x3f00_3f00_3f00_3f00,
            _ => x,
        };
    }
    if dtype == Dtype::Q8_0 {
        let scale = 0x1fffu16.to_le_bytes();
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)
            .chunks_exact_mut(34)
            .for_each(|b| b[..2].copy_from_slice(&scale));
    }
    words
}

/// One query row over some keys, of as many layers as exceed every cache level by far.
fn decoding(threads: usize, (heads, kv_heads): (usize, usize), context: usize) {
    let a = Attention { heads, kv_heads, causal: true, ..Attention::default() };
    let pool = Pool::new(threads);
    for dtype in CacheView::DTYPES {
        let row = dtype.row_bytes(a.kv_heads * a.key_width).expect("whole blocks");
        let layers = (256 << 20) / (2 * context * row);
        let cache = cache_bytes(dtype, 2 * layers * context * row);
        let bytes: &[u8] = bytemuck::cast_slice(&cache);
        let q = numbers(1, a.heads * a.key_width);
        let (mut o, mut lse) = (vec![0.0; q.len()], vec![0.0; a.heads]);
        let mut scratch = vec![0; attention_cached_scratch(&a, 1, context, threads)];
        let rows = [CacheRow { sequence: 0, position: context - 1 }];
        let mut sum = 0u64;
        let view = |at: usize| CacheView {
            dtype,
            bytes: &bytes[at * context * row..][..context * row],
            seq_stride_bytes: context * row,
            row_stride_bytes: row,
            capacity: context,
        };
        let mut attend = || {
            for layer in 0..layers {
                let (k, v) = (view(2 * layer), view(2 * layer + 1));
                attention_cached(&pool, &a, &q, &rows, k, v, None, &mut o, &mut lse, &mut scratch);
            }
        };
        let mut reading = || sum ^= read(&pool, bytes);
        let (mut x, mut y) = (vec![], vec![]);
        for _ in 0..9 {
            x.push(milliseconds(&mut reading));
            y.push(milliseconds(&mut attend));
        }
        let ratio = median(x.iter().zip(&y).map(|(x, y)| x / y).collect());
        let rate = |times: Vec<f64>| (2 * layers * context * row) as f64 / median(times) / 1e6;
        println!(
            "decode, {heads}/{kv_heads} heads, {context} keys of {dtype}, {threads} threads: reading {:.1} GB/s, attention {:.1} GB/s, \
             median ratio {ratio:.2} ({} µs a layer)",
            rate(x),
            rate(y.clone()),
            (median(y) * 1e3 / layers as f64).round(),
        );
        assert!(sum != 1 && o.iter().all(|x| x.is_finite()));
    }
}

fn main() {
    println!("instruction set {}", isa().name());
    let which: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| which.is_empty() || which.iter().any(|w| name.contains(w.as_str()));
    for threads in [1, 2] {
        if wanted("decode") {
            for context in [2048, 16384] {
                decoding(threads, (32, 4), context);
            }
            decoding(threads, (8, 8), 2048);
        }
        if wanted("training") {
            training(threads);
        }
    }
}
