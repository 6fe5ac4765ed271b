//! Scalings change no logit, the product is what it says, and what cannot be scaled or stored is refused.

use memwall_formats::element::{E4M3_FN, Element, Rounding};
use memwall_formats::packing::{
    Dequantization, INT4_FP8_BYTES, join_fireq, pack_int4_fp8, split_fireq, tensor_exponent, unpack_int4_fp8,
};
use memwall_kernels::Pool;
use memwall_kernels::linear::{Int4Fp8, int4_fp8, int4_fp8_scratch};
use memwall_kernels::rope::Pairing;
use memwall_quantize::{KeyMaxima, RopeScaling, RopeScalingOptions};
use memwall_tasks::Philox;

use super::keys::rotate;
use crate::{Error, random::normal};

const TOKENS: usize = 24;
const WIDTH: usize = 32;
const D_MODEL: usize = 48;

/// The largest difference of logits between a layer and itself scaled before the rotation and after it, in units of the largest logit: as
/// many key heads as query heads and half as many, both conventions of pairs. `uneven` makes the members of pairs differ, which must
/// show.
pub(super) fn logits_changed(seed: u64, uneven: bool) -> Result<f64, Error> {
    let mut rng = Philox::new(seed, 432);
    let mut worst = 0.0f64;
    for (heads, kv_heads) in [(4, 4), (4, 2)] {
        let mut draw = |n: usize| (0..n).map(|_| normal(&mut rng) as f32).collect::<Vec<f32>>();
        let x = draw(TOKENS * D_MODEL);
        let (wq, mut wk) = (draw(heads * WIDTH * D_MODEL), draw(kv_heads * WIDTH * D_MODEL));
        wk[5 * D_MODEL..6 * D_MODEL].iter_mut().for_each(|w| *w *= 20.0);
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let keys = product(&x, &wk);
            let mut turned = keys.clone();
            rotate(&mut turned, kv_heads, WIDTH, 0, pairing)?;
            let mut maxima = KeyMaxima::new(kv_heads, WIDTH, pairing).map_err(Error::experiment)?;
            maxima.add(&keys, &turned).map_err(Error::experiment)?;
            let options = RopeScalingOptions { alpha: Some(8.0), beta: Some((8.0, 3)) };
            let mut scaling = RopeScaling::new(&maxima, options).map_err(Error::experiment)?;
            if uneven {
                let mut before = scaling.before().to_vec();
                before.iter_mut().step_by(2).take(WIDTH / 4).for_each(|a| *a *= 2.0);
                scaling = RopeScaling::from_scales(WIDTH, before, scaling.after().to_vec());
            }
            let logits = |scaling: Option<&RopeScaling>| -> Result<Vec<f64>, Error> {
                let (mut wq, mut wk) = (wq.clone(), wk.clone());
                if let Some(scaling) = scaling {
                    scaling.fold(D_MODEL, &mut wq, &mut wk);
                }
                let (mut q, mut k) = (product(&x, &wq), product(&x, &wk));
                rotate(&mut q, heads, WIDTH, 0, pairing)?;
                rotate(&mut k, kv_heads, WIDTH, 0, pairing)?;
                if let Some(scaling) = scaling {
                    scaling.scale_rotated(&mut q, heads, &mut k);
                }
                Ok(scores(&q, &k, heads, kv_heads))
            };
            let (plain, scaled) = (logits(None)?, logits(Some(&scaling))?);
            let most = plain.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            worst = plain.iter().zip(&scaled).fold(worst, |m, (a, b)| m.max((a - b).abs() / most));
        }
    }
    Ok(worst)
}

/// x Wᵀ of x [N, D] and W [outputs, D].
fn product(x: &[f32], w: &[f32]) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32;
    x.chunks(D_MODEL).flat_map(|x| w.chunks(D_MODEL).map(move |w| dot(x, w))).collect()
}

/// q · k of all heads and tokens.
fn scores(q: &[f32], k: &[f32], heads: usize, kv_heads: usize) -> Vec<f64> {
    let mut all = Vec::new();
    for q in q.chunks(heads * WIDTH) {
        for k in k.chunks(kv_heads * WIDTH) {
            for (head, q) in q.chunks(WIDTH).enumerate() {
                let k = &k[head * kv_heads / heads * WIDTH..][..WIDTH];
                all.push(q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum());
            }
        }
    }
    all
}

/// Outputs of the product that differ from plain numbers in the order that it documents, up to 256 inputs; and codes changed on the way
/// through FireQ's tensors.
pub(super) fn products_off(seed: u64) -> Result<f64, Error> {
    let mut off = 0;
    for k in [128, 256] {
        let (n, m) = (21, 6);
        let mut rng = Philox::new(seed, 433);
        let mut draw = |n: usize, size: f64| (0..n).map(|_| (normal(&mut rng) * size) as f32).collect::<Vec<f32>>();
        let (weights, x) = (draw(n * k, 2e-3), draw(m * k, 1.0));
        let exponent = tensor_exponent(&weights, true);
        let bytes = pack_int4_fp8(&weights, n, k, exponent).map_err(Error::experiment)?;
        let (words, scales) = split_fireq(&bytes).map_err(Error::experiment)?;
        off += usize::from(join_fireq(&words, &scales, n, k).map_err(Error::experiment)? != bytes);
        let w = Int4Fp8::new(&bytes, n, k, exponent).map_err(Error::experiment)?;
        for how in [Dequantization::Exact, Dequantization::Fp8] {
            let pool = Pool::new(1);
            let mut y = vec![0.0; m * n];
            int4_fp8(&pool, &w, how, &x, m, &mut y, &mut vec![0; int4_fp8_scratch(&w, m, 1)]);
            let values = unpack_int4_fp8(&bytes, n, k, 0, how).map_err(Error::experiment)?;
            for (x, y) in x.chunks(k).zip(y.chunks(n)) {
                let want = values.chunks(k).enumerate().map(|(j, w)| {
                    let scales = &bytes[j * k / 128 * INT4_FP8_BYTES..];
                    plain(w, scales, how, x) * 2f32.powi(-(exponent as i32)) * scale_of(x)
                });
                off += y.iter().zip(want).filter(|(y, want)| **y != *want).count();
            }
        }
    }
    Ok(off as f64)
}

fn scale_of(x: &[f32]) -> f32 {
    half::bf16::from_f32(x.iter().fold(0f32, |m, x| m.max(x.abs())) / 448.0).to_f32()
}

/// One output before its scales.
fn plain(w: &[f32], groups: &[u8], how: Dequantization, x: &[f32]) -> f32 {
    let s = scale_of(x);
    let x: Vec<f32> = x.iter().map(|x| E4M3_FN.decode(E4M3_FN.encode(x / s, Rounding::HalfEven, true))).collect();
    let mut sum = 0f32;
    for (part, (w, x)) in w.chunks(32).zip(x.chunks(32)).enumerate() {
        let scale = match how {
            Dequantization::Exact => E4M3_FN.decode(groups[part / 4 * INT4_FP8_BYTES]),
            Dequantization::Fp8 => 1.0,
        };
        let mut chain = 0f32;
        for i in (0..32).filter(|i| i % 8 < 4) {
            chain = (w[i] / scale).mul_add(x[i], (w[i + 4] / scale).mul_add(x[i + 4], chain));
        }
        sum = chain.mul_add(scale, sum);
    }
    sum
}

/// Inputs that are not answered as they must be.
pub(super) fn not_answered() -> f64 {
    let mut wrong = usize::from(pack_int4_fp8(&[1.0; 120], 1, 120, 0).is_ok());
    wrong += usize::from(Int4Fp8::new(&[0; 65], 1, 120, 0).is_ok());
    wrong += usize::from(Int4Fp8::new(&[0x7f; 65], 1, 128, 0).is_ok());
    wrong += usize::from(pack_int4_fp8(&[f32::NAN; 128], 1, 128, 0).is_ok());
    // A vector of zeros has a scale, and comes back.
    let zeros = pack_int4_fp8(&[0.0; 128], 1, 128, 0);
    wrong += usize::from(!zeros.is_ok_and(|bytes| bytes[0] != 0 && bytes[1..].iter().all(|b| *b == 0)));
    wrong += usize::from(KeyMaxima::new(1, 5, Pairing::HalfSplit).is_ok());
    match KeyMaxima::new(1, 4, Pairing::HalfSplit) {
        Ok(mut maxima) => {
            wrong += usize::from(maxima.add(&[f32::INFINITY; 4], &[0.0; 4]).is_ok());
            for (alpha, beta) in [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (f32::NAN, 1.0)] {
                let options = RopeScalingOptions { alpha: Some(alpha), beta: Some((beta, 1)) };
                wrong += usize::from(RopeScaling::new(&maxima, options).is_ok());
            }
            let options = RopeScalingOptions { alpha: Some(8.0), beta: Some((8.0, 1)) };
            let silent = RopeScaling::new(&maxima, options);
            wrong += usize::from(!silent.is_ok_and(|s| s.before().iter().chain(s.after()).all(|s| *s == 1.0)));
        }
        Err(_) => wrong += 1,
    }
    wrong as f64
}
