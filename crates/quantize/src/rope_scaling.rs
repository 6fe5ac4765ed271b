//! Scales of the channels of keys that rotary positions allow: before them, one for both channels of a pair; after them, any.
//!
//! Before: `a_j = alpha / max_t √(k_j² + k_j'²)`, j' the partner of j, commutes with the rotation: it goes into rows of `k_proj`, and 1 / a into those of
//! `q_proj` for every query head that reads the key head ([`RopeScaling::fold`]). After: `b_j = beta / max_t |k_j|` for the `top` channels that
//! are largest after the rotation and their partners, on keys as they are stored and 1 / b on queries ([`RopeScaling::scale_rotated`]); these
//! have a = 1. So `q · k` does not change, and keys that are stored in few bits with one scale a head have no loud channels.
//!
//! Source: "FireQ" (arXiv 2505.20839).

use memwall_kernels::rope::Pairing;

/// What is scaled, and to what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeScalingOptions {
    /// The largest norm of a pair after the scales before the rotation; `None`: there are none.
    pub alpha: Option<f32>,
    /// The largest magnitude of a channel after the scales behind the rotation, and how many channels with their partners have one; `None`:
    /// there are none.
    pub beta: Option<(f32, usize)>,
}

/// Why keys cannot be scaled so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RopeScalingError {
    /// Rotary positions turn pairs.
    #[error("a head of {width} channels has no rotary pairs; an even number is needed")]
    Odd {
        /// Channels of a head.
        width: usize,
    },
    /// Keys that are not whole rows.
    #[error("{before} values of keys before the rotation and {after} after it are not whole rows of {row}")]
    Keys {
        /// Values before.
        before: usize,
        /// Values after.
        after: usize,
        /// Values of a row.
        row: usize,
    },
    /// Keys that are no numbers.
    #[error("key head {head}, channel {channel} is {value}; only finite keys can be scaled")]
    NotFinite {
        /// The key head.
        head: usize,
        /// The channel.
        channel: usize,
        /// The value.
        value: f32,
    },
    /// A factor that is not positive.
    #[error("{name} is {value}; it must be above 0 and finite")]
    Factor {
        /// `alpha` or `beta`.
        name: &'static str,
        /// Its value.
        value: f32,
    },
}

/// The largest keys of a text.
#[derive(Clone, Debug)]
pub struct KeyMaxima {
    width: usize,
    pairing: Pairing,
    /// Of each channel of each head, the largest norm of its pair.
    pairs: Vec<f32>,
    /// Of each channel of each head, the largest magnitude after the rotation.
    rotated: Vec<f32>,
}

/// The partner of channel `j` of a head.
fn partner(pairing: Pairing, width: usize, j: usize) -> usize {
    match pairing {
        Pairing::HalfSplit => (j + width / 2) % width,
        Pairing::Interleaved => j ^ 1,
    }
}

impl KeyMaxima {
    /// None yet, of `heads` key heads of `width` channels.
    ///
    /// # Errors
    /// An odd width.
    pub fn new(heads: usize, width: usize, pairing: Pairing) -> Result<KeyMaxima, RopeScalingError> {
        if !width.is_multiple_of(2) {
            return Err(RopeScalingError::Odd { width });
        }
        Ok(KeyMaxima { width, pairing, pairs: vec![0.0; heads * width], rotated: vec![0.0; heads * width] })
    }

    /// Takes keys [T, heads, width] before the rotation and after it.
    ///
    /// # Errors
    /// Values that are not whole rows, or not finite.
    pub fn add(&mut self, before: &[f32], after: &[f32]) -> Result<(), RopeScalingError> {
        let row = self.pairs.len();
        if before.len() != after.len() || !before.len().is_multiple_of(row.max(1)) {
            return Err(RopeScalingError::Keys { before: before.len(), after: after.len(), row });
        }
        for keys in [before, after] {
            if let Some(at) = keys.iter().position(|k| !k.is_finite()) {
                let (head, channel) = (at % row / self.width, at % self.width);
                return Err(RopeScalingError::NotFinite { head, channel, value: keys[at] });
            }
        }
        for (before, after) in before.chunks(row.max(1)).zip(after.chunks(row.max(1))) {
            for j in 0..row {
                let head = j / self.width * self.width;
                let other = head + partner(self.pairing, self.width, j - head);
                self.pairs[j] = self.pairs[j].max(before[j].hypot(before[other]));
                self.rotated[j] = self.rotated[j].max(after[j].abs());
            }
        }
        Ok(())
    }
}

/// Scales of the channels of key heads.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeScaling {
    width: usize,
    /// Before the rotation, [heads, width].
    before: Vec<f32>,
    /// After it.
    after: Vec<f32>,
}

impl RopeScaling {
    /// The scales for keys with these maxima; a channel or pair that is always 0 keeps 1.
    ///
    /// # Errors
    /// An alpha or beta that is not positive and finite.
    pub fn new(maxima: &KeyMaxima, options: RopeScalingOptions) -> Result<RopeScaling, RopeScalingError> {
        let (alpha, beta) = (options.alpha, options.beta.map(|(beta, _)| beta));
        for (name, value) in [("alpha", alpha), ("beta", beta)] {
            if let Some(value) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
                return Err(RopeScalingError::Factor { name, value });
            }
        }
        let scale = |to: f32, most: f32| Some(to / most).filter(|s| s.is_normal()).unwrap_or(1.0);
        let width = maxima.width;
        let mut before = vec![1.0; maxima.pairs.len()];
        if let Some(alpha) = alpha {
            before.iter_mut().zip(&maxima.pairs).for_each(|(a, most)| *a = scale(alpha, *most));
        }
        let mut after = vec![1.0; maxima.pairs.len()];
        if let Some((beta, top)) = options.beta {
            for head in (0..after.len()).step_by(width) {
                let most = &maxima.rotated[head..head + width];
                let mut channels: Vec<usize> = (0..width).collect();
                channels.sort_by(|&i, &j| most[j].total_cmp(&most[i]).then(i.cmp(&j)));
                for &j in &channels[..top.min(width)] {
                    for j in [j, partner(maxima.pairing, width, j)] {
                        after[head + j] = scale(beta, most[j]);
                        before[head + j] = 1.0;
                    }
                }
            }
        }
        Ok(RopeScaling { width, before, after })
    }

    /// Scales given by the channel, [heads, width] each: those before the rotation must be the same for both channels of a pair for
    /// `q · k` to stay.
    pub fn from_scales(width: usize, before: Vec<f32>, after: Vec<f32>) -> RopeScaling {
        RopeScaling { width, before, after }
    }

    /// Those before the rotation, [heads, width].
    pub fn before(&self) -> &[f32] {
        &self.before
    }

    /// Those after it.
    pub fn after(&self) -> &[f32] {
        &self.after
    }

    /// Multiplies the rows of `k_proj` [heads · width, columns] by the scales before the rotation, and divides those of `q_proj`, of whose
    /// heads as many read a key head as there are more.
    pub fn fold(&self, columns: usize, q_proj: &mut [f32], k_proj: &mut [f32]) {
        let (width, rows) = (self.width, q_proj.len() / columns.max(1));
        let group = rows / self.before.len().max(1);
        for (row, a) in k_proj.chunks_mut(columns).zip(&self.before) {
            row.iter_mut().for_each(|w| *w *= a);
        }
        for (i, row) in q_proj.chunks_mut(columns).enumerate() {
            let a = self.before[i / width / group.max(1) * width + i % width];
            row.iter_mut().for_each(|w| *w /= a);
        }
    }

    /// Multiplies rotated keys [T, heads, width] by the scales after the rotation, and divides rotated queries [T, query heads, width].
    pub fn scale_rotated(&self, queries: &mut [f32], query_heads: usize, keys: &mut [f32]) {
        let (width, row) = (self.width, self.after.len());
        let group = query_heads * width / row.max(1);
        for (i, k) in keys.iter_mut().enumerate() {
            *k *= self.after[i % row];
        }
        for (i, q) in queries.iter_mut().enumerate() {
            let at = i % (query_heads * width);
            *q /= self.after[at / width / group.max(1) * width + at % width];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of four channels, three tokens; the first pair of the first head is loud.
    fn maxima(pairing: Pairing) -> KeyMaxima {
        let mut maxima = KeyMaxima::new(2, 4, pairing).unwrap();
        let (a, b) = match pairing {
            Pairing::HalfSplit => (0, 2),
            Pairing::Interleaved => (0, 1),
        };
        for t in 0..3 {
            let mut keys = vec![1.0f32; 8];
            (keys[a], keys[b]) = (3.0 * t as f32, -4.0 * t as f32);
            // Turned as if both members were swapped.
            let mut turned = keys.clone();
            (turned[a], turned[b]) = (keys[b], keys[a]);
            maxima.add(&keys, &turned).unwrap();
        }
        maxima
    }

    #[test]
    fn pairs_share_a_scale_and_loud_channels_get_theirs_after_the_rotation() {
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let m = maxima(pairing);
            let b = partner(pairing, 4, 0);
            let pre = RopeScaling::new(&m, RopeScalingOptions { alpha: Some(8.0), beta: None }).unwrap();
            assert_eq!((pre.before()[0], pre.before()[b]), (0.8, 0.8));
            assert!((pre.before()[4] - 8.0 / 2f32.sqrt()).abs() < 1e-5);
            assert!(pre.after().iter().all(|b| *b == 1.0));
            let both = RopeScaling::new(&m, RopeScalingOptions { alpha: Some(8.0), beta: Some((8.0, 1)) }).unwrap();
            assert_eq!((both.before()[0], both.before()[b]), (1.0, 1.0), "scaled after the rotation instead");
            assert_eq!((both.after()[0], both.after()[b]), (1.0, 8.0 / 6.0));
            assert_eq!(both.after().iter().filter(|b| **b != 1.0).count(), 1 + 2);
        }
    }

    #[test]
    fn what_cannot_be_scaled_is_refused_and_silent_channels_are_left() {
        assert_eq!(KeyMaxima::new(1, 3, Pairing::HalfSplit).unwrap_err(), RopeScalingError::Odd { width: 3 });
        let mut m = KeyMaxima::new(1, 4, Pairing::HalfSplit).unwrap();
        assert!(matches!(m.add(&[0.0; 6], &[0.0; 6]), Err(RopeScalingError::Keys { row: 4, .. })));
        let bad = m.add(&[0.0; 4], &[0.0, 0.0, f32::NAN, 0.0]);
        assert!(matches!(bad, Err(RopeScalingError::NotFinite { head: 0, channel: 2, .. })));
        m.add(&[0.0; 4], &[0.0; 4]).unwrap();
        let options = RopeScalingOptions { alpha: Some(8.0), beta: Some((8.0, 2)) };
        let scaling = RopeScaling::new(&m, options).unwrap();
        assert!(scaling.before().iter().chain(scaling.after()).all(|s| *s == 1.0));
        for (alpha, beta) in [(0.0, 8.0), (8.0, -1.0), (f32::NAN, 8.0)] {
            let options = RopeScalingOptions { alpha: Some(alpha), beta: Some((beta, 2)) };
            assert!(matches!(RopeScaling::new(&m, options), Err(RopeScalingError::Factor { .. })));
        }
    }
}
