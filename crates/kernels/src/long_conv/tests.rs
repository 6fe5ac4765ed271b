//! The laws of the long convolution.

use super::*;
use crate::laws::{cast, close, gradient, values};
use proptest::prelude::*;

fn offsets(lengths: &[usize]) -> Vec<i32> {
    let ends = lengths.iter().scan(0, |at, n| {
        *at += *n as i32;
        Some(*at)
    });
    std::iter::once(0).chain(ends).collect()
}

fn convolved<T: Real>(threads: usize, channels: usize, x: &[T], filter: &[T], lengths: &[usize]) -> Vec<T> {
    let (mut y, cu) = (vec![T::of(7.0); x.len()], offsets(lengths));
    let mut scratch = vec![0xff; long_conv_scratch::<T>(longest(&cu), threads)];
    long_conv(&Pool::new(threads), channels, x, filter, &cu, &mut y, &mut scratch);
    y
}

/// The sum as it is defined.
fn naive(channels: usize, x: &[f64], filter: &[f64], lengths: &[usize]) -> Vec<f64> {
    let (mut y, mut start) = (vec![0.0; x.len()], 0);
    for &length in lengths {
        for t in 0..length {
            for q in 0..=t {
                for d in 0..channels {
                    y[(start + t) * channels + d] += filter[(t - q) * channels + d] * x[(start + q) * channels + d];
                }
            }
        }
        start += length;
    }
    y
}

#[test]
fn it_is_the_sum_that_defines_it() {
    for (channels, lengths) in [(1, vec![1]), (3, vec![64, 65, 0, 63]), (19, vec![128, 129, 200]), (40, vec![700, 257])]
    {
        let (rows, longest) = (lengths.iter().sum::<usize>(), lengths.iter().copied().max().unwrap());
        // A filter longer than needed.
        let (x, filter) = (values::<f32>(rows * channels, 1), values::<f32>((longest + 9) * channels, 2));
        let want = naive(channels, &cast(&x), &cast(&filter), &lengths);
        let y = convolved(3, channels, &x, &filter, &lengths);
        let size = want.iter().fold(1.0f64, |m, y| m.max(y.abs()));
        for (i, (y, want)) in y.iter().zip(&want).enumerate() {
            assert!((f64::from(*y) - want).abs() < 2e-6 * size, "{lengths:?}, element {i}: {y}, not {want}");
        }
        let exact = convolved::<f64>(1, channels, &cast(&x), &cast(&filter), &lengths);
        close("f64", &exact, &want, 1e-12);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_comes_later_and_what_lies_beside_changes_no_bit(
        channels in 1usize..40, length in 1usize..300, cut in 0usize..300, before in 0usize..90, longer in 0usize..300,
    ) {
        let cut = cut.min(length);
        let (x, filter) = (values::<f32>(length * channels, 3), values::<f32>((length + longer + 90) * channels, 4));
        let whole = convolved(2, channels, &x, &filter, &[length]);
        let part = convolved(1, channels, &x[..cut * channels], &filter, &[cut]);
        prop_assert_eq!(&part, &whole[..cut * channels]);
        // Behind another sequence, with another end.
        let mut packed = values::<f32>(before * channels, 5);
        packed.extend_from_slice(&x[..cut * channels]);
        packed.extend(values::<f32>((length - cut + longer) * channels, 6));
        let packed = convolved(3, channels, &packed, &filter, &[before, length + longer]);
        prop_assert_eq!(&packed[before * channels..][..cut * channels], &whole[..cut * channels]);
    }

    #[test]
    fn steps_over_what_is_kept_are_the_same_convolution(channels in 1usize..150, length in 1usize..200, extra in 0usize..9) {
        let capacity = length + extra;
        let (x, filter) = (values::<f32>(length * channels, 8), values::<f32>(capacity * channels, 9));
        let mut past = vec![f32::NAN; 2 * capacity * channels];
        past[capacity * channels..][..x.len()].copy_from_slice(&x);
        let rows: Vec<i32> = (0..length).flat_map(|t| [1, t as i32]).collect();
        let mut y = vec![0.0; x.len()];
        long_conv_step(&Pool::new(3), channels, capacity, &past, &filter, &rows, &mut y);
        close("y", &y, &convolved(2, channels, &x, &filter, &[length]), 2e-5);
        // One at a time.
        for t in [0, length / 2, length - 1] {
            let mut one = vec![0.0; channels];
            long_conv_step(&Pool::new(1), channels, capacity, &past, &filter, &[1, t as i32], &mut one);
            prop_assert_eq!(&one, &y[t * channels..][..channels]);
        }
    }
}

#[test]
fn gradients_are_those_of_differences() {
    for (channels, lengths) in [(3, vec![5, 1]), (2, vec![70, 64, 130, 3])] {
        let (rows, length) = (lengths.iter().sum::<usize>(), 133);
        let (x, filter) = (values::<f64>(rows * channels, 1), values::<f64>(length * channels, 2));
        let (dy, cu) = (values::<f64>(rows * channels, 3), offsets(&lengths));
        let of = |threads: usize| {
            let (mut dx, mut df) = (vec![9.0; x.len()], vec![9.0; filter.len()]);
            let mut scratch = vec![0xff; long_conv_backward_scratch::<f64>(longest(&cu), threads)];
            let pool = Pool::new(threads);
            long_conv_backward(&pool, channels, &x, &filter, &cu, &dy, &mut dx, &mut df, &mut scratch);
            (dx, df)
        };
        let (dx, df) = of(1);
        gradient("x", &x, &dy, &dx, |x| naive(channels, x, &filter, &lengths));
        gradient("filter", &filter, &dy, &df, |filter| naive(channels, &x, filter, &lengths));
        assert_eq!(of(2), (dx, df));
    }
}

#[test]
#[should_panic(expected = "a sequence of 5 tokens, the filter has 4")]
fn a_sequence_longer_than_the_filter_is_refused() {
    convolved::<f32>(1, 2, &[0.0; 10], &[0.0; 8], &[5]);
}
