//! The laws of [`Format`]: what every implementation keeps, those of users too.
//!
//! ```
//! use memwall_formats::{Dtype, format, laws};
//!
//! let tally = laws::check(format(Dtype::Q8_0)).unwrap();
//! assert!(tally.codes > 8000 && tally.values > 50_000);
//! ```
//!
//! Each law is a function, so that a format under construction can be held to one at a time; [`check`] runs all. A law
//! returns how much it compared. Inputs are deterministic.

use crate::format::{Format, FormatError};

/// How much was compared without a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Codes decoded, replaced or rounded to.
    pub codes: u64,
    /// Values encoded and compared with what they decode to.
    pub values: u64,
    /// Bad requests that were refused as they must be.
    pub refusals: u64,
}

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{law} does not hold: {what}")]
pub struct Broken {
    /// The law: the name of its function.
    pub law: &'static str,
    /// The counterexample.
    pub what: String,
}

/// A law: what it compared, or a counterexample.
pub type Law = fn(&dyn Format) -> Result<Tally, Broken>;

/// Runs every law that applies to the format.
///
/// # Errors
/// The first law that does not hold.
pub fn check(format: &dyn Format) -> Result<Tally, Broken> {
    let mut laws: Vec<Law> = vec![sizes_are_exact, codes_are_independent];
    let scalar = format.layout().block_len == 1;
    if scalar {
        laws.push(scalars_come_back);
        if format.largest_code() < 1 << 16 {
            laws.push(every_code_comes_back);
            laws.push(every_midpoint_rounds_to_even);
            laws.push(special_values_are_kept);
        }
    } else {
        laws.push(codes_decode_to_distinct_values);
        laws.push(blocks_refuse_what_they_cannot_hold);
        laws.push(each_value_is_the_nearest_under_its_scale);
        laws.push(zeros_stay_zeros);
    }
    laws.push(rows_are_independent);
    if format.error_bound(1.0) > 0.0 {
        laws.push(errors_stay_within_the_bound);
    }
    let mut sum = Tally::default();
    for law in laws {
        let t = law(format)?;
        sum.codes += t.codes;
        sum.values += t.values;
        sum.refusals += t.refusals;
    }
    Ok(sum)
}

/// Any length but the exact one, ragged rows and partial rows are refused, in both directions; no rows are no bytes.
pub fn sizes_are_exact(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "sizes_are_exact";
    let format = f.layout();
    let (len, size) = (format.block_len, format.block_bytes);
    let mut tally = Tally::default();
    let both = |cols: usize, values: usize, bytes: usize| {
        let mut x = vec![0f32; values];
        let mut b = vec![0u8; bytes];
        [f.encode(cols, &x, &mut b), f.decode(cols, &b, &mut x)]
    };
    for blocks in [0, 1, 3] {
        for result in both(blocks * len, 2 * blocks * len, 2 * blocks * size) {
            holds(law, result.is_ok(), || format!("two rows of {blocks} blocks: {result:?}"))?;
        }
    }
    for (values, bytes) in [(len, size - 1), (len, size + 1), (2 * len, size), (len, 2 * size), (len, 0)] {
        for result in both(len, values, bytes) {
            let refused = matches!(result, Err(FormatError::BufferSize { .. }));
            holds(law, refused, || format!("{values} values in {bytes} bytes of {format}: {result:?}"))?;
            tally.refusals += 1;
        }
    }
    for result in both(2 * len, 3 * len, 3 * size) {
        let refused = matches!(result, Err(FormatError::PartialRow { .. }));
        holds(law, refused, || format!("a row and a half: {result:?}"))?;
        tally.refusals += 1;
    }
    if len > 1 {
        // Two rows of one and a half blocks would be three whole blocks, one of them across the rows.
        for cols in [1, len - 1, len + 1, len + len / 2] {
            for result in both(cols, 2 * cols, 2 * cols * size / len) {
                let refused = matches!(result, Err(FormatError::RaggedRow { .. }));
                holds(law, refused, || format!("rows of {cols}: {result:?}"))?;
                tally.refusals += 1;
            }
        }
    }
    Ok(tally)
}

/// Replacing one code changes that code and the value that it decodes to, and nothing else; putting it back restores the
/// block.
pub fn codes_are_independent(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "codes_are_independent";
    let (len, mut tally, mut random) = (f.layout().block_len, Tally::default(), Random(1));
    for _ in 0..4 {
        let original = finite_block(f, &mut random);
        let mut block = original.clone();
        let before = decoded(f, &original);
        for i in 0..len {
            let old = f.code(&original, i);
            for new in codes(f, &mut random).take(64) {
                f.set_code(&mut block, i, new);
                let at = |j: usize| if j == i { new } else { f.code(&original, j) };
                for j in 0..len {
                    holds(law, f.code(&block, j) == at(j), || format!("code {j} after code {i} became {new}"))?;
                }
                let after = decoded(f, &block);
                for j in (0..len).filter(|&j| j != i) {
                    let same = after[j].to_bits() == before[j].to_bits();
                    holds(law, same, || format!("value {j} after code {i} became {new}"))?;
                }
                tally.codes += 1;
            }
            f.set_code(&mut block, i, old);
            holds(law, block == original, || format!("the block after code {i} was put back"))?;
        }
    }
    Ok(tally)
}

/// No two codes of a value decode to the same, unless they are the two zeros of a format with a sign, or the scale is zero or so
/// small beside the minimum that f32 cannot tell the levels apart: a decoded block has one encoding.
pub fn codes_decode_to_distinct_values(f: &dyn Format) -> Result<Tally, Broken> {
    let (mut tally, mut random) = (Tally::default(), Random(2));
    for _ in 0..64 {
        let block = finite_block(f, &mut random);
        for (i, mut levels) in levels(f, &block).into_iter().enumerate() {
            let n = levels.len();
            levels.sort_by(f32::total_cmp);
            let spread = levels[n - 1] - levels[0];
            if spread <= largest(&levels) * n as f32 * 4.0 * f32::EPSILON {
                continue;
            }
            let second_zero = usize::from(levels.iter().filter(|l| **l == 0.0).count() == 2);
            levels.dedup();
            let distinct = levels.len() + second_zero == n;
            holds("codes_decode_to_distinct_values", distinct, || {
                format!("value {i} has {} levels for {n} codes", levels.len())
            })?;
            tally.codes += n as u64;
        }
    }
    holds("codes_decode_to_distinct_values", tally.codes > 0, || "every scale was zero".into())?;
    Ok(tally)
}

/// Each value decodes to the level nearest to it among those that the stored scales offer, up to the rounding of the
/// scales themselves (codes may be chosen before the scale is rounded to a half). A symmetric encoder may leave out the one
/// negative level that has no positive one.
pub fn each_value_is_the_nearest_under_its_scale(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "each_value_is_the_nearest_under_its_scale";
    let (len, mut tally) = (f.layout().block_len, Tally::default());
    for (kind, x) in weights(len, 64) {
        let bytes = encode(law, f, &x)?;
        for (x, block) in x.chunks(len).zip(bytes.chunks(f.layout().block_bytes)) {
            let amax = largest(x);
            // Twice the largest code or minimum times the scale's rounding, to a normal or a subnormal half.
            let slack = amax * 3.0 / 1024.0 + 2.0 * f.error_bound(0.0);
            let stored = decoded(f, block);
            for (i, levels) in levels(f, block).iter().enumerate() {
                let nearest = levels.iter().fold(f32::INFINITY, |m, l| m.min((l - x[i]).abs()));
                let ours = (stored[i] - x[i]).abs();
                let end = levels.iter().fold(0f32, |end, l| if l.abs() > end.abs() { *l } else { end });
                let left_out = x[i].signum() == end.signum() && x[i].abs() > stored[i].abs() && !levels.contains(&-end);
                let next = levels.iter().fold(0f32, |m, l| if *l == end { m } else { m.max(l.abs()) });
                holds(law, ours <= nearest + slack || (left_out && stored[i].abs() == next), || {
                    format!("{kind}: {} decodes to {}, {nearest} away is a level, amax {amax}", x[i], stored[i])
                })?;
                tally.values += 1;
            }
        }
    }
    Ok(tally)
}

/// |decoded - value| is within [`Format::error_bound`], from subnormal to large magnitudes, as far as the format reaches.
pub fn errors_stay_within_the_bound(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "errors_stay_within_the_bound";
    let (len, mut tally) = (f.layout().block_len, Tally::default());
    for (kind, x) in weights(len.max(256), 64) {
        for exponent in [0, 9, -10, -14, -18, -30, -120] {
            let x: Vec<f32> = x.iter().map(|v| v * 2f32.powi(exponent)).collect();
            if f.error_bound(largest(&x)) == f32::INFINITY {
                continue;
            }
            let y = round_trip(law, f, &x)?;
            for (x, y) in x.chunks(len).zip(y.chunks(len)) {
                let amax = largest(x);
                // Room for the roundings of the decoder itself.
                let bound = f.error_bound(amax) + amax * 4.0 * f32::EPSILON;
                for (x, y) in x.iter().zip(y) {
                    holds(law, (x - y).abs() <= bound, || {
                        format!("{kind} times 2^{exponent}: {x} decodes to {y}, bound {bound}, amax {amax}")
                    })?;
                    tally.values += 1;
                }
            }
        }
    }
    Ok(tally)
}

/// NaN and infinity, anywhere in a row, and values whose scale overflows are refused, by row and column. (Some formats have
/// scales for all of f32.)
pub fn blocks_refuse_what_they_cannot_hold(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "blocks_refuse_what_they_cannot_hold";
    let (len, mut tally) = (f.layout().block_len, Tally::default());
    let (cols, rows) = (3 * len, 20);
    let mut bytes = vec![0; rows * 3 * f.layout().block_bytes];
    for i in (0..rows * cols).step_by(17) {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1f32; rows * cols];
            x[i] = bad;
            let result = f.encode(cols, &x, &mut bytes);
            let place = (i / cols, i % cols);
            let named = matches!(&result, Err(FormatError::NotFinite { row, col, .. }) if (*row, *col) == place);
            holds(law, named, || format!("{bad} at row and column {place:?}: {result:?}"))?;
            tally.refusals += 1;
        }
    }
    let beyond_reach = f.error_bound(3e38) == f32::INFINITY;
    for i in (0..rows * cols).step_by(len / 2 + 1).filter(|_| beyond_reach) {
        let mut x = vec![1f32; rows * cols];
        x[i] = -3e38;
        let result = f.encode(cols, &x, &mut bytes);
        let place = (i / cols, i % cols / len * len);
        let named = matches!(&result, Err(FormatError::ScaleOverflow { row, col, .. }) if (*row, *col) == place);
        holds(law, named, || format!("-3e38 in the block at {place:?}: {result:?}"))?;
        tally.refusals += 1;
    }
    Ok(tally)
}

/// A block of zeros, of either sign, decodes to zeros.
pub fn zeros_stay_zeros(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "zeros_stay_zeros";
    let len = f.layout().block_len;
    let mut tally = Tally::default();
    for x in [vec![0f32; len], vec![-0f32; len], (0..len).map(|i| if i % 3 == 0 { 0.0 } else { -0.0 }).collect()] {
        let y = round_trip(law, f, &x)?;
        holds(law, y.iter().all(|v| *v == 0.0), || format!("{y:?}"))?;
        tally.values += len as u64;
    }
    Ok(tally)
}

/// Rows encode and decode to the same alone and among others.
pub fn rows_are_independent(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "rows_are_independent";
    let (len, mut tally) = (f.layout().block_len.max(3), Tally::default());
    for (kind, x) in weights(len, 40) {
        // Whole numbers, which integer types hold too.
        let x: Vec<f32> = x.iter().map(|v| (v * 20.0).round()).collect();
        let cols = 2 * len;
        let rows_bytes = f.layout().row_bytes(cols).unwrap_or(0);
        let mut all = vec![0; x.len() / cols * rows_bytes];
        f.encode(cols, &x, &mut all).map_err(|e| Broken { law, what: e.to_string() })?;
        for (r, (x, bytes)) in x.chunks(cols).zip(all.chunks(rows_bytes)).enumerate() {
            let alone = encode(law, f, x)?;
            holds(law, alone == bytes, || format!("{kind}: row {r} differs alone"))?;
            tally.values += cols as u64;
        }
    }
    Ok(tally)
}

/// encode(decode(c)) = c for every code c, and a NaN for a NaN.
pub fn every_code_comes_back(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "every_code_comes_back";
    let mut tally = Tally::default();
    for c in 0..=f.largest_code() {
        let v = value(f, c);
        let back = code_of(law, f, v)?;
        let same = back == c || (v.is_nan() && value(f, back).is_nan());
        holds(law, same, || format!("code {c:#x} is {v}, which encodes to {back:#x}"))?;
        tally.codes += 1;
    }
    Ok(tally)
}

/// decode(encode(x)) is the nearest representable value; for formats that hold every f32, x itself, bit for bit. Formats
/// may refuse values (integers refuse fractions).
pub fn scalars_come_back(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "scalars_come_back";
    let (mut tally, mut random) = (Tally::default(), Random(3));
    let patterns =
        (0..200_000).map(|_| random.next() as u32).chain((0..=255).flat_map(|e| [e << 23, (e << 23) - (e > 0) as u32]));
    for x in patterns.map(f32::from_bits).chain((-70_000..70_000).map(|i| i as f32 * 0.5)) {
        let mut bytes = vec![0; f.layout().block_bytes];
        let mut y = [0f32];
        if f.encode(1, &[x], &mut bytes).is_err() {
            continue;
        }
        f.decode(1, &bytes, &mut y).map_err(|e| Broken { law, what: e.to_string() })?;
        let bound = f.error_bound(x.abs());
        let back = if x.is_nan() {
            y[0].is_nan()
        } else if bound == 0.0 {
            y[0] == x && (y[0].is_sign_positive() == x.is_sign_positive() || f.code(&bytes, 0) == 0)
        } else {
            (y[0] - x).abs() <= bound || (bound == f32::INFINITY && y[0] == x.signum() * f32::INFINITY)
        };
        holds(law, back, || format!("{x} ({:#010x}) decodes to {}", x.to_bits(), y[0]))?;
        tally.values += 1;
    }
    holds(law, tally.values > 50_000, || format!("only {} of the values were accepted", tally.values))?;
    Ok(tally)
}

/// Between neighbours the midpoint goes to the even code, the floats beside it to the nearer neighbour; the largest value
/// and infinity, where there is one, are neighbours at the distance of the last two.
pub fn every_midpoint_rounds_to_even(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "every_midpoint_rounds_to_even";
    let mut tally = Tally::default();
    let mut finite: Vec<(f32, u64)> =
        (0..=f.largest_code()).map(|c| (value(f, c), c)).filter(|(v, _)| v.is_finite()).collect();
    finite.sort_by(|a, b| a.0.total_cmp(&b.0));
    let infinity = |sign: f32| (0..=f.largest_code()).find(|&c| value(f, c) == sign * f32::INFINITY);
    let mut neighbours: Vec<((f64, u64), (f64, u64))> =
        finite.windows(2).map(|w| ((f64::from(w[0].0), w[0].1), (f64::from(w[1].0), w[1].1))).collect();
    for sign in [1.0f32, -1.0] {
        finite.sort_by(|a, b| (sign * a.0).total_cmp(&(sign * b.0)));
        if let (Some(code), [.., below, top]) = (infinity(sign), &finite[..]) {
            let (below, top) = ((f64::from(below.0), below.1), (f64::from(top.0), top.1));
            neighbours.push((top, (2.0 * top.0 - below.0, code)));
        }
    }
    for (a, b) in neighbours {
        if a.0 == b.0 {
            continue; // the two zeros
        }
        let middle = ((a.0 + b.0) / 2.0) as f32;
        holds(law, f64::from(middle) == (a.0 + b.0) / 2.0, || format!("{middle} is no exact midpoint"))?;
        let even = if a.1 % 2 == 0 { a.1 } else { b.1 };
        let (toward_a, toward_b) =
            if a.0 < b.0 { (middle.next_down(), middle.next_up()) } else { (middle.next_up(), middle.next_down()) };
        for (x, expected) in [(middle, even), (toward_a, a.1), (toward_b, b.1)] {
            let code = code_of(law, f, x)?;
            holds(law, code == expected, || format!("{x} encodes to {code:#x}, not {expected:#x}"))?;
            tally.codes += 1;
        }
    }
    Ok(tally)
}

/// Zeros keep their sign; NaN stays NaN; infinities stay where the format has them; nothing becomes NaN but NaN.
pub fn special_values_are_kept(f: &dyn Format) -> Result<Tally, Broken> {
    let law = "special_values_are_kept";
    let has_infinity = (0..=f.largest_code()).any(|c| value(f, c) == f32::INFINITY);
    let mut tally = Tally::default();
    let quiet_and_signalling = [0x7fc0_0000, 0x7f80_0001, 0x7fff_ffff, 0xffc0_0000, 0xff80_0001, 0xffff_ffff];
    for nan in quiet_and_signalling.map(f32::from_bits) {
        let y = value(f, code_of(law, f, nan)?);
        holds(law, y.is_nan(), || format!("a NaN ({:#x}) became {y}", nan.to_bits()))?;
        tally.values += 1;
    }
    for x in [0.0, -0.0, f32::from_bits(1), -f32::from_bits(1)] {
        let y = value(f, code_of(law, f, x)?);
        let kept = y.abs() <= f32::MIN_POSITIVE && y.is_sign_positive() == x.is_sign_positive();
        holds(law, kept, || format!("{x} became {y}"))?;
        tally.values += 1;
    }
    for x in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
        let y = value(f, code_of(law, f, x)?);
        let kept = if has_infinity { y == f32::INFINITY * x.signum() } else { !y.is_nan() && y * x > 0.0 };
        holds(law, kept, || format!("{x} became {y}"))?;
        tally.values += 1;
    }
    Ok(tally)
}

fn holds(law: &'static str, condition: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if condition { Ok(()) } else { Err(Broken { law, what: what() }) }
}

fn encode(law: &'static str, f: &dyn Format, x: &[f32]) -> Result<Vec<u8>, Broken> {
    let mut bytes = vec![0; f.layout().row_bytes(x.len()).unwrap_or(0)];
    f.encode(x.len(), x, &mut bytes).map_err(|e| Broken { law, what: e.to_string() })?;
    Ok(bytes)
}

fn round_trip(law: &'static str, f: &dyn Format, x: &[f32]) -> Result<Vec<f32>, Broken> {
    let bytes = encode(law, f, x)?;
    let mut y = vec![f32::NAN; x.len()];
    f.decode(x.len(), &bytes, &mut y).map_err(|e| Broken { law, what: e.to_string() })?;
    Ok(y)
}

fn code_of(law: &'static str, f: &dyn Format, x: f32) -> Result<u64, Broken> {
    Ok(f.code(&encode(law, f, &[x])?, 0))
}

fn value(f: &dyn Format, code: u64) -> f32 {
    let mut block = vec![0; f.layout().block_bytes];
    f.set_code(&mut block, 0, code);
    decoded(f, &block)[0]
}

/// The values of one block; NaN where decoding fails, which every law then reports.
fn decoded(f: &dyn Format, block: &[u8]) -> Vec<f32> {
    let len = f.layout().block_len;
    let mut y = vec![f32::NAN; len];
    if f.decode(len, block, &mut y).is_err() {
        y.fill(f32::NAN);
    }
    y
}

/// For each value of a block, what each of its codes decodes to.
fn levels(f: &dyn Format, block: &[u8]) -> Vec<Vec<f32>> {
    let len = f.layout().block_len;
    let mut levels = vec![Vec::new(); len];
    let mut block = block.to_vec();
    for code in 0..=f.largest_code() {
        for i in 0..len {
            f.set_code(&mut block, i, code);
        }
        for (levels, v) in levels.iter_mut().zip(decoded(f, &block)) {
            levels.push(v);
        }
    }
    levels
}

/// All codes of a format of up to 8 bits, else random ones.
fn codes<'a>(f: &dyn Format, random: &'a mut Random) -> Box<dyn Iterator<Item = u64> + 'a> {
    match f.largest_code() {
        largest @ 0..256 => Box::new(0..=largest),
        largest => Box::new(std::iter::repeat_with(move || random.next() & largest)),
    }
}

/// Random bytes that decode to finite values, as an encoder would write them: each code replaced and put back.
fn finite_block(f: &dyn Format, random: &mut Random) -> Vec<u8> {
    loop {
        let mut block: Vec<u8> = (0..f.layout().block_bytes).map(|_| random.next() as u8).collect();
        for i in 0..f.layout().block_len {
            let code = f.code(&block, i);
            f.set_code(&mut block, i, if code == 0 { 1 } else { 0 });
            f.set_code(&mut block, i, code);
        }
        if decoded(f, &block).iter().all(|v| v.is_finite()) {
            return block;
        }
    }
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Rows that look like weights, and rows that no weights look like: `blocks` blocks of each kind.
fn weights(len: usize, blocks: usize) -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Random(4);
    let mut rows = |kind, f: &mut dyn FnMut(&mut Random, usize) -> f32| {
        (kind, (0..blocks * len).map(|i| f(&mut random, i)).collect::<Vec<f32>>())
    };
    vec![
        rows("uniform", &mut |r, _| r.uniform()),
        rows("normal", &mut |r, _| r.normal()),
        rows("positive", &mut |r, _| r.normal().abs() + 0.5),
        rows("negative", &mut |r, _| -r.normal().abs() - 0.5),
        rows("one outlier in 50", &mut |r, _| r.normal() * if r.next().is_multiple_of(50) { 20.0 } else { 0.1 }),
        rows("mostly zero", &mut |r, _| if r.next().is_multiple_of(9) { r.uniform() } else { 0.0 }),
        rows("constant", &mut |_, i| if (i / len).is_multiple_of(2) { 0.75 } else { -0.75 }),
        rows("ties of the largest", &mut |r, _| if r.next().is_multiple_of(2) { 1.0 } else { -1.0 }),
        rows("powers of two", &mut |r, _| 2f32.powi(-(r.next() as i32 & 15)) * r.uniform().signum()),
        rows("one value", &mut |_, i| if i % len == 5 { -0.3 } else { 0.0 }),
        rows("sub-blocks of unlike size", &mut |r, i| r.normal() * 4f32.powi(-((i / 16 % 8) as i32))),
        rows("ascending", &mut |_, i| (i % len) as f32 / len as f32 - 0.5),
    ]
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1).
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// Nearly normal, standard deviation 1.15.
    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.uniform()).sum()
    }
}
