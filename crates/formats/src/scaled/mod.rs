//! Scaled formats: an element, a block length and a rule for the scale. One mechanism for OCP's MX formats, NVFP4 and NVINT4 with
//! their tensor scale, block floating point, and integers by tensor, channel or group.
//!
//! `value = scale · element`. A block is its scale as [`Scale`] stores it, then the codes, [`Element::bits`] bits each, the
//! first in the lowest bits of the first byte (OCP defines no layout; this is that of 4-bit codes in PyTorch). Blocks run along
//! the row. What belongs to a whole tensor, its scale, is a field of the format and not stored: the caller keeps it.
//!
//! ```
//! use memwall_formats::{Format, scaled};
//!
//! let x: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
//! let format = scaled::mxfp4();
//! let mut bytes = vec![0; format.layout().row_bytes(64).unwrap()];
//! format.encode(64, &x, &mut bytes).unwrap();
//! assert_eq!(bytes.len(), 2 * 17);
//! ```

pub(crate) mod codes;
mod named;
mod round;
mod scale;

use std::borrow::Cow;

use crate::element::{Element, Rounding};
use crate::format::{Format, FormatError, check_shape};
use crate::layout::Layout;
pub use named::{
    bfp, int_affine, int_by_group, int_by_tensor, mxfp4, mxfp6_e2m3, mxfp6_e3m2, mxfp8_e4m3, mxfp8_e5m2, mxint, nvfp4,
    nvint4, paper_fp8_by_tensor,
};
pub use round::Under;
pub(crate) use scale::mean_magnitude;
pub use scale::{PowerRule, Scale};

/// Elements in blocks that share a scale.
#[derive(Clone, Debug)]
pub struct Scaled<E: Element> {
    name: Cow<'static, str>,
    element: E,
    block_len: usize,
    scale: Scale,
    rounding: Rounding,
    /// The value of every code.
    values: [f32; 256],
}

/// Why there is no such format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name}: {what}")]
pub struct NoSuchFormat {
    name: String,
    what: &'static str,
}

impl<E: Element> Scaled<E> {
    /// Blocks of `block_len` elements (a whole row: one scale a channel) under a rule; rounds to the nearest, ties to even.
    ///
    /// # Errors
    /// No block length, or a scale of the tensor that is not positive and finite.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        element: E,
        block_len: usize,
        scale: Scale,
    ) -> Result<Self, NoSuchFormat> {
        let name = name.into();
        let refuse = |what| Err(NoSuchFormat { name: name.to_string(), what });
        if block_len == 0 {
            return refuse("a block holds at least one value");
        }
        if !scale.of_tensor().is_none_or(|s| s.is_finite() && s > 0.0) {
            return refuse("the scale of a tensor is positive and finite");
        }
        let values = std::array::from_fn(|code| element.decode(code as u8));
        Ok(Scaled { name, element, block_len, scale, rounding: Rounding::HalfEven, values })
    }

    /// The same with another rounding of elements. Stochastic ones count positions from the first value of a call.
    #[must_use]
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Scaled { rounding, ..self }
    }

    /// The element.
    pub fn element(&self) -> E {
        self.element
    }

    /// The rule of the scale.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Values in a block.
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// Bits that a value takes, the block's scale included.
    pub fn bits_per_value(&self) -> f64 {
        (self.layout().block_bytes * 8) as f64 / self.block_len as f64
    }

    fn largest(&self) -> u8 {
        (0xff_u8) >> (8 - self.element.bits())
    }
}

impl<E: Element> Format for Scaled<E> {
    fn layout(&self) -> Layout {
        let codes = (self.block_len * self.element.bits() as usize).div_ceil(8);
        Layout { name: self.name.clone(), block_len: self.block_len, block_bytes: self.scale.bytes() + codes }
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let format = self.layout();
        check_shape(&format, cols, values.len(), bytes.len())?;
        let bits = self.element.bits();
        for (b, (x, block)) in
            values.chunks_exact(self.block_len).zip(bytes.chunks_exact_mut(format.block_bytes)).enumerate()
        {
            let first = b * self.block_len;
            let place = |i: usize| ((first + i) / cols, (first + i) % cols);
            if let Some(i) = x.iter().position(|v| !v.is_finite()) {
                let (row, col) = place(i);
                return Err(FormatError::NotFinite { format, row, col, value: x[i] });
            }
            let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            if amax > self.scale.reach(&self.element) {
                let (row, col) = place(0);
                return Err(FormatError::ScaleOverflow { format, row, col, amax });
            }
            let (head, codes) = block.split_at_mut(self.scale.bytes());
            codes.fill(0);
            let (scale, zero) = self.scale.choose(&self.element, x, amax, head);
            for (i, v) in x.iter().enumerate() {
                let rounding = self.rounding.at((first + i) as u64);
                let quotient = self.scale.quotient(*v, scale);
                codes::set(codes, bits, i, self.scale.code(&self.element, quotient, zero, rounding));
            }
        }
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        let format = self.layout();
        check_shape(&format, cols, values.len(), bytes.len())?;
        let bits = self.element.bits();
        for (block, y) in bytes.chunks_exact(format.block_bytes).zip(values.chunks_exact_mut(self.block_len)) {
            let (head, codes) = block.split_at(self.scale.bytes());
            let (scale, zero) = self.scale.read(head);
            for (i, v) in y.iter_mut().enumerate() {
                *v = (self.values[usize::from(codes::get(codes, bits, i))] - zero) * scale;
            }
        }
        Ok(())
    }

    fn code(&self, block: &[u8], index: usize) -> u64 {
        u64::from(codes::get(&block[self.scale.bytes()..], self.element.bits(), index))
    }

    fn set_code(&self, block: &mut [u8], index: usize, code: u64) {
        codes::set(&mut block[self.scale.bytes()..], self.element.bits(), index, code as u8);
    }

    fn largest_code(&self) -> u64 {
        u64::from(self.largest())
    }

    fn error_bound(&self, amax: f32) -> f32 {
        if amax > self.scale.reach(&self.element) {
            return f32::INFINITY;
        }
        let (relative, absolute) = self.scale.error_bound(&self.element);
        relative * amax + absolute
    }
}
