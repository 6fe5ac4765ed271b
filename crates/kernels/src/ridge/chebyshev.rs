//! Chebyshev's semi-iteration on a matrix whose eigenvalues lie in a known interval.
//!
//! For H + λ I with λ = a ‖H‖_F the interval is [λ, λ + F]: divided by F it is [a, 1 + a] for every
//! token, so all tokens share their coefficients. With Ĥ = H / F and x̂ = F x,
//! - x̂_0 = τ q, τ = 2 / (2 a + 1); ω_0 = 2, ω ← 1 / (1 − (ρ/2)² ω), ρ = 1 / (2 a + 1),
//! - x̂ ← x̂ + ω (x̂_0 − τ Ĥ x̂ − (1 − ρ) x̂) + (ω − 1) (x̂ − x̂ of the step before, 0 at first).
//!
//! It is written as a change of x̂ on purpose: with a sum ω (ρ x̂ + …) − (ω − 1) x̂_before the roundings of
//! ρ, ω and ω − 1 do not cancel, and divided by the least eigenvalue they cost f32 one digit of every solution.
//!
//! There are no inner products, so every step is the same work for every token, and rounding one token
//! never changes the coefficients of the iteration (as it does in the method of conjugate gradients).
//!
//! Source: Golub & Varga (1961), "Chebyshev semi-iterative methods"; arXiv 2511.21016, section 3.

/// The coefficients for a ridge strength a.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chebyshev {
    /// ρ, half the width of the interval over its middle.
    pub rho: f64,
    /// 1 − ρ, the least eigenvalue over the middle of the interval.
    pub least: f64,
    /// τ, one over the middle of the interval, which is in units of ‖H‖_F.
    pub tau: f64,
}

impl Chebyshev {
    /// For eigenvalues from a to 1 + a.
    pub fn new(ridge_strength: f64) -> Chebyshev {
        let rho = 1.0 / (2.0 * ridge_strength + 1.0);
        Chebyshev { rho, least: 2.0 * ridge_strength * rho, tau: 2.0 * rho }
    }

    /// The ω of each step, decreasing to 2 (1 − √(1 − ρ²)) / ρ².
    pub fn omegas(self) -> impl Iterator<Item = f64> {
        let r = 0.25 * self.rho * self.rho;
        std::iter::successors(Some(1.0 / (1.0 - 2.0 * r)), move |omega| Some(1.0 / (1.0 - r * omega)))
    }

    /// At most this share of the solution is missing after `num_iter` steps: 2 ((√κ − 1) / (√κ + 1))ⁿ, κ = 1 + 1/a.
    pub fn error_bound(self, num_iter: usize) -> f64 {
        let root = ((1.0 + self.rho) / (1.0 - self.rho)).sqrt();
        2.0 * ((root - 1.0) / (root + 1.0)).powi(num_iter as i32)
    }
}
