//! Float weights: F32 and F16 times f32; BF16 and blocks of small floats times x rounded to bf16.
//!
//! x is a row of words: f32 bits, or pairs of bf16. Each word is one term of a chain over k in
//! ascending order: a fused multiply-add, or (BF16) what `vdpbf16ps` does with a pair. Blocks of small floats have a
//! chain of their own for each part of 32 weights, from 0 on, which goes times the scale into the chain over parts. Two parts are
//! summed at a time: one chain alone would wait for its own additions.

use super::lanes::{Lanes, MAX_LANES, Rows};
use super::prefetch::{Pieces, Prefetch};
use super::tile::VECTORS;
use std::marker::PhantomData;

/// Items of a tile, which stays in the second cache level: words of x in a slice, and scales.
const SLICE_WORDS: usize = 2048;

/// Bytes of the largest tile on any instruction set.
pub(super) const TILE_BYTES: usize = SLICE_WORDS * VECTORS * MAX_LANES * 4;

/// A float format as words to multiply with the words of x.
pub(super) trait FloatFormat: 'static {
    /// Whether a word of x is a pair of bf16.
    const PAIRS: bool;
    /// Words of x that go with [`FloatFormat::BYTES`] bytes of weights.
    const WORDS: usize;
    /// Bytes of weights that are unpacked together.
    const BYTES: usize = 32;
    /// Words that share a scale, a divisor of `WORDS`; 0: there are no scales.
    const PART: usize = 0;
    /// Words of x in a slice of the reduction: whole `WORDS`, whose tile with the scales has room.
    const SLICE_WORDS: usize = if Self::PART == 0 {
        SLICE_WORDS
    } else {
        SLICE_WORDS * Self::PART / (Self::PART + 1) / Self::WORDS * Self::WORDS
    };

    /// The weights of `BYTES` bytes a row, moved by `at`: the sink gets word `first` and those after it, and behind each part
    /// its scale.
    ///
    /// # Safety
    /// The processor has the instruction set; the rows have the bytes.
    unsafe fn unpack<L: Lanes>(rows: &Rows, at: usize, first: usize, sink: &mut impl Sink<L>);
}

/// What is done with words of weights. (A trait and not a closure, because closures cannot be made
/// to be inlined.)
pub(super) trait Sink<L: Lanes> {
    /// Takes word `k` of each row, which belongs to the first (0) or the second (1) of the parts in work.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn word(&mut self, k: usize, part: usize, w: L::V);

    /// Takes the scale of that part, which ends before word `k`; of the first part first.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn scale(&mut self, k: usize, part: usize, d: L::F);
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl FloatFormat for F32 {
    const PAIRS: bool = false;
    const WORDS: usize = 8;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, at: usize, first: usize, sink: &mut impl Sink<L>) {
        // SAFETY: as the caller promises.
        unsafe {
            for (i, w) in L::gather32(rows, at).into_iter().enumerate() {
                sink.word(first + i, 0, w);
            }
        }
    }
}

impl FloatFormat for F16 {
    const PAIRS: bool = false;
    const WORDS: usize = 16;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, at: usize, first: usize, sink: &mut impl Sink<L>) {
        // SAFETY: as the caller promises.
        unsafe {
            for (i, w) in L::gather32(rows, at).into_iter().enumerate() {
                let (low, high) = L::halves(w);
                sink.word(first + 2 * i, 0, L::as_v(low));
                sink.word(first + 2 * i + 1, 0, L::as_v(high));
            }
        }
    }
}

impl FloatFormat for BF16 {
    const PAIRS: bool = true;
    const WORDS: usize = 8;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, at: usize, first: usize, sink: &mut impl Sink<L>) {
        // SAFETY: as the caller promises.
        unsafe { F32::unpack::<L>(rows, at, first, sink) };
    }
}

/// `acc` + one term.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn term<L: Lanes, const PAIRS: bool>(acc: L::F, w: L::V, x: u32) -> L::F {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        if PAIRS { L::dot_bf16(acc, w, x as i32) } else { L::fma(L::as_f(w), L::splat_f(f32::from_bits(x)), acc) }
    }
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
    // SAFETY: as the caller promises; the last, partial 32 bytes are copied out before they are read (blocks are
    // always whole).
    unsafe {
        while k + F::WORDS <= end && (k / F::WORDS + 1) * F::BYTES <= row_bytes {
            if let Some(prefetch) = &mut prefetch {
                prefetch.bytes::<L>(L::LANES * F::BYTES);
            }
            F::unpack::<L>(rows, k / F::WORDS * F::BYTES, k, sink);
            k += F::WORDS;
        }
        if k < end {
            let at = k / F::WORDS * F::BYTES;
            let mut tail = [[0u8; 32]; MAX_LANES];
            let mut copies = *rows;
            for (copy, tail) in copies.0.iter_mut().zip(&mut tail).take(L::LANES) {
                std::ptr::copy_nonoverlapping(copy.add(at), tail.as_mut_ptr(), row_bytes - at);
                *copy = tail.as_ptr();
            }
            F::unpack::<L>(&copies, 0, k, &mut Until { end, sink });
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
    unsafe fn word(&mut self, k: usize, part: usize, w: L::V) {
        if k < self.end {
            // SAFETY: the maker of this promises the instruction set.
            unsafe { self.sink.word(k, part, w) };
        }
    }

    #[inline(always)]
    unsafe fn scale(&mut self, k: usize, part: usize, d: L::F) {
        // SAFETY: as above.
        unsafe { self.sink.scale(k, part, d) };
    }
}

/// Outputs so far, and the words of x.
struct Sums<L: Lanes, F, const R: usize> {
    acc: [L::F; R],
    /// Sums of the parts in work, if there are parts.
    parts: [[L::F; R]; 2],
    x: *const u32,
    stride: usize,
    format: PhantomData<F>,
}

impl<L: Lanes, F: FloatFormat, const R: usize> Sink<L> for Sums<L, F, R> {
    #[inline(always)]
    unsafe fn word(&mut self, k: usize, part: usize, w: L::V) {
        for r in 0..R {
            // SAFETY: the maker of this promises the instruction set and the lengths.
            unsafe {
                let x = *self.x.add(r * self.stride + k);
                let sum = if F::PART > 0 { &mut self.parts[part][r] } else { &mut self.acc[r] };
                *sum = if F::PAIRS { term::<L, true>(*sum, w, x) } else { term::<L, false>(*sum, w, x) };
            }
        }
    }

    #[inline(always)]
    unsafe fn scale(&mut self, _: usize, part: usize, d: L::F) {
        for r in 0..R {
            // SAFETY: as above.
            unsafe {
                self.acc[r] = L::fma(self.parts[part][r], d, self.acc[r]);
                self.parts[part][r] = L::splat_f(0.0);
            }
        }
    }
}

/// Outputs of `R` rows of x, `words_in_row` words apart, for the weight rows of one vector.
///
/// # Safety
/// The processor has the instruction set; rows and x have the lengths given.
#[inline(always)]
pub(super) unsafe fn columns<L: Lanes, F: FloatFormat, const R: usize>(
    rows: &Rows,
    row_bytes: usize,
    x: *const u32,
    words_in_row: usize,
    prefetch: &mut Prefetch,
) -> [L::F; R] {
    // SAFETY: as the caller promises.
    unsafe {
        let zero = [L::splat_f(0.0); R];
        let mut sums = Sums::<L, F, R> { acc: zero, parts: [zero; 2], x, stride: words_in_row, format: PhantomData };
        words::<L, F>(rows, row_bytes, 0, words_in_row, Some(prefetch), &mut sums);
        sums.acc
    }
}

/// Items of a tile before word `k` of it: words, and the scales of parts, if there are any.
const fn items(part: usize, k: usize) -> usize {
    match k.checked_div(part) {
        Some(scales) => k + scales,
        None => k,
    }
}

/// Unpacks words `begin..end` of one vector of rows into vector `v` of a tile `[word][vector]`, each part's scale behind it.
///
/// # Safety
/// As [`words`]; the tile has room.
#[inline(always)]
pub(super) unsafe fn fill<L: Lanes, F: FloatFormat>(
    rows: &Rows,
    row_bytes: usize,
    begin: usize,
    end: usize,
    tile: *mut u8,
    v: usize,
) {
    let vector = L::LANES * 4;
    // SAFETY: as the caller promises.
    unsafe {
        let to = &mut Fill::<F> { at: tile.add(v * vector), begin, format: PhantomData };
        words::<L, F>(rows, row_bytes, begin, end, None, to);
    }
}

/// Where word `begin` goes.
struct Fill<F> {
    at: *mut u8,
    begin: usize,
    format: PhantomData<F>,
}

impl<L: Lanes, F: FloatFormat> Sink<L> for Fill<F> {
    #[inline(always)]
    unsafe fn word(&mut self, k: usize, _: usize, w: L::V) {
        // SAFETY: the maker of this promises the instruction set and the room.
        unsafe { L::store(w, self.at.add(items(F::PART, k - self.begin) * VECTORS * L::LANES * 4)) };
    }

    #[inline(always)]
    unsafe fn scale(&mut self, k: usize, _: usize, d: L::F) {
        // SAFETY: as above; word `k` is behind the scale.
        unsafe { L::store_f(d, self.at.add((items(F::PART, k - self.begin) - 1) * VECTORS * L::LANES * 4)) };
    }
}

/// What a slice of rows needs.
pub(super) struct Slice {
    /// The unpacked weights.
    pub tile: *const u8,
    /// Words in the tile.
    pub words: usize,
    /// First word of row 0 in this slice; rows `x_stride` words apart.
    pub x: *const u32,
    /// Words from one row of x to the next.
    pub x_stride: usize,
    /// Output of row 0 in the first column; rows `y_stride` values apart.
    pub y: *mut f32,
    /// Values from one row of y to the next.
    pub y_stride: usize,
    /// Columns that exist.
    pub columns: usize,
    /// True in the first slice, whose sums begin with 0; later ones go on from y.
    pub begin: bool,
}

/// Words between two looks at what to ask for.
pub(super) const STRIDE: usize = 8;

/// Adds the slice to `R` rows of y, asking for `lines` lines of the next slice with every 8 words.
///
/// # Safety
/// The processor has the instruction set; the slice's pointers hold `R` rows.
#[inline(always)]
pub(super) unsafe fn rows<L: Lanes, const PAIRS: bool, const PART: usize, const R: usize>(
    slice: &Slice,
    row: usize,
    next: &mut Pieces,
    lines: usize,
) {
    let vector = L::LANES * 4;
    let part = |v: usize| slice.columns.saturating_sub(v * L::LANES).min(L::LANES);
    // SAFETY: as the caller promises.
    unsafe {
        let x = slice.x.add(row * slice.x_stride);
        let y = slice.y.add(row * slice.y_stride);
        let mut acc = [[L::splat_f(0.0); VECTORS]; R];
        if !slice.begin {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = L::load_part(y.add(r * slice.y_stride + v * L::LANES), part(v));
                }
            }
        }
        let part_words = if PART == 0 { slice.words } else { PART };
        for begin in (0..slice.words).step_by(part_words.max(1)) {
            let mut sums = if PART == 0 { acc } else { [[L::splat_f(0.0); VECTORS]; R] };
            for k in begin..begin + part_words {
                if k % STRIDE == 0 {
                    next.ask::<L>(lines);
                }
                let at = slice.tile.add(items(PART, k) * VECTORS * vector);
                let w: [L::V; VECTORS] = [L::load(at), L::load(at.add(vector))];
                for (r, sum) in sums.iter_mut().enumerate() {
                    let word = *x.add(r * slice.x_stride + k);
                    for v in 0..VECTORS {
                        sum[v] = term::<L, PAIRS>(sum[v], w[v], word);
                    }
                }
            }
            if PART == 0 {
                acc = sums;
                continue;
            }
            let at = slice.tile.add((items(PART, begin + PART) - 1) * VECTORS * vector);
            let d = [L::load_f(at), L::load_f(at.add(vector))];
            for (acc, sum) in acc.iter_mut().zip(sums) {
                for v in 0..VECTORS {
                    acc[v] = L::fma(sum[v], d[v], acc[v]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                L::store_part(acc, y.add(r * slice.y_stride + v * L::LANES), part(v));
            }
        }
    }
}
