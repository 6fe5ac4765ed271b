//! A trained GRU as a scan: its logits, its text and its memory are those of PyTorch's own cell.

use std::path::Path;
use std::sync::Arc;

use memwall_formats::{Container, Dtype, format};
use memwall_graph::ops::embedding::Embedding;
use memwall_graph::ops::linear::Linear;
use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::scan::{Body, Scan};
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::{Executor, Graph, GraphError, Memory, PlanOptions, Value, ops};
use memwall_kernels::{Pool, gemm::Compute};

const WIDTH: usize = 124;
const VOCABULARY: usize = 98;
/// Embeddings of positions.
const POSITIONS: usize = 256;

fn tensor(container: &Container, name: &str) -> Vec<f32> {
    let info = container.tensor(name).expect("the model has it");
    let mut values = vec![0.0; info.elements()];
    format(info.dtype).decode(values.len(), container.bytes(info), &mut values).expect("whole");
    values
}

/// The weights; the input's matrix is cut into what meets the embedding and what meets the memory.
fn weights(container: &Container) -> Memory {
    let mut memory = Memory::new();
    for info in container.tensors() {
        memory.set(&info.name, Dtype::F32, &tensor(container, &info.name)).expect("room");
    }
    let both = tensor(container, "gru_cell.weight_ih");
    let part = |from: usize| -> Vec<f32> {
        both.chunks_exact(2 * WIDTH).flat_map(|row| row[from..from + WIDTH].to_vec()).collect()
    };
    memory.set("of_embedding", Dtype::F32, &part(0)).expect("room");
    memory.set("of_memory", Dtype::F32, &part(WIDTH)).expect("room");
    memory
}

fn linear(g: &mut Graph, x: Value, w: Value, bias: Value) -> Result<Value, GraphError> {
    let y = g.push1(Linear { compute: Compute::F32 }, &[x, w])?;
    ops::add(g, y, bias)
}

/// a + t (b − a).
fn mix(g: &mut Graph, a: Value, b: Value, t: Value) -> Result<Value, GraphError> {
    let difference = ops::sub(g, b, a)?;
    let step = ops::mul(g, difference, t)?;
    ops::add(g, a, step)
}

/// One step: r, z and n of the cell, then the memory; x is the embedding's share of the gates, its bias included.
fn body() -> Result<Body, GraphError> {
    let mut body = Graph::new(Dtype::F32);
    let g = &mut body;
    let shapes: [(&str, &[usize]); 7] = [
        ("of_memory", &[3 * WIDTH, WIDTH]),
        ("weight_hh", &[3 * WIDTH, WIDTH]),
        ("bias_hh", &[3 * WIDTH]),
        ("gate.weight", &[1, WIDTH]),
        ("gate.bias", &[1]),
        ("writer.weight", &[WIDTH, WIDTH]),
        ("writer.bias", &[WIDTH]),
    ];
    let constants = shapes
        .iter()
        .map(|(name, shape)| match **shape {
            [a] => g.input(name, [a], Dtype::F32),
            _ => g.input(name, [shape[0], shape[1]], Dtype::F32),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let [of_memory, weight_hh, bias_hh, gate, gate_bias, writer, writer_bias] = constants[..] else { unreachable!() };
    let hidden = g.input("hidden", [1, WIDTH], Dtype::F32)?;
    let memory = g.input("memory", [1, WIDTH], Dtype::F32)?;
    let x = g.input("x", [1, 3 * WIDTH], Dtype::F32)?;

    let of_input = g.push1(Linear { compute: Compute::F32 }, &[memory, of_memory])?;
    let of_input = ops::add(g, of_input, x)?;
    let of_hidden = linear(g, hidden, weight_hh, bias_hh)?;
    let part = |g: &mut Graph, v: Value, i: usize| g.push1(SliceLast { from: i * WIDTH, width: WIDTH }, &[v]);
    let mut gates = Vec::new();
    for i in 0..2 {
        let (a, b) = (part(g, of_input, i)?, part(g, of_hidden, i)?);
        let sum = ops::add(g, a, b)?;
        gates.push(ops::unary(g, Unary::Sigmoid, sum)?);
    }
    let (r, z) = (gates[0], gates[1]);
    let (a, b) = (part(g, of_input, 2)?, part(g, of_hidden, 2)?);
    let reset = ops::mul(g, r, b)?;
    let n = ops::add(g, a, reset)?;
    let n = ops::unary(g, Unary::Tanh, n)?;
    let next = mix(g, n, hidden, z)?;
    let p = linear(g, next, gate, gate_bias)?;
    let p = ops::unary(g, Unary::Sigmoid, p)?;
    let candidate = linear(g, next, writer, writer_bias)?;
    let candidate = ops::unary(g, Unary::Tanh, candidate)?;
    let written = mix(g, memory, candidate, p)?;
    Ok(Body {
        constants,
        carry: vec![hidden, memory],
        xs: vec![x],
        next: vec![next, written],
        ys: vec![next],
        graph: body,
    })
}

/// The model over `tokens` characters: logits, and the memory after them.
fn model(tokens: usize, every: usize) -> Result<Graph, GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let f32s = Dtype::F32;
    let embed = Embedding { elem: f32s };
    let ids = g.input("ids", [tokens], Dtype::I32)?;
    let positions = g.input("positions", [tokens], Dtype::I32)?;
    let of_ids = g.weight("token_emb.weight", [VOCABULARY, WIDTH], f32s)?;
    let of_positions = g.weight("pos_emb.weight", [POSITIONS, WIDTH], f32s)?;
    let (a, b) = (g.push1(embed, &[ids, of_ids])?, g.push1(embed, &[positions, of_positions])?);
    let x = ops::add(&mut g, a, b)?;
    let of_embedding = g.weight("of_embedding", [3 * WIDTH, WIDTH], f32s)?;
    let bias = g.weight("gru_cell.bias_ih", [3 * WIDTH], f32s)?;
    let x = linear(&mut g, x, of_embedding, bias)?;
    let x = ops::reshape(&mut g, x, [tokens, 1, 3 * WIDTH])?;
    let mut inputs = vec![
        g.weight("of_memory", [3 * WIDTH, WIDTH], f32s)?,
        g.weight("gru_cell.weight_hh", [3 * WIDTH, WIDTH], f32s)?,
        g.weight("gru_cell.bias_hh", [3 * WIDTH], f32s)?,
        g.weight("priority_gate.weight", [1, WIDTH], f32s)?,
        g.weight("priority_gate.bias", [1], f32s)?,
        g.weight("memory_writer.weight", [WIDTH, WIDTH], f32s)?,
        g.weight("memory_writer.bias", [WIDTH], f32s)?,
    ];
    let zero = g.constant("zero", [1, WIDTH], &[0.0; WIDTH])?;
    inputs.extend([zero, zero, x]);
    let out = g.push(Scan::new(Arc::new(body()?), tokens, every), &inputs)?;
    g.output("memory", out[1]);
    let hidden = ops::reshape(&mut g, out[2], [tokens, WIDTH])?;
    let (w, b) = (g.weight("ln_f.weight", [WIDTH], f32s)?, g.weight("ln_f.bias", [WIDTH], f32s)?);
    let y = g.push1(Norm::layer(WIDTH, 1e-5), &[hidden, w, b])?;
    let (w, b) = (g.weight("head.weight", [VOCABULARY, WIDTH], f32s)?, g.weight("head.bias", [VOCABULARY], f32s)?);
    let logits = linear(&mut g, y, w, b)?;
    g.output("logits", logits);
    Ok(g)
}

fn run(ids: &[i32], memory: &mut Memory, threads: usize, every: usize) -> Result<(Vec<f32>, Vec<f32>), GraphError> {
    let options = PlanOptions { fences: true, ..Default::default() };
    let mut e = Executor::new(model(ids.len(), every)?, options, memory, Arc::new(Pool::new(threads)))?;
    let find = |e: &Executor, name: &str| e.graph().find(name).expect("an input");
    let (of_ids, of_positions) = (find(&e, "ids"), find(&e, "positions"));
    e.input::<i32>(of_ids).copy_from_slice(ids);
    e.input::<i32>(of_positions).iter_mut().zip(0..).for_each(|(p, i)| *p = i);
    e.run(memory)?;
    Ok((e.output("logits").to_vec(), e.output("memory").to_vec()))
}

#[test]
fn a_trained_gru_as_a_scan_equals_the_cell_of_pytorch() -> Result<(), GraphError> {
    let Some(path) = memwall_testdata::data("models-gru-tinystories/puregru-f32.safetensors") else { return Ok(()) };
    let mut memory = weights(&Container::open(path).expect("the model opens"));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gru.safetensors");
    let golden = Container::open(golden).expect("the golden file opens");
    let info = golden.tensor("ids").expect("ids");
    let ids: Vec<i32> =
        golden.bytes(info).chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("four"))).collect();
    let (logits, last) = run(&ids, &mut memory, 1, 1)?;
    for (name, got, want) in
        [("logits", &logits, tensor(&golden, "logits")), ("memory", &last, tensor(&golden, "memory"))]
    {
        assert_eq!(got.len(), want.len(), "{name}");
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name} differ by {worst}");
    }
    // After its prompt of 54 characters the text is the model's own.
    for t in 53..ids.len() - 1 {
        let row = &logits[t * VOCABULARY..][..VOCABULARY];
        let likeliest = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as i32);
        assert_eq!(likeliest, Some(ids[t + 1]), "after character {t}");
    }
    // Threads, kept carries and where a text ends change no bit of what came before.
    for (threads, every, tokens) in [(2, 1, ids.len()), (1, 0, ids.len()), (2, 7, 61)] {
        let (again, _) = run(&ids[..tokens], &mut memory, threads, every)?;
        let same = again.iter().zip(&logits).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{threads} threads, every {every}, {tokens} characters");
    }
    Ok(())
}
