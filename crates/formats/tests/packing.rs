//! Packings are those of their engines, by published hashes, and come back.

use memwall_formats::Dtype;
use memwall_formats::element::{E3M2, Element, Rounding};
use memwall_formats::packing::{
    Dequantization, INT4_FP8_BYTES, PackingError, absmean, dequantize_fp6_llm, four_halves, join_fireq, pack_bitnet,
    pack_fp6_llm, pack_high_first, pack_int4_fp8, pack_low_first, quantize_fp6_llm, split_fireq, tensor_exponent,
    unpack_bitnet, unpack_fp6_llm, unpack_high_first, unpack_int4_fp8, unpack_low_first,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// FNV-1a-64 with the basis of the published hashes.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(1_469_598_103_934_665_603, |h, b| (h ^ u64::from(*b)).wrapping_mul(1_099_511_628_211))
}

/// The 64 × 64 codes of the published vectors.
fn published() -> Vec<u8> {
    (0..64 * 64).map(|i| ((7 * (i / 64) + 13 * (i % 64)) % 64) as u8).collect()
}

fn noise(n: usize, below: u32) -> Vec<u8> {
    let mut state = 5u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u32
    };
    (0..n).map(|_| (next() % below) as u8).collect()
}

#[test]
fn the_stream_of_six_bits_is_as_published() {
    let bytes = pack_high_first(&published(), 6).expect("six bits");
    assert!(hex(&bytes).starts_with("00d6a7d0139ba3508f729d83"));
    assert_eq!(fnv(&bytes), 0xc8e2_b9de_515f_a903);
}

#[test]
fn the_planes_of_fp6_llm_are_as_published() {
    let planes = pack_fp6_llm(&published(), 64, 64).expect("whole tiles");
    let (two, four) = planes.split_at(64 * 64 / 4);
    assert!(hex(two).starts_with("e92d2d3e7243438794d8e92d2d3e7243"), "{}", hex(&two[..16]));
    assert_eq!(fnv(two), 0xd4a0_f5cd_6e74_6473);
    assert!(hex(four).starts_with("80085dd52aa2f77fc44c91196ee63bb3"), "{}", hex(&four[..16]));
    assert_eq!(fnv(four), 0x2015_7cfd_9ec9_5183);
}

#[test]
fn shifted_codes_are_halves_of_their_values_over_4096() {
    for code in 0..64u8 {
        let others = [code, code ^ 21, 63 - code, code ^ 32];
        let halves = four_halves(u32::from_le_bytes(others.map(|c| c << 2)));
        for (half, code) in halves.into_iter().zip(others) {
            let value = half::f16::from_bits(half).to_f32() * 4096.0;
            assert_eq!(value.to_bits(), E3M2.decode(code).to_bits(), "code {code}");
            assert_eq!(E3M2.encode(value, Rounding::HalfEven, true), code);
        }
    }
}

#[test]
fn quantized_rows_come_back_from_fp6_llms_planes() {
    let (rows, cols) = (128, 192);
    let mut weights: Vec<f32> = noise(rows * cols, 200).iter().map(|b| (f32::from(*b) - 100.0) / 977.0).collect();
    weights[5 * cols..6 * cols].fill(0.0);
    let (codes, scales) = quantize_fp6_llm(&weights, rows, cols).expect("finite weights");
    let planes = pack_fp6_llm(&codes, rows, cols).expect("whole tiles");
    let back = dequantize_fp6_llm(&planes, rows, cols, &scales).expect("whole tiles");
    for (row, scale) in scales.iter().enumerate() {
        let scale = scale.to_f32();
        for at in row * cols..(row + 1) * cols {
            let exact = E3M2.decode(codes[at]) * scale;
            assert_eq!(back[at], half::f16::from_f32(exact), "row {row}");
            assert!((exact - weights[at]).abs() <= 2.001 * scale, "row {row}: {} became {exact}", weights[at]);
        }
    }
    assert!(back[5 * cols..6 * cols].iter().all(|w| w.to_f32() == 0.0) && scales[5].to_f32() == 0.0);
    weights[7] = 28.0 * 16.0;
    let refused = quantize_fp6_llm(&weights, rows, cols);
    assert!(matches!(refused, Err(PackingError::Scale { row: 0, .. })), "{refused:?}");
    weights[7] = f32::NAN;
    assert!(matches!(quantize_fp6_llm(&weights, rows, cols), Err(PackingError::NotFinite { index: 7, .. })));
    assert!(dequantize_fp6_llm(&planes, rows, cols, &scales[1..]).is_err());
}

#[test]
fn packed_codes_come_back() {
    for (rows, cols) in [(64, 64), (128, 64), (64, 192), (192, 256)] {
        let codes = noise(rows * cols, 64);
        let planes = pack_fp6_llm(&codes, rows, cols).expect("whole tiles");
        assert_eq!(planes.len(), rows * cols * 3 / 4);
        assert_eq!(unpack_fp6_llm(&planes, rows, cols).expect("whole tiles"), codes);
    }
    for bits in 1..=8 {
        let codes = noise(1001, 1 << bits);
        let (high, low) =
            (pack_high_first(&codes, bits).expect("codes fit"), pack_low_first(&codes, bits).expect("codes fit"));
        assert_eq!(high.len(), (1001 * bits as usize).div_ceil(8));
        assert_eq!(unpack_high_first(&high, bits, 1001).expect("all bytes"), codes);
        assert_eq!(unpack_low_first(&low, bits, 1001).expect("all bytes"), codes);
    }
    let ternary: Vec<i8> = noise(40 * 33, 3).iter().map(|c| *c as i8 - 1).collect();
    let bytes = pack_bitnet(&ternary, 40, 33).expect("four strips");
    assert_eq!(bytes.len(), 10 * 33);
    assert_eq!(unpack_bitnet(&bytes, 40, 33).expect("four strips"), ternary);
}

/// Code `j` at bit `6 j`, and strips of rows by two bits.
#[test]
fn bits_lie_where_the_sheets_say() {
    assert_eq!(pack_low_first(&[1, 2, 3, 63], 6).expect("six bits"), [0x81, 0x30, 0xfc]);
    let rows: [i8; 8] = [-1, 0, 1, -1, 0, 1, 1, 0];
    // Byte (r, c): rows r, r + 2, r + 4, r + 6.
    assert_eq!(pack_bitnet(&rows, 8, 1).expect("four strips"), [0x98, 0x61]);
}

#[test]
fn ternary_weights_are_those_of_bitnet_and_survive_ggufs_ternary_types() {
    let (codes, scale) = absmean(&[0.5, -1.5, 0.0, 2.0, 0.49, -0.2, 1.0, -2.31]).expect("finite weights");
    assert!((scale - 1.0).abs() < 1e-6, "{scale}");
    // Half of the scale is in the middle and goes to the even code, 0.
    assert_eq!(codes, [0, -1, 0, 1, 0, 0, 1, -1]);
    assert_eq!(absmean(&[0.0; 4]).expect("finite weights"), (vec![0; 4], 1e-5));
    assert!(matches!(absmean(&[1.0, f32::NAN]), Err(PackingError::NotFinite { index: 1, .. })));

    let weights: Vec<f32> = noise(512, 200).iter().map(|b| (f32::from(*b) - 100.0) / 128.0).collect();
    let (codes, scale) = absmean(&weights).expect("finite weights");
    let scale = half::f16::from_f32(scale).to_f32();
    let ternary: Vec<f32> = codes.iter().map(|c| f32::from(*c) * scale).collect();
    for dtype in [Dtype::TQ1_0, Dtype::TQ2_0, Dtype::Q2_0] {
        let format = memwall_formats::format(dtype);
        let mut bytes = vec![0; dtype.row_bytes(512).expect("whole blocks")];
        format.encode(512, &ternary, &mut bytes).expect("finite weights");
        let mut back = vec![0f32; 512];
        format.decode(512, &bytes, &mut back).expect("whole blocks");
        assert_eq!(back, ternary, "{dtype}");
    }
}

#[test]
fn what_cannot_be_packed_is_refused_with_its_place() {
    assert!(matches!(pack_fp6_llm(&[0; 64 * 32], 64, 32), Err(PackingError::Ragged { cols: 32, .. })));
    assert!(matches!(pack_fp6_llm(&[0; 64], 64, 64), Err(PackingError::Length { have: 64, need: 4096, .. })));
    let mut codes = vec![0; 64 * 64];
    codes[64 * 5 + 7] = 64;
    assert!(matches!(pack_fp6_llm(&codes, 64, 64), Err(PackingError::Code { row: 5, col: 7, code: 64, .. })));
    assert!(matches!(unpack_fp6_llm(&[0; 3], 64, 64), Err(PackingError::Length { .. })));
    assert!(matches!(pack_bitnet(&[0; 6], 3, 2), Err(PackingError::Ragged { rows: 3, .. })));
    assert!(matches!(pack_bitnet(&[0, 0, 2, 0], 4, 1), Err(PackingError::Code { row: 2, col: 0, code: 2, .. })));
    assert!(matches!(unpack_bitnet(&[0xc0], 4, 1), Err(PackingError::Code { row: 3, col: 0, code: 3, .. })));
    assert!(unpack_high_first(&[0; 2], 6, 4).is_err());
}

#[test]
fn integers_of_four_bits_come_back_and_go_through_fireqs_tensors() {
    let (rows, cols) = (7, 384);
    let mut weights: Vec<f32> = noise(rows * cols, 200).iter().map(|b| (f32::from(*b) - 100.0) / 9770.0).collect();
    weights[128..256].fill(0.0);
    for raised in [false, true] {
        let exponent = tensor_exponent(&weights, raised);
        let bytes = pack_int4_fp8(&weights, rows, cols, exponent).expect("finite weights");
        assert_eq!(bytes.len(), rows * cols / 128 * INT4_FP8_BYTES);
        let back = unpack_int4_fp8(&bytes, rows, cols, exponent, Dequantization::Exact).expect("whole groups");
        let fp8 = unpack_int4_fp8(&bytes, rows, cols, exponent, Dequantization::Fp8).expect("whole groups");
        for ((w, back), fp8) in weights.iter().zip(&back).zip(&fp8) {
            // A scale of at most 0.0103 / 7: a normal number of E4M3 is off by a sixteenth; one or two units of the smallest, as
            // published, by a third, which the largest values of a group lose.
            let bound = if raised { 0.6 * 0.0103 / 7.0 } else { 0.0103 / 3.0 };
            assert!((w - back).abs() <= bound, "{w} became {back}");
            assert!((back - fp8).abs() <= back.abs() / 16.0);
        }
        let again = pack_int4_fp8(&back, rows, cols, exponent).expect("finite weights");
        let stored_again = unpack_int4_fp8(&again, rows, cols, exponent, Dequantization::Exact).expect("whole groups");
        assert!(stored_again.iter().zip(&back).all(|(a, b)| (a - b).abs() <= 1e-3), "what was stored is near what is");
        let (words, scales) = split_fireq(&bytes).expect("whole groups");
        assert_eq!(join_fireq(&words, &scales, rows, cols).expect("whole groups"), bytes);
        let code = words[1] >> 12 & 15;
        assert_eq!(code, i32::from(bytes[1 + 4 + 1] >> 4), "code 3 of word 1 is at bit 12");
    }
    assert!(tensor_exponent(&weights, false) > 0, "scales of 0.0014 are below the smallest");
    assert!(matches!(pack_int4_fp8(&weights, 8, 336, 0), Err(PackingError::Ragged { .. })));
    assert!(matches!(pack_int4_fp8(&[449.0; 128], 1, 128, 0), Err(PackingError::TooLarge { index: 0, .. })));
    assert!(matches!(pack_int4_fp8(&[f32::NAN; 128], 1, 128, 0), Err(PackingError::NotFinite { .. })));
    assert!(split_fireq(&[0; 64]).is_err() && join_fireq(&[0; 16], &[], 1, 128).is_err());
}
