//! Floats of at most eight bits: sign, exponent, mantissa from the top.
//!
//! `value = (-1)^S 2^(E - bias) (1 + M / 2^m)`, and `(-1)^S 2^(1 - bias) M / 2^m` where E is 0.

use super::{Element, Rounding};

/// Which codes are no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// The largest exponent is infinity (mantissa 0) and NaN, as in IEEE 754; needs a mantissa.
    Ieee,
    /// All ones are NaN; there is no infinity (`fn`).
    NanIsAllOnes,
    /// NaN is the code that would be -0; there is neither infinity nor -0 (`fnuz`).
    NanIsMinusZero,
    /// None: every code is a finite number. A NaN is encoded as -0, one with the sign set as 0, as `ml_dtypes` does.
    None,
}

/// A float format of at most eight bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Float {
    /// Bits of the exponent, 1 to 7.
    pub exponent_bits: u32,
    /// Bits of the mantissa, the leading one not counted.
    pub mantissa_bits: u32,
    /// What is taken from the exponent field.
    pub bias: i32,
    /// Codes that are no numbers.
    pub special: Special,
    /// Whether there is a sign; without it the top bit is unused and negative values become 0.
    pub signed: bool,
}

/// 8 bits, as IEEE: the largest is 57344.
pub const E5M2: Float = Float::new(5, 2, 15, Special::Ieee);
/// 8 bits, what "FP8" usually means (`float8_e4m3fn`): the largest is 448.
pub const E4M3_FN: Float = Float::new(4, 3, 7, Special::NanIsAllOnes);
/// 8 bits, as IEEE: the largest is 240.
pub const E4M3: Float = Float::new(4, 3, 7, Special::Ieee);
/// 8 bits, as IEEE: the largest is 15.5.
pub const E3M4: Float = Float::new(3, 4, 3, Special::Ieee);
/// 8 bits, no -0: the largest is 240.
pub const E4M3_FNUZ: Float = Float::new(4, 3, 8, Special::NanIsMinusZero);
/// 8 bits, no -0: the largest is 57344.
pub const E5M2_FNUZ: Float = Float::new(5, 2, 16, Special::NanIsMinusZero);
/// 6 bits: the largest is 28.
pub const E3M2: Float = Float::new(3, 2, 3, Special::None);
/// 6 bits: the largest is 7.5.
pub const E2M3: Float = Float::new(2, 3, 1, Special::None);
/// 5 bits: the largest is 7.
pub const E2M2: Float = Float::new(2, 2, 1, Special::None);
/// 4 bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
pub const E2M1: Float = Float::new(2, 1, 1, Special::None);
/// 4 bits: 0, 0.25, 0.5, 1, 2, 4, 8, 16 and their negatives.
pub const E3M0: Float = Float::new(3, 0, 3, Special::None);
/// [`E4M3_FN`] without sign, a scale.
pub const UE4M3: Float = Float { signed: false, ..E4M3_FN };

impl Float {
    /// A signed float.
    pub const fn new(exponent_bits: u32, mantissa_bits: u32, bias: i32, special: Special) -> Float {
        Float { exponent_bits, mantissa_bits, bias, special, signed: true }
    }

    /// The grid of "FP8 Quantization: The Power of the Exponent": all codes are numbers, the bias is `2^(e - 1)`. A scale of
    /// `maxval / max()` moves its largest value to `maxval`, which is that paper's real-valued bias.
    pub const fn paper(exponent_bits: u32, mantissa_bits: u32) -> Float {
        Float::new(exponent_bits, mantissa_bits, 1 << (exponent_bits - 1), Special::None)
    }

    /// The bit of the sign; also the number of codes without it.
    const fn sign(&self) -> u32 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    /// The largest code of a finite number.
    const fn largest(&self) -> u32 {
        match self.special {
            Special::Ieee => self.sign() - (1 << self.mantissa_bits) - 1,
            Special::NanIsAllOnes => self.sign() - 2,
            Special::NanIsMinusZero | Special::None => self.sign() - 1,
        }
    }

    /// The value of a code without sign, as if it were a number.
    fn magnitude(&self, code: u32) -> f32 {
        let (exponent, mantissa) = (code >> self.mantissa_bits, code & ((1 << self.mantissa_bits) - 1));
        let whole = if exponent == 0 { mantissa } else { mantissa | 1 << self.mantissa_bits };
        (f64::from(whole) * power(exponent.max(1) as i32 - self.bias - self.mantissa_bits as i32)) as f32
    }

    /// The code of NaN, if there is one.
    const fn nan(&self) -> Option<u32> {
        match self.special {
            // The quiet one.
            Special::Ieee => Some(self.largest() + 1 + (1 << (self.mantissa_bits - 1))),
            Special::NanIsAllOnes => Some(self.sign() - 1),
            Special::NanIsMinusZero => Some(self.sign()),
            Special::None => None,
        }
    }

    /// What a number beyond the largest becomes.
    fn overflow(&self, saturate: bool) -> u32 {
        match self.special {
            Special::None => self.largest(),
            _ if saturate => self.largest(),
            Special::Ieee => self.largest() + 1,
            Special::NanIsAllOnes => self.sign() - 1,
            Special::NanIsMinusZero => self.sign(),
        }
    }

    /// The largest code not above a finite magnitude, and how much of the way to the next is covered; codes go on beyond
    /// [`Float::largest`].
    fn place(&self, a: f64) -> (u32, f64) {
        let least = 1 - self.bias;
        let exponent = (((a.to_bits() >> 52) as i32) - 1023).max(least);
        let steps = a * power(self.mantissa_bits as i32 - exponent);
        (steps as u32 + (((exponent - least) as u32) << self.mantissa_bits), steps.fract())
    }
}

/// 2^n, for exponents that f64 has.
fn power(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

impl Element for Float {
    fn name(&self) -> String {
        let suffix = match self.special {
            Special::NanIsMinusZero => "_FNUZ",
            Special::Ieee if *self == E4M3 => "_IEEE",
            Special::None if self.exponent_bits + self.mantissa_bits == 7 => "_PAPER",
            _ => "",
        };
        let unsigned = if self.signed { "" } else { "U" };
        format!("{unsigned}E{}M{}{suffix}", self.exponent_bits, self.mantissa_bits)
    }

    fn bits(&self) -> u32 {
        self.exponent_bits + self.mantissa_bits + 1
    }

    fn decode(&self, code: u8) -> f32 {
        let magnitude = u32::from(code) & (self.sign() - 1);
        let negative = self.signed && u32::from(code) & self.sign() != 0;
        let value = match self.special {
            Special::NanIsMinusZero if negative && magnitude == 0 => return f32::NAN,
            Special::Ieee if magnitude == self.largest() + 1 => f32::INFINITY,
            _ if magnitude > self.largest() => f32::NAN,
            _ => self.magnitude(magnitude),
        };
        if negative { -value } else { value }
    }

    fn encode(&self, value: f32, rounding: Rounding, saturate: bool) -> u8 {
        let negative = value.is_sign_negative();
        if value.is_nan() {
            let sign = if self.signed && negative { self.sign() } else { 0 };
            return match (self.special, self.nan()) {
                (Special::NanIsMinusZero, Some(nan)) => nan as u8,
                (_, Some(nan)) => (nan | sign) as u8,
                (_, None) => (self.sign() ^ sign) as u8,
            };
        }
        if negative && !self.signed {
            return 0;
        }
        // Infinity is far beyond the largest, as is this.
        let (floor, beyond) = self.place(f64::from(value.abs().min(f32::MAX)));
        let code = floor + u32::from(rounding.is_up(beyond, floor % 2 == 1));
        let code = if code > self.largest() { self.overflow(saturate) } else { code };
        // Without -0 its code is NaN's; the NaN of an overflow has no sign either.
        let keeps_sign = self.special != Special::NanIsMinusZero || (code != 0 && code != self.sign());
        (code | if negative && keeps_sign { self.sign() } else { 0 }) as u8
    }

    fn max(&self) -> f32 {
        self.magnitude(self.largest())
    }

    fn largest_step(&self, reach: f32) -> f32 {
        let (floor, beyond) = self.place(f64::from(reach.min(self.max())));
        let code = (floor + u32::from(beyond > 0.0)).clamp(1, self.largest());
        self.magnitude(code) - self.magnitude(code - 1)
    }
}
