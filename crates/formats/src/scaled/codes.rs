//! Codes of 1 to 8 bits one after another, the first in the lowest bits of the first byte.

/// Code `index`.
#[inline]
pub(crate) fn get(bytes: &[u8], bits: u32, index: usize) -> u8 {
    let (byte, shift) = (index * bits as usize / 8, index * bits as usize % 8);
    let next = bytes.get(byte + 1).copied().unwrap_or(0);
    let mask = (1u16 << bits) - 1;
    (u16::from_le_bytes([bytes[byte], next]) >> shift & mask) as u8
}

/// Replaces code `index`.
#[inline]
pub(crate) fn set(bytes: &mut [u8], bits: u32, index: usize, code: u8) {
    let (byte, shift) = (index * bits as usize / 8, index * bits as usize % 8);
    let mask = ((1u16 << bits) - 1) << shift;
    let [low, high] = (u16::from(code) << shift & mask).to_le_bytes();
    let [keep_low, keep_high] = (!mask).to_le_bytes();
    bytes[byte] = bytes[byte] & keep_low | low;
    if let Some(next) = bytes.get_mut(byte + 1) {
        *next = *next & keep_high | high;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_every_width_come_back_and_share_no_bit() {
        for bits in 1..=8 {
            let mut bytes = vec![0xff; (37 * bits as usize).div_ceil(8)];
            let code = |i: usize| (i * 151 % 256) as u8 & (0xff >> (8 - bits));
            for i in (0..37).rev() {
                set(&mut bytes, bits, i, code(i));
            }
            for i in 0..37 {
                assert_eq!(get(&bytes, bits, i), code(i), "{bits} bits, code {i}");
            }
        }
    }
}
