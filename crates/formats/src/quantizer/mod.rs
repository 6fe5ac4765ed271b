//! Quantizers: a format and how much of a tensor shares a scale; what training with quantization rounds numbers to.
//!
//! A [`Quantizer`] has a name, `format` or `format:span`, e.g. `ternary`, `int8:row`, `int4:group32`, `mxfp4`, `nvfp4:row`, `Q4_K`.
//! It rounds numbers to what a format holds and back, bit for bit as [`crate::Format::encode`] and [`crate::Format::decode`] do, without the
//! bytes between, and knows which numbers the format clips.

mod name;
mod rows;

use crate::element::{E2M1, E2M3, E3M2, E4M3_FN, E5M2, Float, Integer, Range};
use crate::format::{FormatError, format};
use crate::scaled::{PowerRule, Scale, Scaled, mean_magnitude};
use crate::{Dtype, Layout};
pub use name::QuantizerError;

/// How much of a tensor shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// All of it.
    Tensor,
    /// A row: an output channel of a weight, a token of activations.
    Row,
    /// So many values of a row.
    Group(usize),
}

/// What numbers become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Codes {
    /// -s, 0 or s by the mean magnitude s of a span, rounded to half precision or not.
    Ternary { half: bool },
    /// Symmetric integers by the largest magnitude of a span.
    Integer { bits: u32 },
    /// Floats by the largest magnitude of a span.
    Float(Float),
    /// Integers in blocks of 32 under a power of two.
    MxInteger { bits: u32, rule: PowerRule },
    /// Floats in blocks of 32 under a power of two.
    MxFloat(Float, PowerRule),
    /// E2M1 in blocks of 16 under E4M3, relative to the largest magnitude of a span.
    NvFloat,
    /// Integers of 4 bits, likewise.
    NvInteger,
    /// A type of files, with blocks of its own.
    Stored(Dtype),
}

/// Values of a block of the MX formats.
const MX: usize = 32;
/// Values of a block of NVFP4.
const NV: usize = 16;

/// A format and how much shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantizer {
    codes: Codes,
    span: Span,
}

/// What is known of a whole tensor before its rows are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OfTensor(f32);

impl Quantizer {
    /// Blocks of a type of files.
    pub const fn stored(dtype: Dtype) -> Quantizer {
        Quantizer { codes: Codes::Stored(dtype), span: Span::Group(dtype.block_len()) }
    }

    /// How much shares a scale: of formats with blocks and a second scale, that of the second one.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The type of files that this is, if it is one.
    pub fn dtype(&self) -> Option<Dtype> {
        match self.codes {
            Codes::Stored(dtype) => Some(dtype),
            _ => None,
        }
    }

    /// The type of files that holds what comes back to the bit, if there is one besides plain numbers.
    pub fn file_type(&self) -> Option<Dtype> {
        match (self.codes, self.span) {
            (Codes::Stored(dtype), _) => Some(dtype),
            // A block holds -d, 0 and d, d of half precision.
            (Codes::Ternary { half: true }, Span::Tensor | Span::Row) => Some(Dtype::TQ2_0),
            (Codes::MxFloat(E2M1, PowerRule::Floor), _) => Some(Dtype::MXFP4),
            _ => None,
        }
    }

    /// Whether values become -s, 0 or s.
    pub fn is_ternary(&self) -> bool {
        matches!(self.codes, Codes::Ternary { .. })
    }

    /// Whether values become integers of eight bits under one scale a row: what products with stored blocks round to as well.
    pub fn is_int8_by_row(&self) -> bool {
        *self == Quantizer { codes: Codes::Integer { bits: 8 }, span: Span::Row }
    }

    /// Whether a row comes out the same whatever the other rows are.
    pub fn rows_are_independent(&self) -> bool {
        self.span != Span::Tensor
    }

    /// Values that lie together in a row of `cols`: what the length of a row must be a multiple of.
    fn block_len(&self, cols: usize) -> usize {
        match (self.codes, self.span) {
            (Codes::MxInteger { .. } | Codes::MxFloat(..), _) => MX,
            (Codes::NvFloat | Codes::NvInteger, _) => NV,
            (Codes::Stored(dtype), _) => dtype.block_len(),
            (_, Span::Group(n)) => n,
            (_, Span::Tensor | Span::Row) => cols.max(1),
        }
    }

    /// Checks that rows of `cols` values are whole blocks.
    ///
    /// # Errors
    /// [`QuantizerError::Ragged`].
    pub fn check(&self, cols: usize) -> Result<(), QuantizerError> {
        let block = self.block_len(cols);
        if cols.is_multiple_of(block) { Ok(()) } else { Err(QuantizerError::Ragged { quantizer: *self, cols, block }) }
    }

    /// Bytes of scratch that [`Quantizer::round`] needs: a row of stored blocks, and of values to find what they reach.
    pub fn scratch_bytes(&self, cols: usize) -> usize {
        match self.codes {
            Codes::Stored(dtype) => dtype.row_bytes(cols).unwrap_or(0) + (3 * dtype.block_len() + 1) * size_of::<f32>(),
            _ => 0,
        }
    }

    /// What rounding the rows of a tensor needs to know of all of them.
    ///
    /// # Errors
    /// A value that is not finite; `cols` values are a row.
    pub fn of_tensor(&self, cols: usize, values: &[f32]) -> Result<OfTensor, FormatError> {
        if self.span != Span::Tensor {
            return Ok(OfTensor(0.0));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let (row, col) = (i / cols.max(1), i % cols.max(1));
            let format = Layout { name: self.to_string().into(), block_len: 1, block_bytes: 1 };
            return Err(FormatError::NotFinite { format, row, col, value: values[i] });
        }
        Ok(OfTensor(match self.codes {
            Codes::Ternary { half: false } => mean_magnitude(values),
            Codes::Ternary { half: true } => half::f16::from_f32(mean_magnitude(values)).to_f32(),
            _ => values.iter().fold(0.0, |m, v| m.max(v.abs())),
        }))
    }

    /// Rounds rows of `cols` values; `of` is [`Quantizer::of_tensor`] of the tensor that they belong to.
    ///
    /// # Errors
    /// A value that the format cannot hold; rows count from the first given.
    ///
    /// # Panics
    /// If the lengths differ, rows are no whole blocks, or `scratch` is shorter than [`Quantizer::scratch_bytes`].
    pub fn round(
        &self,
        of: OfTensor,
        cols: usize,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), FormatError> {
        self.run(rows::Round, of, cols, x, y, scratch)
    }

    /// 1 for values within what the format reaches under the scales that it chooses, 0 for those that it clips.
    ///
    /// # Errors
    /// As [`Quantizer::round`].
    ///
    /// # Panics
    /// As [`Quantizer::round`].
    pub fn reached(
        &self,
        of: OfTensor,
        cols: usize,
        x: &[f32],
        reached: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), FormatError> {
        self.run(rows::Reached, of, cols, x, reached, scratch)
    }

    fn run(
        &self,
        what: impl rows::Rows,
        OfTensor(of): OfTensor,
        cols: usize,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), FormatError> {
        assert_eq!(x.len(), y.len(), "as many values come out");
        let block = self.block_len(cols);
        assert!(cols.is_multiple_of(block), "rows of {cols} are no whole blocks of {block}");
        let tensor = self.span == Span::Tensor;
        // A tensor of zeros has no scale of its own.
        let by_largest = |max: f32| match (tensor, of > 0.0) {
            (true, true) => Scale::Tensor(of / max),
            (true, false) => Scale::Tensor(1.0),
            (false, _) => Scale::Single,
        };
        match self.codes {
            Codes::Ternary { half } => {
                let scale = match (tensor, half) {
                    (true, _) => Scale::MeanOfTensor(of),
                    (false, true) => Scale::MeanHalf,
                    (false, false) => Scale::Mean,
                };
                what.run(&made("TERNARY", Integer::new(2, Range::Symmetric), block, scale), cols, x, y)
            }
            Codes::Integer { bits } => {
                let element = Integer::new(bits, Range::Symmetric);
                let scale = by_largest(crate::element::Element::max(&element));
                what.run(&made("INT", element, block, scale), cols, x, y)
            }
            Codes::Float(element) => {
                let scale = by_largest(crate::element::Element::max(&element));
                what.run(&made("FP", element, block, scale), cols, x, y)
            }
            Codes::MxInteger { bits, rule } => {
                what.run(&made("MXINT", Integer::mx(bits), MX, Scale::Power(rule)), cols, x, y)
            }
            Codes::MxFloat(element, rule) => what.run(&made("MXFP", element, MX, Scale::Power(rule)), cols, x, y),
            Codes::NvFloat => self.nv("NVFP4", E2M1, what, of, cols, x, y),
            Codes::NvInteger => self.nv("NVINT4", Integer::new(4, Range::Symmetric), what, of, cols, x, y),
            Codes::Stored(dtype) => what.stored(format(dtype), cols, x, y, scratch),
        }
    }

    /// Blocks under E4M3 relative to the largest magnitude of the tensor, or of each row, or to 1.
    fn nv<E: crate::element::Element>(
        &self,
        name: &'static str,
        element: E,
        what: impl rows::Rows,
        of: f32,
        cols: usize,
        x: &[f32],
        y: &mut [f32],
    ) -> Result<(), FormatError> {
        let scale = |amax: f32| Scale::UE4M3 { tensor: if amax > 0.0 { amax / (448.0 * element.max()) } else { 1.0 } };
        match self.span {
            Span::Tensor => what.run(&made(name, element, NV, scale(of)), cols, x, y),
            Span::Row => {
                let rows = x.chunks_exact(cols.max(1)).zip(y.chunks_exact_mut(cols.max(1)));
                rows.enumerate().try_for_each(|(i, (x, y))| {
                    let amax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    if amax.is_infinite() {
                        // No scale: the error names the value.
                        return what.run(&made(name, element, NV, scale(0.0)), cols, x, y).map_err(|e| e.below(i));
                    }
                    what.run(&made(name, element, NV, scale(amax)), cols, x, y).map_err(|e| e.below(i))
                })
            }
            Span::Group(_) => what.run(&made(name, element, NV, Scale::UE4M3 { tensor: 1.0 }), cols, x, y),
        }
    }
}

/// A format whose block and scale were checked.
fn made<E: crate::element::Element>(name: &'static str, element: E, block: usize, scale: Scale) -> Scaled<E> {
    Scaled::new(name, element, block, scale).unwrap_or_else(|e| unreachable!("{e}"))
}

/// Floats by name.
const FLOATS: [(&str, Float); 5] =
    [("fp8_e4m3", E4M3_FN), ("fp8_e5m2", E5M2), ("fp6_e2m3", E2M3), ("fp6_e3m2", E3M2), ("fp4_e2m1", E2M1)];
