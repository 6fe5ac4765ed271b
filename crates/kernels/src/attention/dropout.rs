//! Dropout of attention weights by counters: a pure function of seed, sequence, head, query and key.

/// The mask of one row: weights of that row are kept or dropped by key position.
#[derive(Clone, Copy)]
pub(super) struct RowDropout {
    key: u32,
    threshold: u32,
}

/// Avalanches 64 bits (the finalizer of SplitMix64).
fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl RowDropout {
    pub(super) fn new(rate: f64, seed: u64, sequence: usize, head: usize, query: usize) -> RowDropout {
        let place = mix64(seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(((sequence as u64) << 32) | head as u64);
        let key = mix64(mix64(place).wrapping_add(query as u64)) as u32;
        RowDropout { key, threshold: (rate * 4_294_967_296.0) as u32 }
    }

    /// Whether the weight of that key survives.
    #[inline(always)]
    pub(super) fn keeps(self, key: usize) -> bool {
        // A 32-bit finalizer (xor-shift, multiply, twice) of the counter.
        let mut x = (key as u32).wrapping_mul(0x9e37_79b9) ^ self.key;
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        (x ^ (x >> 16)) >= self.threshold
    }
}

/// Whether attention keeps the weight of key `key` for query `query` (both counted from the start of
/// the sequence) of `head` in sequence number `sequence` of the batch.
pub fn dropout_keeps(rate: f64, seed: u64, sequence: usize, head: usize, query: usize, key: usize) -> bool {
    RowDropout::new(rate, seed, sequence, head, query).keeps(key)
}
