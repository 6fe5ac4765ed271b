//! Properties over arbitrary bytes, values and lengths.

use memwall_formats::{Dtype, F16Le, FormatError, format, scalar};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn any_dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(Dtype::ALL.to_vec())
}

/// Floats by their bits (so of every magnitude, with NaN, infinities and subnormals) and floats as weights have them.
fn any_values(n: usize) -> impl Strategy<Value = Vec<f32>> {
    let wild = prop::collection::vec(any::<u32>().prop_map(f32::from_bits), n);
    let tame = (prop::collection::vec(-1f32..1.0, n), -40i32..30)
        .prop_map(|(x, e)| x.into_iter().map(|v| v * 2f32.powi(e)).collect::<Vec<_>>());
    let few = prop::collection::vec(prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, 0.5, 3e38, 1e-45, -7.0]), n);
    prop_oneof![wild, tame, few]
}

fn decoded(dtype: Dtype, cols: usize, bytes: &[u8], n: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; n];
    format(dtype).decode(cols, bytes, &mut y).expect("bytes of the right length decode");
    y
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode(dtype in any_dtype(), mut bytes in prop::collection::vec(any::<u8>(), 0..1500), shift in 0usize..4) {
        // At any address: what is cast to blocks may begin anywhere.
        bytes.drain(..shift.min(bytes.len()));
        let blocks = bytes.len() / dtype.block_bytes();
        let n = blocks * dtype.block_len();
        let bytes = &bytes[bytes.len() - blocks * dtype.block_bytes()..];
        let y = decoded(dtype, n, bytes, n);
        prop_assert_eq!(y.len(), n);
        // And any code can be read back from them and replaced by itself.
        let mut copy = bytes.to_vec();
        for block in copy.chunks_mut(dtype.block_bytes()) {
            for i in 0..dtype.block_len() {
                let code = format(dtype).code(block, i);
                format(dtype).set_code(block, i, code);
            }
        }
        prop_assert_eq!(&copy, bytes);
    }

    #[test]
    fn lengths_that_fit_give_a_result_and_others_an_error(
        dtype in any_dtype(),
        (row, rows) in (0usize..4, 0usize..4),
        // Off by nothing in half of the cases.
        off in prop_oneof![Just((0, 0, 0)), (0usize..40, 0usize..40, 0usize..40)],
    ) {
        let cols = row * dtype.block_len() + off.0;
        let n = rows * row * dtype.block_len() + off.1;
        let len = rows * row * dtype.block_bytes() + off.2;
        let whole_rows = n == 0 || cols > 0 && n.is_multiple_of(cols);
        let fits = dtype.row_bytes(cols).is_some() && whole_rows && dtype.row_bytes(n) == Some(len);
        let (mut x, mut bytes) = (vec![0.5; n], vec![0; len]);
        prop_assert_eq!(format(dtype).decode(cols, &bytes, &mut x).is_ok(), fits);
        let x = vec![3.0; n];
        prop_assert_eq!(format(dtype).encode(cols, &x, &mut bytes).is_ok(), fits);
        prop_assert!(fits || off != (0, 0, 0));
    }

    #[test]
    fn any_values_are_stored_within_the_bound_or_refused(dtype in any_dtype(), x in any_values(512)) {
        let f = format(dtype);
        let mut bytes = vec![0; dtype.row_bytes(512).expect("whole blocks")];
        match f.encode(512, &x, &mut bytes) {
            Ok(()) => {
                let y = decoded(dtype, 512, &bytes, 512);
                for (x, y) in x.chunks(dtype.block_len()).zip(y.chunks(dtype.block_len())) {
                    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                    let bound = f.error_bound(amax) + amax * 4.0 * f32::EPSILON;
                    for (x, y) in x.iter().zip(y) {
                        let good = (x - y).abs() <= bound || bound == f32::INFINITY || x == y || x.is_nan() && y.is_nan();
                        prop_assert!(good, "{} is stored as {}, bound {}", x, y, bound);
                    }
                }
            }
            Err(FormatError::NotFinite { col, .. }) => prop_assert!(!x[col].is_finite()),
            Err(FormatError::ScaleOverflow { col, amax, .. }) => {
                let block = &x[col..col + dtype.block_len()];
                prop_assert!(block.iter().any(|v| v.abs() == amax) && f.error_bound(amax) == f32::INFINITY || amax > 65504.0);
            }
            Err(FormatError::NotAnInteger { col, .. }) => prop_assert!(x[col].fract() != 0.0 || x[col].abs() >= 2f32.powi(31) || x[col].is_nan()),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    /// Powers of two pass through every operation of the encoders, as long as the scales (for F16 the values) stay normal
    /// halves; those of NVFP4 reach less far.
    #[test]
    fn values_times_a_power_of_two_are_stored_times_that_power(
        dtype in any_dtype().prop_filter("scaled", |d| !matches!(d, Dtype::I32 | Dtype::F16 | Dtype::NVFP4)),
        x in prop::collection::vec(-1f32..1.0, 256),
        exponent in 0i32..8,
    ) {
        let power = 2f32.powi(exponent);
        // Not below 1: a sub-block of magnitude 1e-15 is taken for zero.
        let x: Vec<f32> = x.iter().map(|v| v * 64.0).collect();
        let larger: Vec<f32> = x.iter().map(|v| v * power).collect();
        let store = |x: &[f32]| {
            let mut bytes = vec![0; dtype.row_bytes(256).expect("whole blocks")];
            format(dtype).encode(256, x, &mut bytes).expect("moderate values encode");
            decoded(dtype, 256, &bytes, 256)
        };
        let expected: Vec<f32> = store(&x).iter().map(|v| v * power).collect();
        prop_assert_eq!(store(&larger), expected);
    }

    /// What an encoder with one scale (and minimum) a block has stored, it stores again in the same bytes.
    #[test]
    fn blocks_with_one_scale_are_stored_again_in_the_same_bytes(
        dtype in prop::sample::select(vec![
            Dtype::Q8_0, Dtype::Q5_0, Dtype::Q5_1, Dtype::Q4_0, Dtype::Q4_1, Dtype::TQ1_0, Dtype::TQ2_0, Dtype::MXFP4, Dtype::Q1_0, Dtype::Q2_0, Dtype::FP6,
        ]),
        x in prop::collection::vec(-1f32..1.0, 256),
    ) {
        let store = |x: &[f32]| {
            let mut bytes = vec![0; dtype.row_bytes(256).expect("whole blocks")];
            format(dtype).encode(256, x, &mut bytes).expect("moderate values encode");
            bytes
        };
        let once = store(&x);
        prop_assert_eq!(store(&decoded(dtype, 256, &once, 256)), once);
    }
}

fn half_codes_equal(x: &[f32]) {
    let mut bytes = vec![0; 2 * x.len()];
    let codes =
        |bytes: &[u8]| -> Vec<u16> { bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect() };
    memwall_formats::Format::encode(&scalar::BF16, x.len(), x, &mut bytes).expect("whole rows");
    for (v, code) in x.iter().zip(codes(&bytes)) {
        assert_eq!(code, half::bf16::from_f32(*v).to_bits(), "bf16 of {v} ({:#010x})", v.to_bits());
    }
    memwall_formats::Format::encode(&scalar::F16, x.len(), x, &mut bytes).expect("whole rows");
    for (v, code) in x.iter().zip(codes(&bytes)) {
        // The portable conversion, as the other one may be the processor's.
        let portable = half::f16::from_f32_const(*v);
        let same = code == portable.to_bits() || v.is_nan() && half::f16::from_bits(code).is_nan();
        assert!(same, "f16 of {v} ({:#010x})", v.to_bits());
        let one = F16Le::from_f32(*v).bits();
        assert!(one == code || v.is_nan(), "one f16 of {v} ({:#010x})", v.to_bits());
    }
}

#[test]
fn halves_round_as_the_half_crate_rounds_them_around_every_code_and_midpoint() {
    for high in 0..=u16::MAX {
        // Codes and midpoints of bf16 lie at low halves of 0 and 0x8000, of f16 at 13 low bits of 0 and 0x1000.
        let x: Vec<f32> = (0..=u16::MAX)
            .step_by(0x1000)
            .flat_map(|low| [low.wrapping_sub(1), low, low + 1])
            .map(|low| f32::from_bits(u32::from(high) << 16 | u32::from(low)))
            .collect();
        half_codes_equal(&x);
    }
}

/// All 2^32 floats, in about a minute.
#[test]
#[ignore = "exhaustive: run once after a change of the conversions"]
fn every_float_rounds_as_the_half_crate_rounds_it() {
    for high in 0..=u16::MAX {
        let x: Vec<f32> = (0..=u16::MAX).map(|low| f32::from_bits(u32::from(high) << 16 | u32::from(low))).collect();
        half_codes_equal(&x);
    }
}
