//! Every form equals the definition with its direct solver: solutions, states and gradients.

use super::case::*;
use crate::Real;
use crate::gla::tests::{Random, error};
use crate::ridge::chebyshev::Chebyshev;
use crate::ridge::*;

const LENGTHS: [usize; 7] = [1, 15, 17, 63, 64, 65, 200];
const STRENGTHS: [Strength; 5] =
    [Strength::None, Strength::Tau(16.0), Strength::Tau(1.0), Strength::Tau(0.1), Strength::Resets];

/// Compares both forms with the definition in f64 over gates, lengths, packed or not; worst errors by tensor.
fn compare<T: Real>(ridge: Ridge, forward: f64, backward: f64) {
    let (mut cases, mut worst) = (0, [0.0f64; 6]);
    for strength in STRENGTHS {
        for (length, packed) in LENGTHS.iter().flat_map(|l| [(*l, false), (*l, true)]) {
            let lengths: &[usize] = if packed { &[length, 0, 7, length / 2 + 1] } else { &[length] };
            for bp_lambda in [true, false] {
                let case = Case::<T>::new(Ridge { bp_lambda, ..ridge }, lengths, strength);
                let truth = case.to::<f64>();
                let wanted = [&truth.naive_forward()[..], &truth.naive_backward()[..]].concat();
                for form in FORMS {
                    let what = format!("{form:?} {strength:?} T {lengths:?} bp_lambda {bp_lambda}");
                    cases += 1;
                    let found = [&case.forward(form, 1)[..], &case.backward(form, 1)[..]].concat();
                    for (i, (a, b)) in found.iter().zip(&wanted).enumerate() {
                        let e = gate_error(i, a, b, &truth, &wanted);
                        worst[i] = worst[i].max(e);
                        let name = ["x", "final_state", "dq", "dk", "dg", "d_initial_state"][i];
                        assert!(e < if i < 2 { forward } else { backward }, "{what}: {name} {e:.1e}");
                    }
                }
            }
        }
    }
    let name = std::any::type_name::<T>();
    eprintln!("{name} {ridge:?}: {cases} cases; worst errors of x, states, dq, dk, dg, d_states: {worst:?}");
}

/// The error of a tensor; of dg relative to the terms ½ k · dk that it is a sum of, which nearly cancel under strong gates.
fn gate_error<T: Real>(i: usize, found: &[T], wanted: &[f64], case: &Case<f64>, all: &[Vec<f64>]) -> f64 {
    if i != 4 || wanted.is_empty() {
        return error(found, wanted);
    }
    let largest = |x: &[f64]| x.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    let terms: Vec<f64> = case.k.iter().zip(&all[3]).map(|(k, dk)| (k * dk).abs()).collect();
    let terms = terms.chunks(case.ridge.width).map(|c| c.iter().sum()).fold(0.0, f64::max);
    error(found, wanted) * largest(wanted) / terms.max(largest(wanted))
}

#[test]
fn every_form_equals_the_definition_in_f64_to_1e_11() {
    compare::<f64>(exact(2, 12), 1e-11, 1e-10);
    compare::<f64>(exact(1, 33), 1e-11, 1e-10);
}

#[test]
fn every_form_equals_the_definition_in_f32_as_far_as_its_condition_lets_it() {
    // x and dq are up to 1/a times as large as what they have along a key, and dk takes that part of both.
    compare::<f32>(exact(2, 24), 2e-5, 5e-3);
}

#[test]
fn chunks_of_any_length_agree() {
    for chunk in [16, 32, 48, 128] {
        let case = Case::<f64>::new(Ridge { chunk, ..exact(2, 12) }, &[150], Strength::Tau(1.0));
        for (a, b) in case.forward(Form::Chunked, 1).iter().zip(&case.naive_forward()) {
            assert!(error(a, b) < 1e-11, "chunks of {chunk}");
        }
        for (a, b) in case.backward(Form::Chunked, 1).iter().zip(&case.naive_backward()) {
            assert!(error(a, b) < 1e-10, "chunks of {chunk}");
        }
    }
}

#[test]
fn iterations_cut_short_are_the_same_in_both_forms_and_within_chebyshevs_bound() {
    let bound = Chebyshev::new(0.02);
    for num_iter in [0, 1, 5, 10, 20, 30, 50] {
        for strength in STRENGTHS {
            let case = Case::<f64>::new(Ridge { num_iter, ..Ridge::new(1, 24) }, &[150], strength);
            let exact = &case.naive_forward()[0];
            let forms = FORMS.map(|form| case.forward(form, 1));
            for (a, b) in forms[0].iter().zip(&forms[1]) {
                assert!(error(a, b) < 1e-11, "{num_iter} iterations, {strength:?}: the forms differ");
            }
            let mut worst = 0.0f64;
            for (x, exact) in forms[1][0].chunks(24).zip(exact.chunks(24)) {
                let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                let missing = norm(&mut x.iter().zip(exact).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied());
                worst = worst.max(missing);
            }
            eprintln!("{num_iter} iterations, {strength:?}: {worst:.1e}, bound {:.1e}", bound.error_bound(num_iter));
            assert!(worst <= bound.error_bound(num_iter) + 1e-12, "{num_iter}, {strength:?}: {worst:.1e}");
        }
    }
}

#[test]
fn omega_falls_to_its_limit() {
    for a in [0.001, 0.02, 0.5, 3.0] {
        let c = Chebyshev::new(a);
        let limit = 2.0 * (1.0 - (1.0 - c.rho * c.rho).sqrt()) / (c.rho * c.rho);
        let omegas: Vec<f64> = std::iter::once(2.0).chain(c.omegas().take(400)).collect();
        assert!(omegas.windows(2).all(|w| w[1] <= w[0] + 1e-15 && w[1] >= limit - 1e-12), "a = {a}");
        assert!((omegas[400] - limit).abs() < 1e-12, "a = {a}: {} is not {limit}", omegas[400]);
    }
}

#[test]
fn gradients_equal_finite_differences_to_1e_7() {
    for (strength, bp_lambda) in [(Strength::None, true), (Strength::Tau(16.0), true), (Strength::Tau(0.5), true)] {
        let case = Case::<f64>::new(Ridge { bp_lambda, ..exact(2, 5) }, &[19, 2], strength);
        type Tensor = fn(&mut Case<f64>) -> &mut [f64];
        let tensors: [Tensor; 3] = [|c| &mut c.q, |c| &mut c.k, |c| c.g.as_deref_mut().unwrap_or_default()];
        let found = FORMS.map(|form| case.backward(form, 1));
        for (i, tensor) in tensors.iter().enumerate() {
            let difference = |change: &dyn Fn(&mut Case<f64>, f64)| {
                let at = |step: f64| {
                    let mut moved = case.clone();
                    change(&mut moved, step);
                    moved.loss()
                };
                // Central differences, extrapolated twice.
                let central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                let once = |h: f64| (4.0 * central(h) - central(2.0 * h)) / 3.0;
                (16.0 * once(2e-4) - once(4e-4)) / 15.0
            };
            let n = tensor(&mut case.clone()).len();
            let wanted: Vec<f64> = (0..n).map(|j| difference(&|c, step| tensor(c)[j] += step)).collect();
            for gradients in &found {
                let e = error(&gradients[i], &wanted);
                assert!(e < 1e-7, "{strength:?} tensor {i}: {e:.1e}");
            }
            // The state: both mirrored elements move, so that it stays symmetric.
            let wanted: Vec<f64> = (0..25)
                .map(|j| {
                    difference(&|c, step| {
                        c.initial_state[j] += 0.5 * step;
                        c.initial_state[j % 5 * 5 + j / 5] += 0.5 * step;
                    })
                })
                .collect();
            assert!(error(&found[0][3][..25], &wanted) < 1e-7, "{strength:?}: the state");
        }
    }
}

#[test]
fn with_values_it_is_the_linear_map_that_fits_all_pairs_best() {
    // S = argmin λ ‖S‖² + Σ η_i ‖S k_i − v_i‖²: the gradient of this at S = U (H + λ I)⁻¹ is zero.
    let (d, n) = (7, 12);
    let case = Case::<f64>::new(exact(1, d), &[n], Strength::Tau(2.0));
    let values: Vec<f64> = Random(9).tensor(n * d);
    let gates = case.g.as_ref().expect("gated");
    let eta: Vec<f64> = (0..n).map(|i| gates[i + 1..].iter().sum::<f64>().exp()).collect();
    let mut zero = case.clone();
    zero.initial_state.fill(0.0);
    let h = &zero.naive_forward()[1];
    let lambda = 0.02 * h.iter().map(|x| x * x).sum::<f64>().sqrt();
    // Row r of S, from row r of U.
    let s: Vec<Vec<f64>> = (0..d)
        .map(|r| {
            let u: Vec<f64> =
                (0..d).map(|c| (0..n).map(|i| eta[i] * values[i * d + r] * zero.k[i * d + c]).sum()).collect();
            naive::cholesky(h, lambda, &u)
        })
        .collect();
    for (r, row) in s.iter().enumerate() {
        for c in 0..d {
            let pull: f64 = (0..n)
                .map(|i| {
                    let k = &zero.k[i * d..(i + 1) * d];
                    let miss = row.iter().zip(k).map(|(s, k)| s * k).sum::<f64>() - values[i * d + r];
                    eta[i] * miss * k[c]
                })
                .sum();
            assert!((lambda * row[c] + pull).abs() < 1e-10, "element ({r}, {c})");
        }
    }
}
