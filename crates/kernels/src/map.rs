//! Functions of one element over a slice in place, for pointwise operators that work tile by tile.
//!
//! An element's result does not depend on its position: full and partial vectors compute the same.

use crate::Real;
use crate::simd::{Kernel, Simd};

macro_rules! map {
    ($(#[$doc:meta])* $name:ident, |$s:ident, $x:ident| $body:expr) => {
        $(#[$doc])*
        pub fn $name<T: Real>(x: &mut [T]) {
            struct Map<'a, T>(&'a mut [T]);
            impl<T: Real> Kernel<T> for Map<'_, T> {
                type Out = ();
                #[inline(always)]
                fn run<S: Simd<E = T>>(self, $s: S) {
                    for part in self.0.chunks_mut(S::LANES) {
                        let $x = $s.load_any(part);
                        $s.store_any($body, part);
                    }
                }
            }
            T::dispatch(Map(x));
        }
    };
}

/// √(2/π).
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
/// The cubic term of GELU's tanh approximation.
const GELU_CUBIC: f64 = 0.044_715;
/// 1/√2.
const HALF_SQRT: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// 1/√(2π).
const NORMAL_PEAK: f64 = 0.398_942_280_401_432_7;

map! {
    /// x → e^x.
    exp, |s, x| s.exp(x)
}
map! {
    /// x → ln x.
    ln, |s, x| s.ln(x)
}
map! {
    /// x → tanh x.
    tanh, |s, x| s.tanh(x)
}
map! {
    /// x → σ(x) = 1 / (1 + e^−x).
    sigmoid, |s, x| s.sigmoid(x)
}
map! {
    /// x → ln σ(x) = min(x, 0) − ln(1 + e^−|x|): finite for every finite x.
    log_sigmoid, |s, x| s.min(x, s.zero()) - s.ln_1p(s.exp(-s.abs(x)))
}
map! {
    /// x → x σ(x).
    silu, |s, x| x * s.sigmoid(x)
}
map! {
    /// x → d/dx x σ(x) = σ(x) (1 + x (1 − σ(x))).
    silu_derivative, |s, x| silu_slope(s, x)
}

/// d/dx x σ(x) of each lane.
#[inline(always)]
pub(crate) fn silu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(S::E::ONE);
    let y = s.sigmoid(x);
    y * s.fma(x, one - y, one)
}
map! {
    /// x → x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
    gelu, |s, x| {
        let inner = s.splat(T::of(GELU_SCALE)) * s.fma(s.splat(T::of(GELU_CUBIC)) * x, x * x, x);
        s.splat(T::of(0.5)) * x * (s.splat(T::ONE) + s.tanh(inner))
    }
}
map! {
    /// The derivative of [`gelu`].
    gelu_derivative, |s, x| {
        let (one, half) = (s.splat(T::ONE), s.splat(T::of(0.5)));
        let scale = s.splat(T::of(GELU_SCALE));
        let t = s.tanh(scale * s.fma(s.splat(T::of(GELU_CUBIC)) * x, x * x, x));
        let slope = scale * s.fma(s.splat(T::of(3.0 * GELU_CUBIC)), x * x, one);
        half * (one + t) + half * x * (one - t * t) * slope
    }
}
map! {
    /// x → x Φ(x) by the error function.
    gelu_erf, |s, x| {
        s.splat(T::of(0.5)) * x * (s.splat(T::ONE) + s.erf(x * s.splat(T::of(HALF_SQRT))))
    }
}
map! {
    /// The derivative of [`gelu_erf`]: Φ(x) + x φ(x).
    gelu_erf_derivative, |s, x| {
        let phi = s.splat(T::of(NORMAL_PEAK)) * s.exp(s.splat(T::of(-0.5)) * x * x);
        s.splat(T::of(0.5)) * (s.splat(T::ONE) + s.erf(x * s.splat(T::of(HALF_SQRT)))) + x * phi
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<f64> {
        let grid = (-400..=400).map(|i| f64::from(i) * 0.25);
        grid.chain([1e-8, -1e-8, 0.0, 1e-3, -1e-3, 12.345, -87.0, 88.0]).collect()
    }

    #[test]
    fn derivatives_are_slopes() {
        type Map = fn(&mut [f64]);
        let pairs: [(Map, Map); 3] =
            [(silu, silu_derivative), (gelu, gelu_derivative), (gelu_erf, gelu_erf_derivative)];
        for (f, df) in pairs {
            let x: Vec<f64> = points().into_iter().filter(|x| x.abs() < 20.0).collect();
            let shifted = |h: f64| {
                let mut y: Vec<f64> = x.iter().map(|x| x + h).collect();
                f(&mut y);
                y
            };
            let (up, down) = (shifted(1e-5), shifted(-1e-5));
            let mut slope = x.clone();
            df(&mut slope);
            for i in 0..x.len() {
                let want = (up[i] - down[i]) / 2e-5;
                assert!((slope[i] - want).abs() < 1e-8, "at {}: {} is not {want}", x[i], slope[i]);
            }
        }
    }

    #[test]
    fn f32_is_close_to_f64_and_independent_of_position() {
        type Both = (fn(&mut [f32]), fn(&mut [f64]));
        let maps: [Both; 8] = [
            (exp, exp),
            (tanh, tanh),
            (sigmoid, sigmoid),
            (log_sigmoid, log_sigmoid),
            (silu, silu),
            (gelu, gelu),
            (gelu_erf, gelu_erf),
            (silu_derivative, silu_derivative),
        ];
        for (k, (single, double)) in maps.into_iter().enumerate() {
            let x: Vec<f32> = points().into_iter().filter(|x| *x < 80.0).map(|x| x as f32).collect();
            let mut want: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            double(&mut want);
            let mut got = x.clone();
            single(&mut got);
            for i in 0..x.len() {
                let bound = 1e-6 * want[i].abs() + 1e-6;
                assert!(
                    (f64::from(got[i]) - want[i]).abs() <= bound,
                    "map {k} at {}: {} is not {}",
                    x[i],
                    got[i],
                    want[i]
                );
                let mut alone = [x[i]];
                single(&mut alone);
                assert_eq!(alone[0].to_bits(), got[i].to_bits(), "map {k} at {}", x[i]);
            }
        }
    }

    #[test]
    fn log_sigmoid_is_finite_where_a_naive_form_is_not() {
        let mut x = [-200.0_f32, -1e30, 200.0, 0.0];
        log_sigmoid(&mut x);
        assert_eq!(x[0], -200.0);
        assert_eq!(x[1], -1e30);
        assert_eq!(x[2], -0.0);
        assert!((x[3] + std::f32::consts::LN_2).abs() < 1e-7);
    }
}
