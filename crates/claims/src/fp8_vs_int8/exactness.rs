//! What holds to the bit: the published quantizer's formula, its grid beside OCP's, integers with a zero point, refusals.

use memwall_formats::Format;
use memwall_formats::element::{E4M3_FN, Element, Float};
use memwall_formats::scaled;
use memwall_tasks::Philox;

use super::grid::{ALL, Eight, Sample};
use crate::{Error, random::normal};

/// The published quantizer with its real-valued bias, in f64.
fn published(x: f64, mantissa: u32, range: f64) -> f64 {
    let exponent = 7 - mantissa;
    let bias = 2f64.powi(exponent as i32) - range.log2() + (2.0 - 2f64.powi(-(mantissa as i32))).log2() - 1.0;
    let x = x.clamp(-range, range);
    // The logarithm of 0 is below every bound.
    let p = (x.abs().log2() + bias).floor().max(1.0);
    let scale = (p - f64::from(mantissa) - bias).exp2();
    (x / scale).round_ties_even() * scale
}

/// The largest difference between the formats' values and the published formula's, in units of the value's step; values
/// within a millionth of a middle between two are left out, for the logarithm's rounding decides there.
pub(super) fn formula_distance(seed: u64) -> Result<f64, Error> {
    let mut worst = 0.0f64;
    let mut rng = Philox::new(seed, 210);
    for mantissa in 2..=5 {
        for range in [1.0f32, 0.37, 448.0, 6.1e-3] {
            let mut x: Vec<f32> = (0..4000).map(|_| (normal(&mut rng) * 0.4) as f32 * range).collect();
            x.extend([0.0, range, -range, 2.0 * range]);
            let values = Eight::Paper(mantissa).values(f64::from(range));
            let y = Eight::Paper(mantissa).back(range, &x)?;
            for (x, y) in x.iter().zip(&y) {
                let x = f64::from(*x).clamp(-f64::from(range), f64::from(range));
                let above = values.partition_point(|value| *value < x).clamp(1, values.len() - 1);
                let (low, high) = (values[above - 1], values[above]);
                let place = (x - low) / (high - low);
                if (place - 0.5).abs() > 1e-6 {
                    worst = worst.max((published(x, mantissa, f64::from(range)) - f64::from(*y)).abs() / (high - low));
                }
            }
        }
    }
    Ok(worst)
}

/// How many finite values of E4M3FN the paper's grid of range 480 lacks.
pub(super) fn missing_of_ocp() -> f64 {
    let values = Eight::Paper(3).values(480.0);
    let finite = (0..=255u8).map(|code| f64::from(E4M3_FN.decode(code))).filter(|v| v.is_finite());
    finite.filter(|v| !values.contains(v)).count() as f64
}

/// How many finite values of E4M3FN the paper's grid of range 448 lacks: it must lack some, for it has a number where
/// OCP has NaN.
pub(super) fn missing_at_448() -> f64 {
    let values = Eight::Paper(3).values(448.0);
    let finite = (0..=255u8).map(|code| f64::from(E4M3_FN.decode(code))).filter(|v| v.is_finite());
    finite.filter(|v| !values.contains(v)).count() as f64
}

/// How far the number of distinct values is from 2^8 - 1, the most of all floats.
pub(super) fn distinct_values() -> f64 {
    let floats = ALL.iter().filter(|(format, _)| *format != Eight::Int8);
    floats.map(|(format, _)| (format.values(1.0).len() as f64 - 255.0).abs()).fold(0.0, f64::max)
}

/// The largest difference between integers with a zero point and `(clamp(round(x / s) + z, 0, 255) - z) s`.
pub(super) fn zero_point_distance(seed: u64) -> Result<f64, Error> {
    let mut rng = Philox::new(seed, 211);
    let n = 256;
    let format = scaled::int_affine(8, n).map_err(Error::experiment)?;
    let mut worst = 0.0f64;
    for shift in [0.0, 1.5, -4.0, 20.0] {
        let x: Vec<f32> = (0..n).map(|_| (normal(&mut rng) + shift) as f32).collect();
        let mut bytes = vec![0; format.layout().block_bytes];
        format.encode(n, &x, &mut bytes).map_err(Error::experiment)?;
        let mut y = vec![0.0; n];
        format.decode(n, &bytes, &mut y).map_err(Error::experiment)?;
        let (low, high) = x.iter().fold((0f32, 0f32), |(l, h), x| (l.min(*x), h.max(*x)));
        let scale = (high - low) / 255.0;
        let zero = (-low / scale).round_ties_even();
        for (x, y) in x.iter().zip(&y) {
            let q = ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0);
            worst = worst.max(f64::from(((q - zero) * scale - y).abs()));
        }
    }
    Ok(worst)
}

/// How many inputs that must be refused are not: ranges that are zero, negative or NaN, mantissas that no float of eight bits
/// has, tensors without a value or with one that is not finite.
pub(super) fn not_refused() -> f64 {
    let ranges = [0.0, -1.0, f32::NAN, f32::INFINITY];
    let mut accepted = ranges.iter().filter(|r| scaled::paper_fp8_by_tensor(3, 1, **r).is_ok()).count();
    accepted += ranges.iter().filter(|r| Eight::Int8.format(**r).is_ok()).count();
    accepted += [0, 7, 8, 100].iter().filter(|m| scaled::paper_fp8_by_tensor(**m, 1, 1.0).is_ok()).count();
    accepted += [&[][..], &[1.0, f32::NAN]].iter().filter(|x| Sample::new(x).is_ok()).count();
    accepted += usize::from(Eight::Paper(3).back(1.0, &[f32::NAN]).is_ok());
    accepted as f64
}

/// The grid of the published default bias, which no range moves, against the formats' own.
pub(super) fn default_bias_distance() -> f64 {
    let float = Float::paper(4, 3);
    let largest = 2f64.powi(15 - 8) * (2.0 - 0.125);
    (f64::from(float.max()) - largest).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_formulas_and_refusals_are_as_published() {
        assert!(formula_distance(1).unwrap() < 1e-4);
        assert_eq!((missing_of_ocp(), distinct_values(), not_refused(), default_bias_distance()), (0.0, 0.0, 0.0, 0.0));
        assert!(missing_at_448() > 0.0);
        assert_eq!(zero_point_distance(2).unwrap(), 0.0);
    }
}
