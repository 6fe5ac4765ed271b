//! Counter-based random numbers: each is a function of seed, stream and position, the same on every machine and version.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011): a block of four 32-bit
//! words is ten rounds of multiply and xor over the counter (position, stream) with the seed as key.

/// A stream of random numbers that can start at any position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Philox {
    seed: u64,
    stream: u64,
    /// 64-bit numbers drawn so far; two come from a block.
    position: u64,
    spare: Option<u64>,
}

impl Philox {
    /// The stream `stream` of `seed`, from its start; streams of one seed do not overlap.
    pub fn new(seed: u64, stream: u64) -> Philox {
        Philox::at(seed, stream, 0)
    }

    /// The stream from its number `position` on.
    pub fn at(seed: u64, stream: u64, position: u64) -> Philox {
        let spare = (position % 2 == 1).then(|| block(seed, stream, position / 2)[1]);
        Philox { seed, stream, position, spare }
    }

    /// Numbers drawn so far, to be handed to [`Philox::at`].
    pub fn position(&self) -> u64 {
        self.position
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let bits = match self.spare.take() {
            Some(bits) => bits,
            None => {
                let [first, second] = block(self.seed, self.stream, self.position / 2);
                self.spare = Some(second);
                first
            }
        };
        self.position = self.position.wrapping_add(1);
        bits
    }

    /// A number in `0..n` without bias (Lemire, "Fast random integer generation in an interval", 2019); 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let rejected = n.wrapping_neg().checked_rem(n).unwrap_or(0);
        loop {
            let product = u128::from(self.bits()) * u128::from(n);
            if product as u64 >= rejected {
                return (product >> 64) as u64;
            }
        }
    }

    /// A number in the half-open interval (0, 1], a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Puts the items in a random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn block(seed: u64, stream: u64, counter: u64) -> [u64; 2] {
    let words = |x: u64| [x as u32, (x >> 32) as u32];
    let ([c0, c1], [c2, c3]) = (words(counter), words(stream));
    let [x0, x1, x2, x3] = philox([c0, c1, c2, c3], words(seed));
    [u64::from(x0) | u64::from(x1) << 32, u64::from(x2) | u64::from(x3) << 32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product0 = u64::from(counter[0]) * 0xD251_1F53;
        let product1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn the_stream_of_seed_zero_stays_as_it_is() {
        let mut rng = Philox::new(0, 0);
        assert_eq!(rng.bits(), 0xe169_c58d_6627_e8d5);
        assert_eq!(rng.bits(), 0x9b00_dbd8_bc57_ac4c);
    }

    #[test]
    fn numbers_below_n_are_uniform() {
        let mut rng = Philox::new(7, 1);
        let mut counts = [0f64; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1.0;
        }
        let chi_square: f64 = counts.iter().map(|c| (c - 1e4).powi(2) / 1e4).sum();
        assert!(chi_square < 22.5, "{chi_square}"); // 6 degrees of freedom, p = 0.001
    }

    proptest! {
        #[test]
        fn a_stream_goes_on_where_it_stopped(seed: u64, stream: u64, skip in 0u64..50) {
            let mut whole = Philox::new(seed, stream);
            for _ in 0..skip {
                whole.bits();
            }
            let mut resumed = Philox::at(seed, stream, whole.position());
            prop_assert_eq!(&resumed, &whole);
            for _ in 0..5 {
                prop_assert_eq!(resumed.bits(), whole.bits());
            }
        }

        #[test]
        fn numbers_stay_in_range(seed: u64, n in 1u64..) {
            let mut rng = Philox::new(seed, 0);
            prop_assert!(rng.below(n) < n);
            let unit = rng.unit();
            prop_assert!(unit > 0.0 && unit <= 1.0);
            prop_assert_eq!(rng.below(0), 0);
        }

        #[test]
        fn shuffling_keeps_every_item(seed: u64, n in 0usize..40) {
            let mut items: Vec<usize> = (0..n).collect();
            Philox::new(seed, 0).shuffle(&mut items);
            items.sort_unstable();
            prop_assert!(items.into_iter().eq(0..n));
        }
    }
}
