//! Which tensors of a container make up which weight, and the weight's values.

use std::collections::BTreeMap;

use super::fp4::{self, GlobalScale};
use super::{HubError, bitnet, fp8};
use crate::container::{Container, FileError, Raw};
use crate::element::{E4M3_FN, E5M2};
use crate::{Dtype, format};

/// What BitNet's `weight_scale` does: `AutoBitLinear` multiplies by it, `BitLinear` divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryScale {
    /// `linear_class` is `autobitlinear`.
    Multiplies,
    /// `linear_class` is `bitlinear`, or absent.
    Divides,
}

/// A weight, plain or of several tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct HubWeight {
    /// The name that layers ask for.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Plain(Dtype),
    /// With the block of a scale, or none where there is one for the tensor or for a row; the name of the scales.
    Fp8(Option<[usize; 2]>, String),
    Mxfp4,
    Nvfp4(GlobalScale),
    BitNet(TernaryScale),
}

/// How the names of a weight's other tensors end.
const PARTS: [&str; 5] = ["_scale", "_scale_inv", "_scale_2", "_scales", "_global_scale"];

/// The weights of a container of the hub's; `block` is `weight_block_size` of its configuration, `ternary` says what BitNet's
/// scales do. `None` if nothing in it is quantized.
///
/// # Errors
/// A weight whose parts are missing, or have types or shapes that do not go together.
pub fn weights(
    container: &Container,
    block: Option<[usize; 2]>,
    ternary: TernaryScale,
) -> Result<Option<Vec<HubWeight>>, FileError> {
    let all: BTreeMap<&str, Raw<'_>> = container.raw_tensors().map(|raw| (raw.name, raw)).collect();
    let mut found = Vec::new();
    for raw in all.values() {
        match packed(&all, raw, block, ternary) {
            Some(weight) => found.push(weight),
            // Scales of activations, and scales that a weight has claimed.
            None if PARTS.iter().any(|end| raw.name.ends_with(end)) => {}
            None => match raw.dtype {
                Some(dtype) => found.push(HubWeight::new(raw.name, raw.shape.to_vec(), Kind::Plain(dtype))),
                None => {
                    let (file, tensor) = (container.path().to_path_buf(), raw.name.into());
                    return Err(FileError::UnsupportedType { file, tensor, stored_as: raw.stored_as });
                }
            },
        }
    }
    Ok(found.iter().any(|w| !w.is_plain()).then_some(found))
}

/// The quantized weight whose codes a tensor holds, if it holds any.
fn packed(
    all: &BTreeMap<&str, Raw<'_>>,
    raw: &Raw<'_>,
    block: Option<[usize; 2]>,
    ternary: TernaryScale,
) -> Option<HubWeight> {
    let has = |name: &str, end: &str| all.contains_key(format!("{name}{end}").as_str());
    let (name, shape) = (raw.name, raw.shape);
    if let Some(weight) = name.strip_suffix("_blocks").filter(|w| has(w, "_scales")) {
        let (outer, inner) = shape.split_at(shape.len().saturating_sub(2));
        let shape = outer.iter().copied().chain([2 * inner.iter().product::<usize>()]).collect();
        return Some(HubWeight::new(weight, shape, Kind::Mxfp4));
    }
    if let Some(weight) = name.strip_suffix("_packed").filter(|w| has(w, "_global_scale")) {
        return Some(HubWeight::new(weight, two_a_byte(shape), Kind::Nvfp4(GlobalScale::Reciprocal)));
    }
    match raw.stored_as {
        "U8" if has(name, "_scale_2") => {
            Some(HubWeight::new(name, two_a_byte(shape), Kind::Nvfp4(GlobalScale::Itself)))
        }
        "U8" if has(name, "_scale") => {
            let shape = shape.iter().enumerate().map(|(i, n)| if i == 0 { 4 * n } else { *n }).collect();
            Some(HubWeight::new(name, shape, Kind::BitNet(ternary)))
        }
        "F8_E4M3" | "F8_E5M2" if has(name, "_scale_inv") => {
            let kind = Kind::Fp8(Some(block.unwrap_or([fp8::BLOCK; 2])), format!("{name}_scale_inv"));
            Some(HubWeight::new(name, shape.to_vec(), kind))
        }
        "F8_E4M3" | "F8_E5M2" if has(name, "_scale") => {
            Some(HubWeight::new(name, shape.to_vec(), Kind::Fp8(None, format!("{name}_scale"))))
        }
        _ => None,
    }
}

/// The shape of codes of which a byte holds two.
fn two_a_byte(shape: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(i, n)| if i + 1 == shape.len() { 2 * n } else { *n }).collect()
}

impl HubWeight {
    fn new(name: &str, shape: Vec<usize>, kind: Kind) -> HubWeight {
        HubWeight { name: name.into(), shape, kind }
    }

    /// Whether it is stored as it is.
    pub fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain(_))
    }

    /// How it is stored, in a word.
    pub fn stored_as(&self) -> &'static str {
        match &self.kind {
            Kind::Plain(dtype) => dtype.name(),
            Kind::Fp8(..) => "FP8",
            Kind::Mxfp4 => "MXFP4",
            Kind::Nvfp4(_) => "NVFP4",
            Kind::BitNet(_) => "BitNet",
        }
    }

    /// Its values.
    ///
    /// # Errors
    /// Parts that are missing, or have types or shapes that do not go together; names the weight.
    pub fn decode(&self, container: &Container) -> Result<Vec<f32>, FileError> {
        self.values(container).map_err(|error| FileError::Tensor {
            file: container.path().to_path_buf(),
            tensor: self.name.clone(),
            problem: error.to_string(),
        })
    }

    fn values(&self, container: &Container) -> Result<Vec<f32>, HubError> {
        let name = &self.name;
        let columns = self.shape.last().copied().unwrap_or(1);
        let count: usize = self.shape.iter().product();
        let rows = count.checked_div(columns).unwrap_or(0);
        match &self.kind {
            Kind::Plain(dtype) => {
                let raw = part(container, name)?;
                let mut values = vec![0.0; count];
                format(*dtype).decode(columns, raw.bytes, &mut values)?;
                Ok(values)
            }
            Kind::Fp8(block, scales) => {
                let (raw, scales_raw) = (part(container, name)?, part(container, scales)?);
                let scales = floats(&scales_raw)?;
                let shape = [rows, columns];
                match raw.stored_as {
                    "F8_E5M2" => fp8::decode(E5M2, shape, raw.bytes, &scales, scales_raw.shape, *block),
                    _ => fp8::decode(E4M3_FN, shape, raw.bytes, &scales, scales_raw.shape, *block),
                }
            }
            Kind::Mxfp4 => {
                let codes = part(container, &format!("{name}_blocks"))?;
                let scales = part(container, &format!("{name}_scales"))?;
                expect(&codes, "U8", codes.shape.last() == Some(&(fp4::MX_BLOCK / 2)), "U8 [.., columns / 32, 16]")?;
                let right = codes.shape[..codes.shape.len() - 1] == *scales.shape;
                expect(&scales, "U8", right, "U8 [.., columns / 32]")?;
                Ok(fp4::mx_decode(codes.bytes, scales.bytes))
            }
            Kind::Nvfp4(convention) => {
                let (codes, global) = match convention {
                    GlobalScale::Reciprocal => (format!("{name}_packed"), format!("{name}_global_scale")),
                    GlobalScale::Itself => (name.clone(), format!("{name}_scale_2")),
                };
                let (codes, global) = (part(container, &codes)?, part(container, &global)?);
                let scales = part(container, &format!("{name}_scale"))?;
                let mut shape = self.shape.clone();
                if let Some(last) = shape.last_mut() {
                    *last /= fp4::NV_BLOCK;
                }
                expect(&codes, "U8", two_a_byte(codes.shape) == self.shape, "U8 [.., columns / 2]")?;
                let right = columns.is_multiple_of(fp4::NV_BLOCK) && shape == scales.shape;
                expect(&scales, "F8_E4M3", right, &format!("F8_E4M3 {shape:?}"))?;
                Ok(fp4::nv_decode(codes.bytes, scales.bytes, one(&global)?, *convention))
            }
            Kind::BitNet(how) => {
                let (codes, scale) = (part(container, name)?, part(container, &format!("{name}_scale"))?);
                bitnet::decode(codes.bytes, rows, columns, one(&scale)?, *how)
            }
        }
    }
}

fn part<'a>(container: &'a Container, name: &str) -> Result<Raw<'a>, HubError> {
    container.raw_tensors().find(|raw| raw.name == name).ok_or_else(|| HubError::Missing { part: name.into() })
}

fn expect(raw: &Raw<'_>, stored: &str, shape: bool, expected: &str) -> Result<(), HubError> {
    if raw.stored_as == stored && shape {
        return Ok(());
    }
    let found = format!("{} {:?}", raw.stored_as, raw.shape);
    Err(HubError::Part { part: raw.name.into(), found, expected: expected.into() })
}

/// Scales, stored as any scalar that holds them.
fn floats(raw: &Raw<'_>) -> Result<Vec<f32>, HubError> {
    let Some(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16)) = raw.dtype else {
        expect(raw, "F32", false, "F32, F16 or BF16")?;
        return Ok(Vec::new());
    };
    let mut values = vec![0.0; raw.bytes.len() / dtype.block_bytes()];
    format(dtype).decode(values.len().max(1), raw.bytes, &mut values)?;
    Ok(values)
}

/// The only value of a scale.
fn one(raw: &Raw<'_>) -> Result<f32, HubError> {
    match floats(raw)?[..] {
        [only] if only.is_finite() && only != 0.0 => Ok(only),
        [only] => Err(HubError::Part {
            part: raw.name.into(),
            found: only.to_string(),
            expected: "a finite scale other than 0".into(),
        }),
        _ => {
            expect(raw, "F32", false, "one value")?;
            Ok(1.0)
        }
    }
}
