use super::*;
use crate::Pool;
use crate::gemm::Compute;
use crate::linear::{Stack, Weights, linear, linear_scratch};
use crate::map::silu;
use memwall_formats::{Dtype, format};

/// Numbers that look random in (-1, 1), the same every time.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let value = |i: u64| {
        let mut z = (seed << 32).wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (1..=n as u64).map(value).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

struct Case {
    e: Experts,
    x: Vec<f64>,
    matrices: [Vec<f64>; 3],
    chosen: Vec<i32>,
    weights: Vec<f64>,
}

/// Tokens that choose by random logits with a slant towards some experts, so that a few are chosen often and some never.
fn case(e: Experts, tokens: usize) -> Case {
    let size = e.experts * e.width * e.hidden;
    let logits: Vec<f64> =
        noise(5, tokens * e.experts).iter().enumerate().map(|(i, x)| x - (i % e.experts) as f64 * 0.2).collect();
    let (mut chosen, mut weights) = (vec![0; tokens * e.active], vec![0.0; tokens * e.active]);
    let r = Route { experts: e.experts, active: e.active, scores: Scores::Softmax, normalize: None, factor: 1.5 };
    route(&Pool::new(1), &r, &logits, None, &mut chosen, &mut weights);
    let matrices = [1, 2, 3].map(|seed| noise(seed, size).iter().map(|x| x * 0.3).collect());
    Case { e, x: noise(4, tokens * e.width), matrices, chosen, weights }
}

/// All experts for all tokens, those that are not chosen times 0.
fn naive(c: &Case) -> Vec<f64> {
    let (e, tokens) = (c.e, c.x.len() / c.e.width);
    let (d, f) = (e.width, e.hidden);
    let [gate, up, down] = &c.matrices;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut y = vec![0.0; tokens * d];
    for t in 0..tokens {
        let x = &c.x[t * d..(t + 1) * d];
        for expert in 0..e.experts {
            let place = c.chosen[t * e.active..(t + 1) * e.active].iter().position(|&i| i as usize == expert);
            let weight = place.map_or(0.0, |j| c.weights[t * e.active + j]);
            let row = |w: &[f64], i: usize| w[(expert * f + i) * d..(expert * f + i + 1) * d].to_vec();
            let h: Vec<f64> = (0..f)
                .map(|i| (dot(&row(gate, i), x), dot(&row(up, i), x)))
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            for i in 0..d {
                y[t * d + i] += weight * dot(&down[(expert * d + i) * f..(expert * d + i + 1) * f], &h);
            }
        }
    }
    y
}

fn dense<T: crate::Real>(c: &Case, threads: usize) -> Vec<T> {
    let of = |x: &[f64]| x.iter().map(|&x| T::of(x)).collect::<Vec<T>>();
    let matrices = [0, 1, 2].map(|i| of(&c.matrices[i]));
    let mut y = vec![T::ONE; c.x.len()];
    let tokens = c.x.len() / c.e.width;
    let mut scratch = vec![0xa5; experts_dense_scratch::<T>(&c.e, Compute::F32, tokens, threads)];
    let matrices = [&matrices[0][..], &matrices[1], &matrices[2]];
    let pool = Pool::new(threads);
    experts_dense(&pool, &c.e, Compute::F32, matrices, &of(&c.x), &c.chosen, &of(&c.weights), &mut y, &mut scratch);
    y
}

/// The stored matrices of a case in a format.
fn stored(c: &Case, dtype: Dtype) -> [Vec<u8>; 3] {
    [(0, c.e.width), (1, c.e.width), (2, c.e.hidden)].map(|(i, width)| {
        let values = narrow(&c.matrices[i]);
        let mut bytes = vec![0; values.len() / width * dtype.row_bytes(width).expect("whole blocks")];
        format(dtype).encode(width, &values, &mut bytes).expect("finite");
        bytes
    })
}

fn stacks<'a>(e: &Experts, dtype: Dtype, bytes: &'a [Vec<u8>; 3]) -> [Stack<'a>; 3] {
    [(e.hidden, e.width), (e.hidden, e.width), (e.width, e.hidden)]
        .into_iter()
        .zip(bytes)
        .map(|((n, k), bytes)| Stack { dtype, bytes, matrices: e.experts, n, k })
        .collect::<Vec<_>>()
        .try_into()
        .expect("three")
}

fn grouped(
    e: &Experts,
    dtype: Dtype,
    bytes: &[Vec<u8>; 3],
    x: &[f32],
    c: (&[i32], &[f32]),
    threads: usize,
) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    let mut scratch = vec![0xa5; experts_scratch(e, [dtype; 3], x.len() / e.width, threads)];
    experts(&Pool::new(threads), e, stacks(e, dtype, bytes), x, c.0, c.1, &mut y, &mut scratch);
    y
}

#[test]
fn chosen_experts_give_what_all_experts_with_a_mask_give() {
    for (experts, active, tokens) in [(1, 1, 3), (5, 2, 1), (5, 2, 40), (16, 4, 7), (6, 6, 9)] {
        let c = case(Experts { experts, active, width: 24, hidden: 20 }, tokens);
        let (want, got) = (naive(&c), dense::<f64>(&c, 2));
        let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-13, "{experts} experts, {active} active, {tokens} tokens: {worst:e}");
    }
}

#[test]
fn grouped_products_of_f32_have_the_bits_of_one_expert_after_the_other() {
    // More choices than a batch holds, and fewer.
    for tokens in [1, 5, 300] {
        let c = case(Experts { experts: 9, active: 3, width: 64, hidden: 32 }, tokens);
        let bytes = stored(&c, Dtype::F32);
        let (x, weights) = (narrow(&c.x), narrow(&c.weights));
        let want: Vec<u32> = dense::<f32>(&c, 1).iter().map(|x| x.to_bits()).collect();
        for threads in [1, 2] {
            let got = grouped(&c.e, Dtype::F32, &bytes, &x, (&c.chosen, &weights), threads);
            assert_eq!(got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), want, "{tokens} tokens");
        }
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_among_others_in_every_format() {
    let e = Experts { experts: 7, active: 3, width: 256, hidden: 256 };
    let c = case(e, 90);
    let (x, weights) = (narrow(&c.x), narrow(&c.weights));
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_K, Dtype::Q6_K, Dtype::MXFP4]
    {
        let bytes = stored(&c, dtype);
        let all = grouped(&e, dtype, &bytes, &x, (&c.chosen, &weights), 2);
        for token in [0, 1, 44, 89] {
            let (own, at) = (token * e.active..(token + 1) * e.active, token * e.width..(token + 1) * e.width);
            let alone = grouped(&e, dtype, &bytes, &x[at.clone()], (&c.chosen[own.clone()], &weights[own.clone()]), 1);
            assert_eq!(alone, all[at.clone()], "{dtype}, token {token}");
            assert_eq!(alone, by_linear(&c, dtype, &bytes, token), "{dtype}, token {token}, products alone");
        }
    }
}

/// One token through plain products with its experts' matrices, in the order of their numbers.
fn by_linear(c: &Case, dtype: Dtype, bytes: &[Vec<u8>; 3], token: usize) -> Vec<f32> {
    let (e, pool) = (c.e, Pool::new(1));
    let x = narrow(&c.x[token * e.width..(token + 1) * e.width]);
    let mut places: Vec<usize> = (token * e.active..(token + 1) * e.active).collect();
    places.sort_by_key(|&p| c.chosen[p]);
    let mut y = vec![0.0_f32; e.width];
    for place in places {
        let product = |i: usize, n: usize, x: &[f32]| {
            let each = bytes[i].len() / e.experts;
            let bytes = &bytes[i][c.chosen[place] as usize * each..][..each];
            let mut y = vec![0.0; n];
            let mut scratch = vec![0; linear_scratch(dtype, 1, n, x.len(), 1)];
            linear(&pool, Weights { dtype, bytes, n, k: x.len() }, x, 1, &mut y, &mut scratch);
            y
        };
        let mut h = product(0, e.hidden, &x);
        silu(&mut h);
        h.iter_mut().zip(product(1, e.hidden, &x)).for_each(|(h, u)| *h *= u);
        let weight = c.weights[place] as f32;
        y.iter_mut().zip(product(2, e.width, &h)).for_each(|(y, o)| *y += weight * o);
    }
    y
}

#[test]
fn experts_are_chosen_by_the_biased_score_and_weighed_by_the_plain_one() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let logits = [2.0, 1.0, 0.0, -1.0];
    let bias = [-10.0, 0.0, 0.0, 10.0];
    let r = Route { experts: 4, active: 2, scores: Scores::Sigmoid, normalize: Some(1e-6), factor: 2.0 };
    let (mut chosen, mut weights) = ([0; 2], [0.0; 2]);
    route(&Pool::new(1), &r, &logits, Some(&bias), &mut chosen, &mut weights);
    assert_eq!(chosen, [3, 1]);
    let sum = sigmoid(-1.0) + sigmoid(1.0) + 1e-6;
    assert!(
        (weights[0] - 2.0 * sigmoid(-1.0) / sum).abs() < 1e-15 && (weights[1] - 2.0 * sigmoid(1.0) / sum).abs() < 1e-15
    );
    let plain = Route { normalize: None, factor: 1.0, ..r };
    route(&Pool::new(1), &plain, &logits, Some(&bias), &mut chosen, &mut weights);
    assert_eq!(weights, [sigmoid(-1.0), sigmoid(1.0)]);
    route(&Pool::new(1), &plain, &logits, None, &mut chosen, &mut weights);
    assert_eq!(chosen, [0, 1]);
}

#[test]
fn every_token_goes_to_as_many_experts_and_its_normalized_weights_sum_to_the_factor() {
    for (experts, active) in [(1, 1), (8, 3), (64, 10), (5, 5)] {
        for scores in [Scores::Softmax, Scores::Sigmoid] {
            let (tokens, factor) = (33, 2.5);
            let r = Route { experts, active, scores, normalize: Some(0.0), factor };
            let logits = noise(9, tokens * experts);
            let (mut chosen, mut weights) = (vec![-1; tokens * active], vec![0.0; tokens * active]);
            route(&Pool::new(2), &r, &logits, None, &mut chosen, &mut weights);
            assert_eq!(check_chosen(experts, active, &chosen), Ok(()));
            for (chosen, weights) in chosen.chunks(active).zip(weights.chunks(active)) {
                assert!((weights.iter().sum::<f64>() - factor).abs() < 1e-12);
                assert!(weights.is_sorted_by(|a, b| a >= b), "{chosen:?} {weights:?}");
            }
        }
    }
}

#[test]
fn of_equal_scores_the_first_is_chosen_and_no_number_is_chosen_last() {
    let r = Route { experts: 4, active: 3, scores: Scores::Sigmoid, normalize: None, factor: 1.0 };
    let (mut chosen, mut weights) = ([0; 3], [0.0_f32; 3]);
    route(&Pool::new(1), &r, &[1.0; 4], None, &mut chosen, &mut weights);
    assert_eq!(chosen, [0, 1, 2]);
    route(&Pool::new(1), &r, &[f32::NAN, 0.0, f32::NAN, 1.0], None, &mut chosen, &mut weights);
    assert_eq!(chosen, [3, 1, 0]);
    assert!(weights[2].is_nan());
    let softmax = Route { scores: Scores::Softmax, ..r };
    route(&Pool::new(1), &softmax, &[0.0, f32::NAN, 0.0, 0.0], None, &mut chosen, &mut weights);
    assert!(weights.iter().all(|w| w.is_nan()), "a token whose scores are no numbers shows it");
}
