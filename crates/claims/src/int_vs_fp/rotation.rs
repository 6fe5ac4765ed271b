//! What a random Hadamard rotation of 32 values makes of four distributions, in formats of four bits.

use memwall_kernels::Pool;
use memwall_kernels::hadamard::Hadamard;
use memwall_tasks::Philox;

use super::stored::{Kind, MX_BLOCK};
use crate::{
    Error,
    random::{laplace, normal, student_t},
};

/// Values of a row.
const WIDTH: usize = 128;
/// Channels of the last distribution that are twelve times as large.
const LOUD: [usize; 4] = [5, 38, 71, 104];

/// The distributions, in the order of the table.
const DISTRIBUTIONS: usize = 4; // the first is normal
const LAPLACE: usize = 1;
const CHANNELS: usize = 3;

/// dB as published: NVINT4 and NVFP4 before and after the rotation.
const NV_TABLE: [[f64; 4]; DISTRIBUTIONS] = [
    [21.29, 20.44, 21.28, 20.43],
    [19.78, 20.65, 21.45, 20.39],
    [19.83, 20.69, 21.45, 20.39],
    [17.13, 20.62, 23.78, 19.76],
];
/// As above, MXINT4 and MXFP4; of Laplace's and of the loud channels.
const MX_TABLE: [(usize, [f64; 4]); 2] =
    [(LAPLACE, [14.90, 17.58, 16.95, 18.68]), (CHANNELS, [11.97, 14.27, 19.71, 19.45])];

/// dB of integers and floats before and after, of each distribution.
pub(super) struct Rotated {
    nv: [[f64; 4]; DISTRIBUTIONS],
    mx: [[f64; 4]; DISTRIBUTIONS],
}

impl Rotated {
    /// Of `rows` rows of each distribution.
    pub(super) fn draw(seed: u64, rows: usize) -> Result<Rotated, Error> {
        let pool = Pool::new(1);
        let rotation = Hadamard::new(WIDTH, MX_BLOCK, seed).map_err(Error::experiment)?;
        let mut rotated = Rotated { nv: [[f64::NAN; 4]; DISTRIBUTIONS], mx: [[f64::NAN; 4]; DISTRIBUTIONS] };
        for distribution in 0..DISTRIBUTIONS {
            let mut x = draw(seed, distribution, rows);
            for after in [0, 2] {
                rotated.nv[distribution][after] = Kind::NvInt4.qsnr(WIDTH, &x)?;
                rotated.nv[distribution][after + 1] = Kind::NvFp4.qsnr(WIDTH, &x)?;
                rotated.mx[distribution][after] = Kind::MxInt(4).qsnr(WIDTH, &x)?;
                rotated.mx[distribution][after + 1] = Kind::MxFp4.qsnr(WIDTH, &x)?;
                rotation.rotate(&pool, &mut x);
            }
        }
        Ok(rotated)
    }

    /// Distances in dB from the published table.
    pub(super) fn distances(&self) -> Vec<f64> {
        let nv = self.nv.iter().zip(&NV_TABLE);
        let mx = MX_TABLE.iter().map(|(i, row)| (&self.mx[*i], row));
        nv.chain(mx).flat_map(|(got, want)| got.iter().zip(want).map(|(a, b)| (a - b).abs())).collect()
    }

    /// The largest lead of NVINT4 over NVFP4 where values have tails, as they are.
    pub(super) fn most_before(&self) -> f64 {
        self.nv[LAPLACE..].iter().map(|row| row[0] - row[1]).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The least lead of NVINT4 over NVFP4 on any values, rotated.
    pub(super) fn least_after(&self) -> f64 {
        self.nv.iter().map(|row| row[2] - row[3]).fold(f64::INFINITY, f64::min)
    }

    /// What the rotation adds to NVFP4 where values have tails: the most.
    pub(super) fn most_gain_of_floats(&self) -> f64 {
        self.nv[LAPLACE..].iter().map(|row| row[3] - row[1]).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The lead of MXINT4 over MXFP4 on rotated Laplace values.
    pub(super) fn mx_after(&self) -> f64 {
        self.mx[LAPLACE][2] - self.mx[LAPLACE][3]
    }
}

fn draw(seed: u64, distribution: usize, rows: usize) -> Vec<f32> {
    let mut rng = Philox::new(seed, 320 + distribution as u64);
    let mut one = |i: usize| match distribution {
        LAPLACE => laplace(&mut rng),
        2 => student_t(&mut rng, 5),
        CHANNELS if LOUD.contains(&(i % WIDTH)) => 12.0 * normal(&mut rng),
        _ => normal(&mut rng),
    };
    (0..rows * WIDTH).map(|i| one(i) as f32).collect()
}

/// The largest relative difference between `X Wᵀ` and `(X R) (W R)ᵀ`, in units of the largest product, over blocks of
/// several sizes.
pub(super) fn invariance(seed: u64) -> Result<f64, Error> {
    let (pool, n) = (Pool::new(1), 24);
    let mut worst = 0.0f64;
    for (width, block) in [(WIDTH, 32), (WIDTH, WIDTH), (96, 16), (512, 256)] {
        let rotation = Hadamard::new(width, block, seed).map_err(Error::experiment)?;
        let mut rng = Philox::new(seed, 330);
        let mut random = || (0..n * width).map(|_| normal(&mut rng) as f32).collect::<Vec<f32>>();
        let (x, w) = (random(), random());
        let (mut xr, mut wr) = (x.clone(), w.clone());
        rotation.rotate(&pool, &mut xr);
        rotation.rotate(&pool, &mut wr);
        let products = |x: &[f32], w: &[f32]| -> Vec<f64> {
            let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            x.chunks(width).flat_map(|x| w.chunks(width).map(move |w| dot(x, w))).collect()
        };
        let (plain, turned) = (products(&x, &w), products(&xr, &wr));
        let most = plain.iter().fold(0.0, |m: f64, y| m.max(y.abs()));
        let off = plain.iter().zip(&turned).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
        worst = worst.max(off / most);
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_turns_the_order_of_integers_and_floats_around() {
        let rotated = Rotated::draw(2, 1024).unwrap();
        assert!(rotated.most_before() < 0.0 && rotated.least_after() > 0.0);
        assert!((rotated.nv[0][0] - rotated.nv[0][2]).abs() < 0.1, "normal values stay what they are");
        assert!(invariance(1).unwrap() < 1e-5);
    }
}
