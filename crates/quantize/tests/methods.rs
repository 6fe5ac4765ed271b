//! The laws of methods, over every block format that there is.

use memwall_formats::{Dtype, format};
use memwall_kernels::Pool;
use memwall_quantize::{Clip, Gptq, Importance, Inputs, Levels, Method, Nearest, Row, Scales, methods};

const COLS: usize = 256;
const ROWS: usize = 24;
const TOKENS: usize = 600;

/// Numbers in [-1, 1), the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Roughly normal.
    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.next()).sum::<f32>() * 0.866
    }
}

/// A layer whose inputs share a few directions and differ in size.
struct Layer {
    weights: Vec<f32>,
    moments: Vec<f64>,
    mean_squares: Vec<f32>,
}

fn layer() -> Layer {
    let mut random = Random(3);
    let weights = (0..ROWS * COLS).map(|_| 0.05 * random.normal()).collect();
    let directions: Vec<f32> = (0..16 * COLS).map(|_| random.normal()).collect();
    let sizes: Vec<f32> = (0..COLS).map(|i| if i % 29 == 0 { 6.0 } else { 0.3 + random.next().abs() }).collect();
    let mut moments = vec![0.0; COLS * COLS];
    for _ in 0..TOKENS {
        let shares: Vec<f32> = (0..16).map(|_| random.normal()).collect();
        let x: Vec<f32> = (0..COLS)
            .map(|i| {
                let shared: f32 = shares.iter().enumerate().map(|(d, s)| s * directions[d * COLS + i]).sum();
                sizes[i] * (shared / 4.0 + 0.3 * random.normal())
            })
            .collect();
        for i in 0..COLS {
            for j in 0..COLS {
                moments[i * COLS + j] += f64::from(x[i]) * f64::from(x[j]);
            }
        }
    }
    let mean_squares = (0..COLS).map(|i| (moments[i * COLS + i] / TOKENS as f64) as f32).collect();
    Layer { weights, moments, mean_squares }
}

fn encode(method: &dyn Method, dtype: Dtype, weights: &[f32], inputs: Inputs<'_>) -> Vec<u8> {
    let mut bytes = vec![0; weights.len() / COLS * dtype.row_bytes(COLS).unwrap()];
    let encoder = method.encoder(format(dtype), inputs, &Pool::new(1)).unwrap();
    encoder.encode(COLS, weights, &mut bytes).unwrap();
    bytes
}

/// What the rows lose: weights minus what the bytes decode to.
fn loss(dtype: Dtype, weights: &[f32], bytes: &[u8]) -> Vec<f32> {
    let mut y = vec![0.0; weights.len()];
    format(dtype).decode(COLS, bytes, &mut y).unwrap();
    weights.iter().zip(&y).map(|(x, y)| x - y).collect()
}

/// Σ e H eᵀ.
fn output_error(moments: &[f64], errors: &[f32]) -> f64 {
    let row = |e: &[f32]| -> f64 {
        let product = |i: usize| (0..COLS).map(|j| moments[i * COLS + j] * f64::from(e[j])).sum::<f64>();
        (0..COLS).map(|i| f64::from(e[i]) * product(i)).sum()
    };
    errors.chunks(COLS).map(row).sum()
}

fn weighted_error(mean_squares: &[f32], errors: &[f32]) -> f64 {
    let term = |(i, e): (usize, &f32)| f64::from(mean_squares[i % COLS]) * f64::from(*e) * f64::from(*e);
    errors.iter().enumerate().map(term).sum()
}

fn block_formats() -> impl Iterator<Item = Dtype> {
    Dtype::ALL.into_iter().filter(|d| d.is_block() && Levels::of(format(*d)).is_some())
}

#[test]
fn gptq_beats_nearest_in_output_error_where_inputs_are_correlated() {
    let layer = layer();
    let inputs = Inputs { mean_squares: &layer.mean_squares, moments: Some(&layer.moments) };
    for dtype in block_formats() {
        let mut nearest = vec![0; ROWS * dtype.row_bytes(COLS).unwrap()];
        format(dtype).encode(COLS, &layer.weights, &mut nearest).unwrap();
        let before = output_error(&layer.moments, &loss(dtype, &layer.weights, &nearest));
        for scales in [Scales::Own, Scales::Searched] {
            let bytes = encode(&Gptq { scales }, dtype, &layer.weights, inputs);
            let after = output_error(&layer.moments, &loss(dtype, &layer.weights, &bytes));
            assert!(after < 0.6 * before, "{dtype} {scales:?}: {after} after {before}");
        }
    }
}

#[test]
fn gptq_with_independent_equal_inputs_is_nearest() {
    let layer = layer();
    let mut identity = vec![0.0; COLS * COLS];
    (0..COLS).for_each(|i| identity[i * COLS + i] = 1.0);
    let ones = [1.0; COLS];
    let inputs = Inputs { mean_squares: &ones, moments: Some(&identity) };
    for dtype in block_formats() {
        let mut nearest = vec![0; ROWS * dtype.row_bytes(COLS).unwrap()];
        format(dtype).encode(COLS, &layer.weights, &mut nearest).unwrap();
        assert_eq!(encode(&Gptq { scales: Scales::Own }, dtype, &layer.weights, inputs), nearest, "{dtype}");
        // And over searched scales, the search alone.
        let searched = encode(&Importance, dtype, &layer.weights, inputs);
        assert_eq!(encode(&Gptq { scales: Scales::Searched }, dtype, &layer.weights, inputs), searched, "{dtype}");
    }
}

#[test]
fn searches_never_lose_to_nearest_in_the_error_that_they_minimize_and_least_squares_gain() {
    let layer = layer();
    // Weights of the search are damped; the law is about those.
    let mean = layer.mean_squares.iter().sum::<f32>() / COLS as f32;
    let damped: Vec<f32> = layer.mean_squares.iter().map(|x| x / mean + 0.01).collect();
    let inputs = Inputs { mean_squares: &layer.mean_squares, moments: None };
    for dtype in block_formats() {
        let size = dtype.row_bytes(COLS).unwrap();
        let mut nearest = vec![0; ROWS * size];
        format(dtype).encode(COLS, &layer.weights, &mut nearest).unwrap();
        let by_row = |bytes: &[u8]| -> Vec<f64> {
            loss(dtype, &layer.weights, bytes).chunks(COLS).map(|e| weighted_error(&damped, e)).collect()
        };
        let before = by_row(&nearest);
        for method in [&Importance as &dyn Method, &Clip] {
            let after = by_row(&encode(method, dtype, &layer.weights, inputs));
            for (row, (after, before)) in after.iter().zip(&before).enumerate() {
                assert!(*after <= before * (1.0 + 1e-6), "{dtype} {} row {row}: {after}, {before}", method.name());
            }
            // Scales of MXFP4 are powers of two: the next one is seldom better. Signs have nothing to choose.
            let fine = !matches!(dtype, Dtype::MXFP4 | Dtype::Q1_0);
            if method.name() == "importance" && dtype.bits_per_value() < 6.0 && fine {
                let (after, before) = (after.iter().sum::<f64>(), before.iter().sum::<f64>());
                assert!(after < 0.97 * before, "{dtype}: {after} after {before}");
            }
        }
    }
}

#[test]
fn a_row_has_one_scale_where_the_method_says_so() {
    let layer = layer();
    let inputs = Inputs { mean_squares: &layer.mean_squares, moments: None };
    for (dtype, at) in [(Dtype::FP6, 0..2), (Dtype::Q4_0, 0..2), (Dtype::Q8_0, 0..2), (Dtype::Q4_1, 0..4)] {
        let size = dtype.row_bytes(COLS).unwrap();
        let bytes = encode(&Row, dtype, &layer.weights, inputs);
        for (r, (row, x)) in bytes.chunks(size).zip(layer.weights.chunks(COLS)).enumerate() {
            let scale = &row[at.clone()];
            assert!(row.chunks(dtype.block_bytes()).all(|block| block[at.clone()] == *scale), "{dtype} row {r}");
            // That of the block with the largest value, as the format's own encoder gives it.
            let largest = (0..COLS).fold(0, |at, i| if x[i].abs() > x[at].abs() { i } else { at });
            let own = encode(&Nearest, dtype, x, inputs);
            let block = largest / dtype.block_len() * dtype.block_bytes();
            assert!(dtype == Dtype::Q4_1 || *scale == own[block..][at.clone()], "{dtype} row {r}");
        }
        let worst = loss(dtype, &layer.weights, &bytes).iter().fold(0f32, |m, e| m.max(e.abs()));
        let amax = layer.weights.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(worst <= 2.5 * format(dtype).error_bound(amax), "{dtype}: {worst}");
    }
}

#[test]
fn rows_are_encoded_as_if_each_were_alone() {
    let layer = layer();
    let inputs = Inputs { mean_squares: &layer.mean_squares, moments: Some(&layer.moments) };
    for method in methods() {
        for dtype in [Dtype::Q4_K, Dtype::Q4_0, Dtype::IQ4_XS, Dtype::F16] {
            let all = encode(method, dtype, &layer.weights, inputs);
            let one_by_one: Vec<u8> =
                layer.weights.chunks(COLS).flat_map(|row| encode(method, dtype, row, inputs)).collect();
            assert_eq!(all, one_by_one, "{} {dtype}", method.name());
        }
    }
}

#[test]
fn zero_rows_stay_zero_and_what_is_not_finite_is_refused_by_place() {
    let layer = layer();
    let inputs = Inputs { mean_squares: &layer.mean_squares, moments: Some(&layer.moments) };
    for method in methods() {
        for dtype in block_formats() {
            let zeros = vec![0.0; 2 * COLS];
            let bytes = encode(method, dtype, &zeros, inputs);
            assert!(loss(dtype, &zeros, &bytes).iter().all(|e| *e == 0.0), "{} {dtype}", method.name());
            let mut bad = layer.weights[..2 * COLS].to_vec();
            bad[COLS + 77] = f32::NAN;
            let encoder = method.encoder(format(dtype), inputs, &Pool::new(1)).unwrap();
            let why = encoder.encode(COLS, &bad, &mut vec![0; bytes.len()]).unwrap_err().to_string();
            assert!(why.contains("row 1, column 77"), "{} {dtype}: {why}", method.name());
        }
    }
}

#[test]
fn silent_inputs_give_finite_weights() {
    let layer = layer();
    let (silent, nothing) = ([0.0; COLS], vec![0.0; COLS * COLS]);
    let inputs = Inputs { mean_squares: &silent, moments: Some(&nothing) };
    for method in methods() {
        for dtype in [Dtype::Q4_K, Dtype::Q4_0] {
            let lost = loss(dtype, &layer.weights, &encode(method, dtype, &layer.weights, inputs));
            let worst = lost.iter().fold(0.0f32, |m, e| m.max(e.abs()));
            assert!(worst < 0.2, "{} {dtype}: {worst}", method.name());
        }
    }
}
