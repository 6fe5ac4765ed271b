//! Keys with a few loud channel pairs, as published: how far logits of quantized keys are off, in the order of channels as it
//! is and sorted.

use memwall_formats::Format;
use memwall_formats::scaled;
use memwall_quantize::KeyOrder;
use memwall_tasks::{Philox, distinct};

use crate::{Error, random::normal};

pub(super) const WIDTH: usize = 128;
const HEADS: usize = 8;
const QUERIES: usize = 64;
/// Bits of a mantissa.
const BITS: u32 = 4;

/// Block lengths of the published table.
pub(super) const BLOCKS: [usize; 4] = [128, 64, 32, 16];
/// Loud channels, how loud, and the published error of logits without and with sorting at each block length.
const TABLE: [(usize, f64, [[f64; 2]; 4]); 4] = [
    (4, 10.0, [[0.701, 0.701], [0.588, 0.466], [0.461, 0.316], [0.332, 0.213]]),
    (8, 10.0, [[0.798, 0.798], [0.701, 0.530], [0.563, 0.347], [0.439, 0.214]]),
    (16, 10.0, [[0.831, 0.831], [0.760, 0.528], [0.656, 0.308], [0.526, 0.116]]),
    (8, 4.0, [[0.406, 0.406], [0.340, 0.267], [0.269, 0.188], [0.215, 0.135]]),
];

/// Errors of one seed: of each row of the table and block length, without and with sorting.
pub(super) struct Simulation {
    errors: [[[f64; 2]; 4]; TABLE.len()],
}

impl Simulation {
    /// Of `tokens` keys a head.
    pub(super) fn draw(seed: u64, tokens: usize) -> Result<Simulation, Error> {
        let mut errors = [[[f64::NAN; 2]; 4]; TABLE.len()];
        for (row, (count, times, _)) in errors.iter_mut().zip(TABLE) {
            let mut sums = [[[0.0; 2]; 2]; 4];
            for head in 0..HEADS {
                let mut rng = Philox::new(seed, 70 + head as u64);
                let mut gains: Vec<f64> = (0..WIDTH).map(|_| (0.15 * normal(&mut rng)).exp()).collect();
                for pair in distinct(&mut rng, WIDTH / 2, count / 2) {
                    gains[pair] *= times;
                    gains[pair + WIDTH / 2] *= times;
                }
                let mut draw = |n: usize, gain: &dyn Fn(f64) -> f64| -> Vec<f32> {
                    (0..n * WIDTH).map(|i| (normal(&mut rng) * gain(gains[i % WIDTH])) as f32).collect()
                };
                let (keys, queries) = (draw(tokens, &|c| c), draw(QUERIES, &|c| 1.0 / c));
                let sizes: Vec<f32> = gains.iter().map(|c| *c as f32).collect();
                let order = KeyOrder::by_size(1, &sizes).map_err(Error::experiment)?;
                for (sums, block) in sums.iter_mut().zip(BLOCKS) {
                    for (sorted, sum) in sums.iter_mut().enumerate() {
                        let (noise, signal) = logit_error(block, (sorted == 1).then_some(&order), &keys, &queries)?;
                        *sum = [sum[0] + noise, sum[1] + signal];
                    }
                }
            }
            *row = sums.map(|of_block| of_block.map(|[noise, signal]| (noise / signal).sqrt()));
        }
        Ok(Simulation { errors })
    }

    /// Relative distances from the published table.
    pub(super) fn distances(&self) -> Vec<f64> {
        let rows = self.errors.iter().zip(&TABLE);
        let cells = rows.flat_map(|(got, (.., want))| got.iter().flatten().zip(want.iter().flatten()));
        cells.map(|(got, want)| (got / want - 1.0).abs()).collect()
    }

    /// The largest change by sorting where a block is a whole head.
    pub(super) fn change_of_whole_heads(&self) -> f64 {
        self.errors.iter().map(|row| (row[0][1] - row[0][0]).abs()).fold(0.0, f64::max)
    }

    /// The error with sorting over that without, of 8 loud channels at each block length.
    pub(super) fn ratios(&self) -> [f64; 4] {
        self.errors[1].map(|[plain, sorted]| sorted / plain)
    }
}

/// Σ (error of a logit)² and Σ logit², keys stored in blocks of `block`, in an order or as they are.
fn logit_error(block: usize, order: Option<&KeyOrder>, keys: &[f32], queries: &[f32]) -> Result<(f64, f64), Error> {
    let format = scaled::bfp(BITS, block).map_err(Error::experiment)?;
    let stored = stored(&format, order, WIDTH, keys)?;
    let (mut noise, mut signal) = (0.0, 0.0);
    for (key, stored) in keys.chunks(WIDTH).zip(stored.chunks(WIDTH)) {
        for query in queries.chunks(WIDTH) {
            let dot = |k: &[f32]| query.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
            let (exact, got) = (dot(key), dot(stored));
            noise += (got - exact).powi(2);
            signal += exact * exact;
        }
    }
    Ok((noise, signal))
}

/// Keys [N, width] as they come back from a format in which they lie in an order.
pub(super) fn stored(
    format: &dyn Format,
    order: Option<&KeyOrder>,
    width: usize,
    keys: &[f32],
) -> Result<Vec<f32>, Error> {
    let mut x = keys.to_vec();
    let turn = |x: &mut [f32], order: &KeyOrder| x.chunks_mut(width).for_each(|row| order.reorder_rows(1, row));
    if let Some(order) = order {
        turn(&mut x, order);
    }
    let layout = format.layout();
    let mut bytes = vec![0; x.len() / layout.block_len * layout.block_bytes];
    format.encode(width, &x, &mut bytes).map_err(Error::experiment)?;
    format.decode(width, &bytes, &mut x).map_err(Error::experiment)?;
    if let Some(order) = order {
        turn(&mut x, &order.inverse());
    }
    Ok(x)
}

/// dB of keys whose channels differ log-normally by `sigma`: as they are, sorted, and sorted only where it helps; blocks of 32.
pub(super) fn spread(seed: u64, tokens: usize, sigma: f64) -> Result<[f64; 3], Error> {
    let mut rng = Philox::new(seed, 90);
    let gains: Vec<f64> = (0..HEADS * WIDTH).map(|_| (sigma * normal(&mut rng)).exp()).collect();
    let keys: Vec<f32> =
        (0..tokens * HEADS * WIDTH).map(|i| (normal(&mut rng) * gains[i % gains.len()]) as f32).collect();
    let sizes: Vec<f32> = gains.iter().map(|c| *c as f32).collect();
    let order = KeyOrder::by_size(HEADS, &sizes).map_err(Error::experiment)?;
    let format = scaled::bfp(BITS, 32).map_err(Error::experiment)?;
    let helps = order.where_it_helps(&format, &keys).map_err(Error::experiment)?;
    let db = |order: Option<&KeyOrder>| -> Result<f64, Error> {
        let back = stored(&format, order, HEADS * WIDTH, &keys)?;
        Ok(memwall_formats::error::ErrorStatistics::of(&keys, &back).sqnr_db())
    };
    Ok([db(None)?, db(Some(&order))?, db(Some(&helps))?])
}
