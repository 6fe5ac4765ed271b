//! Integers of 2 to 8 bits, and fixed-point numbers: an integer times a power of two.

use multiversion::multiversion;

use super::{Element, Rounding};

/// Which integers are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// `-(2^(b-1) - 1)` to `2^(b-1) - 1`, two's complement: no more negative numbers than positive ones. (Decoding knows the
    /// one more there is.)
    Symmetric,
    /// `-2^(b-1)` to `2^(b-1) - 1`, two's complement.
    Full,
    /// 0 to `2^b - 1`, for formats with a zero point.
    Unsigned,
}

/// An integer of at most eight bits times `2^-fraction_bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integer {
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// Which integers are encoded.
    pub range: Range,
    /// How many of the bits are below one.
    pub fraction_bits: u32,
}

impl Integer {
    /// An integer.
    pub const fn new(bits: u32, range: Range) -> Integer {
        Integer { bits, range, fraction_bits: 0 }
    }

    /// The element of MXINT: two bits above the point with the sign, so that the largest is just below 2.
    pub const fn mx(bits: u32) -> Integer {
        Integer { bits, range: Range::Symmetric, fraction_bits: bits - 2 }
    }

    /// The smallest and the largest integer that are encoded.
    pub const fn limits(&self) -> (i32, i32) {
        let half = 1 << (self.bits - 1);
        match self.range {
            Range::Symmetric => (1 - half, half - 1),
            Range::Full => (-half, half - 1),
            Range::Unsigned => (0, 2 * half - 1),
        }
    }

    /// The value of one step.
    fn step(&self) -> f32 {
        1.0 / (1u32 << self.fraction_bits) as f32
    }
}

/// Dividing by a step, a power of two, is exact or beyond the limits; no code is -0, and a NaN has the code of 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn half_even(low: f32, high: f32, step: f32, values: &mut [f32]) {
    for value in values {
        let whole = (*value / step).round_ties_even().clamp(low, high) * step + 0.0;
        *value = if value.is_nan() { 0.0 } else { whole };
    }
}

impl Element for Integer {
    fn name(&self) -> String {
        let kind = if self.range == Range::Unsigned { "UINT" } else { "INT" };
        format!("{kind}{}", self.bits)
    }

    fn bits(&self) -> u32 {
        self.bits
    }

    fn decode(&self, code: u8) -> f32 {
        let unused = 8 - self.bits;
        let whole = match self.range {
            Range::Unsigned => f32::from(code << unused >> unused),
            Range::Symmetric | Range::Full => f32::from(((code << unused) as i8) >> unused),
        };
        whole * self.step()
    }

    /// What is beyond the limits becomes the limit in any case, and a NaN 0.
    fn encode(&self, value: f32, rounding: Rounding, _saturate: bool) -> u8 {
        let (low, high) = self.limits();
        let a = f64::from(value.abs()) / f64::from(self.step());
        // Beyond 512 all is clipped, and f64 has the fraction exactly.
        let whole = a.min(512.0);
        let magnitude = whole as i32 + i32::from(rounding.is_up(whole.fract(), whole as i32 % 2 == 1));
        let signed = if value < 0.0 { -magnitude } else { magnitude };
        let mask = (1u32 << self.bits) - 1;
        if value.is_nan() { 0 } else { (signed.clamp(low, high) as u32 & mask) as u8 }
    }

    /// Half-even, which processors round to, goes without codes.
    fn nearest_each(&self, rounding: Rounding, first: usize, values: &mut [f32]) {
        if rounding == Rounding::HalfEven {
            let (low, high) = self.limits();
            return half_even(low as f32, high as f32, self.step(), values);
        }
        for (i, value) in values.iter_mut().enumerate() {
            *value = self.decode(self.encode(*value, rounding.at((first + i) as u64), true));
        }
    }

    fn max(&self) -> f32 {
        self.limits().1 as f32 * self.step()
    }

    fn largest_step(&self, _reach: f32) -> f32 {
        self.step()
    }
}
