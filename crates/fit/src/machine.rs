//! What this machine does a second, measured by the products that decoding and prefill spend their time in.
//!
//! For each weight format: bytes a second at one row (decoding reads every weight once a token) and operations a second at
//! many (prefill). The weights measured are as large as the model's, up to what no cache holds. It takes a fraction of a
//! second, so nothing is kept from one command to the next: the rate of memory is not the same from hour to hour on
//! machines that are shared.

use std::sync::Arc;
use std::time::Instant;

use memwall_formats::Dtype;
use memwall_graph::ops::linear::Linear;
use memwall_graph::{Executor, Graph, GraphError, Memory, PlanOptions};
use memwall_kernels::Pool;
use memwall_store::Guard;

/// Values of a row: a multiple of every format's block, as wide as models of this size are.
const WIDTH: usize = 2048;
/// Rows of the many: more are no faster.
const ROWS: usize = 128;
/// Weights of the many: enough rows that threads are busy.
const MANY_WEIGHTS: usize = 256;
/// More than caches hold.
const MOST_BYTES: usize = 96 << 20;
/// How often each figure is taken; the best counts.
const REPEATS: usize = 3;
/// How often the threads are woken for one figure.
const WAKES: usize = 200;

/// The rates of one format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Bytes of weights a second, one row.
    pub bytes: f64,
    /// Operations a second, many rows.
    pub operations: f64,
}

/// What this machine does a second with some number of threads.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Threads that work together.
    pub threads: usize,
    rates: Vec<(Dtype, Rate)>,
    /// Seconds that it takes to wake the threads and wait for them.
    pub(crate) wake: f64,
}

impl Machine {
    /// Measures the products of these formats (and of F32 and F16), with weights of `bytes` in all.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn measure(threads: usize, formats: &[Dtype], bytes: usize) -> Result<Machine, GraphError> {
        let pool = Arc::new(Pool::new(threads));
        // A pattern that is a small normal number in every float type and scale.
        let weights: Arc<Vec<u8>> = Arc::new(vec![0x11; bytes.clamp(MANY_WEIGHTS * WIDTH * 4, MOST_BYTES)]);
        let mut all = vec![Dtype::F32, Dtype::F16];
        all.extend(formats.iter().filter(|f| !matches!(f, Dtype::F32 | Dtype::F16)));
        let mut rates = Vec::new();
        for dtype in all {
            rates.push((dtype, rate(&pool, dtype, &weights)?));
        }
        let begin = Instant::now();
        for _ in 0..WAKES {
            pool.run(threads, |_, _| {});
        }
        let wake = begin.elapsed().as_secs_f64() / WAKES as f64;
        Ok(Machine { threads, rates, wake })
    }

    /// A machine that reads `bytes` and does `operations` a second in every format, and wakes its threads for nothing: to
    /// plan for one that is not here.
    pub fn assumed(threads: usize, bytes: f64, operations: f64) -> Machine {
        Machine { threads, rates: vec![(Dtype::F32, Rate { bytes, operations })], wake: 0.0 }
    }

    /// The rates of a format; of one that was not measured, those of the slowest.
    pub(crate) fn rate(&self, dtype: Dtype) -> Rate {
        let slowest =
            |a: Rate, b: Rate| Rate { bytes: a.bytes.min(b.bytes), operations: a.operations.min(b.operations) };
        let found = self.rates.iter().find(|(d, _)| *d == dtype).map(|(_, rate)| *rate);
        let all = self.rates.iter().map(|(_, rate)| *rate);
        found.or_else(|| all.reduce(slowest)).unwrap_or(Rate { bytes: 1.0, operations: 1.0 })
    }

    /// Bytes a second that are read where nothing else is done.
    pub(crate) fn read(&self) -> f64 {
        self.rates.iter().map(|(_, rate)| rate.bytes).fold(0.0, f64::max)
    }
}

fn rate(pool: &Arc<Pool>, dtype: Dtype, weights: &Arc<Vec<u8>>) -> Result<Rate, GraphError> {
    let row_bytes = dtype.row_bytes(WIDTH).unwrap_or(weights.len());
    let seconds = |n: usize, rows: usize| -> Result<f64, GraphError> {
        let mut g = Graph::new(Dtype::F32);
        let x = g.input("x", [rows, WIDTH], Dtype::F32)?;
        let w = g.weight("w", [n, WIDTH], dtype)?;
        let y = g.push1(Linear { compute: g.compute() }, &[x, w])?;
        g.output("y", y);
        let mut memory = Memory::new();
        memory.share("w", dtype, Guard::new(Arc::new(Bytes(Arc::clone(weights))), 0..n * row_bytes));
        let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::clone(pool))?;
        e.input::<f32>(x).fill(1.0);
        e.run(&mut memory)?;
        let mut best = f64::INFINITY;
        for _ in 0..REPEATS {
            let begin = Instant::now();
            e.run(&mut memory)?;
            best = best.min(begin.elapsed().as_secs_f64());
        }
        Ok(best.max(1e-9))
    };
    let n = weights.len() / row_bytes;
    let bytes = (n * row_bytes) as f64 / seconds(n, 1)?;
    let n = MANY_WEIGHTS.min(n);
    let operations = (2 * n * WIDTH * ROWS) as f64 / seconds(n, ROWS)?;
    Ok(Rate { bytes, operations })
}

struct Bytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
