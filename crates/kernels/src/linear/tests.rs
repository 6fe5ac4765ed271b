use super::activations::{self, Activations, PART};
use super::*;
use memwall_formats::block::E3M2_VALUES;
use memwall_formats::format;

const FORMATS: [Dtype; 22] = {
    use Dtype::*;
    [
        F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0,
        MXFP4, NVFP4, Q1_0, Q2_0, FP6,
    ]
};

fn sets() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect())
}

/// Numbers that look random, the same every time.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// About normal, deviation 1.
    fn value(&mut self) -> f32 {
        (0..4).map(|_| (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0).sum::<f32>() * 0.866
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// A finite half of any sign, about 2^-16 to 2^0: a scale.
    fn half(&mut self) -> [u8; 2] {
        (((self.bits() as u16 & 0xbfff) % 0x3c00) | (self.bits() as u16 & 0x8000)).to_le_bytes()
    }
}

/// Weights with all codes and scales possible: random bytes, with finite halves where the format has them.
fn any_weights(dtype: Dtype, n: usize, k: usize, noise: &mut Noise) -> Vec<u8> {
    let row_bytes = dtype.row_bytes(k).expect("whole blocks");
    if !dtype.is_block() {
        let values = noise.values(n * k);
        let mut bytes = vec![0; n * row_bytes];
        format(dtype).encode(k, &values, &mut bytes).expect("finite values");
        return bytes;
    }
    let mut bytes: Vec<u8> = (0..n * row_bytes).map(|_| noise.bits() as u8).collect();
    let halves: &[usize] = match dtype {
        Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4_K | Dtype::Q5_K => &[0, 2],
        Dtype::Q2_K => &[80, 82],
        Dtype::Q3_K => &[108],
        Dtype::Q6_K => &[208],
        Dtype::TQ1_0 => &[52],
        Dtype::TQ2_0 => &[64],
        Dtype::MXFP4 | Dtype::NVFP4 => &[],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves {
            block[at..at + 2].copy_from_slice(&noise.half());
        }
        if dtype == Dtype::MXFP4 {
            // Moderate scales, and now and then one of the smallest.
            block[0] = if noise.bits().is_multiple_of(16) { block[0] % 4 } else { 100 + block[0] % 30 };
        }
    }
    bytes
}

fn product(isa: Isa, threads: usize, w: Weights<'_>, x: &[f32], m: usize) -> Vec<f32> {
    let mut y = vec![f32::from_bits(0x7fc0_1234); m * w.n];
    let mut scratch = vec![0xa5; linear_scratch(w.dtype, m, w.n, w.k, threads)];
    run(isa, &Pool::new(threads), &[w], x, Scales::OfBlocks, m, &mut [&mut y], &mut scratch);
    y
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

fn assert_same(a: &[f32], b: &[f32], what: impl std::fmt::Display) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{what}: value {i} is {a}, not {b}");
    }
}

fn decoded(w: Weights<'_>) -> Vec<f32> {
    let mut values = vec![0.0; w.n * w.k];
    format(w.dtype).decode(w.k, w.bytes, &mut values).expect("lengths fit");
    values
}

/// x as the kernel uses it: dequantized codes, rounded to bf16, or itself.
fn used(dtype: Dtype, x: &[f32]) -> Vec<f32> {
    match prepared(dtype) {
        Prepared::AsIs => x.to_vec(),
        Prepared::Bf16 => x.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect(),
        Prepared::Int8 { parts } => {
            let mut blocks: Vec<Activations> = bytemuck::zeroed_vec(x.len() / PART);
            activations::quantize(Isa::Portable, x, parts, None, &mut blocks);
            blocks.iter().flat_map(|b| b.codes.map(|c| f32::from(c) * b.scale)).collect()
        }
    }
}

#[test]
fn every_format_equals_its_decoded_weights_times_the_activations_used() {
    let mut noise = Noise(1);
    for dtype in FORMATS {
        let (m, n) = (3, 37);
        for blocks in [1, 2, 5] {
            let k = if dtype.is_block() { blocks * dtype.block_len() } else { blocks * 35 + 2 };
            let bytes = any_weights(dtype, n, k, &mut noise);
            let w = Weights { dtype, bytes: &bytes, n, k };
            let x = noise.values(m * k);
            let (values, used) = (decoded(w), used(dtype, &x));
            for isa in sets() {
                let y = product(isa, 2, w, &x, m);
                for i in 0..m {
                    for j in 0..n {
                        let terms = (0..k).map(|c| f64::from(values[j * k + c]) * f64::from(used[i * k + c]));
                        let exact: f64 = terms.clone().sum();
                        // The min's and the codes' shares are summed apart, so their magnitudes count too.
                        let magnitude: f64 = terms.map(f64::abs).sum::<f64>() + f64::from(largest(w, j)) * k as f64;
                        let error = (f64::from(y[i * n + j]) - exact).abs();
                        let bound = magnitude * f64::from(f32::EPSILON) * (8.0 + k as f64 / 8.0);
                        assert!(error <= bound, "{dtype} {isa:?} k={k} [{i}, {j}]: {} for {exact}", y[i * n + j]);
                    }
                }
            }
        }
    }
}

/// Largest magnitude in a weight row.
fn largest(w: Weights<'_>, row: usize) -> f32 {
    decoded(w)[row * w.k..][..w.k].iter().fold(0f32, |m, v| m.max(v.abs()))
}

#[test]
fn block_products_equal_the_law_in_plain_numbers() {
    // Formats without minima and with one scale a block, from the codes of `formats`, not from `block`.
    let mut noise = Noise(2);
    for (dtype, zero) in [(Dtype::Q8_0, 0), (Dtype::Q4_0, 8), (Dtype::Q5_0, 16)] {
        let (m, n, k) = (6, 19, 32 * 7);
        let bytes = any_weights(dtype, n, k, &mut noise);
        let w = Weights { dtype, bytes: &bytes, n, k };
        let x = noise.values(m * k);
        let mut blocks: Vec<Activations> = bytemuck::zeroed_vec(m * k / PART);
        activations::quantize(Isa::Portable, &x, 1, None, &mut blocks);
        let mut want = vec![0f32; m * n];
        for i in 0..m {
            for j in 0..n {
                for b in 0..k / 32 {
                    let stored = &bytes[(j * k / 32 + b) * dtype.block_bytes()..][..dtype.block_bytes()];
                    let a = &blocks[i * k / 32 + b];
                    let code = |c: usize| {
                        let code = format(dtype).code(stored, c) as i32;
                        if dtype == Dtype::Q8_0 { i32::from(code as u8 as i8) } else { code - zero }
                    };
                    let dot: i32 = (0..32).map(|c| code(c) * i32::from(a.codes[c])).sum();
                    let d = half::f16::from_le_bytes([stored[0], stored[1]]).to_f32();
                    want[i * n + j] = (dot as f32 * d).mul_add(a.scale, want[i * n + j]);
                }
            }
        }
        for isa in sets() {
            assert_same(&product(isa, 1, w, &x, m), &want, format_args!("{dtype} {isa:?}"));
        }
    }
}

#[test]
fn products_with_scales_of_sub_blocks_equal_the_law_in_plain_numbers() {
    let mut noise = Noise(12);
    let (m, n, k) = (7, 19, 256 * 3);
    let bytes = any_weights(Dtype::Q4_K, n, k, &mut noise);
    let w = Weights { dtype: Dtype::Q4_K, bytes: &bytes, n, k };
    let x = noise.values(m * k);
    let mut parts: Vec<Activations> = bytemuck::zeroed_vec(m * k / PART);
    activations::quantize(Isa::Portable, &x, 8, None, &mut parts);
    let mut want = vec![0f32; m * n];
    for (i, parts) in parts.chunks_exact(k / PART).enumerate() {
        for (j, row) in bytes.chunks_exact(k / 256 * 144).enumerate() {
            for (block, parts) in row.chunks_exact(144).zip(parts.chunks_exact(8)) {
                let [d, dmin] = [0, 2].map(|at| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32());
                let six = &block[4..16];
                let (mut dots, mut mins) = (0i32, 0i32);
                for (s, part) in parts.iter().enumerate() {
                    let (scale, min) = match s {
                        0..4 => (six[s] & 63, six[s + 4] & 63),
                        _ => (six[s + 4] & 15 | six[s - 4] >> 6 << 4, six[s + 4] >> 4 | six[s] >> 6 << 4),
                    };
                    let nibble = |c: usize| i32::from(block[16 + s / 2 * 32 + c] >> (s % 2 * 4) & 15);
                    let dot: i32 = (0..32).map(|c| nibble(c) * i32::from(part.codes[c])).sum();
                    dots += i32::from(scale) * dot;
                    mins -= i32::from(min) * part.codes.iter().map(|&c| i32::from(c)).sum::<i32>();
                }
                let sum = (mins as f32).mul_add(dmin, dots as f32 * d);
                want[i * n + j] = sum.mul_add(parts[0].scale, want[i * n + j]);
            }
        }
    }
    for isa in sets() {
        for rows in [1, m] {
            let y = product(isa, 1, w, &x[..rows * k], rows);
            assert_same(&y, &want[..rows * n], format_args!("{isa:?}, {rows} rows"));
        }
    }
}

#[test]
fn products_with_floats_as_scales_of_sub_blocks_equal_the_law_in_plain_numbers() {
    const LEVELS: [i32; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    let mut noise = Noise(17);
    let (dtype, m, n, k) = (Dtype::NVFP4, 7, 19, 64 * 11);
    let bytes = any_weights(dtype, n, k, &mut noise);
    let w = Weights { dtype, bytes: &bytes, n, k };
    let x = noise.values(m * k);
    let mut parts: Vec<Activations> = bytemuck::zeroed_vec(m * k / PART);
    activations::quantize(Isa::Portable, &x, 2, None, &mut parts);
    let mut want = vec![0f32; m * n];
    for (i, parts) in parts.chunks_exact(k / PART).enumerate() {
        for (j, row) in bytes.chunks_exact(k / 64 * 36).enumerate() {
            for (block, parts) in row.chunks_exact(36).zip(parts.chunks_exact(2)) {
                // A block of ones says what a step of each sub-block is.
                let mut ones = [0x11; 36];
                ones[..4].copy_from_slice(&block[..4]);
                let mut steps = [0f32; 64];
                format(dtype).decode(64, &ones, &mut steps).expect("a block");
                let mut sum = 0f32;
                for s in 0..4 {
                    let level = |c: usize| LEVELS[format(dtype).code(block, 16 * s + c) as usize];
                    let x = |c: usize| i32::from(parts[s / 2].codes[s % 2 * 16 + c]);
                    let dot: i32 = (0..16).map(|c| level(c) * x(c)).sum();
                    sum = (dot as f32).mul_add(steps[16 * s], sum);
                }
                want[i * n + j] = sum.mul_add(parts[0].scale, want[i * n + j]);
            }
        }
    }
    for isa in sets() {
        for rows in [1, m] {
            let y = product(isa, 1, w, &x[..rows * k], rows);
            assert_same(&y, &want[..rows * n], format_args!("{isa:?}, {rows} rows"));
        }
    }
}

#[test]
fn products_with_small_floats_equal_the_law_in_plain_numbers() {
    let mut noise = Noise(18);
    let (dtype, m, n, k) = (Dtype::FP6, 7, 19, 64 * 35);
    let bytes = any_weights(dtype, n, k, &mut noise);
    let w = Weights { dtype, bytes: &bytes, n, k };
    let x = noise.values(m * k);
    let used = used(dtype, &x);
    let mut want = vec![0f32; m * n];
    for (i, x) in used.chunks_exact(k).enumerate() {
        for (j, row) in bytes.chunks_exact(k / 64 * 50).enumerate() {
            for (b, block) in row.chunks_exact(50).enumerate() {
                let d = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
                let value = |c: usize| E3M2_VALUES[format(dtype).code(block, c) as usize];
                for part in 0..2 {
                    let mut sum = 0f32;
                    for c in (32 * part..32 * part + 32).step_by(2) {
                        let x = &x[64 * b + c..];
                        sum = value(c).mul_add(x[0], value(c + 1).mul_add(x[1], sum));
                    }
                    want[i * n + j] = sum.mul_add(d, want[i * n + j]);
                }
            }
        }
    }
    for isa in sets() {
        for rows in [1, m] {
            let y = product(isa, 1, w, &x[..rows * k], rows);
            assert_same(&y, &want[..rows * n], format_args!("{isa:?}, {rows} rows"));
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others_on_any_threads_and_instruction_set() {
    let mut noise = Noise(3);
    for dtype in FORMATS {
        for (n, k) in [(1, 256), (16, 512), (33, 768), (75, 1280), (130, 256)] {
            let k = if dtype.is_block() { k } else { k + 3 };
            let bytes = any_weights(dtype, n, k, &mut noise);
            let w = Weights { dtype, bytes: &bytes, n, k };
            let most = if n == 33 { 512 } else { 31 };
            let x = noise.values(most * k);
            let all = product(Isa::detect(), 2, w, &x, most);
            for m in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31] {
                for isa in sets() {
                    let first = most - m;
                    let some = product(isa, 1 + m % 3, w, &x[first * k..], m);
                    assert_same(&some, &all[first * n..], format_args!("{dtype} {isa:?} m={m} n={n} k={k}"));
                }
            }
        }
    }
}

#[test]
fn long_reductions_cross_slices_without_a_trace() {
    let mut noise = Noise(4);
    for dtype in FORMATS {
        let (n, k, m) = (18, 256 * 19, 9);
        let k = if dtype.is_block() { k } else { k + 1 };
        let bytes = any_weights(dtype, n, k, &mut noise);
        let w = Weights { dtype, bytes: &bytes, n, k };
        let x = noise.values(m * k);
        for isa in sets() {
            let all = product(isa, 2, w, &x, m);
            for i in 0..m {
                let alone = product(Isa::Portable, 1, w, &x[i * k..(i + 1) * k], 1);
                assert_same(&alone, &all[i * n..(i + 1) * n], format_args!("{dtype} {isa:?} row {i}"));
            }
        }
    }
}

#[test]
fn a_column_does_not_depend_on_its_neighbours() {
    let mut noise = Noise(5);
    for dtype in FORMATS {
        let (n, k) = (67, 512);
        let bytes = any_weights(dtype, n, k, &mut noise);
        let row_bytes = dtype.row_bytes(k).expect("whole blocks");
        for m in [1, 9] {
            let x = noise.values(m * k);
            for isa in sets() {
                let all = product(isa, 1, Weights { dtype, bytes: &bytes, n, k }, &x, m);
                for j in [0, 15, 16, 31, 33, 66] {
                    let row = &bytes[j * row_bytes..(j + 1) * row_bytes];
                    let one = product(isa, 1, Weights { dtype, bytes: row, n: 1, k }, &x, m);
                    let column: Vec<f32> = (0..m).map(|i| all[i * n + j]).collect();
                    assert_same(&one, &column, format_args!("{dtype} {isa:?} column {j}"));
                }
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    for dtype in FORMATS.into_iter().filter(|d| d.is_block()) {
        let (n, k) = (17, 512);
        for fill in [0x00, 0x7f, 0x80, 0x81, 0xff, 0x0f, 0xf0] {
            let mut bytes = any_weights(dtype, n, k, &mut Noise(6));
            // Every code byte the same; scales stay as they are, in the first two and last four bytes.
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                let end = block.len() - 4;
                block[4..end].fill(fill);
            }
            let w = Weights { dtype, bytes: &bytes, n, k };
            for sign in [1.0, -1.0] {
                let x = vec![sign; k * 5];
                let want = product(Isa::Portable, 1, w, &x, 5);
                let values = decoded(w);
                for (j, y) in want[..n].iter().enumerate() {
                    let exact: f64 =
                        values[j * k..(j + 1) * k].iter().map(|&v| f64::from(v)).sum::<f64>() * f64::from(sign);
                    let magnitude = f64::from(largest(w, j)) * k as f64;
                    assert!(
                        (f64::from(*y) - exact).abs() <= magnitude * 1e-5 + 1e-6,
                        "{dtype} {fill:#x}: {y} for {exact}"
                    );
                }
                for isa in sets() {
                    assert_same(&product(isa, 2, w, &x, 5), &want, format_args!("{dtype} {isa:?} {fill:#x}"));
                }
            }
        }
    }
}

#[test]
fn zero_activations_give_zero() {
    for dtype in FORMATS {
        let (n, k) = (20, 256);
        let bytes = any_weights(dtype, n, k, &mut Noise(7));
        for m in [1, 6] {
            for isa in sets() {
                let y = product(isa, 1, Weights { dtype, bytes: &bytes, n, k }, &vec![0.0; m * k], m);
                assert!(y.iter().all(|&v| v == 0.0), "{dtype} {isa:?}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_in_a_row_stays_in_that_row_and_shows_in_all_of_it() {
    for dtype in FORMATS {
        let (m, n, k) = (7, 35, 512);
        let bytes = any_weights(dtype, n, k, &mut Noise(8));
        let w = Weights { dtype, bytes: &bytes, n, k };
        let clean = Noise(9).values(m * k);
        for isa in sets() {
            let want = product(isa, 1, w, &clean, m);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = clean.clone();
                x[3 * k + 301] = bad;
                let y = product(isa, 1, w, &x, m);
                for i in 0..m {
                    let row = &y[i * n..(i + 1) * n];
                    if i == 3 {
                        assert!(row.iter().all(|v| !v.is_finite()), "{dtype} {isa:?} {bad}");
                    } else {
                        assert_eq!(bits(row), bits(&want[i * n..(i + 1) * n]), "{dtype} {isa:?} {bad}");
                    }
                }
            }
        }
    }
}

#[test]
fn weights_that_are_not_finite_show() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let (n, k) = (5, 40);
        let mut values = Noise(10).values(n * k);
        values[2 * k + 7] = f32::NAN;
        values[4 * k + 39] = f32::INFINITY;
        let mut bytes = vec![0; dtype.row_bytes(k).expect("scalars") * n];
        format(dtype).encode(k, &values, &mut bytes).expect("scalars hold all");
        for m in [1, 5] {
            let x = Noise(11).values(m * k);
            for isa in sets() {
                let y = product(isa, 1, Weights { dtype, bytes: &bytes, n, k }, &x, m);
                for row in y.chunks_exact(n) {
                    let finite: Vec<bool> = row.iter().map(|v| v.is_finite()).collect();
                    assert_eq!(finite, [true, true, false, true, false], "{dtype} {isa:?}");
                }
            }
        }
    }
}

#[test]
fn several_weights_at_once_give_what_each_gives_alone() {
    let mut noise = Noise(12);
    let k = 512;
    let kinds =
        [(Dtype::Q4_K, 96), (Dtype::Q6_K, 33), (Dtype::BF16, 20), (Dtype::F32, 7), (Dtype::Q8_0, 0), (Dtype::Q4_K, 1)];
    let stored: Vec<Vec<u8>> = kinds.iter().map(|&(d, n)| any_weights(d, n, k, &mut noise)).collect();
    let ws: Vec<Weights<'_>> =
        kinds.iter().zip(&stored).map(|(&(dtype, n), bytes)| Weights { dtype, bytes, n, k }).collect();
    for m in [1, 3, 40] {
        let x = noise.values(m * k);
        for threads in 1..=3 {
            let mut ys: Vec<Vec<f32>> = kinds.iter().map(|&(_, n)| vec![0.0; m * n]).collect();
            let bytes = ws.iter().map(|w| linear_scratch(w.dtype, m, w.n, k, threads)).max().expect("some");
            let mut scratch = vec![0; bytes];
            let mut outputs: Vec<&mut [f32]> = ys.iter_mut().map(Vec::as_mut_slice).collect();
            linear_many(&Pool::new(threads), &ws, &x, m, &mut outputs, &mut scratch);
            for (w, y) in ws.iter().zip(&ys) {
                assert_same(y, &product(isa(), 1, *w, &x, m), format_args!("{} m={m}", w.dtype));
            }
        }
    }
}

#[test]
fn large_x_is_prepared_by_all_threads_as_by_one() {
    let (m, n, k) = (300, 8, 512);
    for dtype in [Dtype::Q4_0, Dtype::BF16] {
        let bytes = any_weights(dtype, n, k, &mut Noise(13));
        let w = Weights { dtype, bytes: &bytes, n, k };
        let x = Noise(14).values(m * k);
        assert_same(&product(isa(), 3, w, &x, m), &product(isa(), 1, w, &x, m), dtype);
    }
}

#[test]
fn no_rows_and_no_columns_are_no_work() {
    let pool = Pool::new(2);
    for dtype in FORMATS {
        let mut scratch = vec![0; linear_scratch(dtype, 5, 0, 256, 2)];
        linear(&pool, Weights { dtype, bytes: &[], n: 0, k: 256 }, &[1.0; 5 * 256], 5, &mut [], &mut scratch);
        let bytes = any_weights(dtype, 3, 256, &mut Noise(15));
        linear(&pool, Weights { dtype, bytes: &bytes, n: 3, k: 256 }, &[], 0, &mut [], &mut scratch);
        for m in [1, 6] {
            let mut y = vec![1.0; 3 * m];
            let mut scratch = vec![0; linear_scratch(dtype, m, 3, 0, 2)];
            linear(&pool, Weights { dtype, bytes: &[], n: 3, k: 0 }, &[], m, &mut y, &mut scratch);
            assert_eq!(y, vec![0.0; 3 * m], "{dtype}");
        }
    }
}

#[test]
fn embed_decodes_the_rows_asked_for() {
    let pool = Pool::new(2);
    for dtype in FORMATS {
        let (n, k) = (11, 1024);
        let bytes = any_weights(dtype, n, k, &mut Noise(16));
        let table = Weights { dtype, bytes: &bytes, n, k };
        let values = decoded(table);
        for ids in [&[10, 0, 3, 3][..], &[7; 80], &[]] {
            let mut y = vec![0.0; ids.len() * k];
            embed(&pool, table, ids, &mut y);
            for (row, &id) in y.chunks_exact(k).zip(ids) {
                assert_same(row, &values[id as usize * k..][..k], dtype);
            }
        }
    }
}

#[test]
fn grouped_products_give_each_row_what_its_matrix_gives_alone() {
    let mut noise = Noise(77);
    let (matrices, n, k) = (5, 70, 256);
    // A group of each of the three ways through rows: one, few, many; a matrix that nobody wants; one wanted twice.
    let groups = [(3, 0, 1), (0, 1, 4), (4, 4, 4), (2, 4, 13), (3, 13, 15)].map(|(matrix, begin, end)| Group {
        matrix,
        begin,
        end,
    });
    let rows = 15;
    let from: Vec<usize> = (0..rows).map(|r| (r * 7 + 2) % 6).collect();
    let x = noise.values(6 * k);
    for dtype in FORMATS {
        let bytes = any_weights(dtype, matrices * n, k, &mut noise);
        let other = any_weights(Dtype::Q8_0, matrices * 3, k, &mut noise);
        let stacks = [
            Stack { dtype, bytes: &bytes, matrices, n, k },
            Stack { dtype: Dtype::Q8_0, bytes: &other, matrices, n: 3, k },
        ];
        for isa in sets() {
            for threads in [1, 3] {
                let (mut y, mut z) = (vec![f32::NAN; rows * n], vec![f32::NAN; rows * 3]);
                let need = stacks.map(|s| grouped_scratch(s.dtype, rows, k, groups.len(), threads));
                let mut scratch = vec![0xa5; need[0].max(need[1])];
                let pool = Pool::new(threads);
                let ys = &mut [&mut y[..], &mut z[..]];
                grouped::run(isa, &pool, &stacks, &x, &|r| from[r], &groups, ys, &mut scratch);
                for g in &groups {
                    for r in g.begin as usize..g.end as usize {
                        let x = &x[from[r] * k..(from[r] + 1) * k];
                        for (stack, y) in stacks.iter().zip([&y, &z]) {
                            let each = stack.bytes.len() / matrices;
                            let bytes = &stack.bytes[g.matrix as usize * each..(g.matrix as usize + 1) * each];
                            let w = Weights { dtype: stack.dtype, bytes, n: stack.n, k };
                            let alone = product(isa, 1, w, x, 1);
                            let y = &y[r * stack.n..(r + 1) * stack.n];
                            assert_same(y, &alone, format_args!("{isa:?} {dtype} {threads} threads, row {r}"));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn under_one_scale_a_row_integers_are_multiplied_as_they_are() {
    let mut noise = Noise(77);
    for (m, k) in [(1, 256), (3, 1024), (40, 512)] {
        // Integers times a scale of the row, the largest of them 127.
        let mut x: Vec<f32> = Vec::new();
        let mut codes: Vec<f64> = Vec::new();
        for _ in 0..m {
            let step = noise.value().abs() + 0.01;
            let mut row: Vec<i64> = (0..k).map(|_| (noise.bits() % 40) as i64 - 20).collect();
            row[noise.bits() as usize % k] = 127;
            x.extend(row.iter().map(|q| *q as f32 * step));
            codes.extend(row.iter().map(|q| *q as f64 * f64::from(step)));
        }
        for dtype in [Dtype::TQ2_0, Dtype::TQ1_0, Dtype::Q8_0, Dtype::Q4_K] {
            let n = 37;
            let bytes = any_weights(dtype, n, k, &mut noise);
            let mut w = vec![0.0; n * k];
            format(dtype).decode(k, &bytes, &mut w).expect("blocks");
            let weights = Weights { dtype, bytes: &bytes, n, k };
            let mut first: Option<Vec<f32>> = None;
            for (isa, threads) in sets().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                let mut y = vec![f32::NAN; m * n];
                let mut scratch = vec![0; linear_scratch(dtype, m, n, k, threads)];
                run(isa, &Pool::new(threads), &[weights], &x, Scales::OfRows, m, &mut [&mut y], &mut scratch);
                for (i, y) in y.iter().enumerate() {
                    let (row, column) = (i / n, i % n);
                    let terms = || codes[row * k..][..k].iter().zip(&w[column * k..][..k]);
                    let want: f64 = terms().map(|(x, w)| x * f64::from(*w)).sum();
                    let sum: f64 = terms().map(|(x, w)| (x * f64::from(*w)).abs()).sum();
                    assert!((f64::from(*y) - want).abs() <= 2e-6 * sum + 1e-30, "{dtype} {m} {k}: {y} {want}");
                }
                let bits = bits(&y);
                match &first {
                    None => first = Some(y),
                    Some(first) => assert_eq!(bits, self::bits(first), "{dtype} {isa:?} {threads}"),
                }
            }
            // A row alone is the row of the whole.
            let mut y = vec![0.0; n];
            let mut scratch = vec![0; linear_scratch(dtype, 1, n, k, 1)];
            linear_by_row(&Pool::new(1), weights, &x[(m - 1) * k..], 1, &mut y, &mut scratch);
            assert_eq!(bits(&y), bits(&first.expect("ran")[(m - 1) * n..]), "{dtype}: the last of {m} rows");
        }
    }
}
