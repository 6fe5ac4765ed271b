//! Decoupled distillation from a teacher's top-K probabilities, and its gradient.
//!
//! With T the K ids that the teacher kept, p_T and q_T the mass of teacher and student on them, and temperature τ:
//! L = p_T ln(p_T/q_T) + (1−p_T) ln((1−p_T)/(1−q_T)) + p_T τ² KL(softmax(z^p_T/τ) ‖ softmax(z^q_T/τ)).
//! The first two terms weigh T against the rest at temperature 1; the last compares within T. At τ = 1 the sum is the KL
//! divergence with everything outside T in one bucket. LFM2 (arXiv 2511.23404).
//!
//! 1 − q_T is taken from a sum of its own over what is outside T, not from q_T, so that it needs no lower limit.

use crate::cross_entropy::{IGNORE, LogSumExp, Softmax};
use crate::disjoint::Disjoint;
use crate::{Pool, Real};

/// What a teacher kept of N rows: the K likeliest ids and the logarithms of their probabilities, both [N, K].
///
/// A row whose first id is [`IGNORE`] does not count.
#[derive(Clone, Copy, Debug)]
pub struct TopK<'a, T> {
    /// Distinct ids of `0..V`.
    pub ids: &'a [i32],
    /// Logarithms of probabilities, natural, at temperature 1.
    pub log_probabilities: &'a [T],
    /// K.
    pub k: usize,
}

impl<'a, T: Real> TopK<'a, T> {
    /// The row, its ids and logarithms, that breaks what is promised, if one does.
    pub fn broken(&self, vocabulary: usize) -> Option<usize> {
        let rows = self.ids.chunks_exact(self.k).zip(self.log_probabilities.chunks_exact(self.k));
        let is_broken = |(ids, logs): (&[i32], &[T])| {
            let distinct = (1..ids.len()).all(|i| !ids[..i].contains(&ids[i]));
            let inside = ids.iter().all(|&id| id >= 0 && (id as usize) < vocabulary);
            ids[0] != IGNORE && !(distinct && inside && logs.iter().all(|&l| l.is_finite() && l.f64() < 1e-3))
        };
        rows.enumerate().find_map(|(i, row)| is_broken(row).then_some(i))
    }

    fn row(&self, t: usize) -> Option<(&'a [i32], &'a [T])> {
        let (ids, logs) = (&self.ids[t * self.k..][..self.k], &self.log_probabilities[t * self.k..][..self.k]);
        (ids[0] != IGNORE).then_some((ids, logs))
    }

    fn counted(&self) -> f64 {
        self.ids.chunks_exact(self.k).filter(|ids| ids[0] != IGNORE).count() as f64
    }
}

/// The loss of each row of logits [N, V], its log-sum-exps inside and outside T, and the mean over rows that count.
///
/// # Panics
/// If the lengths do not fit or a row of `teacher` is broken.
pub fn distillation<T: Real>(
    pool: &Pool,
    logits: &[T],
    teacher: TopK<'_, T>,
    temperature: T,
    loss: &mut [T],
    inside: &mut [T],
    outside: &mut [T],
) -> T {
    let n = loss.len();
    if n == 0 {
        return T::ZERO;
    }
    let v = logits.len() / n;
    assert!(logits.len() == n * v && inside.len() == n && outside.len() == n, "distillation: {n} rows");
    assert!(teacher.ids.len() == n * teacher.k && teacher.log_probabilities.len() == n * teacher.k && teacher.k <= v);
    let (to_loss, to_in, to_out) = (Disjoint::new(&mut *loss), Disjoint::new(inside), Disjoint::new(outside));
    pool.run(n, |t, _| {
        // SAFETY: each task has a row of its own.
        let parts = unsafe { (to_loss.part(t..t + 1), to_in.part(t..t + 1), to_out.part(t..t + 1)) };
        let row = &logits[t * v..(t + 1) * v];
        let (loss, inside, outside) = match teacher.row(t) {
            None => (T::ZERO, T::ZERO, T::ZERO),
            Some((ids, logs)) => row_loss(row, ids, logs, temperature),
        };
        (parts.0[0], parts.1[0], parts.2[0]) = (loss, inside, outside);
    });
    let total: f64 = loss.iter().map(|x| x.f64()).sum();
    T::of(total / teacher.counted().max(1.0))
}

/// Turns logits [N, V] into the gradient of the mean with respect to them, times `d_loss`.
///
/// # Panics
/// As [`distillation`].
pub fn distillation_backward<T: Real>(
    pool: &Pool,
    teacher: TopK<'_, T>,
    temperature: T,
    inside: &[T],
    outside: &[T],
    d_loss: T,
    logits: &mut [T],
) {
    let n = inside.len();
    if n == 0 {
        return;
    }
    let v = logits.len() / n;
    assert!(outside.len() == n && teacher.ids.len() == n * teacher.k, "distillation: {n} rows");
    let scale = T::of(d_loss.f64() / teacher.counted().max(1.0));
    let parts = Disjoint::new(logits);
    pool.run(n, |t, _| {
        // SAFETY: each task has a row of its own.
        let row = unsafe { parts.part(t * v..(t + 1) * v) };
        let Some((ids, logs)) = teacher.row(t) else {
            row.fill(T::ZERO);
            return;
        };
        let kept: Vec<T> = ids.iter().map(|&id| row[id as usize]).collect();
        let (p, q) = (mass(logs, ids.len() == v), student_mass(inside[t], outside[t]));
        // With D = q_T − p_T: outside T −D q_v/(1−q_T), inside D q_v/q_T and the term within T.
        let apart = q - p;
        if ids.len() < v {
            T::dispatch(Softmax { row: &mut *row, lse: outside[t], scale: -(scale * apart) });
        }
        let (ours, theirs) = (tempered(&kept, temperature), tempered(logs, temperature));
        for (i, &id) in ids.iter().enumerate() {
            let share = (kept[i] - inside[t]).exp();
            row[id as usize] = scale * (share * apart + p * temperature * (ours[i].exp() - theirs[i].exp()));
        }
    });
}

/// Loss, and log-sum-exp inside and outside T.
fn row_loss<T: Real>(row: &[T], ids: &[i32], logs: &[T], temperature: T) -> (T, T, T) {
    let kept: Vec<T> = ids.iter().map(|&id| row[id as usize]).collect();
    let inside = T::dispatch(LogSumExp(&kept));
    let outside = outside_of(row, ids);
    let p = mass(logs, ids.len() == row.len());
    let all = both(inside, outside);
    let part = |p: T, log_q: T| if p > T::ZERO { p * (p.ln() - log_q) } else { T::ZERO };
    let binary = part(p, inside - all) + part(T::ONE - p, outside - all);
    let (ours, theirs) = (tempered(&kept, temperature), tempered(logs, temperature));
    let mut within = T::ZERO;
    for (&ours, &theirs) in ours.iter().zip(&theirs) {
        within += theirs.exp() * (theirs - ours);
    }
    (binary + p * temperature * temperature * within, inside, outside)
}

/// The teacher's mass on T; all of it where T is the vocabulary, whatever was rounded.
fn mass<T: Real>(logs: &[T], everything: bool) -> T {
    let mut p = T::ZERO;
    for &l in logs {
        p += l.exp();
    }
    if everything || p > T::ONE { T::ONE } else { p }
}

/// q_T.
fn student_mass<T: Real>(inside: T, outside: T) -> T {
    (inside - both(inside, outside)).exp()
}

/// ln(e^a + e^b).
fn both<T: Real>(a: T, b: T) -> T {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == T::NEG_INFINITY { high } else { high + (T::ONE + (low - high).exp()).ln() }
}

/// Log-softmax of x / τ.
fn tempered<T: Real>(x: &[T], temperature: T) -> Vec<T> {
    let scaled: Vec<T> = x.iter().map(|&x| x / temperature).collect();
    let sum = T::dispatch(LogSumExp(&scaled));
    scaled.into_iter().map(|x| x - sum).collect()
}

/// The log-sum-exp of what is not in `ids`: of the stretches between them, in order.
fn outside_of<T: Real>(row: &[T], ids: &[i32]) -> T {
    let mut sorted: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
    sorted.sort_unstable();
    sorted.push(row.len());
    let (mut sum, mut begin) = (T::NEG_INFINITY, 0);
    for id in sorted {
        if begin < id {
            sum = both(sum, T::dispatch(LogSumExp(&row[begin..id])));
        }
        begin = id + 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: usize = 37;

    /// Logits of student and teacher, and the teacher's top K.
    fn rows(n: usize, k: usize) -> (Vec<f64>, Vec<f64>, Vec<i32>, Vec<f64>) {
        let student: Vec<f64> = (0..n * V).map(|i| (i as f64 * 0.77).sin() * 3.0).collect();
        let teacher: Vec<f64> = (0..n * V).map(|i| (i as f64 * 1.31).cos() * 4.0).collect();
        let (mut ids, mut logs) = (Vec::new(), Vec::new());
        for row in teacher.chunks_exact(V) {
            let sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let mut order: Vec<usize> = (0..V).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            ids.extend(order[..k].iter().map(|&i| i as i32));
            logs.extend(order[..k].iter().map(|&i| row[i] - sum));
        }
        (student, teacher, ids, logs)
    }

    fn loss(x: &[f64], ids: &[i32], logs: &[f64], k: usize, temperature: f64) -> (f64, [Vec<f64>; 3]) {
        let n = ids.len() / k;
        let mut parts = [0; 3].map(|_| vec![0.0; n]);
        let [l, i, o] = &mut parts;
        let teacher = TopK { ids, log_probabilities: logs, k };
        let mean = distillation(&Pool::new(2), x, teacher, temperature, l, i, o);
        (mean, parts)
    }

    fn softmax(row: &[f64]) -> Vec<f64> {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(|x| x.exp() / sum).collect()
    }

    #[test]
    fn at_temperature_one_it_is_the_divergence_with_the_tail_in_one_bucket() {
        for k in [1, 5, 36, V] {
            let (student, teacher, ids, logs) = rows(4, k);
            let (_, [found, ..]) = loss(&student, &ids, &logs, k, 1.0);
            for t in 0..4 {
                let (p, q) = (softmax(&teacher[t * V..][..V]), softmax(&student[t * V..][..V]));
                let kept: Vec<usize> = ids[t * k..][..k].iter().map(|&i| i as usize).collect();
                let mut want: f64 = kept.iter().map(|&i| p[i] * (p[i] / q[i]).ln()).sum();
                let tail = |x: &[f64]| (0..V).filter(|i| !kept.contains(i)).map(|i| x[i]).sum::<f64>();
                if k < V {
                    want += tail(&p) * (tail(&p) / tail(&q)).ln();
                }
                assert!((found[t] - want).abs() < 1e-12, "K {k}: {} is not {want}", found[t]);
            }
        }
    }

    #[test]
    fn the_gradient_equals_differences_and_ignored_rows_do_not_count() {
        for (k, temperature) in [(1, 1.0), (5, 2.0), (12, 0.5), (V, 2.0)] {
            let (x, _, mut ids, logs) = rows(5, k);
            ids[2 * k] = IGNORE;
            let (mean, [rows, inside, outside]) = loss(&x, &ids, &logs, k, temperature);
            assert_eq!(rows[2], 0.0);
            assert!((mean - rows.iter().sum::<f64>() / 4.0).abs() < 1e-12);
            let teacher = TopK { ids: &ids, log_probabilities: &logs, k };
            let mut d = x.clone();
            distillation_backward(&Pool::new(2), teacher, temperature, &inside, &outside, 0.7, &mut d);
            for i in 0..x.len() {
                let at = |h: f64| {
                    let mut x = x.clone();
                    x[i] += h;
                    loss(&x, &ids, &logs, k, temperature).0
                };
                let want = 0.7 * (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((d[i] - want).abs() < 1e-8, "K {k}, τ {temperature}, {i}: {} is not {want}", d[i]);
            }
        }
    }

    /// What is compared within T alone says nothing of how much of the student's mass lies there.
    #[test]
    fn the_mass_on_the_kept_ids_is_learned_too() {
        let (k, temperature) = (5, 2.0);
        let (_, _, ids, logs) = rows(1, k);
        let kept: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        let p: f64 = logs.iter().map(|l| l.exp()).sum();
        let apart = |z: &[f64]| (kept.iter().map(|&i| softmax(z)[i]).sum::<f64>() - p).abs();
        let (mut ours, mut within) = (vec![0.0; V], vec![0.0; V]);
        for _ in 0..300 {
            let (_, [_, inside, outside]) = loss(&ours, &ids, &logs, k, temperature);
            let mut d = ours.clone();
            let teacher = TopK { ids: &ids, log_probabilities: &logs, k };
            distillation_backward(&Pool::new(1), teacher, temperature, &inside, &outside, 1.0, &mut d);
            ours.iter_mut().zip(&d).for_each(|(z, d)| *z -= 0.5 * d);
            let chosen: Vec<f64> = kept.iter().map(|&i| within[i]).collect();
            let (student, theirs) = (tempered(&chosen, temperature), tempered(&logs, temperature));
            for (i, &id) in kept.iter().enumerate() {
                within[id] -= 0.5 * temperature * (student[i].exp() - theirs[i].exp());
            }
        }
        assert!(apart(&ours) < 0.02 && apart(&within) > 2.0 * apart(&ours), "{} {}", apart(&ours), apart(&within));
    }

    #[test]
    fn a_student_sure_of_itself_stays_finite() {
        let mut x = [0.0f32; V];
        x[3] = 1e4;
        let (ids, logs) = ([5], [-0.1f32]);
        let teacher = TopK { ids: &ids, log_probabilities: &logs, k: 1 };
        let (mut l, mut i, mut o) = ([0.0], [0.0], [0.0]);
        let mean = distillation(&Pool::new(1), &x, teacher, 1.0, &mut l, &mut i, &mut o);
        assert!((mean / 9048.0 - 1.0).abs() < 1e-2, "{mean}");
        distillation_backward(&Pool::new(1), teacher, 1.0, &i, &o, 1.0, &mut x);
        assert!(x.iter().all(|d| d.is_finite()) && (x[3] - 0.904_837_4).abs() < 1e-4, "{x:?}");
    }

    #[test]
    fn broken_rows_are_found() {
        let logs = [-1.0f64, -2.0, -1.0, -2.0];
        let broken = |ids: &[i32], logs: &[f64]| TopK { ids, log_probabilities: logs, k: 2 }.broken(4);
        assert_eq!(broken(&[0, 3, 1, 2], &logs), None);
        assert_eq!(broken(&[0, 3, IGNORE, 2], &logs), None);
        assert_eq!(broken(&[0, 3, 1, 4], &logs), Some(1));
        assert_eq!(broken(&[0, 0, 1, 2], &logs), Some(0));
        assert_eq!(broken(&[0, 3, 1, 2], &[-1.0, 0.5, -1.0, -2.0]), Some(0));
        assert_eq!(broken(&[0, 3, 1, 2], &[-1.0, -1.0, f64::NAN, -2.0]), Some(1));
    }
}
