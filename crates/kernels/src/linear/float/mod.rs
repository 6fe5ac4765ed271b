//! Float weights: F32 and F16 times f32, BF16 times x rounded to bf16.
//!
//! x is a row of words: f32 bits, or pairs of bf16. Each word is one term: a fused multiply-add, or (BF16) what
//! `vdpbf16ps` does with a pair. F32 has one chain of terms over ascending k, as dense products have. F16 and BF16 have
//! sixteen for each slice of 2048 words, chain `c` over words `c`, `c + 16`, …, and the sum of the chains in order: so
//! that one row of x can meet a row of weights as it lies ([`lanes`]), and many rows columns side by side ([`tile`]).

mod chain;
mod lanes;
mod tile;

pub(super) use chain::columns;
pub(super) use lanes::columns as lane_columns;
pub(super) use tile::{STRIDE, Slice, TILE_BYTES, fill, rows};

use super::lanes::{Lanes, MAX_LANES, Rows};
use super::prefetch::Prefetch;

/// Words of x in a slice of the reduction: a tile of two vectors stays in the second cache level.
pub(super) const SLICE_WORDS: usize = 2048;

/// Chains of a slice, if there is more than one.
pub(super) const CHAINS: usize = 16;

/// Words of chain `c` of a slice of `words`.
#[inline(always)]
fn chain_len(words: usize, c: usize) -> usize {
    (words + CHAINS - 1 - c) / CHAINS
}

/// Where chain `c` begins if the chains of a slice of `words` lie one after the other.
#[inline(always)]
fn chain_start(words: usize, c: usize) -> usize {
    c * (words / CHAINS) + c.min(words % CHAINS)
}

/// Puts the chains of a slice one after the other.
pub(super) fn chain_by_chain(words: &[u32], to: &mut [u32]) {
    let (whole, rest) = words.as_chunks::<CHAINS>();
    let len = words.len();
    for (at, sixteen) in whole.as_chunks::<8>().0.iter().enumerate() {
        // A vector's length of a chain at a time.
        for c in 0..CHAINS {
            let some: [u32; 8] = std::array::from_fn(|i| sixteen[i][c]);
            to[chain_start(len, c) + 8 * at..][..8].copy_from_slice(&some);
        }
    }
    let done = whole.len() / 8 * 8;
    for c in 0..CHAINS {
        let end = whole[done..].iter().map(|sixteen| sixteen[c]).chain(rest.get(c).copied());
        for (to, word) in to[chain_start(len, c) + done..].iter_mut().zip(end) {
            *to = word;
        }
    }
}

/// A float format as words to multiply with the words of x.
pub(super) trait FloatFormat: 'static {
    /// Whether a word of x is a pair of bf16.
    const PAIRS: bool;
    /// Words of x for 32 bytes of weights.
    const WORDS: usize;
    /// Chains of a slice: 1 or [`CHAINS`].
    const CHAINS: usize;

    /// A vector's length of words of one row, from `at` on.
    ///
    /// # Safety
    /// The processor has the instruction set; the words are there.
    unsafe fn neighbours<L: Lanes>(at: *const u8) -> L::V;

    /// The weights of 32 bytes a row: the sink gets word `first` and those after it.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], first: usize, sink: &mut impl Sink<L>);
}

/// What is done with words of weights. (A trait and not a closure, because closures cannot be made
/// to be inlined.)
pub(super) trait Sink<L: Lanes> {
    /// Takes word `k` of each row.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn word(&mut self, k: usize, w: L::V);
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl FloatFormat for F32 {
    const PAIRS: bool = false;
    const WORDS: usize = 8;
    const CHAINS: usize = 1;

    #[inline(always)]
    unsafe fn neighbours<L: Lanes>(at: *const u8) -> L::V {
        // SAFETY: as the caller promises.
        unsafe { L::load(at) }
    }

    #[inline(always)]
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], first: usize, sink: &mut impl Sink<L>) {
        for (i, w) in stored.into_iter().enumerate() {
            // SAFETY: the caller promises the instruction set.
            unsafe { sink.word(first + i, w) };
        }
    }
}

impl FloatFormat for F16 {
    const PAIRS: bool = false;
    const WORDS: usize = 16;
    const CHAINS: usize = CHAINS;

    #[inline(always)]
    unsafe fn neighbours<L: Lanes>(at: *const u8) -> L::V {
        // SAFETY: as the caller promises.
        unsafe { L::as_v(L::load_halves(at)) }
    }

    #[inline(always)]
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], first: usize, sink: &mut impl Sink<L>) {
        for (i, w) in stored.into_iter().enumerate() {
            // SAFETY: the caller promises the instruction set.
            unsafe {
                let (low, high) = L::halves(w);
                sink.word(first + 2 * i, L::as_v(low));
                sink.word(first + 2 * i + 1, L::as_v(high));
            }
        }
    }
}

impl FloatFormat for BF16 {
    const PAIRS: bool = true;
    const WORDS: usize = 8;
    const CHAINS: usize = CHAINS;

    #[inline(always)]
    unsafe fn neighbours<L: Lanes>(at: *const u8) -> L::V {
        // SAFETY: as the caller promises.
        unsafe { L::load(at) }
    }

    #[inline(always)]
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], first: usize, sink: &mut impl Sink<L>) {
        // SAFETY: the caller promises the instruction set.
        unsafe { F32::expand::<L>(stored, first, sink) };
    }
}

/// `acc` + one term.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn term<L: Lanes, const PAIRS: bool>(acc: L::F, w: L::V, x: L::V) -> L::F {
    // SAFETY: the caller promises the instruction set.
    unsafe { if PAIRS { L::dot_bf16(acc, w, x) } else { L::fma(L::as_f(w), L::as_f(x), acc) } }
}

/// The words `begin..end` of a vector of rows, in order: the sink gets them.
///
/// # Safety
/// The processor has the instruction set; the rows hold `row_bytes` bytes; `begin` is a multiple of
/// `WORDS`, `end` too or the last word.
#[inline(always)]
unsafe fn words<L: Lanes, F: FloatFormat>(
    rows: &Rows,
    row_bytes: usize,
    begin: usize,
    end: usize,
    mut prefetch: Option<&mut Prefetch>,
    sink: &mut impl Sink<L>,
) {
    let mut k = begin;
    // SAFETY: as the caller promises; the last, partial 32 bytes are copied out before they are read.
    unsafe {
        while k + F::WORDS <= end && (k / F::WORDS + 1) * 32 <= row_bytes {
            if let Some(prefetch) = &mut prefetch {
                prefetch.bytes::<L>(L::LANES * 32);
            }
            F::expand::<L>(L::gather32(rows, k / F::WORDS * 32), k, sink);
            k += F::WORDS;
        }
        if k < end {
            let at = k / F::WORDS * 32;
            let mut tail = [[0u8; 32]; MAX_LANES];
            let mut copies = *rows;
            for (copy, tail) in copies.0.iter_mut().zip(&mut tail).take(L::LANES) {
                std::ptr::copy_nonoverlapping(copy.add(at), tail.as_mut_ptr(), row_bytes - at);
                *copy = tail.as_ptr();
            }
            F::expand::<L>(L::gather32(&copies, 0), k, &mut Until { end, sink });
        }
    }
}

/// Passes on the words below `end`.
struct Until<'a, S> {
    end: usize,
    sink: &'a mut S,
}

impl<L: Lanes, S: Sink<L>> Sink<L> for Until<'_, S> {
    #[inline(always)]
    unsafe fn word(&mut self, k: usize, w: L::V) {
        if k < self.end {
            // SAFETY: the maker of this promises the instruction set.
            unsafe { self.sink.word(k, w) };
        }
    }
}
