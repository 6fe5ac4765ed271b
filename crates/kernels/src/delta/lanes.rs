//! One token on some value lanes of a state: what the recurrent form and the step share, to the bit.
//!
//! With S̃ the decayed state, x = S̃ᵀ k and y = S̃ᵀ q: u = β (v − x), o = scale · (y + (q · k) u),
//! and S = S̃ + k uᵀ. Both reads are of the decayed state, so one pass over it is enough. Lanes are
//! independent and rows are summed in order: bits depend neither on how lanes are grouped nor on how
//! a sequence is cut.

use crate::Real;
use crate::gla::products::dot;
use crate::simd::Simd;

/// How a token's state decays.
#[derive(Clone, Copy)]
pub(super) enum Decay<'a, E> {
    /// It does not.
    None,
    /// All of it by one factor.
    All(E),
    /// Each row by its own.
    Rows(&'a [E]),
}

/// A token of a head.
#[derive(Clone, Copy)]
pub(super) struct Token<'a, E> {
    pub q: &'a [E],
    pub k: &'a [E],
    pub beta: E,
    pub scale: E,
    pub decay: Decay<'a, E>,
}

/// What a state still lacks of the last token: k uᵀ.
pub(super) struct Pending<'a, E, const V: usize, W> {
    pub k: &'a [E],
    pub u: [W; V],
}

/// Reads a state's rows of `lanes` lanes, `stride` elements apart: S̃ᵀ k and S̃ᵀ q of the decayed state S̃.
///
/// With a pending token the state is written, decayed; without, it is left as it is.
///
/// # Safety
/// `state` has a row for each key, of `V` whole vectors if `WHOLE`, else of `lanes` elements.
#[inline(always)]
pub(super) unsafe fn read<S: Simd, const V: usize, const WHOLE: bool>(
    s: S,
    state: *mut S::E,
    stride: usize,
    lanes: usize,
    token: &Token<'_, S::E>,
    pending: Option<&Pending<'_, S::E, V, S::V>>,
) -> [[S::V; V]; 2] {
    // SAFETY: the caller's. Each combination is a loop of its own.
    unsafe {
        match (token.decay, pending) {
            (Decay::None, None) => {
                rows::<S, V, WHOLE, false, NONE>(s, state, stride, lanes, token, &[], token.k, [s.zero(); V])
            }
            (Decay::All(a), None) => {
                rows::<S, V, WHOLE, false, ALL>(s, state, stride, lanes, token, &[a], token.k, [s.zero(); V])
            }
            (Decay::Rows(a), None) => {
                rows::<S, V, WHOLE, false, ROWS>(s, state, stride, lanes, token, a, token.k, [s.zero(); V])
            }
            (Decay::None, Some(p)) => rows::<S, V, WHOLE, true, NONE>(s, state, stride, lanes, token, &[], p.k, p.u),
            (Decay::All(a), Some(p)) => rows::<S, V, WHOLE, true, ALL>(s, state, stride, lanes, token, &[a], p.k, p.u),
            (Decay::Rows(a), Some(p)) => rows::<S, V, WHOLE, true, ROWS>(s, state, stride, lanes, token, a, p.k, p.u),
        }
    }
}

const NONE: u8 = 0;
const ALL: u8 = 1;
const ROWS: u8 = 2;

/// # Safety
/// As [`read`].
#[inline(always)]
unsafe fn rows<S: Simd, const V: usize, const WHOLE: bool, const PENDING: bool, const DECAY: u8>(
    s: S,
    state: *mut S::E,
    stride: usize,
    lanes: usize,
    token: &Token<'_, S::E>,
    decay: &[S::E],
    last_k: &[S::E],
    last_u: [S::V; V],
) -> [[S::V; V]; 2] {
    let keys = token.k.len();
    let (q, k, last_k) = (&token.q[..keys], &token.k[..keys], &last_k[..keys]);
    let decay = if DECAY == ROWS { &decay[..keys] } else { decay };
    let all = if DECAY == ALL { s.splat(decay[0]) } else { s.zero() };
    let (mut x, mut y) = ([s.zero(); V], [s.zero(); V]);
    for c in 0..keys {
        let a = if DECAY == ROWS { s.splat(decay[c]) } else { all };
        let (kc, qc, last) = (s.splat(k[c]), s.splat(q[c]), s.splat(last_k[c]));
        // SAFETY: the caller's.
        let row = unsafe { state.add(c * stride) };
        for j in 0..V {
            // SAFETY: the caller's.
            let mut element = unsafe { load::<S, WHOLE>(s, row, j, lanes) };
            if PENDING {
                element = s.fma(last, last_u[j], element);
            }
            if DECAY != NONE {
                element = element * a;
            }
            x[j] = s.fma(kc, element, x[j]);
            y[j] = s.fma(qc, element, y[j]);
            if PENDING {
                // SAFETY: the caller's.
                unsafe { store::<S, WHOLE>(s, element, row, j, lanes) };
            }
        }
    }
    [x, y]
}

/// Decays the state (unless it is already) and adds k uᵀ.
///
/// # Safety
/// As [`read`].
#[inline(always)]
pub(super) unsafe fn write<S: Simd, const V: usize, const WHOLE: bool>(
    s: S,
    state: *mut S::E,
    stride: usize,
    lanes: usize,
    k: &[S::E],
    decay: Decay<'_, S::E>,
    u: [S::V; V],
) {
    for (c, k) in k.iter().enumerate() {
        let k = s.splat(*k);
        let a = match decay {
            Decay::None => None,
            Decay::All(a) => Some(s.splat(a)),
            Decay::Rows(a) => Some(s.splat(a[c])),
        };
        // SAFETY: the caller's.
        unsafe {
            let row = state.add(c * stride);
            for (j, u) in u.iter().enumerate() {
                let mut element = load::<S, WHOLE>(s, row, j, lanes);
                if let Some(a) = a {
                    element = element * a;
                }
                store::<S, WHOLE>(s, s.fma(k, *u, element), row, j, lanes);
            }
        }
    }
}

/// From what a token reads: u and o.
#[inline(always)]
pub(super) fn finish<S: Simd, const V: usize>(
    s: S,
    token: &Token<'_, S::E>,
    [x, y]: [[S::V; V]; 2],
    v: [S::V; V],
) -> [[S::V; V]; 2] {
    let (beta, scale) = (s.splat(token.beta), s.splat(token.scale));
    let together = s.splat(dot(s, token.q, token.k));
    let u: [S::V; V] = std::array::from_fn(|j| beta * (v[j] - x[j]));
    [u, std::array::from_fn(|j| scale * s.fma(together, u[j], y[j]))]
}

/// Vector `j` of a row.
///
/// # Safety
/// As [`read`].
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const WHOLE: bool>(s: S, row: *const S::E, j: usize, lanes: usize) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        if WHOLE {
            return s.load_ptr(row.add(j * S::LANES));
        }
        let at = (j * S::LANES).min(lanes);
        s.load_any(std::slice::from_raw_parts(row.add(at), S::LANES.min(lanes - at)))
    }
}

/// The way back from [`load`].
///
/// # Safety
/// As [`read`].
#[inline(always)]
pub(super) unsafe fn store<S: Simd, const WHOLE: bool>(s: S, x: S::V, row: *mut S::E, j: usize, lanes: usize) {
    // SAFETY: the caller's.
    unsafe {
        if WHOLE {
            return s.store_ptr(x, row.add(j * S::LANES));
        }
        let at = (j * S::LANES).min(lanes);
        s.store_any(x, std::slice::from_raw_parts_mut(row.add(at), S::LANES.min(lanes - at)));
    }
}

/// exp of a row.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, g: &[S::E], to: &mut [S::E]) {
    for i in (0..g.len()).step_by(S::LANES) {
        let at = i..(i + S::LANES).min(g.len());
        s.store_any(s.exp(s.load_any(&g[at.clone()])), &mut to[at]);
    }
}

/// exp of one log-gate, with the bits of a row's.
#[inline(always)]
pub(super) fn exp_one<S: Simd>(s: S, g: S::E) -> S::E {
    let mut a = [S::E::ZERO];
    s.store_any(s.exp(s.splat(g)), &mut a);
    a[0]
}
