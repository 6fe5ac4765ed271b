use super::*;
use crate::gla::longest;
use crate::gla::tests::{Fenced, Random, error};

#[derive(Clone)]
struct Case<T> {
    cu: Vec<i32>,
    x: Vec<T>,
    delta: Vec<T>,
    a: Vec<T>,
    b: Vec<T>,
    c: Vec<T>,
    skip: Vec<T>,
    initial: Vec<T>,
    dy: Vec<T>,
}

impl<T: Real> Case<T> {
    /// Time steps of exp(normal) times `step`, A from −1 to −16 as in Mamba.
    fn new((channels, states): (usize, usize), lengths: &[usize], step: f64) -> Case<T> {
        let mut r = Random((lengths.iter().sum::<usize>() * channels) as u64);
        let mut cu = vec![0];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as i32));
        let n = cu[lengths.len()] as usize;
        let mut tensor = |n: usize| -> Vec<T> { r.tensor::<f32>(n).iter().map(|x| T::of(f64::from(*x))).collect() };
        let exact = |x: f64| T::of(f64::from(x as f32));
        let (x, delta, b, c) = (tensor(n * channels), tensor(n * channels), tensor(n * states), tensor(n * states));
        let delta = delta.iter().map(|d| exact(d.f64().exp() * step)).collect();
        let a = (0..channels * states).map(|i| T::of(-((i % 16 + 1) as f64))).collect();
        let (skip, initial, dy) = (tensor(channels), tensor(lengths.len() * states * channels), tensor(n * channels));
        Case { cu, x, delta, a, b, c, skip, initial, dy }
    }

    fn to<U: Real>(&self) -> Case<U> {
        let to = |x: &[T]| x.iter().map(|x| U::of(x.f64())).collect::<Vec<U>>();
        let (x, delta, a, b, c) = (to(&self.x), to(&self.delta), to(&self.a), to(&self.b), to(&self.c));
        let (skip, initial, dy) = (to(&self.skip), to(&self.initial), to(&self.dy));
        Case { cu: self.cu.clone(), x, delta, a, b, c, skip, initial, dy }
    }

    fn inputs(&self) -> SelectiveScanInputs<'_, T> {
        SelectiveScanInputs { x: &self.x, delta: &self.delta, a: &self.a, b: &self.b, c: &self.c, skip: &self.skip }
    }

    fn forward(&self, initial: Option<&[T]>, threads: usize) -> [Vec<T>; 2] {
        let mut y = Fenced::new(T::of(f64::NAN), self.x.len());
        let mut state = Fenced::new(T::of(f64::NAN), self.initial.len());
        let (d, s) = self.inputs().sizes();
        let mut scratch = Fenced::new(0xFF, selective_scan_scratch::<T>(d, s));
        let pool = Pool::new(threads);
        selective_scan(&pool, &self.inputs(), &self.cu, initial, y.inside(), state.inside(), scratch.inside());
        scratch.check();
        [y.check(), state.check()]
    }

    /// Gradients of x, Δ, A, B, C, the skip.
    fn backward(&self, threads: usize) -> [Vec<T>; 6] {
        let nan = |n: usize| Fenced::new(T::of(f64::NAN), n);
        let (mut x, mut delta, mut a) = (nan(self.x.len()), nan(self.delta.len()), nan(self.a.len()));
        let (mut b, mut c, mut skip) = (nan(self.b.len()), nan(self.c.len()), nan(self.skip.len()));
        let ((d, s), n) = (self.inputs().sizes(), self.cu[self.cu.len() - 1] as usize);
        let bytes = selective_scan_backward_scratch::<T>(d, s, n, longest(&self.cu), threads);
        let mut scratch = Fenced::new(0xFF, bytes);
        let gradients = SelectiveScanGradients {
            x: x.inside(),
            delta: delta.inside(),
            a: a.inside(),
            b: b.inside(),
            c: c.inside(),
            skip: skip.inside(),
        };
        let pool = Pool::new(threads);
        selective_scan_backward(&pool, &self.inputs(), &self.cu, &self.dy, gradients, scratch.inside());
        scratch.check();
        [x.check(), delta.check(), a.check(), b.check(), c.check(), skip.check()]
    }

    fn naive(&self, initial: Option<&[T]>) -> [Vec<T>; 2] {
        let (mut y, mut state) = (vec![T::ZERO; self.x.len()], vec![T::ZERO; self.initial.len()]);
        naive::forward(&self.inputs(), &self.cu, initial, &mut y, &mut state);
        [y, state]
    }

    fn piece(&self, from: usize, to: usize, state: &[T]) -> Case<T> {
        let n = self.cu[self.cu.len() - 1] as usize;
        let rows = |x: &[T]| x[from * (x.len() / n)..to * (x.len() / n)].to_vec();
        let (x, delta, b, c, dy) = (rows(&self.x), rows(&self.delta), rows(&self.b), rows(&self.c), rows(&self.dy));
        Case { cu: vec![0, (to - from) as i32], x, delta, b, c, dy, initial: state.to_vec(), ..self.clone() }
    }
}

const LENGTHS: [usize; 9] = [1, 15, 16, 17, 63, 64, 65, 200, 1000];

#[test]
fn the_scan_equals_the_definition_and_gradients_in_f32_those_in_f64() {
    let (mut cases, mut worst) = (0, [0.0f64; 3]);
    for (length, step, sizes) in
        LENGTHS.iter().flat_map(|l| [(*l, 0.01, (70, 16)), (*l, 0.5, (9, 3)), (*l, 20.0, (33, 16))])
    {
        for lengths in [&[length][..], &[length, 0, 7, length / 2 + 1]] {
            let case = Case::<f32>::new(sizes, lengths, step);
            let truth = case.to::<f64>();
            let what = format!("T {lengths:?}, steps of {step}");
            let want = truth.naive(Some(&truth.initial));
            let (exact, single) = (truth.forward(Some(&truth.initial), 1), case.forward(Some(&case.initial), 1));
            for i in 0..2 {
                let e = [error(&exact[i], &want[i]), error(&single[i], &want[i])];
                assert!(e[0] < 1e-12 && e[1] < 5e-6, "{what}: {e:?}");
                worst = [worst[0].max(e[0]), worst[1].max(e[1]), worst[2]];
            }
            for (i, (a, b)) in case.backward(1).iter().zip(&truth.backward(1)).enumerate() {
                assert!(error(a, b) < 1e-5, "{what}: gradient {i} {:.1e}", error(a, b));
                worst[2] = worst[2].max(error(a, b));
            }
            cases += 1;
        }
    }
    let [f64, f32, gradients] = worst;
    eprintln!(
        "selective_scan: {cases} cases, worst error {f64:.1e} in f64, {f32:.1e} in f32, {gradients:.1e} of gradients in f32"
    );
}

#[test]
fn gradients_equal_finite_differences() {
    let case = Case::<f64>::new((5, 3), &[19, 0, 2], 0.1);
    type Tensor = fn(&mut Case<f64>) -> &mut Vec<f64>;
    let tensors: [Tensor; 6] =
        [|c| &mut c.x, |c| &mut c.delta, |c| &mut c.a, |c| &mut c.b, |c| &mut c.c, |c| &mut c.skip];
    let gradients = case.backward(1);
    for (i, tensor) in tensors.iter().enumerate() {
        let difference: Vec<f64> = (0..tensor(&mut case.clone()).len())
            .map(|j| {
                let at = |step: f64| {
                    let mut moved = case.clone();
                    tensor(&mut moved)[j] += step;
                    moved.naive(None)[0].iter().zip(&case.dy).map(|(y, dy)| y * dy).sum::<f64>()
                };
                let central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                (4.0 * central(1e-4) - central(2e-4)) / 3.0
            })
            .collect();
        let e = error(&gradients[i], &difference);
        assert!(e < 1e-8, "tensor {i}: {e:.1e}");
    }
}

#[test]
fn pieces_packing_threads_and_steps_do_not_change_a_bit() {
    let case = Case::<f32>::new((150, 16), &[130], 0.1);
    let whole = case.forward(Some(&case.initial), 1);
    for (length, threads) in [(1, 1), (7, 2), (64, 3)] {
        let (mut state, mut y) = (case.initial.clone(), vec![]);
        for from in (0..130).step_by(length) {
            let piece = case.piece(from, (from + length).min(130), &state);
            let [part, next] = piece.forward(Some(&state), threads);
            y.extend(part);
            state = next;
        }
        assert!(y == whole[0] && state == whole[1], "pieces of {length}, {threads} threads");
    }
    let (mut state, mut y) = (case.initial.clone(), vec![f32::NAN; case.x.len()]);
    let mut scratch = vec![0; selective_scan_scratch::<f32>(150, 16)];
    selective_scan_step(&Pool::new(2), &case.inputs(), &[0; 130], &mut state, &mut y, &mut scratch);
    assert!(y == whole[0] && state == whole[1], "rows of one slot are steps in order");

    let lengths = [65, 0, 1, 130];
    let packed = Case::<f32>::new((300, 5), &lengths, 0.1);
    let (outputs, gradients) = (packed.forward(None, 2), packed.backward(2));
    assert!(packed.forward(None, 1) == outputs && packed.backward(3) == gradients, "threads");
    for b in 0..lengths.len() {
        let (from, to) = (packed.cu[b] as usize, packed.cu[b + 1] as usize);
        let alone = packed.piece(from, to, &packed.initial[..1500]);
        assert!(alone.forward(None, 1)[0] == outputs[0][from * 300..to * 300], "sequence {b}");
        let d = alone.backward(1);
        for (i, width) in [(0, 300), (1, 300), (3, 5), (4, 5)] {
            assert!(d[i] == gradients[i][from * width..to * width], "gradient {i} of sequence {b}");
        }
    }
}

#[test]
fn steps_touch_only_the_slots_that_rows_name() {
    let batch = Case::<f32>::new((70, 16), &[9; 3], 0.1);
    let (whole, size) = (batch.forward(Some(&batch.initial), 1), 70 * 16);
    let (slots, mut states) = ([4, 0, 3], vec![7.0f32; 5 * size]);
    for (b, slot) in slots.iter().enumerate() {
        states[*slot as usize * size..][..size].copy_from_slice(&batch.initial[b * size..(b + 1) * size]);
    }
    let mut scratch = vec![0; selective_scan_scratch::<f32>(70, 16)];
    for t in 0..9 {
        let rows = |x: &[f32]| -> Vec<f32> {
            let width = x.len() / 27;
            (0..3).flat_map(|b| &x[(b * 9 + t) * width..(b * 9 + t + 1) * width]).copied().collect()
        };
        let (x, delta, b, c) = (rows(&batch.x), rows(&batch.delta), rows(&batch.b), rows(&batch.c));
        let inputs = SelectiveScanInputs { x: &x, delta: &delta, b: &b, c: &c, ..batch.inputs() };
        let mut y = vec![f32::NAN; x.len()];
        selective_scan_step(&Pool::new(2), &inputs, &slots, &mut states, &mut y, &mut scratch);
        assert!(y == rows(&whole[0]), "token {t}");
    }
    for slot in 0..5 {
        let state = &states[slot * size..(slot + 1) * size];
        match slots.iter().position(|s| *s as usize == slot) {
            Some(b) => assert!(state == &whole[1][b * size..(b + 1) * size]),
            None => assert!(state.iter().all(|x| *x == 7.0), "another slot is left alone"),
        }
    }
}
