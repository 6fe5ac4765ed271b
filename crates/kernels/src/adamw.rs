//! AdamW (Loshchilov & Hutter 2019): Adam with bias correction and decoupled weight decay.
//!
//! m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g²,
//! p ← p - η λ p - η (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε).

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// One step of AdamW for a group of parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// η.
    pub learning_rate: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// λ.
    pub weight_decay: f64,
    /// What gradients are multiplied by first: 1, or less to clip their norm.
    pub gradient_scale: f64,
    /// t: 1 in the first step.
    pub step: u64,
}

/// Updates parameters, first and second moments from the gradient, in one pass.
///
/// # Panics
/// If the lengths differ.
pub fn adamw<T: Real>(pool: &Pool, step: &AdamW, parameters: &mut [T], gradient: &[T], m: &mut [T], v: &mut [T]) {
    let len = parameters.len();
    expect_len("gradient", gradient.len(), len);
    expect_len("m", m.len(), len);
    expect_len("v", v.len(), len);
    let (p, m, v) = (Disjoint::new(parameters), Disjoint::new(m), Disjoint::new(v));
    for_rows(pool, len, 1, |range| {
        // SAFETY: ranges of tasks do not overlap.
        let (p, m, v) = unsafe { (p.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
        T::dispatch(Update { step, p, g: &gradient[range], m, v });
    });
}

struct Update<'a, T> {
    step: &'a AdamW,
    p: &'a mut [T],
    g: &'a [T],
    m: &'a mut [T],
    v: &'a mut [T],
}

impl<T: Real> Kernel<T> for Update<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let AdamW { learning_rate, beta1, beta2, eps, weight_decay, gradient_scale, step } = *self.step;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let [scale, b1, c1, b2, c2, eps, keep, rate, root] = [
            gradient_scale,
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            eps,
            1.0 - learning_rate * weight_decay,
            learning_rate / correction(beta1),
            1.0 / correction(beta2).sqrt(),
        ]
        .map(|x| s.splat(T::of(x)));
        let chunks = self.p.chunks_mut(S::LANES).zip(self.g.chunks(S::LANES));
        let moments = self.m.chunks_mut(S::LANES).zip(self.v.chunks_mut(S::LANES));
        for ((p, g), (m, v)) in chunks.zip(moments) {
            let g = s.load_any(g) * scale;
            let first = s.fma(s.load_any(m), b1, g * c1);
            let second = s.fma(s.load_any(v), b2, g * g * c2);
            let denominator = s.fma(s.sqrt(second), root, eps);
            let moved = s.load_any(p) * keep - rate * first / denominator;
            s.store_any(moved, p);
            s.store_any(first, m);
            s.store_any(second, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{cast, close, values};

    fn step(step: u64) -> AdamW {
        AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, gradient_scale: 0.5, step }
    }

    /// The equations at the head of this file, element by element.
    fn reference(steps: u64, mut p: f64, g: f64) -> (f64, f64, f64) {
        let (mut m, mut v) = (0.0, 0.0);
        for t in 1..=steps {
            let o = step(t);
            let g = g * o.gradient_scale;
            m = o.beta1 * m + (1.0 - o.beta1) * g;
            v = o.beta2 * v + (1.0 - o.beta2) * g * g;
            let hat_m = m / (1.0 - o.beta1.powi(t as i32));
            let hat_v = v / (1.0 - o.beta2.powi(t as i32));
            p = p - o.learning_rate * o.weight_decay * p - o.learning_rate * hat_m / (hat_v.sqrt() + o.eps);
        }
        (p, m, v)
    }

    fn run<T: Real>(threads: usize, p: &[T], g: &[T]) -> [Vec<T>; 3] {
        let (mut p, mut m, mut v) = (p.to_vec(), vec![T::ZERO; p.len()], vec![T::ZERO; p.len()]);
        let pool = Pool::new(threads);
        for t in 1..=3 {
            adamw(&pool, &step(t), &mut p, g, &mut m, &mut v);
        }
        [p, m, v]
    }

    #[test]
    fn steps_are_those_of_the_equations() {
        for n in [0, 1, 17, 40_000] {
            let (p, g) = (values::<f32>(n, 1), values::<f32>(n, 2));
            let [p64, m64, v64] = run::<f64>(1, &cast(&p), &cast(&g));
            for i in 0..n.min(100) {
                let (ep, em, ev) = reference(3, p[i] as f64, g[i] as f64);
                close("p, m, v", &[p64[i], m64[i], v64[i]], &[ep, em, ev], 1e-13);
            }
            let first = run(1, &p, &g);
            close("p", &first[0], &p64, 1e-6);
            assert!(first == run(3, &p, &g), "threads change bits");
        }
    }
}
