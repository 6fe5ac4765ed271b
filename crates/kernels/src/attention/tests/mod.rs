mod backward;
mod bf16;
mod cached;
mod refusals;

use super::naive::Inputs;
use super::*;
use crate::{Pool, Real};

/// Numbers in −1 .. 1 from a counter.
pub(super) fn numbers<T: Real>(seed: u64, n: usize) -> Vec<T> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        T::of((x >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..n).map(|_| next() * T::of(2.0)).collect()
}

/// A call with tensors of its own, the same numbers in every precision (they are exact in f32).
#[derive(Clone)]
pub(super) struct Case {
    pub a: Attention,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub d_o: Vec<f32>,
    pub cu_q: Vec<i32>,
    pub cu_k: Vec<i32>,
    pub slopes: Option<Vec<f32>>,
    pub mask: Option<BlockMask>,
}

fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<i32> {
    let mut cu = vec![0];
    lengths.for_each(|n| cu.push(cu[cu.len() - 1] + n as i32));
    cu
}

pub(super) fn cast<T: Real>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::of(x as f64)).collect()
}

impl Case {
    /// Sequences of (queries, keys).
    pub fn new(a: Attention, lengths: &[(usize, usize)]) -> Case {
        let cu_q = offsets(lengths.iter().map(|l| l.0));
        let cu_k = offsets(lengths.iter().map(|l| l.1));
        let (nq, nk) = (cu_q[lengths.len()] as usize, cu_k[lengths.len()] as usize);
        let slopes = a.alibi.then(|| (0..a.heads).map(|h| 0.5f32.powi(h as i32 + 1)).collect());
        Case {
            a,
            q: numbers(1, nq * a.heads * a.key_width),
            k: numbers(2, nk * a.kv_heads * a.key_width),
            v: numbers(3, nk * a.kv_heads * a.value_width),
            d_o: numbers(4, nq * a.heads * a.value_width),
            cu_q,
            cu_k,
            slopes,
            mask: None,
        }
    }

    pub fn nq(&self) -> usize {
        self.cu_q[self.cu_q.len() - 1] as usize
    }

    fn check(&self) {
        let nk = self.cu_k[self.cu_k.len() - 1] as usize;
        let a = &self.a;
        a.check(&Shapes {
            q: [self.nq(), a.heads, a.key_width],
            k: [nk, a.kv_heads, a.key_width],
            v: [nk, a.kv_heads, a.value_width],
            cu_seqlens_q: &self.cu_q,
            cu_seqlens_k: &self.cu_k,
            alibi_slopes: self.slopes.as_ref().map(Vec::len),
            block_mask: self.mask.as_ref(),
            double: false,
        })
        .expect("a valid call");
    }

    pub fn forward<T: Real>(&self, threads: usize) -> (Vec<T>, Vec<T>) {
        self.check();
        let a = &self.a;
        let mut o = vec![T::of(7.0); self.nq() * a.heads * a.value_width];
        let mut lse = vec![T::of(7.0); self.nq() * a.heads];
        let mut scratch = vec![0xff; attention_scratch::<T>(a, self.cu_q.len() - 1, threads)];
        let (q, k, v) = (cast(&self.q), cast(&self.k), cast(&self.v));
        let slopes: Option<Vec<T>> = self.slopes.as_deref().map(cast);
        let (pool, mask) = (Pool::new(threads), self.mask.as_ref());
        let (cu_q, cu_k) = (&self.cu_q, &self.cu_k);
        let s = &mut scratch;
        attention_forward(&pool, a, &q, &k, &v, cu_q, cu_k, slopes.as_deref(), mask, &mut o, &mut lse, s);
        (o, lse)
    }

    pub fn naive<T: Real, R>(&self, f: impl FnOnce(Inputs<T>) -> R) -> R {
        let (q, k, v) = (cast(&self.q), cast(&self.k), cast(&self.v));
        let slopes: Option<Vec<T>> = self.slopes.as_deref().map(cast);
        f(Inputs {
            attention: &self.a,
            q: &q,
            k: &k,
            v: &v,
            cu_seqlens_q: &self.cu_q,
            cu_seqlens_k: &self.cu_k,
            alibi_slopes: slopes.as_deref(),
            block_mask: self.mask.as_ref(),
        })
    }
}

/// Greatest difference; infinite if one has a NaN or an infinity that the other has not.
pub(super) fn difference<A: Real, B: Real>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a.f64(), b.f64())).fold(0.0, |worst: f64, (a, b)| {
        let same = a == b || (a.is_nan() && b.is_nan());
        let difference = if same { 0.0 } else { (a - b).abs() };
        worst.max(if difference.is_nan() { f64::INFINITY } else { difference })
    })
}

pub(super) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn attention(heads: usize, kv_heads: usize, width: usize) -> Attention {
    let scale = 1.0 / (width as f64).sqrt();
    Attention { heads, kv_heads, key_width: width, value_width: width, scale, ..Attention::default() }
}

/// The kinds of attention that every law below is tried on.
fn kinds() -> Vec<(&'static str, Attention)> {
    let base = attention(4, 2, 32);
    let causal = Attention { causal: true, ..base };
    vec![
        ("plain", base),
        ("causal", causal),
        ("window", Attention { window: (Some(37), Some(5)), ..base }),
        ("causal window", Attention { window: (Some(70), None), ..causal }),
        ("softcap", Attention { softcap: Some(1.5), ..causal }),
        ("alibi", Attention { alibi: true, ..causal }),
        ("alibi and softcap, not causal", Attention { alibi: true, softcap: Some(3.0), ..base }),
        ("dropout", Attention { dropout: 0.17, seed: 5, ..causal }),
        ("multi-query", Attention { kv_heads: 1, ..causal }),
        ("multi-head", Attention { kv_heads: 4, ..causal }),
        ("unlike widths", Attention { key_width: 24, value_width: 72, ..causal }),
    ]
}

/// Upstream's rule: at most twice the error of the dense form in the same precision.
fn assert_exact(name: &str, case: &Case) {
    let (o64, lse64) = case.naive::<f64, _>(|x| x.forward());
    let (dense, dense_lse) = case.naive::<f32, _>(|x| x.forward());
    let (o, lse) = case.forward::<f32>(1);
    let (error, bound) = (difference(&o, &o64), 2.0 * difference(&dense, &o64) + 1e-6);
    assert!(error <= bound, "{name}: O is off by {error}, dense by {}", (bound - 1e-6) / 2.0);
    let (error, bound) = (difference(&lse, &lse64), 2.0 * difference(&dense_lse, &lse64) + 2e-6);
    assert!(error <= bound, "{name}: L is off by {error}, bound {bound}");
    let (o, lse) = case.forward::<f64>(2);
    assert!(difference(&o, &o64) < 1e-13, "{name}: f64 O is off by {}", difference(&o, &o64));
    assert!(difference(&lse, &lse64) < 1e-13, "{name}: f64 L is off by {}", difference(&lse, &lse64));
}

const LENGTHS: [usize; 10] = [1, 2, 15, 16, 17, 63, 64, 65, 113, 128];

#[test]
fn forward_equals_the_dense_form_for_every_kind_and_length() {
    for (name, a) in kinds() {
        for n in LENGTHS {
            for m in LENGTHS {
                assert_exact(&format!("{name}, {n} × {m}"), &Case::new(a, &[(n, m)]));
            }
        }
    }
}

#[test]
fn forward_equals_the_dense_form_for_every_width() {
    for width in [16, 32, 40, 59, 64, 80, 96, 128, 256] {
        for causal in [false, true] {
            let a = Attention { causal, ..attention(3, 1, width) };
            assert_exact(&format!("width {width}"), &Case::new(a, &[(65, 113), (113, 17)]));
        }
    }
}

#[test]
fn forward_equals_the_dense_form_over_many_groups_of_keys() {
    for (name, a) in kinds() {
        assert_exact(name, &Case::new(a, &[(130, 1024), (1024, 1024), (3, 513)]));
    }
}

#[test]
fn forward_has_the_same_bits_for_any_number_of_threads() {
    for (name, a) in kinds() {
        let case = Case::new(a, &[(300, 700), (65, 65), (1, 1)]);
        let (o, lse) = case.forward::<f32>(1);
        for threads in [2, 3] {
            let (o2, lse2) = case.forward::<f32>(threads);
            assert!(bits(&o) == bits(&o2) && bits(&lse) == bits(&lse2), "{name}, {threads} threads");
        }
    }
}

#[test]
fn packed_sequences_have_the_bits_of_separate_ones() {
    for (name, a) in kinds().into_iter().filter(|(_, a)| a.dropout == 0.0) {
        let lengths = [(70, 70), (0, 5), (33, 129), (5, 0), (128, 64)];
        let packed = Case::new(a, &lengths);
        let (o, lse) = packed.forward::<f32>(2);
        for (b, &(n, m)) in lengths.iter().enumerate() {
            let mut one = Case::new(a, &[(n, m)]);
            let (q0, k0) = (packed.cu_q[b] as usize, packed.cu_k[b] as usize);
            let cut = |x: &[f32], start: usize, n: usize, row: usize| x[start * row..][..n * row].to_vec();
            one.q = cut(&packed.q, q0, n, a.heads * a.key_width);
            one.k = cut(&packed.k, k0, m, a.kv_heads * a.key_width);
            one.v = cut(&packed.v, k0, m, a.kv_heads * a.value_width);
            let (o1, lse1) = one.forward::<f32>(1);
            assert_eq!(bits(&o1), bits(&cut(&o, q0, n, a.heads * a.value_width)), "{name}, sequence {b}");
            for h in 0..a.heads {
                let there = &lse[h * packed.nq() + q0..][..n];
                assert_eq!(bits(&lse1[h * n..][..n]), bits(there), "{name}, sequence {b}, head {h}");
            }
        }
    }
}

#[test]
fn rows_that_see_nothing_are_zero_with_an_infinitely_small_sum() {
    let a = Attention { causal: true, ..attention(2, 1, 16) };
    let (o, lse) = Case::new(a, &[(100, 30), (4, 0)]).forward::<f32>(1);
    let width = a.heads * a.value_width;
    for row in (0..70).chain(100..104) {
        assert!(o[row * width..][..width].iter().all(|&x| x == 0.0), "row {row}");
        assert!((0..2).all(|h| lse[h * 104 + row] == f32::NEG_INFINITY), "row {row}");
    }
    assert!((0..2).all(|h| lse[h * 104 + 70].is_finite()));
}

#[test]
fn block_masks_hide_their_blocks_and_nothing_else() {
    for (rows, cols) in [(16, 256), (64, 64), (24, 40), (7, 5)] {
        let (row_blocks, col_blocks) = (200usize.div_ceil(rows), 700usize.div_ceil(cols));
        let a = attention(2, 1, 32);
        for (name, mask) in [
            ("butterfly", BlockMask::butterfly((rows, row_blocks), (cols, col_blocks))),
            ("chequered", BlockMask::new((rows, row_blocks), (cols, col_blocks), |r, c| (r + c) % 2 == 0)),
            ("empty rows", BlockMask::new((rows, row_blocks), (cols, col_blocks), |r, c| r % 2 == 0 && c % 3 == 0)),
        ] {
            for causal in [false, true] {
                let mut case = Case::new(Attention { causal, ..a }, &[(200, 700), (77, 77)]);
                case.mask = Some(mask.clone());
                assert_exact(&format!("{name} of {rows} × {cols}"), &case);
            }
        }
    }
}

#[test]
fn large_logits_stay_finite() {
    let mut case = Case::new(Attention { causal: true, scale: 1.0, ..attention(2, 1, 16) }, &[(130, 130)]);
    case.q.iter_mut().for_each(|x| *x *= 50.0);
    case.k.iter_mut().for_each(|x| *x *= 50.0);
    let (o, lse) = case.forward::<f32>(1);
    assert!(lse.iter().any(|&x| x > 1e4), "the logits are large: {:?}", lse.iter().fold(0.0, |a: f32, &b| a.max(b)));
    assert!(o.iter().chain(&lse).all(|x| x.is_finite()));
    assert_exact("large logits", &case);
}

#[test]
fn nan_reaches_the_rows_that_see_it_and_no_others() {
    for compute in [Compute::F32, Compute::Bf16] {
        nan_reaches_the_rows(Attention { causal: true, compute, ..attention(2, 1, 32) });
    }
}

fn nan_reaches_the_rows(a: Attention) {
    let (clean, clean_lse) = Case::new(a, &[(150, 150)]).forward::<f32>(1);
    let (row, key) = (a.heads * a.value_width, 71);
    for (what, infinite) in [("key", false), ("value", false), ("value", true), ("query", false)] {
        let mut case = Case::new(a, &[(150, 150)]);
        let bad = if infinite { f32::INFINITY } else { f32::NAN };
        match what {
            "key" => case.k[key * 32 + 9] = bad,
            "value" => case.v[key * 32 + 9] = bad,
            _ => case.q[key * row + 9] = bad,
        }
        let (o, lse) = case.forward::<f32>(1);
        assert_eq!(bits(&o[..key * row]), bits(&clean[..key * row]), "{what}: rows before");
        let sees = |i: usize| if what == "query" { i == key } else { i >= key };
        for i in 0..150 {
            // The query's NaN is in head 0 only; a value's in one column.
            let seen = &o[i * row..][..32];
            let bad = if what == "value" { !seen[9].is_finite() } else { seen.iter().all(|x| x.is_nan()) };
            assert_eq!(bad, sees(i), "{what}: row {i}");
            if what != "value" {
                assert_eq!(lse[i].is_nan(), sees(i), "{what}: L of row {i}");
            } else {
                assert_eq!(lse[i].to_bits(), clean_lse[i].to_bits(), "{what}: L of row {i}");
            }
        }
    }
}

#[test]
fn the_order_of_blocks_of_keys_does_not_matter() {
    for n in [128, 1024] {
        let case = Case::new(attention(2, 1, 32), &[(65, n)]);
        let mut turned = case.clone();
        for (x, turned) in [(&case.k, &mut turned.k), (&case.v, &mut turned.v)] {
            *turned = x.chunks(64 * 32).rev().flatten().copied().collect();
        }
        let ((o, lse), (o2, lse2)) = (case.forward::<f32>(1), turned.forward::<f32>(1));
        assert!(difference(&o, &o2) < 1e-6, "O of {n} keys differs by {}", difference(&o, &o2));
        assert!(difference(&lse, &lse2) < 1e-6, "L of {n} keys differs by {}", difference(&lse, &lse2));
    }
}

#[test]
fn dropout_drops_its_share_and_differs_by_sequence_head_and_query() {
    let n = 20_000;
    for rate in [0.0, 0.17, 0.9] {
        let kept = (0..n).filter(|&j| dropout_keeps(rate, 3, 0, 1, 2, j)).count() as f64 / n as f64;
        assert!((kept - (1.0 - rate)).abs() < 0.01, "{rate}: {kept}");
    }
    let row = |seed, sequence, head, query| (0..256).map(move |j| dropout_keeps(0.5, seed, sequence, head, query, j));
    for other in [row(4, 0, 1, 2), row(3, 1, 1, 2), row(3, 0, 2, 2), row(3, 0, 1, 3)] {
        let agree = row(3, 0, 1, 2).zip(other).filter(|(a, b)| a == b).count();
        assert!((90..166).contains(&agree), "{agree} of 256 agree");
    }
}

#[test]
fn scratch_grows_with_the_length_not_with_its_square() {
    let a = Attention { causal: true, ..attention(8, 8, 64) };
    let scores = 8 * 8192 * 8192 * 4;
    assert!(attention_scratch::<f32>(&a, 1, 2) * 20 < scores);
    assert!(attention_backward_scratch::<f32>(&a, 8192, 2) * 20 < scores);
    let grows = |n| attention_backward_scratch::<f32>(&a, n, 2);
    assert!(grows(16384) - grows(8192) <= 2 * (grows(8192) - grows(4096)), "linear in the length");
}
