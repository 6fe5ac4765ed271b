use super::*;

/// Kinds that a gradient check covers, smaller than those of the forward pass.
fn small_kinds() -> Vec<(&'static str, Attention)> {
    kinds().into_iter().map(|(name, a)| (name, Attention { key_width: 6, value_width: 5, ..a })).collect()
}

#[test]
fn the_dense_backward_pass_equals_finite_differences() {
    for (name, a) in small_kinds() {
        let case = Case::new(a, &[(5, 9), (7, 4)]);
        let d_o: Vec<f64> = cast(&case.d_o);
        let gradients = case.naive::<f64, _>(|x| x.backward(&d_o));
        let gradients = [gradients.0, gradients.1, gradients.2];
        let loss = |case: &[Vec<f64>; 3], x: Inputs<f64>| {
            let (o, _) = Inputs { q: &case[0], k: &case[1], v: &case[2], ..x }.forward();
            o.iter().zip(&d_o).map(|(o, d)| o * d).sum::<f64>()
        };
        let tensors = [cast(&case.q), cast(&case.k), cast(&case.v)];
        for (which, gradient) in gradients.iter().enumerate() {
            for at in (0..gradient.len()).step_by(13) {
                let slope = case.naive::<f64, _>(|x| {
                    let mut moved = tensors.clone();
                    moved[which][at] += 1e-5;
                    let up = loss(&moved, x);
                    moved[which][at] -= 2e-5;
                    (up - loss(&moved, x)) / 2e-5
                });
                let error = (slope - gradient[at]).abs();
                assert!(
                    error < 1e-8 * (1.0 + slope.abs()),
                    "{name}: d{} {at}: {slope}, {}",
                    ["q", "k", "v"][which],
                    gradient[at]
                );
            }
        }
    }
}

pub(super) type Gradients<T> = [Vec<T>; 3];

impl Case {
    pub fn backward<T: Real>(&self, threads: usize) -> Gradients<T> {
        let (o, lse) = self.forward::<T>(threads);
        let a = &self.a;
        let mut scratch = vec![0xff; attention_backward_scratch::<T>(a, self.nq(), threads)];
        let (q, k, v, d_o) = (cast(&self.q), cast(&self.k), cast(&self.v), cast::<T>(&self.d_o));
        let slopes: Option<Vec<T>> = self.slopes.as_deref().map(cast);
        let (pool, mask) = (Pool::new(threads), self.mask.as_ref());
        let mut gradients = [&q, &k, &v].map(|x| vec![T::of(7.0); x.len()]);
        let [dq, dk, dv] = &mut gradients;
        let (cu_q, cu_k) = (&self.cu_q, &self.cu_k);
        attention_backward(
            &pool,
            a,
            &q,
            &k,
            &v,
            cu_q,
            cu_k,
            slopes.as_deref(),
            mask,
            &o,
            &lse,
            &d_o,
            dq,
            dk,
            dv,
            &mut scratch,
        );
        gradients
    }
}

fn dense<T: Real>(case: &Case) -> Gradients<T> {
    let (dq, dk, dv) = case.naive::<T, _>(|x| x.backward(&cast::<T>(&case.d_o)));
    [dq, dk, dv]
}

/// Upstream's rule: at most twice the error of the dense form in the same precision.
fn assert_exact_backward(name: &str, case: &Case) {
    let (exact, dense, ours) = (dense::<f64>(case), dense::<f32>(case), case.backward::<f32>(1));
    for (which, name_of) in ["dq", "dk", "dv"].iter().enumerate() {
        let bound = 2.0 * difference(&dense[which], &exact[which]) + 1e-6;
        let error = difference(&ours[which], &exact[which]);
        assert!(error <= bound, "{name}: {name_of} is off by {error}, dense by {}", (bound - 1e-6) / 2.0);
    }
    let double = case.backward::<f64>(2);
    for (x, y) in double.iter().zip(&exact) {
        assert!(difference(x, y) < 1e-12, "{name}: f64 is off by {}", difference(x, y));
    }
}

#[test]
fn backward_equals_the_dense_form_for_every_kind_and_length() {
    for (name, a) in kinds() {
        for n in [1, 2, 17, 64, 113] {
            for m in [1, 16, 63, 65, 128] {
                assert_exact_backward(&format!("{name}, {n} × {m}"), &Case::new(a, &[(n, m)]));
            }
        }
    }
}

#[test]
fn backward_equals_the_dense_form_for_every_width() {
    for width in [16, 32, 40, 59, 64, 80, 96, 128, 256] {
        for causal in [false, true] {
            let a = Attention { causal, ..attention(3, 1, width) };
            assert_exact_backward(&format!("width {width}"), &Case::new(a, &[(65, 113), (113, 17)]));
        }
    }
}

#[test]
fn backward_equals_the_dense_form_over_long_sequences() {
    for (name, a) in kinds() {
        assert_exact_backward(name, &Case::new(a, &[(130, 600), (0, 3), (513, 513), (3, 513), (5, 0)]));
    }
}

#[test]
fn backward_skips_the_blocks_that_the_mask_hides() {
    for (rows, cols) in [(16, 256), (64, 64), (24, 40)] {
        let (row_blocks, col_blocks) = (200usize.div_ceil(rows), 300usize.div_ceil(cols));
        let mut case = Case::new(attention(4, 2, 32), &[(200, 300), (77, 77)]);
        case.mask = Some(BlockMask::new((rows, row_blocks), (cols, col_blocks), |r, c| r % 3 != 0 && (r + c) % 2 == 0));
        assert_exact_backward(&format!("{rows} × {cols}"), &case);
    }
}

#[test]
fn backward_has_the_same_bits_for_any_number_of_threads() {
    for (name, a) in kinds() {
        let case = Case::new(a, &[(300, 500), (65, 65), (1, 1)]);
        let one = case.backward::<f32>(1);
        for threads in [2, 3] {
            let many = case.backward::<f32>(threads);
            assert!(one.iter().zip(&many).all(|(x, y)| bits(x) == bits(y)), "{name}, {threads} threads");
        }
    }
}

#[test]
fn gradients_of_packed_sequences_have_the_bits_of_separate_ones() {
    for (name, a) in kinds().into_iter().filter(|(_, a)| a.dropout == 0.0) {
        let packed = Case::new(a, &[(70, 70), (33, 129)]);
        let [dq, dk, dv] = packed.backward::<f32>(2);
        let mut one = Case::new(a, &[(33, 129)]);
        let tail = |x: &[f32], row: usize, rows: usize| x[x.len() - row * rows..].to_vec();
        let (k, v) = (a.kv_heads * a.key_width, a.kv_heads * a.value_width);
        (one.q, one.d_o) = (tail(&packed.q, a.heads * a.key_width, 33), tail(&packed.d_o, a.heads * a.value_width, 33));
        (one.k, one.v) = (tail(&packed.k, k, 129), tail(&packed.v, v, 129));
        let [dq1, dk1, dv1] = one.backward::<f32>(1);
        assert_eq!(bits(&dq1), bits(&tail(&dq, a.heads * a.key_width, 33)), "{name}: dq");
        assert_eq!(bits(&dk1), bits(&tail(&dk, k, 129)), "{name}: dk");
        assert_eq!(bits(&dv1), bits(&tail(&dv, v, 129)), "{name}: dv");
    }
}

#[test]
fn large_logits_have_finite_gradients() {
    let mut case = Case::new(Attention { causal: true, scale: 1.0, ..attention(2, 1, 16) }, &[(130, 130)]);
    case.q.iter_mut().for_each(|x| *x *= 50.0);
    case.k.iter_mut().for_each(|x| *x *= 50.0);
    assert!(case.backward::<f32>(1).iter().flatten().all(|x| x.is_finite()));
}
