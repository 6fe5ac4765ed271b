//! What Q4_K and Q5_K share: eight 6-bit scales and minima in twelve bytes, and their super-block encoder.
//!
//! Value = `(d · sc_j) · q - (dmin · m_j)` for sub-block `j` of 32 values.

use bytemuck::{Pod, Zeroable};

use super::affine_search::AffineSearch;
use super::rounding::nearest_even;
use crate::F16Le;

/// Eight 6-bit scales and eight 6-bit minima.
///
/// Bytes 0..4 hold scales 0..4, bytes 4..8 minima 0..4, both in their low six bits. Byte `8 + i` holds the low four bits
/// of scale `4 + i` and, in its high half, of minimum `4 + i`; their top two bits are the top bits of bytes `i` and `4 + i`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(transparent)]
pub struct KScales(pub [u8; 12]);

impl KScales {
    /// Packs values below 64.
    #[inline]
    pub fn pack(scales: &[u8; 8], mins: &[u8; 8]) -> Self {
        let mut b = [0; 12];
        for i in 0..4 {
            b[i] = scales[i] & 63 | scales[i + 4] >> 4 << 6;
            b[i + 4] = mins[i] & 63 | mins[i + 4] >> 4 << 6;
            b[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
        }
        KScales(b)
    }

    /// All scales, then all minima.
    #[inline(always)]
    pub fn unpack(&self) -> ([u8; 8], [u8; 8]) {
        let b = &self.0;
        let (mut scales, mut mins) = ([0; 8], [0; 8]);
        for i in 0..4 {
            scales[i] = b[i] & 63;
            mins[i] = b[i + 4] & 63;
            scales[i + 4] = b[i + 8] & 15 | b[i] >> 6 << 4;
            mins[i + 4] = b[i + 8] >> 4 | b[i + 4] >> 6 << 4;
        }
        (scales, mins)
    }
}

/// `d`, `dmin`, scales and one code a value of a super-block.
pub type AffineBlock = (F16Le, F16Le, KScales, [u8; 256]);

/// Encodes `K` super-blocks of 8 sub-blocks, `N` = 8 `K` in all: each sub-block's fit, then its scale and minimum rounded
/// to 6 bits of the super-block's largest, then the codes anew under the rounded scales. Weights are `sqrt(mean x²) + |x|`,
/// means taken over the sub-block.
#[inline(always)]
pub fn encode_affine<const K: usize, const N: usize>(
    x: [&[f32; 256]; K],
    search: &AffineSearch,
    mut store: impl FnMut(usize, AffineBlock),
) {
    const { assert!(N == 8 * K) };
    let mut lanes = [[0.0; N]; 32];
    for (k, x) in x.iter().enumerate() {
        for (s, sub) in x.as_chunks::<32>().0.iter().enumerate() {
            for (i, v) in sub.iter().enumerate() {
                lanes[i][8 * k + s] = *v;
            }
        }
    }
    let mut sum = [0.0; N];
    for row in &lanes {
        for s in 0..N {
            sum[s] += row[s] * row[s];
        }
    }
    let root_mean = sum.map(|s| (s / 32.0f32).sqrt());
    let mut weights = [[0.0; N]; 32];
    for (w, row) in weights.iter_mut().zip(&lanes) {
        for s in 0..N {
            w[s] = root_mean[s] + row[s].abs();
        }
    }
    let fit = search.fit(&lanes, &weights);

    for (k, x) in x.iter().enumerate() {
        let (scales, d) = six_bits(&fit.scale[8 * k..][..8]);
        let (mins, dmin) = six_bits(&fit.offset[8 * k..][..8]);
        let mut codes = [0; 256];
        for (s, (sub, q)) in x.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0).enumerate() {
            let scale = d.to_f32() * f32::from(scales[s]);
            let offset = dmin.to_f32() * f32::from(mins[s]);
            for (q, v) in q.iter_mut().zip(sub) {
                *q = if scale == 0.0 {
                    // Every code decodes to the minimum; the one of the fit is stored.
                    fit.code(8 * k + s, *v)
                } else {
                    nearest_even((v + offset) / scale).clamp(0, search.max_code) as u8
                };
            }
        }
        store(k, (d, dmin, KScales::pack(&scales, &mins), codes));
    }
}

/// Eight values that are not negative, as 6-bit multiples of a half.
#[inline(always)]
fn six_bits(values: &[f32]) -> ([u8; 8], F16Le) {
    let largest = values.iter().fold(0.0, |m, &v| if v > m { v } else { m });
    let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    (std::array::from_fn(|j| (nearest_even(inverse * values[j]) as u8).min(63)), F16Le::from_f32(largest / 63.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_then_unpacking_six_bit_scales_is_the_identity_bit_by_bit() {
        for bit in 0..96 {
            let (mut scales, mut mins) = ([0u8; 8], [0u8; 8]);
            let side = if bit < 48 { &mut scales } else { &mut mins };
            side[bit % 48 / 6] = 1 << (bit % 6);
            let packed = KScales::pack(&scales, &mins);
            assert_eq!(packed.0.iter().map(|b| b.count_ones()).sum::<u32>(), 1, "bit {bit}");
            assert_eq!(packed.unpack(), (scales, mins), "bit {bit}");
        }
    }
}
