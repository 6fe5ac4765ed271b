//! Late interaction: how well a document answers a query, token by token.
//!
//! score(query, document) = Σ_i max_j q_i · d_j over the query's tokens i and the document's tokens j. Tokens of documents
//! that do not count, padding among them, never win; those of queries add nothing. Of equal products the first wins.
//!
//! Layout: tokens of all queries in one dimension N, query a being tokens `cu_queries[a]..cu_queries[a + 1]`, those of
//! documents likewise in M; scores [A, B]; `winners` [N, B], the token of M that won, −1 where none counts. A product has one
//! order of sums, so that a score does not depend on what else is scored.
//!
//! Source: "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT" (2020), arXiv
//! 2004.12832.

use crate::disjoint::Disjoint;
use crate::rows::expect_len;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// Products that are summed side by side.
const TOGETHER: usize = 4;

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct MaxSimInputs<'a, T> {
    /// Vectors of query tokens [N, D].
    pub q: &'a [T],
    /// Vectors of document tokens [M, D].
    pub d: &'a [T],
    /// Where each query begins, and the end, [A + 1].
    pub cu_queries: &'a [i32],
    /// Where each document begins, and the end, [B + 1].
    pub cu_documents: &'a [i32],
    /// 0: the token of a query does not count, `[N]`.
    pub query_counts: &'a [i32],
    /// 0: the token of a document does not count, `[M]`.
    pub document_counts: &'a [i32],
}

impl<T: Real> MaxSimInputs<'_, T> {
    fn queries(&self) -> usize {
        self.cu_queries.len() - 1
    }

    fn documents(&self) -> usize {
        self.cu_documents.len() - 1
    }

    fn query(&self, a: usize) -> Range<usize> {
        self.cu_queries[a] as usize..self.cu_queries[a + 1] as usize
    }

    fn document(&self, b: usize) -> Range<usize> {
        self.cu_documents[b] as usize..self.cu_documents[b + 1] as usize
    }

    /// D.
    fn check(&self) -> usize {
        for (name, cu, tokens) in [
            ("cu_queries", self.cu_queries, self.query_counts.len()),
            ("cu_documents", self.cu_documents, self.document_counts.len()),
        ] {
            let whole = cu.first() == Some(&0) && cu.last().is_some_and(|&end| end as usize == tokens);
            assert!(whole && cu.is_sorted(), "max_sim: {name} {cu:?} must rise from 0 to {tokens}");
        }
        let width = self.q.len().checked_div(self.query_counts.len()).unwrap_or(0);
        expect_len("q", self.q.len(), self.query_counts.len() * width);
        expect_len("d", self.d.len(), self.document_counts.len() * width);
        width
    }
}

/// The scores [A, B] and the winners [N, B]; a document of which no token counts scores −∞, or 0 where the query has none.
///
/// # Panics
/// If a length does not fit.
pub fn max_sim<T: Real>(pool: &Pool, x: &MaxSimInputs<'_, T>, scores: &mut [T], winners: &mut [i32]) {
    let (width, documents) = (x.check(), x.documents());
    expect_len("scores", scores.len(), x.queries() * documents);
    expect_len("winners", winners.len(), x.query_counts.len() * documents);
    let (scores, winners) = (Disjoint::new(scores), Disjoint::new(winners));
    pool.run(x.queries() * documents, |task, _| {
        let (a, b) = (task / documents, task % documents);
        let mut sum = T::ZERO;
        for i in x.query(a) {
            let mut best = (T::of(f64::NEG_INFINITY), -1);
            if x.query_counts[i] != 0 {
                best = T::dispatch(Best { x, width, token: i, document: x.document(b) });
                sum += best.0;
            }
            // SAFETY: a query's column for a document is this task's own.
            unsafe { winners.part(i * documents + b..i * documents + b + 1) }.fill(best.1);
        }
        // SAFETY: a score is this task's own.
        unsafe { scores.part(task..task + 1) }.fill(sum);
    });
}

/// The largest product of a query token with the tokens of a document, and whose it is.
struct Best<'a, T> {
    x: &'a MaxSimInputs<'a, T>,
    width: usize,
    token: usize,
    document: Range<usize>,
}

impl<T: Real> Kernel<T> for Best<'_, T> {
    type Out = (T, i32);
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) -> (T, i32) {
        let Best { x, width, token, document } = self;
        let q = &x.q[token * width..(token + 1) * width];
        let mut best = (T::of(f64::NEG_INFINITY), -1);
        let mut first = document.start;
        while first < document.end {
            // Beyond the last token its own product is taken again, and not looked at.
            let rows: [usize; TOGETHER] = std::array::from_fn(|r| (first + r).min(document.end - 1) * width);
            let mut sums = [s.zero(); TOGETHER];
            for at in (0..width).step_by(S::LANES) {
                let part = at..(at + S::LANES).min(width);
                let q = s.load_any(&q[part.clone()]);
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = s.fma(q, s.load_any(&x.d[row + part.start..row + part.end]), *sum);
                }
            }
            for (sum, j) in sums.into_iter().zip(first..document.end) {
                let product = s.sum(sum);
                if x.document_counts[j] != 0 && product > best.0 {
                    best = (product, j as i32);
                }
            }
            first += TOGETHER;
        }
        best
    }
}

/// The gradients of q and d from that of the scores; a pair without a winner has none.
///
/// # Panics
/// As [`max_sim`].
pub fn max_sim_backward<T: Real>(
    pool: &Pool,
    x: &MaxSimInputs<'_, T>,
    winners: &[i32],
    d_scores: &[T],
    dq: &mut [T],
    dd: &mut [T],
) {
    let (width, documents) = (x.check(), x.documents());
    expect_len("winners", winners.len(), x.query_counts.len() * documents);
    expect_len("d_scores", d_scores.len(), x.queries() * documents);
    expect_len("dq", dq.len(), x.q.len());
    expect_len("dd", dd.len(), x.d.len());
    let (dq, dd) = (Disjoint::new(dq), Disjoint::new(dd));
    let won = |i: usize, b: usize| usize::try_from(winners[i * documents + b]).ok();
    pool.run(x.queries(), |a, _| {
        for i in x.query(a) {
            // SAFETY: a query's tokens are this task's own.
            let dq = unsafe { dq.part(i * width..(i + 1) * width) };
            dq.fill(T::ZERO);
            for b in 0..documents {
                if let Some(j) = won(i, b) {
                    T::dispatch(Add { to: &mut *dq, by: d_scores[a * documents + b], x: &x.d[j * width..][..width] });
                }
            }
        }
    });
    pool.run(documents, |b, _| {
        let tokens = x.document(b);
        // SAFETY: a document's tokens are this task's own.
        let dd = unsafe { dd.part(tokens.start * width..tokens.end * width) };
        dd.fill(T::ZERO);
        for a in 0..x.queries() {
            for i in x.query(a) {
                if let Some(j) = won(i, b) {
                    let to = &mut dd[(j - tokens.start) * width..][..width];
                    T::dispatch(Add { to, by: d_scores[a * documents + b], x: &x.q[i * width..][..width] });
                }
            }
        }
    });
}

/// to += by · x.
struct Add<'a, T> {
    to: &'a mut [T],
    by: T,
    x: &'a [T],
}

impl<T: Real> Kernel<T> for Add<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, _: S) {
        self.to.iter_mut().zip(self.x).for_each(|(to, x)| *to = self.by.mul_add(*x, *to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{cast, close, gradient, values};

    const WIDTHS: [usize; 5] = [1, 7, 16, 33, 128];

    struct Case<T> {
        q: Vec<T>,
        d: Vec<T>,
        cu: [Vec<i32>; 2],
        counts: [Vec<i32>; 2],
    }

    impl<T: Real> Case<T> {
        /// Two queries and three documents, the second of which is empty; every fifth token does not count.
        fn new(width: usize) -> Case<T> {
            let counts = |n: usize| (0..n).map(|i| i32::from(i % 5 != 3)).collect();
            let cu = [vec![0, 3, 9], vec![0, 6, 6, 17]];
            Case { q: values(9 * width, 1), d: values(17 * width, 2), cu, counts: [counts(9), counts(17)] }
        }

        fn inputs(&self) -> MaxSimInputs<'_, T> {
            MaxSimInputs {
                q: &self.q,
                d: &self.d,
                cu_queries: &self.cu[0],
                cu_documents: &self.cu[1],
                query_counts: &self.counts[0],
                document_counts: &self.counts[1],
            }
        }

        fn scores(&self) -> (Vec<T>, Vec<i32>) {
            let x = self.inputs();
            let (a, b) = (x.queries(), x.documents());
            let (mut scores, mut winners) = (vec![T::of(f64::NAN); a * b], vec![-7; self.counts[0].len() * b]);
            max_sim(&Pool::new(2), &x, &mut scores, &mut winners);
            (scores, winners)
        }
    }

    /// By the definition, in f64.
    fn brute(case: &Case<f64>) -> Vec<f64> {
        let width = case.q.len() / 9;
        let mut scores = Vec::new();
        for query in case.cu[0].windows(2) {
            for document in case.cu[1].windows(2) {
                let tokens = |w: &[i32], counts: &[i32]| -> Vec<usize> {
                    (w[0] as usize..w[1] as usize).filter(|&t| counts[t] != 0).collect()
                };
                let (is, js) = (tokens(query, &case.counts[0]), tokens(document, &case.counts[1]));
                let dot = |i: usize, j: usize| -> f64 {
                    (0..width).map(|c| case.q[i * width + c] * case.d[j * width + c]).sum()
                };
                let best = |&i: &usize| js.iter().map(|&j| dot(i, j)).fold(f64::NEG_INFINITY, f64::max);
                scores.push(is.iter().map(best).sum());
            }
        }
        scores
    }

    #[test]
    fn scores_equal_the_definition_and_those_that_do_not_count_never_win() {
        for width in WIDTHS {
            let case = Case::<f64>::new(width);
            let single =
                Case::<f32> { q: cast(&case.q), d: cast(&case.d), cu: case.cu.clone(), counts: case.counts.clone() };
            let expected = brute(&case);
            assert_eq!(expected[1], f64::NEG_INFINITY, "a document without tokens");
            let ((scores, winners), (singles, _)) = (case.scores(), single.scores());
            for (pair, want) in expected.iter().enumerate().filter(|(_, want)| want.is_finite()) {
                close("score", &scores[pair..=pair], &[*want], 1e-12);
                close("score in f32", &singles[pair..=pair], &[*want], 1e-5);
            }
            assert_eq!((scores[1], scores[4]), (f64::NEG_INFINITY, f64::NEG_INFINITY));
            for (i, row) in winners.chunks_exact(3).enumerate() {
                for (b, &winner) in row.iter().enumerate() {
                    let has = case.counts[0][i] != 0 && b != 1;
                    assert_eq!(winner >= 0, has, "token {i}, document {b}");
                    if has {
                        assert!(case.counts[1][winner as usize] != 0 && (winner as usize >= 6) == (b == 2));
                    }
                }
            }
        }
    }

    #[test]
    fn a_score_does_not_depend_on_what_else_is_scored() {
        let case = Case::<f32>::new(33);
        let all = case.scores().0;
        let alone = Case {
            q: case.q[3 * 33..].to_vec(),
            d: case.d[6 * 33..].to_vec(),
            cu: [vec![0, 6], vec![0, 11]],
            counts: [case.counts[0][3..].to_vec(), case.counts[1][6..].to_vec()],
        };
        assert_eq!(alone.scores().0[0].to_bits(), all[5].to_bits());
    }

    #[test]
    fn gradients_equal_differences() {
        let mut case = Case::<f64>::new(5);
        case.cu[1] = vec![0, 6, 10, 17];
        let (scores, winners) = case.scores();
        let d_scores = values::<f64>(scores.len(), 3);
        let (mut dq, mut dd) = (vec![f64::NAN; case.q.len()], vec![f64::NAN; case.d.len()]);
        max_sim_backward(&Pool::new(2), &case.inputs(), &winners, &d_scores, &mut dq, &mut dd);
        let with = |q: &[f64], d: &[f64]| {
            let (cu, counts) = (case.cu.clone(), case.counts.clone());
            Case { q: q.to_vec(), d: d.to_vec(), cu, counts }.scores().0
        };
        gradient("q", &case.q, &d_scores, &dq, |q| with(q, &case.d));
        gradient("d", &case.d, &d_scores, &dd, |d| with(&case.q, d));
        assert!(dd[3 * 5..4 * 5].iter().all(|&g| g == 0.0), "a token that does not count");
    }
}
