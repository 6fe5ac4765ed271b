//! One lane in plain Rust.

use super::lanes::{HalfTable, Lanes, Rows};
use half::f16;

/// One weight row at a time.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

#[inline(always)]
fn bf16_low(v: u32) -> f32 {
    flush(f32::from_bits(v << 16))
}

#[inline(always)]
fn bf16_high(v: u32) -> f32 {
    flush(f32::from_bits(v & 0xffff_0000))
}

impl Lanes for Portable {
    type V = u32;
    type F = f32;
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: i32) -> u32 {
        x as u32
    }
    #[inline(always)]
    unsafe fn splat_f(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn add(a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    unsafe fn sub(a: u32, b: u32) -> u32 {
        a.wrapping_sub(b)
    }
    #[inline(always)]
    unsafe fn times(a: u32, b: u32) -> u32 {
        a.wrapping_mul(b)
    }
    #[inline(always)]
    unsafe fn and(a: u32, b: u32) -> u32 {
        a & b
    }
    #[inline(always)]
    unsafe fn or(a: u32, b: u32) -> u32 {
        a | b
    }
    #[inline(always)]
    unsafe fn xor(a: u32, b: u32) -> u32 {
        a ^ b
    }
    #[inline(always)]
    unsafe fn select<const MASK: i32>(a: u32, b: u32) -> u32 {
        a & MASK as u32 | b & !MASK as u32
    }
    #[inline(always)]
    unsafe fn shl<const BITS: u32>(a: u32) -> u32 {
        a << BITS
    }
    #[inline(always)]
    unsafe fn shr<const BITS: u32>(a: u32) -> u32 {
        a >> BITS
    }
    #[inline(always)]
    unsafe fn sar<const BITS: u32>(a: u32) -> u32 {
        (a as i32 >> BITS) as u32
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: u32) -> u32 {
        u32::from_le_bytes(a.to_le_bytes().map(|b| table[usize::from(b & 15)]))
    }
    #[inline(always)]
    unsafe fn lookup_halves(table: &HalfTable, a: u32) -> u32 {
        let entry = |half: u32| u32::from(table.halves[(half & 63) as usize]);
        entry(a) | entry(a >> 16) << 16
    }
    #[inline(always)]
    unsafe fn spread_to_bit_4(a: u32) -> u32 {
        a << 4 & 0x10 | a << 11 & 0x1000 | a << 18 & 0x10_0000 | a << 25 & 0x1000_0000
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: u32, codes: u32, x: i32) -> u32 {
        let (c, x) = (codes.to_le_bytes(), x.to_le_bytes());
        let sum: i32 = (0..4).map(|i| i32::from(c[i]) * i32::from(x[i] as i8)).sum();
        acc.wrapping_add(sum as u32)
    }
    #[inline(always)]
    unsafe fn dot_halves(acc: u32, w: u32, x: i32) -> u32 {
        let low = i32::from(w as i16) * i32::from(x as i16);
        let high = ((w as i32) >> 16) * (x >> 16);
        acc.wrapping_add_signed(low).wrapping_add_signed(high)
    }
    #[inline(always)]
    unsafe fn dot_bf16(acc: f32, w: u32, x: i32) -> f32 {
        let x = x as u32;
        let odd = flush(bf16_high(w).mul_add(bf16_high(x), flush(acc)));
        flush(bf16_low(w).mul_add(bf16_low(x), odd))
    }
    #[inline(always)]
    unsafe fn to_f(a: u32) -> f32 {
        a as i32 as f32
    }
    #[inline(always)]
    unsafe fn as_f(a: u32) -> f32 {
        f32::from_bits(a)
    }
    #[inline(always)]
    unsafe fn as_v(a: f32) -> u32 {
        a.to_bits()
    }
    #[inline(always)]
    unsafe fn low_half(a: u32) -> f32 {
        f16::from_bits(a as u16).to_f32()
    }
    #[inline(always)]
    unsafe fn high_half(a: u32) -> f32 {
        f16::from_bits((a >> 16) as u16).to_f32()
    }
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> u32 {
        // SAFETY: the caller's pointer is valid for four bytes.
        u32::from_le_bytes(unsafe { p.cast::<[u8; 4]>().read() })
    }
    #[inline(always)]
    unsafe fn store(v: u32, p: *mut u8) {
        // SAFETY: the caller's pointer is valid for four bytes.
        unsafe { p.cast::<[u8; 4]>().write(v.to_le_bytes()) }
    }
    #[inline(always)]
    unsafe fn load_f(p: *const u8) -> f32 {
        // SAFETY: as the caller promises.
        f32::from_bits(unsafe { Self::load(p) })
    }
    #[inline(always)]
    unsafe fn store_f(v: f32, p: *mut u8) {
        // SAFETY: as the caller promises.
        unsafe { Self::store(v.to_bits(), p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> f32 {
        // SAFETY: the caller's pointer is valid for `n` values.
        if n == 0 { 0.0 } else { unsafe { p.read() } }
    }
    #[inline(always)]
    unsafe fn store_part(v: f32, p: *mut f32, n: usize) {
        if n > 0 {
            // SAFETY: the caller's pointer is valid for `n` values.
            unsafe { p.write(v) }
        }
    }
    #[inline(always)]
    unsafe fn gather2(rows: &Rows, at: usize) -> u32 {
        // SAFETY: the row is valid for these bytes, says the caller.
        u32::from(u16::from_le_bytes(unsafe { rows.0[0].add(at).cast::<[u8; 2]>().read() }))
    }
    #[inline(always)]
    unsafe fn gather4(rows: &Rows, at: usize) -> u32 {
        // SAFETY: as above.
        unsafe { Self::load(rows.0[0].add(at)) }
    }
    #[inline(always)]
    unsafe fn gather16(rows: &Rows, at: usize) -> [u32; 4] {
        // SAFETY: as above.
        [0, 4, 8, 12].map(|i| unsafe { Self::load(rows.0[0].add(at + i)) })
    }
    #[inline(always)]
    unsafe fn gather32(rows: &Rows, at: usize) -> [u32; 8] {
        // SAFETY: as above.
        [0, 4, 8, 12, 16, 20, 24, 28].map(|i| unsafe { Self::load(rows.0[0].add(at + i)) })
    }
    #[inline(always)]
    unsafe fn prefetch_near(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
