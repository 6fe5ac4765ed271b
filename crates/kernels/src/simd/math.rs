//! Elementary functions of f32 vectors: range reduction and minimax polynomials (our own fits).

use super::Simd;

/// What the elementary functions need to see of a float's exponent.
pub(super) trait Exponent: Simd<E = f32> {
    /// The nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `v * 2^n` for integral n, rounded once; n within ±252.
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V;
    /// For finite v > 0: mantissa m in 0.75 .. 1.5 and exponent e, `v = m * 2^e`.
    fn split(self, v: Self::V) -> (Self::V, Self::V);
}

/// Horner's rule; coefficients from the constant on.
#[inline(always)]
fn polynomial<S: Simd<E = f32>, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut p = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        p = s.fma(p, x, s.splat(c[i]));
    }
    p
}

/// ln 2 in two parts: the first has few enough bits that its product with an exponent is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// e^x = 2^n e^r with |r| ≤ ln 2 / 2.
#[inline(always)]
pub(super) fn exp<S: Exponent>(s: S, x: S::V) -> S::V {
    // Beyond these the result is infinity or 0 anyway. The order of the operands keeps NaN.
    let x = s.max(s.splat(-105.0), s.min(s.splat(89.0), x));
    let n = s.round(x * s.splat(std::f32::consts::LOG2_E));
    let r = s.fma(n, s.splat(-LN2_HI), x);
    let r = s.fma(n, s.splat(-LN2_LO), r);
    let p = polynomial(s, r, [0.499_999_94, 0.166_665_2, 0.041_668_387, 0.008_368_717, 0.001_381_459_9]);
    let y = s.fma(r * r, p, r) + s.splat(1.0);
    s.times_power_of_two(y, n)
}

/// ln(m 2^e) = ln(1 + f) + e ln 2 with f = m - 1 in -0.25 .. 0.5.
#[inline(always)]
pub(super) fn ln<S: Exponent>(s: S, x: S::V) -> S::V {
    let (m, e) = s.split(x);
    let f = m - s.splat(1.0);
    let c = [
        0.333_333_4,
        -0.250_001_65,
        0.199_996_05,
        -0.166_552_97,
        0.142_762_38,
        -0.127_277_79,
        0.117_006_64,
        -0.091_161_94,
        0.037_672_93,
    ];
    let f2 = f * f;
    let tail = s.fma(f2 * f, polynomial(s, f, c), e * s.splat(LN2_LO));
    let y = s.fma(e, s.splat(LN2_HI), s.fma(f2, s.splat(-0.5), tail) + f);
    // NaN stays NaN; then what has no logarithm, 0 and infinity.
    let y = s.fma(x, s.zero(), y);
    let y = s.select(s.lt(x, s.splat(f32::from_bits(1))), s.splat(f32::NEG_INFINITY), y);
    let y = s.select(s.lt(x, s.zero()), s.splat(f32::NAN), y);
    s.select(s.lt(s.splat(f32::MAX), x), x, y)
}

/// ln(1 + x) = ln(u) + (x - (u - 1)) / u with u = 1 + x as rounded: the second term is what rounding lost.
#[inline(always)]
pub(super) fn ln_1p<S: Exponent>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let u = one + x;
    let y = ln(s, u) + (x - (u - one)) / u;
    s.select(s.lt(s.splat(f32::MAX), x), x, y)
}

/// A polynomial below 0.625; above, 1 - 2 / (e^2|x| + 1) with the sign of x.
#[inline(always)]
pub(super) fn tanh<S: Exponent>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let x2 = x * x;
    let p = polynomial(s, x2, [-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_086, -0.005_704_985]);
    let small = s.fma(x2 * x, p, x);
    let one = s.splat(1.0);
    let large = one - s.splat(2.0) / (exp(s, a + a) + one);
    let large = s.select(s.lt(x, s.zero()), -large, large);
    s.select(s.lt(a, s.splat(0.625)), small, large)
}

/// x + x p(x²) below 0.96; above, 1 - e^-q(|x|) with the sign of x, where q = -ln erfc.
#[inline(always)]
pub(super) fn erf<S: Exponent>(s: S, x: S::V) -> S::V {
    let a = s.min(s.splat(4.0), s.abs(x));
    let c = [0.128_379_17, -0.376_126_3, 0.112_836_6, -0.026_857_462, 0.005_196_282_5, -8.089_68e-4, 8.150_347e-5];
    let small = s.fma(x, polynomial(s, a * a, c), x);
    let c = [2.625_285_4e-4, 1.127_403, 0.637_635_6, 0.103_538_334, -0.022_039_402, 0.002_996_647_2, -1.912_336_2e-4];
    let large = s.splat(1.0) - exp(s, -polynomial(s, a, c));
    let large = s.select(s.lt(x, s.zero()), -large, large);
    s.select(s.lt(s.abs(x), s.splat(0.96)), small, large)
}
