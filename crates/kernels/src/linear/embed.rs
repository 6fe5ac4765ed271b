//! y[i] = the row `ids[i]` of a table in any storage format, decoded.

use super::Weights;
use crate::Pool;
use crate::disjoint::Disjoint;
use memwall_formats::format;

/// Decodes rows `ids` of a table [n, k] into `y` [ids.len(), k].
///
/// # Panics
/// If an id is not in 0..n or a slice has the wrong length; who takes ids from outside checks them first.
pub fn embed(pool: &Pool, table: Weights<'_>, ids: &[i32], y: &mut [f32]) {
    let Weights { dtype, bytes, n, k } = table;
    let row_bytes = dtype.row_bytes(k).unwrap_or_else(|| panic!("embed: rows of {k} are no whole blocks of {dtype}"));
    assert_eq!(bytes.len(), n * row_bytes, "embed: bytes of a [{n}, {k}] table in {dtype}");
    assert_eq!(y.len(), ids.len() * k, "embed: values of y [{}, {k}]", ids.len());
    let y = Disjoint::new(y);
    let row = |i: usize| {
        let id = usize::try_from(ids[i]).ok().filter(|&id| id < n);
        let id = id.unwrap_or_else(|| panic!("embed: id {} is not in 0..{n}", ids[i]));
        // SAFETY: row i of y, which no other task writes.
        let y = unsafe { y.part(i * k..(i + 1) * k) };
        format(dtype)
            .decode(k, &bytes[id * row_bytes..(id + 1) * row_bytes], y)
            .unwrap_or_else(|e| unreachable!("lengths were checked: {e}"));
    };
    if ids.len() * k < PARALLEL_VALUES {
        (0..ids.len()).for_each(row);
    } else {
        pool.run(ids.len(), |i, _| row(i));
    }
}

/// Values that are worth waking the other threads for.
const PARALLEL_VALUES: usize = 1 << 16;
