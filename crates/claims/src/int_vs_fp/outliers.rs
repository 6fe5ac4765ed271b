//! Normal values of which one in a thousand is `a` times as large: one scale a tensor beside one in 32 values.

use memwall_formats::Format;
use memwall_formats::element::{E4M3_FN, Element};
use memwall_formats::error::ErrorStatistics;
use memwall_formats::scaled::{self, Scale, Scaled};
use memwall_tasks::Philox;

use super::stored::{Kind, MX_BLOCK, back, largest_magnitude};
use crate::{
    Error,
    evidence::{Curve, Line, Point},
    random::normal,
};

/// One value in so many is an outlier.
const ONE_IN: u64 = 1000;

/// How many times as large, and dB as published: INT8 and E4M3 by tensor (none at 100), MXINT8, MXFP8, MXINT4, MXFP4.
const TABLE: [(f64, [f64; 6]); 5] = [
    (1.0, [38.1, 31.5, 41.6, 31.5, 16.8, 18.8]),
    (3.0, [33.6, 31.6, 41.5, 31.5, 16.7, 18.7]),
    (10.0, [23.7, 31.5, 40.3, 31.5, 15.7, 17.9]),
    (30.0, [15.0, 31.6, 37.0, 31.5, 16.4, 17.2]),
    (100.0, [f64::NAN, f64::NAN, 35.0, 31.8, 21.2, 19.0]),
];
/// From here on the table is of tails, and a few values decide.
const TAIL: f64 = 30.0;
const NAMES: [&str; 6] = ["INT8 by tensor", "E4M3 by tensor", "MXINT8", "MXFP8", "MXINT4", "MXFP4"];

/// dB of the six formats at each size of outliers.
pub(super) struct Outliers {
    rows: [[f64; 6]; TABLE.len()],
}

impl Outliers {
    /// Of `count` values, a multiple of 32.
    pub(super) fn draw(seed: u64, count: usize) -> Result<Outliers, Error> {
        let mut rows = [[f64::NAN; 6]; TABLE.len()];
        for (i, (row, (times, _))) in rows.iter_mut().zip(&TABLE).enumerate() {
            let mut rng = Philox::new(seed, 310 + i as u64);
            let mut one = |_| {
                let x = normal(&mut rng);
                if rng.below(ONE_IN) == 0 { (times * x) as f32 } else { x as f32 }
            };
            let x: Vec<f32> = (0..count).map(&mut one).collect();
            let amax = largest_magnitude(&x);
            let int8 = scaled::int_by_tensor(8, MX_BLOCK, amax).map_err(Error::experiment)?;
            let fp8 = Scaled::new("E4M3_TENSOR", E4M3_FN, MX_BLOCK, Scale::Tensor(amax / E4M3_FN.max()));
            let by_tensor: [Box<dyn Format>; 2] = [Box::new(int8), Box::new(fp8.map_err(Error::experiment)?)];
            for (db, format) in row.iter_mut().zip(&by_tensor) {
                let y = back(&**format, MX_BLOCK, &x).map_err(Error::experiment)?;
                *db = ErrorStatistics::of(&x, &y).sqnr_db();
            }
            let by_block = [Kind::MxInt(8), Kind::MxFp8, Kind::MxInt(4), Kind::MxFp4];
            for (db, kind) in row[2..].iter_mut().zip(by_block) {
                *db = kind.qsnr(MX_BLOCK, &x)?;
            }
        }
        Ok(Outliers { rows })
    }

    /// Distances in dB from the published table, of its body or of its tails.
    pub(super) fn distances(&self, tails: bool) -> Vec<f64> {
        let rows = self.rows.iter().zip(&TABLE).filter(|(_, (times, _))| (*times >= TAIL) == tails);
        let entries = rows.flat_map(|(row, (_, published))| row.iter().zip(published));
        entries.filter(|(_, published)| !published.is_nan()).map(|(db, published)| (db - published).abs()).collect()
    }

    /// The lead of INT8 over E4M3 with one scale a tensor, where outliers are ten times as large.
    pub(super) fn lead_by_tensor(&self) -> f64 {
        self.rows[2][0] - self.rows[2][1]
    }

    /// The least lead of MXINT8 over MXFP8.
    pub(super) fn least_lead_in_blocks(&self) -> f64 {
        self.rows.iter().map(|row| row[2] - row[3]).fold(f64::INFINITY, f64::min)
    }
}

/// dB over the size of outliers.
pub(super) fn curve(seeds: &[Outliers]) -> Curve {
    let line = |(i, name): (usize, &&str)| {
        let at = |(row, (times, _)): (usize, &(f64, [f64; 6]))| Point {
            x: *times,
            per_seed: seeds.iter().map(|s| s.rows[row][i]).collect(),
        };
        Line { name: (*name).to_owned(), points: TABLE.iter().enumerate().map(at).collect() }
    };
    Curve {
        what: "signal to noise with one outlier in a thousand".to_owned(),
        x_label: "times as large".to_owned(),
        y_label: "dB".to_owned(),
        log_x: true,
        log_y: false,
        lines: NAMES.iter().enumerate().map(line).collect(),
    }
}
