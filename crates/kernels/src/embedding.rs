//! Rows of a table by token id, and the gradient of the table.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_columns, for_rows, rows_of};
use crate::{Pool, Real};

/// `y[i] = table[ids[i]]`, for a table [vocab, width] and y [ids, width].
///
/// # Panics
/// If an id is not in 0 .. vocab, or a length does not fit.
pub fn embedding<T: Real>(pool: &Pool, width: usize, table: &[T], ids: &[i32], y: &mut [T]) {
    rows_of("table", table.len(), width);
    expect_len("y", y.len(), ids.len() * width);
    let y = Disjoint::new(y);
    check_ids(ids, table.len(), width);
    for_rows(pool, ids.len(), width, |rows| {
        // SAFETY: rows of tasks do not overlap.
        let y = unsafe { y.part(rows.start * width..rows.end * width) };
        for (&id, y) in ids[rows].iter().zip(y.chunks_exact_mut(width)) {
            y.copy_from_slice(&table[id as usize * width..][..width]);
        }
    });
}

fn check_ids(ids: &[i32], table: usize, width: usize) {
    let vocab = table.checked_div(width).unwrap_or(0);
    if let Some(bad) = ids.iter().find(|&&id| id < 0 || id as usize >= vocab) {
        panic!("token id {bad} in a table of {vocab}");
    }
}

/// Adds `dy[i]` to `d_table[ids[i]]`, i ascending: the order of a row's sum depends on its own tokens only.
///
/// # Panics
/// If an id is not in 0 .. vocab, or a length does not fit.
pub fn embedding_backward<T: Real>(pool: &Pool, width: usize, ids: &[i32], dy: &[T], d_table: &mut [T]) {
    rows_of("d_table", d_table.len(), width);
    expect_len("dy", dy.len(), ids.len() * width);
    check_ids(ids, d_table.len(), width);
    let d_table = Disjoint::new(d_table);
    for_columns(pool, width, |columns| {
        for (&id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
            let row = id as usize * width;
            // SAFETY: columns of tasks do not overlap.
            let d = unsafe { d_table.part(row + columns.start..row + columns.end) };
            d.iter_mut().zip(&dy[columns.clone()]).for_each(|(d, &dy)| *d += dy);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{gradient, values};

    #[test]
    fn rows_are_gathered() {
        for (width, ids) in [(3, vec![]), (1, vec![4]), (70, vec![4, 0, 4, 2])] {
            let table = values::<f32>(5 * width, 1);
            let mut y = vec![0.0; ids.len() * width];
            embedding(&Pool::new(2), width, &table, &ids, &mut y);
            for (i, &id) in ids.iter().enumerate() {
                assert_eq!(y[i * width..][..width], table[id as usize * width..][..width]);
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let (width, ids) = (7, [3, 1, 3, 3, 0]);
        let (table, dy) = (values::<f64>(4 * width, 1), values::<f64>(ids.len() * width, 2));
        let mut d = vec![0.0; table.len()];
        embedding_backward(&Pool::new(2), width, &ids, &dy, &mut d);
        gradient("d_table", &table, &dy, &d, |table| {
            let mut y = vec![0.0; ids.len() * width];
            embedding(&Pool::new(1), width, table, &ids, &mut y);
            y
        });
    }

    #[test]
    fn a_row_of_the_gradient_depends_on_its_own_tokens_only() {
        let width = 200;
        let ids: Vec<i32> = (0..300).map(|i| i * i % 17).collect();
        let dy = values::<f32>(ids.len() * width, 3);
        let mut whole = vec![0.0; 17 * width];
        embedding_backward(&Pool::new(1), width, &ids, &dy, &mut whole);
        for threads in 2..=3 {
            let mut again = vec![0.0; 17 * width];
            embedding_backward(&Pool::new(threads), width, &ids, &dy, &mut again);
            assert!(again == whole);
        }
        for id in 0..17i32 {
            let own: Vec<usize> = (0..ids.len()).filter(|&i| ids[i] == id).collect();
            let their_dy: Vec<f32> = own.iter().flat_map(|&i| dy[i * width..][..width].to_vec()).collect();
            let mut alone = vec![0.0; 17 * width];
            embedding_backward(&Pool::new(1), width, &vec![id; own.len()], &their_dy, &mut alone);
            let row = id as usize * width..(id as usize + 1) * width;
            assert!(alone[row.clone()] == whole[row]);
        }
    }
}
