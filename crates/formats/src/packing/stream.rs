//! Codes of 1 to 8 bits one after another: the first in the highest bits of the first byte (the FP6 stream of FP6-LLM), or in
//! the lowest (DeepSpeed's).

use super::{PackingError, expect_codes, expect_len};

fn bytes_for(codes: usize, bits: u32) -> usize {
    (codes * bits as usize).div_ceil(8)
}

/// Packs codes, the first in the highest bits; the last byte is filled with zeros.
///
/// # Errors
/// A code that `bits` bits do not hold (as row 0 and its column).
pub fn pack_high_first(codes: &[u8], bits: u32) -> Result<Vec<u8>, PackingError> {
    expect_codes(codes, codes.len().max(1), bits)?;
    let mut bytes = vec![0; bytes_for(codes.len(), bits)];
    for (i, code) in codes.iter().enumerate() {
        for b in 0..bits as usize {
            let at = i * bits as usize + b;
            bytes[at / 8] |= (code >> (bits as usize - 1 - b) & 1) << (7 - at % 8);
        }
    }
    Ok(bytes)
}

/// Unpacks `n` codes that [`pack_high_first`] packed.
///
/// # Errors
/// Another number of bytes than they take.
pub fn unpack_high_first(bytes: &[u8], bits: u32, n: usize) -> Result<Vec<u8>, PackingError> {
    expect_len("bytes of a stream", bytes.len(), bytes_for(n, bits))?;
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let code = |i: usize| (0..bits as usize).fold(0, |code, b| code << 1 | bit(i * bits as usize + b));
    Ok((0..n).map(code).collect())
}

/// Packs codes, the first in the lowest bits; the last byte is filled with zeros.
///
/// # Errors
/// As [`pack_high_first`].
pub fn pack_low_first(codes: &[u8], bits: u32) -> Result<Vec<u8>, PackingError> {
    expect_codes(codes, codes.len().max(1), bits)?;
    let mut bytes = vec![0; bytes_for(codes.len(), bits)];
    for (i, code) in codes.iter().enumerate() {
        crate::scaled::codes::set(&mut bytes, bits, i, *code);
    }
    Ok(bytes)
}

/// Unpacks `n` codes that [`pack_low_first`] packed.
///
/// # Errors
/// Another number of bytes than they take.
pub fn unpack_low_first(bytes: &[u8], bits: u32, n: usize) -> Result<Vec<u8>, PackingError> {
    expect_len("bytes of a stream", bytes.len(), bytes_for(n, bits))?;
    Ok((0..n).map(|i| crate::scaled::codes::get(bytes, bits, i)).collect())
}
