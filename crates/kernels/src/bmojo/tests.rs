use super::eidetic::Whole;
use super::lists::Lists;
use super::*;
use crate::attention::naive::Inputs;
use crate::laws::{cast, close, gradient, values};
use crate::scratch::{Scratch, bytes};
use crate::{Pool, Real};

/// Windows, slots and lengths: below a window, one, between one and two, far above.
const CASES: [(usize, usize, &[usize]); 6] =
    [(7, 3, &[5]), (7, 3, &[7]), (7, 3, &[11, 1, 14]), (3, 2, &[40, 17]), (1, 4, &[23, 9]), (16, 70, &[300])];

/// Tensors of a call.
struct Case<T> {
    a: Bmojo,
    cu: Vec<i32>,
    tensors: [Vec<T>; 8],
    scores: Vec<T>,
    until: Vec<i32>,
}

fn until<T: Real>(a: &Bmojo, scores: &[T], cu: &[i32], threads: usize) -> Vec<i32> {
    let selection = Selection { window: a.window, slots: a.slots, threshold: None };
    let mut until = vec![-7; scores.len()];
    let mut scratch = vec![0xff; select_scratch::<T>(&selection, threads)];
    select(&Pool::new(threads), &selection, scores, cu, &mut until, &mut scratch).expect("finite");
    until
}

impl<T: Real> Case<T> {
    fn new(window: usize, slots: usize, lengths: &[usize]) -> Case<T> {
        let a = Bmojo {
            heads: 4,
            kv_heads: 2,
            key_width: 5,
            value_width: 6,
            scale: 0.8,
            window,
            slots,
            compute: Compute::F32,
        };
        let mut cu = vec![0];
        lengths.iter().for_each(|n| cu.push(cu[cu.len() - 1] + *n as i32));
        let n = cu[lengths.len()] as usize;
        let sizes = [a.heads * 5, a.kv_heads * 5, a.kv_heads * 6];
        let of = |i: usize| cast::<f32, T>(&values(n * sizes[i % 3], 3 + i as u64));
        let tensors = std::array::from_fn(of);
        // Few different scores, so that some are equal.
        let scores: Vec<T> = values::<f64>(n, 2).iter().map(|x| T::of((x * 6.0).round())).collect();
        let until = until(&a, &scores, &cu, 2);
        Case { a, cu, tensors, scores, until }
    }

    fn inputs(&self, eidetic: bool) -> BmojoInputs<'_, T> {
        let [q, k, v, qf, kf, vf, qe, ke] = self.tensors.each_ref().map(|x| &x[..]);
        BmojoInputs {
            recent: [q, k, v],
            fading: [qf, kf, vf],
            eidetic: eidetic.then_some([qe, ke]),
            until: &self.until,
            cu_seqlens: &self.cu,
        }
    }

    fn buffer(&self, sequence: usize, chunk: usize) -> Vec<usize> {
        let scores = &self.scores[self.cu[sequence] as usize..self.cu[sequence + 1] as usize];
        naive::buffer(self.a.window, self.a.slots, None, scores, chunk)
    }

    fn forward(&self, eidetic: bool, threads: usize) -> (Vec<T>, Vec<T>) {
        let (a, n) = (&self.a, self.scores.len());
        let (mut o, mut lse) = (vec![T::of(7.0); n * a.heads * 6], vec![T::of(7.0); n * a.heads]);
        let mut scratch = vec![0xff; bmojo_scratch::<T>(a, eidetic, n, self.cu.len() - 1, threads)];
        bmojo(&Pool::new(threads), a, &self.inputs(eidetic), &mut o, &mut lse, &mut scratch);
        (o, lse)
    }

    fn backward(&self, eidetic: bool, threads: usize, d_o: &[T]) -> [Vec<T>; 8] {
        let (a, n) = (&self.a, self.scores.len());
        let (o, lse) = self.forward(eidetic, threads);
        let mut grads = self.tensors.each_ref().map(|x| vec![T::of(7.0); x.len()]);
        let [q, k, v, qf, kf, vf, qe, ke] = grads.each_mut().map(|x| &mut x[..]);
        let to = BmojoGradients { recent: [q, k, v], fading: [qf, kf, vf], eidetic: eidetic.then_some([qe, ke]) };
        let mut scratch = vec![0xff; bmojo_backward_scratch::<T>(a, eidetic, n, self.cu.len() - 1, threads)];
        bmojo_backward(&Pool::new(threads), a, &self.inputs(eidetic), [&o, &lse, d_o], to, &mut scratch);
        grads
    }
}

#[test]
fn buffers_are_the_tokens_of_the_highest_scores_that_have_left_the_window() {
    for (window, slots, lengths) in CASES {
        let case = Case::<f32>::new(window, slots, lengths);
        for (b, &n) in lengths.iter().enumerate() {
            let until = &case.until[case.cu[b] as usize..][..n];
            // A token may enter at the first multiple of the window that it has left the window at.
            let enters = |t: usize| t.div_ceil(window) + 1;
            for chunk in 0..n.div_ceil(window) {
                let within = |t: &usize| enters(*t) <= chunk && until[*t] > chunk as i32;
                let got: Vec<usize> = (0..n).filter(within).collect();
                assert_eq!(got, case.buffer(b, chunk), "window {window}, chunk {chunk} of {n} tokens");
            }
        }
    }
}

#[test]
fn a_threshold_keeps_low_scores_out() {
    let selection = Selection { window: 2, slots: 3, threshold: Some(0.5) };
    let scores = [0.4f32, 0.5, 0.1, 0.9, 0.6, 0.7, 0.0, 0.0, 0.0, 0.0];
    let (mut until, mut scratch) = ([0; 10], vec![0; select_scratch::<f32>(&selection, 1)]);
    select(&Pool::new(1), &selection, &scores, &[0, 10], &mut until, &mut scratch).unwrap();
    // Chunks begin at 0, 2, 4, 6, 8; token 5 enters at 8 and takes the place of token 1.
    assert_eq!(until, [1, 4, 2, i32::MAX, i32::MAX, i32::MAX, 4, 0, 0, 0]);
    for chunk in 0..5 {
        assert!(naive::buffer(2, 3, Some(0.5), &scores, chunk).iter().all(|&t| scores[t] >= 0.5));
    }
}

#[test]
fn joined_sets_equal_one_dense_softmax() {
    for (window, slots, lengths) in CASES {
        for eidetic in [false, true] {
            let case = Case::<f64>::new(window, slots, lengths);
            let (want, want_lse) = case.inputs(eidetic).naive(&case.a, &|b, c| case.buffer(b, c));
            let (o, lse) = case.forward(eidetic, 2);
            close("o", &o, &want, 1e-12);
            close("lse", &lse, &want_lse, 1e-12);
            let single = Case::<f32>::new(window, slots, lengths);
            let (o, lse) = single.forward(eidetic, 1);
            close("o in f32", &o, &want, 1e-5);
            close("lse in f32", &lse, &want_lse, 1e-5);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            let threads = single.forward(eidetic, 3);
            assert_eq!((bits(&o), bits(&lse)), (bits(&threads.0), bits(&threads.1)), "bits with three threads");
        }
    }
}

#[test]
fn packed_sequences_have_the_bits_of_separate_ones() {
    let (window, slots, lengths) = CASES[3];
    let packed = Case::<f32>::new(window, slots, lengths);
    let (o, _) = packed.forward(true, 2);
    for (b, &n) in lengths.iter().enumerate() {
        let start = packed.cu[b] as usize;
        let mut alone = Case::<f32>::new(window, slots, &[n]);
        for (to, from) in alone.tensors.iter_mut().zip(&packed.tensors) {
            let width = to.len() / n;
            to.copy_from_slice(&from[start * width..(start + n) * width]);
        }
        alone.until = until(&alone.a, &packed.scores[start..start + n], &[0, n as i32], 1);
        let width = packed.a.heads * packed.a.value_width;
        assert!(alone.forward(true, 1).0 == o[start * width..(start + n) * width], "sequence {b}");
    }
}

#[test]
fn gradients_equal_those_of_the_dense_form() {
    for (window, slots, lengths) in CASES {
        for eidetic in [false, true] {
            let case = Case::<f64>::new(window, slots, lengths);
            let d_o = values::<f64>(case.scores.len() * case.a.heads * 6, 99);
            let grads = case.backward(eidetic, 2, &d_o);
            let [[q, k, mut v], fading, [qe, ke, ve]] =
                case.inputs(eidetic).naive_backward(&case.a, &|b, c| case.buffer(b, c), &d_o);
            v.iter_mut().zip(&ve).for_each(|(v, ve)| *v += ve);
            let [qf, kf, vf] = fading;
            let want = [q, k, v, qf, kf, vf, qe, ke];
            let names = ["q", "k", "v", "fading q", "fading k", "fading v", "eidetic q", "eidetic k"];
            let count = if eidetic { 8 } else { 6 };
            for ((name, got), want) in names.iter().zip(&grads).zip(&want).take(count) {
                close(name, got, want, 1e-9);
            }
        }
    }
}

#[test]
fn gradients_equal_differences() {
    let case = Case::<f64>::new(3, 2, &[17]);
    let d_o = values::<f64>(case.scores.len() * case.a.heads * 6, 99);
    for (i, grad) in case.backward(true, 1, &d_o).iter().enumerate() {
        let mut moved = Case::<f64>::new(3, 2, &[17]);
        let run = std::cell::RefCell::new(&mut moved);
        gradient(&format!("tensor {i}"), &case.tensors[i], &d_o, grad, |x| {
            let mut case = run.borrow_mut();
            case.tensors[i].copy_from_slice(x);
            case.forward(true, 1).0
        });
    }
}

#[test]
fn a_fading_memory_that_is_its_input_gives_a_window_twice_as_long() {
    for (window, n) in [(4, 3), (4, 30), (30, 30), (64, 20)] {
        let mut case = Case::<f64>::new(window, 1, &[n]);
        for set in 0..3 {
            case.tensors[3 + set] = case.tensors[set].clone();
        }
        let twice = crate::attention::Attention { window: (Some(2 * window - 1), None), ..case.a.recent() };
        let [q, k, v] = case.inputs(false).recent;
        let cu = &case.cu;
        let plain = Inputs {
            attention: &twice,
            q,
            k,
            v,
            cu_seqlens_q: cu,
            cu_seqlens_k: cu,
            alibi_slopes: None,
            block_mask: None,
        };
        let (want, want_lse) = plain.forward();
        let (o, lse) = case.forward(false, 2);
        close("o", &o, &want, 1e-12);
        close("lse", &lse, &want_lse, 1e-12);
        if window >= n {
            let all = crate::attention::Attention { window: (None, None), ..case.a.recent() };
            close("all tokens", &o, &Inputs { attention: &all, ..plain }.forward().0, 1e-12);
        }
    }
}

/// The eidetic path alone, over whole sequences.
fn eidetic(case: &Case<f32>) -> (Vec<f32>, Vec<f32>) {
    let (a, n) = (&case.a, case.scores.len());
    let mut memory = vec![0; 64 + Lists::bytes(a, n, case.cu.len() - 1) + 2 * bytes::<f32>(a.slots)];
    let mut scratch = Scratch::new(&mut memory);
    let lists = Lists::new(a, &case.until, &case.cu, &mut scratch);
    let [_, _, v, _, _, _, q, k] = case.tensors.each_ref().map(|x| &x[..]);
    let (mut o, mut lse) = (vec![7.0; n * a.heads * 6], vec![7.0; n * a.heads]);
    let whole = Whole { a, q, k, v, cu_seqlens: &case.cu, lists };
    whole.forward(&Pool::new(2), &mut o, &mut lse, scratch.per_worker(2, bytes::<f32>(a.slots)));
    (o, lse)
}

#[test]
fn steps_over_slots_have_the_bits_of_whole_sequences_however_they_are_cut() {
    for (window, slots, lengths) in CASES {
        let case = Case::<f32>::new(window, slots, lengths);
        let (a, n) = (&case.a, case.scores.len());
        let (want, want_lse) = eidetic(&case);
        for cut in [1, 2, 5, 64, n] {
            let ring = 2 * window - 1 + cut;
            let count = lengths.len() + 1;
            // Slots hold what earlier sequences have left.
            let mut rings = vec![3.0; count * a.ring_elements(ring)];
            let mut buffers = vec![5.0; count * a.buffer_elements()];
            let mut at: Vec<usize> = vec![0; lengths.len()];
            while at.iter().zip(lengths).any(|(at, n)| at < n) {
                // Each sequence goes on by up to `cut` tokens, those of later slots first.
                let mut taken: Vec<(usize, usize)> = Vec::new();
                for b in (0..lengths.len()).rev() {
                    let next = (at[b] + cut).min(lengths[b]);
                    taken.extend((at[b]..next).map(|t| (b, t)));
                    at[b] = next;
                }
                let pick = |x: &[f32]| -> Vec<f32> {
                    let width = x.len() / n;
                    let row = |&(b, t): &(usize, usize)| (case.cu[b] as usize + t) * width;
                    taken.iter().flat_map(|at| x[row(at)..row(at) + width].to_vec()).collect()
                };
                let rows: Vec<i32> = taken.iter().flat_map(|&(b, t)| [b as i32 + 1, t as i32]).collect();
                let (q, k, v) = (pick(&case.tensors[6]), pick(&case.tensors[7]), pick(&case.tensors[2]));
                let scores = pick(&case.scores);
                let x = EideticStep { q: &q, k: &k, v: &v, scores: &scores, rows: &rows, ring };
                let m = taken.len();
                let (mut o, mut lse) = (vec![7.0; m * a.heads * 6], vec![7.0; m * a.heads]);
                let mut scratch = vec![0xff; eidetic_step_scratch::<f32>(a, m, count, 2)];
                let (pool, scratch) = (Pool::new(2), &mut scratch);
                eidetic_step(&pool, a, None, &x, &mut rings, &mut buffers, &mut o, &mut lse, scratch).unwrap();
                for (i, &(b, t)) in taken.iter().enumerate() {
                    let (row, width) = (case.cu[b] as usize + t, a.heads * 6);
                    assert_eq!(o[i * width..][..width], want[row * width..][..width], "cut {cut}, token {t} of {b}");
                    for head in 0..a.heads {
                        assert_eq!(lse[head * m + i], want_lse[head * n + row], "cut {cut}, token {t} of {b}");
                    }
                }
            }
        }
    }
}

/// The definition of the innovation, in f64.
fn plain(d: usize, taps: usize, f: &[f64], w: &[f64]) -> Vec<f64> {
    let y = |t: usize, c: usize| f[t * d + c];
    let score = |t: usize| {
        let of = |c: usize| {
            let predicted: f64 = (1..=taps.min(t)).map(|s| w[(s - 1) * d + c] * y(t - s, c)).sum();
            let weights: f64 = (0..=t).map(|s| 0.99f64.powi((t - s) as i32)).sum();
            let square = (0..=t).map(|s| 0.99f64.powi((t - s) as i32) * y(s, c).powi(2)).sum::<f64>() / weights;
            (y(t, c) - predicted).powi(2) / (square + 1e-12)
        };
        (0..d).map(of).sum::<f64>() / d as f64
    };
    (0..f.len() / d).map(score).collect()
}

#[test]
fn innovations_equal_their_definition_and_do_not_depend_on_the_scale() {
    for (d, taps, n) in [(1, 1, 9), (70, 4, 33), (130, 3, 2)] {
        let a = Innovation { channels: d, taps };
        let (f, w) = (values::<f64>(n * d, 4), values::<f64>(taps * d, 5));
        let scores = |f: &[f64]| {
            let mut scores = vec![f64::NAN; n];
            innovation(&Pool::new(2), &a, f, &w, &[0, n as i32], &mut scores);
            scores
        };
        let want = plain(d, taps, &f, &w);
        close("scores", &scores(&f), &want, 1e-11);
        let large: Vec<f64> = f.iter().map(|f| f * 1e3).collect();
        close("scores of large outputs", &scores(&large), &want, 1e-6);
        assert!(scores(&vec![0.0; n * d]).iter().all(|s| *s == 0.0), "nothing is no surprise");
    }
}

#[test]
fn innovations_of_steps_have_the_bits_of_whole_sequences() {
    let a = Innovation { channels: 67, taps: 4 };
    let (f, w) = (values::<f32>(31 * 67, 4), values::<f32>(4 * 67, 5));
    let mut want = vec![0.0; 31];
    innovation(&Pool::new(1), &a, &f, &w, &[0, 20, 31], &mut want);
    let mut states = vec![9.0; 2 * a.state()];
    for (slot, rows) in [(1, 0..20usize), (0, 20..31)] {
        for part in [rows.start..rows.start + 7, rows.start + 7..rows.end] {
            let at: Vec<i32> = part.clone().flat_map(|t| [slot, (t - rows.start) as i32]).collect();
            let mut scores = vec![0.0; part.len()];
            innovation_step(&a, &f[part.start * 67..part.end * 67], &w, &at, &mut states, &mut scores);
            assert_eq!(scores, want[part]);
        }
    }
}

#[test]
fn gradients_of_the_predictor_equal_differences() {
    let a = Innovation { channels: 3, taps: 2 };
    let (f, w, d) = (values::<f64>(17 * 3, 4), values::<f64>(2 * 3, 5), [0.3; 17]);
    let (cu, pool) = ([0, 6, 17], Pool::new(2));
    let mut d_weight = vec![f64::NAN; 6];
    innovation_gradient(&pool, &a, &f, &w, &cu, d[0], &mut d_weight);
    gradient("weight", &w, &d, &d_weight, |w| {
        let mut scores = vec![f64::NAN; 17];
        innovation(&pool, &a, &f, w, &cu, &mut scores);
        scores
    });
}

#[test]
fn scores_that_are_no_numbers_and_rows_out_of_order_are_refused() {
    let case = Case::<f32>::new(3, 2, &[4]);
    let a = &case.a;
    let run = |scores: &[f32], rows: &[i32]| {
        let (q, k, v) = (&case.tensors[6][..], &case.tensors[7][..], &case.tensors[2][..]);
        let x = EideticStep { q, k, v, scores, rows, ring: 9 };
        let (mut rings, mut buffers) = (vec![0.0; 2 * a.ring_elements(9)], vec![0.0; 2 * a.buffer_elements()]);
        let (mut o, mut lse) = (vec![0.0; 4 * 24], vec![0.0; 16]);
        let mut scratch = vec![0; eidetic_step_scratch::<f32>(a, 4, 2, 1)];
        let pool = Pool::new(1);
        eidetic_step(&pool, a, None, &x, &mut rings, &mut buffers, &mut o, &mut lse, &mut scratch)
    };
    let fine = [0, 0, 0, 1, 1, 4, 1, 5];
    assert_eq!(run(&[1.0; 4], &fine), Ok(()));
    assert_eq!(run(&[1.0, f32::NAN, 1.0, 1.0], &fine), Err(SelectionError::Score { row: 1 }));
    for (rows, row, slot) in [
        ([0, 0, 0, 2, 1, 4, 1, 5], 1, 0),
        ([0, 0, 1, 1, 0, 1, 1, 2], 2, 0),
        ([0, 0, 0, 1, 2, 4, 2, 5], 2, 2),
        ([0, 0, 0, 1, 1, -4, 1, 5], 2, 1),
    ] {
        assert_eq!(run(&[1.0; 4], &rows), Err(SelectionError::Row { row, slot, slots: 2 }));
    }
}
