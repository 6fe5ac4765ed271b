//! Orders of codes in published checkpoints and engines that are no blocks of [`crate::Format`]: whole matrices of them.

mod bitnet;
mod fp6_llm;
mod int4_fp8;
mod stream;

pub use bitnet::{absmean, pack_bitnet, unpack_bitnet};
pub use fp6_llm::{dequantize_fp6_llm, four_halves, pack_fp6_llm, quantize_fp6_llm, unpack_fp6_llm};
pub use int4_fp8::{
    Dequantization, GroupScale, INT4_FP8_BYTES, INT4_FP8_GROUP, int4_group, join_fireq, pack_int4_fp8, split_fireq,
    tensor_exponent, unpack_int4_fp8,
};
pub use stream::{pack_high_first, pack_low_first, unpack_high_first, unpack_low_first};

/// The largest scale of FP6-LLM: 2^12 times as much is the largest half.
const LARGEST_SCALE: f32 = 65504.0 / 4096.0;

/// Why codes cannot be packed or unpacked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PackingError {
    /// The matrix is not whole tiles.
    #[error("a [{rows}, {cols}] matrix is not whole tiles of [{tile_rows}, {tile_cols}]; pad it with zeros first")]
    Ragged {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Rows of a tile.
        tile_rows: usize,
        /// Columns of a tile.
        tile_cols: usize,
    },
    /// A slice has the wrong length.
    #[error("{what}: {have}, {need} needed")]
    Length {
        /// What the slice holds.
        what: &'static str,
        /// Its length.
        have: usize,
        /// The length that the shape asks for.
        need: usize,
    },
    /// A code that the packing has no bits for.
    #[error("row {row}, column {col} is {code}, which is not in {least}..={most}")]
    Code {
        /// Row of the code.
        row: usize,
        /// Column of the code.
        col: usize,
        /// The code.
        code: i32,
        /// The smallest code.
        least: i32,
        /// The largest code.
        most: i32,
    },
    /// A scale that the engine's kernel cannot hold.
    #[error(
        "row {row} reaches ±{amax}: its scale of {scale} times 2^12 is no half; FP6-LLM holds rows up to ±{}", 28.0 * LARGEST_SCALE
    )]
    Scale {
        /// The row.
        row: usize,
        /// Its largest magnitude.
        amax: f32,
        /// Its scale.
        scale: f32,
    },
    /// A value beyond what the scales reach.
    #[error("value {index} is {value}: magnitudes up to {most} can be stored; choose a smaller power of two")]
    TooLarge {
        /// Position of the value.
        index: usize,
        /// The value.
        value: f32,
        /// The largest magnitude.
        most: f32,
    },
    /// A value that is no finite number.
    #[error("value {index} is {value}: only finite weights can be scaled")]
    NotFinite {
        /// Position of the value.
        index: usize,
        /// The value.
        value: f32,
    },
}

fn expect_len(what: &'static str, have: usize, need: usize) -> Result<(), PackingError> {
    if have == need { Ok(()) } else { Err(PackingError::Length { what, have, need }) }
}

/// The first code beyond `most`, as an error; `cols` codes a row.
fn expect_codes(codes: &[u8], cols: usize, bits: u32) -> Result<(), PackingError> {
    let most = ((1u32 << bits) - 1) as u8;
    match codes.iter().position(|c| *c > most) {
        None => Ok(()),
        Some(i) => Err(PackingError::Code {
            row: i / cols,
            col: i % cols,
            code: i32::from(codes[i]),
            least: 0,
            most: i32::from(most),
        }),
    }
}
