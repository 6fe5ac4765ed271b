//! Joining attention over disjoint sets of keys by their log-sum-exp.
//!
//! `m = max Lₛ`, `wₛ = e^(Lₛ − m)`, `O = Σ wₛ·Oₛ / Σ wₛ`, `L = m + ln Σ wₛ`, parts in the order given.

use crate::Real;

/// Joins parts (o `[N, H, V]`, lse `[H, N]`) into `o` and `lse`; a part that saw no key has L = −∞.
///
/// # Panics
/// If a slice does not have these lengths.
pub fn merge<T: Real>(
    heads: usize,
    value_width: usize,
    o_parts: &[&[T]],
    lse_parts: &[&[T]],
    o: &mut [T],
    lse: &mut [T],
) {
    let n = lse.len() / heads;
    assert_eq!(lse.len(), n * heads, "lse");
    assert_eq!(o.len(), lse.len() * value_width, "o");
    assert_eq!(o_parts.len(), lse_parts.len(), "parts");
    assert!(o_parts.iter().all(|x| x.len() == o.len()) && lse_parts.iter().all(|x| x.len() == lse.len()), "parts");
    for row in 0..n {
        for head in 0..heads {
            let at = head * n + row;
            let top = lse_parts.iter().map(|l| l[at]).fold(T::NEG_INFINITY, |top, l| if l > top { l } else { top });
            let base = if top == T::NEG_INFINITY { T::ZERO } else { top };
            let sum = lse_parts.iter().fold(T::ZERO, |sum, l| sum + (l[at] - base).exp());
            let o = &mut o[(row * heads + head) * value_width..][..value_width];
            o.fill(T::ZERO);
            lse[at] = T::NEG_INFINITY;
            if sum == T::ZERO {
                continue;
            }
            lse[at] = base + sum.ln();
            for (part, l) in o_parts.iter().zip(lse_parts) {
                let weight = (l[at] - base).exp();
                if weight == T::ZERO {
                    continue;
                }
                let part = &part[(row * heads + head) * value_width..][..value_width];
                o.iter_mut().zip(part).for_each(|(o, &x)| *o += weight * x);
            }
            o.iter_mut().for_each(|o| *o = *o / sum);
        }
    }
}
