//! The laws of gated linear attention: all forms agree, however the work is cut.

use super::*;

const FORMS: [Form; 3] = [Form::Recurrent, Form::Chunked, Form::Parallel];
const GATES: [GateKind; 3] = [GateKind::None, GateKind::Head, GateKind::Channel];

/// Uniform numbers from a counter (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, variance 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    pub(crate) fn tensor<T: Real>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| T::of(self.normal())).collect()
    }
}

/// Elements with others after them, to see that only the first are written.
pub(crate) struct Fenced<E> {
    elements: Vec<E>,
    fence: usize,
}

const FENCE: [u8; 256] = [0xA5; 256];

impl<E: bytemuck::Pod> Fenced<E> {
    pub(crate) fn new(x: E, n: usize) -> Self {
        let mut elements = vec![x; n];
        elements.extend_from_slice(&bytemuck::pod_collect_to_vec(&FENCE));
        Fenced { elements, fence: n }
    }

    pub(crate) fn inside(&mut self) -> &mut [E] {
        &mut self.elements[..self.fence]
    }

    pub(crate) fn check(mut self) -> Vec<E> {
        assert_eq!(bytemuck::cast_slice::<E, u8>(&self.elements[self.fence..]), FENCE, "written beyond the end");
        self.elements.truncate(self.fence);
        self.elements
    }
}

#[derive(Clone)]
struct Case<T> {
    gla: Gla,
    gate: GateKind,
    cu: Vec<i32>,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    g: Vec<T>,
    initial_state: Vec<T>,
    d_o: Vec<T>,
    d_final_state: Vec<T>,
}

impl<T: Real> Case<T> {
    /// Gates are logsigmoid of a normal number over `tau`.
    fn new(gla: Gla, gate: GateKind, lengths: &[usize], tau: f64) -> Case<T> {
        let mut r = Random(lengths.iter().sum::<usize>() as u64 + 1);
        let mut cu = vec![0];
        for length in lengths {
            cu.push(cu[cu.len() - 1] + *length as i32);
        }
        let n = cu[lengths.len()] as usize;
        let gates = match gate {
            GateKind::None => 0,
            GateKind::Head => n * gla.kv_heads,
            GateKind::Channel => n * gla.kv_heads * gla.key_width,
        };
        let state = gla.state_elements(lengths.len());
        // Inputs that f32 holds exactly, so that both element types see the same numbers.
        let mut tensor = |n| r.tensor::<f32>(n).iter().map(|x| T::of(*x as f64)).collect::<Vec<T>>();
        let mut case = Case {
            gla,
            gate,
            cu,
            q: tensor(n * gla.heads * gla.key_width),
            k: tensor(n * gla.kv_heads * gla.key_width),
            v: tensor(n * gla.kv_heads * gla.value_width),
            g: tensor(gates),
            initial_state: tensor(state),
            d_o: tensor(n * gla.heads * gla.value_width),
            d_final_state: tensor(state),
        };
        for g in &mut case.g {
            *g = T::of((-(-g.f64()).exp().ln_1p() / tau) as f32 as f64);
        }
        case
    }

    fn gates(&self) -> Gate<'_, T> {
        match self.gate {
            GateKind::None => Gate::None,
            GateKind::Head => Gate::Head(&self.g),
            GateKind::Channel => Gate::Channel(&self.g),
        }
    }

    fn to<U: Real>(&self) -> Case<U> {
        let to = |x: &[T]| x.iter().map(|x| U::of(x.f64())).collect::<Vec<U>>();
        Case {
            gla: self.gla,
            gate: self.gate,
            cu: self.cu.clone(),
            q: to(&self.q),
            k: to(&self.k),
            v: to(&self.v),
            g: to(&self.g),
            initial_state: to(&self.initial_state),
            d_o: to(&self.d_o),
            d_final_state: to(&self.d_final_state),
        }
    }

    /// o and the final states.
    fn forward(&self, form: Form, threads: usize) -> [Vec<T>; 2] {
        self.forward_on(&Pool::new(threads), form)
    }

    fn forward_on(&self, pool: &Pool, form: Form) -> [Vec<T>; 2] {
        let mut o = Fenced::new(T::of(f64::NAN), self.d_o.len());
        let mut state = Fenced::new(T::of(f64::NAN), self.initial_state.len());
        let mut scratch = Fenced::new(0xFF, gla_scratch::<T>(&self.gla, form, longest(&self.cu), pool.threads()));
        gla_forward(
            pool,
            &self.gla,
            form,
            &self.q,
            &self.k,
            &self.v,
            self.gates(),
            &self.cu,
            Some(&self.initial_state),
            o.inside(),
            state.inside(),
            scratch.inside(),
        );
        scratch.check();
        [o.check(), state.check()]
    }

    fn naive_forward(&self) -> [Vec<T>; 2] {
        let mut o = vec![T::ZERO; self.d_o.len()];
        let mut state = vec![T::ZERO; self.initial_state.len()];
        let initial = Some(&self.initial_state[..]);
        let (q, k, v) = (&self.q, &self.k, &self.v);
        naive::forward(&self.gla, q, k, v, self.gates(), &self.cu, initial, &mut o, &mut state);
        [o, state]
    }

    /// dq, dk, dv, dg, d_initial_state.
    fn backward(&self, form: Form, threads: usize) -> [Vec<T>; 5] {
        let nan = |n: usize| Fenced::new(T::of(f64::NAN), n);
        let (mut dq, mut dk, mut dv) = (nan(self.q.len()), nan(self.k.len()), nan(self.v.len()));
        let (mut dg, mut d_initial) = (nan(self.g.len()), nan(self.initial_state.len()));
        let mut scratch = Fenced::new(0xFF, gla_backward_scratch::<T>(&self.gla, form, longest(&self.cu), threads));
        gla_backward(
            &Pool::new(threads),
            &self.gla,
            form,
            &self.q,
            &self.k,
            &self.v,
            self.gates(),
            &self.cu,
            Some(&self.initial_state),
            &self.d_o,
            Some(&self.d_final_state),
            dq.inside(),
            dk.inside(),
            dv.inside(),
            dg.inside(),
            Some(d_initial.inside()),
            scratch.inside(),
        );
        scratch.check();
        [dq.check(), dk.check(), dv.check(), dg.check(), d_initial.check()]
    }

    fn naive_backward(&self) -> [Vec<T>; 5] {
        let g = naive::backward(
            &self.gla,
            &self.q,
            &self.k,
            &self.v,
            self.gates(),
            &self.cu,
            Some(&self.initial_state),
            &self.d_o,
            Some(&self.d_final_state),
        );
        [g.dq, g.dk, g.dv, g.dg, g.d_initial_state]
    }

    /// The scalar whose gradients `backward` gives.
    fn loss(&self) -> f64 {
        let [o, state] = self.naive_forward();
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.f64() * b.f64()).sum::<f64>();
        dot(&o, &self.d_o) + dot(&state, &self.d_final_state)
    }
}

/// Largest difference over the largest element of the second; infinite if a number is missing.
pub(crate) fn error<T: Real, U: Real>(a: &[T], b: &[U]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1e-30, |m: f64, b| m.max(b.f64().abs()));
    a.iter().zip(b).fold(0.0, |worst: f64, (a, b)| {
        let difference = (a.f64() - b.f64()).abs() / largest;
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
    })
}

/// The error of dg relative to the terms q ⊙ dq that it is a difference of: under strong gates those
/// nearly cancel, and dg is far below them.
fn gate_error(dg: &[f32], case: &Case<f64>, gradients: &[Vec<f64>; 5]) -> f64 {
    let terms: Vec<f64> = case.q.iter().zip(&gradients[0]).map(|(q, dq)| (q * dq).abs()).collect();
    let width = if case.gate == GateKind::Head { case.gla.key_width } else { 1 };
    let terms = terms.chunks(width).map(|c| c.iter().sum()).fold(0.0, f64::max);
    let largest = gradients[3].iter().fold(1e-30, |m: f64, b| m.max(b.abs()));
    error(dg, &gradients[3]) * largest / terms.max(largest)
}

fn small(heads: usize, kv_heads: usize, key_width: usize, value_width: usize) -> Gla {
    Gla { kv_heads, ..Gla::new(heads, key_width, value_width) }
}

const LENGTHS: [usize; 8] = [1, 15, 16, 17, 63, 64, 65, 200];

#[test]
fn every_form_equals_the_definition_in_f64_to_1e_12() {
    for form in FORMS {
        for gate in GATES {
            for length in LENGTHS {
                for tau in [16.0, 1.0, 0.1] {
                    let case = Case::<f64>::new(small(2, 1, 20, 9), gate, &[length], tau);
                    for (name, a, b) in names(&case.forward(form, 1), &case.naive_forward()) {
                        let e = error(a, b);
                        assert!(e < 1e-12, "{form:?} {gate:?} T {length} tau {tau} {name}: {e:.1e}");
                    }
                    for (name, a, b) in names(&case.backward(form, 1), &case.naive_backward()) {
                        let e = error(a, b);
                        assert!(e < 1e-12, "{form:?} {gate:?} T {length} tau {tau} d{name}: {e:.1e}");
                    }
                }
            }
        }
    }
}

fn names<'a, T, const N: usize>(
    a: &'a [Vec<T>; N],
    b: &'a [Vec<T>; N],
) -> impl Iterator<Item = (&'static str, &'a [T], &'a [T])> {
    let names: &[&str] = if N == 2 { &["o", "final_state"] } else { &["q", "k", "v", "g", "initial_state"] };
    (0..N).map(move |i| (names[i], &a[i][..], &b[i][..]))
}

#[test]
fn every_form_equals_the_definition_in_f32_to_5e_6() {
    let mut worst = (0.0f64, 0.0f64);
    for form in FORMS {
        for gate in GATES {
            for length in LENGTHS {
                for tau in [16.0, 1.0, 0.1] {
                    for gla in [small(2, 2, 64, 64), small(2, 1, 33, 70)] {
                        let case = Case::<f32>::new(gla, gate, &[length], tau);
                        let truth = case.to::<f64>();
                        for (a, b) in case.forward(form, 1).iter().zip(&truth.naive_forward()) {
                            let e = error(a, b);
                            worst.0 = worst.0.max(e);
                            assert!(e < 5e-6, "{form:?} {gate:?} T {length} tau {tau}: {e:.1e}");
                        }
                        let gradients = truth.naive_backward();
                        for (i, (a, b)) in case.backward(form, 1).iter().zip(&gradients).enumerate() {
                            let e = if i == 3 { gate_error(a, &truth, &gradients) } else { error(a, b) };
                            worst.1 = worst.1.max(e);
                            assert!(e < 5e-6, "{form:?} {gate:?} T {length} tau {tau} gradient {i}: {e:.1e}");
                        }
                    }
                }
            }
        }
    }
    eprintln!("largest relative error in f32: forward {:.1e}, backward {:.1e}", worst.0, worst.1);
}

#[test]
fn bf16_operands_cost_their_rounding_and_no_more() {
    for (gate, tau) in
        [(GateKind::None, 1.0), (GateKind::Head, 1.0), (GateKind::Channel, 16.0), (GateKind::Channel, 0.1)]
    {
        let gla = Gla { compute: Compute::Bf16, ..small(2, 1, 64, 80) };
        let case = Case::<f32>::new(gla, gate, &[200], tau);
        let truth = case.to::<f64>();
        let (o, want) = (case.forward(Form::Chunked, 1), truth.naive_forward());
        let e = error(&o[0], &want[0]).max(error(&o[1], &want[1]));
        assert!((1e-4..1e-2).contains(&e), "{gate:?} tau {tau}: {e:.1e}, bf16 rounds to 4e-3");
        let (d, want) = (case.backward(Form::Chunked, 1), truth.naive_backward());
        for i in [0, 1, 2, 4] {
            let e = error(&d[i], &want[i]);
            assert!(e < 1e-2, "{gate:?} tau {tau} gradient {i}: {e:.1e}");
        }
        if gate != GateKind::None {
            let e = gate_error(&d[3], &truth, &want);
            assert!(e < 3e-2, "{gate:?} tau {tau} gate gradient: {e:.1e}");
        }
        let exact = Case { gla: Gla { compute: Compute::F32, ..gla }, ..case.clone() };
        assert!(case.forward(Form::Recurrent, 1) == exact.forward(Form::Recurrent, 1), "no products, no rounding");
    }
}

#[test]
fn the_chosen_form_follows_its_rule() {
    let bf16 = Gla { compute: Compute::Bf16, ..Gla::new(4, 256, 512) };
    assert_eq!(gla_form(&bf16, &[1024]), Form::Chunked);
    assert_eq!(gla_form(&bf16, &[64, 3]), Form::Recurrent);
    assert_eq!(gla_forms(&bf16), [Form::Recurrent, Form::Chunked]);
    assert_eq!(gla_forms(&Gla::new(4, 256, 512)), [Form::Recurrent]);
    assert_eq!(gla_form(&Gla { compute: Compute::F32, ..bf16 }, &[1024]), Form::Recurrent);
    assert_eq!(gla_form(&Gla { compute: Compute::Bf16, ..Gla::new(4, 64, 64) }, &[1024]), Form::Recurrent);
}

#[test]
fn gradients_equal_finite_differences_to_1e_6() {
    for (gate, tau) in
        [(GateKind::Channel, 16.0), (GateKind::Channel, 0.3), (GateKind::Head, 1.0), (GateKind::None, 1.0)]
    {
        let case = Case::<f64>::new(small(2, 1, 5, 3), gate, &[19, 2], tau);
        type Tensor = fn(&mut Case<f64>) -> &mut Vec<f64>;
        let tensors: [Tensor; 5] = [|c| &mut c.q, |c| &mut c.k, |c| &mut c.v, |c| &mut c.g, |c| &mut c.initial_state];
        let gradients = FORMS.map(|form| case.backward(form, 1));
        for (i, tensor) in tensors.iter().enumerate() {
            let n = tensor(&mut case.clone()).len();
            let difference: Vec<f64> = (0..n)
                .map(|j| {
                    let at = |step: f64| {
                        let mut moved = case.clone();
                        tensor(&mut moved)[j] += step;
                        moved.loss()
                    };
                    // Central differences, extrapolated.
                    let central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                    (4.0 * central(1e-4) - central(2e-4)) / 3.0
                })
                .collect();
            for (form, gradients) in FORMS.iter().zip(&gradients) {
                let e = error(&gradients[i], &difference);
                assert!(e < 1e-6, "{form:?} {gate:?} tensor {i}: {e:.1e}");
            }
        }
    }
}

/// Runs a case in pieces: the tokens `from..to` of every sequence, with these initial states.
fn piece(pool: &Pool, case: &Case<f32>, from: usize, to: usize, state: &[f32], form: Form) -> [Vec<f32>; 2] {
    let gla = case.gla;
    let rows = |x: &[f32], width: usize| -> Vec<f32> {
        case.cu
            .windows(2)
            .flat_map(|w| &x[(w[0] as usize + from) * width..(w[0] as usize + to) * width])
            .copied()
            .collect()
    };
    let sequences = case.cu.len() - 1;
    let gate_width = case.g.len() / (case.cu[sequences] as usize);
    let part = Case {
        cu: (0..=sequences).map(|b| (b * (to - from)) as i32).collect(),
        q: rows(&case.q, gla.heads * gla.key_width),
        k: rows(&case.k, gla.kv_heads * gla.key_width),
        v: rows(&case.v, gla.kv_heads * gla.value_width),
        g: rows(&case.g, gate_width),
        d_o: rows(&case.d_o, gla.heads * gla.value_width),
        initial_state: state.to_vec(),
        ..case.clone()
    };
    part.forward_on(pool, form)
}

/// Outputs of sequence `b` among `sequences` of equal length, and its state.
fn of_sequence(b: usize, sequences: usize, [o, state]: &[Vec<f32>; 2]) -> [Vec<f32>; 2] {
    let (n, m) = (o.len() / sequences, state.len() / sequences);
    [o[b * n..(b + 1) * n].to_vec(), state[b * m..(b + 1) * m].to_vec()]
}

#[test]
fn recurrent_prefill_in_any_pieces_alone_or_in_a_batch_on_any_threads_has_the_same_bits() {
    const T: usize = 530;
    for gate in GATES {
        let gla = small(2, 1, 24, 40);
        let batch = Case::<f32>::new(gla, gate, &[T; 5], 4.0);
        let whole = batch.forward(Form::Recurrent, 1);
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            for chunk in [1, 7, 64, 512] {
                let mut state = batch.initial_state.clone();
                let mut outputs = vec![Vec::new(); 5];
                for from in (0..T).step_by(chunk) {
                    let r = piece(&pool, &batch, from, (from + chunk).min(T), &state, Form::Recurrent);
                    for (b, o) in outputs.iter_mut().enumerate() {
                        o.extend_from_slice(&of_sequence(b, 5, &r)[0]);
                    }
                    state.copy_from_slice(&r[1]);
                }
                assert!(outputs.concat() == whole[0], "{gate:?} chunks of {chunk}, {threads} threads: outputs");
                assert!(state == whole[1], "{gate:?} chunks of {chunk}, {threads} threads: states");
            }
        }
        let m = batch.initial_state.len() / 5;
        let rows = |x: &[f32]| x[x.len() / 5 * 3..x.len() / 5 * 4].to_vec();
        let alone = Case {
            cu: vec![0, T as i32],
            q: rows(&batch.q),
            k: rows(&batch.k),
            v: rows(&batch.v),
            g: rows(&batch.g),
            d_o: rows(&batch.d_o),
            initial_state: batch.initial_state[3 * m..4 * m].to_vec(),
            ..batch.clone()
        };
        assert!(alone.forward(Form::Recurrent, 2) == of_sequence(3, 5, &whole), "{gate:?} alone");
    }
}

#[test]
fn a_step_has_the_bits_of_the_recurrent_form_and_touches_only_its_slot() {
    for gate in GATES {
        for gla in [small(4, 2, 64, 64), small(2, 2, 19, 7), small(1, 1, 8, 300), small(3, 1, 130, 129)] {
            const T: usize = 9;
            let batch = Case::<f32>::new(gla, gate, &[T; 3], 2.0);
            let whole = batch.forward(Form::Recurrent, 1);
            for slots in [[0, 1, 2], [4, 0, 3]] {
                let elements = gla.state_elements(1);
                let mut state = vec![7.0f32; 5 * elements];
                for (b, slot) in slots.iter().enumerate() {
                    state[*slot as usize * elements..][..elements]
                        .copy_from_slice(&batch.initial_state[b * elements..][..elements]);
                }
                let pool = Pool::new(2);
                for t in 0..T {
                    let rows = |x: &[f32]| -> Vec<f32> {
                        let width = x.len() / (3 * T);
                        (0..3).flat_map(|b| &x[(b * T + t) * width..(b * T + t + 1) * width]).copied().collect()
                    };
                    let (q, k, v, g) = (rows(&batch.q), rows(&batch.k), rows(&batch.v), rows(&batch.g));
                    let gates = Case { g, ..batch.clone() };
                    let mut o = vec![f32::NAN; 3 * gla.heads * gla.value_width];
                    gla_step(&pool, &gla, &q, &k, &v, gates.gates(), &slots, &mut state, &mut o);
                    assert!(o == rows(&whole[0]), "{gate:?} {gla:?} token {t}");
                }
                for slot in 0..5 {
                    let state = &state[slot * elements..][..elements];
                    match slots.iter().position(|s| *s as usize == slot) {
                        Some(b) => assert!(state == &whole[1][b * elements..][..elements]),
                        None => assert!(state.iter().all(|x| *x == 7.0)),
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_one_slot_are_steps_in_order() {
    let gla = small(2, 2, 64, 256);
    let case = Case::<f32>::new(gla, GateKind::Channel, &[6], 2.0);
    let [want, want_state] = case.forward(Form::Recurrent, 1);
    let mut state = case.initial_state.clone();
    let mut o = vec![0.0; want.len()];
    gla_step(&Pool::new(3), &gla, &case.q, &case.k, &case.v, case.gates(), &[0; 6], &mut state, &mut o);
    assert!(o == want && state == want_state);
}

#[test]
fn a_split_sequence_equals_one_run() {
    for form in FORMS {
        let gla = small(2, 2, 16, 24);
        let case = Case::<f32>::new(gla, GateKind::Channel, &[200], 1.0);
        let whole = case.forward(form, 1);
        let pool = Pool::new(1);
        for split in [1, 16, 64, 77, 199] {
            let first = piece(&pool, &case, 0, split, &case.initial_state, form);
            let second = piece(&pool, &case, split, 200, &first[1], form);
            let e = error(&[&first[0][..], &second[0]].concat(), &whole[0]).max(error(&second[1], &whole[1]));
            assert!(e < 2e-6, "{form:?} split at {split}: {e:.1e}");
        }
    }
}

#[test]
fn packed_sequences_have_the_bits_of_separate_ones_forward_and_backward() {
    for form in FORMS {
        for gate in GATES {
            let gla = small(2, 1, 20, 33);
            let lengths = [65, 0, 1, 130, 16];
            let packed = Case::<f32>::new(gla, gate, &lengths, 2.0);
            let (outputs, gradients) = (packed.forward(form, 2), packed.backward(form, 2));
            for b in 0..lengths.len() {
                let (n, m) = (packed.cu[5] as usize, gla.state_elements(1));
                let part = |x: &[f32]| {
                    let width = x.len() / n;
                    x[packed.cu[b] as usize * width..packed.cu[b + 1] as usize * width].to_vec()
                };
                let state = |x: &[f32]| x[b * m..(b + 1) * m].to_vec();
                let alone = Case {
                    cu: vec![0, lengths[b] as i32],
                    q: part(&packed.q),
                    k: part(&packed.k),
                    v: part(&packed.v),
                    g: part(&packed.g),
                    d_o: part(&packed.d_o),
                    initial_state: state(&packed.initial_state),
                    d_final_state: state(&packed.d_final_state),
                    ..packed.clone()
                };
                let [o, s] = alone.forward(form, 1);
                assert!(o == part(&outputs[0]) && s == state(&outputs[1]), "{form:?} {gate:?} sequence {b}");
                let [dq, dk, dv, dg, ds] = alone.backward(form, 1);
                let [pq, pk, pv, pg, ps] = &gradients;
                let same = dq == part(pq) && dk == part(pk) && dv == part(pv) && dg == part(pg) && ds == state(ps);
                assert!(same, "{form:?} {gate:?} gradients of sequence {b}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for form in FORMS {
        let case = Case::<f32>::new(small(4, 2, 40, 100), GateKind::Channel, &[300, 17], 1.0);
        let (o, d) = (case.forward(form, 1), case.backward(form, 1));
        for threads in 2..=4 {
            assert!(
                case.forward(form, threads) == o && case.backward(form, threads) == d,
                "{form:?} {threads} threads"
            );
        }
    }
}

#[test]
fn a_gate_of_minus_1e30_leaves_exactly_the_new_token() {
    for form in FORMS {
        for at in [0, 5, 16, 63, 64, 70] {
            let gla = small(1, 1, 16, 16);
            let mut case = Case::<f32>::new(gla, GateKind::Channel, &[80], 0.5);
            case.g[at * 16..(at + 1) * 16].fill(-1e30);
            let truth = case.to::<f64>();
            let [o, state] = case.forward(form, 1);
            let [want, want_state] = truth.naive_forward();
            assert!(error(&o, &want) < 5e-6 && error(&state, &want_state) < 5e-6, "{form:?} reset at {at}");
            let gradients = truth.naive_backward();
            for (i, (a, b)) in case.backward(form, 1).iter().zip(&gradients).enumerate() {
                let e = if i == 3 { gate_error(a, &truth, &gradients) } else { error(a, b) };
                assert!(e < 5e-6, "{form:?} reset at {at}: gradient {i}: {e:.1e}");
            }
            // The state after the reset, alone: k vᵀ to the last bit.
            let [_, after] = piece(&Pool::new(1), &case, 0, at + 1, &case.initial_state, form);
            for c in 0..16 {
                for j in 0..16 {
                    assert_eq!(after[c * 16 + j], case.k[at * 16 + c] * case.v[at * 16 + j], "{form:?} at {at}");
                }
            }
        }
    }
}

/// The one-level form, which divides keys by the cumulative gate: what the two-level scheme avoids.
fn one_level(case: &Case<f32>) -> Vec<f32> {
    let (k, v, n) = (case.gla.key_width, case.gla.value_width, case.cu[1] as usize);
    let mut total = vec![0.0f32; k];
    let (mut up, mut down) = (case.q.clone(), case.k.clone());
    for t in 0..n {
        for c in 0..k {
            total[c] += case.g[t * k + c];
            up[t * k + c] *= total[c].exp();
            down[t * k + c] *= (-total[c]).exp();
        }
    }
    let mut o = vec![0.0; n * v];
    for i in 0..n {
        for j in 0..=i {
            let a: f32 = (0..k).map(|c| up[i * k + c] * down[j * k + c]).sum();
            for x in 0..v {
                o[i * v + x] += case.gla.scale as f32 * a * case.v[j * v + x];
            }
        }
    }
    o
}

#[test]
fn strong_gates_break_the_one_level_form_and_leave_the_others_exact() {
    let gla = small(1, 1, 32, 16);
    for (tau, finite) in [(16.0, true), (0.1, false)] {
        let mut case = Case::<f32>::new(gla, GateKind::Channel, &[64], tau);
        case.initial_state.fill(0.0);
        let truth = case.to::<f64>().naive_forward();
        let one = error(&one_level(&case), &truth[0]);
        assert_eq!(one < 1e-4, finite, "tau {tau}: the one-level form is off by {one:.1e}");
        for form in FORMS {
            let e = error(&case.forward(form, 1)[0], &truth[0]);
            eprintln!("tau {tau}: one-level {one:.1e}, {form:?} {e:.1e}");
            assert!(e < 2e-6, "{form:?} tau {tau}: {e:.1e}");
        }
    }
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let gla = small(4, 2, 3, 5);
    let case = Case::<f32>::new(gla, GateKind::Channel, &[4, 3], 1.0);
    let check = |gla: &Gla, case: &Case<f32>| {
        gla.check(&case.q, &case.k, &case.v, case.gates(), &case.cu, Some(&case.initial_state))
    };
    assert_eq!(check(&gla, &case), Ok(()));
    let refused = |change: &dyn Fn(&mut Gla, &mut Case<f32>)| {
        let (mut gla, mut case) = (gla, case.clone());
        change(&mut gla, &mut case);
        check(&gla, &case).expect_err("refused").to_string()
    };
    assert!(refused(&|_, c| c.g[7] = 0.5).contains("log-gate 7 (token 1) is 0.5, above 0"));
    assert!(refused(&|_, c| c.g[7] = f32::NAN).contains("log-gate 7 (token 1) is NaN"));
    assert!(refused(&|_, c| c.g[0] = f32::NEG_INFINITY).contains("finite"));
    assert!(refused(&|g, _| g.kv_heads = 3).contains("4 heads cannot share 3 key heads"));
    assert!(refused(&|g, _| g.key_width = 0).contains("key_width is 0"));
    assert!(refused(&|g, _| g.chunk = 24).contains("multiple of 16"));
    assert!(refused(&|g, _| g.scale = f64::NAN).contains("scale"));
    assert!(refused(&|_, c| c.cu = vec![0, 5, 4, 7]).contains("entry 2 is 4"));
    assert!(refused(&|_, c| c.cu = vec![0, 4, 8]).contains("entry 2 is 8"));
    assert!(refused(&|_, c| c.cu = vec![-1, 4, 7]).contains("entry 0 is -1"));
    assert!(refused(&|_, c| c.cu = vec![0]).contains("cu_seqlens"));
    assert!(refused(&|_, c| c.initial_state.truncate(1)).contains("initial_state has 1 elements"));
    assert!(refused(&|_, c| c.k.truncate(1)).contains("k has 1 elements, not 42 = [N, Hk, K]"));
    assert!(refused(&|_, c| c.q.truncate(5)).contains("q has 5 elements"));
    let mut growing = case.clone();
    growing.g[7] = 0.5;
    assert_eq!(check(&Gla { growing_gates: true, ..gla }, &growing), Ok(()));
    let mut reset = case.clone();
    reset.g[7] = -1e30;
    assert_eq!(check(&gla, &reset), Ok(()));
}
