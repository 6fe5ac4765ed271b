//! Draws without replacement: uniform, and weighted in sequence.

use crate::philox::Philox;

/// `count` distinct numbers of `0..n` in random order, all orders equally likely; fewer when `n` is less than `count`.
pub fn distinct(rng: &mut Philox, n: usize, count: usize) -> Vec<usize> {
    if count.checked_mul(count).is_some_and(|square| square <= n) {
        // Few of many rarely meet: drawing again costs less than writing all numbers down.
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            let number = rng.below(n as u64) as usize;
            if !drawn.contains(&number) {
                drawn.push(number);
            }
        }
        return drawn;
    }
    let mut numbers: Vec<usize> = (0..n).collect();
    let count = count.min(n);
    for i in 0..count {
        let other = i + rng.below((n - i) as u64) as usize;
        numbers.swap(i, other);
    }
    numbers.truncate(count);
    numbers
}

/// The first `count` places of a sequential weighted draw without replacement: each pick has probability proportional to its
/// weight among those that remain.
///
/// A race decides it in one pass: with an exponential arrival time of rate `weights[i]` for each, the order of arrival has
/// exactly that distribution (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). Weights must be
/// finite and positive.
pub fn weighted_order(rng: &mut Philox, weights: &[f64], count: usize) -> Vec<usize> {
    let mut arrivals: Vec<(f64, usize)> =
        weights.iter().enumerate().map(|(i, weight)| (-libm::log(rng.unit()) / weight, i)).collect();
    arrivals.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    arrivals.into_iter().take(count).map(|(_, i)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Probability of each ordered pick of `count`, straight from the definition.
    fn definition(weights: &[f64], count: usize) -> Vec<(Vec<usize>, f64)> {
        let mut picks = vec![(Vec::new(), 1.0)];
        for _ in 0..count {
            let mut longer = Vec::new();
            for (pick, probability) in picks {
                let left = |i: &usize| !pick.contains(i);
                let total: f64 = (0..weights.len()).filter(left).map(|i| weights[i]).sum();
                for i in (0..weights.len()).filter(left) {
                    let mut next = pick.clone();
                    next.push(i);
                    longer.push((next, probability * weights[i] / total));
                }
            }
            picks = longer;
        }
        picks
    }

    #[test]
    fn the_order_has_the_probabilities_of_the_sequential_draw() {
        const DRAWS: usize = 100_000;
        let weights: Vec<f64> = (1..=7).map(|j| libm::pow(f64::from(j), -0.99)).collect();
        let mut rng = Philox::new(12, 0);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..DRAWS {
            *counts.entry(weighted_order(&mut rng, &weights, 3)).or_insert(0u32) += 1;
        }
        let expected = definition(&weights, 3);
        assert!((expected.iter().map(|e| e.1).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(expected.len(), 7 * 6 * 5);
        let chi_square: f64 = expected
            .iter()
            .map(|(pick, probability)| {
                let expected = probability * DRAWS as f64;
                assert!(expected > 5.0);
                (f64::from(counts.get(pick).copied().unwrap_or(0)) - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 277.0, "{chi_square}"); // 209 degrees of freedom, p = 0.001
    }

    #[test]
    fn every_order_of_distinct_numbers_is_equally_likely() {
        for (n, count) in [(9, 3), (4, 3)] {
            const DRAWS: usize = 100_000;
            let mut rng = Philox::new(3, n as u64);
            let mut counts = std::collections::HashMap::new();
            for _ in 0..DRAWS {
                *counts.entry(distinct(&mut rng, n, count)).or_insert(0u32) += 1;
            }
            let orders = (n - count + 1..=n).product::<usize>();
            let expected = DRAWS as f64 / orders as f64;
            assert_eq!(counts.len(), orders);
            let chi_square: f64 = counts.values().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
            // p = 0.001 at 503 and 23 degrees of freedom.
            assert!(chi_square < if n == 9 { 605.0 } else { 49.7 }, "{n}: {chi_square}");
        }
    }

    proptest! {
        #[test]
        fn draws_are_distinct_and_in_range(seed: u64, n in 0usize..60, count in 0usize..80) {
            let mut rng = Philox::new(seed, 0);
            let weights = vec![1.5; n];
            for mut drawn in [distinct(&mut rng, n, count), weighted_order(&mut rng, &weights, count)] {
                prop_assert_eq!(drawn.len(), count.min(n));
                drawn.sort_unstable();
                drawn.dedup();
                prop_assert_eq!(drawn.len(), count.min(n));
                prop_assert!(drawn.iter().all(|&i| i < n));
            }
        }
    }
}
