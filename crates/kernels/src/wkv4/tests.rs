use super::*;
use crate::gla::longest;
use crate::gla::tests::{Fenced, Random, error};

#[derive(Clone)]
struct Case<T> {
    cu: Vec<i32>,
    w: Vec<T>,
    u: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    dy: Vec<T>,
}

impl<T: Real> Case<T> {
    /// Logarithmic weights of this size; decays from nearly none to nearly all.
    fn new(d: usize, lengths: &[usize], size: f64) -> Case<T> {
        let mut r = Random((lengths.iter().sum::<usize>() * d) as u64);
        let mut cu = vec![0];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as i32));
        let n = cu[lengths.len()] as usize;
        let mut tensor = |n: usize, size: f64| -> Vec<T> {
            r.tensor::<f32>(n).iter().map(|x| T::of(f64::from(*x * size as f32))).collect()
        };
        let w = tensor(d, 2.0).iter().map(|w| -w.exp()).map(|w| T::of(f64::from(w.f64() as f32))).collect();
        Case { w, u: tensor(d, 1.0), k: tensor(n * d, size), v: tensor(n * d, 1.0), dy: tensor(n * d, 1.0), cu }
    }

    fn to<U: Real>(&self) -> Case<U> {
        let to = |x: &[T]| x.iter().map(|x| U::of(x.f64())).collect::<Vec<U>>();
        let (w, u, k, v, dy) = (to(&self.w), to(&self.u), to(&self.k), to(&self.v), to(&self.dy));
        Case { cu: self.cu.clone(), w, u, k, v, dy }
    }

    fn inputs(&self) -> Wkv4Inputs<'_, T> {
        Wkv4Inputs { log_decay: &self.w, bonus: &self.u, k: &self.k, v: &self.v }
    }

    fn forward(&self, initial: Option<&[T]>, threads: usize) -> [Vec<T>; 2] {
        let mut y = Fenced::new(T::of(f64::NAN), self.v.len());
        let mut state = Fenced::new(T::of(f64::NAN), (self.cu.len() - 1) * STATE_ROWS * self.w.len());
        wkv4_forward(&Pool::new(threads), &self.inputs(), &self.cu, initial, y.inside(), state.inside());
        [y.check(), state.check()]
    }

    /// Gradients of w, u, k, v.
    fn backward(&self, threads: usize) -> [Vec<T>; 4] {
        let nan = |n: usize| Fenced::new(T::of(f64::NAN), n);
        let (mut w, mut u) = (nan(self.w.len()), nan(self.u.len()));
        let (mut k, mut v) = (nan(self.k.len()), nan(self.v.len()));
        let mut scratch = Fenced::new(0xFF, wkv4_backward_scratch::<T>(longest(&self.cu), threads));
        let d = Wkv4Gradients { log_decay: w.inside(), bonus: u.inside(), k: k.inside(), v: v.inside() };
        wkv4_backward(&Pool::new(threads), &self.inputs(), &self.cu, &self.dy, d, scratch.inside());
        scratch.check();
        [w.check(), u.check(), k.check(), v.check()]
    }

    fn naive(&self) -> Vec<T> {
        let mut y = vec![T::ZERO; self.v.len()];
        naive::forward(&self.inputs(), &self.cu, &mut y);
        y
    }

    /// Tokens `from..to` of a single sequence.
    fn piece(&self, from: usize, to: usize) -> Case<T> {
        let d = self.w.len();
        let rows = |x: &[T]| x[from * d..to * d].to_vec();
        let (k, v, dy) = (rows(&self.k), rows(&self.v), rows(&self.dy));
        Case { cu: vec![0, (to - from) as i32], k, v, dy, ..self.clone() }
    }
}

const LENGTHS: [usize; 9] = [1, 15, 16, 17, 63, 64, 65, 200, 1000];

#[test]
fn the_running_exponent_equals_the_definition() {
    let (mut cases, mut worst) = (0, [0.0f64; 2]);
    for (length, size, d) in LENGTHS.iter().flat_map(|l| [(*l, 1.0, 70), (*l, 8.0, 5)]) {
        for lengths in [&[length][..], &[length, 0, 7, length / 2 + 1]] {
            let case = Case::<f32>::new(d, lengths, size);
            let truth = case.to::<f64>().naive();
            let e = [error(&case.to::<f64>().forward(None, 1)[0], &truth), error(&case.forward(None, 1)[0], &truth)];
            // The running exponent is rounded to its own size with each token: in f32 large k cost digits.
            let bar = if size > 1.0 { 2e-5 } else { 3e-6 };
            assert!(e[0] < 1e-12 && e[1] < bar, "T {lengths:?}, k of {size}: {e:?}");
            worst = [worst[0].max(e[0]), worst[1].max(e[1])];
            cases += 1;
        }
    }
    eprintln!("wkv4: {cases} cases, worst error {:.1e} in f64, {:.1e} in f32", worst[0], worst[1]);
}

#[test]
fn gradients_equal_finite_differences_and_those_of_f32_those_of_f64() {
    let case = Case::<f64>::new(3, &[19, 0, 2], 2.0);
    type Tensor = fn(&mut Case<f64>) -> &mut Vec<f64>;
    let tensors: [Tensor; 4] = [|c| &mut c.w, |c| &mut c.u, |c| &mut c.k, |c| &mut c.v];
    let gradients = case.backward(1);
    for (i, tensor) in tensors.iter().enumerate() {
        let difference: Vec<f64> = (0..tensor(&mut case.clone()).len())
            .map(|j| {
                let at = |step: f64| {
                    let mut moved = case.clone();
                    tensor(&mut moved)[j] += step;
                    moved.naive().iter().zip(&case.dy).map(|(y, dy)| y * dy).sum::<f64>()
                };
                let central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                (4.0 * central(1e-4) - central(2e-4)) / 3.0
            })
            .collect();
        let e = error(&gradients[i], &difference);
        assert!(e < 1e-8, "tensor {i}: {e:.1e}");
    }
    let mut worst = 0.0f64;
    for length in LENGTHS {
        let case = Case::<f32>::new(70, &[length, 3], 2.0);
        for (i, (a, b)) in case.backward(1).iter().zip(&case.to::<f64>().backward(1)).enumerate() {
            let e = error(a, b);
            // The log-decay's gradient sums what the rounded exponents of all tokens say.
            assert!(e < if i == 0 { 1e-4 } else { 1e-5 }, "T {length}, tensor {i}: {e:.1e}");
            worst = worst.max(e);
        }
    }
    eprintln!("wkv4: worst error of a gradient in f32 {worst:.1e}");
}

#[test]
fn pieces_packing_threads_and_steps_do_not_change_a_bit() {
    let case = Case::<f32>::new(150, &[130], 3.0);
    let whole = case.forward(None, 1);
    for (length, threads) in [(1, 1), (7, 2), (64, 3)] {
        let (mut state, mut y) = (vec![0.0; whole[1].len()], vec![]);
        for from in (0..130).step_by(length) {
            let [part, next] = case.piece(from, (from + length).min(130)).forward(Some(&state), threads);
            y.extend(part);
            state = next;
        }
        assert!(y == whole[0] && state == whole[1], "pieces of {length}, {threads} threads");
    }
    let lengths = [65, 0, 1, 30];
    let packed = Case::<f32>::new(70, &lengths, 3.0);
    let (outputs, gradients) = (packed.forward(None, 2), packed.backward(2));
    for b in 0..lengths.len() {
        let (from, to) = (packed.cu[b] as usize, packed.cu[b + 1] as usize);
        let alone = packed.piece(from, to);
        assert!(alone.forward(None, 1)[0] == outputs[0][from * 70..to * 70], "sequence {b}");
        let d = alone.backward(1);
        assert!(d[2] == gradients[2][from * 70..to * 70] && d[3] == gradients[3][from * 70..to * 70], "sequence {b}");
    }
    assert!(packed.backward(1) == gradients, "threads");
    // Steps of three sequences in turn, in slots out of order, beside one that nobody names.
    let batch = Case::<f32>::new(70, &[9; 3], 3.0);
    let whole = batch.forward(None, 1);
    let size = STATE_ROWS * 70;
    let (slots, mut states) = ([3, 0, 2], vec![0.0f32; 4 * size]);
    states[size..2 * size].fill(7.0);
    for t in 0..9 {
        let rows = |x: &[f32]| -> Vec<f32> {
            (0..3).flat_map(|b| &x[(b * 9 + t) * 70..(b * 9 + t + 1) * 70]).copied().collect()
        };
        let (k, v) = (rows(&batch.k), rows(&batch.v));
        let mut y = vec![f32::NAN; v.len()];
        let x = Wkv4Inputs { k: &k, v: &v, ..batch.inputs() };
        wkv4_step(&Pool::new(2), &x, &slots, &mut states, &mut y);
        assert!(y == rows(&whole[0]), "token {t}");
    }
    for (b, slot) in slots.iter().enumerate() {
        assert!(states[*slot as usize * size..][..size] == whole[1][b * size..][..size], "slot {slot}");
    }
    assert!(states[size..2 * size].iter().all(|x| *x == 7.0), "another slot is left alone");
    // Rows of one slot are steps in order.
    let (mut states, mut y) = (vec![0.0; size], vec![0.0; 9 * 70]);
    let one = batch.piece(0, 9);
    wkv4_step(&Pool::new(3), &one.inputs(), &[0; 9], &mut states, &mut y);
    assert!(y == whole[0][..9 * 70] && states == whole[1][..size]);
}

#[test]
fn weights_that_overflow_as_exponentials_stay_finite() {
    for shift in [-1e4f32, -200.0, 200.0, 1e4] {
        let plain = Case::<f32>::new(20, &[40], 1.0);
        let mut moved = plain.clone();
        moved.k.iter_mut().for_each(|k| *k += shift);
        let [y, _] = moved.forward(None, 1);
        // All weights of a channel are e^shift times as large: their mean is the same, up to what k loses in f32.
        let e = error(&y, &plain.to::<f64>().naive());
        assert!(e < 3e-3, "shift {shift}: {e:.1e}");
        assert!(moved.backward(1).iter().flatten().all(|x| x.is_finite()), "shift {shift}");
    }
}
