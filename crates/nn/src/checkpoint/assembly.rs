//! Weights that a file holds in another form than layers read: their rows in several places, or another function of their
//! values.
//!
//! Experts in a tensor each become one stack; queries, keys and values that share a tensor become three. Whoever loads such a
//! weight reads its rows from where they lie, in their order; nothing is written anew.

use std::ops::Range;

use memwall_formats::TensorInfo;

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index into [`memwall_formats::Container::files`].
    pub file: usize,
    /// The first byte in that file.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// How a layer's value is made of a stored one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// It is the stored one.
    #[default]
    None,
    /// 1 + x: norms stored around 0.
    OnePlus,
    /// ln(−x): rates stored as −exp(A_log).
    LogOfMinus,
}

impl Change {
    /// Makes layers' values of stored ones.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Change::None => {}
            Change::OnePlus => values.iter_mut().for_each(|x| *x += 1.0),
            Change::LogOfMinus => values.iter_mut().for_each(|x| *x = (-*x).ln()),
        }
    }
}

/// How a weight is made of what a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// Its bytes, in order; each extent has whole rows.
    extents: Vec<Extent>,
    /// What is done with the values.
    pub change: Change,
}

impl Assembly {
    /// Where the `bytes` bytes from `from` on of the weight lie.
    pub fn extents(&self, from: u64, bytes: u64) -> impl Iterator<Item = Extent> {
        let end = from.saturating_add(bytes);
        let mut begin = 0;
        self.extents.iter().filter_map(move |e| {
            let own = begin..begin + e.bytes;
            begin = own.end;
            let (first, last) = (from.max(own.start), end.min(own.end));
            (first < last).then(|| Extent { offset: e.offset + first - own.start, bytes: last - first, ..*e })
        })
    }
}

/// A weight of `shape` out of rows of tensors, and how it is made; `None` if the rows are not there, are not as long as the
/// last axis says, or are stored in different formats.
pub(super) fn of_rows(
    shape: Vec<usize>,
    rows: impl IntoIterator<Item = (TensorInfo, Range<usize>)>,
) -> Option<(TensorInfo, Assembly)> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut first: Option<TensorInfo> = None;
    let width = *shape.last()?;
    for (tensor, rows) in rows {
        let row_bytes = tensor.dtype.row_bytes(width)? as u64;
        let there = tensor.elements().checked_div(width)?;
        let same = first.as_ref().is_none_or(|f| f.dtype == tensor.dtype);
        if !same || tensor.shape.last() != Some(&width) || rows.start > rows.end || rows.end > there {
            return None;
        }
        let own = Extent {
            file: tensor.file,
            offset: tensor.offset + rows.start as u64 * row_bytes,
            bytes: rows.len() as u64 * row_bytes,
        };
        match extents.last_mut() {
            // One after the other.
            Some(last) if last.file == own.file && last.offset + last.bytes == own.offset => last.bytes += own.bytes,
            _ => extents.push(own),
        }
        first.get_or_insert(tensor);
    }
    let first = first?;
    let bytes = extents.iter().map(|e| e.bytes).sum::<u64>();
    let wanted = shape[..shape.len() - 1].iter().product::<usize>() as u64 * first.dtype.row_bytes(width)? as u64;
    let Extent { file, offset, .. } = *extents.first()?;
    let info = TensorInfo { shape, file, offset, bytes, ..first };
    (bytes == wanted).then_some((info, Assembly { extents, change: Change::None }))
}

/// How a weight is made of the whole of a tensor, its values changed.
pub(super) fn changed(tensor: &TensorInfo, change: Change) -> Assembly {
    let TensorInfo { file, offset, bytes, .. } = *tensor;
    Assembly { extents: vec![Extent { file, offset, bytes }], change }
}

#[cfg(test)]
mod tests {
    use memwall_formats::Dtype;

    use super::*;

    fn tensor(name: &str, rows: usize, offset: u64) -> TensorInfo {
        let bytes = rows as u64 * 64;
        TensorInfo { name: name.into(), dtype: Dtype::F16, shape: vec![rows, 32], file: 0, offset, bytes }
    }

    #[test]
    fn rows_are_read_in_their_order_from_any_byte_on() {
        let (a, b) = (tensor("a", 4, 0), tensor("b", 2, 1000));
        let rows = [(a.clone(), 2..4), (b.clone(), 0..1), (b.clone(), 1..2), (a.clone(), 0..1)];
        let (info, assembly) = of_rows(vec![5, 32], rows).expect("five rows");
        assert_eq!((info.bytes, info.offset, info.name.as_str()), (320, 128, "a"));
        let extents = |from, bytes| assembly.extents(from, bytes).map(|e| (e.offset, e.bytes)).collect::<Vec<_>>();
        assert_eq!(extents(0, 320), [(128, 128), (1000, 128), (0, 64)]);
        assert_eq!(extents(100, 40), [(228, 28), (1000, 12)]);
        assert_eq!(extents(256, 64), [(0, 64)]);
        assert_eq!(extents(320, 9), []);
    }

    #[test]
    fn what_is_not_there_is_no_weight() {
        let a = tensor("a", 4, 0);
        assert_eq!(of_rows(vec![5, 32], [(a.clone(), 0..4)]), None);
        assert_eq!(of_rows(vec![5, 32], [(a.clone(), 0..5)]), None);
        assert_eq!(of_rows(vec![8, 16], [(a.clone(), 0..4)]), None);
        let other = TensorInfo { dtype: Dtype::BF16, ..tensor("b", 1, 256) };
        assert_eq!(of_rows(vec![5, 32], [(a, 0..4), (other, 0..1)]), None);
    }

    #[test]
    fn changes_are_those_of_the_families() {
        let mut x = [-1.0, 0.5];
        Change::OnePlus.apply(&mut x);
        assert_eq!(x, [0.0, 1.5]);
        let mut x = [-1.0, -4.0];
        Change::LogOfMinus.apply(&mut x);
        assert_eq!(x, [0.0, 4.0_f32.ln()]);
    }
}
