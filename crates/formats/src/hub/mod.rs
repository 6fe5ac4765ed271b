//! Weights as checkpoints on the hub quantize them: several tensors of a safetensors file make up one weight.
//!
//! | scheme | tensors of `X.weight` [rows, columns] | value |
//! |---|---|---|
//! | `fp8` | `weight` F8_E4M3, `weight_scale` F32 (one, or one a row) | code · scale |
//! | `fp8-block` | `weight` F8_E4M3, `weight_scale_inv` F32, one for 128 × 128 | code · scale |
//! | `mxfp4` | `weight_blocks` U8 [.., columns / 32, 16], `weight_scales` U8 | code · 2^(scale - 127) |
//! | `nvfp4` | `weight_packed` U8, `weight_scale` F8_E4M3, `weight_global_scale` F32 = 2688 / amax | code · scale / global |
//! | `nvfp4-modelopt` | `weight` U8, `weight_scale` F8_E4M3, `weight_scale_2` F32 = amax / 2688 | code · scale · scale_2 |
//! | `bitnet` | `weight` U8 [rows / 4, columns], `weight_scale` | code - 1, times the scale or over it |
//!
//! Codes of four bits lie two a byte, the first in the lower half. Values come out in f32, each product rounded once; sources are
//! compressed-tensors, NVIDIA ModelOpt, `transformers` (`integrations/{mxfp4, bitnet, finegrained_fp8}.py`). Scales of
//! activations (`input_scale`, `input_global_scale`) say nothing of weights and are not read.

mod bitnet;
mod fp4;
mod fp8;
mod read;

use serde_json::Value;

use crate::format::FormatError;
use crate::packing::PackingError;
use crate::safetensors::RawPlan;
use crate::scaled::NoSuchFormat;

pub use read::{HubWeight, TernaryScale, weights};

/// A way to quantize weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// E4M3 with one scale a tensor.
    Fp8,
    /// E4M3 with one scale for 128 × 128 values.
    Fp8Block,
    /// E2M1 in blocks of 32 under powers of two.
    Mxfp4,
    /// E2M1 in blocks of 16 under E4M3, the tensor's scale as its reciprocal: compressed-tensors.
    Nvfp4,
    /// As above, the tensor's scale itself: ModelOpt.
    Nvfp4ModelOpt,
    /// Ternary, four a byte, the mean magnitude as scale.
    BitNet,
}

/// Why a weight cannot be stored or read so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HubError {
    /// The matrix cannot be cut into what shares a scale.
    #[error("[{rows}, {columns}] has rows of {columns} values; {scheme} wants a multiple of {block}")]
    Ragged {
        /// The scheme.
        scheme: &'static str,
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
        /// What has to divide them.
        block: usize,
    },
    /// A part of the weight has the wrong shape or type.
    #[error("its part {part} is {found}; {expected} is needed")]
    Part {
        /// The part's name.
        part: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A part of the weight is missing.
    #[error("its part {part} is missing")]
    Missing {
        /// The part's name.
        part: String,
    },
    /// A value that is no finite number.
    #[error("value {index} is {value}; only finite weights can be stored so")]
    NotFinite {
        /// Its place.
        index: usize,
        /// The value.
        value: f32,
    },
    /// As the format below says.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// As the packing says.
    #[error(transparent)]
    Packing(#[from] PackingError),
    /// As the format says.
    #[error(transparent)]
    NoSuchFormat(#[from] NoSuchFormat),
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 6] =
        [Scheme::Fp8, Scheme::Fp8Block, Scheme::Mxfp4, Scheme::Nvfp4, Scheme::Nvfp4ModelOpt, Scheme::BitNet];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Fp8 => "fp8",
            Scheme::Fp8Block => "fp8-block",
            Scheme::Mxfp4 => "mxfp4",
            Scheme::Nvfp4 => "nvfp4",
            Scheme::Nvfp4ModelOpt => "nvfp4-modelopt",
            Scheme::BitNet => "bitnet",
        }
    }

    /// The scheme of that name.
    ///
    /// # Errors
    /// With all there are.
    pub fn from_name(name: &str) -> Result<Scheme, String> {
        let names = Scheme::ALL.map(Scheme::name);
        let found = Scheme::ALL.into_iter().find(|scheme| scheme.name() == name.to_ascii_lowercase());
        found.ok_or_else(|| format!("there are {}", names.join(", ")))
    }

    /// Whether a matrix of that shape can be stored so.
    pub fn fits(self, rows: usize, columns: usize) -> bool {
        match self {
            Scheme::Fp8 | Scheme::Fp8Block => rows > 0 && columns > 0,
            Scheme::Mxfp4 => columns > 0 && columns.is_multiple_of(fp4::MX_BLOCK),
            Scheme::Nvfp4 | Scheme::Nvfp4ModelOpt => columns > 0 && columns.is_multiple_of(fp4::NV_BLOCK),
            Scheme::BitNet => rows > 0 && rows.is_multiple_of(4),
        }
    }

    /// Names, types and shapes of the tensors that make up the weight `name` [rows, columns], in the order of
    /// [`Scheme::encode`].
    pub fn plans(self, name: &str, rows: usize, columns: usize) -> Vec<RawPlan> {
        let plan = |end: &str, stored_as, shape: &[usize]| RawPlan {
            name: format!("{name}{end}"),
            stored_as,
            shape: shape.to_vec(),
        };
        let blocks = |len: usize| columns / len;
        match self {
            Scheme::Fp8 => vec![plan("", "F8_E4M3", &[rows, columns]), plan("_scale", "F32", &[1])],
            Scheme::Fp8Block => {
                let scales = [rows.div_ceil(fp8::BLOCK), columns.div_ceil(fp8::BLOCK)];
                vec![plan("", "F8_E4M3", &[rows, columns]), plan("_scale_inv", "F32", &scales)]
            }
            Scheme::Mxfp4 => {
                let count = blocks(fp4::MX_BLOCK);
                vec![plan("_blocks", "U8", &[rows, count, fp4::MX_BLOCK / 2]), plan("_scales", "U8", &[rows, count])]
            }
            Scheme::Nvfp4 => vec![
                plan("_packed", "U8", &[rows, columns / 2]),
                plan("_scale", "F8_E4M3", &[rows, blocks(fp4::NV_BLOCK)]),
                plan("_global_scale", "F32", &[1]),
            ],
            Scheme::Nvfp4ModelOpt => vec![
                plan("", "U8", &[rows, columns / 2]),
                plan("_scale", "F8_E4M3", &[rows, blocks(fp4::NV_BLOCK)]),
                plan("_scale_2", "F32", &[]),
            ],
            Scheme::BitNet => vec![plan("", "U8", &[rows / 4, columns]), plan("_scale", "F32", &[1])],
        }
    }

    /// The bytes of the tensors that make up a weight [rows, columns], in the order of [`Scheme::plans`].
    ///
    /// # Errors
    /// A shape that does not fit, a value that is not finite.
    pub fn encode(self, rows: usize, columns: usize, values: &[f32]) -> Result<Vec<Vec<u8>>, HubError> {
        if let Some(index) = values.iter().position(|x| !x.is_finite()) {
            return Err(HubError::NotFinite { index, value: values[index] });
        }
        match self {
            Scheme::Fp8 => Ok(fp8::by_tensor(values)),
            Scheme::Fp8Block => Ok(fp8::by_block(rows, columns, values)),
            Scheme::Mxfp4 => fp4::mx(rows, columns, values),
            Scheme::Nvfp4 => fp4::nv(rows, columns, values, fp4::GlobalScale::Reciprocal),
            Scheme::Nvfp4ModelOpt => fp4::nv(rows, columns, values, fp4::GlobalScale::Itself),
            Scheme::BitNet => bitnet::encode(rows, columns, values),
        }
    }

    /// What `config.json` says under `quantization_config`; `skipped` are the modules that are not quantized.
    pub fn config(self, skipped: &[String]) -> Value {
        match self {
            Scheme::Fp8 => serde_json::json!({
                "quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": skipped,
            }),
            Scheme::Fp8Block => serde_json::json!({
                "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                "weight_block_size": [fp8::BLOCK, fp8::BLOCK], "modules_to_not_convert": skipped,
            }),
            Scheme::Mxfp4 => serde_json::json!({ "quant_method": "mxfp4", "modules_to_not_convert": skipped }),
            Scheme::Nvfp4 => serde_json::json!({
                "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                "quantization_status": "compressed", "ignore": skipped,
                "config_groups": { "group_0": { "targets": ["Linear"], "weights": {
                    "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": fp4::NV_BLOCK, "symmetric": true,
                } } },
            }),
            Scheme::Nvfp4ModelOpt => serde_json::json!({
                "quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": fp4::NV_BLOCK, "ignore": skipped,
                "producer": { "name": "modelopt" },
            }),
            // The offline layer multiplies by its scale.
            Scheme::BitNet => serde_json::json!({
                "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
                "modules_to_not_convert": skipped,
            }),
        }
    }
}

/// The bytes of 32-bit floats.
fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
