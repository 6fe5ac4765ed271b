use super::*;
use memwall_formats::element::{E4M3_FN, Element, Rounding};
use memwall_formats::packing::{pack_int4_fp8, tensor_exponent, unpack_int4_fp8};

const BOTH: [Dequantization; 2] = [Dequantization::Exact, Dequantization::Fp8];

fn sets() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect())
}

/// Numbers in about -1..1, the same every time, with a few far larger.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|i| (next() + next() + next()) * if i % 97 == 13 { 8.0 } else { 0.6 }).collect()
}

fn product(isa: Isa, threads: usize, w: &Int4Fp8<'_>, how: Dequantization, x: &[f32], m: usize) -> Vec<f32> {
    let mut y = vec![f32::from_bits(0x7fc0_1234); m * w.n()];
    let mut scratch = vec![0xa5; int4_fp8_scratch(w, m, threads)];
    run(isa, &Pool::new(threads), w, how, x, m, &mut y, &mut scratch);
    y
}

/// The product in plain numbers, from the formats' own decoder: one element after the other in the order of the law.
fn reference(bytes: &[u8], n: usize, k: usize, exponent: u32, how: Dequantization, x: &[f32]) -> Vec<f32> {
    let w = unpack_int4_fp8(bytes, n, k, 0, how).expect("whole groups");
    let over = 2f32.powi(-(exponent as i32));
    let mut y = Vec::new();
    for x in x.chunks(k) {
        let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let s = bf16::from_f32(amax / 448.0).to_f32();
        let s = if s > 0.0 { s } else { 1.0 };
        let x: Vec<f32> = x.iter().map(|x| E4M3_FN.decode(E4M3_FN.encode(x / s, Rounding::HalfEven, true))).collect();
        for (j, w) in w.chunks(k).enumerate() {
            let mut sum = 0f32;
            for (part, (w, x)) in w.chunks(32).zip(x.chunks(32)).enumerate() {
                let scale = E4M3_FN.decode(bytes[(j * k / 128 + part / 4) * INT4_FP8_BYTES]);
                let mut chain = 0f32;
                for eight in 0..4 {
                    for i in (0..4).map(|i| 8 * eight + i) {
                        // With exact values the scale is left out of the chain, which is a matter of rounding only.
                        let w = |i: usize| if how == Dequantization::Exact { w[i] / scale } else { w[i] };
                        chain = w(i).mul_add(x[i], w(i + 4).mul_add(x[i + 4], chain));
                    }
                }
                sum = chain.mul_add(if how == Dequantization::Exact { scale } else { 1.0 }, sum);
            }
            y.push(sum * over * s);
        }
    }
    y
}

#[test]
fn products_equal_the_law_in_plain_numbers_bit_for_bit() {
    for (k, size) in [(128, 1.0), (256, 1e-3), (1280, 0.02)] {
        for raised in [false, true] {
            let (n, m) = (37, 9);
            let weights: Vec<f32> = noise(n * k, 3).iter().map(|w| w * size).collect();
            let exponent = tensor_exponent(&weights, raised);
            let bytes = pack_int4_fp8(&weights, n, k, exponent).expect("finite weights");
            let w = Int4Fp8::new(&bytes, n, k, exponent).expect("a matrix");
            let mut x = noise(m * k, 5);
            x[2 * k..3 * k].fill(0.0);
            for how in BOTH {
                let want = reference(&bytes, n, k, exponent, how, &x);
                for isa in sets() {
                    for threads in [1, 3] {
                        let together = product(isa, threads, &w, how, &x, m);
                        let same = together.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits() || a == b);
                        assert!(same, "{isa:?} {how:?} k={k} {size}");
                    }
                    for (i, x) in x.chunks(k).enumerate() {
                        let alone = product(isa, 1, &w, how, x, 1);
                        let row = &want[i * n..(i + 1) * n];
                        assert!(alone.iter().zip(row).all(|(a, b)| a == b), "{isa:?} {how:?} k={k} row {i} alone");
                    }
                }
            }
        }
    }
}

#[test]
fn rounded_values_are_those_of_e4m3_for_every_scale_and_code() {
    // A row for each scale, each code once and a one of x to meet it.
    let mut bytes = Vec::new();
    let scales: Vec<u8> = (1..=0x66).collect();
    for &scale in &scales {
        bytes.push(scale);
        bytes.extend((0..64u8).map(|i| ((2 * i) % 16) | (((2 * i + 1) % 16) << 4)));
    }
    let w = Int4Fp8::new(&bytes, scales.len(), 128, 0).expect("a matrix");
    for code in 0..16usize {
        let mut x = vec![0.0; 128];
        x[code + 32] = 448.0;
        for isa in sets() {
            let y = product(isa, 1, &w, Dequantization::Fp8, &x, 1);
            for (y, &scale) in y.iter().zip(&scales) {
                let exact = signed(code as u32) as f32 * E4M3_FN.decode(scale);
                let want = E4M3_FN.decode(E4M3_FN.encode(exact, Rounding::HalfEven, true));
                assert_eq!(*y, 448.0 * want, "{isa:?} code {code} scale {scale:#x}");
            }
        }
    }
}

#[test]
fn inputs_round_to_e4m3_as_the_element_does() {
    for bits in (0..=0x4400_0000u32).step_by(97).flat_map(|b| [b, b | 1 << 31]) {
        let x = f32::from_bits(bits);
        let want = E4M3_FN.decode(E4M3_FN.encode(x, Rounding::HalfEven, true));
        assert_eq!(nearest_e4m3(x).to_bits(), want.to_bits(), "{x}");
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row_and_long_rows_cross_slices() {
    let (n, k, m) = (20, 128 * 40, 7);
    let weights = noise(n * k, 7);
    let bytes = pack_int4_fp8(&weights, n, k, 0).expect("finite weights");
    let w = Int4Fp8::new(&bytes, n, k, 0).expect("a matrix");
    let clean = noise(m * k, 8);
    for isa in sets() {
        for how in BOTH {
            let want = product(isa, 2, &w, how, &clean, m);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = clean.clone();
                x[3 * k + 301] = bad;
                let y = product(isa, 1, &w, how, &x, m);
                for (i, (y, want)) in y.chunks(n).zip(want.chunks(n)).enumerate() {
                    let right = if i == 3 { y.iter().all(|y| y.is_nan()) } else { y == want };
                    assert!(right, "{isa:?} {how:?} row {i}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_matrix_is_refused() {
    let bytes = pack_int4_fp8(&noise(256, 9), 2, 128, 0).expect("finite weights");
    assert_eq!(Int4Fp8::new(&bytes, 2, 120, 0).unwrap_err(), Int4Fp8Error::Ragged { k: 120 });
    assert!(matches!(Int4Fp8::new(&bytes, 3, 128, 0), Err(Int4Fp8Error::Bytes { need: 195, have: 130, .. })));
    for code in [0x7f, 0x80, 0x69, 0xff] {
        let mut bad = bytes.clone();
        bad[INT4_FP8_BYTES] = code;
        assert_eq!(Int4Fp8::new(&bad, 2, 128, 0).unwrap_err(), Int4Fp8Error::Scale { row: 1, group: 0, code });
    }
    let mut y = [1.0; 2];
    let w = Int4Fp8::new(&[], 2, 0, 0).expect("no inputs");
    int4_fp8(&Pool::new(1), &w, Dequantization::Exact, &[], 1, &mut y, &mut vec![0; int4_fp8_scratch(&w, 1, 1)]);
    assert_eq!(y, [0.0; 2]);
}
