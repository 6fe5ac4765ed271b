//! Encoding and decoding at once: the values that come back, without the bytes between.

use super::{Scale, Scaled};
use crate::element::Element;
use crate::format::{Format, FormatError};

/// What a block is divided by, and its zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Under {
    scale: f32,
    zero: f32,
}

impl<E: Element> Scaled<E> {
    /// The scale of a block, of any length, under the rule; `first` is the place of its first value in rows of `cols`, for the
    /// error.
    ///
    /// # Errors
    /// A value that is not finite, or a scale that the format does not reach.
    pub fn choose(&self, x: &[f32], first: usize, cols: usize) -> Result<Under, FormatError> {
        let place = |i: usize| ((first + i) / cols.max(1), (first + i) % cols.max(1));
        let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        if let Some(i) = x.iter().position(|v| !v.is_finite()) {
            let (row, col) = place(i);
            return Err(FormatError::NotFinite { format: self.layout(), row, col, value: x[i] });
        }
        if amax > self.scale.reach(&self.element) {
            let (row, col) = place(0);
            return Err(FormatError::ScaleOverflow { format: self.layout(), row, col, amax });
        }
        let mut head = [0; 5];
        let (scale, zero) = self.scale.choose(&self.element, x, amax, &mut head[..self.scale.bytes()]);
        Ok(Under { scale, zero })
    }

    /// The values that decoding the codes of `x` under a scale gives, bit for bit; `first` is the place of its first value, from
    /// which stochastic roundings count.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn round_under(&self, under: Under, first: usize, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "as many values come back");
        let Under { scale, zero } = under;
        x.iter().zip(&mut *y).for_each(|(x, y)| *y = self.scale.quotient(*x, scale));
        if self.scale == Scale::Affine {
            for (i, y) in y.iter_mut().enumerate() {
                let code = self.scale.code(&self.element, *y, zero, self.rounding.at((first + i) as u64));
                *y = (self.values[usize::from(code)] - zero) * scale;
            }
            return;
        }
        self.element.nearest_each(self.rounding, first, y);
        y.iter_mut().for_each(|y| *y *= scale);
    }

    /// 1 where a value lies within what the codes reach under a scale, 0 where it is clipped.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn reached_under(&self, under: Under, x: &[f32], reached: &mut [f32]) {
        assert_eq!(x.len(), reached.len(), "as many values");
        let Under { scale, zero } = under;
        // The scale was rounded, and the largest value of a block must not be out of reach for that.
        let most = self.element.max() * (1.0 + 4.0 * f32::EPSILON);
        let (low, high) = if self.scale == Scale::Affine { (-zero - 0.5, most - zero + 0.5) } else { (-most, most) };
        for (x, r) in x.iter().zip(reached) {
            let q = self.scale.quotient(*x, scale);
            *r = f32::from(u8::from((low..=high).contains(&q)));
        }
    }
}
