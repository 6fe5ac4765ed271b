//! The one more negative level of two's complement: where scales and quotients are rounded to bf16, values of the largest
//! magnitude land on it, and errors get a mean below zero.

use half::bf16;
use memwall_tasks::Philox;

use crate::random::normal;

/// Block length, the published share of values at -128, and the published mean error in steps without symmetric clipping.
const TABLE: [(usize, f64, f64); 3] = [(8, 0.0099, -9.3e-3), (32, 0.0023, -2.2e-3), (128, 0.0014, -1.9e-3)];

/// What integers of 8 bits do to a block length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clipped {
    /// Share of values at -128 without symmetric clipping.
    pub(super) at_lowest: f64,
    /// Mean of `q - x / s` in steps, clipped to -128..=127.
    pub(super) full: f64,
    /// As above, clipped to -127..=127.
    pub(super) symmetric: f64,
}

/// For each block length of the table, over `count` values.
pub(super) fn clipped(seed: u64, count: usize) -> [Clipped; TABLE.len()] {
    TABLE.map(|(block, ..)| {
        let mut rng = Philox::new(seed, 340 + block as u64);
        let (mut lowest, mut full, mut symmetric, mut values) = (0usize, 0.0, 0.0, 0usize);
        for _ in 0..count / block {
            let x: Vec<f32> = (0..block).map(|_| bf16::from_f64(normal(&mut rng)).to_f32()).collect();
            let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            let scale = bf16::from_f32(amax / 127.0).to_f32();
            for x in x {
                let q = bf16::from_f32(x / scale).to_f32().round_ties_even();
                let exact = f64::from(x) / f64::from(scale);
                lowest += usize::from(q <= -128.0);
                full += f64::from(q.clamp(-128.0, 127.0)) - exact;
                symmetric += f64::from(q.clamp(-127.0, 127.0)) - exact;
                values += 1;
            }
        }
        let n = values as f64;
        Clipped { at_lowest: lowest as f64 / n, full: full / n, symmetric: symmetric / n }
    })
}

/// Distances of the shares at -128 from the published ones, as a share of these.
pub(super) fn share_distances(clipped: &[Clipped; TABLE.len()]) -> Vec<f64> {
    clipped.iter().zip(&TABLE).map(|(c, (_, share, _))| (c.at_lowest / share - 1.0).abs()).collect()
}

/// One line for a reader: what each block length gave.
pub(super) fn note(clipped: &[Clipped; TABLE.len()]) -> String {
    let of = clipped.iter().zip(&TABLE).map(|(c, (block, share, full))| {
        format!(
            "block {block}: {:.2} % at -128 ({:.2} % published), mean error {:.1e} steps ({full:.1e}), {:.1e} with symmetric \
             clipping",
            100.0 * c.at_lowest,
            100.0 * share,
            c.full,
            c.symmetric
        )
    });
    format!("8 bits, scale and quotient in bf16; {}", of.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_level_draws_more_the_shorter_the_blocks() {
        let c = clipped(3, 400_000);
        assert!(c[0].at_lowest > 2.0 * c[1].at_lowest && c[1].at_lowest > c[2].at_lowest, "{c:?}");
        assert!(c[0].full < -4e-3 && c.iter().all(|c| c.symmetric.abs() < 2e-3), "{c:?}");
    }
}
