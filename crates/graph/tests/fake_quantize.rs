//! Rounding in a graph: the bits of the format, the straight-through gradient, and products over rounded operands.

use std::sync::Arc;

use memwall_formats::{Dtype, Quantizer};
use memwall_graph::check::pseudo_random;
use memwall_graph::ops::fake_quantize::{Along, FakeQuantize, StraightThrough};
use memwall_graph::ops::linear::Linear;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::{self};
use memwall_graph::{
    Executor, Gradient, Graph, GraphError, Memory, Op, PlanOptions, Rows, Shape, Value, differentiate,
};
use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;

const ROWS: usize = 32;
const WIDTH: usize = 64;

fn named(name: &str) -> Quantizer {
    name.parse().unwrap_or_else(|e| panic!("{e}"))
}

/// Values, some far beyond the others.
fn weight(name: &str, i: usize) -> f64 {
    pseudo_random(name, i) * if i % 7 == 3 { 4.0 } else { 0.5 }
}

/// Outputs of a graph by name, its weights drawn.
fn run(mut g: Graph, outputs: &[(&str, Value)]) -> Vec<Vec<f64>> {
    let mut memory = Memory::new();
    for w in memwall_graph::weights(&g) {
        let (name, n) = (g.info(w).name.to_string(), g.ty(w).bytes(&[]) / g.elem().block_bytes());
        let values: Vec<f64> = (0..n).map(|i| weight(&name, i)).collect();
        match g.elem() {
            Dtype::F64 => memory.set(&name, Dtype::F64, &values),
            _ => memory.set(&name, Dtype::F32, &values.iter().map(|x| *x as f32).collect::<Vec<_>>()),
        }
        .expect("room");
    }
    outputs.iter().for_each(|(name, v)| g.output(name, *v));
    let elem = g.elem();
    let options = PlanOptions { fences: true, ..Default::default() };
    let mut e = Executor::new(g, options, &mut memory, Arc::new(Pool::new(2))).expect("a plan");
    e.run(&mut memory).expect("runs");
    let of = |name: &&str| match elem {
        Dtype::F64 => e.output::<f64>(name).to_vec(),
        _ => e.output::<f32>(name).iter().map(|x| f64::from(*x)).collect(),
    };
    outputs.iter().map(|(name, _)| of(name)).collect()
}

/// Σ (c ⊙ y)² for c that differ, so that every element's gradient does.
fn loss(g: &mut Graph, y: Value) -> Result<Value, GraphError> {
    let shape = g.shape(y).clone();
    let n = shape.elements().and_then(|d| d.known()).expect("fixed");
    let c: Vec<f64> = (0..n).map(|i| 1.0 + 0.5 * pseudo_random("c", i)).collect();
    let c = g.constant("c", shape, &c)?;
    let y = ops::mul(g, y, c)?;
    let y = ops::unary(g, Unary::Square, y)?;
    g.push1(ops::sum::SumRows::new(Shape::from([1])), &[y])
}

#[test]
fn values_are_those_of_the_format_in_both_element_types_and_both_ways() -> Result<(), GraphError> {
    for name in ["ternary", "int8:row", "int4:group16", "mxfp4", "mxint8_ceil", "nvfp4", "nvint4:row", "Q8_0"] {
        for along in [Along::Rows, Along::Columns] {
            for elem in [Dtype::F32, Dtype::F64] {
                let q = named(name);
                let mut g = Graph::new(elem);
                let x = g.weight("x", [ROWS, WIDTH], elem)?;
                let y = g.push1(FakeQuantize { along, ..FakeQuantize::new(q) }, &[x])?;
                let y = &run(g, &[("y", y)])[0];
                let x: Vec<f32> = (0..ROWS * WIDTH).map(|i| weight("x", i) as f32).collect();
                let turn = |rows: usize, cols: usize, x: &[f32]| -> Vec<f32> {
                    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
                };
                let (x, cols) = if along == Along::Rows { (x, WIDTH) } else { (turn(ROWS, WIDTH, &x), ROWS) };
                let (mut want, mut scratch) = (vec![0.0; x.len()], vec![0; q.scratch_bytes(cols)]);
                q.round(q.of_tensor(cols, &x).expect("finite"), cols, &x, &mut want, &mut scratch).expect("finite");
                let want = if along == Along::Rows { want } else { turn(WIDTH, ROWS, &want) };
                let want: Vec<f64> = want.iter().map(|y| f64::from(*y)).collect();
                assert_eq!(*y, want, "{name} {along:?} {elem}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_gradient_goes_straight_through_and_not_where_the_format_clips() -> Result<(), GraphError> {
    for name in ["ternary", "ternary:row", "int4:row", "mxfp4", "mxfp8_e4m3", "Q4_0"] {
        for straight in [StraightThrough::All, StraightThrough::Reached] {
            let q = named(name);
            let mut g = Graph::new(Dtype::F32);
            let x = g.weight("x", [ROWS, WIDTH], Dtype::F32)?;
            let y = g.push1(FakeQuantize { straight, ..FakeQuantize::new(q) }, &[x])?;
            let loss = loss(&mut g, y)?;
            let dx = differentiate(&mut g, loss, &[x])?[0].expect("a gradient");
            let got = run(g, &[("y", y), ("dx", dx)]);
            let x: Vec<f32> = (0..ROWS * WIDTH).map(|i| weight("x", i) as f32).collect();
            let (mut reached, mut scratch) = (vec![1.0; x.len()], vec![0; q.scratch_bytes(WIDTH)]);
            if straight == StraightThrough::Reached {
                let of = q.of_tensor(WIDTH, &x).expect("finite");
                q.reached(of, WIDTH, &x, &mut reached, &mut scratch).expect("finite");
            }
            for i in 0..x.len() {
                let c = 1.0 + 0.5 * pseudo_random("c", i);
                let want = 2.0 * c * c * got[0][i] * f64::from(reached[i]);
                assert!((got[1][i] - want).abs() <= 1e-5 * want.abs(), "{name} {straight:?}: {} {want}", got[1][i]);
            }
        }
    }
    Ok(())
}

#[test]
fn the_gradient_of_a_weight_is_exactly_that_at_the_rounded_weight() -> Result<(), GraphError> {
    for elem in [Dtype::F32, Dtype::F64] {
        // y = x̂ ŵᵀ with both rounded in the graph, and with both rounded before it.
        let build = |rounds: bool| -> Result<Vec<Vec<f64>>, GraphError> {
            let mut g = Graph::new(elem);
            let x = g.weight("x", [ROWS, WIDTH], elem)?;
            let w = g.weight("w", [48, WIDTH], elem)?;
            let (x_hat, w_hat) = (
                g.push1(FakeQuantize::new(named("int8:row")), &[x])?,
                g.push1(FakeQuantize::new(named("ternary")), &[w])?,
            );
            let y = g.push1(Linear { compute: Compute::F32 }, &[x_hat, w_hat])?;
            let loss = loss(&mut g, y)?;
            let wrt = if rounds { [x, w] } else { [x_hat, w_hat] };
            let grads = differentiate(&mut g, loss, &wrt)?;
            let (dx, dw) = (grads[0].expect("a gradient"), grads[1].expect("a gradient"));
            Ok(run(g, &[("y", y), ("dx", dx), ("dw", dw)]))
        };
        assert_eq!(build(true)?, build(false)?);
    }
    Ok(())
}

#[test]
fn what_the_operator_declares() {
    let op = |name: &str| FakeQuantize::new(named(name));
    assert_eq!(Op::rows(&op("int8:row")), Rows::Independent);
    assert_eq!(Op::rows(&op("mxfp4")), Rows::Independent);
    assert_eq!(Op::rows(&op("ternary")), Rows::Mixed);
    assert_eq!(Op::rows(&FakeQuantize { along: Along::Columns, ..op("int8:row") }), Rows::Mixed);
    for straight in [StraightThrough::All, StraightThrough::Reached] {
        assert!(matches!(FakeQuantize { straight, ..op("int8") }.gradient(), Gradient::Surrogate(_)));
    }
}

#[test]
fn shapes_and_values_that_do_not_fit_are_named() -> Result<(), GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let x = g.input("x", [3, 48], Dtype::F32)?;
    let error = g.push1(FakeQuantize::new(named("mxfp4")), &[x]).expect_err("48 is no multiple").to_string();
    assert!(error.contains("fake_quantize") && error.contains("48") && error.contains("32"), "{error}");
    let down = FakeQuantize { along: Along::Columns, ..FakeQuantize::new(named("int8:group2")) };
    let error = g.push1(down, &[x]).expect_err("3 is no multiple").to_string();
    assert!(error.contains("int8:group2"), "{error}");

    let rows = g.run_dim("rows", 8)?;
    let x = g.input("run", [memwall_graph::Dim::from(rows), 4.into()], Dtype::F32)?;
    let y = g.push1(down, &[x])?;
    g.output("y", y);
    let mut memory = Memory::new();
    let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(1)))?;
    e.set_dim(rows, 5)?;
    e.input::<f32>(x).fill(1.0);
    let error = e.run(&mut memory).expect_err("5 rows").to_string();
    assert!(error.contains("down the columns") && error.contains('5'), "{error}");
    e.set_dim(rows, 6)?;
    e.input::<f32>(x).fill(1.0);
    e.input::<f32>(x)[9] = f32::NAN;
    let error = e.run(&mut memory).expect_err("a NaN").to_string();
    assert!(error.contains("NaN"), "{error}");
    Ok(())
}
