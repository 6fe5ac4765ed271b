//! How a value between two codes becomes one of them.

/// A rounding of a magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the nearest, from the middle to the even code: IEEE's default, and that of OCP and `ml_dtypes`.
    HalfEven,
    /// To the nearest, from the middle away from zero.
    HalfAway,
    /// Up with the probability of the share of the gap that is covered, so that the expectation is the value. A function of seed
    /// and position, so that it does not depend on the order of work.
    Stochastic {
        /// Of the tensor.
        seed: u64,
        /// Of the value in it.
        position: u64,
    },
}

impl Rounding {
    /// The same for the value at another position.
    #[must_use]
    pub const fn at(self, position: u64) -> Rounding {
        match self {
            Rounding::Stochastic { seed, .. } => Rounding::Stochastic { seed, position },
            nearest => nearest,
        }
    }

    /// Whether a magnitude rounds up that lies `beyond` (in 0..1) of the way from a code to the next.
    #[inline]
    pub(super) fn is_up(self, beyond: f64, code_is_odd: bool) -> bool {
        match self {
            Rounding::HalfEven => beyond > 0.5 || (beyond == 0.5 && code_is_odd),
            Rounding::HalfAway => beyond >= 0.5,
            Rounding::Stochastic { seed, position } => f64::from(random(seed, position)) < beyond * 4_294_967_296.0,
        }
    }
}

/// 32 bits: SplitMix64 of a counter.
fn random(seed: u64, position: u64) -> u32 {
    let mut z = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}
