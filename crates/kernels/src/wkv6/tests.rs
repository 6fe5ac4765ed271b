use super::*;
use crate::gla::tests::{Fenced, Random, error};

const FORMS: [Form; 3] = [Form::Recurrent, Form::Chunked, Form::Parallel];
const LENGTHS: [usize; 9] = [1, 15, 16, 17, 63, 64, 65, 200, 1000];

#[derive(Clone)]
struct Case<T> {
    wkv: Wkv6,
    cu: Vec<i32>,
    r: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    g: Vec<T>,
    u: Vec<T>,
    initial: Vec<T>,
    d_o: Vec<T>,
}

impl<T: Real> Case<T> {
    /// Log-decays of −exp(normal) times `strength`; with `resets` one in ten is −1e30.
    fn new(wkv: Wkv6, lengths: &[usize], strength: f64, resets: bool) -> Case<T> {
        let mut random = Random(lengths.iter().sum::<usize>() as u64 + 1);
        let mut cu = vec![0];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as i32));
        let n = cu[lengths.len()] as usize * wkv.heads;
        // Inputs that f32 holds exactly, so that both element types see the same numbers.
        let mut tensor =
            |n: usize| -> Vec<T> { random.tensor::<f32>(n).iter().map(|x| T::of(f64::from(*x))).collect() };
        let (r, k, g) = (tensor(n * wkv.key_width), tensor(n * wkv.key_width), tensor(n * wkv.key_width));
        let (v, d_o, u) = (tensor(n * wkv.value_width), tensor(n * wkv.value_width), tensor(wkv.heads * wkv.key_width));
        let initial = tensor(wkv.state_elements(lengths.len()));
        let decay = |g: &T| if resets && random.uniform() < 0.1 { -1e30 } else { -g.f64().exp() * strength };
        let g = g.iter().map(decay).map(|g| T::of(f64::from(g as f32))).collect();
        Case { wkv, cu, r, k, v, g, u, initial, d_o }
    }

    fn to<U: Real>(&self) -> Case<U> {
        let to = |x: &[T]| x.iter().map(|x| U::of(x.f64())).collect::<Vec<U>>();
        let (r, k, v, g, u) = (to(&self.r), to(&self.k), to(&self.v), to(&self.g), to(&self.u));
        Case { wkv: self.wkv, cu: self.cu.clone(), r, k, v, g, u, initial: to(&self.initial), d_o: to(&self.d_o) }
    }

    fn inputs(&self) -> Wkv6Inputs<'_, T> {
        Wkv6Inputs {
            r: &self.r,
            k: &self.k,
            v: &self.v,
            log_decay: &self.g,
            bonus: &self.u,
            cu_seqlens: &self.cu,
            initial_state: Some(&self.initial),
        }
    }

    fn tokens(&self) -> usize {
        self.cu[self.cu.len() - 1] as usize
    }

    fn forward(&self, form: Form, threads: usize) -> [Vec<T>; 2] {
        let mut o = Fenced::new(T::of(f64::NAN), self.v.len());
        let mut state = Fenced::new(T::of(f64::NAN), self.initial.len());
        let mut scratch = Fenced::new(0xFF, wkv6_scratch::<T>(&self.wkv, form, self.tokens(), threads));
        let pool = Pool::new(threads);
        wkv6_forward(&pool, &self.wkv, form, &self.inputs(), o.inside(), state.inside(), scratch.inside());
        scratch.check();
        [o.check(), state.check()]
    }

    /// Gradients of r, k, v, the log-decays, the bonus, the initial states.
    fn backward(&self, form: Form, threads: usize) -> [Vec<T>; 6] {
        let nan = |n: usize| Fenced::new(T::of(f64::NAN), n);
        let (mut r, mut k, mut v) = (nan(self.r.len()), nan(self.k.len()), nan(self.v.len()));
        let (mut g, mut u, mut state) = (nan(self.g.len()), nan(self.u.len()), nan(self.initial.len()));
        let mut scratch = Fenced::new(0xFF, wkv6_backward_scratch::<T>(&self.wkv, form, self.tokens(), threads));
        let d = Wkv6Gradients {
            r: r.inside(),
            k: k.inside(),
            v: v.inside(),
            log_decay: g.inside(),
            bonus: u.inside(),
            initial_state: Some(state.inside()),
        };
        wkv6_backward(&Pool::new(threads), &self.wkv, form, &self.inputs(), &self.d_o, d, scratch.inside());
        scratch.check();
        [r.check(), k.check(), v.check(), g.check(), u.check(), state.check()]
    }

    fn naive_forward(&self) -> [Vec<T>; 2] {
        let (mut o, mut state) = (vec![T::ZERO; self.v.len()], vec![T::ZERO; self.initial.len()]);
        naive::forward(&self.wkv, &self.inputs(), &mut o, &mut state);
        [o, state]
    }

    fn naive_backward(&self) -> [Vec<T>; 6] {
        let d = naive::backward(&self.wkv, &self.inputs(), &self.d_o);
        [d.r, d.k, d.v, d.log_decay, d.bonus, d.initial_state]
    }

    /// Tokens `from..to` of sequence `b`'s tokens, with this state before them.
    fn piece(&self, from: usize, to: usize, state: &[T]) -> Case<T> {
        let n = self.tokens();
        let rows = |x: &[T]| x[from * (x.len() / n)..to * (x.len() / n)].to_vec();
        let (r, k, v, g, d_o) = (rows(&self.r), rows(&self.k), rows(&self.v), rows(&self.g), rows(&self.d_o));
        Case { cu: vec![0, (to - from) as i32], r, k, v, g, d_o, initial: state.to_vec(), ..self.clone() }
    }
}

/// The error of the log-decays' gradient relative to the terms r ⊙ dr that it is a difference of.
fn decay_error<T: Real>(dg: &[T], case: &Case<f64>, gradients: &[Vec<f64>; 6]) -> f64 {
    let largest = |x: &[f64]| x.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    let terms = case.r.iter().zip(&gradients[0]).fold(0.0, |m: f64, (r, dr)| m.max((r * dr).abs()));
    error(dg, &gradients[3]) * largest(&gradients[3]) / terms.max(largest(&gradients[3]))
}

fn compare<T: Real>(wkv: Wkv6, tolerance: f64) -> (usize, [f64; 2]) {
    let (mut cases, mut worst) = (0, [0.0f64; 2]);
    let strengths = [(0.01, false), (0.5, false), (8.0, false), (0.5, true)];
    for (length, (strength, resets)) in LENGTHS.iter().flat_map(|l| strengths.map(|s| (*l, s))) {
        for lengths in [&[length][..], &[length, 0, 7, length / 2 + 1]] {
            let case = Case::<T>::new(wkv, lengths, strength, resets);
            let truth = case.to::<f64>();
            let (outputs, gradients) = (truth.naive_forward(), truth.naive_backward());
            for form in FORMS {
                let what = format!("{form:?}, T {lengths:?}, decay {strength}, resets {resets}");
                for (a, b) in case.forward(form, 1).iter().zip(&outputs) {
                    worst[0] = worst[0].max(error(a, b));
                    assert!(error(a, b) < tolerance, "{what}: forward {:.1e}", error(a, b));
                }
                for (i, (a, b)) in case.backward(form, 1).iter().zip(&gradients).enumerate() {
                    let e = if i == 3 { decay_error(a, &truth, &gradients) } else { error(a, b) };
                    worst[1] = worst[1].max(e);
                    assert!(e < tolerance, "{what}: gradient {i} {e:.1e}");
                }
                cases += 1;
            }
        }
    }
    (cases, worst)
}

#[test]
fn every_form_equals_the_definition() {
    for (name, (cases, worst)) in
        [("f64", compare::<f64>(Wkv6::new(2, 20, 9), 1e-12)), ("f32", compare::<f32>(Wkv6::new(2, 33, 70), 5e-6))]
    {
        eprintln!("wkv6 {name}: {cases} cases, worst error {:.1e} forward, {:.1e} backward", worst[0], worst[1]);
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let case = Case::<f64>::new(Wkv6::new(2, 4, 3), &[19, 2], 0.5, false);
    type Tensor = fn(&mut Case<f64>) -> &mut Vec<f64>;
    let tensors: [Tensor; 6] =
        [|c| &mut c.r, |c| &mut c.k, |c| &mut c.v, |c| &mut c.g, |c| &mut c.u, |c| &mut c.initial];
    let gradients = FORMS.map(|form| case.backward(form, 1));
    for (i, tensor) in tensors.iter().enumerate() {
        let difference: Vec<f64> = (0..tensor(&mut case.clone()).len())
            .map(|j| {
                let at = |step: f64| {
                    let mut moved = case.clone();
                    tensor(&mut moved)[j] += step;
                    moved.naive_forward()[0].iter().zip(&case.d_o).map(|(o, d)| o * d).sum::<f64>()
                };
                let central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                (4.0 * central(1e-4) - central(2e-4)) / 3.0
            })
            .collect();
        for (form, gradients) in FORMS.iter().zip(&gradients) {
            let e = error(&gradients[i], &difference);
            assert!(e < 1e-8, "{form:?}, tensor {i}: {e:.1e}");
        }
    }
}

#[test]
fn pieces_packing_threads_and_steps_do_not_change_a_bit() {
    for wkv in [Wkv6::new(2, 24, 100), Wkv6::new(3, 64, 64), Wkv6::new(1, 7, 5)] {
        let case = Case::<f32>::new(wkv, &[130], 0.5, false);
        let whole = case.forward(Form::Recurrent, 1);
        for (length, threads) in [(1, 1), (7, 2), (64, 3)] {
            let (mut state, mut o) = (case.initial.clone(), vec![]);
            for from in (0..130).step_by(length) {
                let piece = case.piece(from, (from + length).min(130), &state);
                let [part, next] = piece.forward(Form::Recurrent, threads);
                o.extend(part);
                state = next;
            }
            assert!(o == whole[0] && state == whole[1], "pieces of {length}, {threads} threads");
        }
        let (mut state, mut o) = (case.initial.clone(), vec![f32::NAN; case.v.len()]);
        wkv6_step(&Pool::new(2), &wkv, &case.inputs(), &[0; 130], &mut state, &mut o);
        assert!(o == whole[0] && state == whole[1], "rows of one slot are steps in order");
    }
    let wkv = Wkv6::new(2, 20, 33);
    for form in FORMS {
        let lengths = [65, 0, 1, 130];
        let packed = Case::<f32>::new(wkv, &lengths, 0.5, false);
        let (outputs, gradients) = (packed.forward(form, 2), packed.backward(form, 2));
        assert!(packed.forward(form, 1) == outputs && packed.backward(form, 3) == gradients, "{form:?} threads");
        let size = wkv.state_elements(1);
        for b in 0..lengths.len() {
            let (from, to) = (packed.cu[b] as usize, packed.cu[b + 1] as usize);
            let alone = packed.piece(from, to, &packed.initial[b * size..(b + 1) * size]);
            let [o, state] = alone.forward(form, 1);
            assert!(o == outputs[0][from * 66..to * 66] && state == outputs[1][b * size..(b + 1) * size], "{form:?}");
            let d = alone.backward(form, 1);
            for i in [0, 1, 3] {
                assert!(d[i] == gradients[i][from * 40..to * 40], "{form:?} gradient {i} of sequence {b}");
            }
            assert!(d[2] == gradients[2][from * 66..to * 66], "{form:?} sequence {b}");
        }
    }
}

#[test]
fn steps_touch_only_the_slots_that_rows_name() {
    let wkv = Wkv6::new(2, 16, 48);
    let batch = Case::<f32>::new(wkv, &[9; 3], 0.5, false);
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
        let (r, k, v, g) = (rows(&batch.r), rows(&batch.k), rows(&batch.v), rows(&batch.g));
        let x = Wkv6Inputs { r: &r, k: &k, v: &v, log_decay: &g, ..batch.inputs() };
        let mut o = vec![f32::NAN; v.len()];
        wkv6_step(&Pool::new(2), &wkv, &x, &slots, &mut states, &mut o);
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
fn bad_inputs_are_refused_by_name() {
    let case = Case::<f32>::new(Wkv6::new(2, 4, 3), &[5], 0.5, false);
    let wkv = case.wkv;
    assert_eq!(wkv.check(&case.inputs()), Ok(()));
    let refused = |wkv: Wkv6, x: Wkv6Inputs<'_, f32>, part: &str| {
        let text = wkv.check(&x).expect_err(part).to_string();
        assert!(text.contains(part), "{text}");
    };
    refused(Wkv6 { heads: 0, ..wkv }, case.inputs(), "heads is 0");
    refused(Wkv6 { key_width: 2000, ..wkv }, case.inputs(), "2000");
    refused(Wkv6 { chunk: 20, ..wkv }, case.inputs(), "multiple of 16");
    refused(wkv, Wkv6Inputs { v: &case.v[1..], ..case.inputs() }, "v has");
    refused(wkv, Wkv6Inputs { bonus: &case.u[1..], ..case.inputs() }, "bonus has");
    refused(wkv, Wkv6Inputs { cu_seqlens: &[0, 6], ..case.inputs() }, "cu_seqlens");
    refused(wkv, Wkv6Inputs { initial_state: Some(&[1.0]), ..case.inputs() }, "initial_state");
    for bad in [f32::NAN, 0.5, f32::NEG_INFINITY] {
        let mut g = case.g.clone();
        g[9] = bad;
        refused(wkv, Wkv6Inputs { log_decay: &g, ..case.inputs() }, "log-gate 9 (token 1)");
    }
}
