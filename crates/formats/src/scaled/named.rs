//! The scaled formats that have a name.

use super::{NoSuchFormat, PowerRule, Scale, Scaled};
use crate::element::{E2M1, E2M3, E3M2, E4M3_FN, E5M2, Element, Float, Integer, Range};

/// Values of a block of OCP's MX formats.
const MX: usize = 32;

fn mx<E: Element>(name: &'static str, element: E) -> Scaled<E> {
    Scaled::new(name, element, MX, Scale::Power(PowerRule::Floor)).unwrap_or_else(|e| unreachable!("{e}"))
}

/// MXFP8 of E5M2: 8.25 bits a value.
pub fn mxfp8_e5m2() -> Scaled<Float> {
    mx("MXFP8_E5M2", E5M2)
}

/// MXFP8 of E4M3: 8.25 bits a value.
pub fn mxfp8_e4m3() -> Scaled<Float> {
    mx("MXFP8_E4M3", E4M3_FN)
}

/// MXFP6 of E3M2: 6.25 bits a value.
pub fn mxfp6_e3m2() -> Scaled<Float> {
    mx("MXFP6_E3M2", E3M2)
}

/// MXFP6 of E2M3: 6.25 bits a value.
pub fn mxfp6_e2m3() -> Scaled<Float> {
    mx("MXFP6_E2M3", E2M3)
}

/// MXFP4: 4.25 bits a value, codes in order (GGUF's [`crate::Dtype::MXFP4`] has another).
pub fn mxfp4() -> Scaled<Float> {
    mx("MXFP4", E2M1)
}

/// MXINT of 2 to 8 bits: OCP defines 8, 4 and 2 are extensions.
///
/// # Errors
/// Other numbers of bits.
pub fn mxint(bits: u32) -> Result<Scaled<Integer>, NoSuchFormat> {
    block_of_integers(format!("MXINT{bits}"), bits, MX, PowerRule::Floor)
}

/// Block floating point: `bits` of mantissa with the sign, one exponent of 8 bits for `block_len` values.
///
/// # Errors
/// Bits outside 2..=8, no block length.
pub fn bfp(bits: u32, block_len: usize) -> Result<Scaled<Integer>, NoSuchFormat> {
    block_of_integers(format!("BFP[{bits}|8]{{{block_len}}}(SN)"), bits, block_len, PowerRule::Floor)
}

fn block_of_integers(
    name: String,
    bits: u32,
    block_len: usize,
    rule: PowerRule,
) -> Result<Scaled<Integer>, NoSuchFormat> {
    check_bits(&name, bits)?;
    Scaled::new(name, Integer::mx(bits), block_len, Scale::Power(rule))
}

fn check_bits(name: &str, bits: u32) -> Result<(), NoSuchFormat> {
    if (2..=8).contains(&bits) {
        return Ok(());
    }
    Err(NoSuchFormat { name: name.into(), what: "an integer has 2 to 8 bits" })
}

/// NVFP4 of a tensor whose largest magnitude is `amax`: E2M1 in blocks of 16, scales in E4M3 relative to the tensor's, which is
/// `amax / (448 · 6)` and 1 for a tensor of zeros.
///
/// # Errors
/// A magnitude that is negative or not finite.
pub fn nvfp4(amax: f32) -> Result<Scaled<Float>, NoSuchFormat> {
    nv("NVFP4", E2M1, amax)
}

/// NVINT4: as [`nvfp4`] with integers of 4 bits, -7 to 7.
///
/// # Errors
/// As [`nvfp4`].
pub fn nvint4(amax: f32) -> Result<Scaled<Integer>, NoSuchFormat> {
    nv("NVINT4", Integer::new(4, Range::Symmetric), amax)
}

fn nv<E: Element>(name: &'static str, element: E, amax: f32) -> Result<Scaled<E>, NoSuchFormat> {
    let tensor = if amax == 0.0 { 1.0 } else { amax / (448.0 * element.max()) };
    Scaled::new(name, element, 16, Scale::UE4M3 { tensor })
}

/// Symmetric integers with one scale for a tensor whose largest magnitude is `amax`; `block_len` only cuts rows.
///
/// # Errors
/// Bits outside 2..=8, no block length, a magnitude that is not positive and finite.
pub fn int_by_tensor(bits: u32, block_len: usize, amax: f32) -> Result<Scaled<Integer>, NoSuchFormat> {
    let name = format!("INT{bits}_TENSOR");
    check_bits(&name, bits)?;
    let element = Integer::new(bits, Range::Symmetric);
    Scaled::new(name, element, block_len, Scale::Tensor(amax / element.max()))
}

/// Symmetric integers with one scale in f32 for `group` values; a group as long as the row is one scale a channel.
///
/// # Errors
/// Bits outside 2..=8, no group.
pub fn int_by_group(bits: u32, group: usize) -> Result<Scaled<Integer>, NoSuchFormat> {
    let name = format!("INT{bits}_G{group}");
    check_bits(&name, bits)?;
    Scaled::new(name, Integer::new(bits, Range::Symmetric), group, Scale::Single)
}

/// Integers from a zero point, with one scale in f32 and one zero point for `group` values.
///
/// # Errors
/// As [`int_by_group`].
pub fn int_affine(bits: u32, group: usize) -> Result<Scaled<Integer>, NoSuchFormat> {
    let name = format!("UINT{bits}_G{group}");
    check_bits(&name, bits)?;
    Scaled::new(name, Integer::new(bits, Range::Unsigned), group, Scale::Affine)
}

/// FP8 with all codes finite ([`Float::paper`]) and the largest value at `maxval`; `block_len` only cuts rows.
///
/// # Errors
/// A mantissa outside 1..=6, no block length, a `maxval` that is not positive and finite.
pub fn paper_fp8_by_tensor(mantissa_bits: u32, block_len: usize, maxval: f32) -> Result<Scaled<Float>, NoSuchFormat> {
    let name = "FP8_PAPER";
    if !(1..=6).contains(&mantissa_bits) {
        return Err(NoSuchFormat { name: name.into(), what: "a float of 8 bits has a mantissa of 1 to 6 bits" });
    }
    let element = Float::paper(7 - mantissa_bits, mantissa_bits);
    Scaled::new(name, element, block_len, Scale::Tensor(maxval / element.max()))
}
