//! What small weights lose in integers of four bits whose scales are E4M3: as they are, and multiplied by a power of two before.

use memwall_formats::error::ErrorStatistics;
use memwall_formats::packing::{
    Dequantization, GroupScale, INT4_FP8_GROUP, int4_group, pack_int4_fp8, tensor_exponent, unpack_int4_fp8,
};
use memwall_tasks::Philox;

use crate::{Error, random::normal};

/// Deviations of normal weights, the exponent of the published power of two, and dB as published: scales in BF16, in E4M3, in E4M3 after
/// that power, and after eight times as much. (Two exponents were published; the others are those that give the figures. The
/// rule's choice hangs on the least of all groups, so on the draw, and may be one step away: it is a check of its own.)
const TABLE: [(f64, u32, [f64; 4]); 5] = [
    (3e-4, 5, [18.64, 0.01, 18.35, 18.64]),
    (1e-3, 3, [18.63, 5.00, 17.47, 18.61]),
    (2e-3, 2, [18.62, 10.99, 17.44, 18.62]),
    (4e-3, 2, [18.54, 16.97, 18.46, 18.54]),
    (2e-2, 0, [18.65, 18.57, 18.57, 18.65]),
];
const COLS: usize = 4096;

/// dB of each row of the table, and the exponents that were chosen.
pub(super) struct Underflow {
    db: [[f64; 4]; TABLE.len()],
    chosen: [u32; TABLE.len()],
}

impl Underflow {
    /// Of matrices of `rows` rows.
    pub(super) fn draw(seed: u64, rows: usize) -> Result<Underflow, Error> {
        let mut rng = Philox::new(seed, 430);
        let (mut db, mut chosen) = ([[f64::NAN; 4]; TABLE.len()], [0; TABLE.len()]);
        for ((db, chosen), (deviation, exponent, _)) in db.iter_mut().zip(&mut chosen).zip(TABLE) {
            let w: Vec<f32> = (0..rows * COLS).map(|_| (normal(&mut rng) * deviation) as f32).collect();
            let sqnr = |back: &[f32]| ErrorStatistics::of(&w, back).sqnr_db();
            let stored = |exponent: u32| -> Result<f64, Error> {
                let bytes = pack_int4_fp8(&w, rows, COLS, exponent).map_err(Error::experiment)?;
                let back = unpack_int4_fp8(&bytes, rows, COLS, exponent, Dequantization::Exact);
                Ok(sqnr(&back.map_err(Error::experiment)?))
            };
            let bf16: Vec<f32> = w.chunks(INT4_FP8_GROUP).flat_map(in_bf16).collect();
            *chosen = tensor_exponent(&w, false);
            *db = [sqnr(&bf16), stored(0)?, stored(exponent)?, stored(tensor_exponent(&w, true))?];
        }
        Ok(Underflow { db, chosen })
    }

    /// Distances from the published figures.
    pub(super) fn distances(&self) -> Vec<f64> {
        let rows = self.db.iter().zip(TABLE);
        rows.flat_map(|(got, (.., want))| got.iter().copied().zip(want)).map(|(got, want)| (got - want).abs()).collect()
    }

    /// The most steps between a chosen power and that of the table.
    pub(super) fn steps_off(&self) -> f64 {
        let off = self.chosen.iter().zip(TABLE).map(|(chosen, (_, exponent, _))| chosen.abs_diff(exponent));
        f64::from(off.max().unwrap_or(0))
    }

    /// The table in words.
    pub(super) fn note(&self) -> String {
        let row = |((db, chosen), (deviation, exponent, _)): ((&[f64; 4], &u32), &(f64, u32, _))| {
            let [bf16, plain, power, raised] = db;
            format!("{deviation}: {bf16:.2} {plain:.2} {power:.2} (2^{exponent}; 2^{chosen} chosen) {raised:.2}")
        };
        let rows: Vec<String> = self.db.iter().zip(&self.chosen).zip(&TABLE).map(row).collect();
        format!(
            "dB by deviation, scales BF16, E4M3, after a power of two, after eight times the chosen: {}",
            rows.join("; ")
        )
    }
}

/// A group as it comes back with a scale in BF16.
fn in_bf16(x: &[f32]) -> Vec<f32> {
    let (s, codes) = int4_group(x, GroupScale::Bf16);
    codes.map(|q| f32::from(q) * s).collect()
}
