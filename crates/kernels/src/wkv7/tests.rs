use super::*;
use crate::gla::tests::{Fenced, Random, error};

const FORMS: [Form; 2] = [Form::Recurrent, Form::Chunked];
const LENGTHS: [usize; 9] = [1, 15, 16, 17, 63, 64, 65, 200, 1000];

#[derive(Clone)]
struct Case<T> {
    wkv: Wkv7,
    cu: Vec<i32>,
    r: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    a: Vec<T>,
    b: Vec<T>,
    g: Vec<T>,
    initial: Vec<T>,
    d_o: Vec<T>,
}

impl<T: Real> Case<T> {
    /// a of length 1, b = −a ⊙ η with η from 0 to 1; log-decays of −exp(normal) times `strength`, with `resets` one token
    /// in ten forgets everything.
    fn new(wkv: Wkv7, lengths: &[usize], strength: f64, resets: bool) -> Case<T> {
        let mut random = Random(lengths.iter().sum::<usize>() as u64 + 1);
        let mut cu = vec![0];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as i32));
        let n = cu[lengths.len()] as usize * wkv.heads;
        // Inputs that f32 holds exactly, so that both element types see the same numbers.
        let exact = |x: f64| T::of(f64::from(x as f32));
        let mut tensor =
            |n: usize| -> Vec<T> { random.tensor::<f32>(n).iter().map(|x| T::of(f64::from(*x))).collect() };
        let by_key = n * wkv.key_width;
        let (r, k, mut a, g) = (tensor(by_key), tensor(by_key), tensor(by_key), tensor(by_key));
        let (v, d_o) = (tensor(n * wkv.value_width), tensor(n * wkv.value_width));
        let initial = tensor(wkv.state_elements(lengths.len()));
        for a in a.chunks_exact_mut(wkv.key_width) {
            let length = a.iter().map(|a| a.f64() * a.f64()).sum::<f64>().sqrt();
            a.iter_mut().for_each(|a| *a = exact(a.f64() / length));
        }
        let b = a.iter().map(|a| exact(-a.f64() * random.uniform())).collect();
        let mut g: Vec<T> = g.iter().map(|g| exact(-g.f64().exp() * strength)).collect();
        let mut b: Vec<T> = b;
        for (g, b) in g.chunks_exact_mut(wkv.key_width).zip(b.chunks_exact_mut(wkv.key_width)) {
            if resets && random.uniform() < 0.1 {
                g.fill(T::of(-1e30));
                b.fill(T::ZERO);
            }
        }
        Case { wkv, cu, r, k, v, a, b, g, initial, d_o }
    }

    fn to<U: Real>(&self) -> Case<U> {
        let to = |x: &[T]| x.iter().map(|x| U::of(x.f64())).collect::<Vec<U>>();
        let (r, k, v, a, b, g) = (to(&self.r), to(&self.k), to(&self.v), to(&self.a), to(&self.b), to(&self.g));
        Case { wkv: self.wkv, cu: self.cu.clone(), r, k, v, a, b, g, initial: to(&self.initial), d_o: to(&self.d_o) }
    }

    fn inputs(&self) -> Wkv7Inputs<'_, T> {
        Wkv7Inputs {
            r: &self.r,
            k: &self.k,
            v: &self.v,
            a: &self.a,
            b: &self.b,
            log_decay: &self.g,
            cu_seqlens: &self.cu,
            initial_state: Some(&self.initial),
        }
    }

    fn forward(&self, form: Form, threads: usize) -> [Vec<T>; 2] {
        let mut o = Fenced::new(T::of(f64::NAN), self.v.len());
        let mut state = Fenced::new(T::of(f64::NAN), self.initial.len());
        let mut scratch = Fenced::new(0xFF, wkv7_scratch::<T>(&self.wkv, form, longest(&self.cu), threads));
        let pool = Pool::new(threads);
        wkv7_forward(&pool, &self.wkv, form, &self.inputs(), o.inside(), state.inside(), scratch.inside());
        scratch.check();
        [o.check(), state.check()]
    }

    /// Gradients of r, k, v, a, b, the log-decays, the initial states.
    fn backward(&self, form: Form, threads: usize) -> [Vec<T>; 7] {
        let nan = |n: usize| Fenced::new(T::of(f64::NAN), n);
        let (mut r, mut k, mut v) = (nan(self.r.len()), nan(self.k.len()), nan(self.v.len()));
        let (mut a, mut b, mut g) = (nan(self.a.len()), nan(self.b.len()), nan(self.g.len()));
        let mut state = nan(self.initial.len());
        let mut scratch = Fenced::new(0xFF, wkv7_backward_scratch::<T>(&self.wkv, form, longest(&self.cu), threads));
        let d = Wkv7Gradients {
            r: r.inside(),
            k: k.inside(),
            v: v.inside(),
            a: a.inside(),
            b: b.inside(),
            log_decay: g.inside(),
            initial_state: Some(state.inside()),
        };
        wkv7_backward(&Pool::new(threads), &self.wkv, form, &self.inputs(), &self.d_o, d, scratch.inside());
        scratch.check();
        [r.check(), k.check(), v.check(), a.check(), b.check(), g.check(), state.check()]
    }

    fn naive(&self) -> [Vec<T>; 2] {
        let (mut o, mut state) = (vec![T::ZERO; self.v.len()], vec![T::ZERO; self.initial.len()]);
        naive::forward(&self.wkv, &self.inputs(), &mut o, &mut state);
        [o, state]
    }

    fn piece(&self, from: usize, to: usize, state: &[T]) -> Case<T> {
        let n = self.cu[self.cu.len() - 1] as usize;
        let rows = |x: &[T]| x[from * (x.len() / n)..to * (x.len() / n)].to_vec();
        Case {
            cu: vec![0, (to - from) as i32],
            r: rows(&self.r),
            k: rows(&self.k),
            v: rows(&self.v),
            a: rows(&self.a),
            b: rows(&self.b),
            g: rows(&self.g),
            d_o: rows(&self.d_o),
            initial: state.to_vec(),
            wkv: self.wkv,
        }
    }
}

/// The error of dg relative to the terms r ⊙ dr that it is a difference of: under strong decays those nearly cancel.
fn gate_error<T: Real>(dg: &[T], case: &Case<f64>, gradients: &[Vec<f64>; 7]) -> f64 {
    let largest = |x: &[f64]| x.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    let terms: Vec<f64> = case.r.iter().zip(&gradients[0]).map(|(r, dr)| r * dr).collect();
    error(dg, &gradients[5]) * largest(&gradients[5]) / largest(&terms).max(largest(&gradients[5]))
}

#[test]
fn both_forms_equal_the_definition_and_their_gradients_the_recurrence_in_f64() {
    let (mut cases, mut worst) = (0, [0.0f64; 4]);
    // From no decay at all, over what chunks can divide by and what they cannot, to nothing kept.
    let strengths = [(0.0, false), (0.01, false), (0.3, false), (8.0, false), (0.3, true), (1e4, false)];
    for (length, (strength, resets)) in LENGTHS.iter().flat_map(|l| strengths.map(|s| (*l, s))) {
        for lengths in [&[length][..], &[length, 0, 7, length / 2 + 1]] {
            for wkv in [Wkv7::new(2, 16, 16), Wkv7::new(1, 33, 70)] {
                let case = Case::<f32>::new(wkv, lengths, strength, resets);
                let truth = case.to::<f64>();
                let (outputs, gradients) = (truth.naive(), truth.backward(Form::Recurrent, 1));
                for form in FORMS {
                    let what = format!("{form:?} T {lengths:?}, decay {strength}, resets {resets}");
                    let pair =
                        [truth.forward(form, 1), case.forward(form, 1).map(|x| x.iter().map(|x| x.f64()).collect())];
                    for (i, want) in outputs.iter().enumerate() {
                        let e = [error(&pair[0][i], want), error(&pair[1][i], want)];
                        assert!(e[0] < 1e-12 && e[1] < 5e-6, "{what}: {e:?}");
                        worst = [worst[0].max(e[0]), worst[1].max(e[1]), worst[2], worst[3]];
                    }
                    let (exact, single) = (truth.backward(form, 1), case.backward(form, 1));
                    for (i, want) in gradients.iter().enumerate() {
                        let e = if i == 5 {
                            [gate_error(&exact[i], &truth, &gradients), gate_error(&single[i], &truth, &gradients)]
                        } else {
                            [error(&exact[i], want), error(&single[i], want)]
                        };
                        assert!(e[0] < 1e-12 && e[1] < 1e-5, "{what}: gradient {i} {e:?}");
                        worst = [worst[0], worst[1], worst[2].max(e[0]), worst[3].max(e[1])];
                    }
                    cases += 1;
                }
            }
        }
    }
    let [f64, f32, gradients, single] = worst;
    eprintln!(
        "wkv7: {cases} cases, worst error {f64:.1e} in f64, {f32:.1e} in f32, of gradients {gradients:.1e}, {single:.1e}"
    );
}

#[test]
fn chunks_of_any_length_agree() {
    for chunk in [16, 48, 64, 128] {
        for strength in [0.01, 0.3, 8.0] {
            let wkv = Wkv7 { chunk, ..Wkv7::new(2, 12, 10) };
            let case = Case::<f64>::new(wkv, &[150, 3], strength, false);
            let pairs = case.forward(Form::Chunked, 1).into_iter().zip(case.naive());
            for (a, b) in
                pairs.chain(case.backward(Form::Chunked, 1).into_iter().zip(case.backward(Form::Recurrent, 1)))
            {
                assert!(error(&a, &b) < 1e-11, "chunks of {chunk}, decay {strength}: {:.1e}", error(&a, &b));
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for strength in [0.3, 8.0] {
        finite_differences(&Case::<f64>::new(Wkv7::new(2, 4, 3), &[19, 0, 2], strength, false));
    }
}

fn finite_differences(case: &Case<f64>) {
    type Tensor = fn(&mut Case<f64>) -> &mut Vec<f64>;
    let tensors: [Tensor; 7] =
        [|c| &mut c.r, |c| &mut c.k, |c| &mut c.v, |c| &mut c.a, |c| &mut c.b, |c| &mut c.g, |c| &mut c.initial];
    let gradients = FORMS.map(|form| case.backward(form, 1));
    for (i, tensor) in tensors.iter().enumerate() {
        let difference: Vec<f64> = (0..tensor(&mut case.clone()).len())
            .map(|j| {
                let at = |step: f64| {
                    let mut moved = case.clone();
                    tensor(&mut moved)[j] += step;
                    moved.naive()[0].iter().zip(&case.d_o).map(|(o, d)| o * d).sum::<f64>()
                };
                let central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                (4.0 * central(1e-4) - central(2e-4)) / 3.0
            })
            .collect();
        for (form, gradients) in FORMS.iter().zip(&gradients) {
            let e = error(&gradients[i], &difference);
            assert!(e < 1e-8, "{form:?} tensor {i}: {e:.1e}");
        }
    }
}

#[test]
fn pieces_packing_threads_and_steps_do_not_change_a_bit() {
    for wkv in [Wkv7::new(2, 24, 100), Wkv7::new(3, 64, 64), Wkv7::new(1, 7, 5)] {
        let case = Case::<f32>::new(wkv, &[130], 0.3, false);
        let whole = case.forward(Form::Recurrent, 1);
        for (length, threads) in [(1, 1), (7, 2), (64, 3)] {
            let (mut state, mut o) = (case.initial.clone(), vec![]);
            for from in (0..130).step_by(length) {
                let [part, next] = case.piece(from, (from + length).min(130), &state).forward(Form::Recurrent, threads);
                o.extend(part);
                state = next;
            }
            assert!(o == whole[0] && state == whole[1], "pieces of {length}, {threads} threads");
        }
        let (mut state, mut o) = (case.initial.clone(), vec![f32::NAN; case.v.len()]);
        wkv7_step(&Pool::new(2), &wkv, &case.inputs(), &[0; 130], &mut state, &mut o);
        assert!(o == whole[0] && state == whole[1], "rows of one slot are steps in order");
    }
    let wkv = Wkv7::new(2, 20, 33);
    let lengths = [65, 0, 1, 130];
    let packed = Case::<f32>::new(wkv, &lengths, 0.3, false);
    for form in FORMS {
        packed_bits(&packed, form);
    }
}

fn packed_bits(packed: &Case<f32>, form: Form) {
    let (outputs, gradients) = (packed.forward(form, 2), packed.backward(form, 2));
    assert!(packed.forward(form, 1) == outputs && packed.backward(form, 3) == gradients, "threads");
    let (size, lengths) = (packed.wkv.state_elements(1), packed.cu.len() - 1);
    for b in 0..lengths {
        let (from, to) = (packed.cu[b] as usize, packed.cu[b + 1] as usize);
        let alone = packed.piece(from, to, &packed.initial[b * size..(b + 1) * size]);
        let [o, state] = alone.forward(form, 1);
        assert!(o == outputs[0][from * 66..to * 66] && state == outputs[1][b * size..(b + 1) * size], "sequence {b}");
        for (i, d) in alone.backward(form, 1).iter().enumerate().filter(|(i, _)| *i < 6) {
            let width = if i == 2 { 66 } else { 40 };
            assert!(*d == gradients[i][from * width..to * width], "gradient {i} of sequence {b}");
        }
    }
}

#[test]
fn steps_touch_only_the_slots_that_rows_name() {
    let wkv = Wkv7::new(2, 16, 48);
    let batch = Case::<f32>::new(wkv, &[9; 3], 0.3, false);
    let (whole, size) = (batch.forward(Form::Recurrent, 1), wkv.state_elements(1));
    let (slots, mut states) = ([4, 0, 3], vec![7.0f32; 5 * size]);
    for (b, slot) in slots.iter().enumerate() {
        states[*slot as usize * size..][..size].copy_from_slice(&batch.initial[b * size..(b + 1) * size]);
    }
    for t in 0..9 {
        let rows = |x: &[f32]| -> Vec<f32> {
            let width = x.len() / 27;
            (0..3).flat_map(|b| &x[(b * 9 + t) * width..(b * 9 + t + 1) * width]).copied().collect()
        };
        let (r, k, v) = (rows(&batch.r), rows(&batch.k), rows(&batch.v));
        let (a, b, g) = (rows(&batch.a), rows(&batch.b), rows(&batch.g));
        let x = Wkv7Inputs { r: &r, k: &k, v: &v, a: &a, b: &b, log_decay: &g, ..batch.inputs() };
        let mut o = vec![f32::NAN; v.len()];
        wkv7_step(&Pool::new(2), &wkv, &x, &slots, &mut states, &mut o);
        assert!(o == rows(&whole[0]), "token {t}");
    }
    for slot in 0..5 {
        let state = &states[slot * size..(slot + 1) * size];
        match slots.iter().position(|s| *s as usize == slot) {
            Some(b) => assert!(state == &whole[1][b * size..(b + 1) * size]),
            None => assert!(state.iter().all(|x| *x == 7.0), "another slot is left alone"),
        }
    }
}

#[test]
fn a_key_that_is_taken_away_whole_is_overwritten() {
    // η = 1 and no decay: what is held under a is replaced by what is written under the same key.
    let mut case = Case::<f64>::new(Wkv7::new(1, 8, 6), &[40], 0.0, false);
    let key: Vec<f64> = case.a[39 * 8..].to_vec();
    for t in [20, 39] {
        for (c, key) in key.iter().enumerate() {
            case.a[t * 8 + c] = *key;
            case.b[t * 8 + c] = -key;
            case.k[t * 8 + c] = *key;
            case.r[t * 8 + c] = *key;
        }
    }
    for form in FORMS {
        let read = case.forward(form, 1)[0][39 * 6..].to_vec();
        // Keys are of length 1 in f32.
        assert!(error(&read, &case.v[39 * 6..]) < 1e-6, "only what was written last is read");
    }
}

#[test]
fn bad_inputs_are_refused_by_name() {
    let case = Case::<f32>::new(Wkv7::new(2, 4, 3), &[5], 0.3, false);
    let wkv = case.wkv;
    assert_eq!(wkv.check(&case.inputs()), Ok(()));
    let refused = |wkv: Wkv7, x: Wkv7Inputs<'_, f32>, part: &str| {
        let text = wkv.check(&x).expect_err(part).to_string();
        assert!(text.contains(part), "{text}");
    };
    refused(Wkv7 { value_width: 0, ..wkv }, case.inputs(), "value_width is 0");
    refused(Wkv7 { key_width: 2000, ..wkv }, case.inputs(), "2000");
    refused(Wkv7 { chunk: 24, ..wkv }, case.inputs(), "multiple of 16");
    refused(wkv, Wkv7Inputs { v: &case.v[1..], ..case.inputs() }, "v has");
    refused(wkv, Wkv7Inputs { b: &case.b[1..], ..case.inputs() }, "b has");
    refused(wkv, Wkv7Inputs { cu_seqlens: &[0, 3, 2, 5], ..case.inputs() }, "entry 2 is 2");
    refused(wkv, Wkv7Inputs { initial_state: Some(&[1.0]), ..case.inputs() }, "initial_state");
    let mut g = case.g.clone();
    g[9] = f32::NAN;
    refused(wkv, Wkv7Inputs { log_decay: &g, ..case.inputs() }, "log-gate 9 (token 1)");
}
