//! How a format cuts rows into blocks.

use std::borrow::Cow;
use std::fmt;

/// Name, block length and block size of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The name in the field's spelling.
    pub name: Cow<'static, str>,
    /// Values in a block; 1 for scalar formats.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

impl Layout {
    /// Bytes of a row of `n` values, or `None` if the row is not a whole number of blocks.
    pub fn row_bytes(&self, n: usize) -> Option<usize> {
        n.is_multiple_of(self.block_len).then(|| n / self.block_len * self.block_bytes)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}
