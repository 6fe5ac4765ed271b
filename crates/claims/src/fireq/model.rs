//! A model of characters run with inputs in E4M3, weights and keys and values in integers of four bits.

use std::collections::HashMap;

use memwall_formats::element::{E4M3_FN, Element, Rounding};
use memwall_formats::packing::{
    Dequantization, GroupScale, INT4_FP8_BYTES, INT4_FP8_GROUP, int4_group, pack_int4_fp8, tensor_exponent,
};
use memwall_kernels::linear::{Int4Fp8, int4_fp8, int4_fp8_scratch};
use memwall_quantize::RopeScaling;

use super::keys::stored;
use super::scaling::{Scaling, scaled};
use crate::Error;
use crate::characters::Windows;
use crate::decoder::{Decoder, Hooks, name};
use crate::planted::Planted;

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Numbers {
    /// All in f32.
    Single,
    /// Weights, keys and values in integers of four bits under such scales, inputs and queries in E4M3.
    Stored(GroupScale, Dequantization),
}

/// Matrices of a layer.
const MATRICES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Mean nats of a character; keys are calibrated on other windows.
pub(super) fn loss(
    model: &Planted,
    windows: &Windows,
    calibration: &Windows,
    scaling: Scaling,
    numbers: Numbers,
) -> Result<f64, Error> {
    let (decoder, scalings) = scaled(model, calibration, scaling)?;
    let mut matrices = HashMap::new();
    if let Numbers::Stored(scale, how) = numbers {
        for name in (0..decoder.layers).flat_map(|layer| MATRICES.map(|part| name(layer, part))) {
            let matrix = Matrix::new(decoder.weight(&name), decoder.inputs(&name), scale, how)?;
            matrices.insert(name, matrix);
        }
    }
    let head_dim = decoder.head_dim();
    decoder.loss(windows, &mut Prepared { numbers, matrices, scalings, heads: decoder.heads, head_dim })
}

/// A weight as a product reads it.
enum Matrix {
    Single(Vec<f32>),
    Groups { bytes: Vec<u8>, exponent: u32, how: Dequantization },
}

impl Matrix {
    /// A weight [outputs, inputs] as it is stored.
    fn new(w: &[f32], inputs: usize, scale: GroupScale, how: Dequantization) -> Result<Matrix, Error> {
        Ok(match scale {
            GroupScale::Bf16 => {
                let back = |x: &[f32]| {
                    let (s, codes) = int4_group(x, GroupScale::Bf16);
                    codes.map(|q| f32::from(q) * s).collect::<Vec<f32>>()
                };
                Matrix::Single(w.chunks(INT4_FP8_GROUP).flat_map(back).collect())
            }
            GroupScale::E4M3 => {
                let exponent = tensor_exponent(w, true);
                let bytes = pack_int4_fp8(w, w.len() / inputs, inputs, exponent).map_err(Error::experiment)?;
                Matrix::Groups { bytes, exponent, how }
            }
        })
    }
}

/// Rows of `width` as they come back from E4M3, one scale a row.
fn in_fp8(x: &[f32], width: usize) -> Vec<f32> {
    let row = |x: &[f32]| {
        let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let s = half::bf16::from_f32(amax / E4M3_FN.max()).to_f32();
        let s = if s > 0.0 { s } else { 1.0 };
        x.iter().map(|x| E4M3_FN.decode(E4M3_FN.encode(x / s, Rounding::HalfEven, true)) * s).collect::<Vec<f32>>()
    };
    x.chunks(width).flat_map(row).collect()
}

/// The model made ready for one way to store it.
struct Prepared {
    numbers: Numbers,
    /// Empty where all is in f32.
    matrices: HashMap<String, Matrix>,
    /// Scales of keys, a layer each.
    scalings: Vec<RopeScaling>,
    heads: usize,
    head_dim: usize,
}

impl Hooks for Prepared {
    fn product(&self, decoder: &Decoder, name: &str, x: &[f32]) -> Result<Vec<f32>, Error> {
        let inputs = decoder.inputs(name);
        match self.matrices.get(name) {
            None => Ok(decoder.product(name, x)),
            Some(Matrix::Single(w)) => Ok(decoder.times(&in_fp8(x, inputs), w, inputs)),
            Some(Matrix::Groups { bytes, exponent, how }) => {
                let (rows, outputs) = (x.len() / inputs, bytes.len() / INT4_FP8_BYTES * INT4_FP8_GROUP / inputs);
                let w = Int4Fp8::new(bytes, outputs, inputs, *exponent).map_err(Error::experiment)?;
                let mut y = vec![0.0; rows * outputs];
                let mut scratch = vec![0; int4_fp8_scratch(&w, rows, decoder.pool.threads())];
                int4_fp8(&decoder.pool, &w, *how, x, rows, &mut y, &mut scratch);
                Ok(y)
            }
        }
    }

    fn rotated(&mut self, layer: usize, _: &[f32], [q, k, v]: &mut [Vec<f32>; 3]) -> Result<(), Error> {
        self.scalings[layer].scale_rotated(q, self.heads, k);
        if let Numbers::Stored(scale, _) = self.numbers {
            *q = in_fp8(q, self.head_dim);
            *k = stored(k, self.head_dim, scale);
            *v = stored(v, self.head_dim, scale);
        }
        Ok(())
    }
}
