//! Codes through shifts and halves, through FP6-LLM's planes and memwall's, and products over them; and what must be refused.

use memwall_formats::element::{E3M2, Element, Rounding};
use memwall_formats::packing::{
    dequantize_fp6_llm, four_halves, pack_fp6_llm, pack_high_first, quantize_fp6_llm, unpack_fp6_llm,
};
use memwall_formats::{Dtype, FormatError, format};
use memwall_kernels::Pool;
use memwall_kernels::linear::{Weights, linear, linear_scratch};
use memwall_tasks::Philox;

use crate::{Error, random::normal};

/// Codes that are not their value after two shifts, a mask and a product with 2^12, bit for bit, four at a time or one; or whose value is
/// encoded as another code.
pub(super) fn codes_lost() -> f64 {
    let lost = |code: u8| {
        let four = [code, 63 - code, code ^ 32, code ^ 5];
        let halves = four_halves(u32::from_le_bytes(four.map(|c| c << 2)));
        four.iter().zip(halves).any(|(&code, half)| {
            let alone = u16::from(code & 32) << 10 | u16::from(code & 31) << 8;
            let value = half::f16::from_bits(half).to_f32() * 4096.0;
            half != alone
                || value.to_bits() != E3M2.decode(code).to_bits()
                || E3M2.encode(value, Rounding::HalfEven, true) != code
        })
    };
    (0..64).filter(|&code| lost(code)).count() as f64
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(1_469_598_103_934_665_603, |h, b| (h ^ u64::from(*b)).wrapping_mul(1_099_511_628_211))
}

/// Published hashes that differ: of the stream of six bits and of both planes.
pub(super) fn hashes_missed() -> Result<f64, Error> {
    let codes: Vec<u8> = (0..64 * 64).map(|i| ((7 * (i / 64) + 13 * (i % 64)) % 64) as u8).collect();
    let stream = pack_high_first(&codes, 6).map_err(Error::experiment)?;
    let planes = pack_fp6_llm(&codes, 64, 64).map_err(Error::experiment)?;
    let (two, four) = planes.split_at(64 * 64 / 4);
    let published = [(&stream[..], 0xc8e2_b9de_515f_a903), (two, 0xd4a0_f5cd_6e74_6473), (four, 0x2015_7cfd_9ec9_5183)];
    Ok(published.iter().filter(|(bytes, hash)| fnv(bytes) != *hash).count() as f64)
}

/// Random codes that differ after packing and unpacking, in the planes of FP6-LLM and in memwall's; and weights that differ between
/// both.
pub(super) fn packed_lost(seed: u64) -> Result<f64, Error> {
    let (rows, cols) = (128, 256);
    let mut rng = Philox::new(seed, 241);
    let weights: Vec<f32> = (0..rows * cols).map(|_| normal(&mut rng) as f32 * 0.02).collect();
    let (codes, scales) = quantize_fp6_llm(&weights, rows, cols).map_err(Error::experiment)?;
    let planes = pack_fp6_llm(&codes, rows, cols).map_err(Error::experiment)?;
    let back = unpack_fp6_llm(&planes, rows, cols).map_err(Error::experiment)?;
    let mut lost = codes.iter().zip(&back).filter(|(a, b)| a != b).count();
    // The same codes and scales as blocks.
    let mut bytes = vec![0; rows * cols / 64 * Dtype::FP6.block_bytes()];
    for (b, block) in bytes.chunks_mut(Dtype::FP6.block_bytes()).enumerate() {
        block[..2].copy_from_slice(&scales[b * 64 / cols].to_le_bytes());
        for i in 0..64 {
            format(Dtype::FP6).set_code(block, i, u64::from(codes[b * 64 + i]));
        }
        lost += (0..64).filter(|&i| format(Dtype::FP6).code(block, i) != u64::from(codes[b * 64 + i])).count();
    }
    let mut ours = vec![0.0; rows * cols];
    format(Dtype::FP6).decode(cols, &bytes, &mut ours).map_err(Error::experiment)?;
    let theirs = dequantize_fp6_llm(&planes, rows, cols, &scales).map_err(Error::experiment)?;
    // FP6-LLM rounds the product to a half.
    lost += ours.iter().zip(&theirs).filter(|(a, b)| half::f16::from_f32(**a) != **b).count();
    Ok(lost as f64)
}

/// Outputs of a product over the planes that differ when a row is alone and among others, or on one thread and on several.
pub(super) fn rows_changed(seed: u64) -> Result<f64, Error> {
    let (n, k, m) = (75, 640, 19);
    let mut rng = Philox::new(seed, 242);
    let mut draw = |n: usize| (0..n).map(|_| normal(&mut rng) as f32).collect::<Vec<f32>>();
    let (w, x) = (draw(n * k), draw(m * k));
    let mut bytes = vec![0; n * k / 64 * Dtype::FP6.block_bytes()];
    format(Dtype::FP6).encode(k, &w, &mut bytes).map_err(Error::experiment)?;
    let weights = Weights { dtype: Dtype::FP6, bytes: &bytes, n, k };
    let product = |threads: usize, x: &[f32]| {
        let m = x.len() / k;
        let mut y = vec![f32::NAN; m * n];
        let mut scratch = vec![0; linear_scratch(Dtype::FP6, m, n, k, threads)];
        linear(&Pool::new(threads), weights, x, m, &mut y, &mut scratch);
        y
    };
    let together = product(2, &x);
    let alone: Vec<f32> = x.chunks(k).flat_map(|row| product(1, row)).collect();
    Ok(together.iter().zip(&alone).filter(|(a, b)| a.to_bits() != b.to_bits()).count() as f64)
}

/// Inputs that are not answered as they must be.
pub(super) fn not_answered() -> f64 {
    let fp6 = format(Dtype::FP6);
    let encode = |cols: usize, x: &[f32]| {
        let mut bytes = vec![0xff; x.len().div_ceil(64) * Dtype::FP6.block_bytes()];
        fp6.encode(cols, x, &mut bytes).map(|()| bytes)
    };
    let mut wrong = usize::from(!matches!(encode(96, &[1.0; 96]), Err(FormatError::RaggedRow { cols: 96, .. })));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = [1.0; 128];
        x[70] = bad;
        wrong += usize::from(!matches!(encode(128, &x), Err(FormatError::NotFinite { row: 0, col: 70, .. })));
        wrong += usize::from(quantize_fp6_llm(&x, 1, 128).is_ok());
    }
    wrong += usize::from(!encode(64, &[0.0; 64]).is_ok_and(|bytes| bytes.iter().all(|b| *b == 0)));
    wrong += usize::from(!matches!(encode(64, &[3e6; 64]), Err(FormatError::ScaleOverflow { .. })));
    // 2^12 times the scale is to be a half.
    wrong += usize::from(quantize_fp6_llm(&[28.0 * 15.99; 64], 1, 64).is_err());
    wrong += usize::from(quantize_fp6_llm(&[28.0 * 16.0; 64], 1, 64).is_ok());
    wrong += usize::from(pack_fp6_llm(&[0; 32 * 64], 32, 64).is_ok());
    wrong += usize::from(pack_fp6_llm(&[64; 64 * 64], 64, 64).is_ok());
    wrong as f64
}
