//! A product with six low-bit operands against the naive form: each operand rounded along its sum, products in f64.

use std::sync::Arc;

use memwall_formats::{Dtype, Quantizer};
use memwall_graph::check::pseudo_random;
use memwall_graph::ops::fake_quantize::FakeQuantize;
use memwall_graph::ops::low_bit_linear::{BackwardOperands, LowBitLinear};
use memwall_graph::{Executor, Gradient, Graph, GraphError, Memory, Op, PlanOptions, Value, pull_back};
use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;

const TOKENS: usize = 64;
const INPUTS: usize = 96;
const OUTPUTS: usize = 32;

fn named(name: &str) -> Quantizer {
    name.parse().unwrap_or_else(|e| panic!("{e}"))
}

fn draw(name: &str, n: usize) -> Vec<f64> {
    (0..n).map(|i| f64::from(pseudo_random(name, i) as f32)).collect()
}

/// Rows of `cols` as a quantizer holds them.
fn rounded(q: Option<Quantizer>, cols: usize, x: &[f64]) -> Vec<f64> {
    let Some(q) = q else { return x.to_vec() };
    let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
    let (mut y, mut scratch) = (vec![0.0; x.len()], vec![0; q.scratch_bytes(cols)]);
    q.round(q.of_tensor(cols, &x).expect("finite"), cols, &x, &mut y, &mut scratch).expect("finite");
    y.iter().map(|y| f64::from(*y)).collect()
}

fn turned(rows: usize, cols: usize, x: &[f64]) -> Vec<f64> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// a [m, k] · b [n, k]ᵀ.
fn product(m: usize, n: usize, k: usize, a: &[f64], b: &[f64]) -> Vec<f64> {
    (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] * b[i % n * k + j]).sum()).collect()
}

type Results = [Vec<f64>; 3];

/// y, dx and dw in a graph of `elem`.
fn graph(
    elem: Dtype,
    qx: Option<Quantizer>,
    qw: Option<Quantizer>,
    b: BackwardOperands,
) -> Result<Results, GraphError> {
    let mut g = Graph::new(elem);
    let x = g.weight("x", [TOKENS, INPUTS], elem)?;
    let w = g.weight("w", [OUTPUTS, INPUTS], elem)?;
    let dy = g.weight("dy", [TOKENS, OUTPUTS], elem)?;
    let forward = |g: &mut Graph, q: Option<Quantizer>, x: Value| match q {
        Some(q) => g.push1(FakeQuantize::new(q), &[x]),
        None => Ok(x),
    };
    let (x_hat, w_hat) = (forward(&mut g, qx, x)?, forward(&mut g, qw, w)?);
    let y = g.push1(LowBitLinear { compute: Compute::F32, backward: b }, &[x_hat, w_hat, x, w])?;
    let grads = pull_back(&mut g, &[(y, dy)], &[x, w])?;
    let outputs = [("y", y), ("dx", grads[0].expect("a gradient")), ("dw", grads[1].expect("a gradient"))];
    let mut memory = Memory::new();
    for (name, n) in [("x", TOKENS * INPUTS), ("w", OUTPUTS * INPUTS), ("dy", TOKENS * OUTPUTS)] {
        let values = draw(name, n);
        match elem {
            Dtype::F64 => memory.set(name, elem, &values)?,
            _ => memory.set(name, elem, &values.iter().map(|x| *x as f32).collect::<Vec<_>>())?,
        }
    }
    outputs.iter().for_each(|(name, v)| g.output(name, *v));
    let options = PlanOptions { fences: true, ..Default::default() };
    let mut e = Executor::new(g, options, &mut memory, Arc::new(Pool::new(2)))?;
    e.run(&mut memory)?;
    Ok(outputs.map(|(name, _)| match elem {
        Dtype::F64 => e.output::<f64>(name).to_vec(),
        _ => e.output::<f32>(name).iter().map(|x| f64::from(*x)).collect(),
    }))
}

fn naive(qx: Option<Quantizer>, qw: Option<Quantizer>, b: BackwardOperands) -> Results {
    let (x, w, dy) = (draw("x", TOKENS * INPUTS), draw("w", OUTPUTS * INPUTS), draw("dy", TOKENS * OUTPUTS));
    let y = product(TOKENS, OUTPUTS, INPUTS, &rounded(qx, INPUTS, &x), &rounded(qw, INPUTS, &w));
    let w_down = rounded(b.dx_w, OUTPUTS, &turned(OUTPUTS, INPUTS, &w));
    let dx = product(TOKENS, INPUTS, OUTPUTS, &rounded(b.dx_dy, OUTPUTS, &dy), &w_down);
    let dy_down = rounded(b.dw_dy, TOKENS, &turned(TOKENS, OUTPUTS, &dy));
    let x_down = rounded(b.dw_x, TOKENS, &turned(TOKENS, INPUTS, &x));
    let dw = product(OUTPUTS, INPUTS, TOKENS, &dy_down, &x_down);
    [y, dx, dw]
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let most = b.iter().fold(1e-9_f64, |m, x| m.max(x.abs()));
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs())) / most
}

#[test]
fn every_operand_is_rounded_along_its_sum_and_by_its_own_quantizer() -> Result<(), GraphError> {
    let all = |name: &str| {
        let q = Some(named(name));
        (q, q, BackwardOperands { dx_dy: q, dx_w: q, dw_dy: q, dw_x: q })
    };
    let none = BackwardOperands::default();
    let q = |name: &str| Some(named(name));
    let cases = [
        all("mxint8_ceil"),
        all("mxfp8_e4m3_ceil"),
        all("nvint4"),
        all("int8:row"),
        (q("ternary"), None, none),
        (None, None, BackwardOperands { dx_dy: q("mxfp4"), ..none }),
        (None, None, BackwardOperands { dx_w: q("mxfp4"), ..none }),
        (None, None, BackwardOperands { dw_dy: q("mxfp4"), ..none }),
        (None, None, BackwardOperands { dw_x: q("mxfp4"), ..none }),
    ];
    for (qx, qw, b) in cases {
        let want = naive(qx, qw, b);
        for (elem, bound) in [(Dtype::F64, 1e-12), (Dtype::F32, 2e-6)] {
            for (name, (got, want)) in ["y", "dx", "dw"].iter().zip(graph(elem, qx, qw, b)?.iter().zip(&want)) {
                let d = distance(got, want);
                assert!(d < bound, "{name} of {qx:?} {qw:?} {b:?} in {elem}: {d:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn without_rounding_it_is_the_product_and_its_exact_gradient() -> Result<(), GraphError> {
    let [y, dx, dw] = graph(Dtype::F64, None, None, BackwardOperands::default())?;
    let want = naive(None, None, BackwardOperands::default());
    for (got, want) in [y, dx, dw].iter().zip(&want) {
        assert!(distance(got, want) < 1e-13);
    }
    let op = LowBitLinear { compute: Compute::F32, backward: BackwardOperands::default() };
    assert!(matches!(op.gradient(), Gradient::Surrogate(_)));
    Ok(())
}
