//! Numbers as a format holds them: rounded to its codes and back, row by row or down the columns; and which of them it clips.

use std::sync::Mutex;

use memwall_formats::quantizer::OfTensor;
use memwall_formats::{FormatError, Quantizer};

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, rows_of};
use crate::transpose::transpose;
use crate::{Pool, Real};

/// Values of a task; tens of microseconds of work.
const TASK_ELEMENTS: usize = 1 << 13;

/// Which way blocks lie: along the sum of the product that a matrix goes into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Along {
    /// Along the rows.
    #[default]
    Rows,
    /// Down the columns.
    Columns,
}

/// What is computed of each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The value that comes back.
    Round,
    /// 1, or 0 where it is clipped.
    Reached,
}

/// Bytes of scratch for a matrix [rows, cols] of elements of `element_bytes`.
pub fn fake_quantize_scratch(
    q: &Quantizer,
    along: Along,
    rows: usize,
    cols: usize,
    element_bytes: usize,
    threads: usize,
) -> usize {
    let width = if along == Along::Rows { cols } else { rows };
    let turned = if along == Along::Rows { 0 } else { 2 * rows * cols * element_bytes };
    let narrow = if element_bytes == size_of::<f32>() { 0 } else { 2 * rows * cols * size_of::<f32>() };
    turned + narrow + threads.max(1) * worker_bytes(q, width)
}

/// Scratch of one thread, a multiple of the alignment of what is kept there.
fn worker_bytes(q: &Quantizer, width: usize) -> usize {
    q.scratch_bytes(width).next_multiple_of(align_of::<f64>())
}

/// y [rows, cols], the values of x as the quantizer's format holds them; f64 through f32, which formats store.
///
/// # Errors
/// A value that the format cannot hold; named by row and column of x, or by column and row with [`Along::Columns`].
///
/// # Panics
/// If a length does not fit, or blocks do not divide what they lie along.
pub fn fake_quantize<T: Real>(
    pool: &Pool,
    q: &Quantizer,
    along: Along,
    cols: usize,
    x: &[T],
    y: &mut [T],
    scratch: &mut [u8],
) -> Result<(), FormatError> {
    run(pool, What::Round, q, along, cols, x, y, scratch)
}

/// 1 for values of x [rows, cols] within what the format reaches, 0 for those that it clips.
///
/// # Errors
/// As [`fake_quantize`].
///
/// # Panics
/// As [`fake_quantize`].
pub fn reached<T: Real>(
    pool: &Pool,
    q: &Quantizer,
    along: Along,
    cols: usize,
    x: &[T],
    y: &mut [T],
    scratch: &mut [u8],
) -> Result<(), FormatError> {
    run(pool, What::Reached, q, along, cols, x, y, scratch)
}

fn run<T: Real>(
    pool: &Pool,
    what: What,
    q: &Quantizer,
    along: Along,
    cols: usize,
    x: &[T],
    y: &mut [T],
    scratch: &mut [u8],
) -> Result<(), FormatError> {
    expect_len("y", y.len(), x.len());
    let rows = rows_of("x", x.len(), cols);
    let need = fake_quantize_scratch(q, along, rows, cols, size_of::<T>(), pool.threads());
    assert!(scratch.len() >= need, "fake_quantize: {} bytes of scratch, {need} needed", scratch.len());
    match along {
        Along::Rows => narrow(pool, what, q, cols, x, y, scratch),
        Along::Columns => {
            let (turned, scratch) = scratch.split_at_mut(2 * size_of_val(x));
            let (from, to) = bytemuck::cast_slice_mut::<u8, T>(turned).split_at_mut(x.len());
            transpose(pool, 1, rows, cols, x, from);
            narrow(pool, what, q, rows, from, to, scratch)?;
            transpose(pool, 1, cols, rows, to, y);
            Ok(())
        }
    }
}

/// In f32.
fn narrow<T: Real>(
    pool: &Pool,
    what: What,
    q: &Quantizer,
    width: usize,
    x: &[T],
    y: &mut [T],
    scratch: &mut [u8],
) -> Result<(), FormatError> {
    if let (Some(x), Some(y)) = (T::as_f32(x), T::as_f32_mut(y)) {
        return tasks(pool, what, q, width, x, y, scratch);
    }
    let (narrow, scratch) = scratch.split_at_mut(2 * x.len() * size_of::<f32>());
    let (from, to) = bytemuck::cast_slice_mut::<u8, f32>(narrow).split_at_mut(x.len());
    x.iter().zip(&mut *from).for_each(|(x, from)| *from = x.f64() as f32);
    tasks(pool, what, q, width, from, to, scratch)?;
    to.iter().zip(y).for_each(|(to, y)| *y = T::of(f64::from(*to)));
    Ok(())
}

fn tasks(
    pool: &Pool,
    what: What,
    q: &Quantizer,
    width: usize,
    x: &[f32],
    y: &mut [f32],
    scratch: &mut [u8],
) -> Result<(), FormatError> {
    let of = q.of_tensor(width, x)?;
    let (rows, room) = (rows_of("x", x.len(), width), worker_bytes(q, width));
    let (y, scratch) = (Disjoint::new(y), Disjoint::new(scratch));
    let per_task = (TASK_ELEMENTS / width.max(1)).max(1);
    let first: Mutex<Option<(usize, FormatError)>> = Mutex::new(None);
    pool.run(rows.div_ceil(per_task), |task, worker| {
        let from = task * per_task;
        let range = from * width..(from + per_task).min(rows) * width;
        // SAFETY: rows of tasks do not overlap, and every worker has scratch of its own.
        let (y, scratch) = unsafe { (y.part(range.clone()), scratch.part(worker * room..(worker + 1) * room)) };
        if let Err(error) = one(what, q, of, width, &x[range], y, scratch)
            && let Ok(mut first) = first.lock()
            && first.as_ref().is_none_or(|(row, _)| from < *row)
        {
            *first = Some((from, error.below(from)));
        }
    });
    match first.into_inner() {
        Ok(Some((_, error))) => Err(error),
        _ => Ok(()),
    }
}

fn one(
    what: What,
    q: &Quantizer,
    of: OfTensor,
    width: usize,
    x: &[f32],
    y: &mut [f32],
    scratch: &mut [u8],
) -> Result<(), FormatError> {
    match what {
        What::Round => q.round(of, width, x, y, scratch),
        What::Reached => q.reached(of, width, x, y, scratch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{cast, values};
    use proptest::prelude::*;

    fn call<T: Real>(threads: usize, q: &Quantizer, along: Along, cols: usize, x: &[T]) -> Result<Vec<T>, FormatError> {
        let rows = x.len() / cols;
        let mut y = vec![T::ZERO; x.len()];
        let mut scratch = vec![0u64; fake_quantize_scratch(q, along, rows, cols, size_of::<T>(), threads).div_ceil(8)];
        fake_quantize(&Pool::new(threads), q, along, cols, x, &mut y, bytemuck::cast_slice_mut(&mut scratch))?;
        Ok(y)
    }

    fn turned(rows: usize, cols: usize, x: &[f32]) -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn threads_element_types_and_the_way_of_blocks_change_no_bit(rows in 1usize..90, seed in 0u64..100) {
            for name in ["ternary", "int8", "int4:group16", "mxint8", "mxfp4", "nvfp4", "nvint4:row", "Q8_0", "Q4_K"] {
                let q: Quantizer = name.parse().expect("a name");
                let cols = 256;
                let x = values::<f32>(rows * cols, seed);
                let y = call(1, &q, Along::Rows, cols, &x).expect("finite");
                // The quantizer itself, in one go.
                let (mut want, mut scratch) = (vec![0.0; x.len()], vec![0; q.scratch_bytes(cols)]);
                q.round(q.of_tensor(cols, &x).expect("finite"), cols, &x, &mut want, &mut scratch).expect("finite");
                prop_assert_eq!(&y, &want, "{}", name);
                prop_assert_eq!(&call(3, &q, Along::Rows, cols, &x).expect("finite"), &y, "{}", name);
                let wide: Vec<f64> = call(2, &q, Along::Rows, cols, &cast::<f32, f64>(&x)).expect("finite");
                prop_assert_eq!(&cast::<f64, f32>(&wide), &y, "{}", name);
                let down = call(2, &q, Along::Columns, rows, &turned(rows, cols, &x)).expect("finite");
                prop_assert_eq!(&turned(cols, rows, &down), &y, "{}", name);
            }
        }
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_named() {
        let q: Quantizer = "int8:row".parse().expect("a name");
        let mut x = values::<f32>(4000 * 64, 3);
        (x[3210 * 64 + 5], x[1500 * 64 + 9]) = (f32::NAN, f32::INFINITY);
        for threads in [1, 4] {
            let error = call(threads, &q, Along::Rows, 64, &x).expect_err("not finite");
            assert!(matches!(error, FormatError::NotFinite { row: 1500, col: 9, .. }), "{error}");
        }
    }
}
