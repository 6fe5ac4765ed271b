//! Orders of channels change no logit, whatever they are; and what cannot be stored or ordered is refused.

use memwall_formats::{Format, FormatError, scaled};
use memwall_kernels::rope::Pairing;
use memwall_quantize::{KeyOrder, KeyOrderError};
use memwall_tasks::Philox;

use crate::{Error, random::normal};

const TOKENS: usize = 24;
const WIDTH: usize = 32;
const D_MODEL: usize = 48;

fn frequencies() -> Vec<f64> {
    (0..WIDTH / 2).map(|i| 10_000f64.powf(-(2.0 * i as f64) / WIDTH as f64)).collect()
}

/// A random order of every key head.
fn random_order(rng: &mut Philox, heads: usize) -> Result<KeyOrder, Error> {
    let orders = (0..heads).map(|_| {
        let mut order: Vec<usize> = (0..WIDTH).collect();
        rng.shuffle(&mut order);
        order
    });
    KeyOrder::new(orders.collect()).map_err(Error::experiment)
}

/// The largest difference of logits between a layer and itself with its rows in random orders, in units of the largest logit: as
/// many key heads as query heads and a half as many, without rotary positions and with both conventions; and how far weights
/// are from themselves after an order and its inverse.
pub(super) fn logits_and_weights(seed: u64) -> Result<(f64, f64), Error> {
    let mut rng = Philox::new(seed, 71);
    let (mut worst, mut restored) = (0.0f64, 0.0f64);
    let positions: Vec<i32> = (0..TOKENS as i32).map(|t| t * 37).collect();
    for (heads, kv_heads) in [(4, 4), (4, 2)] {
        let mut draw = |n: usize| (0..n).map(|_| normal(&mut rng) as f32).collect::<Vec<f32>>();
        let x = draw(TOKENS * D_MODEL);
        let (wq, wk) = (draw(heads * WIDTH * D_MODEL), draw(kv_heads * WIDTH * D_MODEL));
        let order = random_order(&mut rng, kv_heads)?;
        let (mut wq_turned, mut wk_turned) = (wq.clone(), wk.clone());
        order.reorder_rows(D_MODEL, &mut wq_turned);
        order.reorder_rows(D_MODEL, &mut wk_turned);
        let mut back = wk_turned.clone();
        order.inverse().reorder_rows(D_MODEL, &mut back);
        restored = back.iter().zip(&wk).fold(restored, |m, (a, b)| m.max(f64::from((a - b).abs())));
        let identity = KeyOrder::new(vec![(0..WIDTH).collect(); kv_heads]).map_err(Error::experiment)?;
        for pairing in [None, Some(Pairing::HalfSplit), Some(Pairing::Interleaved)] {
            let logits = |wq: &[f32], wk: &[f32], order: &KeyOrder| -> Result<Vec<f64>, Error> {
                let (mut q, mut k) = (product(&x, wq), product(&x, wk));
                if let Some(pairing) = pairing {
                    for x in [&mut q, &mut k] {
                        order.rotate(pairing, &frequencies(), &positions, x).map_err(Error::experiment)?;
                    }
                }
                Ok(scores(&q, &k, heads, kv_heads))
            };
            let (plain, turned) = (logits(&wq, &wk, &identity)?, logits(&wq_turned, &wk_turned, &order)?);
            let most = plain.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            worst = plain.iter().zip(&turned).fold(worst, |m, (a, b)| m.max((a - b).abs() / most));
        }
    }
    Ok((worst, restored))
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

/// How many inputs are not answered as they must be: blocks that do not divide a head, rotary positions of an odd head, orders
/// that differ in a group, keys that are not finite; a block of zeros has mantissas and exponent of zero.
pub(super) fn not_answered() -> Result<f64, Error> {
    let format = scaled::bfp(4, 16).map_err(Error::experiment)?;
    let layout = format.layout();
    let encode = |x: &[f32], cols: usize| {
        let mut bytes = vec![0xff; x.len().div_ceil(16) * layout.block_bytes];
        format.encode(cols, x, &mut bytes).map(|()| bytes)
    };
    let mut wrong = usize::from(!matches!(encode(&[1.0; 24], 24), Err(FormatError::RaggedRow { cols: 24, .. })));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = [1.0; 16];
        x[5] = bad;
        wrong += usize::from(!matches!(encode(&x, 16), Err(FormatError::NotFinite { row: 0, col: 5, .. })));
    }
    wrong += usize::from(!encode(&[0.0; 16], 16).is_ok_and(|bytes| bytes.iter().all(|b| *b == 0)));
    // The largest magnitudes that f32 has still have an exponent.
    wrong += usize::from(encode(&[f32::MAX; 16], 16).is_err());
    let odd = KeyOrder::new(vec![vec![0, 1, 2]]).map_err(Error::experiment)?;
    let refused = odd.rotate(Pairing::HalfSplit, &[1.0], &[0], &mut [0.0; 3]);
    wrong += usize::from(refused != Err(KeyOrderError::Odd { width: 3 }));
    let unequal = KeyOrder::of_queries(&[vec![0, 1], vec![1, 0]], 2);
    wrong += usize::from(unequal != Err(KeyOrderError::Unequal { first: 0, other: 1 }));
    wrong += usize::from(KeyOrder::by_size(2, &[1.0; 5]).is_ok());
    wrong += usize::from((format.bits_per_value() - (4.0 + 8.0 / 16.0)).abs() > 0.0);
    Ok(wrong as f64)
}
