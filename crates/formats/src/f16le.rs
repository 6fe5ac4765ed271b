//! A half-precision float as it lies in a block: two bytes, little-endian, alignment 1.
//!
//! Blocks begin at any byte of a mapped file, so their fields must not ask for an alignment.

use bytemuck::{Pod, Zeroable};

/// An IEEE half (1 sign, 5 exponent, 10 mantissa bits), little-endian, alignment 1.
#[derive(Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct F16Le([u8; 2]);

impl F16Le {
    /// The half nearest to `value`, ties to even; overflow gives infinity. Branch-free, as the other way.
    #[inline(always)]
    pub fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let magnitude = bits & 0x7fff_ffff;
        // Rebias the exponent by -112 and round off 13 bits; a carry runs into the exponent as it must.
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
        // A unit in the last place of 0.5 is the step of subnormal halves: the addition rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
        let large = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let half = if magnitude < 0x477f_f000 { finite } else { large };
        Self::from_bits((half | bits >> 16 & 0x8000) as u16)
    }

    /// The exact value. Branch-free, so that loops over blocks vectorize.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        let h = u32::from(self.bits());
        // Exponent and mantissa moved to their f32 places are the value times 2^-112, for subnormals too.
        let magnitude = f32::from_bits((h & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        // From 2^16 on the half was infinite or a NaN: give it the f32 exponent of those.
        let special = if magnitude >= 65536.0 { 0x7f80_0000 } else { 0 };
        f32::from_bits(magnitude.to_bits() | special | (h & 0x8000) << 16)
    }

    /// The half with these bits.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        F16Le(bits.to_le_bytes())
    }

    /// The bits: sign, exponent, mantissa from the top.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// True unless infinite or a NaN.
    #[inline(always)]
    pub const fn is_finite(self) -> bool {
        self.bits() & 0x7c00 != 0x7c00
    }
}

impl std::fmt::Debug for F16Le {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.to_f32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_as_the_half_crate_widens_it() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (F16Le::from_bits(bits).to_f32(), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}");
            assert_eq!(F16Le::from_bits(bits).is_finite(), ours.is_finite(), "{bits:#06x}");
        }
    }
}
