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
