//! How many elements attention moves between slow memory and a fast one of S elements, counted.
//!
//! The loop nests of the paper (arXiv 2205.14135, algorithms 0, 1 and 5) are walked tile by tile, and
//! each load and store of a tile counted: what Theorem 2 says of them (Θ(Nd + N²) against Θ(N²d²/S),
//! times the share of visible blocks if sparse) can be read off without timing anything.

use super::BlockMask;

/// Elements moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accesses {
    /// From slow memory.
    pub loads: u64,
    /// To slow memory.
    pub stores: u64,
}

impl Accesses {
    /// Loads and stores.
    pub fn total(self) -> u64 {
        self.loads + self.stores
    }

    fn load(&mut self, elements: usize) {
        self.loads += elements as u64;
    }

    fn store(&mut self, elements: usize) {
        self.stores += elements as u64;
    }
}

/// Tiles for a fast memory of `s` elements and head width `d`: rows of queries and of keys,
/// `B_c = ⌈S/4d⌉`, `B_r = min(B_c, d)` (algorithm 1).
pub fn tile_sizes(s: usize, d: usize) -> (usize, usize) {
    let keys = s.div_ceil(4 * d);
    (keys.min(d), keys)
}

/// The lengths of the tiles that cut `n`.
fn tiles(n: usize, tile: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(tile).map(move |start| tile.min(n - start))
}

/// Attention that stores its scores: `S = Q·Kᵀ`, `P = softmax(S)`, `O = P·V` (algorithm 0).
///
/// The products are cut into square tiles that fit `s` elements three at a time.
pub fn materialized(n: usize, d: usize, s: usize) -> Accesses {
    let mut io = Accesses::default();
    let side = ((s / 3) as f64).sqrt() as usize;
    let mut product = |rows: usize, length: usize, columns: usize| {
        for r in tiles(rows, side) {
            for c in tiles(columns, side) {
                tiles(length, side).for_each(|l| io.load(r * l + l * c));
                io.store(r * c);
            }
        }
    };
    product(n, d, n);
    product(n, n, d);
    // Softmax reads S and writes P.
    io.load(n * n);
    io.store(n * n);
    io
}

/// Tiled attention (algorithm 1): keys and values outside, queries and running outputs inside.
pub fn tiled(n: usize, d: usize, s: usize) -> Accesses {
    let (rows, keys) = tile_sizes(s, d);
    walk(n, d, (rows, keys), |_, _| true)
}

/// Block-sparse attention (algorithm 5): hidden blocks are not loaded. The mask's blocks are the tiles.
pub fn block_sparse(n: usize, d: usize, mask: &BlockMask) -> Accesses {
    walk(n, d, (mask.rows, mask.cols), |i, j| mask.visible[i * mask.col_blocks + j])
}

fn walk(n: usize, d: usize, (rows, keys): (usize, usize), visible: impl Fn(usize, usize) -> bool) -> Accesses {
    let mut io = Accesses::default();
    for (j, key_tile) in tiles(n, keys).enumerate() {
        // K and V.
        io.load(2 * key_tile * d);
        for (_, row_tile) in tiles(n, rows).enumerate().filter(|&(i, _)| visible(i, j)) {
            // Q, O, maximum and sum; then O, maximum and sum again.
            io.load(2 * row_tile * d + 2 * row_tile);
            io.store(row_tile * d + 2 * row_tile);
        }
    }
    io
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slope of a straight line through (ln x, ln y).
    fn slope(points: &[(f64, f64)]) -> f64 {
        let n = points.len() as f64;
        let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        let (mx, my) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
        let over: f64 = logs.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
        over / logs.iter().map(|p| (p.0 - mx).powi(2)).sum::<f64>()
    }

    #[test]
    fn accesses_fall_with_the_size_of_fast_memory_and_grow_with_the_square_of_the_length() {
        let (n, d) = (1 << 14, 64);
        let by_size: Vec<_> =
            (13..18).map(|bits| (f64::from(1 << bits), tiled(n, d, 1 << bits).total() as f64)).collect();
        assert!((slope(&by_size) + 1.0).abs() < 0.03, "{}", slope(&by_size));
        let by_length: Vec<_> =
            (11..16).map(|bits| (f64::from(1 << bits), tiled(1 << bits, d, 1 << 15).total() as f64)).collect();
        assert!((slope(&by_length) - 2.0).abs() < 0.05, "{}", slope(&by_length));
        let by_width: Vec<_> = [32, 64, 128, 256].map(|d| (d as f64, tiled(n, d, 1 << 15).total() as f64)).into();
        assert!((slope(&by_width) - 2.0).abs() < 0.05, "{}", slope(&by_width));
    }

    #[test]
    fn tiles_move_less_than_scores_until_the_width_squared_exceeds_the_fast_memory() {
        let n = 1 << 13;
        for (d, s) in [(64, 1 << 15), (128, 1 << 16)] {
            assert!(tiled(n, d, s).total() * 2 < materialized(n, d, s).total(), "{d}, {s}");
        }
        assert!(tiled(n, 256, 1 << 12).total() > materialized(n, 256, 1 << 12).total());
    }

    #[test]
    fn block_sparse_accesses_are_in_proportion_to_the_visible_blocks() {
        let (n, d) = (1 << 14, 64);
        let (rows, cols) = tile_sizes(1 << 15, d);
        let blocks = (n / rows, n / cols);
        let of = |f: &dyn Fn(usize, usize) -> bool| {
            let mask = BlockMask::new((rows, blocks.0), (cols, blocks.1), f);
            (mask.density(), (block_sparse(n, d, &mask).total() - 2 * (n * d) as u64) as f64)
        };
        let (_, dense) = of(&|_, _| true);
        assert_eq!(dense as u64 + 2 * (n * d) as u64, tiled(n, d, 1 << 15).total());
        for every in [2, 4, 8, 16] {
            let (density, sparse) = of(&|i, j| (i + j) % every == 0);
            assert!((sparse / dense / density - 1.0).abs() < 0.05, "{density}: {}", sparse / dense);
        }
        let mask = BlockMask::butterfly((rows, blocks.0), (cols, blocks.1));
        let sparse = (block_sparse(n, d, &mask).total() - 2 * (n * d) as u64) as f64;
        assert!((sparse / dense / mask.density() - 1.0).abs() < 0.05);
    }

    #[test]
    fn every_tile_is_counted_with_its_own_length() {
        // One tile of keys, two of rows (32 and 8 of 40), width 32: K, V; Q, O, m, l; O, m, l.
        assert_eq!(tile_sizes(128 * 40, 32), (32, 40));
        let io = tiled(40, 32, 128 * 40);
        assert_eq!((io.loads, io.stores), (2 * 40 * 32 + 2 * 40 * 32 + 80, 40 * 32 + 80));
    }
}
