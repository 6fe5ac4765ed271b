//! Keys with three loud channels, as published: how far logits are off whose keys are stored in four bits after the rotation.

use memwall_formats::packing::{GroupScale, int4_group};
use memwall_kernels::rope::Pairing;
use memwall_quantize::{KeyMaxima, KeyOrder, RopeScaling, RopeScalingOptions};
use memwall_tasks::Philox;

use crate::{Error, random::normal};

const WIDTH: usize = 128;
const QUERIES: usize = 256;
const PAIRING: Pairing = Pairing::HalfSplit;
/// Loud channels, and what their partners are.
const LOUD: [usize; 3] = [50, 55, 60];

/// Scales before the rotation and after it, as shipped.
pub(super) const ALPHA: f32 = 8.0;
pub(super) const BETA: f32 = 8.0;
const TOP: usize = 8;

/// Relative errors of logits: plain, scaled before the rotation, after it, both; as published.
pub(super) const PUBLISHED: [f64; 4] = [0.171, 0.111, 0.067, 0.087];

/// Keys [T, width] as they come back from four bits, one scale a token and head of `width`.
pub(super) fn stored(keys: &[f32], width: usize, scale: GroupScale) -> Vec<f32> {
    let head = |x: &[f32]| {
        let (s, codes) = int4_group(x, scale);
        codes.map(|q| f32::from(q) * s).collect::<Vec<f32>>()
    };
    keys.chunks(width).flat_map(head).collect()
}

/// Turns rows [T, heads, width] by positions from `first` on.
pub(super) fn rotate(x: &mut [f32], heads: usize, width: usize, first: usize, pairing: Pairing) -> Result<(), Error> {
    let identity = KeyOrder::new(vec![(0..width).collect(); heads]).map_err(Error::experiment)?;
    let frequencies: Vec<f64> = (0..width / 2).map(|i| 10_000f64.powf(-(2.0 * i as f64) / width as f64)).collect();
    let positions: Vec<i32> = (0..x.len() / heads / width).map(|t| (first + t) as i32).collect();
    identity.rotate(pairing, &frequencies, &positions, x).map_err(Error::experiment)
}

/// The four errors on `tokens` keys.
pub(super) fn errors(seed: u64, tokens: usize) -> Result<[f64; 4], Error> {
    let mut rng = Philox::new(seed, 431);
    let mut keys: Vec<f32> = (0..tokens * WIDTH).map(|_| normal(&mut rng) as f32).collect();
    for row in keys.chunks_mut(WIDTH) {
        for j in LOUD {
            row[j] = row[j] * 20.0 + 30.0;
            row[j + WIDTH / 2] = row[j + WIDTH / 2] * 4.0 + 6.0;
        }
    }
    let mut queries: Vec<f32> = (0..QUERIES.min(tokens) * WIDTH).map(|_| normal(&mut rng) as f32).collect();
    let mut turned = keys.clone();
    rotate(&mut turned, 1, WIDTH, 0, PAIRING)?;
    rotate(&mut queries, 1, WIDTH, tokens - QUERIES.min(tokens), PAIRING)?;
    let mut maxima = KeyMaxima::new(1, WIDTH, PAIRING).map_err(Error::experiment)?;
    maxima.add(&keys, &turned).map_err(Error::experiment)?;

    let (alpha, beta) = (Some(ALPHA), Some((BETA, TOP)));
    let mut errors = [f64::NAN; 4];
    for (error, (alpha, beta)) in errors.iter_mut().zip([(None, None), (alpha, None), (None, beta), (alpha, beta)]) {
        let scaling = RopeScaling::new(&maxima, RopeScalingOptions { alpha, beta }).map_err(Error::experiment)?;
        let (mut k, mut q) = (turned.clone(), queries.clone());
        // Equal factors of a pair commute with the rotation.
        for (x, by) in [(&mut k, true), (&mut q, false)] {
            for (i, x) in x.iter_mut().enumerate() {
                let a = scaling.before()[i % WIDTH];
                *x = if by { *x * a } else { *x / a };
            }
        }
        scaling.scale_rotated(&mut q, 1, &mut k);
        let back = stored(&k, WIDTH, GroupScale::E4M3);
        let dot = |q: &[f32], k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
        let (mut noise, mut signal) = (0.0, 0.0);
        for q in q.chunks(WIDTH) {
            for (k, back) in k.chunks(WIDTH).zip(back.chunks(WIDTH)) {
                let exact = dot(q, k);
                noise += (dot(q, back) - exact).powi(2);
                signal += exact * exact;
            }
        }
        *error = (noise / signal).sqrt();
    }
    Ok(errors)
}
