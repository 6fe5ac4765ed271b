//! The laws of the graph, on small composed models.

use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::check::{GradientCheck, pseudo_random};
use memwall_graph::ops::attention::Attention;
use memwall_graph::ops::delta::Delta;
use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::matmul::MatMul;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::ridge::Ridge;
use memwall_graph::ops::scan::{Body, Scan};
use memwall_graph::ops::softmax::Softmax;
use memwall_graph::ops::{self, linear::Linear};
use memwall_graph::{
    Executor, Graph, GraphError, Memory, Phase, PlanOptions, Segment, Shape, Value, differentiate, fuse, join_products,
    prune, recompute, recompute_pointwise,
};
use memwall_kernels::attention::{Attention as Kernel, BlockMask};
use memwall_kernels::{Pool, gemm::Compute};

const ROWS: usize = 6;
const WIDTH: usize = 10;

/// Two gated layers, each a segment, and a loss.
fn gated(elem: Dtype) -> Result<(Graph, Value), GraphError> {
    let mut g = Graph::new(elem);
    let mut x = g.input("x", [ROWS, WIDTH], elem)?;
    for layer in 0..2 {
        x = g.segment(|g| {
            g.scope(format!("layers.{layer}"), |g| {
                let up = g.weight(&format!("{layer}.up"), [16, WIDTH], elem)?;
                let gate = g.weight(&format!("{layer}.gate"), [16, WIDTH], elem)?;
                let down = g.weight(&format!("{layer}.down"), [WIDTH, 16], elem)?;
                let bias = g.weight(&format!("{layer}.bias"), [WIDTH], elem)?;
                let linear = Linear { compute: Compute::F32 };
                let u = g.push1(linear, &[x, up])?;
                let s = g.push1(linear, &[x, gate])?;
                let s = ops::unary(g, Unary::Silu, s)?;
                let h = ops::mul(g, u, s)?;
                let y = g.push1(linear, &[h, down])?;
                let y = ops::add(g, y, bias)?;
                let y = ops::unary(g, Unary::Tanh, y)?;
                ops::add(g, x, y)
            })
        })?;
    }
    // A stretched gate, a Gram matrix, and a mean.
    let gate = g.weight("head", [1, WIDTH], elem)?;
    let s = g.push1(Linear { compute: Compute::F32 }, &[x, gate])?;
    let s = ops::unary(&mut g, Unary::Sigmoid, s)?;
    let x = ops::mul(&mut g, x, s)?;
    let gram = g.push1(MatMul { a_trans: true, b_trans: false, compute: Compute::F32 }, &[x, x])?;
    let sq = ops::unary(&mut g, Unary::Square, gram)?;
    let sum = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[sq])?;
    let loss = ops::scale(&mut g, sum, 1.0 / 100.0)?;
    Ok((g, loss))
}

fn gru_scan(elem: Dtype, every: usize) -> Result<(Graph, Value), GraphError> {
    const STEPS: usize = 7;
    const BATCH: usize = 2;
    let mut body = Graph::new(elem);
    let w = body.input("w", [3 * WIDTH, WIDTH], elem)?;
    let u = body.input("u", [3 * WIDTH, WIDTH], elem)?;
    let h = body.input("h", [BATCH, WIDTH], elem)?;
    let x = body.input("x", [BATCH, WIDTH], elem)?;
    let linear = Linear { compute: Compute::F32 };
    let a = body.push1(linear, &[x, w])?;
    let b = body.push1(linear, &[h, u])?;
    let z = ops::add(&mut body, a, b)?;
    let z = ops::unary(&mut body, Unary::Sigmoid, z)?;
    let pick = body.constant(
        "pick",
        [WIDTH, 3 * WIDTH],
        &(0..3 * WIDTH * WIDTH).map(|i| pseudo_random("pick", i)).collect::<Vec<_>>(),
    )?;
    let z = body.push1(linear, &[z, pick])?;
    let n = ops::unary(&mut body, Unary::Tanh, z)?;
    let kept = ops::mul(&mut body, h, n)?;
    let next = ops::add(&mut body, kept, x)?;
    let y = ops::unary(&mut body, Unary::Tanh, next)?;
    let body = Arc::new(Body {
        graph: body,
        constants: vec![w, u],
        carry: vec![h],
        xs: vec![x],
        next: vec![next],
        ys: vec![y],
    });

    let mut g = Graph::new(elem);
    let w = g.weight("w", [3 * WIDTH, WIDTH], elem)?;
    let u = g.weight("u", [3 * WIDTH, WIDTH], elem)?;
    let h0 = g.weight("h0", [BATCH, WIDTH], elem)?;
    let xs = g.weight("xs", [STEPS, BATCH, WIDTH], elem)?;
    let out = g.push(Scan::new(body, STEPS, every), &[w, u, h0, xs])?;
    let last = ops::unary(&mut g, Unary::Square, out[0])?;
    let last = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[last])?;
    let ys = ops::unary(&mut g, Unary::Exp, out[1])?;
    let ys = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[ys])?;
    let loss = ops::add(&mut g, last, ys)?;
    Ok((g, loss))
}

#[test]
fn gradients_of_a_composed_model_equal_differences() -> Result<(), GraphError> {
    let (g, loss) = gated(Dtype::F64)?;
    let worst = GradientCheck::new(g, loss).worst(40)?;
    assert!(worst < 1e-7, "{worst:e}");
    Ok(())
}

#[test]
fn gradients_of_softmax_and_of_attention_to_other_sequences_equal_differences() -> Result<(), GraphError> {
    let kernel =
        Kernel { heads: 2, kv_heads: 1, key_width: 4, value_width: 3, alibi: true, causal: true, ..Default::default() };
    // Block 0 of the queries does not see block 1 of the keys.
    let mask = Arc::new(BlockMask::new((2, 2), (4, 2), |r, c| r == 1 || c == 0));
    for masked in [false, true] {
        let mut g = Graph::new(Dtype::F64);
        let q = g.weight("q", [7, 2, 4], Dtype::F64)?;
        let k = g.weight("k", [12, 1, 4], Dtype::F64)?;
        let v = g.weight("v", [12, 1, 3], Dtype::F64)?;
        let cu_q = g.input("cu_q", [3], Dtype::I32)?;
        let cu_k = g.input("cu_k", [3], Dtype::I32)?;
        let slopes = g.constant("slopes", [2], &[0.5, 0.125])?;
        let op = Attention::new(kernel).cross();
        let op = if masked { op.masked(mask.clone()) } else { op };
        let o = g.push(op, &[q, k, v, cu_q, cu_k, slopes])?[0];
        let p = g.push1(Softmax, &[o])?;
        let square = ops::unary(&mut g, Unary::Square, p)?;
        let loss = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[square])?;
        let mut check = GradientCheck::new(g, loss);
        check.integers = vec![("cu_q".into(), vec![0, 3, 7]), ("cu_k".into(), vec![0, 5, 12])];
        let worst = check.worst(30)?;
        assert!(worst < 1e-6, "masked {masked}: {worst:e}");
    }
    Ok(())
}

#[test]
fn gradients_of_the_ridge_regression_equal_differences_in_both_forms() -> Result<(), GraphError> {
    use memwall_kernels::ridge::{Form, Ridge as Kernel};
    let kernel = Kernel { chunk: 16, num_iter: 140, ..Kernel::new(2, 4) };
    for gated in [false, true] {
        for form in [Some(Form::Recurrent), Some(Form::Chunked), None] {
            for states in [false, true] {
                let mut g = Graph::new(Dtype::F64);
                let q = g.weight("q", [20, 2, 4], Dtype::F64)?;
                let k = g.weight("k", [20, 2, 4], Dtype::F64)?;
                let mut inputs = vec![q, k, g.input("cu", [3], Dtype::I32)?];
                if gated {
                    let z = g.weight("g", [20, 2], Dtype::F64)?;
                    inputs.push(ops::unary(&mut g, Unary::LogSigmoid, z)?);
                }
                if states {
                    // w wᵀ for every head: symmetric, as sums of k kᵀ are.
                    let w = g.weight("first", [4, 3], Dtype::F64)?;
                    let first = g.push1(MatMul { a_trans: false, b_trans: true, compute: Compute::F32 }, &[w, w])?;
                    let first = ops::reshape(&mut g, first, [1, 1, 16])?;
                    let first = ops::repeat_heads(&mut g, first, 4)?;
                    inputs.push(ops::reshape(&mut g, first, [2, 2, 4, 4])?);
                }
                let out = g.push(Ridge::new(kernel, gated, form, states), &inputs)?;
                // The last states alone, or both outputs: each may lack a gradient.
                let mut loss = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[out[1]])?;
                if !states {
                    let square = ops::unary(&mut g, Unary::Square, out[0])?;
                    let sum = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[square])?;
                    loss = ops::add(&mut g, loss, sum)?;
                }
                let mut check = GradientCheck::new(g, loss);
                check.integers = vec![("cu".into(), vec![0, 17, 20])];
                let worst = check.worst(20)?;
                assert!(worst < 1e-6, "gated {gated}, {form:?}, states {states}: {worst:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_of_the_gated_delta_rule_equal_differences_in_both_forms() -> Result<(), GraphError> {
    use memwall_kernels::delta::{Delta as Kernel, Form};
    let kernel = Kernel { key_heads: 1, chunk: 16, ..Kernel::new(2, 4, 3) };
    for (gate, width) in [(GateShape::None, 0), (GateShape::Head, 1), (GateShape::Channel, 4)] {
        for form in [Some(Form::Recurrent), Some(Form::Chunked), None] {
            for states in [false, true] {
                let mut g = Graph::new(Dtype::F64);
                let q = g.weight("q", [20, 1, 4], Dtype::F64)?;
                let k = g.weight("k", [20, 1, 4], Dtype::F64)?;
                let v = g.weight("v", [20, 2, 3], Dtype::F64)?;
                let beta = g.weight("beta", [20, 2], Dtype::F64)?;
                let beta = ops::unary(&mut g, Unary::Sigmoid, beta)?;
                let mut inputs = vec![q, k, v, beta, g.input("cu", [3], Dtype::I32)?];
                if width > 0 {
                    let shape = if width == 1 { Shape::from([20, 2]) } else { Shape::from([20, 2, 4]) };
                    let z = g.weight("g", shape, Dtype::F64)?;
                    inputs.push(ops::unary(&mut g, Unary::LogSigmoid, z)?);
                }
                if states {
                    inputs.push(g.weight("first", [2, 2, 4, 3], Dtype::F64)?);
                }
                let out = g.push(Delta::new(kernel, gate, form, states), &inputs)?;
                // The last states alone, or both outputs: each may lack a gradient.
                let mut loss = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[out[1]])?;
                if !states {
                    let square = ops::unary(&mut g, Unary::Square, out[0])?;
                    let sum = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[square])?;
                    loss = ops::add(&mut g, loss, sum)?;
                }
                let mut check = GradientCheck::new(g, loss);
                check.integers = vec![("cu".into(), vec![0, 17, 20])];
                let worst = check.worst(20)?;
                assert!(worst < 1e-6, "{gate:?}, {form:?}, states {states}: {worst:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_of_a_scan_equal_differences_however_many_carries_are_kept() -> Result<(), GraphError> {
    for every in [1, 2, 3, 7, 0] {
        let (g, loss) = gru_scan(Dtype::F64, every)?;
        let worst = GradientCheck::new(g, loss).worst(30)?;
        assert!(worst < 1e-7, "every {every}: {worst:e}");
    }
    Ok(())
}

/// Runs a graph with its gradients under a schedule; all bits of loss and gradients.
fn bits(
    build: fn(Dtype) -> Result<(Graph, Value), GraphError>,
    threads: usize,
    schedule: fn(Graph) -> Graph,
    options: PlanOptions,
) -> Result<(Vec<u32>, usize), GraphError> {
    let (mut g, loss) = build(Dtype::F32)?;
    let weights = memwall_graph::weights(&g);
    let grads = differentiate(&mut g, loss, &weights)?;
    g.output("loss", loss);
    let mut memory = Memory::new();
    let mut names = vec!["loss".to_string()];
    for (&w, grad) in weights.iter().zip(grads) {
        let name = g.info(w).name.to_string();
        let n = g.ty(w).bytes(&[]) / 4;
        memory.set(&name, Dtype::F32, &(0..n).map(|i| 0.5 * pseudo_random(&name, i) as f32).collect::<Vec<_>>())?;
        names.push(format!("d {name}"));
        g.output(&names[names.len() - 1], grad.expect("every weight matters"));
    }
    let mut e = Executor::new(schedule(g), options, &mut memory, Arc::new(Pool::new(threads)))?;
    if let Some(x) = e.graph().find("x") {
        e.input::<f32>(x).iter_mut().enumerate().for_each(|(i, x)| *x = pseudo_random("x", i) as f32);
    }
    e.run(&mut memory)?;
    let all = names.iter().flat_map(|n| e.output::<f32>(n).iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect();
    Ok((all, e.plan().arena_bytes))
}

#[test]
fn every_schedule_gives_the_same_bits() -> Result<(), GraphError> {
    let (want, kept) = bits(gated, 1, |g| g, PlanOptions { no_reuse: true, ..Default::default() })?;
    type Schedule = (&'static str, fn(Graph) -> Graph);
    let schedules: [Schedule; 7] = [
        ("as built", |g| g),
        ("pruned", |g| prune(&g)),
        ("fused", |g| fuse(&g)),
        ("recomputed", |g| recompute(&g, &[Segment(0), Segment(1)])),
        ("recomputed, fused", |g| fuse(&recompute(&g, &[Segment(1)]))),
        ("pointwise recomputed", |g| recompute_pointwise(&g)),
        ("both recomputed, fused", |g| fuse(&recompute_pointwise(&recompute(&g, &[Segment(1)])))),
    ];
    for threads in [1, 2, 3] {
        for (name, schedule) in schedules {
            for fences in [false, true] {
                let (got, bytes) = bits(gated, threads, schedule, PlanOptions { fences, ..Default::default() })?;
                assert_eq!(got, want, "{name}, {threads} threads, fences {fences}");
                // Scratch memory grows with threads, so the sizes are compared for as many.
                assert!(
                    threads > 1 || fences || name != "as built" || bytes <= kept,
                    "{name}: {bytes} bytes, {kept} without reuse"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn fusion_and_recomputation_do_something() -> Result<(), GraphError> {
    let (mut g, loss) = gated(Dtype::F32)?;
    let weights = memwall_graph::weights(&g);
    for grad in differentiate(&mut g, loss, &weights)?.into_iter().flatten() {
        g.output(&format!("{grad:?}"), grad);
    }
    assert!(fuse(&g).nodes().len() < g.nodes().len());
    let again = recompute(&g, &[Segment(0)]);
    assert!(again.nodes().len() > g.nodes().len());
    let bytes = |g: &Graph| memwall_graph::Plan::new(g, PlanOptions::default()).arena_bytes;
    assert!(bytes(&recompute(&g, &[Segment(0), Segment(1)])) < bytes(&g));
    Ok(())
}

#[test]
fn a_hidden_layer_behind_its_activation_is_not_kept() -> Result<(), GraphError> {
    const TOKENS: usize = 64;
    let mut g = Graph::new(Dtype::F32);
    let mut x = g.input("x", [TOKENS, 8], Dtype::F32)?;
    for layer in 0..3 {
        x = g.segment(|g| {
            let up = g.weight(&format!("{layer}.up"), [32, 8], Dtype::F32)?;
            let down = g.weight(&format!("{layer}.down"), [8, 32], Dtype::F32)?;
            let h = g.push1(Linear { compute: Compute::F32 }, &[x, up])?;
            let h = ops::unary(g, Unary::Silu, h)?;
            let y = g.push1(Linear { compute: Compute::F32 }, &[h, down])?;
            ops::add(g, x, y)
        })?;
    }
    let sq = ops::unary(&mut g, Unary::Square, x)?;
    let loss = g.push1(ops::sum::SumRows::new(Shape::from([1])), &[sq])?;
    let weights = memwall_graph::weights(&g);
    for grad in differentiate(&mut g, loss, &weights)?.into_iter().flatten() {
        g.output(&format!("{grad:?}"), grad);
    }
    let g = prune(&g);
    let again = recompute_pointwise(&g);
    let made: Vec<&str> = again.nodes().iter().filter(|n| n.phase == Phase::Recompute).map(|n| n.op.name()).collect();
    assert_eq!(made, ["silu"; 3]);
    let bytes = |g: &Graph| memwall_graph::Plan::new(g, PlanOptions::default()).arena_bytes;
    // While the last layer goes back, the two before it have one hidden layer less each; offsets may leave gaps.
    assert!(bytes(&again) + TOKENS * 32 * 4 <= bytes(&g), "{} and {} bytes", bytes(&again), bytes(&g));
    Ok(())
}

#[test]
fn errors_name_the_operator_the_layer_and_both_shapes() {
    let mut g = Graph::new(Dtype::F32);
    let x = g.input("x", [2, 3], Dtype::F32).expect("new");
    let w = g.weight("w", [5, 4], Dtype::F32).expect("new");
    let e = g.scope("layers.7", |g| g.push1(Linear { compute: Compute::F32 }, &[x, w])).expect_err("3 is not 4");
    let text = e.to_string();
    for part in ["linear", "layers.7", "[2, 3]", "[5, 4]"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(g.weight("w", [5, 5], Dtype::F32).is_err(), "a name has one type");
}

/// An operator with a bug: it writes beyond its output through a raw tile of another tensor.
#[derive(Debug)]
struct Overrun;
impl memwall_graph::Op for Overrun {
    fn name(&self) -> &'static str {
        "overrun"
    }
    fn infer(&self, inputs: &[&memwall_graph::Type]) -> Result<Vec<memwall_graph::Type>, String> {
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &memwall_graph::Io<'_>) -> Result<(), String> {
        let y = io.output::<f32>(0);
        // SAFETY: none: this is the bug that fences find; the fence's 64 bytes are inside the arena.
        unsafe { *y.as_mut_ptr().add(y.len()) = 1.0 };
        Ok(())
    }
    fn gradient(&self) -> memwall_graph::Gradient {
        memwall_graph::Gradient::Refused("a test")
    }
    fn cost(&self, _: &memwall_graph::NodeSizes<'_>) -> memwall_graph::Cost {
        memwall_graph::Cost::default()
    }
    fn rows(&self) -> memwall_graph::Rows {
        memwall_graph::Rows::Independent
    }
}

#[test]
fn fences_name_the_operator_that_writes_outside_its_tensors() -> Result<(), GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let x = g.input("x", [16], Dtype::F32)?;
    let y = g.scope("layers.3", |g| g.push1(Overrun, &[x]))?;
    g.output("y", y);
    let mut memory = Memory::new();
    let options = PlanOptions { fences: true, ..Default::default() };
    let mut e = Executor::new(g, options, &mut memory, Arc::new(Pool::new(1)))?;
    let error = e.run(&mut memory).expect_err("the fence is damaged");
    assert!(matches!(&error, GraphError::Fence { op: "overrun", scope, .. } if scope == "layers.3"), "{error}");
    Ok(())
}

/// Outputs, in order, of two products of one x and a third of the first one's output, all with bf16 weights.
fn products(rows: usize, pass: fn(Graph) -> Graph) -> Result<(Vec<u32>, usize), GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let x = g.input("x", [rows, 64], Dtype::F32)?;
    let linear = Linear { compute: Compute::F32 };
    let mut memory = Memory::new();
    let mut product = |g: &mut Graph, name: &str, x, n: usize| {
        let w = g.weight(name, [n, 64], Dtype::BF16)?;
        let bits = |i| ((pseudo_random(name, i) as f32).to_bits() >> 16) as u16;
        memory.set(name, Dtype::BF16, &(0..n * 64).map(bits).collect::<Vec<_>>())?;
        g.push1(linear, &[x, w])
    };
    let a = product(&mut g, "a", x, 64)?;
    let c = product(&mut g, "c", a, 24)?;
    let b = product(&mut g, "b", x, 40)?;
    for (name, y) in [("a", a), ("b", b), ("c", c)] {
        g.output(name, y);
    }
    let g = pass(g);
    let nodes = g.nodes().len();
    let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(2)))?;
    let x = e.graph().find("x").expect("the input");
    e.input::<f32>(x).iter_mut().enumerate().for_each(|(i, x)| *x = pseudo_random("x", i) as f32);
    e.run(&mut memory)?;
    let bits = ["a", "b", "c"].iter().flat_map(|n| e.output::<f32>(n).iter().map(|y| y.to_bits())).collect();
    Ok((bits, nodes))
}

#[test]
fn products_of_one_x_are_joined_without_a_change_of_bits() -> Result<(), GraphError> {
    for rows in [1, 3, 70] {
        let (want, apart) = products(rows, |g| g)?;
        let (got, joined) = products(rows, |g| join_products(&g))?;
        assert_eq!((apart, joined), (3, 2), "a and b read x, c does not");
        assert_eq!(got, want, "{rows} rows");
    }
    Ok(())
}
