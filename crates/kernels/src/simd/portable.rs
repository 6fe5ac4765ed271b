//! Vectors as arrays, in plain Rust: the oracle of the other instruction sets, and the path of f64.

use super::{Simd, Vector};
use crate::Real;
use half::bf16;
use std::marker::PhantomData;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Lanes of the portable vector.
const LANES: usize = 8;

/// The token of plain Rust.
#[derive(Clone, Copy)]
pub struct Portable<T>(PhantomData<T>);

impl<T> Portable<T> {
    pub(super) fn new() -> Self {
        Portable(PhantomData)
    }
}

/// A vector as an array.
#[derive(Clone, Copy)]
pub struct Lanes<T>([T; LANES]);

/// An array by index; unlike `std::array::from_fn`, always inlined.
#[inline(always)]
fn each<T: bytemuck::Zeroable + Copy>(f: impl Fn(usize) -> T) -> [T; LANES] {
    let mut x = [T::zeroed(); LANES];
    let mut i = 0;
    while i < LANES {
        x[i] = f(i);
        i += 1;
    }
    x
}

macro_rules! operator {
    ($trait:ident, $method:ident, $op:tt) => {
        impl<T: Real> $trait for Lanes<T> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, o: Self) -> Self {
                Lanes(each(|i| self.0[i] $op o.0[i]))
            }
        }
    };
}
operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);
operator!(Div, div, /);

impl<T: Real> Neg for Lanes<T> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Lanes(each(|i| -self.0[i]))
    }
}

impl<T: Real> Vector for Lanes<T> {}

impl<T: Real> Simd for Portable<T> {
    type E = T;
    type V = Lanes<T>;
    type M = [bool; LANES];
    type P = [u32; LANES];
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: T) -> Lanes<T> {
        Lanes([x; LANES])
    }
    #[inline(always)]
    fn load(self, x: &[T]) -> Lanes<T> {
        let x = &x[..LANES];
        Lanes(each(|i| x[i]))
    }
    #[inline(always)]
    fn load_part(self, x: &[T]) -> Lanes<T> {
        assert!(x.len() <= LANES);
        Lanes(each(|i| if i < x.len() { x[i] } else { T::ZERO }))
    }
    #[inline(always)]
    fn store(self, v: Lanes<T>, x: &mut [T]) {
        x[..LANES].copy_from_slice(&v.0);
    }
    #[inline(always)]
    fn store_part(self, v: Lanes<T>, x: &mut [T]) {
        let n = x.len();
        x.copy_from_slice(&v.0[..n]);
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const T) -> Lanes<T> {
        // SAFETY: the caller's.
        unsafe { x.cast::<Lanes<T>>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: Lanes<T>, x: *mut T) {
        // SAFETY: the caller's.
        unsafe { x.cast::<Lanes<T>>().write_unaligned(v) }
    }
    #[inline(always)]
    fn fma(self, a: Lanes<T>, b: Lanes<T>, c: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| a.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn max(self, a: Lanes<T>, b: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn min(self, a: Lanes<T>, b: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| if a.0[i] < b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn sqrt(self, v: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| v.0[i].sqrt()))
    }
    #[inline(always)]
    fn abs(self, v: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| v.0[i].abs()))
    }
    #[inline(always)]
    fn lt(self, a: Lanes<T>, b: Lanes<T>) -> [bool; LANES] {
        each(|i| a.0[i] < b.0[i])
    }
    #[inline(always)]
    fn select(self, m: [bool; LANES], a: Lanes<T>, b: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| if m[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn first(self, n: usize) -> [bool; LANES] {
        each(|i| i < n)
    }
    #[inline(always)]
    fn sum(self, v: Lanes<T>) -> T {
        let [a, b, c, d, e, f, g, h] = v.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    #[inline(always)]
    fn reduce_max(self, v: Lanes<T>) -> T {
        v.0.into_iter().fold(T::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
    #[inline(always)]
    fn exp(self, v: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| v.0[i].exp()))
    }
    #[inline(always)]
    fn ln(self, v: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| v.0[i].ln()))
    }
    #[inline(always)]
    fn ln_1p(self, v: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| v.0[i].ln_1p()))
    }
    #[inline(always)]
    fn tanh(self, v: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| v.0[i].tanh()))
    }
    #[inline(always)]
    fn erf(self, v: Lanes<T>) -> Lanes<T> {
        Lanes(each(|i| v.0[i].erf()))
    }
    #[inline(always)]
    fn transpose(self, v: &mut [Lanes<T>; 16]) {
        let from = *v;
        for (i, row) in v.iter_mut().take(LANES).enumerate() {
            *row = Lanes(each(|j| from[j].0[i]));
        }
    }
    #[inline(always)]
    fn transpose_pairs(self, v: &mut [[u32; LANES]; 16]) {
        let from = *v;
        for (i, row) in v.iter_mut().take(LANES).enumerate() {
            *row = each(|j| from[j][i]);
        }
    }
    #[inline(always)]
    fn zero_pairs(self) -> [u32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    fn splat_pair(self, x: u32) -> [u32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_pairs(self, x: *const u32) -> [u32; LANES] {
        // SAFETY: the caller's.
        unsafe { x.cast::<[u32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    fn store_pairs(self, v: [u32; LANES], x: &mut [u32]) {
        let n = x.len();
        x.copy_from_slice(&v[..n]);
    }
    #[inline(always)]
    fn round_pairs(self, even: Lanes<T>, odd: Lanes<T>) -> [u32; LANES] {
        each(|i| pair(even.0[i], odd.0[i]))
    }
    #[inline(always)]
    fn round_neighbours(self, first: Lanes<T>, second: Lanes<T>) -> [u32; LANES] {
        each(|i| {
            let half = if 2 * i < LANES { &first.0 } else { &second.0 };
            pair(half[2 * i % LANES], half[2 * i % LANES + 1])
        })
    }
    #[inline(always)]
    fn dot_bytes(self, a: [u32; LANES], b: [u32; LANES], c: [u32; LANES]) -> [u32; LANES] {
        each(|i| {
            let products = a[i].to_le_bytes().into_iter().zip(b[i].to_le_bytes());
            products.fold(c[i], |sum, (a, b)| sum.wrapping_add((a as i32 * b as i8 as i32) as u32))
        })
    }
    #[inline(always)]
    fn dot_pairs(self, a: [u32; LANES], b: [u32; LANES], c: Lanes<T>) -> Lanes<T> {
        let element = |x: u32| T::of(f32::from_bits(x) as f64);
        Lanes(each(|i| {
            let sum = element(a[i] << 16).mul_add(element(b[i] << 16), c.0[i]);
            element(a[i] & 0xffff_0000).mul_add(element(b[i] & 0xffff_0000), sum)
        }))
    }
}

#[inline(always)]
fn pair<T: Real>(low: T, high: T) -> u32 {
    round_to_bf16(low.f64()) | round_to_bf16(high.f64()) << 16
}

/// Through f32 rounded to odd, so that rounding twice is rounding once. (`bf16::from_f64` does not
/// look at the lower half of the mantissa, so it misses values just above a tie.)
#[inline(always)]
fn round_to_bf16(x: f64) -> u32 {
    let nearest = x as f32;
    let exact = nearest as f64 == x || x.is_nan();
    let toward_zero = nearest.to_bits() - ((nearest as f64).abs() > x.abs()) as u32;
    let odd = if exact { nearest } else { f32::from_bits(toward_zero | 1) };
    bf16::from_f32(odd).to_bits() as u32
}
