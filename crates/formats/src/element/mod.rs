//! Elements: numbers of at most eight bits, as block formats, scales and caches use them.
//!
//! An [`Element`] is a set of codes with their values and a rule from values to codes. [`Float`] has the floats (sign,
//! exponent, mantissa from the top), [`Integer`] the integers and fixed-point numbers, [`E8M0`] the powers of two. Values are
//! not scaled here: see [`crate::scaled`].
//!
//! Sources: OCP Microscaling formats 1.0; OCP 8-bit floating point; `ml_dtypes`, with which `tests/elements.rs` compares.

mod e8m0;
mod float;
mod integer;
mod rounding;

pub use e8m0::E8M0;
pub use float::{E2M1, E2M2, E2M3, E3M0, E3M2, E3M4, E4M3, E4M3_FN, E4M3_FNUZ, E5M2, E5M2_FNUZ, Float, Special, UE4M3};
pub use integer::{Integer, Range};
pub use rounding::Rounding;

/// A number of at most eight bits.
pub trait Element: Copy + Send + Sync {
    /// The name in the field's spelling.
    fn name(&self) -> String;

    /// Bits of a code, 1 to 8.
    fn bits(&self) -> u32;

    /// The value of a code; bits above [`Element::bits`] are ignored.
    fn decode(&self, code: u8) -> f32;

    /// The code of a value. What is larger than all values becomes the largest with `saturate`, and without it infinity, or NaN
    /// where there is no infinity, or the largest where there is neither.
    fn encode(&self, value: f32, rounding: Rounding, saturate: bool) -> u8;

    /// Each value becomes that of its code, saturated; stochastic roundings count places from `first`.
    fn nearest_each(&self, rounding: Rounding, first: usize, values: &mut [f32]) {
        for (i, value) in values.iter_mut().enumerate() {
            *value = self.decode(self.encode(*value, rounding.at((first + i) as u64), true));
        }
    }

    /// The largest finite value that is encoded.
    fn max(&self) -> f32;

    /// The largest gap between neighbours of magnitude up to `reach`: rounding to nearest errs by half of it at most.
    fn largest_step(&self, reach: f32) -> f32;
}
