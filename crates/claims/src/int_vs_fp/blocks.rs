//! Gaussian blocks of 32 under scales of any size, by crest factor: what the encoders lose, beside the formulas.

use memwall_tasks::Philox;

use super::stored::{Kind, MX_BLOCK, back};
use super::theory::{MXFP4, MXFP6, MXFP8, Theory};
use crate::{
    Error,
    evidence::{Curve, Line, Point},
    random::normal,
};

/// Edges of the bins of crest factors.
const EDGES: [f64; 9] = [1.6, 1.9, 2.2, 2.5, 2.8, 3.1, 3.4, 3.7, 4.2];
/// A bin with fewer blocks says nothing.
const FEWEST: usize = 100;

/// What is measured, its name and its formula.
pub(super) const MEASURED: [(Kind, &str, Theory); 6] = [
    (Kind::MxInt(8), "MXINT8", Theory::MxIntExact(8)),
    (Kind::MxFp8, "MXFP8", MXFP8),
    (Kind::MxInt(6), "MXINT6", Theory::MxIntExact(6)),
    (Kind::MxFp6, "MXFP6", MXFP6),
    (Kind::MxInt(4), "MXINT4", Theory::MxIntExact(4)),
    (Kind::MxFp4, "MXFP4", MXFP4),
];

/// The blocks of one bin.
#[derive(Clone, Copy, Default)]
struct Bin {
    blocks: usize,
    /// Sum of crest factors.
    kappa: f64,
    /// Sums over blocks of noise over signal, a format each.
    noise: [f64; 6],
}

/// What one seed measured.
pub(super) struct Blocks {
    bins: [Bin; EDGES.len() - 1],
}

impl Blocks {
    /// Draws and encodes `count` blocks.
    pub(super) fn draw(seed: u64, count: usize) -> Result<Blocks, Error> {
        let mut rng = Philox::new(seed, 31);
        let mut x = Vec::with_capacity(count * MX_BLOCK);
        for _ in 0..count {
            // Nine binades, none of them favoured.
            let scale = (9.0 * rng.unit() - 4.5).exp2();
            x.extend((0..MX_BLOCK).map(|_| (scale * normal(&mut rng)) as f32));
        }
        let stored = MEASURED
            .iter()
            .map(|(kind, ..)| back(&*kind.format(0.0)?, MX_BLOCK, &x).map_err(Error::experiment))
            .collect::<Result<Vec<_>, Error>>()?;
        let mut bins = [Bin::default(); EDGES.len() - 1];
        for (b, block) in x.chunks_exact(MX_BLOCK).enumerate() {
            let signal: f64 = block.iter().map(|x| f64::from(*x).powi(2)).sum();
            let most = block.iter().fold(0.0, |m: f64, x| m.max(f64::from(x.abs())));
            let kappa = most / (signal / MX_BLOCK as f64).sqrt();
            let Some(at) = EDGES.windows(2).position(|edge| (edge[0]..edge[1]).contains(&kappa)) else { continue };
            let bin = &mut bins[at];
            bin.blocks += 1;
            bin.kappa += kappa;
            for (noise, y) in bin.noise.iter_mut().zip(&stored) {
                let y = &y[b * MX_BLOCK..][..MX_BLOCK];
                *noise += block.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / signal;
            }
        }
        Ok(Blocks { bins })
    }

    /// Mean crest factor, and dB of each of [`MEASURED`], of the bins with enough blocks.
    fn points(&self) -> impl Iterator<Item = (f64, [f64; 6])> {
        self.bins.iter().filter(|bin| bin.blocks >= FEWEST).map(|bin| {
            let blocks = bin.blocks as f64;
            (bin.kappa / blocks, bin.noise.map(|noise| -10.0 * (noise / blocks).log10()))
        })
    }

    /// Distances in dB from the formulas.
    pub(super) fn distances(&self) -> Vec<f64> {
        let all = self.points().flat_map(|(kappa, db)| {
            let pairs = db.into_iter().zip(&MEASURED);
            pairs.map(move |(db, (.., theory))| (db - theory.qsnr(kappa)).abs()).collect::<Vec<_>>()
        });
        all.collect()
    }

    /// The lead of format `a` of [`MEASURED`] over `b` in dB, in each bin.
    pub(super) fn leads(&self, a: usize, b: usize) -> Vec<f64> {
        self.points().map(|(_, db)| db[a] - db[b]).collect()
    }
}

/// dB over crest factor, as measured and by the formulas.
pub(super) fn curve(seeds: &[Blocks]) -> Curve {
    let bins = seeds.first().map_or(0, |s| s.points().count());
    let line = |(i, (_, name, theory)): (usize, &(Kind, &str, Theory))| {
        let at = |bin: usize| {
            let points: Vec<(f64, f64)> =
                seeds.iter().filter_map(|s| s.points().nth(bin).map(|(kappa, db)| (kappa, db[i]))).collect();
            Point { x: points[0].0, per_seed: points.iter().map(|p| p.1).collect() }
        };
        let measured: Vec<Point> = (0..bins).map(at).collect();
        let formula = measured.iter().map(|p| Point { x: p.x, per_seed: vec![theory.qsnr(p.x); seeds.len()] });
        let formula = Line { name: format!("{name}, formula"), points: formula.collect() };
        [Line { name: (*name).to_owned(), points: measured }, formula]
    };
    Curve {
        what: "signal to noise of Gaussian blocks of 32".to_owned(),
        x_label: "crest factor of the block".to_owned(),
        y_label: "dB".to_owned(),
        log_x: false,
        log_y: false,
        lines: MEASURED.iter().enumerate().flat_map(line).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lose_what_the_formulas_say() {
        let blocks = Blocks::draw(4, 20_000).unwrap();
        assert!(blocks.points().count() >= 5);
        for d in blocks.distances() {
            assert!(d < 0.6, "{d} dB");
        }
        assert!(blocks.leads(0, 1).iter().all(|lead| *lead > 0.0));
    }
}
