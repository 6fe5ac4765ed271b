//! E8M0: a power of two, 2^-127 to 2^127, the scale of OCP's block formats; no sign, no zero.

use super::{Element, Rounding};

/// `2^(code - 127)`; code 255 is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct E8M0;

impl E8M0 {
    /// The code of NaN.
    pub const NAN: u8 = 0xff;

    /// The largest power of two that is not above `value`, which is positive and finite, as code; 0 below 2^-127.
    pub fn floor(value: f32) -> u8 {
        // The exponent field of a subnormal is 0, as is the code of 2^-127.
        ((value.to_bits() >> 23) as u8).min(254)
    }

    /// The smallest power of two that is not below `value`, which is positive and finite, as code; 254 above 2^127.
    pub fn ceil(value: f32) -> u8 {
        let bits = value.to_bits();
        // Of the subnormals only those above 2^-127 round up to 2^-126.
        let beyond = if bits >> 23 == 0 { bits > 0x0040_0000 } else { bits & 0x007f_ffff != 0 };
        ((bits >> 23) + u32::from(beyond)).min(254) as u8
    }
}

impl Element for E8M0 {
    fn name(&self) -> String {
        "E8M0".into()
    }

    fn bits(&self) -> u32 {
        8
    }

    fn decode(&self, code: u8) -> f32 {
        match code {
            E8M0::NAN => f32::NAN,
            0 => f32::from_bits(0x0040_0000),
            code => f32::from_bits(u32::from(code) << 23),
        }
    }

    /// Zero, negative numbers and what is not finite become NaN. The middle between two powers rounds up: the parity of a code
    /// says nothing of its value.
    fn encode(&self, value: f32, rounding: Rounding, saturate: bool) -> u8 {
        if !value.is_finite() || value <= 0.0 {
            return E8M0::NAN;
        }
        let floor = E8M0::floor(value);
        let low = f64::from(self.decode(floor));
        let beyond = f64::from(value) / low - 1.0;
        match u32::from(floor) + u32::from(beyond > 0.0 && rounding.is_up(beyond, true)) {
            255 if saturate => 254,
            code => code as u8,
        }
    }

    fn max(&self) -> f32 {
        self.decode(254)
    }

    fn largest_step(&self, reach: f32) -> f32 {
        self.decode(E8M0::floor(reach))
    }
}
