//! Scaled formats keep the laws of `Format` and give the published vectors.

use memwall_formats::element::{E2M1, E4M3_FN, Element, Integer, Range, Rounding, UE4M3};
use memwall_formats::error::ErrorStatistics;
use memwall_formats::scaled::{self, PowerRule, Scale, Scaled};
use memwall_formats::{Format, FormatError, laws};

/// The largest magnitude that formats with a scale of the tensor are made for here: the laws' values reach it.
const REACH: f32 = 2000.0;

/// One of each kind.
fn all() -> Vec<Box<dyn Format>> {
    let mut all: Vec<Box<dyn Format>> = vec![
        Box::new(scaled::mxfp8_e5m2()),
        Box::new(scaled::mxfp8_e4m3()),
        Box::new(scaled::mxfp6_e3m2()),
        Box::new(scaled::mxfp6_e2m3()),
        Box::new(scaled::mxfp4()),
        Box::new(scaled::nvfp4(REACH).expect("a tensor")),
        Box::new(scaled::nvint4(REACH).expect("a tensor")),
        Box::new(scaled::int_by_tensor(8, 32, REACH).expect("eight bits")),
        Box::new(scaled::paper_fp8_by_tensor(3, 32, REACH).expect("a mantissa")),
        Box::new(Scaled::new("INT5_HALF", Integer::new(5, Range::Symmetric), 32, Scale::Half).expect("a block")),
    ];
    for scale in [Scale::Mean, Scale::MeanHalf, Scale::MeanOfTensor(0.7)] {
        let name = format!("TERNARY_{scale:?}");
        all.push(Box::new(Scaled::new(name, Integer::new(2, Range::Symmetric), 32, scale).expect("a block")));
    }
    for bits in 2..=8 {
        all.push(Box::new(scaled::mxint(bits).expect("2 to 8 bits")));
        all.push(Box::new(scaled::bfp(bits, 16).expect("2 to 8 bits")));
        all.push(Box::new(scaled::int_by_group(bits, 64).expect("2 to 8 bits")));
        all.push(Box::new(scaled::int_affine(bits, 128).expect("2 to 8 bits")));
    }
    for rule in [PowerRule::Ceil, PowerRule::Even] {
        let name = |element: &str| format!("{element}_{rule:?}");
        all.push(Box::new(Scaled::new(name("MXFP4"), E2M1, 32, Scale::Power(rule)).expect("a block")));
        all.push(Box::new(Scaled::new(name("MXFP8"), E4M3_FN, 32, Scale::Power(rule)).expect("a block")));
        all.push(Box::new(Scaled::new(name("MXINT8"), Integer::mx(8), 32, Scale::Power(rule)).expect("a block")));
    }
    all
}

#[test]
fn every_scaled_format_keeps_the_laws() {
    let (mut formats, mut values) = (0, 0);
    for format in all() {
        let tally = laws::check(&*format).unwrap_or_else(|broken| panic!("{}: {broken}", format.layout()));
        assert!(tally.codes > 0 && tally.refusals > 0, "{}: {tally:?}", format.layout());
        formats += 1;
        values += tally.values;
    }
    println!("{formats} formats, {values} values");
}

/// The generator of the published vectors.
fn ramp(n: u32) -> Vec<f32> {
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn store(format: &dyn Format, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0; format.layout().row_bytes(x.len()).expect("whole blocks")];
    format.encode(x.len(), x, &mut bytes).expect("finite values");
    let mut y = vec![0f32; x.len()];
    format.decode(x.len(), &bytes, &mut y).expect("decodes");
    (bytes, y)
}

#[test]
fn the_first_block_of_the_ramp_is_as_published() {
    let x = ramp(32);
    let mxint8 = scaled::mxint(8).expect("eight bits");
    let cases: [(&dyn Format, u8, f64, [f32; 8]); 4] = [
        (&mxint8, 127, 42.515, [-1.0, 0.234375, -0.53125, 0.703125, -0.0625, -0.8125, 0.421875, -0.34375]),
        (&scaled::mxfp8_e4m3(), 119, 32.633, [-256.0, 60.0, -128.0, 176.0, -14.0, -208.0, 104.0, -88.0]),
        (&scaled::mxfp6_e2m3(), 125, 32.194, [-4.0, 1.0, -2.0, 2.75, -0.25, -3.25, 1.625, -1.375]),
        (&scaled::mxfp6_e3m2(), 123, 26.489, [-16.0, 4.0, -8.0, 12.0, -0.875, -14.0, 7.0, -6.0]),
    ];
    let last: (&dyn Format, u8, f64, [f32; 8]) =
        (&scaled::mxfp4(), 125, 20.137, [-4.0, 1.0, -2.0, 3.0, -0.0, -3.0, 1.5, -1.5]);
    for (format, code, published_db, elements) in cases.into_iter().chain([last]) {
        let name = format.layout();
        let (bytes, y) = store(format, &x);
        assert_eq!(bytes[0], code, "{name}");
        let scale = 2f32.powi(i32::from(code) - 127);
        let ours: Vec<u32> = y[..8].iter().map(|v| (v / scale).to_bits()).collect();
        assert_eq!(ours, elements.map(f32::to_bits), "{name}");
        let db = ErrorStatistics::of(&x, &y).sqnr_db();
        assert!((db - published_db).abs() < 5.01e-4, "{name}: {db} dB, published {published_db}");
    }
    assert_eq!(store(&scaled::mxfp8_e5m2(), &x).0[0], 112);
}

/// The definition of NVFP4 and NVINT4 step by step, over many blocks.
#[test]
fn nvidias_formats_are_their_definition() {
    let x = ramp(4096);
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let fp4 = scaled::nvfp4(amax).expect("a tensor");
    let int4 = scaled::nvint4(amax).expect("a tensor");
    for (format, max) in [(&fp4 as &dyn Format, 6.0f32), (&int4, 7.0)] {
        let tensor = amax / (448.0 * max);
        let (_, y) = store(format, &x);
        for (x, y) in x.chunks(16).zip(y.chunks(16)) {
            let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            let scale = UE4M3.decode(UE4M3.encode(largest / max / tensor, Rounding::HalfEven, true)) * tensor;
            for (x, y) in x.iter().zip(y) {
                let q = if max == 6.0 {
                    E2M1.decode(E2M1.encode(x / scale, Rounding::HalfEven, true))
                } else {
                    (x / scale).round_ties_even().clamp(-7.0, 7.0)
                };
                assert_eq!(q * scale, *y, "{}: {x}", format.layout());
            }
        }
        let blank = store(format, &[0.0; 32]).1;
        assert!(blank.iter().all(|v| *v == 0.0));
        let mut one = vec![0.0; 32];
        one[3] = amax;
        assert!(store(format, &one).1[16..].iter().all(|v| *v == 0.0), "a block of zeros among others");
    }
    assert_eq!(fp4.bits_per_value(), 4.5);
}

/// Floor clips what lies beyond the largest element, ceil never, even only what rounds to it.
#[test]
fn rules_of_the_scale_clip_as_they_say() {
    let of = |rule| Scaled::new("MXFP8", E4M3_FN, 32, Scale::Power(rule)).expect("a block");
    let decoded = |rule, v: f32| store(&of(rule), &[v; 32]).1[0];
    // A public report of the floor rule: 957 becomes 896.
    assert_eq!(decoded(PowerRule::Floor, 957.0), 896.0);
    assert_eq!(decoded(PowerRule::Ceil, 957.0), 960.0);
    // 957 / 2 rounds to 480, the top of its binade without the code of NaN, so even keeps the scale; 1000 / 2 rounds beyond.
    assert_eq!(decoded(PowerRule::Even, 957.0), 896.0);
    assert_eq!(decoded(PowerRule::Even, 1000.0), 1024.0);
    assert_eq!(decoded(PowerRule::Floor, 1000.0), 896.0);
    for (rule, code) in [(PowerRule::Floor, 127), (PowerRule::Ceil, 128), (PowerRule::Even, 127)] {
        let mxfp4 = Scaled::new("MXFP4", E2M1, 32, Scale::Power(rule)).expect("a block");
        assert_eq!(store(&mxfp4, &[6.5; 32]).0[0], code, "{rule:?}");
    }
}

/// BFP is MXINT of any block and width: step 2^(e - p + 2), nearest, clipped symmetrically.
#[test]
fn block_floating_point_is_its_definition() {
    let x = ramp(4096);
    for (bits, len) in [(4, 16), (8, 64), (5, 128), (2, 8), (8, 32)] {
        let format = scaled::bfp(bits, len).expect("2 to 8 bits");
        let (_, y) = store(&format, &x);
        for (x, y) in x.chunks(len).zip(y.chunks(len)) {
            let exponent = x.iter().fold(0f32, |m, v| m.max(v.abs())).log2().floor() as i32;
            let step = 2f32.powi(exponent - bits as i32 + 2);
            let most = ((1 << (bits - 1)) - 1) as f32;
            for (x, y) in x.iter().zip(y) {
                assert_eq!((x / step).round_ties_even().clamp(-most, most) * step, *y, "{x}, {bits} bits");
            }
        }
        assert!((format.bits_per_value() - (f64::from(bits) + 8.0 / len as f64)).abs() < 1e-12);
    }
    assert_eq!(store(&scaled::bfp(8, 32).expect("8 bits"), &x).0, store(&scaled::mxint(8).expect("8 bits"), &x).0);
}

#[test]
fn symmetric_formats_are_odd() {
    let x = ramp(1024);
    let minus: Vec<f32> = x.iter().map(|v| -v).collect();
    for format in all().iter().filter(|f| !f.layout().name.starts_with("UINT")) {
        let negated: Vec<f32> = store(&**format, &x).1.iter().map(|v| -v).collect();
        assert_eq!(store(&**format, &minus).1, negated, "{}", format.layout());
    }
}

/// A zero point maps the ends of a one-sided block to the ends of the codes, and zero to itself.
#[test]
fn a_zero_point_keeps_zero_and_both_ends() {
    let format = scaled::int_affine(4, 16).expect("four bits");
    for (low, high) in [(0.0, 3.0), (-2.0, 1.0), (-3.0, 0.0), (0.5, 1.5)] {
        let mut x: Vec<f32> = (0..16).map(|i| low + (high - low) * i as f32 / 15.0).collect();
        x[7] = 0.0;
        let (_, y) = store(&format, &x);
        let step = (high.max(0.0) - low.min(0.0)) / 15.0;
        assert_eq!(y[7], 0.0, "{low}..{high}");
        for (x, y) in x.iter().zip(&y) {
            assert!((x - y).abs() <= step * 1.000_01, "{low}..{high}: {x} became {y}");
        }
    }
}

#[test]
fn stochastic_rounding_is_unbiased_over_a_tensor_and_repeats_itself() {
    let x = vec![0.3f32; 1 << 16];
    let format = scaled::mxint(4).expect("four bits").with_rounding(Rounding::Stochastic { seed: 5, position: 0 });
    let (bytes, y) = store(&format, &x);
    let mean = y.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len() as f64;
    assert!((mean - 0.3).abs() < 5.0 * 0.0313 / 256.0, "{mean}");
    assert_eq!(store(&format, &x).0, bytes);
}

#[test]
fn the_last_binade_clips_as_every_other_does() {
    for exponent in [0, 127] {
        let top = 2f32.powi(exponent);
        let x = [1.999 * top, -1.999 * top, top, 0.0].repeat(4);
        let (_, y) = store(&scaled::bfp(4, 16).expect("four bits"), &x);
        assert_eq!(y, [1.75 * top, -1.75 * top, top, 0.0].repeat(4), "2^{exponent}");
    }
}

#[test]
fn what_a_scale_cannot_hold_is_refused_with_its_place() {
    let format = scaled::int_by_tensor(8, 32, 1.0).expect("eight bits");
    let mut x = vec![0.5f32; 128];
    x[70] = 1.1;
    let mut bytes = vec![0; 128];
    let refused = format.encode(64, &x, &mut bytes).expect_err("beyond the tensor's largest");
    assert!(matches!(refused, FormatError::ScaleOverflow { row: 1, col: 0, .. }), "{refused}");
    assert!(refused.to_string().contains("INT8_TENSOR"), "{refused}");
    for bad in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
        assert!(scaled::int_by_tensor(8, 32, bad).is_err(), "{bad}");
    }
    assert!(scaled::mxint(1).is_err() && scaled::mxint(9).is_err() && scaled::bfp(8, 0).is_err());
    assert!(scaled::paper_fp8_by_tensor(7, 32, 1.0).is_err());
}
