//! The gates of mLSTM, stabilized: what lets its exponential input gate pass through products in f32.
//!
//! mLSTM (Beck et al. 2024, "xLSTM", arXiv 2405.04517, section 2.3): C_t = f_t C_{t−1} + i_t k_t v_tᵀ,
//! n_t = f_t n_{t−1} + i_t k_t, h_t = C_tᵀ q_t / max(|n_t · q_t|, 1), i = exp(ĩ). With m the running
//! maximum of log-scales,
//!
//! m_t = max(log f_t + m_{t−1}, ĩ_t, 0),  g_t = log f_t + m_{t−1} − m_t,  i′_t = exp(ĩ_t − m_t),
//!
//! C′ = C e^{−m} and n′ = n e^{−m} follow a scalar-decay recurrence with log-gates g and keys i′ k, no
//! exponent is above 0, and h_t = C′ᵀ q / max(|n′ · q|, e^{−m}). (The maximum with 0 keeps e^{−m} at most
//! 1; h does not depend on m.) [`crate::gla`] with one gate a head computes C′ and n′ in every form.
//!
//! Layout: ĩ and log f [N, H], tokens of all sequences in one dimension, sequence b being tokens
//! `cu_seqlens[b]..cu_seqlens[b + 1]`.

use crate::Real;
use crate::rows::{expect_len, rows_of};

/// What a token makes of ĩ, log f and the m before: (g, i′, e^{−m}, m).
#[inline(always)]
fn stabilize<T: Real>(i: T, f: T, before: T) -> (T, T, T, T) {
    let carried = f + before;
    let m = larger(larger(carried, i), T::ZERO);
    (carried - m, (i - m).exp(), (-m).exp(), m)
}

#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    // NaN in `a` stays, so that a bad gate is seen.
    if b > a { b } else { a }
}

/// Stabilized gates of whole sequences: `g`, `input` = i′ and `bound` = e^{−m}, all [N, H].
///
/// # Panics
/// If a length is not that of `i`, or that is not rows of `heads`.
pub fn mlstm_gates<T: Real>(
    heads: usize,
    i: &[T],
    f: &[T],
    cu_seqlens: &[i32],
    g: &mut [T],
    input: &mut [T],
    bound: &mut [T],
) {
    rows_of("i", i.len(), heads);
    for (name, len) in [("f", f.len()), ("g", g.len()), ("input", input.len()), ("bound", bound.len())] {
        expect_len(name, len, i.len());
    }
    for (start, end) in sequences(cu_seqlens) {
        for head in 0..heads {
            let mut m = T::ZERO;
            for at in (start * heads + head..end * heads).step_by(heads) {
                (g[at], input[at], bound[at], m) = stabilize(i[at], f[at], m);
            }
        }
    }
}

/// Gradients of ĩ and log f from those of the three outputs of [`mlstm_gates`].
///
/// # Panics
/// As [`mlstm_gates`].
pub fn mlstm_gates_backward<T: Real>(
    heads: usize,
    i: &[T],
    f: &[T],
    cu_seqlens: &[i32],
    d_g: &[T],
    d_input: &[T],
    d_bound: &[T],
    d_i: &mut [T],
    d_f: &mut [T],
) {
    rows_of("i", i.len(), heads);
    let lengths = [
        ("f", f.len()),
        ("d_g", d_g.len()),
        ("d_input", d_input.len()),
        ("d_bound", d_bound.len()),
        ("d_i", d_i.len()),
        ("d_f", d_f.len()),
    ];
    for (name, len) in lengths {
        expect_len(name, len, i.len());
    }
    for (start, end) in sequences(cu_seqlens) {
        for head in 0..heads {
            let tokens = (start * heads + head..end * heads).step_by(heads);
            let mut m = T::ZERO;
            for at in tokens.clone() {
                // m waits in d_f until the way back.
                m = stabilize(i[at], f[at], m).3;
                d_f[at] = m;
            }
            let mut d_m = T::ZERO;
            for at in tokens.rev() {
                let before = if at < (start + 1) * heads { T::ZERO } else { d_f[at - heads] };
                let m = d_f[at];
                let (carried, by_input) = (f[at] + before, (i[at] - m).exp() * d_input[at]);
                d_m = d_m - d_g[at] - by_input - (-m).exp() * d_bound[at];
                let largest_is_carried = carried >= i[at] && carried >= T::ZERO;
                let largest_is_input = !largest_is_carried && i[at] >= T::ZERO;
                d_i[at] = by_input + if largest_is_input { d_m } else { T::ZERO };
                d_m = d_g[at] + if largest_is_carried { d_m } else { T::ZERO };
                d_f[at] = d_m;
            }
        }
    }
}

/// Stabilized gates of one token for each row; `m` [slots, H] is read and written at the row's slot.
///
/// Rows that name the same slot are done in order, with the bits of [`mlstm_gates`].
///
/// # Panics
/// If a length is wrong or a slot is outside `m`.
pub fn mlstm_gates_step<T: Real>(
    heads: usize,
    i: &[T],
    f: &[T],
    slots: &[i32],
    m: &mut [T],
    g: &mut [T],
    input: &mut [T],
    bound: &mut [T],
) {
    expect_len("i", i.len(), slots.len() * heads);
    for (name, len) in [("f", f.len()), ("g", g.len()), ("input", input.len()), ("bound", bound.len())] {
        expect_len(name, len, i.len());
    }
    for (row, &slot) in slots.iter().enumerate() {
        for head in 0..heads {
            let (at, kept) = (row * heads + head, slot as usize * heads + head);
            (g[at], input[at], bound[at], m[kept]) = stabilize(i[at], f[at], m[kept]);
        }
    }
}

fn sequences(cu_seqlens: &[i32]) -> impl Iterator<Item = (usize, usize)> + '_ {
    cu_seqlens.windows(2).map(|w| (w[0] as usize, w[1] as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;
    use crate::gla::{Form, Gate, Gla, gla_forward, gla_scratch};
    use crate::laws::{cast, close, gradient, values};
    use crate::normalizer::normalize;

    const HEADS: usize = 3;
    const CU: [i32; 4] = [0, 9, 9, 20];

    fn case(scale: f64) -> [Vec<f64>; 2] {
        let i = values::<f64>(20 * HEADS, 1).iter().map(|x| scale * x).collect();
        let f = values::<f64>(20 * HEADS, 2).iter().map(|x| -(-scale * x).exp().ln_1p()).collect();
        [i, f]
    }

    fn gates(i: &[f64], f: &[f64]) -> [Vec<f64>; 3] {
        let [mut g, mut input, mut bound] = [(); 3].map(|()| vec![f64::NAN; i.len()]);
        mlstm_gates(HEADS, i, f, &CU, &mut g, &mut input, &mut bound);
        [g, input, bound]
    }

    #[test]
    fn no_factor_is_above_1_and_scales_are_those_of_the_definition() {
        for scale in [1.0, 15.0, 300.0] {
            let [i, f] = case(scale);
            let [g, input, bound] = gates(&i, &f);
            let inside = |x: &f64| (0.0..=1.0).contains(x);
            assert!(g.iter().all(|g| *g <= 0.0) && input.iter().chain(&bound).all(inside), "scale {scale}");
            // The weight of token s at token t, from logarithms: e^{ĩ_s + Σ log f − m_t}.
            for (head, t, s) in [(0, 8, 2), (1, 19, 9), (2, 19, 19), (0, 15, 12)] {
                let sum = |x: &[f64]| (s + 1..=t).map(|r| x[r * HEADS + head]).sum::<f64>();
                let (at, last) = (s * HEADS + head, t * HEADS + head);
                let want = (i[at] + sum(&f) + bound[last].ln()).exp();
                if bound[last] > 0.0 {
                    let got = input[at] * sum(&g).exp();
                    assert!((got - want).abs() <= 1e-12 * want.max(1e-30), "scale {scale}: {got} is not {want}");
                }
            }
        }
    }

    #[test]
    fn gradients_equal_differences() {
        let [i, f] = case(2.0);
        let d = [3, 4, 5].map(|seed| values::<f64>(i.len(), seed));
        let (mut d_i, mut d_f) = (vec![f64::NAN; i.len()], vec![f64::NAN; i.len()]);
        mlstm_gates_backward(HEADS, &i, &f, &CU, &d[0], &d[1], &d[2], &mut d_i, &mut d_f);
        let all = d.concat();
        gradient("i", &i, &all, &d_i, |i| gates(i, &f).concat());
        gradient("f", &f, &all, &d_f, |f| gates(&i, f).concat());
    }

    #[test]
    fn a_step_has_the_bits_of_whole_sequences() {
        let [i, f] = case(4.0);
        let want = gates(&i, &f);
        let mut m = vec![0.0; 4 * HEADS];
        let mut got = [(); 3].map(|()| vec![f64::NAN; i.len()]);
        let slots: Vec<i32> = (0..20).map(|t| if t < 9 { 3 } else { 1 }).collect();
        // Two tokens at a time.
        for (at, slots) in slots.chunks(2).enumerate() {
            let rows = at * 2 * HEADS..(at * 2 + slots.len()) * HEADS;
            let [g, input, bound] = &mut got;
            mlstm_gates_step(
                HEADS,
                &i[rows.clone()],
                &f[rows.clone()],
                slots,
                &mut m,
                &mut g[rows.clone()],
                &mut input[rows.clone()],
                &mut bound[rows],
            );
        }
        assert!(got == want && m[..HEADS].iter().chain(&m[2 * HEADS..3 * HEADS]).all(|m| *m == 0.0));
    }

    const K: usize = 6;
    const V: usize = 5;

    /// h [N, H, V] through [`mlstm_gates`], a memory of [v, 1] and its normalizer.
    fn mlstm<T: Real>(form: Form, q: &[T], k: &[T], v: &[T], i: &[T], f: &[T]) -> Vec<T> {
        let [mut g, mut input, mut bound] = [(); 3].map(|()| vec![T::of(f64::NAN); i.len()]);
        mlstm_gates(HEADS, i, f, &CU, &mut g, &mut input, &mut bound);
        let k: Vec<T> = k.iter().enumerate().map(|(at, k)| *k * input[at / K]).collect();
        let ones: Vec<T> = v.chunks_exact(V).flat_map(|v| [v, &[T::ONE]].concat()).collect();
        let gla = Gla { chunk: 16, ..Gla::new(HEADS, K, V + 1) };
        let (pool, mut o) = (Pool::new(1), vec![T::ZERO; ones.len()]);
        let mut state = vec![T::ZERO; (CU.len() - 1) * HEADS * K * (V + 1)];
        let mut scratch = vec![0; gla_scratch::<T>(&gla, form, 20, 1)];
        gla_forward(&pool, &gla, form, q, &k, &ones, Gate::Head(&g), &CU, None, &mut o, &mut state, &mut scratch);
        let mut h = vec![T::ZERO; v.len()];
        normalize(&pool, V, 0.0, &o, Some(&bound), &mut h);
        h
    }

    /// The definition, with logarithms of the gates' products: C, n and the bound 1 all over the largest scale.
    fn definition(q: &[f64], k: &[f64], v: &[f64], i: &[f64], f: &[f64]) -> Vec<f64> {
        let mut h = vec![0.0; v.len()];
        for (start, end) in sequences(&CU) {
            for (t, head) in (start..end).flat_map(|t| (0..HEADS).map(move |head| (t, head))) {
                let at = |t: usize| t * HEADS + head;
                let weight = |s: usize| i[at(s)] + (s + 1..=t).map(|r| f[at(r)]).sum::<f64>();
                let largest = (start..=t).map(weight).fold(0.0, f64::max);
                let (mut n, mut c) = (0.0, [0.0; V]);
                for s in start..=t {
                    let dot: f64 = (0..K).map(|x| q[at(t) * K + x] * k[at(s) * K + x]).sum();
                    let share = (weight(s) - largest).exp() * dot * (K as f64).powf(-0.5);
                    n += share;
                    (0..V).for_each(|x| c[x] += share * v[at(s) * V + x]);
                }
                let d = f64::max(n.abs(), (-largest).exp());
                (0..V).for_each(|x| h[at(t) * V + x] = c[x] / d);
            }
        }
        h
    }

    #[test]
    fn every_form_of_mlstm_equals_its_definition_at_any_gates() {
        for scale in [1.0, 15.0, 300.0] {
            let [i, f] = case(scale);
            let [q, k] = [6, 7].map(|seed| values::<f64>(20 * HEADS * K, seed));
            let v = values::<f64>(20 * HEADS * V, 8);
            let want = definition(&q, &k, &v, &i, &f);
            for form in [Form::Recurrent, Form::Chunked, Form::Parallel] {
                let name = format!("{form:?}, gates to {scale}");
                close(&name, &mlstm(form, &q, &k, &v, &i, &f), &want, 1e-11);
                let [q, k, v, i, f] = [&q, &k, &v, &i, &f].map(|x| cast::<f64, f32>(x));
                let got = mlstm(form, &q, &k, &v, &i, &f);
                assert!(got.iter().all(|h| h.is_finite()), "{name} in f32");
                if scale < 300.0 {
                    close(&format!("{name} in f32"), &got, &want, 2e-3);
                }
            }
        }
    }
}
