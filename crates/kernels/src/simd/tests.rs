use super::*;
use crate::Isa;

/// Every instruction set that this processor has.
fn sets() -> Vec<Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&i| i <= Isa::detect()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Exp,
    Ln,
    Ln1p,
    Tanh,
    Erf,
    Sigmoid,
}
use Function::*;

struct Map<'a> {
    function: Function,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel<f32> for Map<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        for (x, y) in self.x.chunks(S::LANES).zip(self.y.chunks_mut(S::LANES)) {
            let v = s.load_any(x);
            let r = match self.function {
                Exp => s.exp(v),
                Ln => s.ln(v),
                Ln1p => s.ln_1p(v),
                Tanh => s.tanh(v),
                Erf => s.erf(v),
                Sigmoid => s.sigmoid(v),
            };
            s.store_any(r, y);
        }
    }
}

fn truth(function: Function, x: f64) -> f64 {
    match function {
        Exp => x.exp(),
        Ln => x.ln(),
        Ln1p => x.ln_1p(),
        Tanh => x.tanh(),
        Erf => libm::erf(x),
        Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// Units in the last place between `y` and the exact `t`.
fn ulps(y: f32, t: f64) -> f64 {
    let unit = (t.abs() as f32).max(f32::MIN_POSITIVE);
    let unit = (f32::from_bits(unit.to_bits() + 1) - unit) as f64;
    (y as f64 - t).abs() / unit
}

#[test]
fn elementary_functions_are_within_their_stated_error() {
    // Every 997th float of the range in which the function neither overflows nor is constant.
    let cases = [
        (Exp, -103.0, 88.7, 2.0),
        (Ln, f32::from_bits(1), f32::MAX, 2.0),
        (Ln1p, 0.0, f32::MAX, 3.0),
        (Tanh, -10.0, 10.0, 3.0),
        (Erf, -4.5, 4.5, 3.0),
        (Sigmoid, -87.0, 90.0, 3.0),
    ];
    for isa in sets() {
        for (function, lo, hi, bound) in cases {
            let x: Vec<f32> =
                (0..u32::MAX).step_by(9973).map(f32::from_bits).filter(|x| (lo..=hi).contains(x)).collect();
            assert!(x.len() > 10_000);
            let mut y = vec![0.0; x.len()];
            dispatch_f32_with(isa, Map { function, x: &x, y: &mut y });
            let (worst, at) = x
                .iter()
                .zip(&y)
                .map(|(&x, &y)| (ulps(y, truth(function, x as f64)), x))
                .fold((0.0, 0.0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a });
            eprintln!("{} {function:?}: {worst:.2} ulp at {at:e}", isa.name());
            assert!(worst <= bound, "{} {function:?}: {worst} ulp at {at:e}", isa.name());
        }
    }
}

#[test]
fn elementary_functions_of_special_values_are_those_of_the_standard_library() {
    let x = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 200.0, -200.0, -1.0, 1e-40, 1e38];
    for isa in sets() {
        for function in [Exp, Ln, Ln1p, Tanh, Erf, Sigmoid] {
            let mut y = x;
            dispatch_f32_with(isa, Map { function, x: &x, y: &mut y });
            for (&x, &y) in x.iter().zip(&y) {
                if function == Ln1p && x < 0.0 {
                    continue;
                }
                let t = truth(function, x as f64) as f32;
                let same = y == t || (y.is_nan() && t.is_nan()) || ulps(y, t as f64) <= 3.0;
                assert!(same, "{} {function:?}({x}) = {y}, not {t}", isa.name());
            }
        }
    }
}

struct Sums<'a>(&'a [f32]);

impl Kernel<f32> for Sums<'_> {
    type Out = (f32, f32);
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) -> (f32, f32) {
        let v = s.load_part(&self.0[..S::LANES - 1]);
        (s.sum(v), s.reduce_max(s.select(s.first(S::LANES - 1), v, s.splat(f32::NEG_INFINITY))))
    }
}

#[test]
fn reductions_see_every_lane_once() {
    for isa in sets() {
        let x: Vec<f32> = (0..16).map(|i| -((1 << i) as f32)).collect();
        let (sum, max) = dispatch_f32_with(isa, Sums(&x));
        let lanes = if isa == Isa::Avx512 { 16 } else { 8 };
        assert_eq!((sum, max), (-((1u32 << (lanes - 1)) as f32 - 1.0), -1.0), "{}", isa.name());
    }
}

struct Blocks<'a> {
    x: &'a [f32],
    transposed: &'a mut [f32],
    pairs: &'a mut [u32],
}

impl Kernel<f32> for Blocks<'_> {
    type Out = usize;
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) -> usize {
        let n = S::LANES;
        let (mut v, mut p) = ([s.zero(); 16], [s.zero_pairs(); 16]);
        for i in 0..n {
            v[i] = s.load(&self.x[32 * i..]);
            p[i] = s.round_neighbours(s.load(&self.x[32 * i..]), s.load(&self.x[32 * i + n..]));
        }
        s.transpose(&mut v);
        s.transpose_pairs(&mut p);
        for i in 0..n {
            s.store(v[i], &mut self.transposed[n * i..]);
            s.store_pairs(p[i], &mut self.pairs[n * i..n * i + n]);
        }
        n
    }
}

#[test]
fn transposing_a_block_moves_every_element_to_its_place() {
    for isa in sets() {
        let x: Vec<f32> = (0..32 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
        let (mut transposed, mut pairs) = (vec![0.0; 256], vec![0; 256]);
        let n = dispatch_f32_with(isa, Blocks { x: &x, transposed: &mut transposed, pairs: &mut pairs });
        for i in 0..n {
            for j in 0..n {
                assert_eq!(transposed[i * n + j], x[32 * j + i], "{} {i} {j}", isa.name());
                let bits = |x: f32| half::bf16::from_f32(x).to_bits() as u32;
                let expected = bits(x[32 * j + 2 * i]) | bits(x[32 * j + 2 * i + 1]) << 16;
                assert_eq!(pairs[i * n + j], expected, "{} {i} {j}", isa.name());
            }
        }
    }
}

struct Bytes<'a>(&'a mut [u32]);

impl Kernel<f32> for Bytes<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let sum = s.dot_bytes(s.splat_pair(0x7f_01_02_03), s.splat_pair(0x80_ff_05_7f), s.splat_pair(7));
        s.store_pairs(sum, &mut self.0[..S::LANES]);
    }
}

#[test]
fn a_dot_of_bytes_is_unsigned_by_signed() {
    for isa in sets() {
        let mut y = [0; 16];
        dispatch_f32_with(isa, Bytes(&mut y));
        assert_eq!(y[7] as i32, 7 + 127 * -128 - 1 + 2 * 5 + 3 * 127, "{}", isa.name());
    }
}

struct Dot<'a>(&'a [f32], &'a [f32], &'a mut [f32]);

impl Kernel<f32> for Dot<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let (a, b) = (s.load(self.0), s.load(self.1));
        let p = s.round_pairs(a, b);
        s.store(s.dot_pairs(p, p, s.splat(1.0)), self.2);
    }
}

#[test]
fn a_dot_of_pairs_is_that_of_the_rounded_operands() {
    for isa in sets() {
        let mut a: Vec<f32> = (0..16).map(|i| (i as f32 * 0.71).cos()).collect();
        let b: Vec<f32> = (0..16).map(|i| (i as f32 * 0.53).sin()).collect();
        // Halfway between two bf16: to the even one.
        a[0] = f32::from_bits(0x3f80_8000);
        a[1] = f32::from_bits(0x3f81_8000);
        let mut y = vec![0.0; 16];
        dispatch_f32_with(isa, Dot(&a, &b, &mut y));
        let lanes = if isa == Isa::Avx512 { 16 } else { 8 };
        for i in 0..lanes {
            let (p, q) = (half::bf16::from_f32(a[i]).to_f64(), half::bf16::from_f32(b[i]).to_f64());
            let exact = 1.0 + p * p + q * q;
            assert!((y[i] as f64 - exact).abs() < 4e-7, "{} {i}: {} {exact}", isa.name(), y[i]);
        }
    }
}
