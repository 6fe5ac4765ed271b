//! What matrices of weights lose in formats of four to eight bits with one scale a row or a group, beside the published table.

use memwall_formats::element::{E2M2, E2M3, E3M0, E3M2, Float};
use memwall_formats::error::ErrorStatistics;
use memwall_formats::scaled::{self, Scale, Scaled};
use memwall_formats::{Format, FormatError};
use memwall_tasks::Philox;

use crate::{
    Error,
    random::{normal, student_t},
};

/// A format, its scales shared by so many values of a row; `None`: by the whole row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// A small float, its scale a half.
    Float(Float, Option<usize>),
    /// A symmetric integer of so many bits.
    Integer(u32, Option<usize>),
}

/// FP6 with one scale a row: the claim.
pub(super) const FP6: Kind = Kind::Float(E3M2, None);
/// What FP6 is without its two bits of mantissa.
pub(super) const NO_MANTISSA: Kind = Kind::Float(E3M0, None);
/// Integers of four bits, scales as coarse as those of FP6, and finer.
pub(super) const INT4: Kind = Kind::Integer(4, None);
pub(super) const INT4_128: Kind = Kind::Integer(4, Some(128));

impl Kind {
    /// The format of rows of `cols` values.
    pub(super) fn format(self, cols: usize) -> Result<Box<dyn Format>, Error> {
        Ok(match self {
            Kind::Float(element, group) => Box::new(
                Scaled::new("small float", element, group.unwrap_or(cols), Scale::Half).map_err(Error::experiment)?,
            ),
            Kind::Integer(bits, group) => {
                Box::new(scaled::int_by_group(bits, group.unwrap_or(cols)).map_err(Error::experiment)?)
            }
        })
    }

    /// Rows of `cols` values as they come back.
    pub(super) fn back(self, cols: usize, x: &[f32]) -> Result<Vec<f32>, Error> {
        let format = self.format(cols)?;
        let layout = format.layout();
        let row = layout.row_bytes(cols).ok_or(FormatError::RaggedRow { format: layout, cols });
        let mut bytes = vec![0; x.len() / cols * row.map_err(Error::experiment)?];
        let mut y = vec![0.0; x.len()];
        format.encode(cols, x, &mut bytes).map_err(Error::experiment)?;
        format.decode(cols, &bytes, &mut y).map_err(Error::experiment)?;
        Ok(y)
    }
}

/// Formats of the table, and dB as published for normal weights; for Student's t with 5 degrees of freedom where there is a figure.
const TABLE: [(Kind, f64, Option<f64>); 9] = [
    (FP6, 25.57, Some(25.62)),
    (Kind::Float(E2M3, None), 30.90, Some(27.13)),
    (Kind::Float(E2M2, None), 24.79, Some(20.64)),
    (INT4, 16.10, Some(9.13)),
    (Kind::Integer(4, Some(256)), 17.97, None),
    (INT4_128, 18.62, Some(15.29)),
    (Kind::Integer(4, Some(32)), 20.26, None),
    (Kind::Integer(6, None), 29.03, Some(21.95)),
    (Kind::Integer(8, None), 41.27, Some(34.19)),
];
/// Columns of the matrices.
const COLS: usize = 4096;

/// dB of each format of the table, normal weights and weights with tails.
pub(super) struct Losses {
    db: [[f64; 2]; TABLE.len()],
}

impl Losses {
    /// Of matrices of `rows` rows.
    pub(super) fn draw(seed: u64, rows: usize) -> Result<Losses, Error> {
        let mut rng = Philox::new(seed, 240);
        let gaussian: Vec<f32> = (0..rows * COLS).map(|_| normal(&mut rng) as f32 * 0.02).collect();
        let tails: Vec<f32> = (0..rows * COLS).map(|_| student_t(&mut rng, 5) as f32 * 0.02).collect();
        let mut db = [[f64::NAN; 2]; TABLE.len()];
        for (db, (kind, ..)) in db.iter_mut().zip(TABLE) {
            for (db, x) in db.iter_mut().zip([&gaussian, &tails]) {
                *db = ErrorStatistics::of(x, &kind.back(COLS, x)?).sqnr_db();
            }
        }
        Ok(Losses { db })
    }

    /// Distances from the published figures, normal weights or weights with tails.
    pub(super) fn distances(&self, tails: bool) -> Vec<f64> {
        let rows = self.db.iter().zip(TABLE);
        let far = rows.filter_map(
            |(db, (_, normal, t))| {
                if tails { t.map(|t| (db[1] - t).abs()) } else { Some((db[0] - normal).abs()) }
            },
        );
        far.collect()
    }

    /// How far FP6 on weights with tails is from FP6 on normal ones.
    pub(super) fn flatness(&self) -> f64 {
        (self.db[0][1] - self.db[0][0]).abs()
    }
}
