//! The recurrent form: the state in registers, a few sweeps over the tokens.
//!
//! Forward: S_t = diag(α_t) S_{t−1} + k_t v_tᵀ, o_t = scale · S_tᵀ q_t.
//! Backward, with dS_t the gradient of S_t through everything after it:
//! dS_t = scale · q_t do_tᵀ + diag(α_{t+1}) dS_{t+1}, dq_t = scale · S_t do_t, dk_t = dS_t v_t,
//! dv_t = dS_tᵀ k_t, dg_t = Σ_{s≥t} (q_s ⊙ dq_s − k_s ⊙ dk_s) + rowsum(S_T ⊙ dS_T).
//!
//! A sequence given in pieces, alone or beside others, on any number of threads gives the same
//! bits: inference uses this form.

use super::pack::{Matrix, Rows, exp, join, read_state, scale, split, spread, write_state};
use super::sweep::{Ahead, Block, Decay, TOKENS, VECTORS, sweep};
use super::{Backward, Forward, GateKind, Inputs};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Value lanes of a task of `o` or `dv`.
const VALUES: usize = 64;
/// Key lanes of a task of `dq`, `dk` and `dg`.
const KEYS: usize = 64;
/// Rows of a register tile: as many as the registers hold beside the operands.
const fn slab<S: Simd>() -> usize {
    if S::LANES == MAX_LANES { 8 } else { 4 }
}
/// Tokens from a block to the next.
const NEXT: isize = TOKENS as isize;
/// Elements between tokens of packed rows: whole vectors, each a whole number of slabs.
const fn row_stride<S: Simd>(width: usize) -> usize {
    width.next_multiple_of(S::LANES)
}
/// Lanes of the widest vector, to whose multiples buffers are rounded.
const MAX_LANES: usize = 16;

/// Elements of scratch that a task needs, plus vectors for the alignment of each buffer.
pub(super) fn scratch_elements(key_width: usize, value_width: usize) -> usize {
    let (k, v) = (key_width.next_multiple_of(MAX_LANES), value_width.next_multiple_of(MAX_LANES));
    let values = (2 * TOKENS + VALUES) * k + TOKENS * k.max(VALUES) + 2 * TOKENS * VALUES;
    let keys = (2 * TOKENS + KEYS) * v + 5 * TOKENS * KEYS;
    values.max(keys) + 8 * MAX_LANES
}

/// Hands out parts of a task's scratch.
struct Carve<E> {
    next: *mut E,
    left: usize,
}

impl<E> Carve<E> {
    /// The scratch of a worker, of which there is `elements` for each.
    ///
    /// # Safety
    /// `scratch` has room for all workers.
    unsafe fn new(scratch: *mut E, elements: usize, worker: usize) -> Self {
        // SAFETY: the caller's.
        Carve { next: unsafe { scratch.add(worker * elements) }, left: elements }
    }

    fn take(&mut self, n: usize) -> *mut E {
        let n = n.next_multiple_of(MAX_LANES);
        self.left = self.left.checked_sub(n).expect("scratch of the stated size");
        let start = self.next;
        self.next = start.wrapping_add(n);
        start
    }
}

pub(super) fn forward<T: Real>(pool: &Pool, f: &Forward<T>) {
    let tasks = f.x.sequences * f.x.heads * f.x.value_width.div_ceil(VALUES);
    pool.run(tasks, |task, worker| T::dispatch(ForwardTask { f, task, worker }));
}

struct ForwardTask<'a, T> {
    f: &'a Forward<T>,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for ForwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (f, x) = (self.f, &self.f.x);
        let groups = x.value_width.div_ceil(VALUES);
        let (sequence, rest) = (self.task / (x.heads * groups), self.task % (x.heads * groups));
        let (head, first) = (rest / groups, rest % groups * VALUES);
        // SAFETY: tasks are (sequence, head, group of value lanes): what each writes is its own.
        unsafe {
            if slab::<S>() == 8 {
                forward_task::<S, 8>(s, f, sequence, head, first, self.worker)
            } else {
                forward_task::<S, 4>(s, f, sequence, head, first, self.worker)
            }
        }
    }
}

/// # Safety
/// The worker's scratch and what the task writes are its own.
#[inline(always)]
unsafe fn forward_task<S: Simd, const R: usize>(
    s: S,
    f: &Forward<S::E>,
    sequence: usize,
    head: usize,
    first_value: usize,
    worker: usize,
) {
    let x = &f.x;
    let kv_head = x.kv_head(head);
    let (k, width) = (x.key_width, VALUES.min(x.value_width - first_value));
    let (slabs, lanes, stride) = (k.div_ceil(R), VECTORS * S::LANES, row_stride::<S>(k));
    let (padded, tiles) = (slabs * R, width.div_ceil(lanes));
    // SAFETY: the scratch has `scratch_elements` for each worker, the tensors the stated shapes.
    unsafe {
        let mut carve = Carve::new(f.scratch, f.scratch_elements, worker);
        let add_rows = carve.take(TOKENS * stride);
        let read_rows = carve.take(TOKENS * stride);
        let decay = carve.take(TOKENS * stride.max(tiles * lanes));
        let add_lanes = carve.take(TOKENS * tiles * lanes);
        let out = carve.take(TOKENS * tiles * lanes);
        let state = carve.take(padded * tiles * lanes);
        let first = x.state(sequence, head) + first_value;
        let matrix =
            Matrix { at: f.initial_state, rows: k, columns: width, row_stride: x.value_width, column_stride: 1 };
        let initial = if f.initial_state.is_null() { f.initial_state } else { f.initial_state.add(first) };
        read_state(Matrix { at: initial, ..matrix }, padded, lanes, state);
        let (start, end) = x.range(sequence);
        for at in (start..end).step_by(TOKENS) {
            let tokens = TOKENS.min(end - at);
            let o = x.output_rows(f.o, at, tokens, head).columns_mut(first_value, width);
            let k = x.key_rows(x.k, at, tokens, kv_head);
            let q = x.query_rows(x.q, at, tokens, head);
            let v = x.value_rows(x.v, at, tokens, kv_head).columns(first_value, width);
            let g = gate_rows(x, at, tokens, kv_head);
            split(s, k, stride, add_rows);
            split(s, q, stride, read_rows);
            scale(s, read_rows, tokens * stride, x.scale);
            split(s, v, lanes, add_lanes);
            let how = decay_by_rows(s, x, at, tokens, head, tiles, decay);
            let block = Block { tokens, slabs, tiles, stride, add_rows, add_lanes, read_rows, decay, out, state };
            let ahead = Ahead { rows: &[k, q, v, g, o.read()], distance: NEXT };
            sweep::<S, R, false>(s, &block, how, &ahead);
            join(s, out, lanes, o, false);
        }
        let last = Matrix {
            at: f.final_state.add(first),
            rows: k,
            columns: width,
            row_stride: x.value_width,
            column_stride: 1,
        };
        write_state(state, padded, lanes, last);
    }
}

/// The gates of a key head.
#[inline(always)]
fn gate_rows<E: Real>(x: &Inputs<E>, at: usize, tokens: usize, kv_head: usize) -> Rows<*const E> {
    match x.gate {
        GateKind::None => Rows { at: x.g, stride: 0, tokens: 0, width: 0 },
        GateKind::Head => {
            Rows { at: x.g.wrapping_add(at * x.kv_heads + kv_head), stride: x.kv_heads, tokens, width: 1 }
        }
        GateKind::Channel => x.key_rows(x.g, at, tokens, kv_head),
    }
}

/// Packs exp(g) where the state's rows are keys.
///
/// # Safety
/// The worker's scratch and what the task writes are its own.
#[inline(always)]
unsafe fn decay_by_rows<S: Simd>(
    s: S,
    x: &Inputs<S::E>,
    at: usize,
    tokens: usize,
    head: usize,
    tiles: usize,
    to: *mut S::E,
) -> Decay {
    // SAFETY: the caller's sizes.
    unsafe {
        match x.gate {
            GateKind::None => Decay::None,
            GateKind::Head => decay_by_lanes(s, x, at, tokens, head, 0, tiles * VECTORS * S::LANES, to),
            GateKind::Channel => {
                let stride = row_stride::<S>(x.key_width);
                split(s, x.key_rows(x.g, at, tokens, x.kv_head(head)), stride, to);
                exp(s, to, tokens * stride);
                Decay::Rows
            }
        }
    }
}

/// Packs exp(g) where the state's lanes are the keys `first..first + width` (or all share a gate).
///
/// # Safety
/// The worker's scratch and what the task writes are its own.
#[inline(always)]
unsafe fn decay_by_lanes<S: Simd>(
    s: S,
    x: &Inputs<S::E>,
    at: usize,
    tokens: usize,
    head: usize,
    first: usize,
    width: usize,
    to: *mut S::E,
) -> Decay {
    let (head, lanes) = (x.kv_head(head), VECTORS * S::LANES);
    let tiles = width.div_ceil(lanes);
    // SAFETY: the caller's sizes.
    unsafe {
        match x.gate {
            GateKind::None => return Decay::None,
            GateKind::Head => spread(x.g.add(at * x.kv_heads + head), x.kv_heads, tokens, tiles, lanes, to),
            GateKind::Channel => split(s, x.key_rows(x.g, at, tokens, head).columns(first, width), lanes, to),
        }
        exp(s, to, tokens * tiles * lanes);
    }
    Decay::Lanes
}

pub(super) fn backward<T: Real>(pool: &Pool, b: &Backward<T>) {
    let tasks = b.x.sequences * b.x.kv_heads * (key_tasks(&b.x) + value_tasks(&b.x));
    pool.run(tasks, |task, worker| T::dispatch(BackwardTask { b, task, worker }));
}

/// Tasks a head for `dq`, `dk`, `dg`: one if the keys share a gate, whose gradient sums over them.
fn key_tasks<T>(x: &Inputs<T>) -> usize {
    if x.gate == GateKind::Head { 1 } else { x.key_width.div_ceil(KEYS) }
}

/// Tasks a head for `dv`.
fn value_tasks<T>(x: &Inputs<T>) -> usize {
    x.value_width.div_ceil(VALUES)
}

struct BackwardTask<'a, T> {
    b: &'a Backward<T>,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for BackwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        // SAFETY: tasks are (sequence, key head, group of key or value lanes): what each writes is its own.
        unsafe { if slab::<S>() == 8 { self.slabs_of::<S, 8>(s) } else { self.slabs_of::<S, 4>(s) } }
    }
}

impl<T: Real> BackwardTask<'_, T> {
    /// # Safety
    /// No other task of this number runs, and no other task has this worker's scratch.
    #[inline(always)]
    unsafe fn slabs_of<S: Simd<E = T>, const R: usize>(self, s: S) {
        let (b, x) = (self.b, &self.b.x);
        let repeat = x.heads / x.kv_heads;
        // All tasks of a head one after the other, the longer first: they read the same rows.
        let per_head = key_tasks(x) + value_tasks(x);
        let (pair, task) = (self.task / per_head, self.task % per_head);
        let of_keys = task < key_tasks(x);
        let group = if of_keys { task } else { task - key_tasks(x) };
        let (sequence, kv_head) = (pair / x.kv_heads, pair % x.kv_heads);
        let heads = kv_head * repeat..(kv_head + 1) * repeat;
        let groups = if of_keys && x.gate == GateKind::Head { 0..x.key_width.div_ceil(KEYS) } else { group..group + 1 };
        for group in groups {
            for head in heads.clone() {
                // SAFETY: the caller's.
                unsafe {
                    if of_keys {
                        keys_task::<S, R>(s, b, sequence, head, group * KEYS, self.worker);
                    } else {
                        values_task::<S, R>(s, b, sequence, head, group * VALUES, self.worker);
                    }
                }
            }
        }
    }
}

/// dq by a forward sweep of Sᵀ, then dk by a backward sweep of dSᵀ, and dg from both.
///
/// # Safety
/// The worker's scratch and what the task writes are its own.
#[inline(always)]
unsafe fn keys_task<S: Simd, const R: usize>(
    s: S,
    b: &Backward<S::E>,
    sequence: usize,
    head: usize,
    first: usize,
    worker: usize,
) {
    let x = &b.x;
    let (v, width) = (x.value_width, KEYS.min(x.key_width - first));
    let (slabs, lanes, stride) = (v.div_ceil(R), VECTORS * S::LANES, row_stride::<S>(v));
    let (padded, tiles) = (slabs * R, width.div_ceil(lanes));
    let kv_head = x.kv_head(head);
    // The first head of a group writes, the others add.
    let add = !head.is_multiple_of(x.heads / x.kv_heads);
    // SAFETY: the scratch has `scratch_elements` for each worker, the tensors the stated shapes.
    unsafe {
        let mut carve = Carve::new(b.scratch, b.scratch_elements, worker);
        let values = carve.take(TOKENS * stride);
        let d_o = carve.take(TOKENS * stride);
        let key_lanes = carve.take(TOKENS * tiles * lanes);
        let query_lanes = carve.take(TOKENS * tiles * lanes);
        let decay = carve.take(TOKENS * tiles * lanes);
        let out = carve.take(TOKENS * tiles * lanes);
        let state = carve.take(padded * tiles * lanes);
        let at_state = x.state(sequence, head) + first * v;
        let matrix = Matrix { at: std::ptr::null(), rows: v, columns: width, row_stride: 1, column_stride: v };
        let offset = |p: *const S::E| if p.is_null() { p } else { p.add(at_state) };
        let (start, end) = x.range(sequence);

        read_state(Matrix { at: offset(b.initial_state), ..matrix }, padded, lanes, state);
        for at in (start..end).step_by(TOKENS) {
            let tokens = TOKENS.min(end - at);
            let v = x.value_rows(x.v, at, tokens, kv_head);
            let out_gradient = x.output_rows(b.d_o, at, tokens, head);
            let k = x.key_rows(x.k, at, tokens, kv_head).columns(first, width);
            split(s, v, stride, values);
            split(s, out_gradient, stride, d_o);
            split(s, k, lanes, key_lanes);
            let how = decay_by_lanes(s, x, at, tokens, head, first, width, decay);
            let dq = x.query_rows(b.dq, at, tokens, head).columns_mut(first, width);
            let block = Block {
                tokens,
                slabs,
                tiles,
                stride,
                add_rows: values,
                add_lanes: key_lanes,
                read_rows: d_o,
                decay,
                out,
                state,
            };
            let g = gate_rows(x, at, tokens, kv_head);
            let ahead = Ahead { rows: &[v, out_gradient, k, g, dq.read()], distance: NEXT };
            sweep::<S, R, false>(s, &block, how, &ahead);
            scale(s, out, tokens * tiles * lanes, x.scale);
            join(s, out, lanes, dq, false);
        }

        let final_gradient = Matrix { at: offset(b.d_final_state), ..matrix };
        let mut gate = GateSum::new(s);
        if !final_gradient.at.is_null() {
            let mut sum = [S::E::ZERO; KEYS];
            for (c, sum) in sum[..width].iter_mut().enumerate() {
                for row in 0..v {
                    let element = *state.add((c / lanes * padded + row) * lanes + c % lanes);
                    *sum += element * *final_gradient.at.add(row + c * v);
                }
            }
            for (i, sum) in sum.chunks_exact(S::LANES).enumerate() {
                gate.sum[i] = s.load(sum);
            }
        }
        read_state(final_gradient, padded, lanes, state);
        let blocks = (end - start).div_ceil(TOKENS);
        for block in (0..blocks).rev() {
            let at = start + block * TOKENS;
            let tokens = TOKENS.min(end - at);
            let v = x.value_rows(x.v, at, tokens, kv_head);
            let out_gradient = x.output_rows(b.d_o, at, tokens, head);
            let q = x.query_rows(x.q, at, tokens, head).columns(first, width);
            split(s, v, stride, values);
            split(s, out_gradient, stride, d_o);
            split(s, q, lanes, query_lanes);
            scale(s, query_lanes, tokens * tiles * lanes, x.scale);
            let how = decay_by_lanes(s, x, at, tokens, head, first, width, decay);
            let dk = x.key_rows(b.dk, at, tokens, kv_head).columns_mut(first, width);
            let block = Block {
                tokens,
                slabs,
                tiles,
                stride,
                add_rows: d_o,
                add_lanes: query_lanes,
                read_rows: values,
                decay,
                out,
                state,
            };
            let k = x.key_rows(x.k, at, tokens, kv_head).columns(first, width);
            let dq = x.query_rows(b.dq, at, tokens, head).columns_mut(first, width);
            let g = gate_rows(x, at, tokens, kv_head);
            let ahead = Ahead { rows: &[v, out_gradient, q, g, k, dq.read(), dk.read()], distance: -NEXT };
            sweep::<S, R, true>(s, &block, how, &ahead);
            if x.gate != GateKind::None {
                let rows = KeyRows { at, tokens, head, first, width };
                gate.add(s, b, &rows, out, add);
            }
            join(s, out, lanes, dk, add);
        }
        if !b.d_initial_state.is_null() {
            let to = Matrix {
                at: b.d_initial_state.add(at_state),
                rows: v,
                columns: width,
                row_stride: 1,
                column_stride: v,
            };
            write_state(state, padded, lanes, to);
        }
    }
}

/// Which keys of which tokens.
struct KeyRows {
    at: usize,
    tokens: usize,
    head: usize,
    first: usize,
    width: usize,
}

/// The sum behind dg. It runs over the whole sequence and its terms nearly cancel: Kahan's
/// compensation keeps its rounding from growing with T.
struct GateSum<V> {
    sum: [V; KEYS / MIN_LANES],
    lost: [V; KEYS / MIN_LANES],
}

/// Lanes of the narrowest vector.
const MIN_LANES: usize = 8;

impl<V: Copy> GateSum<V> {
    #[inline(always)]
    fn new<S: Simd<V = V>>(s: S) -> Self {
        GateSum { sum: [s.zero(); KEYS / MIN_LANES], lost: [s.zero(); KEYS / MIN_LANES] }
    }

    /// Adds q ⊙ dq − k ⊙ dk of each token, the last first, and writes (or adds) dg after each.
    ///
    /// # Safety
    /// `dk` holds the tokens' tiles; dq is written; the rows of dg are the task's own.
    #[inline(always)]
    unsafe fn add<S: Simd<V = V>>(&mut self, s: S, b: &Backward<S::E>, rows: &KeyRows, dk: *const S::E, add: bool)
    where
        V: crate::simd::Vector,
    {
        let (x, lanes) = (&b.x, VECTORS * S::LANES);
        let kv_head = x.kv_head(rows.head);
        for t in (0..rows.tokens).rev() {
            let token = rows.at + t;
            let mut total = S::E::ZERO;
            for column in (0..rows.width).step_by(S::LANES) {
                let i = column / S::LANES;
                let width = S::LANES.min(rows.width - column);
                // SAFETY: the caller's.
                unsafe {
                    let row = |p: *const S::E, heads: usize, head: usize| {
                        let at = (token * heads + head) * x.key_width + rows.first + column;
                        s.load_any(std::slice::from_raw_parts(p.add(at), width))
                    };
                    let (q, dq) = (row(x.q, x.heads, rows.head), row(b.dq, x.heads, rows.head));
                    let k = row(x.k, x.kv_heads, kv_head);
                    let dk = s.load_ptr(dk.add((column / lanes * rows.tokens + t) * lanes + column % lanes));
                    let term = s.fma(q, dq, -(k * dk)) - self.lost[i];
                    let sum = self.sum[i] + term;
                    self.lost[i] = (sum - self.sum[i]) - term;
                    self.sum[i] = sum;
                    if x.gate == GateKind::Head {
                        total += s.sum(sum);
                    } else {
                        let at = (token * x.kv_heads + kv_head) * x.key_width + rows.first + column;
                        let dg = std::slice::from_raw_parts_mut(b.dg.add(at), width);
                        s.store_any(if add { s.load_any(dg) + sum } else { sum }, dg);
                    }
                }
            }
            if x.gate == GateKind::Head {
                // SAFETY: the caller's.
                let dg = unsafe { &mut *b.dg.add(token * x.kv_heads + kv_head) };
                *dg = if add || rows.first > 0 { *dg + total } else { total };
            }
        }
    }
}

/// dv by a backward sweep of dS.
///
/// # Safety
/// The worker's scratch and what the task writes are its own.
#[inline(always)]
unsafe fn values_task<S: Simd, const R: usize>(
    s: S,
    b: &Backward<S::E>,
    sequence: usize,
    head: usize,
    first: usize,
    worker: usize,
) {
    let x = &b.x;
    let (k, width) = (x.key_width, VALUES.min(x.value_width - first));
    let (slabs, lanes, stride) = (k.div_ceil(R), VECTORS * S::LANES, row_stride::<S>(k));
    let (padded, tiles) = (slabs * R, width.div_ceil(lanes));
    let kv_head = x.kv_head(head);
    let add = !head.is_multiple_of(x.heads / x.kv_heads);
    // SAFETY: the scratch has `scratch_elements` for each worker, the tensors the stated shapes.
    unsafe {
        let mut carve = Carve::new(b.scratch, b.scratch_elements, worker);
        let add_rows = carve.take(TOKENS * stride);
        let read_rows = carve.take(TOKENS * stride);
        let decay = carve.take(TOKENS * stride.max(tiles * lanes));
        let add_lanes = carve.take(TOKENS * tiles * lanes);
        let out = carve.take(TOKENS * tiles * lanes);
        let state = carve.take(padded * tiles * lanes);
        let final_gradient = if b.d_final_state.is_null() {
            b.d_final_state
        } else {
            b.d_final_state.add(x.state(sequence, head) + first)
        };
        let matrix =
            Matrix { at: final_gradient, rows: k, columns: width, row_stride: x.value_width, column_stride: 1 };
        read_state(matrix, padded, lanes, state);
        let (start, end) = x.range(sequence);
        for block in (0..(end - start).div_ceil(TOKENS)).rev() {
            let at = start + block * TOKENS;
            let tokens = TOKENS.min(end - at);
            let q = x.query_rows(x.q, at, tokens, head);
            let k = x.key_rows(x.k, at, tokens, kv_head);
            let out_gradient = x.output_rows(b.d_o, at, tokens, head).columns(first, width);
            split(s, q, stride, add_rows);
            scale(s, add_rows, tokens * stride, x.scale);
            split(s, k, stride, read_rows);
            split(s, out_gradient, lanes, add_lanes);
            let how = decay_by_rows(s, x, at, tokens, head, tiles, decay);
            let dv = x.value_rows(b.dv, at, tokens, kv_head).columns_mut(first, width);
            let block = Block { tokens, slabs, tiles, stride, add_rows, add_lanes, read_rows, decay, out, state };
            let g = gate_rows(x, at, tokens, kv_head);
            let ahead = Ahead { rows: &[q, k, out_gradient, g, dv.read()], distance: -NEXT };
            sweep::<S, R, true>(s, &block, how, &ahead);
            join(s, out, lanes, dv, add);
        }
    }
}
