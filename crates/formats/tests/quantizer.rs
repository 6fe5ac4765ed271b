//! Quantizers give what their formats give, bit for bit, and know what the formats clip.

use memwall_formats::element::{E2M1, E4M3_FN, Element, Float, Integer, Range};
use memwall_formats::packing::absmean;
use memwall_formats::scaled::{self, PowerRule, Scale, Scaled};
use memwall_formats::{Dtype, Format, FormatError, Quantizer, format};
use proptest::prelude::*;

fn named(name: &str) -> Quantizer {
    name.parse().unwrap_or_else(|e| panic!("{e}"))
}

fn run(q: Quantizer, cols: usize, x: &[f32], reached: bool) -> Result<Vec<f32>, FormatError> {
    let of = q.of_tensor(cols, x)?;
    let (mut y, mut scratch) = (vec![f32::NAN; x.len()], vec![0; q.scratch_bytes(cols)]);
    match reached {
        false => q.round(of, cols, x, &mut y, &mut scratch)?,
        true => q.reached(of, cols, x, &mut y, &mut scratch)?,
    }
    Ok(y)
}

fn round(q: Quantizer, cols: usize, x: &[f32]) -> Vec<f32> {
    run(q, cols, x, false).unwrap_or_else(|e| panic!("{q}: {e}"))
}

/// Values through the bytes of a format.
fn back(format: &dyn Format, cols: usize, x: &[f32]) -> Vec<f32> {
    let row = format.layout().row_bytes(cols).expect("whole blocks");
    let mut bytes = vec![0; x.len() / cols * row];
    format.encode(cols, x, &mut bytes).expect("finite values");
    let mut y = vec![0.0; x.len()];
    format.decode(cols, &bytes, &mut y).expect("decodes");
    y
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Values of many sizes, some zero, some alike.
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n)
        .map(|i| match i % 17 {
            3 => 0.0,
            5 => 0.5,
            11 => -8.0 * draw(),
            _ => draw() * draw(),
        })
        .collect()
}

fn group<E: Element + 'static>(element: E, len: usize, scale: Scale) -> Box<dyn Format> {
    Box::new(Scaled::new("reference", element, len, scale).expect("a format"))
}

/// The format that a quantizer is, for a tensor of rows of `cols`.
fn reference(name: &str, cols: usize, x: &[f32]) -> Box<dyn Format> {
    let amax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let ternary = Integer::new(2, Range::Symmetric);
    match name {
        "int8:row" => Box::new(scaled::int_by_group(8, cols).expect("bits")),
        "int4:group32" => Box::new(scaled::int_by_group(4, 32).expect("bits")),
        "int3:tensor" => Box::new(scaled::int_by_tensor(3, cols, amax).expect("a magnitude")),
        "fp8_e4m3:row" => group(E4M3_FN, cols, Scale::Single),
        "fp4_e2m1:tensor" => group(E2M1, cols, Scale::Tensor(amax / Float::max(&E2M1))),
        "ternary:row" => group(ternary, cols, Scale::Mean),
        "ternary_f16:group16" => group(ternary, 16, Scale::MeanHalf),
        "mxint8" => Box::new(scaled::mxint(8).expect("bits")),
        "mxint4_ceil" => group(Integer::mx(4), 32, Scale::Power(PowerRule::Ceil)),
        "mxfp4" => Box::new(scaled::mxfp4()),
        "mxfp8_e4m3" => Box::new(scaled::mxfp8_e4m3()),
        "mxfp8_e4m3_ceil" => group(E4M3_FN, 32, Scale::Power(PowerRule::Ceil)),
        "nvfp4:tensor" => Box::new(scaled::nvfp4(amax).expect("a magnitude")),
        "nvint4:tensor" => Box::new(scaled::nvint4(amax).expect("a magnitude")),
        "nvfp4:block" => group(E2M1, 16, Scale::UE4M3 { tensor: 1.0 }),
        other => panic!("{other} has no reference here"),
    }
}

const SCALED: [&str; 15] = [
    "int8:row",
    "int4:group32",
    "int3:tensor",
    "fp8_e4m3:row",
    "fp4_e2m1:tensor",
    "ternary:row",
    "ternary_f16:group16",
    "mxint8",
    "mxint4_ceil",
    "mxfp4",
    "mxfp8_e4m3",
    "mxfp8_e4m3_ceil",
    "nvfp4:tensor",
    "nvint4:tensor",
    "nvfp4:block",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn rounding_is_encoding_and_decoding(rows in 1usize..5, blocks in 1usize..4, seed in 0u32..1000) {
        let cols = 32 * blocks;
        let x = values(rows * cols, seed);
        for name in SCALED {
            let want = back(&*reference(name, cols, &x), cols, &x);
            prop_assert_eq!(bits(&round(named(name), cols, &x)), bits(&want), "{}", name);
        }
        // The second scale of each row.
        let by_row = round(named("nvfp4:row"), cols, &x);
        for (x, y) in x.chunks(cols).zip(by_row.chunks(cols)) {
            prop_assert_eq!(bits(y), bits(&back(&*reference("nvfp4:tensor", cols, x), cols, x)));
        }
    }

    #[test]
    fn types_of_files_are_rounded_as_files_store_them(rows in 1usize..4, seed in 0u32..1000) {
        let x = values(rows * 256, seed);
        for q in Quantizer::all() {
            let Some(dtype) = q.dtype() else { continue };
            prop_assert_eq!(bits(&round(q, 256, &x)), bits(&back(format(dtype), 256, &x)), "{}", dtype);
        }
    }

    #[test]
    fn ternary_by_tensor_is_absmean(rows in 1usize..6, cols in 1usize..40, seed in 0u32..1000) {
        let x = values(rows * cols, seed);
        let (codes, scale) = absmean(&x).expect("finite");
        let want: Vec<f32> = codes.iter().map(|c| f32::from(*c) * scale).collect();
        prop_assert_eq!(bits(&round(named("ternary"), cols, &x)), bits(&want));
        // With a half-precision scale the codes are those of that scale, and half precision holds every value.
        for y in round(named("ternary_f16"), cols, &x) {
            prop_assert_eq!(half::f16::from_f32(y).to_f32(), y);
        }
    }

    #[test]
    fn rows_do_not_depend_on_others_unless_the_tensor_has_a_scale(rows in 2usize..5, seed in 0u32..1000) {
        let x = values(rows * 256, seed);
        for q in Quantizer::all().filter(Quantizer::rows_are_independent) {
            let whole = round(q, 256, &x);
            for (x, y) in x.chunks(256).zip(whole.chunks(256)) {
                prop_assert_eq!(bits(&round(q, 256, x)), bits(y), "{}", q);
            }
        }
    }
}

#[test]
fn what_is_clipped_is_what_lies_beyond_the_largest_code() {
    // The mean is 1, so 2.5 clips to 1 and 1 does not.
    let x = [1.0, -1.0, 2.5, 0.0, 0.25, -0.25, 1.0, -2.0];
    assert_eq!(run(named("ternary"), 8, &x, true).expect("finite"), [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    // OCP's floor rule: E4M3 reaches 448 where a block of up to 512 has the scale 1.
    let mut x = [1.0; 32];
    (x[3], x[4]) = (500.0, -448.0);
    let mut want = [1.0; 32];
    want[3] = 0.0;
    assert_eq!(run(named("mxfp8_e4m3"), 32, &x, true).expect("finite"), want);
    assert_eq!(run(named("mxfp8_e4m3_ceil"), 32, &x, true).expect("finite"), [1.0; 32]);
    // Q4_0's scale is the largest over -8: its opposite has no code.
    let mut x = [0.5; 32];
    (x[0], x[7]) = (-8.0, 7.9);
    let mut want = [1.0; 32];
    want[7] = 0.0;
    assert_eq!(run(named("Q4_0"), 32, &x, true).expect("finite"), want);
}

#[test]
fn the_largest_magnitude_of_a_scale_by_it_is_never_clipped() {
    for seed in 0..50 {
        let x = values(256, seed);
        for name in
            ["int8:row", "int4:group32", "int2:tensor", "fp8_e5m2:row", "fp4_e2m1:tensor", "mxint4_ceil", "F16", "Q8_0"]
        {
            let reached = run(named(name), 256, &x, true).expect("finite");
            assert!(reached.iter().all(|r| *r == 1.0), "{name}, seed {seed}");
        }
    }
}

#[test]
fn zeros_stay_zeros_and_what_is_not_finite_is_refused_by_its_place() {
    for q in Quantizer::all() {
        assert!(round(q, 256, &[0.0; 512]).iter().all(|y| *y == 0.0), "{q}");
        let Some(dtype) = q.dtype().filter(|d| !d.is_block()) else {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = values(512, 1);
                x[256 + 7] = bad;
                match run(q, 256, &x, false) {
                    Err(FormatError::NotFinite { row: 1, col: 7, .. }) => {}
                    other => panic!("{q}: {other:?}"),
                }
            }
            continue;
        };
        assert!(matches!(dtype, Dtype::F16 | Dtype::BF16), "{dtype} stores what is not finite");
    }
}

#[test]
fn rows_that_are_no_whole_blocks_are_refused() {
    let error = named("mxint8").check(48).expect_err("ragged").to_string();
    assert!(error.contains("48") && error.contains("32") && error.contains("mxint8"), "{error}");
    assert!(named("int8").check(48).is_ok() && named("int4:group16").check(48).is_ok());
}
