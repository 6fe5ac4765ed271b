//! The order of the channels of key heads: those that are large share blocks, so that only their blocks are coarse.
//!
//! Slot s of head h holds channel `order[h][s]`: rows of `k_proj` (and its bias) change places, and rows of `q_proj` with
//! them for every query head that reads the key head, so `q · k` is a sum of the same products. Rotary positions turn pairs of
//! channels: slot s then turns with the frequency of its channel, against the slot that holds the channel's partner
//! ([`KeyOrder::rotate`]), with no arithmetic more.
//!
//! Source: Trukhanov and Soloveychik 2024 (arXiv 2403.20137).

use memwall_formats::Format;
use memwall_kernels::rope::Pairing;

/// An order of channels for each key head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOrder {
    orders: Vec<Vec<usize>>,
}

/// Why channels cannot be put in that order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyOrderError {
    /// Not every channel once.
    #[error("head {head}: {order:?} is no order of its channels: each must be there once")]
    NotAPermutation {
        /// The head.
        head: usize,
        /// What was given.
        order: Vec<usize>,
    },
    /// Query heads that read one key head must agree with it.
    #[error("query heads {first} and {other} read one key head; their channels must be in one order")]
    Unequal {
        /// A query head.
        first: usize,
        /// One of its group.
        other: usize,
    },
    /// Rotary positions turn pairs.
    #[error("a head of {width} channels has no rotary pairs; an even number is needed")]
    Odd {
        /// Channels of a head.
        width: usize,
    },
    /// Figures that are not whole heads, or no numbers.
    #[error("{have} figures of channels are not {heads} heads of one width, or not all are finite")]
    Figures {
        /// Figures given.
        have: usize,
        /// Heads.
        heads: usize,
    },
}

impl KeyOrder {
    /// One order a key head.
    ///
    /// # Errors
    /// An order that has not every channel once.
    pub fn new(orders: Vec<Vec<usize>>) -> Result<KeyOrder, KeyOrderError> {
        for (head, order) in orders.iter().enumerate() {
            let mut seen = vec![false; order.len()];
            let once = order.iter().all(|&c| c < seen.len() && !std::mem::replace(&mut seen[c], true));
            if !once || order.len() != orders[0].len() {
                return Err(KeyOrderError::NotAPermutation { head, order: order.clone() });
            }
        }
        Ok(KeyOrder { orders })
    }

    /// The order of key heads from one order a query head, `group` of which read a key head.
    ///
    /// # Errors
    /// Orders that differ within a group, or are none.
    pub fn of_queries(orders: &[Vec<usize>], group: usize) -> Result<KeyOrder, KeyOrderError> {
        for (i, of_group) in orders.chunks(group.max(1)).enumerate() {
            if let Some(other) = of_group.iter().position(|order| *order != of_group[0]) {
                let first = i * group.max(1);
                return Err(KeyOrderError::Unequal { first, other: first + other });
            }
        }
        KeyOrder::new(orders.iter().step_by(group.max(1)).cloned().collect())
    }

    /// Channels by falling size: norms of the rows of `k_proj`, or root mean squares of keys on a text, [heads, width].
    ///
    /// # Errors
    /// Sizes that are not whole heads, or not finite.
    pub fn by_size(heads: usize, sizes: &[f32]) -> Result<KeyOrder, KeyOrderError> {
        let width = width(heads, sizes)?;
        let order = |of_head: &[f32]| {
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by(|&a, &b| of_head[b].total_cmp(&of_head[a]).then(a.cmp(&b)));
            order
        };
        KeyOrder::new(sizes.chunks(width).map(order).collect())
    }

    /// Rotary pairs by falling size of both, partners still a pair of slots: plain rotary code with another order of
    /// frequencies a head.
    ///
    /// # Errors
    /// As [`KeyOrder::by_size`]; an odd width.
    pub fn by_pair_size(heads: usize, sizes: &[f32], pairing: Pairing) -> Result<KeyOrder, KeyOrderError> {
        let width = width(heads, sizes)?;
        if !width.is_multiple_of(2) {
            return Err(KeyOrderError::Odd { width });
        }
        let order = |of_head: &[f32]| {
            let size = |pair: usize| {
                let [a, b] = channels(pairing, width, pair);
                of_head[a].hypot(of_head[b])
            };
            let mut pairs: Vec<usize> = (0..width / 2).collect();
            pairs.sort_by(|&a, &b| size(b).total_cmp(&size(a)).then(a.cmp(&b)));
            let mut order = vec![0; width];
            for (slot, pair) in pairs.into_iter().enumerate() {
                for (at, channel) in channels(pairing, width, slot).into_iter().zip(channels(pairing, width, pair)) {
                    order[at] = channel;
                }
            }
            order
        };
        KeyOrder::new(sizes.chunks(width).map(order).collect())
    }

    /// This order for the heads whose keys [N, heads, width] lose less by it in `format`, and the order of channels as it is for
    /// the others.
    ///
    /// # Errors
    /// Keys that the format cannot hold.
    pub fn where_it_helps(&self, format: &dyn Format, keys: &[f32]) -> Result<KeyOrder, memwall_formats::FormatError> {
        let (heads, width) = (self.orders.len(), self.width());
        let mut orders = Vec::with_capacity(heads);
        for (head, order) in self.orders.iter().enumerate() {
            let of_head = |slot: &dyn Fn(usize) -> usize| -> Vec<f32> {
                let rows = keys.chunks(heads * width).map(|row| &row[head * width..][..width]);
                rows.flat_map(|row| (0..width).map(move |s| row[slot(s)])).collect()
            };
            let plain = noise(format, width, &of_head(&|s| s))?;
            let sorted = noise(format, width, &of_head(&|s| order[s]))?;
            orders.push(if sorted < plain { order.clone() } else { (0..width).collect() });
        }
        Ok(KeyOrder { orders })
    }

    /// Channels of a head.
    pub fn width(&self) -> usize {
        self.orders.first().map_or(0, Vec::len)
    }

    /// The order of each key head.
    pub fn orders(&self) -> &[Vec<usize>] {
        &self.orders
    }

    /// The order that undoes this one.
    #[must_use]
    pub fn inverse(&self) -> KeyOrder {
        let inverse = |order: &Vec<usize>| {
            let mut inverse = vec![0; order.len()];
            order.iter().enumerate().for_each(|(slot, &channel)| inverse[channel] = slot);
            inverse
        };
        KeyOrder { orders: self.orders.iter().map(inverse).collect() }
    }

    /// Puts the rows of a weight [heads · width, columns] (or the elements of a bias, with one column) in this order; query
    /// heads, a multiple of the key heads, follow the key head that they read.
    ///
    /// # Panics
    /// If the rows are not whole groups of heads.
    pub fn reorder_rows(&self, columns: usize, values: &mut [f32]) {
        let heads = values.len() / columns.max(1) / self.width().max(1);
        assert!(heads * columns * self.width() == values.len() && heads.is_multiple_of(self.orders.len()), "heads");
        let from = values.to_vec();
        for head in 0..heads {
            let order = &self.orders[head * self.orders.len() / heads];
            for (slot, &channel) in order.iter().enumerate() {
                let (to, at) = (head * self.width() + slot, head * self.width() + channel);
                values[to * columns..][..columns].copy_from_slice(&from[at * columns..][..columns]);
            }
        }
    }

    /// Turns x [N, heads, width], whose channels are in this order, as rotary positions turn channels that are not.
    ///
    /// # Errors
    /// An odd width.
    ///
    /// # Panics
    /// If the rows are not whole groups of heads.
    pub fn rotate(
        &self,
        pairing: Pairing,
        inverse_frequency: &[f64],
        positions: &[i32],
        x: &mut [f32],
    ) -> Result<(), KeyOrderError> {
        let width = self.width();
        if !width.is_multiple_of(2) {
            return Err(KeyOrderError::Odd { width });
        }
        let row = x.len() / positions.len().max(1);
        let heads = row / width;
        assert!(heads * width * positions.len() == x.len() && heads.is_multiple_of(self.orders.len()), "heads");
        let slots = self.inverse();
        for (x, position) in x.chunks_mut(row.max(1)).zip(positions) {
            for (head, x) in x.chunks_mut(width).enumerate() {
                let slot = &slots.orders[head * self.orders.len() / heads];
                for (pair, frequency) in inverse_frequency.iter().enumerate() {
                    let [a, b] = channels(pairing, width, pair).map(|channel| slot[channel]);
                    let (sin, cos) = (f64::from(*position) * frequency).sin_cos();
                    let (sin, cos) = (sin as f32, cos as f32);
                    (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
                }
            }
        }
        Ok(())
    }
}

/// The two channels of a rotary pair.
fn channels(pairing: Pairing, width: usize, pair: usize) -> [usize; 2] {
    match pairing {
        Pairing::Interleaved => [2 * pair, 2 * pair + 1],
        Pairing::HalfSplit => [pair, pair + width / 2],
    }
}

fn width(heads: usize, sizes: &[f32]) -> Result<usize, KeyOrderError> {
    let width = sizes.len().checked_div(heads).unwrap_or(0);
    if width == 0 || width * heads != sizes.len() || sizes.iter().any(|size| !size.is_finite()) {
        return Err(KeyOrderError::Figures { have: sizes.len(), heads });
    }
    Ok(width)
}

/// Σ (x - x̂)² of rows of one head.
fn noise(format: &dyn Format, width: usize, x: &[f32]) -> Result<f64, memwall_formats::FormatError> {
    let layout = format.layout();
    let mut bytes = vec![0; x.len() / layout.block_len * layout.block_bytes];
    format.encode(width, x, &mut bytes)?;
    let mut y = vec![0.0; x.len()];
    format.decode(width, &bytes, &mut y)?;
    Ok(x.iter().zip(&y).map(|(x, y)| f64::from(x - y).powi(2)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use memwall_formats::scaled;

    #[test]
    fn an_order_and_its_inverse_restore_a_weight_and_a_group_follows_its_key_head() {
        let order = KeyOrder::new(vec![vec![2, 0, 1, 3], vec![3, 2, 1, 0]]).unwrap();
        let weight: Vec<f32> = (0..16 * 3).map(|i| i as f32).collect();
        let mut turned = weight.clone();
        order.reorder_rows(3, &mut turned);
        // Four query heads, two a key head.
        assert_eq!([turned[0], turned[12], turned[24], turned[36]], [6.0, 18.0, 33.0, 45.0]);
        order.inverse().reorder_rows(3, &mut turned);
        assert_eq!(turned, weight);
    }

    #[test]
    fn sizes_fall_and_pairs_stay_pairs() {
        let sizes = [1.0, 9.0, 3.0, 2.0, 1.0, 0.5];
        assert_eq!(KeyOrder::by_size(1, &sizes).unwrap().orders()[0], [1, 2, 3, 0, 4, 5]);
        // Pairs (0, 3), (1, 4), (2, 5).
        let half = KeyOrder::by_pair_size(1, &sizes, Pairing::HalfSplit).unwrap();
        assert_eq!(half.orders()[0], [1, 2, 0, 4, 5, 3]);
        let side = KeyOrder::by_pair_size(1, &sizes, Pairing::Interleaved).unwrap();
        assert_eq!(side.orders()[0], [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn an_order_is_kept_only_where_it_helps() {
        let format = scaled::bfp(4, 2).unwrap();
        // Head 0 has two loud channels apart, head 1 none.
        let keys: Vec<f32> =
            (0..40).flat_map(|t| [100.0, 1.0, 100.0, 1.1, 1.0, 1.3, 1.1, 0.9].map(|c| c * (t as f32).sin())).collect();
        let order = KeyOrder::new(vec![vec![0, 2, 1, 3], vec![3, 0, 2, 1]]).unwrap();
        let kept = order.where_it_helps(&format, &keys).unwrap();
        assert_eq!(kept.orders()[0], [0, 2, 1, 3]);
        assert!(KeyOrder::by_size(2, &[f32::NAN; 8]).is_err());
    }

    #[test]
    fn what_is_no_order_is_refused() {
        assert!(matches!(KeyOrder::new(vec![vec![0, 0]]), Err(KeyOrderError::NotAPermutation { head: 0, .. })));
        assert!(matches!(
            KeyOrder::new(vec![vec![0, 1], vec![0]]),
            Err(KeyOrderError::NotAPermutation { head: 1, .. })
        ));
        let unequal = KeyOrder::of_queries(&[vec![0, 1], vec![1, 0]], 2);
        assert_eq!(unequal, Err(KeyOrderError::Unequal { first: 0, other: 1 }));
        let odd = KeyOrder::new(vec![vec![0, 1, 2]]).unwrap();
        assert_eq!(odd.rotate(Pairing::HalfSplit, &[1.0], &[1], &mut [0.0; 3]), Err(KeyOrderError::Odd { width: 3 }));
    }
}
