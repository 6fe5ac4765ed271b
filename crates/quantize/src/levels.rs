//! The levels of a block format, learned from its [`Format`] alone.
//!
//! In a block, value `i` under code `c` is `low_i + place_c · (high_i - low_i)`: `place` belongs to the format, `low` and
//! `high` (what the codes of the lowest and the highest level decode to) to the scales of the value's sub-block. So a block
//! need be decoded twice to know all levels of all its values; and encoding a ramp from wanted lows to wanted highs gives a
//! block whose scales are nearest to those wanted, whatever they are packed like. Formats whose codes are not of this kind
//! have no [`Levels`].

use memwall_formats::{Format, FormatError};

/// The levels of a format.
pub struct Levels<'f> {
    format: &'f dyn Format,
    /// Places of the levels, 0 to 1, ascending, and their codes.
    places: Vec<f32>,
    codes: Vec<u64>,
    /// Half-way places, unless all levels are equally far apart.
    midpoints: Option<Vec<f32>>,
    group: usize,
    symmetric: bool,
}

/// The lowest and the highest level of each value of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// What the code of the lowest level decodes to.
    pub low: Vec<f32>,
    /// What the code of the highest level decodes to.
    pub high: Vec<f32>,
}

/// Formats with more codes have too many levels for a search to gain anything.
const MOST_CODES: u64 = 255;

impl<'f> Levels<'f> {
    /// The levels of `format`; `None` if it has no scales, or its codes do not place a value between two bounds.
    pub fn of(format: &'f dyn Format) -> Option<Levels<'f>> {
        let len = format.layout().block_len;
        if len == 1 || format.largest_code() > MOST_CODES {
            return None;
        }
        let block = encoded(format, &probe(len, 1.0)).ok()?;
        let mut seen: Vec<(f32, u64)> = every_code(format, &block, 0).filter(|(y, _)| y.is_finite()).collect();
        seen.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (lowest, highest) = (seen.first()?.0, seen.last()?.0);
        if lowest >= highest {
            return None;
        }
        let place = |y: f32| (y - lowest) / (highest - lowest);
        let (mut places, mut codes): (Vec<f32>, Vec<u64>) = seen.iter().map(|&(y, code)| (place(y), code)).unzip();
        // Two zeros of unlike sign are one level.
        for i in (1..places.len()).rev() {
            if places[i] == places[i - 1] {
                places.remove(i);
                codes.remove(i);
            }
        }
        let last = (places.len() - 1) as f32;
        let even = places.iter().enumerate().all(|(i, p)| (p - i as f32 / last).abs() < 1e-5);
        let midpoints = (!even).then(|| places.windows(2).map(|p| (p[0] + p[1]) / 2.0).collect());
        let mut levels = Levels { format, places, codes, midpoints, group: len, symmetric: true };
        levels.learn_groups()?;
        levels.is_set_by_a_ramp()?.then_some(levels)
    }

    /// Whether encoding a ramp gives a block the scales wanted: not where the encoder leaves out the highest level.
    fn is_set_by_a_ramp(&self) -> Option<bool> {
        let mut block = encoded(self.format, &probe(self.format.layout().block_len, 1.0)).ok()?;
        let wanted = self.bounds(&mut block).ok()?;
        self.block_with(&wanted, &mut block).ok()?;
        let got = self.bounds(&mut block).ok()?;
        let range = wanted.high.iter().zip(&wanted.low).fold(0.0f32, |m, (h, l)| m.max((h - l).abs()));
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 0.05 * range);
        Some(near(&wanted.low, &got.low) && near(&wanted.high, &got.high))
    }

    /// Checks that places hold for other values and scales, and finds the sub-blocks.
    fn learn_groups(&mut self) -> Option<()> {
        let len = self.format.layout().block_len;
        let mut ratio = None;
        for sign in [1.0, -1.0] {
            let mut block = encoded(self.format, &probe(len, sign)).ok()?;
            let bounds = self.bounds(&mut block).ok()?;
            for i in [0, len / 2 + 1, len - 1] {
                let (low, range) = (bounds.low[i], bounds.high[i] - bounds.low[i]);
                for (y, code) in every_code(self.format, &block, i).filter(|(y, _)| y.is_finite()) {
                    // The twin of a zero has no place of its own.
                    let Some(at) = self.codes.iter().position(|c| *c == code) else { continue };
                    if (y - low - self.places[at] * range).abs() > 1e-4 * range.abs() {
                        return None;
                    }
                }
            }
            for i in 0..len {
                if i > 0 && (bounds.low[i], bounds.high[i]) != (bounds.low[i - 1], bounds.high[i - 1]) {
                    self.group = greatest_common_divisor(self.group, i);
                }
                if bounds.high[i] != 0.0 {
                    let this = bounds.low[i] / bounds.high[i];
                    self.symmetric &= (this - *ratio.get_or_insert(this)).abs() < 1e-3;
                }
            }
        }
        Some(())
    }

    /// The format.
    pub fn format(&self) -> &'f dyn Format {
        self.format
    }

    /// Values that share a scale.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Whether a sub-block has a scale only: its lowest and highest level are in a fixed ratio.
    pub fn is_symmetric(&self) -> bool {
        self.symmetric
    }

    /// The bounds of a block; its codes are overwritten.
    ///
    /// # Errors
    /// If it is not one block.
    pub fn bounds(&self, block: &mut [u8]) -> Result<Bounds, FormatError> {
        let len = self.format.layout().block_len;
        let mut bounds = Bounds { low: vec![0.0; len], high: vec![0.0; len] };
        for (code, y) in [(self.codes[0], &mut bounds.low), (self.codes[self.codes.len() - 1], &mut bounds.high)] {
            for i in 0..len {
                self.format.set_code(block, i, code);
            }
            self.format.decode(len, block, y)?;
        }
        Ok(bounds)
    }

    /// The number of the level nearest to `x` between `low` and `high`; `None` if they are the same.
    #[inline]
    pub fn nearest(&self, x: f32, low: f32, high: f32) -> Option<usize> {
        let place = (x - low) / (high - low);
        if !place.is_finite() {
            return None;
        }
        Some(match &self.midpoints {
            None => {
                let last = self.places.len() - 1;
                ((place * last as f32 + 0.5).max(0.0) as usize).min(last)
            }
            Some(midpoints) => midpoints.partition_point(|m| *m <= place),
        })
    }

    /// The place of a level, 0 to 1.
    #[inline]
    pub fn place(&self, level: usize) -> f32 {
        self.places[level]
    }

    /// The code of a level.
    #[inline]
    pub fn code(&self, level: usize) -> u64 {
        self.codes[level]
    }

    /// Gives each value of a block the nearest code under the block's scales.
    ///
    /// # Errors
    /// If it is not one block.
    pub fn choose(&self, x: &[f32], block: &mut [u8]) -> Result<(), FormatError> {
        let bounds = self.bounds(block)?;
        for (i, x) in x.iter().enumerate() {
            let level = self.nearest(*x, bounds.low[i], bounds.high[i]).unwrap_or(0);
            self.format.set_code(block, i, self.codes[level]);
        }
        Ok(())
    }

    /// A block whose bounds are as near to those wanted as its scales can be; its codes are a ramp.
    ///
    /// # Errors
    /// If scales cannot be so large.
    pub fn block_with(&self, wanted: &Bounds, block: &mut [u8]) -> Result<(), FormatError> {
        let last = self.places.len() - 1;
        let ramp: Vec<f32> = wanted
            .low
            .iter()
            .zip(&wanted.high)
            .enumerate()
            .map(|(i, (low, high))| {
                // From end to end within each sub-block, whose extremes make its scale.
                let step = i % self.group;
                let place = self.places[step * last / (self.group - 1)];
                low + place * (high - low)
            })
            .collect();
        self.format.encode(ramp.len(), &ramp, block)
    }
}

/// Values whose sub-blocks, however short, differ in scale and minimum.
fn probe(len: usize, sign: f32) -> Vec<f32> {
    let value = |i: usize| {
        let (place, scale) = ((i * 37 % 32) as f32 / 31.0, 1.0 + (i / 8 * 5 % 37) as f32 / 11.0);
        sign * scale * (place - 0.3 - (i / 8 * 3 % 7) as f32 / 40.0)
    };
    (0..len).map(value).collect()
}

fn encoded(format: &dyn Format, x: &[f32]) -> Result<Vec<u8>, FormatError> {
    let mut block = vec![0; format.layout().block_bytes];
    format.encode(x.len(), x, &mut block)?;
    Ok(block)
}

/// What value `i` of a block is under each code.
fn every_code(format: &dyn Format, block: &[u8], i: usize) -> impl Iterator<Item = (f32, u64)> {
    let mut block = block.to_vec();
    let mut y = vec![0.0; format.layout().block_len];
    (0..=format.largest_code()).filter_map(move |code| {
        format.set_code(&mut block, i, code);
        format.decode(y.len(), &block, &mut y).ok()?;
        Some((y[i], code))
    })
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use memwall_formats::{Dtype, format};

    use super::*;

    #[test]
    fn the_levels_learned_are_those_of_the_formats_definition() {
        for (dtype, count, group, symmetric) in [
            (Dtype::Q4_0, 16, 32, true),
            (Dtype::Q4_1, 16, 32, false),
            (Dtype::Q5_0, 32, 32, true),
            (Dtype::Q5_1, 32, 32, false),
            (Dtype::Q8_0, 256, 32, true),
            (Dtype::Q2_K, 4, 16, false),
            (Dtype::Q3_K, 8, 16, true),
            (Dtype::Q4_K, 16, 32, false),
            (Dtype::Q5_K, 32, 32, false),
            (Dtype::Q6_K, 64, 16, true),
            (Dtype::IQ4_NL, 16, 32, true),
            (Dtype::IQ4_XS, 16, 32, true),
            (Dtype::FP6, 63, 64, true),
        ] {
            let levels = Levels::of(format(dtype)).unwrap_or_else(|| panic!("{dtype} has levels"));
            let found = (levels.places.len(), levels.group(), levels.is_symmetric());
            assert_eq!(found, (count, group, symmetric), "{dtype}");
            let uneven = matches!(dtype, Dtype::IQ4_NL | Dtype::IQ4_XS | Dtype::FP6);
            assert_eq!(levels.midpoints.is_some(), uneven, "{dtype}");
        }
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64, Dtype::I32] {
            assert!(Levels::of(format(dtype)).is_none(), "{dtype}");
        }
    }

    #[test]
    fn every_block_format_there_is_has_levels_whose_codes_decode_to_them() {
        for dtype in Dtype::ALL.into_iter().filter(|d| d.is_block()) {
            let Some(levels) = Levels::of(format(dtype)) else { continue };
            let x = probe(dtype.block_len(), 0.7);
            let mut block = encoded(format(dtype), &x).unwrap();
            let bounds = levels.bounds(&mut block).unwrap();
            levels.choose(&x, &mut block).unwrap();
            let mut y = vec![0.0; x.len()];
            format(dtype).decode(x.len(), &block, &mut y).unwrap();
            for i in 0..x.len() {
                let (low, high) = (bounds.low[i], bounds.high[i]);
                let level = levels.nearest(x[i], low, high).unwrap_or(0);
                let want = low + levels.place(level) * (high - low);
                assert!((y[i] - want).abs() <= 1e-4 * (high - low).abs(), "{dtype} value {i}: {} and {want}", y[i]);
            }
        }
    }

    #[test]
    fn formats_whose_encoder_leaves_out_a_level_have_none() {
        for dtype in Dtype::ALL.into_iter().filter(|d| d.is_block()) {
            let left_out = matches!(dtype, Dtype::TQ2_0 | Dtype::Q2_0);
            assert_eq!(Levels::of(format(dtype)).is_none(), left_out, "{dtype}");
        }
    }
}
