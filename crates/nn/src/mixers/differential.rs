//! Differential attention (Ye et al. 2024, arXiv 2410.05258): the difference of two softmax maps over the same values.
//!
//! Heads 2h and 2h + 1 are a pair, of queries as of keys: P1 = softmax(τ q₁ k₁ᵀ), P2 = softmax(τ q₂ k₂ᵀ), under one mask;
//! o = (1 − λ₀) · RMSNorm((P1 − λ P2) [v₁ | v₂]), with λ = exp(λ_q1 · λ_k1) − exp(λ_q2 · λ_k2) + λ₀ and
//! λ₀ = 0.8 − 0.6 exp(−0.3 depth). Both maps are exact attention. Whole sequences take two calls, of the heads apart. Over
//! a cache it is one call, in which queries stand beside zeros, (q₁ | 0) and (0 | q₂), against keys (k₁ | k₂): each key and
//! value is read once a step, in the layout that plain attention keeps, and what is added to a score is zero.

use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::ops::sum::SumRows;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::attention::Attention as Kernel;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::sequences::{Kept, KeyValues, Sequences};

/// How attention of a layer is differential.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DifferentialConfig {
    /// The layer's place in the model, from 0, which λ₀ depends on.
    pub depth: usize,
    /// ε of the norm of each pair of heads.
    #[serde(default = "eps")]
    pub norm_eps: f64,
}

fn eps() -> f64 {
    1e-5
}

impl DifferentialConfig {
    /// Differential attention in layer `depth`.
    pub fn new(depth: usize) -> DifferentialConfig {
        DifferentialConfig { depth, norm_eps: eps() }
    }

    /// λ₀ = 0.8 − 0.6 exp(−0.3 depth): 0.2 in the first layer, towards 0.8 in late ones.
    pub fn lambda_init(&self) -> f64 {
        0.8 - 0.6 * (-0.3 * self.depth as f64).exp()
    }

    /// Checks that heads go in pairs; `key` is where the attention's configuration stands.
    pub(super) fn check(&self, key: &str, heads: usize, kv_heads: usize) -> Result<(), ConfigError> {
        for (name, n) in [("heads", heads), ("kv_heads", kv_heads)] {
            if !n.is_multiple_of(2) {
                let problem = format!("is {n}; differential attention pairs heads, an even number is needed");
                return Err(ConfigError::at(format!("{key}.{name}"), problem));
            }
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            let problem = format!("is {}, a number above 0 is needed", self.norm_eps);
            return Err(ConfigError::at(format!("{key}.differential.norm_eps"), problem));
        }
        Ok(())
    }

    /// Differential attention from q [N, H, K] to keys and values of G heads of width K, which plain attention of `kernel`
    /// would see; o [N, H, K]. Weights are named `name`.lambda_* and `name`.subln.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn attend(
        &self,
        g: &mut Graph,
        name: &str,
        kernel: &Kernel,
        q: Value,
        visible: KeyValues,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let (rows, pairs, width) = (g.shape(q).dims()[0], kernel.heads / 2, kernel.key_width);
        let [first, second] = match &seqs.kept {
            Kept::Whole { .. } => apart(g, kernel, q, visible, seqs)?,
            Kept::Slots { .. } => beside_zeros(g, name, kernel, q, visible, seqs)?,
        };
        let lambda = self.lambda(g, name, width)?;
        let second = ops::mul(g, second, lambda)?;
        let o = ops::sub(g, first, second)?;
        let weight = g.weight(&format!("{name}.subln.weight"), [2 * width], g.elem())?;
        let o = ops::reshape(g, o, [rows, pairs.into(), (2 * width).into()])?;
        let o = g.push1(Norm::rms(2 * width, self.norm_eps), &[o, weight])?;
        let o = ops::scale(g, o, 1.0 - self.lambda_init())?;
        ops::reshape(g, o, [rows, kernel.heads.into(), width.into()])
    }

    /// λ, one number.
    fn lambda(&self, g: &mut Graph, name: &str, width: usize) -> Result<Value, GraphError> {
        let mut exponential = |n: usize| {
            let [q, k] = ["q", "k"].map(|of| g.weight(&format!("{name}.lambda_{of}{n}"), [width], g.elem()));
            let product = ops::mul(g, q?, k?)?;
            let dot = g.push1(SumRows::new([1].into()), &[product])?;
            ops::unary(g, Unary::Exp, dot)
        };
        let (first, second) = (exponential(1)?, exponential(2)?);
        let lambda = ops::sub(g, first, second)?;
        ops::unary(g, Unary::Offset(self.lambda_init()), lambda)
    }
}

/// What both maps give, by a call of attention each; [N, H / 2, 2 K] twice.
fn apart(
    g: &mut Graph,
    kernel: &Kernel,
    q: Value,
    visible: KeyValues,
    seqs: &Sequences,
) -> Result<[Value; 2], GraphError> {
    let (rows, width) = (g.shape(q).dims()[0], kernel.key_width);
    let one = Kernel { heads: kernel.heads / 2, kv_heads: kernel.kv_heads / 2, value_width: 2 * width, ..*kernel };
    let paired = |g: &mut Graph, x: Value, heads: usize| {
        let tokens = g.shape(x).dims()[0];
        ops::reshape(g, x, [tokens, (heads / 2).into(), (2 * width).into()])
    };
    let q = paired(g, q, kernel.heads)?;
    let k = paired(g, visible.k, kernel.kv_heads)?;
    let v = paired(g, visible.v, kernel.kv_heads)?;
    let map = |g: &mut Graph, from: usize| {
        let half = SliceLast { from, width };
        let (q, k) = (g.push1(half, &[q])?, g.push1(half, &[k])?);
        let o = seqs.attend(g, &one, q, KeyValues { k, v })?;
        ops::reshape(g, o, [rows, (one.heads * 2 * width).into()])
    };
    Ok([map(g, 0)?, map(g, width)?])
}

/// The same by one call over a cache.
fn beside_zeros(
    g: &mut Graph,
    name: &str,
    kernel: &Kernel,
    q: Value,
    visible: KeyValues,
    seqs: &Sequences,
) -> Result<[Value; 2], GraphError> {
    let (rows, heads, width) = (g.shape(q).dims()[0], kernel.heads, kernel.key_width);
    let both = Kernel { kv_heads: kernel.kv_heads / 2, key_width: 2 * width, value_width: 2 * width, ..*kernel };
    let q = ops::reshape(g, q, [rows.times(heads), 1.into(), width.into()])?;
    let q = ops::repeat_heads(g, q, 2)?;
    let q = ops::reshape(g, q, [rows.times(heads / 2), (4 * width).into()])?;
    let stands = |i: usize| if i < width || i >= 3 * width { 1.0 } else { 0.0 };
    let stands: Vec<f64> = (0..4 * width).map(stands).collect();
    let stands = g.constant(&format!("{name}.halves"), [4 * width], &stands)?;
    let q = ops::mul(g, q, stands)?;
    let q = ops::reshape(g, q, [rows, heads.into(), (2 * width).into()])?;
    let o = seqs.attend(g, &both, q, visible)?;
    let o = ops::reshape(g, o, [rows.times(heads / 2), (4 * width).into()])?;
    let half = |g: &mut Graph, from: usize| {
        let o = g.push1(SliceLast { from, width: 2 * width }, &[o])?;
        ops::reshape(g, o, [rows, (heads * width).into()])
    };
    Ok([half(g, 0)?, half(g, 2 * width)?])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use memwall_formats::Dtype;
    use memwall_graph::check::pseudo_random;
    use memwall_graph::{Executor, Memory, PlanOptions};
    use memwall_kernels::Pool;
    use memwall_kernels::attention::Attention as Options;

    use super::*;

    const TOKENS: usize = 7;

    /// softmax of the visible scores of head `q_head` against keys of head `k_head`, row by row.
    fn map(a: &Options, q: &[f64], k: &[f64], q_head: usize, k_head: usize) -> Vec<Vec<f64>> {
        let row = |x: &[f64], heads: usize, t: usize, head: usize| {
            x[(t * heads + head) * a.key_width..][..a.key_width].to_vec()
        };
        let visible = |t: usize, s: usize| s <= t && a.window.0.is_none_or(|left| t - s <= left);
        let scores = |t: usize| -> Vec<f64> {
            let query = row(q, a.heads, t, q_head);
            let score = |s: usize| {
                let key = row(k, a.kv_heads, s, k_head);
                let dot: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                if visible(t, s) { (a.scale * dot).exp() } else { 0.0 }
            };
            let all: Vec<f64> = (0..TOKENS).map(score).collect();
            let sum: f64 = all.iter().sum();
            all.into_iter().map(|e| e / sum).collect()
        };
        (0..TOKENS).map(scores).collect()
    }

    /// By two maps that are written out, and values of heads 2j and 2j + 1 side by side.
    fn naive(
        c: &DifferentialConfig,
        a: &Options,
        [q, k, v]: [&[f64]; 3],
        weight: &dyn Fn(&str) -> Vec<f64>,
    ) -> Vec<f64> {
        let (width, share) = (a.key_width, a.heads / a.kv_heads);
        let dot = |n: usize| -> f64 {
            let (q, k) = (weight(&format!("lambda_q{n}")), weight(&format!("lambda_k{n}")));
            q.iter().zip(&k).map(|(q, k)| q * k).sum()
        };
        let lambda = dot(1).exp() - dot(2).exp() + c.lambda_init();
        let mut out = vec![0.0; TOKENS * a.heads * width];
        for pair in 0..a.heads / 2 {
            let of = pair / share;
            let (first, second) = (map(a, q, k, 2 * pair, 2 * of), map(a, q, k, 2 * pair + 1, 2 * of + 1));
            for t in 0..TOKENS {
                let mut o = vec![0.0; 2 * width];
                for s in 0..TOKENS {
                    let p = first[t][s] - lambda * second[t][s];
                    let values = &v[(s * a.kv_heads + 2 * of) * width..][..2 * width];
                    o.iter_mut().zip(values).for_each(|(o, v)| *o += p * v);
                }
                let mean = o.iter().map(|o| o * o).sum::<f64>() / (2 * width) as f64;
                let to = &mut out[(t * a.heads + 2 * pair) * width..][..2 * width];
                for ((to, o), w) in to.iter_mut().zip(&o).zip(weight("subln.weight")) {
                    *to = (1.0 - c.lambda_init()) * w * o / (mean + c.norm_eps).sqrt();
                }
            }
        }
        out
    }

    #[test]
    fn exact_attention_twice_is_the_difference_of_two_maps() -> Result<(), GraphError> {
        for (heads, kv_heads, width, depth, left) in
            [(2, 2, 4, 0, None), (8, 4, 3, 5, Some(2)), (12, 2, 8, 17, None), (6, 6, 5, 2, Some(0))]
        {
            let config = DifferentialConfig::new(depth);
            let kernel = Options {
                heads,
                kv_heads,
                key_width: width,
                value_width: width,
                scale: 0.7,
                causal: true,
                window: (left, None),
                ..Options::default()
            };
            let mut g = Graph::new(Dtype::F64);
            let seqs = Sequences::whole(&mut g, TOKENS, 1)?;
            let Kept::Whole { cu_seqlens } = seqs.kept else { panic!("whole sequences") };
            let input = |g: &mut Graph, name: &str, heads: usize| g.input(name, [TOKENS, heads, width], Dtype::F64);
            let (q, k, v) = (input(&mut g, "q", heads)?, input(&mut g, "k", kv_heads)?, input(&mut g, "v", kv_heads)?);
            let o = config.attend(&mut g, "a", &kernel, q, KeyValues { k, v }, &seqs)?;
            g.output("o", o);
            let random = |name: &str, n: usize| (0..n).map(|i| pseudo_random(name, i)).collect::<Vec<f64>>();
            let weight = |part: &str| random(part, if part == "subln.weight" { 2 * width } else { width });
            let mut memory = Memory::new();
            for part in ["lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "subln.weight"] {
                memory.set(&format!("a.{part}"), Dtype::F64, &weight(part))?;
            }
            let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(2)))?;
            let given = [("q", q, heads), ("k", k, kv_heads), ("v", v, kv_heads)].map(|(name, value, heads)| {
                let x = random(name, TOKENS * heads * width);
                e.input::<f64>(value).copy_from_slice(&x);
                x
            });
            e.input::<i32>(cu_seqlens).copy_from_slice(&[0, TOKENS as i32]);
            e.run(&mut memory)?;
            let want = naive(&config, &kernel, [&given[0], &given[1], &given[2]], &weight);
            for (got, want) in e.output::<f64>("o").iter().zip(&want) {
                assert!((got - want).abs() < 1e-12, "{heads} heads of {kv_heads}: {got} is not {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_first_layer_begins_with_a_fifth() {
        assert!((DifferentialConfig::new(0).lambda_init() - 0.2).abs() < 1e-15);
        assert!((DifferentialConfig::new(17).lambda_init() - 0.796_341_952_060_690_7).abs() < 1e-15);
    }
}
