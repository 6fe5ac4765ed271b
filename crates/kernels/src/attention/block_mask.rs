//! Block-sparse masks: which blocks of rows × columns are computed at all.

/// Blocks of the score matrix that are visible, the same for every sequence and head.
///
/// Rows count queries, columns keys, from the start of each sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMask {
    /// Queries in a block.
    pub rows: usize,
    /// Keys in a block.
    pub cols: usize,
    /// Blocks in a row of the mask.
    pub col_blocks: usize,
    /// `[row blocks, col_blocks]`.
    pub visible: Vec<bool>,
}

impl BlockMask {
    /// A mask of `row_blocks` × `col_blocks` blocks, visible where `f(row block, column block)`.
    pub fn new(
        (rows, row_blocks): (usize, usize),
        (cols, col_blocks): (usize, usize),
        f: impl Fn(usize, usize) -> bool,
    ) -> BlockMask {
        let visible = (0..row_blocks * col_blocks).map(|b| f(b / col_blocks, b % col_blocks)).collect();
        BlockMask { rows, cols, col_blocks, visible }
    }

    /// The fixed butterfly of sparse training (arXiv 2112.00029): the diagonal, and blocks whose
    /// indices differ in one bit, where the shorter side is stretched over the longer.
    pub fn butterfly((rows, row_blocks): (usize, usize), (cols, col_blocks): (usize, usize)) -> BlockMask {
        let side = row_blocks.min(col_blocks).max(1);
        BlockMask::new((rows, row_blocks), (cols, col_blocks), |r, c| {
            let difference = (r * side / row_blocks) ^ (c * side / col_blocks);
            difference == 0 || difference.is_power_of_two()
        })
    }

    /// Row blocks.
    pub fn row_blocks(&self) -> usize {
        self.visible.len() / self.col_blocks.max(1)
    }

    /// Share of the blocks that is visible.
    pub fn density(&self) -> f64 {
        self.visible.iter().filter(|&&b| b).count() as f64 / self.visible.len().max(1) as f64
    }

    /// Whether query `i` sees key `j` as far as this mask is concerned.
    pub fn shows(&self, i: usize, j: usize) -> bool {
        self.visible[i / self.rows * self.col_blocks + j / self.cols]
    }
}
