//! The three sets joined by log-sum-exps against the one softmax that they are, forward and backward.

use memwall_kernels::bmojo::{
    Bmojo, BmojoGradients, BmojoInputs, Selection, bmojo, bmojo_backward, bmojo_backward_scratch, bmojo_scratch, naive,
    select, select_scratch,
};
use memwall_kernels::gemm::Compute;
use memwall_kernels::{Pool, Real};
use memwall_tasks::Philox;

use crate::largest::largest;
use crate::random::normal;

/// Window, slots and length: below a window, one, between one and two, far above.
const SIZES: [(usize, usize, usize); 4] = [(24, 5, 17), (24, 5, 24), (24, 5, 40), (6, 9, 170)];

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 16;

/// Sizes of a layer's attention.
pub(super) fn sizes(window: usize, slots: usize) -> Bmojo {
    Bmojo {
        heads: HEADS,
        kv_heads: KV_HEADS,
        key_width: WIDTH,
        value_width: WIDTH,
        scale: (WIDTH as f64).powf(-0.5),
        window,
        slots,
        compute: Compute::F32,
    }
}

/// Tensors of one sequence: q, k, v of tokens, of the fading memory's outputs, q and k of the buffer; innovations.
pub(super) struct Sequence<T> {
    pub(super) a: Bmojo,
    pub(super) cu: [i32; 2],
    pub(super) tensors: [Vec<T>; 8],
    scores: Vec<T>,
    until: Vec<i32>,
}

impl<T: Real> Sequence<T> {
    pub(super) fn new(pool: &Pool, a: Bmojo, tokens: usize, rng: &mut Philox) -> Sequence<T> {
        let mut draw = |n: usize| -> Vec<T> { (0..n).map(|_| T::of(normal(rng))).collect() };
        let widths = [HEADS, KV_HEADS, KV_HEADS];
        let tensors = std::array::from_fn(|i| draw(tokens * widths[i % 3] * WIDTH));
        let scores = draw(tokens);
        let (cu, mut until) = ([0, tokens as i32], vec![0; tokens]);
        let selection = Selection { window: a.window, slots: a.slots, threshold: None };
        let mut scratch = vec![0; select_scratch::<T>(&selection, pool.threads())];
        select(pool, &selection, &scores, &cu, &mut until, &mut scratch).expect("normal values are finite");
        Sequence { a, cu, tensors, scores, until }
    }

    pub(super) fn inputs(&self, eidetic: bool) -> BmojoInputs<'_, T> {
        let [q, k, v, qf, kf, vf, qe, ke] = self.tensors.each_ref().map(|x| &x[..]);
        BmojoInputs {
            recent: [q, k, v],
            fading: [qf, kf, vf],
            eidetic: eidetic.then_some([qe, ke]),
            until: &self.until,
            cu_seqlens: &self.cu,
        }
    }

    fn buffer(&self, chunk: usize) -> Vec<usize> {
        naive::buffer(self.a.window, self.a.slots, None, &self.scores, chunk)
    }

    /// o and log-sum-exps.
    pub(super) fn forward(&self, pool: &Pool, eidetic: bool) -> [Vec<T>; 2] {
        let tokens = self.scores.len();
        let (mut o, mut lse) = (vec![T::ZERO; tokens * HEADS * WIDTH], vec![T::ZERO; tokens * HEADS]);
        let mut scratch = vec![0; bmojo_scratch::<T>(&self.a, eidetic, tokens, 1, pool.threads())];
        bmojo(pool, &self.a, &self.inputs(eidetic), &mut o, &mut lse, &mut scratch);
        [o, lse]
    }

    fn backward(&self, pool: &Pool, eidetic: bool, d_o: &[T]) -> [Vec<T>; 8] {
        let [o, lse] = self.forward(pool, eidetic);
        let mut grads = self.tensors.each_ref().map(|x| vec![T::ZERO; x.len()]);
        let [q, k, v, qf, kf, vf, qe, ke] = grads.each_mut().map(|x| &mut x[..]);
        let to = BmojoGradients { recent: [q, k, v], fading: [qf, kf, vf], eidetic: eidetic.then_some([qe, ke]) };
        let mut scratch = vec![0; bmojo_backward_scratch::<T>(&self.a, eidetic, self.scores.len(), 1, pool.threads())];
        bmojo_backward(pool, &self.a, &self.inputs(eidetic), [&o, &lse, d_o], to, &mut scratch);
        grads
    }

    fn dense(&self, eidetic: bool) -> [Vec<T>; 2] {
        let (o, lse) = self.inputs(eidetic).naive(&self.a, &|_, chunk| self.buffer(chunk));
        [o, lse]
    }

    fn dense_backward(&self, eidetic: bool, d_o: &[T]) -> [Vec<T>; 8] {
        let inputs = self.inputs(eidetic);
        let [[q, k, mut v], [qf, kf, vf], [qe, ke, ve]] =
            inputs.naive_backward(&self.a, &|_, chunk| self.buffer(chunk), d_o);
        v.iter_mut().zip(ve).for_each(|(v, ve)| *v += ve);
        [q, k, v, qf, kf, vf, qe, ke]
    }
}

/// max |x − y|, of differences that are relative above 1.
pub(super) fn error<T: Real>(x: &[T], y: &[T]) -> f64 {
    largest(x.iter().zip(y).map(|(x, y)| (x.f64() - y.f64()).abs() / y.f64().abs().max(1.0)))
}

/// The largest error over all sizes, with a buffer and without: of outputs in f64, in f32, of gradients in f64.
pub(super) fn worst_errors(pool: &Pool, seed: u64) -> [f64; 3] {
    let mut rng = Philox::new(seed, 0);
    let [mut double, mut single, mut gradients] = [Vec::new(), Vec::new(), Vec::new()];
    for (window, slots, tokens) in SIZES {
        let sequence = Sequence::<f64>::new(pool, sizes(window, slots), tokens, &mut rng);
        let rounded = Sequence::<f32>::new(pool, sizes(window, slots), tokens, &mut rng);
        let d_o: Vec<f64> = (0..tokens * HEADS * WIDTH).map(|_| normal(&mut rng)).collect();
        for eidetic in [false, true] {
            let pairs = |got: [Vec<f64>; 2], want: [Vec<f64>; 2]| largest((0..2).map(|i| error(&got[i], &want[i])));
            double.push(pairs(sequence.forward(pool, eidetic), sequence.dense(eidetic)));
            let (got, want) = (rounded.forward(pool, eidetic), rounded.dense(eidetic));
            single.extend(got.iter().zip(&want).map(|(x, y)| error(x, y)));
            let (got, want) = (sequence.backward(pool, eidetic, &d_o), sequence.dense_backward(eidetic, &d_o));
            gradients.extend(got.iter().zip(&want).map(|(x, y)| error(x, y)));
        }
    }
    [largest(double), largest(single), largest(gradients)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joined_sets_and_their_gradients_keep_their_bars() {
        let [double, single, gradients] = worst_errors(&Pool::new(2), 9);
        assert!(double <= 1e-12 && single <= 1e-5 && gradients <= 1e-9, "{double:.1e} {single:.1e} {gradients:.1e}");
    }

    #[test]
    fn a_set_that_is_left_out_is_an_error_above_all_bars() {
        let pool = Pool::new(1);
        let sequence = Sequence::<f64>::new(&pool, sizes(6, 9), 60, &mut Philox::new(9, 0));
        assert!(error(&sequence.forward(&pool, false)[0], &sequence.dense(true)[0]) > 1e-3);
    }
}
