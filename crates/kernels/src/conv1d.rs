//! Depthwise causal convolution over packed sequences, forward, backward and step by step.
//!
//! `y[t, d] = act(b[d] + Σ_j w[d, j] u[t - (W - 1) + j, d])` for channel d of each sequence, where u is
//! the sequence's x, before its start the state that it is handed: the W - 1 inputs that came
//! before, oldest first, 0 if absent. Handing each step's final state to the next gives the bits of
//! one run.

use crate::disjoint::Disjoint;
use crate::map::silu_slope;
use crate::rows::{expect_len, for_columns};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// The widest kernel, in taps.
pub const MAX_TAPS: usize = 8;
/// Rows and columns of a task of the forward pass.
const ROWS: usize = 64;
const COLUMNS: usize = 256;

/// A depthwise causal convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv1d {
    /// D.
    pub channels: usize,
    /// W, 1 to [`MAX_TAPS`].
    pub taps: usize,
    /// act is SiLU; otherwise the identity.
    pub silu: bool,
}

impl Conv1d {
    /// Elements of the state of one sequence: W - 1 inputs of D.
    pub fn state_len(&self) -> usize {
        (self.taps - 1) * self.channels
    }

    fn check<T>(&self, x: &[T], weight: &[T], bias: Option<&[T]>, cu_seqlens: &[i32]) {
        assert!((1..=MAX_TAPS).contains(&self.taps), "{} taps, 1 to {MAX_TAPS} are supported", self.taps);
        let rows = cu_seqlens.last().copied().unwrap_or(-1);
        let ascending = cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted();
        assert!(ascending, "cu_seqlens must start at 0 and not descend: {cu_seqlens:?}");
        expect_len("x", x.len(), rows as usize * self.channels);
        expect_len("weight", weight.len(), self.channels * self.taps);
        if let Some(bias) = bias {
            expect_len("bias", bias.len(), self.channels);
        }
    }

    fn check_state<T>(&self, name: &str, state: Option<&[T]>, cu_seqlens: &[i32]) {
        if let Some(state) = state {
            expect_len(name, state.len(), (cu_seqlens.len() - 1) * self.state_len());
        }
    }
}

/// y [N, D] from x [N, D], weight `[D, W]` and bias `[D]`, for sequences that start at `cu_seqlens` [S + 1].
///
/// `initial_state` and `final_state` are [S, W - 1, D].
///
/// # Panics
/// If a length does not fit.
pub fn conv1d<T: Real>(
    pool: &Pool,
    conv: &Conv1d,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    cu_seqlens: &[i32],
    initial_state: Option<&[T]>,
    y: &mut [T],
    final_state: Option<&mut [T]>,
) {
    conv.check(x, weight, bias, cu_seqlens);
    conv.check_state("initial_state", initial_state, cu_seqlens);
    conv.check_state("final_state", final_state.as_deref(), cu_seqlens);
    expect_len("y", y.len(), x.len());
    let input = Input { conv, x, cu_seqlens, initial_state };
    if let Some(to) = final_state {
        input.final_state(to);
    }
    let rows = *cu_seqlens.last().expect("checked") as usize;
    let strips = conv.channels.div_ceil(COLUMNS);
    let y = Disjoint::new(y);
    pool.run(rows.div_ceil(ROWS) * strips, |task, _| {
        let (first, column) = (task / strips * ROWS, task % strips * COLUMNS);
        T::dispatch(Forward {
            input,
            weight,
            bias,
            rows: first..(first + ROWS).min(rows),
            columns: column..(column + COLUMNS).min(conv.channels),
            y,
        });
    });
}

/// One row each of several sequences: y [N, D] from x [N, D] and kept states [slots, W - 1, D], moved on.
///
/// Row i belongs to the sequence whose state is in `slots[i]`; rows of one slot follow each other in order.
/// The bits are those of [`conv1d`].
///
/// # Panics
/// If a length does not fit or a slot is not in `states`.
pub fn conv1d_step<T: Real>(
    pool: &Pool,
    conv: &Conv1d,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    slots: &[i32],
    states: &mut [T],
    y: &mut [T],
) {
    conv.check(x, weight, bias, &[0, slots.len() as i32]);
    expect_len("y", y.len(), x.len());
    let len = conv.state_len();
    if let Some(bad) = slots.iter().find(|&&slot| slot < 0 || (slot as usize + 1) * len > states.len()) {
        panic!("state slot {bad} of {}", states.len().checked_div(len).unwrap_or(0));
    }
    let (states, y) = (Disjoint::new(states), Disjoint::new(y));
    for_columns(pool, conv.channels, |columns| {
        T::dispatch(Step { conv, x, weight, bias, slots, columns, states, y });
    });
}

struct Step<'a, T> {
    conv: &'a Conv1d,
    x: &'a [T],
    weight: &'a [T],
    bias: Option<&'a [T]>,
    slots: &'a [i32],
    columns: Range<usize>,
    states: Disjoint<'a, T>,
    y: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Step<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Step { conv, x, weight, bias, slots, columns, states, y } = self;
        let (width, before) = (conv.channels, conv.taps - 1);
        for column in columns.clone().step_by(S::LANES) {
            let columns = column..(column + S::LANES).min(columns.end);
            let taps = taps(s, weight, conv.taps, columns.clone());
            let bias = bias.map_or(s.zero(), |b| s.load_any(&b[columns.clone()]));
            for (row, &slot) in slots.iter().enumerate() {
                // SAFETY: each task has columns of its own.
                let part = |i: usize| unsafe {
                    let start = slot as usize * conv.state_len() + i * width;
                    states.part(start + columns.start..start + columns.end)
                };
                let x = s.load_any(&x[row * width..][columns.clone()]);
                let mut sum = bias;
                for (i, &tap) in taps.iter().enumerate().take(before) {
                    let u = s.load_any(part(i));
                    sum = s.fma(tap, u, sum);
                    if i > 0 {
                        s.store_any(u, part(i - 1));
                    }
                }
                sum = s.fma(taps[before], x, sum);
                if before > 0 {
                    s.store_any(x, part(before - 1));
                }
                // SAFETY: each task has columns of its own.
                let y = unsafe { y.part(row * width + columns.start..row * width + columns.end) };
                s.store_any(if conv.silu { sum * s.sigmoid(sum) } else { sum }, y);
            }
        }
    }
}

/// Gradients of [`conv1d`], each if asked for: dx [N, D], dw `[D, W]`, db `[D]`, d_initial [S, W - 1, D],
/// from dy [N, D] and the gradient of the final state [S, W - 1, D].
///
/// With `accumulate`, dw and db are added to: each is its former value + its sum over all rows, ascending.
///
/// # Panics
/// If a length does not fit.
pub fn conv1d_backward<T: Real>(
    pool: &Pool,
    conv: &Conv1d,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    cu_seqlens: &[i32],
    initial_state: Option<&[T]>,
    dy: &[T],
    d_final_state: Option<&[T]>,
    dx: Option<&mut [T]>,
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
    d_initial_state: Option<&mut [T]>,
    accumulate: bool,
) {
    conv.check(x, weight, bias, cu_seqlens);
    conv.check_state("initial_state", initial_state, cu_seqlens);
    conv.check_state("d_final_state", d_final_state, cu_seqlens);
    conv.check_state("d_initial_state", d_initial_state.as_deref(), cu_seqlens);
    expect_len("dy", dy.len(), x.len());
    for (name, len, expected) in [
        ("dx", dx.as_ref().map(|d| d.len()), x.len()),
        ("dw", dw.as_ref().map(|d| d.len()), weight.len()),
        ("db", db.as_ref().map(|d| d.len()), conv.channels),
    ] {
        expect_len(name, len.unwrap_or(expected), expected);
    }
    let input = Input { conv, x, cu_seqlens, initial_state };
    let [dx, dw, db, d_initial_state] = [dx, dw, db, d_initial_state].map(|d| d.map(Disjoint::new));
    for_columns(pool, conv.channels, |columns| {
        T::dispatch(Backward {
            input,
            weight,
            bias,
            dy,
            d_final_state,
            columns,
            dx,
            dw,
            db,
            d_initial_state,
            accumulate,
        });
    });
}

#[derive(Clone, Copy)]
struct Input<'a, T> {
    conv: &'a Conv1d,
    x: &'a [T],
    cu_seqlens: &'a [i32],
    initial_state: Option<&'a [T]>,
}

impl<T: Real> Input<'_, T> {
    /// Row `at` of u, counted from the start of a sequence and at least 1 - W; None where it is 0.
    #[inline(always)]
    fn row(&self, sequence: usize, at: isize) -> Option<&[T]> {
        let width = self.conv.channels;
        if at >= 0 {
            let row = self.cu_seqlens[sequence] as usize + at as usize;
            return Some(&self.x[row * width..][..width]);
        }
        let state = &self.initial_state?[sequence * self.conv.state_len()..][..self.conv.state_len()];
        Some(&state[(self.conv.taps as isize - 1 + at) as usize * width..][..width])
    }

    fn final_state(&self, to: &mut [T]) {
        let before = self.conv.taps - 1;
        if self.conv.state_len() == 0 {
            return;
        }
        for (sequence, to) in to.chunks_exact_mut(self.conv.state_len()).enumerate() {
            let len = self.cu_seqlens[sequence + 1] - self.cu_seqlens[sequence];
            for (i, to) in to.chunks_exact_mut(self.conv.channels).enumerate() {
                match self.row(sequence, len as isize - before as isize + i as isize) {
                    Some(from) => to.copy_from_slice(from),
                    None => to.fill(T::ZERO),
                }
            }
        }
    }

    /// The pre-activation of one vector of channels at row `at` of a sequence.
    #[inline(always)]
    fn sum<S: Simd<E = T>>(
        &self,
        s: S,
        taps: &[S::V; MAX_TAPS],
        bias: S::V,
        sequence: usize,
        at: usize,
        columns: Range<usize>,
    ) -> S::V {
        let mut sum = bias;
        for (j, &tap) in taps.iter().enumerate().take(self.conv.taps) {
            let u = match self.row(sequence, at as isize + 1 - self.conv.taps as isize + j as isize) {
                Some(row) => s.load_any(&row[columns.clone()]),
                None => s.zero(),
            };
            sum = s.fma(tap, u, sum);
        }
        sum
    }
}

/// The taps of one vector of channels.
#[inline(always)]
fn taps<S: Simd>(s: S, weight: &[S::E], taps: usize, columns: Range<usize>) -> [S::V; MAX_TAPS] {
    let mut lanes = [S::E::ZERO; 16];
    let mut v = [s.zero(); MAX_TAPS];
    for (j, v) in v.iter_mut().enumerate().take(taps) {
        for (lane, column) in lanes.iter_mut().zip(columns.clone()) {
            *lane = weight[column * taps + j];
        }
        *v = s.load_any(&lanes[..columns.len()]);
    }
    v
}

struct Forward<'a, T> {
    input: Input<'a, T>,
    weight: &'a [T],
    bias: Option<&'a [T]>,
    rows: Range<usize>,
    columns: Range<usize>,
    y: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Forward { input, weight, bias, rows, columns, y } = self;
        let conv = input.conv;
        let first = input.cu_seqlens.partition_point(|&start| start as usize <= rows.start) - 1;
        for column in columns.clone().step_by(S::LANES) {
            let columns = column..(column + S::LANES).min(columns.end);
            let taps = taps(s, weight, conv.taps, columns.clone());
            let bias = bias.map_or(s.zero(), |b| s.load_any(&b[columns.clone()]));
            let mut sequence = first;
            for row in rows.clone() {
                while input.cu_seqlens[sequence + 1] as usize <= row {
                    sequence += 1;
                }
                let at = row - input.cu_seqlens[sequence] as usize;
                let sum = input.sum(s, &taps, bias, sequence, at, columns.clone());
                let start = row * conv.channels;
                // SAFETY: each task has rows and columns of its own.
                let y = unsafe { y.part(start + columns.start..start + columns.end) };
                s.store_any(if conv.silu { sum * s.sigmoid(sum) } else { sum }, y);
            }
        }
    }
}

struct Backward<'a, T> {
    input: Input<'a, T>,
    weight: &'a [T],
    bias: Option<&'a [T]>,
    dy: &'a [T],
    d_final_state: Option<&'a [T]>,
    columns: Range<usize>,
    dx: Option<Disjoint<'a, T>>,
    dw: Option<Disjoint<'a, T>>,
    db: Option<Disjoint<'a, T>>,
    d_initial_state: Option<Disjoint<'a, T>>,
    accumulate: bool,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        for column in self.columns.clone().step_by(S::LANES) {
            self.vector(s, column..(column + S::LANES).min(self.columns.end));
        }
    }
}

impl<T: Real> Backward<'_, T> {
    /// One vector of channels, all rows.
    #[inline(always)]
    fn vector<S: Simd<E = T>>(&self, s: S, columns: Range<usize>) {
        let Input { conv, cu_seqlens, .. } = self.input;
        let w = taps(s, self.weight, conv.taps, columns.clone());
        let bias = self.bias.map_or(s.zero(), |b| s.load_any(&b[columns.clone()]));
        let before = conv.taps - 1;
        let (mut dw, mut db) = ([s.zero(); MAX_TAPS], s.zero());
        for sequence in 0..cu_seqlens.len() - 1 {
            let (start, end) = (cu_seqlens[sequence] as usize, cu_seqlens[sequence + 1] as usize);
            let len = end - start;
            // Gradients of the last W rows of u, of which the first is complete after each step.
            let mut du = [s.zero(); MAX_TAPS];
            for at in 0..len {
                let dy = s.load_any(&self.dy[(start + at) * conv.channels..][columns.clone()]);
                let dz = if conv.silu {
                    dy * silu_slope(s, self.input.sum(s, &w, bias, sequence, at, columns.clone()))
                } else {
                    dy
                };
                db = db + dz;
                for j in 0..conv.taps {
                    let u = match self.input.row(sequence, at as isize - before as isize + j as isize) {
                        Some(row) => s.load_any(&row[columns.clone()]),
                        None => s.zero(),
                    };
                    dw[j] = s.fma(dz, u, dw[j]);
                    du[j] = s.fma(w[j], dz, du[j]);
                }
                self.give(s, sequence, at as isize - before as isize, du[0], &columns);
                du.copy_within(1.., 0);
                du[before] = s.zero();
            }
            for (i, &du) in du.iter().enumerate().take(before) {
                self.give(s, sequence, len as isize - before as isize + i as isize, du, &columns);
            }
        }
        if let Some(to) = &self.db {
            // SAFETY: each task has columns of its own.
            let to = unsafe { to.part(columns.clone()) };
            s.store_any(if self.accumulate { s.load_any(to) + db } else { db }, to);
        }
        if let Some(to) = &self.dw {
            // SAFETY: each task has columns of its own.
            let to = unsafe { to.part(columns.start * conv.taps..columns.end * conv.taps) };
            let mut lanes = [T::ZERO; 16];
            for (j, &dw) in dw.iter().enumerate().take(conv.taps) {
                s.store_any(dw, &mut lanes);
                for (to, &dw) in to.chunks_exact_mut(conv.taps).zip(&lanes) {
                    to[j] = if self.accumulate { to[j] + dw } else { dw };
                }
            }
        }
    }

    /// Stores the gradient of row `at` of u: of x, or of the initial state.
    #[inline(always)]
    fn give<S: Simd<E = T>>(&self, s: S, sequence: usize, at: isize, du: S::V, columns: &Range<usize>) {
        let Input { conv, cu_seqlens, .. } = self.input;
        let len = (cu_seqlens[sequence + 1] - cu_seqlens[sequence]) as isize;
        let before = conv.taps as isize - 1;
        let state = |at: isize| sequence * conv.state_len() + at as usize * conv.channels;
        let mut du = du;
        // The last W - 1 rows of u are the final state.
        let in_final = at - (len - before);
        if let Some(d) = self.d_final_state.filter(|_| in_final >= 0) {
            du = du + s.load_any(&d[state(in_final)..][columns.clone()]);
        }
        let (to, start) = if at >= 0 {
            (&self.dx, (cu_seqlens[sequence] as usize + at as usize) * conv.channels)
        } else {
            (&self.d_initial_state, state(before + at))
        };
        if let Some(to) = to {
            // SAFETY: each task has columns of its own.
            s.store_any(du, unsafe { to.part(start + columns.start..start + columns.end) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{cast, close, gradient, values};
    use proptest::prelude::*;

    struct Case<T> {
        conv: Conv1d,
        cu_seqlens: Vec<i32>,
        x: Vec<T>,
        weight: Vec<T>,
        bias: Vec<T>,
        state: Vec<T>,
    }

    fn case<T: Real>(channels: usize, taps: usize, silu: bool, lengths: &[i32]) -> Case<T> {
        let conv = Conv1d { channels, taps, silu };
        let mut cu_seqlens = vec![0];
        lengths.iter().for_each(|l| cu_seqlens.push(cu_seqlens.last().unwrap() + l));
        let rows = *cu_seqlens.last().unwrap() as usize;
        Case {
            conv,
            x: values(rows * channels, 1),
            weight: values(channels * taps, 2),
            bias: values(channels, 3),
            state: values(lengths.len() * conv.state_len(), 4),
            cu_seqlens,
        }
    }

    impl<T: Real> Case<T> {
        fn forward(&self, threads: usize) -> (Vec<T>, Vec<T>) {
            let (mut y, mut last) = (vec![T::ZERO; self.x.len()], vec![T::ZERO; self.state.len()]);
            let Case { conv, cu_seqlens, x, weight, bias, state } = self;
            let pool = Pool::new(threads);
            conv1d(&pool, conv, x, weight, Some(bias), cu_seqlens, Some(state), &mut y, Some(&mut last));
            (y, last)
        }

        fn backward(&self, threads: usize, dy: &[T], d_last: &[T]) -> [Vec<T>; 4] {
            let Case { conv, cu_seqlens, x, weight, bias, state } = self;
            let mut d = [x, weight, bias, state].map(|p| vec![T::of(9.0); p.len()]);
            let [dx, dw, db, ds] = &mut d;
            conv1d_backward(
                &Pool::new(threads),
                conv,
                x,
                weight,
                Some(bias),
                cu_seqlens,
                Some(state),
                dy,
                Some(d_last),
                Some(dx),
                Some(dw),
                Some(db),
                Some(ds),
                false,
            );
            d
        }

        fn cast<U: Real>(&self) -> Case<U> {
            Case {
                conv: self.conv,
                cu_seqlens: self.cu_seqlens.clone(),
                x: cast(&self.x),
                weight: cast(&self.weight),
                bias: cast(&self.bias),
                state: cast(&self.state),
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (channels, taps, silu, lengths) in
            [(5, 4, true, vec![6, 1, 0, 2]), (3, 1, false, vec![4]), (9, 8, true, vec![3, 12]), (4, 3, false, vec![])]
        {
            let case = case::<f64>(channels, taps, silu, &lengths);
            let (y, last) = case.forward(1);
            let (dy, d_last) = (values::<f64>(y.len(), 5), values::<f64>(last.len(), 6));
            let [dx, dw, db, ds] = case.backward(2, &dy, &d_last);
            let d_out: Vec<f64> = dy.iter().chain(&d_last).copied().collect();
            let out = |c: &Case<f64>| -> Vec<f64> {
                let (y, last) = c.forward(1);
                y.into_iter().chain(last).collect()
            };
            gradient("dx", &case.x, &d_out, &dx, |x| out(&Case { x: x.to_vec(), ..case.cast() }));
            gradient("dw", &case.weight, &d_out, &dw, |w| out(&Case { weight: w.to_vec(), ..case.cast() }));
            gradient("db", &case.bias, &d_out, &db, |b| out(&Case { bias: b.to_vec(), ..case.cast() }));
            gradient("ds", &case.state, &d_out, &ds, |s| out(&Case { state: s.to_vec(), ..case.cast() }));
        }
    }

    #[test]
    fn outputs_are_those_of_the_definition() {
        let case = case::<f64>(2, 3, false, &[4]);
        let (y, last) = case.forward(1);
        for t in 0..4 {
            for d in 0..2 {
                let u = |at: i32| {
                    if at < 0 { case.state[((at + 2) * 2) as usize + d] } else { case.x[at as usize * 2 + d] }
                };
                let sum = (0..3).map(|j| case.weight[d * 3 + j] * u(t + j as i32 - 2)).sum::<f64>() + case.bias[d];
                assert!((y[t as usize * 2 + d] - sum).abs() < 1e-14);
            }
        }
        assert_eq!(last, case.x[4..]);
    }

    #[test]
    fn accumulated_gradients_are_the_former_value_plus_the_sum() {
        let case = case::<f32>(20, 4, true, &[9]);
        let (dy, d_last) = (values::<f32>(case.x.len(), 5), vec![0.0; case.state.len()]);
        let [_, mut dw, ..] = case.backward(1, &dy, &d_last);
        let twice: Vec<f32> = dw.iter().map(|x| x + x).collect();
        let Case { conv, cu_seqlens, x, weight, bias, state } = &case;
        let pool = Pool::new(2);
        let (bias, state) = (Some(&bias[..]), Some(&state[..]));
        let dw_to = Some(&mut dw[..]);
        conv1d_backward(&pool, conv, x, weight, bias, cu_seqlens, state, &dy, None, None, dw_to, None, None, true);
        assert_eq!(dw, twice);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_cut_with_the_state_handed_over_gives_the_bits_of_one_run(
            channels in 1usize..300, taps in 1usize..9, silu: bool, len in 0usize..150, cut in 0usize..150,
        ) {
            let whole = case::<f32>(channels, taps, silu, &[len as i32]);
            let (y, last) = whole.forward(3);
            let (y64, _) = whole.cast::<f64>().forward(1);
            close("y", &y, &y64, 2e-6);
            let cut = cut.min(len);
            let part = |rows: Range<usize>, state: Vec<f32>| Case {
                x: whole.x[rows.start * channels..rows.end * channels].to_vec(),
                cu_seqlens: vec![0, rows.len() as i32],
                state,
                ..whole.cast()
            };
            let (first, between) = part(0..cut, whole.state.clone()).forward(1);
            let (second, end) = part(cut..len, between).forward(2);
            prop_assert_eq!([first, second].concat(), y);
            prop_assert_eq!(end, last);
        }

        #[test]
        fn steps_on_kept_states_give_the_bits_of_one_run(
            channels in 1usize..100, taps in 1usize..9, silu: bool, a in 0usize..20, b in 0usize..20,
        ) {
            let packed = case::<f32>(channels, taps, silu, &[a as i32, b as i32]);
            let (y, last) = packed.forward(1);
            // The sequences' rows in turn, then what is left of the longer one; a is in slot 2, b in 0.
            let rows: Vec<(usize, i32)> = (0..a.max(b))
                .flat_map(|t| [(t < a).then_some((t, 2)), (t < b).then_some((a + t, 0))])
                .flatten()
                .collect();
            let slots: Vec<i32> = rows.iter().map(|r| r.1).collect();
            let x: Vec<f32> = rows.iter().flat_map(|r| packed.x[r.0 * channels..][..channels].to_vec()).collect();
            let len = packed.conv.state_len();
            let mut states = [&packed.state[len..], &vec![7.0; len], &packed.state[..len]].concat();
            let mut stepped = vec![0.0; x.len()];
            let Case { conv, weight, bias, .. } = &packed;
            conv1d_step(&Pool::new(2), conv, &x, weight, Some(bias), &slots, &mut states, &mut stepped);
            for (row, stepped) in rows.iter().zip(stepped.chunks_exact(channels)) {
                prop_assert_eq!(stepped, &y[row.0 * channels..][..channels]);
            }
            prop_assert_eq!(&states[2 * len..], &last[..len]);
            prop_assert_eq!(&states[..len], &last[len..]);
            prop_assert!(states[len..2 * len].iter().all(|&x| x == 7.0));
        }

        #[test]
        fn packed_sequences_are_those_alone(a in 0i32..80, b in 0i32..80, channels in 1usize..40, taps in 1usize..9) {
            let packed = case::<f32>(channels, taps, true, &[a, b]);
            let (y, last) = packed.forward(2);
            let dy = values::<f32>(y.len(), 7);
            let d_last = values::<f32>(last.len(), 8);
            let [dx, _, _, ds] = packed.backward(2, &dy, &d_last);
            let [dx64, dw64, ..] = packed.cast::<f64>().backward(1, &cast(&dy), &cast(&d_last));
            close("dx", &dx, &dx64, 1e-5);
            let [_, dw, ..] = packed.backward(3, &dy, &d_last);
            close("dw", &dw, &dw64, 1e-4);
            let state = packed.conv.state_len();
            for (i, rows) in [0..a as usize, a as usize..(a + b) as usize].into_iter().enumerate() {
                let range = rows.start * channels..rows.end * channels;
                let states = i * state..(i + 1) * state;
                let alone = Case {
                    x: packed.x[range.clone()].to_vec(),
                    cu_seqlens: vec![0, rows.len() as i32],
                    state: packed.state[states.clone()].to_vec(),
                    ..packed.cast()
                };
                let (alone_y, alone_last) = alone.forward(1);
                prop_assert_eq!(&alone_y, &y[range.clone()]);
                prop_assert_eq!(&alone_last, &last[states.clone()]);
                let [alone_dx, _, _, alone_ds] = alone.backward(1, &dy[range.clone()], &d_last[states.clone()]);
                prop_assert_eq!(&alone_dx, &dx[range]);
                prop_assert_eq!(&alone_ds, &ds[states]);
            }
        }
    }
}
