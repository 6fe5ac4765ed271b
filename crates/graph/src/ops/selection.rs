//! Which tokens look up their past: by a score above a threshold, the best of a sequence, or tokens seen before.

use memwall_formats::Dtype;
use memwall_kernels::Real;

use super::{check_offsets, check_slots};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Which scores are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// Those above a threshold: a causal rule.
    Above(f64),
    /// The best of each sequence, ⌈√T⌉ of T if no number is given: a rule that sees the whole sequence, so not causal.
    Best(Option<usize>),
}

/// y = s where s is kept, else 0. Inputs: s [N, 1], and for the best of sequences cu_seqlens [B + 1].
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Which scores are kept.
    pub keep: Keep,
}

/// How many of `tokens` are kept if no number is given.
pub fn lookups(tokens: usize) -> usize {
    (tokens as f64).sqrt().ceil() as usize
}

/// Keeps the `count` largest, of equals the first.
fn keep_best<T: Real>(s: &[T], y: &mut [T], count: usize) {
    y.fill(T::ZERO);
    for _ in 0..count.min(s.len()) {
        let free = (0..s.len()).filter(|&i| y[i] == T::ZERO && s[i] > T::ZERO);
        let Some(best) = free.reduce(|best, i| if s[i] > s[best] { i } else { best }) else { break };
        y[best] = s[best];
    }
}

impl Op for Selection {
    fn name(&self) -> &'static str {
        "selection"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let wanted = if matches!(self.keep, Keep::Best(_)) { 2 } else { 1 };
        if inputs.len() != wanted || inputs[0].shape.rank() != 2 || inputs[0].shape.width() != Some(1) {
            return Err(format!("{} inputs, scores {}; {wanted} and [N, 1] are needed", inputs.len(), inputs[0]));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(keep: Keep, io: &Io<'_>) {
            let (s, y) = (io.input::<T>(0), io.output::<T>(0));
            match keep {
                Keep::Above(threshold) => {
                    let threshold = T::of(threshold);
                    y.iter_mut().zip(s).for_each(|(y, &s)| *y = if s > threshold { s } else { T::ZERO });
                }
                Keep::Best(count) => {
                    for w in io.input::<i32>(1).windows(2) {
                        let rows = w[0] as usize..w[1] as usize;
                        keep_best(&s[rows.clone()], &mut y[rows.clone()], count.unwrap_or_else(|| lookups(rows.len())));
                    }
                }
            }
        }
        if let Keep::Best(_) = self.keep {
            check_offsets(io.input(1), io.in_sizes(0).axis(0))?;
        }
        real!(io.out_dtype(0), T => go::<T>(self.keep, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let ds = g.push1(SelectionBackward, &[node.outputs[0], dy])?;
        let mut grads = vec![None; node.inputs.len()];
        grads[0] = Some(ds);
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        match self.keep {
            Keep::Above(_) => Rows::Independent,
            Keep::Best(_) => Rows::Sequence,
        }
    }
}

/// ds = dy where something was kept, else 0. Inputs: y, dy.
#[derive(Clone, Copy, Debug)]
struct SelectionBackward;

impl Op for SelectionBackward {
    fn name(&self) -> &'static str {
        "selection_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[1].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let (kept, dy) = (io.input::<T>(0), io.input::<T>(1));
            for ((ds, &kept), &dy) in io.output::<T>(0).iter_mut().zip(kept).zip(dy) {
                *ds = if kept == <T as Real>::ZERO { <T as Real>::ZERO } else { dy };
            }
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("a selection has no second derivative")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// relu(mean of s − L / T): the scores of packed sequences that are more than L a sequence on average. Inputs: s [N, 1],
/// cu_seqlens [B + 1]. Output: `[1]`.
#[derive(Clone, Copy, Debug)]
pub struct TooManyLookups {
    /// L; √T of each sequence if there is none.
    pub lookups: Option<usize>,
}

impl TooManyLookups {
    /// Σ s, and what the sequences may have in all.
    fn sums<T: Real>(&self, s: &[T], cu_seqlens: &[i32]) -> [f64; 2] {
        let free = |w: &[i32]| self.lookups.map_or_else(|| f64::from(w[1] - w[0]).sqrt(), |n| n as f64);
        [s.iter().map(|s| s.f64()).sum(), cu_seqlens.windows(2).filter(|w| w[1] > w[0]).map(free).sum()]
    }
}

impl Op for TooManyLookups {
    fn name(&self) -> &'static str {
        "too_many_lookups"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs[0].shape.rank() != 2 || inputs[0].shape.width() != Some(1) {
            return Err(format!("scores are {}, [N, 1] is needed", inputs[0]));
        }
        Ok(vec![Type::new([1], inputs[0].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        check_offsets(io.input(1), io.in_sizes(0).axis(0))?;
        real!(io.out_dtype(0), T => {
            let s = io.input::<T>(0);
            let [all, free] = self.sums(s, io.input(1));
            io.output::<T>(0)[0] = <T as Real>::of(((all - free) / s.len().max(1) as f64).max(0.0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; 2]) };
        let ds = g.push1(TooManyLookupsBackward { forward: *self }, &[node.inputs[0], node.inputs[1], dy])?;
        Ok(vec![Some(ds), None])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// Inputs: those of [`TooManyLookups`] and the gradient of its output. Output: the gradient of s.
#[derive(Clone, Copy, Debug)]
struct TooManyLookupsBackward {
    forward: TooManyLookups,
}

impl Op for TooManyLookupsBackward {
    fn name(&self) -> &'static str {
        "too_many_lookups_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        check_offsets(io.input(1), io.in_sizes(0).axis(0))?;
        real!(io.out_dtype(0), T => {
            let (s, dy) = (io.input::<T>(0), io.input::<T>(2)[0]);
            let [all, free] = self.forward.sums(s, io.input(1));
            let slope = if all > free { dy.f64() / s.len() as f64 } else { 0.0 };
            io.output::<T>(0).fill(<T as Real>::of(slope));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a penalty are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// 1 where the token stood earlier in its sequence, else 0. Inputs: ids `[N]` I32, cu_seqlens [B + 1]. Output: [N, 1].
#[derive(Clone, Copy, Debug)]
pub struct SeenBefore {
    /// The element type of the output.
    pub elem: Dtype,
}

impl Op for SeenBefore {
    fn name(&self) -> &'static str {
        "seen_before"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs[0].shape.rank() != 1 || inputs[0].dtype != Dtype::I32 {
            return Err(format!("ids are {}, I32[N] is needed", inputs[0]));
        }
        Ok(vec![Type::new([inputs[0].shape.dims()[0], 1.into()], self.elem)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let ids = io.input::<i32>(0);
        check_offsets(io.input(1), ids.len())?;
        real!(io.out_dtype(0), T => {
            let y = io.output::<T>(0);
            for w in io.input::<i32>(1).windows(2) {
                let first = w[0] as usize;
                for t in first..w[1] as usize {
                    let seen = ids[first..t].contains(&ids[t]);
                    y[t] = if seen { <T as Real>::ONE } else { <T as Real>::ZERO };
                }
            }
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, _: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        // Ids have no derivative.
        Ok(vec![None; node.inputs.len()])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let n = sizes.inputs[0].1.elements() as f64;
        sizes.streaming(n * n / 2.0)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }
}

/// [`SeenBefore`] for rows that continue sequences. Inputs: ids by slot and position [slots, capacity] I32, ids `[N]`, rows
/// [N, 2] (slot, position). Outputs: the kept ids, moved on, and [N, 1] F32.
#[derive(Clone, Copy, Debug)]
pub struct SeenBeforeStep;

impl Op for SeenBeforeStep {
    fn name(&self) -> &'static str {
        "seen_before_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs[0].shape.rank() != 2 || inputs[0].dtype != Dtype::I32 || inputs[1].shape.rank() != 1 {
            return Err(format!(
                "kept ids are {}, ids {}; I32[slots, capacity] and [N] are needed",
                inputs[0], inputs[1]
            ));
        }
        Ok(vec![inputs[0].clone(), Type::new([inputs[1].shape.dims()[0], 1.into()], Dtype::F32)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (slots, capacity) = (io.out_sizes(0).axis(0), io.out_sizes(0).axis(1));
        let (kept, y) = (io.output::<i32>(0), io.output::<f32>(1));
        let rows = io.input::<i32>(2).chunks_exact(2);
        for ((&id, row), y) in io.input::<i32>(1).iter().zip(rows).zip(y) {
            check_slots(&row[..1], slots)?;
            if row[1] < 0 || row[1] as usize >= capacity {
                return Err(format!("position {} of a context of {capacity}", row[1]));
            }
            let (of, t) = (&mut kept[row[0] as usize * capacity..][..capacity], row[1] as usize);
            *y = if of[..t].contains(&id) { 1.0 } else { 0.0 };
            of[t] = id;
        }
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it writes a state in place")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming((sizes.inputs[1].1.elements() * sizes.inputs[0].1.axis(1)) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_a_sequence_are_kept_and_of_equals_the_first() {
        let kept = |s: &[f32], count| {
            let mut y = vec![7.0; s.len()];
            keep_best(s, &mut y, count);
            y
        };
        assert_eq!(kept(&[0.2, 0.9, 0.5, 0.9], 2), [0.0, 0.9, 0.0, 0.9]);
        assert_eq!(kept(&[0.5, 0.5, 0.5], 2), [0.5, 0.5, 0.0]);
        assert_eq!(kept(&[0.1], 5), [0.1]);
        assert_eq!([1, 2, 4, 5, 64].map(lookups), [1, 2, 2, 3, 8]);
    }
}
