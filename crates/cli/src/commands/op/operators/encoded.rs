//! Number formats: numbers to bytes, and back.

use anyhow::{Context, bail};
use memwall_formats::{Dtype, format};

use crate::commands::op::builder::{Builder, encode as encode_rows};
use crate::commands::op::operator::{How, Operator, bytes, real};
use crate::commands::op::tensors::{Elements, Tensor};

pub const ENCODE: Operator = Operator {
    name: "encode",
    about: "rows of x in a number format, block by block: F16, BF16, Q8_0, Q5_0, Q5_1, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, …",
    inputs: &[real("x", "... W", "numbers; W a multiple of the format's block")],
    weights: None,
    outputs: &[bytes("bytes", "... R", "the codes; R bytes a row")],
    attributes: &["format"],
    forms: &[],
    how: How::Alone(|b| Ok(vec![("bytes".into(), encode(b)?)]), "codes are no continuous function of numbers"),
};

pub const DECODE: Operator = Operator {
    name: "decode",
    about: "numbers of rows that are stored in a number format",
    inputs: &[bytes("bytes", "... R", "the codes; R a multiple of the format's block in bytes")],
    weights: None,
    outputs: &[real("x", "... W", "the numbers")],
    attributes: &["format"],
    forms: &[],
    how: How::Alone(|b| Ok(vec![("x".into(), decode(b)?)]), "codes are no continuous function of numbers"),
};

/// The format that a flag names.
///
/// # Errors
/// Names the flag, and the format that is most like it.
pub fn format_named(flag: &str, name: &str) -> anyhow::Result<Dtype> {
    Dtype::from_name(name).with_context(|| {
        let all: Vec<&str> = Dtype::ALL.iter().map(|d| d.name()).collect();
        format!("--{flag} {name}: did you mean {}? There are {}", Dtype::nearest_name(name), all.join(", "))
    })
}

fn chosen(b: &Builder<'_>) -> anyhow::Result<Dtype> {
    let name = b.attributes.required("format", b.attributes.text("format"))?;
    let dtype = format_named("format", name)?;
    match dtype {
        Dtype::F64 => bail!("--format F64: formats are of numbers of up to 32 bits"),
        _ => Ok(dtype),
    }
}

fn encode(b: &Builder<'_>) -> anyhow::Result<Tensor> {
    let dtype = chosen(b)?;
    let x = b.needed("x")?;
    let values: Vec<f32> = x.reals().unwrap_or_default().into_iter().map(|x| x as f32).collect();
    let cols = b.size('W');
    let bytes = encode_rows(dtype, cols, &values).context("input x")?;
    let mut shape = x.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = dtype.row_bytes(cols).unwrap_or(0);
    }
    Ok(Tensor { shape, elements: Elements::U8(bytes) })
}

fn decode(b: &Builder<'_>) -> anyhow::Result<Tensor> {
    let dtype = chosen(b)?;
    let given = b.needed("bytes")?;
    let Elements::U8(bytes) = &given.elements else { bail!("input bytes is no U8") };
    let (row, block) = (b.size('R'), dtype.block_bytes());
    if !row.is_multiple_of(block) {
        bail!("input bytes has rows of {row} bytes; a block of {dtype} has {block}");
    }
    let cols = row / block * dtype.block_len();
    let mut values = vec![0.0; bytes.len() / row.max(1) * cols];
    format(dtype).decode(cols, bytes, &mut values)?;
    let mut shape = given.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = cols;
    }
    Ok(Tensor { shape, elements: Elements::F32(values) })
}
