//! TQ1_0: 54 bytes for 256 weights: 48 bytes of five trits, 4 bytes of four, `d` f16; zero at 1. A byte is the fraction that its
//! trits are: three times it has the next trit above the byte and the rest in it.

use super::{BlockFormat, End, NONE, Sink, Unpacked};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Tq1_0;

/// Four bytes of trits not yet read, with room above each byte: bytes 0 and 2, bytes 1 and 3.
#[derive(Clone, Copy)]
struct Trits<L: Lanes>([L::V; 2]);

impl<L: Lanes> Trits<L> {
    /// # Safety
    /// The processor has the instruction set; so for the other function.
    #[inline(always)]
    unsafe fn new(bytes: L::V) -> Trits<L> {
        // SAFETY: as the caller promises.
        unsafe { Trits([L::and(bytes, L::splat(0x00ff_00ff)), L::and(L::shr::<8>(bytes), L::splat(0x00ff_00ff))]) }
    }

    /// The next trit of each byte.
    #[inline(always)]
    unsafe fn next(&mut self) -> L::V {
        // SAFETY: as the caller promises.
        unsafe {
            let [even, odd] = &mut self.0;
            *even = L::add(*even, L::add(*even, *even));
            *odd = L::add(*odd, L::add(*odd, *odd));
            let trits = L::or(L::and(L::shr::<8>(*even), L::splat(0x0003_0003)), L::and(*odd, L::splat(0x0300_0300)));
            (*even, *odd) = (L::and(*even, L::splat(0x00ff_00ff)), L::and(*odd, L::splat(0x00ff_00ff)));
            trits
        }
    }
}

/// The next trits of as many words.
#[inline(always)]
unsafe fn next<L: Lanes, const N: usize>(words: &mut [Trits<L>; N]) -> [L::V; N] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut trits = [L::splat(0); N];
        for (trits, word) in trits.iter_mut().zip(words) {
            *trits = word.next();
        }
        trits
    }
}

impl BlockFormat for Tq1_0 {
    const DTYPE: Dtype = Dtype::TQ1_0;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 1;
    const SCALES: u8 = NONE;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 54;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at + 52));
            let bytes = L::gather32(rows, at);
            let mut words = [Trits::<L>::new(bytes[0]); 8];
            for (word, bytes) in words.iter_mut().zip(bytes) {
                *word = Trits::new(bytes);
            }
            for i in 0..5 {
                sink.part(i, Unpacked::plain(next(&mut words)));
            }
            let bytes = L::gather16(rows, at + 32);
            let mut words = [Trits::<L>::new(bytes[0]); 4];
            for (word, bytes) in words.iter_mut().zip(bytes) {
                *word = Trits::new(bytes);
            }
            for i in 5..7 {
                let ([a, b, c, d], [e, f, g, h]) = (next(&mut words), next(&mut words));
                sink.part(i, Unpacked::plain([a, b, c, d, e, f, g, h]));
            }
            let [a, b, c, d4] = next(&mut words);
            let mut last = [Trits::<L>::new(L::gather4(rows, at + 48))];
            let ([e], [f], [g], [h]) = (next(&mut last), next(&mut last), next(&mut last), next(&mut last));
            sink.part(7, Unpacked::plain([a, b, c, d4, e, f, g, h]));
            sink.end(End::plain(d, d));
        }
    }
}
