//! Every named model is the generic recurrence under its transition, and transitions have the stated eigenvalues.

use proptest::prelude::*;

use super::*;
use crate::Pool;
use crate::delta::{Delta, DeltaInputs, delta_forward, delta_scratch};
use crate::gla::{Form, Gate, Gla, gla_forward, gla_scratch};
use crate::laws::{close, values};

const TOKENS: usize = 70;
const HEADS: usize = 2;
const K: usize = 12;
const V: usize = 7;

/// Rows of one token and head.
fn row(x: &[f64], width: usize, t: usize, h: usize) -> &[f64] {
    &x[(t * HEADS + h) * width..][..width]
}

/// Numbers in 0 .. 1, one for each token and head and `width`.
fn shares(width: usize, seed: u64) -> Vec<f64> {
    values::<f64>(TOKENS * HEADS * width, seed).iter().map(|x| 0.5 + 0.499 * x).collect()
}

struct Sequence {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl Sequence {
    /// Keys of length 1.
    fn new() -> Sequence {
        let mut k = values::<f64>(TOKENS * HEADS * K, 2);
        for k in k.chunks_exact_mut(K) {
            let length = k.iter().map(|k| k * k).sum::<f64>().sqrt();
            k.iter_mut().for_each(|k| *k /= length);
        }
        Sequence { q: values(TOKENS * HEADS * K, 1), k, v: values(TOKENS * HEADS * V, 3) }
    }

    /// o of the generic recurrence: `token(memory, t, h)` forgets and writes.
    fn by_recurrence(&self, scale: f64, token: impl Fn(&mut Memory<f64>, usize, usize)) -> Vec<f64> {
        let mut o = vec![0.0; TOKENS * HEADS * V];
        for h in 0..HEADS {
            let mut memory = Memory::new(K, V);
            for t in 0..TOKENS {
                token(&mut memory, t, h);
                memory.read(row(&self.q, K, t, h), scale, &mut o[(t * HEADS + h) * V..][..V]);
            }
        }
        o
    }

    fn gla(&self, gla: &Gla, k: &[f64], v: &[f64], g: Gate<'_, f64>, form: Form) -> Vec<f64> {
        let (pool, cu) = (Pool::new(1), [0, TOKENS as i32]);
        let (mut o, mut state) = (vec![0.0; TOKENS * HEADS * V], vec![0.0; HEADS * K * V]);
        let mut scratch = vec![0; gla_scratch::<f64>(gla, form, TOKENS, 1)];
        gla.check(&self.q, k, v, g, &cu, None).expect("inputs that it takes");
        gla_forward(&pool, gla, form, &self.q, k, v, g, &cu, None, &mut o, &mut state, &mut scratch);
        o
    }

    fn delta(&self, beta: &[f64], g: Gate<'_, f64>, form: crate::delta::Form) -> Vec<f64> {
        let (pool, delta, cu) = (Pool::new(1), Delta::new(HEADS, K, V), [0, TOKENS as i32]);
        let (mut o, mut state) = (vec![0.0; TOKENS * HEADS * V], vec![0.0; HEADS * K * V]);
        let mut scratch = vec![0; delta_scratch::<f64>(&delta, form, TOKENS, 1)];
        let x = DeltaInputs { q: &self.q, k: &self.k, v: &self.v, beta, g, cu_seqlens: &cu, initial_state: None };
        delta.check(&x).expect("inputs that it takes");
        delta_forward(&pool, &delta, form, &x, &mut o, &mut state, &mut scratch);
        o
    }
}

const FORMS: [Form; 3] = [Form::Recurrent, Form::Chunked, Form::Parallel];

#[test]
fn linear_attention_retention_and_mamba2_are_scalar_transitions() {
    let x = Sequence::new();
    let gla = Gla::new(HEADS, K, V);
    let scale = gla.scale;
    let linear = x.by_recurrence(scale, |m, t, h| {
        m.forget(&Identity);
        m.write(row(&x.k, K, t, h), row(&x.v, V, t, h));
    });
    let gamma = |h: usize| 1.0 - (-5.0 - h as f64).exp2();
    let retention = x.by_recurrence(scale, |m, t, h| {
        m.forget(&Scalar(gamma(h)));
        m.write(row(&x.k, K, t, h), row(&x.v, V, t, h));
    });
    let fixed: Vec<f64> = (0..TOKENS * HEADS).map(|i| gamma(i % HEADS).ln()).collect();
    // Mamba-2: Δ_t decays the state by e^{Δ A} and scales what is written.
    let (dt, rate) = (shares(1, 5), [-0.3, -2.0]);
    let mamba2 = x.by_recurrence(1.0, |m, t, h| {
        let dt = dt[t * HEADS + h];
        m.forget(&Scalar((dt * rate[h]).exp()));
        let value: Vec<f64> = row(&x.v, V, t, h).iter().map(|v| dt * v).collect();
        m.write(row(&x.k, K, t, h), &value);
    });
    let selective: Vec<f64> = dt.iter().enumerate().map(|(i, dt)| dt * rate[i % HEADS]).collect();
    let written: Vec<f64> = x.v.iter().enumerate().map(|(i, v)| dt[i / V] * v).collect();
    for form in FORMS {
        close("linear attention", &x.gla(&gla, &x.k, &x.v, Gate::None, form), &linear, 1e-12);
        close("retention", &x.gla(&gla, &x.k, &x.v, Gate::Head(&fixed), form), &retention, 1e-12);
        let ssd = Gla { scale: 1.0, ..gla };
        close("mamba2", &x.gla(&ssd, &x.k, &written, Gate::Head(&selective), form), &mamba2, 1e-12);
    }
}

#[test]
fn gla_and_hgrn2_are_diagonal_transitions() {
    let x = Sequence::new();
    let gla = Gla::new(HEADS, K, V);
    let kept = shares(K, 7);
    let gates: Vec<f64> = kept.iter().map(|a| a.ln()).collect();
    let left: Vec<f64> = kept.iter().map(|a| 1.0 - a).collect();
    for (name, k) in [("gla", &x.k), ("hgrn2", &left)] {
        let want = x.by_recurrence(gla.scale, |m, t, h| {
            m.forget(&Diagonal(row(&kept, K, t, h)));
            m.write(row(k, K, t, h), row(&x.v, V, t, h));
        });
        for form in FORMS {
            close(name, &x.gla(&gla, k, &x.v, Gate::Channel(&gates), form), &want, 1e-12);
        }
    }
}

#[test]
fn delta_rules_are_products_with_a_householder_transition() {
    let x = Sequence::new();
    let scale = Delta::new(HEADS, K, V).scale;
    // β from 0 to 2: eigenvalues down to −1.
    let beta: Vec<f64> = shares(1, 9).iter().map(|b| 2.0 * b).collect();
    let (by_head, by_channel) = (shares(1, 10), shares(K, 11));
    let overwrite = |t: usize, h: usize| Householder { beta: beta[t * HEADS + h], key: row(&x.k, K, t, h) };
    let write = |m: &mut Memory<f64>, t: usize, h: usize| {
        let key: Vec<f64> = row(&x.k, K, t, h).iter().map(|k| beta[t * HEADS + h] * k).collect();
        m.write(&key, row(&x.v, V, t, h));
    };
    let plain = x.by_recurrence(scale, |m, t, h| {
        m.forget(&overwrite(t, h));
        write(m, t, h);
    });
    let gated = x.by_recurrence(scale, |m, t, h| {
        m.forget(&Product { outer: overwrite(t, h), inner: Scalar(by_head[t * HEADS + h]) });
        write(m, t, h);
    });
    let kda = x.by_recurrence(scale, |m, t, h| {
        m.forget(&Product { outer: overwrite(t, h), inner: Diagonal(row(&by_channel, K, t, h)) });
        write(m, t, h);
    });
    let ln = |x: &[f64]| x.iter().map(|a| a.ln()).collect::<Vec<f64>>();
    let (head, channel) = (ln(&by_head), ln(&by_channel));
    for form in [crate::delta::Form::Recurrent, crate::delta::Form::Chunked] {
        close("delta net", &x.delta(&beta, Gate::None, form), &plain, 1e-11);
        close("gated delta net", &x.delta(&beta, Gate::Head(&head), form), &gated, 1e-11);
        close("kda", &x.delta(&beta, Gate::Channel(&channel), form), &kda, 1e-11);
    }
}

/// T as a matrix, column after column.
fn columns(transition: &impl Transition<f64>) -> Vec<Vec<f64>> {
    let unit = |i: usize| (0..K).map(|j| f64::from(u8::from(i == j))).collect::<Vec<f64>>();
    (0..K)
        .map(|i| {
            let mut x = unit(i);
            transition.apply(&mut x);
            x
        })
        .collect()
}

/// Eigenvalues of a symmetric matrix, by Jacobi's rotations.
fn eigenvalues(mut a: Vec<Vec<f64>>) -> Vec<f64> {
    for _ in 0..60 {
        for p in 0..K {
            for q in p + 1..K {
                let angle = 0.5 * (2.0 * a[p][q]).atan2(a[q][q] - a[p][p]);
                let (s, c) = angle.sin_cos();
                for row in &mut a {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (of_p, of_q) = (a[p].clone(), a[q].clone());
                a[p] = of_p.iter().zip(&of_q).map(|(x, y)| c * x - s * y).collect();
                a[q] = of_p.iter().zip(&of_q).map(|(x, y)| s * x + c * y).collect();
            }
        }
    }
    let mut found: Vec<f64> = (0..K).map(|i| a[i][i]).collect();
    found.sort_by(f64::total_cmp);
    found
}

fn vector(of: std::ops::Range<f64>) -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec(of, K)
}

fn length_1(mut x: Vec<f64>) -> Vec<f64> {
    let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    x.iter_mut().for_each(|x| *x /= length);
    x
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn diagonal_transitions_have_their_rates_as_eigenvalues(rates in vector(0.0..1.0)) {
        let found = eigenvalues(columns(&Diagonal(&rates)));
        let mut want = rates;
        want.sort_by(f64::total_cmp);
        prop_assert!(found.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12));
        prop_assert!(found[0] >= 0.0 && found[K - 1] <= 1.0);
    }

    #[test]
    fn a_householder_transition_has_one_eigenvalue_of_1_minus_beta(key in vector(0.1..1.0), beta in 0.0..2.0f64) {
        let key = length_1(key);
        let found = eigenvalues(columns(&Householder { beta, key: &key }));
        let mut want = vec![1.0; K];
        want[0] = 1.0 - beta;
        prop_assert!(found.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12), "{:?}", found);
        prop_assert!(found[0] >= -1.0 - 1e-12, "below −1 only where β is above 2");
    }

    #[test]
    fn gated_products_shrink_every_state_and_two_reflections_are_a_rotation(
        first in vector(0.1..1.0),
        second in vector(-1.0..-0.1),
        rates in vector(0.0..1.0),
        x in vector(-1.0..1.0),
        beta in 0.0..2.0f64,
    ) {
        let (first, second) = (length_1(first), length_1(second));
        let one = Householder { beta, key: &first };
        let two = Householder { beta: 2.0 - beta, key: &second };
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        // Gated DeltaProduct, KDA.
        for transition in [&Product { outer: two, inner: Product { outer: one, inner: Diagonal(&rates) } } as &dyn Transition<f64>,
                           &Product { outer: one, inner: Diagonal(&rates) }] {
            let mut y = x.clone();
            transition.apply(&mut y);
            prop_assert!(norm(&y) <= norm(&x) * (1.0 + 1e-12));
        }
        // β = 2: reflections keep every length; two of them are a rotation, which no diagonal transition is.
        let reflect = |key| Householder { beta: 2.0, key };
        let turn = Product { outer: reflect(&second[..]), inner: reflect(&first[..]) };
        let mut y = x.clone();
        turn.apply(&mut y);
        prop_assert!((norm(&y) - norm(&x)).abs() < 1e-12);
        let angle = first.iter().zip(&second).map(|(a, b)| a * b).sum::<f64>().acos();
        let trace: f64 = columns(&turn).iter().enumerate().map(|(i, c)| c[i]).sum();
        prop_assert!((trace - (K as f64 - 2.0 + 2.0 * (2.0 * angle).cos())).abs() < 1e-10);
    }
}
