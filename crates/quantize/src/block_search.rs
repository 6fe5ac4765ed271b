//! The scales of a block by search: for each sub-block the bounds of least weighted error, then the block that has them.
//!
//! From the bounds (low, high) that the format itself chooses, trial bounds are these times a factor. If the search fits,
//! each trial's levels l are fitted anew by weighted least squares: the bounds that minimize Σ w (x - low - place_l (high -
//! low))², or the one scale where the format has no minimum. The best trial of each sub-block is asked of the block
//! ([`Levels::block_with`]), every value gets its nearest code, and the block is kept if Σ w (x - x̂)² is less than that of
//! the format's own encoding, codes chosen anew: so no block is worse than `nearest` in the weighted error.

use memwall_formats::FormatError;

use crate::levels::{Bounds, Levels};

/// Which trial bounds are searched.
pub struct BlockSearch<'f> {
    /// The levels of the format.
    pub levels: Levels<'f>,
    /// Factors of the trial bounds.
    pub factors: &'static [f32],
    /// Bounds of each trial's levels by weighted least squares.
    pub fits: bool,
}

impl BlockSearch<'_> {
    /// Encodes whole rows of `cols` values, value `j` of a row with weight `weights[j]`.
    ///
    /// # Errors
    /// As the format's own encoder.
    pub fn encode(&self, cols: usize, weights: &[f32], values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let format = self.levels.format();
        format.encode(cols, values, bytes)?;
        let (len, size) = (format.layout().block_len, format.layout().block_bytes);
        for (n, (x, block)) in values.chunks_exact(len).zip(bytes.chunks_exact_mut(size)).enumerate() {
            let from = n * len % cols;
            self.improve(x, &weights[from..from + len], block)?;
        }
        Ok(())
    }

    /// Encodes one block anew if a trial is better than what it holds.
    ///
    /// # Errors
    /// If it is not one block.
    pub fn improve(&self, x: &[f32], weights: &[f32], block: &mut [u8]) -> Result<(), FormatError> {
        let mut own = block.to_vec();
        let bounds = self.levels.bounds(&mut own)?;
        self.levels.choose(x, &mut own)?;
        let mut best = self.error(x, weights, block)?;
        let own_error = self.error(x, weights, &own)?;
        if own_error < best {
            best = own_error;
            block.copy_from_slice(&own);
        }
        let mut wanted = bounds.clone();
        let group = self.levels.group();
        for at in (0..x.len()).step_by(group) {
            let (low, high) =
                self.search(&x[at..at + group], &weights[at..at + group], bounds.low[at], bounds.high[at]);
            wanted.low[at..at + group].fill(low);
            wanted.high[at..at + group].fill(high);
        }
        let Bounds { low, high } = &wanted;
        // Beyond what scales can hold, the format's own encoding stays.
        if low.iter().chain(high).all(|v| v.is_finite()) && self.levels.block_with(&wanted, &mut own).is_ok() {
            self.levels.choose(x, &mut own)?;
            if self.error(x, weights, &own)? < best {
                block.copy_from_slice(&own);
            }
        }
        Ok(())
    }

    /// The best bounds of a sub-block.
    fn search(&self, x: &[f32], w: &[f32], low: f32, high: f32) -> (f32, f32) {
        let mut best = (self.group_error(x, w, low, high), low, high);
        for &factor in self.factors {
            let mut trial = (factor * low, factor * high);
            if self.fits {
                trial = self.fit(x, w, trial.0, trial.1).unwrap_or(trial);
            }
            let error = self.group_error(x, w, trial.0, trial.1);
            if error < best.0 {
                best = (error, trial.0, trial.1);
            }
        }
        (best.1, best.2)
    }

    fn group_error(&self, x: &[f32], w: &[f32], low: f32, high: f32) -> f32 {
        let levels = &self.levels;
        let terms = x.iter().zip(w).map(|(x, w)| {
            let place = levels.nearest(*x, low, high).map_or(0.0, |level| levels.place(level));
            let difference = x - low - place * (high - low);
            w * difference * difference
        });
        terms.sum()
    }

    /// The bounds that are best for the levels under `low` and `high`.
    fn fit(&self, x: &[f32], w: &[f32], low: f32, high: f32) -> Option<(f32, f32)> {
        let levels = &self.levels;
        let (mut sum_w, mut sum_p, mut sum_p2, mut sum_x, mut sum_px) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (x, w) in x.iter().zip(w) {
            let place = levels.place(levels.nearest(*x, low, high)?);
            // Without a minimum, the level itself in units of the trial's scale.
            let p = if levels.is_symmetric() { low + place * (high - low) } else { place };
            sum_w += w;
            sum_p += w * p;
            sum_p2 += w * p * p;
            sum_x += w * x;
            sum_px += w * p * x;
        }
        if levels.is_symmetric() {
            let factor = sum_px / sum_p2;
            return factor.is_finite().then_some((factor * low, factor * high));
        }
        let determinant = sum_w * sum_p2 - sum_p * sum_p;
        let low = (sum_p2 * sum_x - sum_p * sum_px) / determinant;
        let range = (sum_w * sum_px - sum_p * sum_x) / determinant;
        (determinant > 0.0 && low.is_finite() && range.is_finite()).then_some((low, low + range))
    }

    /// Σ w (x - x̂)² of a block.
    fn error(&self, x: &[f32], w: &[f32], block: &[u8]) -> Result<f64, FormatError> {
        let mut y = vec![0.0; x.len()];
        self.levels.format().decode(x.len(), block, &mut y)?;
        Ok(x.iter().zip(&y).zip(w).map(|((x, y), w)| f64::from(*w) * f64::from(x - y) * f64::from(x - y)).sum())
    }
}
