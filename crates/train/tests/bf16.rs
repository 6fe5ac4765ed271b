//! A bf16 step multiplies bf16 by bf16: in every operator that has matrix products, forward and backward.

use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::{
    Alias, Cost, Dim, Executor, Gradient, Graph, Io, Memory, NodeSizes, Op, PlanOptions, Rows, Shape, Type,
    check::pseudo_random,
};
use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;
use memwall_nn::ModelConfig;
use memwall_train::{Trainer, TrainerOptions};

const ROWS: usize = 48;
/// Operators that are one matrix product each.
const PRODUCTS: [&str; 2] = ["linear", "matmul"];
/// Operators with matrix products inside.
const WITH_PRODUCTS: [&str; 4] = ["attention", "attention_backward", "gla", "gla_backward"];

/// Every mixer and every channel layer.
fn config() -> ModelConfig {
    toml::from_str(
        r#"
        vocab_size = 96
        d_model = 64
        max_context = 64
        [[layers]]
        mixer = { kind = "gla", heads = 2, key_width = 16, value_width = 32 }
        channel = { kind = "glu", hidden = 96 }
        [[layers]]
        mixer = { kind = "attention", heads = 4, kv_heads = 2, head_dim = 16, rope = {}, qk_norm = true, gate = {} }
        channel = { kind = "mlp", hidden = 96, activation = "relu", bias = true }
        [[layers]]
        mixer = { kind = "short_conv", taps = 4 }
        channel = { kind = "glu", hidden = 96, activation = "gelu" }
        "#,
    )
    .expect("a model")
}

fn trainer(compute: Compute) -> Trainer {
    let o = TrainerOptions {
        tokens: ROWS,
        sequences: 2,
        threads: 1,
        compute,
        recompute: 1,
        seed: 3,
        input_noise: None,
        distillation: None,
        fences: false,
    };
    Trainer::new(config(), o, Memory::new()).expect("a trainer")
}

#[test]
fn every_operator_with_products_is_told_bf16_and_none_f32() {
    let trainer = trainer(Compute::Bf16);
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for node in trainer.graph().nodes() {
        let settings = format!("{:?}", node.op);
        assert!(!settings.contains("compute: F32"), "{} in {}: {settings}", node.op.name(), node.scope);
        if PRODUCTS.contains(&node.op.name()) || WITH_PRODUCTS.contains(&node.op.name()) {
            assert!(settings.contains("compute: Bf16"), "{} in {}: {settings}", node.op.name(), node.scope);
            *seen.entry(node.op.name()).or_default() += 1;
        }
    }
    assert!(PRODUCTS.iter().chain(&WITH_PRODUCTS).all(|name| seen.contains_key(name)), "{seen:?}");
}

/// An operator of a step, on its own.
#[derive(Debug)]
struct Again(Arc<dyn Op>);

impl Op for Again {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        self.0.infer(inputs)
    }
    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        self.0.run(io)
    }
    fn gradient(&self) -> Gradient {
        self.0.gradient()
    }
    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        self.0.cost(sizes)
    }
    fn rows(&self) -> Rows {
        self.0.rows()
    }
    fn alias(&self, output: usize) -> Option<Alias> {
        self.0.alias(output)
    }
    fn in_place(&self, output: usize) -> &[usize] {
        self.0.in_place(output)
    }
    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        self.0.scratch(sizes, threads)
    }
}

/// The bits of what an operator makes of pseudo-random inputs, rounded to bf16 first or not.
fn result(op: &Arc<dyn Op>, shapes: &[Vec<usize>], round: bool) -> Vec<u32> {
    let mut g = Graph::new(Dtype::F32);
    let inputs: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let dims: Vec<Dim> = shape.iter().map(|&n| Dim::fixed(n)).collect();
            g.input(&format!("input {i}"), Shape::new(&dims), Dtype::F32).expect("an input")
        })
        .collect();
    let made = g.push(Again(op.clone()), &inputs).expect("the operator takes them");
    g.output("made", made[0]);
    let mut memory = Memory::new();
    let pool = Arc::new(Pool::new(1));
    let mut executor = Executor::new(g, PlanOptions::default(), &mut memory, pool).expect("a plan");
    for (i, &input) in inputs.iter().enumerate() {
        for (k, x) in executor.input::<f32>(input).iter_mut().enumerate() {
            let value = pseudo_random(&format!("input {i}"), k) as f32;
            *x = if round { half::bf16::from_f32(value).to_f32() } else { value };
        }
    }
    executor.run(&mut memory).expect("a result");
    executor.output::<u32>("made").to_vec()
}

#[test]
fn no_product_sees_more_of_an_operand_than_bf16_holds() {
    for (compute, same) in [(Compute::Bf16, true), (Compute::F32, false)] {
        let trainer = trainer(compute);
        let g = trainer.graph();
        let mut products = 0;
        for node in g.nodes().iter().filter(|node| PRODUCTS.contains(&node.op.name())) {
            let shape = |v| g.shape(v).dims().iter().map(|d| d.known().unwrap_or(ROWS)).collect();
            let shapes: Vec<Vec<usize>> = node.inputs.iter().map(|&v| shape(v)).collect();
            let equal = result(&node.op, &shapes, false) == result(&node.op, &shapes, true);
            assert_eq!(equal, same, "{:?}: {} of {shapes:?} in {}", compute, node.op.name(), node.scope);
            products += 1;
        }
        assert!(products > 40, "{products} products");
    }
}
