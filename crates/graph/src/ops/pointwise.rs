//! Pointwise operators: a small program over the elements of its inputs, run tile by tile.
//!
//! A single instruction is the operator that a model builds (`silu`, `mul`); the fusion pass joins
//! neighbours into longer programs, so that intermediate tensors never reach memory. Inputs may be
//! broadcast: a suffix of the shape repeats (a bias), or a last axis of 1 is stretched (a gate a head).

use memwall_kernels::Real;
use memwall_kernels::map;

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::ops::sum::{SumLast, SumRows};
use crate::shape::{Shape, Type};
use crate::{GraphError, real};

/// Elements that one program step works on: all registers of one fill half of the first-level cache.
const TILE: usize = 256;
/// The most registers of a program.
pub(crate) const MAX_REGISTERS: usize = 16;
/// Elements of one task of the pool: a multiple of the tile, many, because a task clears its registers first.
const TASK: usize = 64 * TILE;

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are the functions' usual names
pub enum Unary {
    Neg,
    Exp,
    Ln,
    Tanh,
    Sigmoid,
    LogSigmoid,
    Silu,
    /// x Φ(x) by the tanh approximation.
    Gelu,
    /// x Φ(x) by the error function.
    GeluErf,
    Relu,
    Square,
    Reciprocal,
    /// Times a constant.
    Scale(f64),
    /// Plus a constant.
    Offset(f64),
    /// No less than a constant.
    AtLeast(f64),
    /// c · tanh(x / c).
    Softcap(f64),
}

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are the functions' usual names
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// The gradient of a unary function: (x, dy) → dy · f'(x).
    Derivative(Unary),
}

/// One step of a program; its result is the next register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instruction {
    /// A function of one register.
    Unary(Unary, usize),
    /// A function of two registers.
    Binary(Binary, usize, usize),
}

/// How an input's elements meet the output's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// One for one.
    Full,
    /// The input is repeated for each leading index.
    Cycle,
    /// Each element of the input serves a whole last axis.
    Stretch,
}

/// A program over elements. Registers 0.. are the inputs, then one for each instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Pointwise {
    /// How many inputs.
    pub inputs: usize,
    /// The steps.
    pub instructions: Vec<Instruction>,
    /// The registers that are outputs.
    pub outputs: Vec<usize>,
}

impl Pointwise {
    /// One function of one input.
    pub fn unary(f: Unary) -> Pointwise {
        Pointwise { inputs: 1, instructions: vec![Instruction::Unary(f, 0)], outputs: vec![1] }
    }

    /// One function of two inputs.
    pub fn binary(f: Binary) -> Pointwise {
        Pointwise { inputs: 2, instructions: vec![Instruction::Binary(f, 0, 1)], outputs: vec![2] }
    }

    fn eval<T: Real>(&self, io: &Io<'_>) {
        let n = io.out_sizes(0).elements();
        let width = io.out_sizes(0).width();
        let access: Vec4<(Access, usize)> = Vec4::of((0..self.inputs).map(|i| {
            let s = io.in_sizes(i);
            let len = s.elements();
            if len == n {
                (Access::Full, len)
            } else if s.width() == 1 && width > 1 && len * width == n {
                (Access::Stretch, width)
            } else {
                (Access::Cycle, len)
            }
        }));
        io.pool().run(n.div_ceil(TASK), |task, _| {
            let mut registers = [[T::ZERO; TILE]; MAX_REGISTERS];
            let end = ((task + 1) * TASK).min(n);
            let mut at = task * TASK;
            while at < end {
                let len = TILE.min(end - at);
                for (i, r) in registers.iter_mut().enumerate().take(self.inputs) {
                    load(io, i, access.get(i), at, &mut r[..len]);
                }
                for (k, step) in self.instructions.iter().enumerate() {
                    let (before, rest) = registers.split_at_mut(self.inputs + k);
                    let to = &mut rest[0][..len];
                    match *step {
                        Instruction::Unary(f, a) => {
                            to.copy_from_slice(&before[a][..len]);
                            unary(f, to);
                        }
                        Instruction::Binary(f, a, b) => binary(f, &before[a][..len], &before[b][..len], to),
                    }
                }
                for (o, &r) in self.outputs.iter().enumerate() {
                    io.write_tile(o, at, &registers[r][..len]);
                }
                at += len;
            }
        });
    }
}

/// Up to `MAX_REGISTERS` items without the heap.
struct Vec4<X: Copy>([Option<X>; MAX_REGISTERS]);

impl<X: Copy> Vec4<X> {
    fn of(items: impl Iterator<Item = X>) -> Vec4<X> {
        let mut v = [None; MAX_REGISTERS];
        for (to, x) in v.iter_mut().zip(items) {
            *to = Some(x);
        }
        Vec4(v)
    }
    fn get(&self, i: usize) -> X {
        self.0[i].expect("an input of the program")
    }
}

fn load<T: Real>(io: &Io<'_>, i: usize, (access, len): (Access, usize), at: usize, to: &mut [T]) {
    match access {
        Access::Full => io.read_tile(i, at, to),
        Access::Cycle if len == 1 => {
            let mut one = [T::ZERO];
            io.read_tile(i, 0, &mut one);
            to.fill(one[0]);
        }
        Access::Cycle => {
            let mut done = 0;
            while done < to.len() {
                let from = (at + done) % len;
                let part = (len - from).min(to.len() - done);
                io.read_tile(i, from, &mut to[done..done + part]);
                done += part;
            }
        }
        Access::Stretch => {
            let mut done = 0;
            while done < to.len() {
                let (row, from) = ((at + done) / len, (at + done) % len);
                let part = (len - from).min(to.len() - done);
                let mut one = [T::ZERO];
                io.read_tile(i, row, &mut one);
                to[done..done + part].fill(one[0]);
                done += part;
            }
        }
    }
}

fn unary<T: Real>(f: Unary, x: &mut [T]) {
    match f {
        Unary::Neg => x.iter_mut().for_each(|x| *x = -*x),
        Unary::Exp => map::exp(x),
        Unary::Ln => map::ln(x),
        Unary::Tanh => map::tanh(x),
        Unary::Sigmoid => map::sigmoid(x),
        Unary::LogSigmoid => map::log_sigmoid(x),
        Unary::Silu => map::silu(x),
        Unary::Gelu => map::gelu(x),
        Unary::GeluErf => map::gelu_erf(x),
        Unary::Relu => x.iter_mut().for_each(|x| {
            // NaN stays NaN: only numbers below 0 become 0.
            if *x < T::ZERO {
                *x = T::ZERO;
            }
        }),
        Unary::Square => x.iter_mut().for_each(|x| *x = *x * *x),
        Unary::Reciprocal => x.iter_mut().for_each(|x| *x = T::ONE / *x),
        Unary::Scale(c) => {
            let c = T::of(c);
            x.iter_mut().for_each(|x| *x *= c);
        }
        Unary::Offset(c) => {
            let c = T::of(c);
            x.iter_mut().for_each(|x| *x += c);
        }
        Unary::AtLeast(c) => {
            let c = T::of(c);
            x.iter_mut().for_each(|x| {
                if *x < c {
                    *x = c;
                }
            });
        }
        Unary::Softcap(c) => {
            let (up, down) = (T::of(c), T::of(1.0 / c));
            x.iter_mut().for_each(|x| *x *= down);
            map::tanh(x);
            x.iter_mut().for_each(|x| *x *= up);
        }
    }
}

fn binary<T: Real>(f: Binary, a: &[T], b: &[T], to: &mut [T]) {
    let each = to.iter_mut().zip(a).zip(b);
    match f {
        Binary::Add => each.for_each(|((t, a), b)| *t = *a + *b),
        Binary::Sub => each.for_each(|((t, a), b)| *t = *a - *b),
        Binary::Mul => each.for_each(|((t, a), b)| *t = *a * *b),
        Binary::Derivative(f) => {
            to.copy_from_slice(a);
            derivative(f, to);
            to.iter_mut().zip(b).for_each(|(t, dy)| *t *= *dy);
        }
    }
}

/// x → f'(x).
fn derivative<T: Real>(f: Unary, x: &mut [T]) {
    match f {
        Unary::Neg => x.fill(-T::ONE),
        Unary::Exp => map::exp(x),
        Unary::Ln => x.iter_mut().for_each(|x| *x = T::ONE / *x),
        Unary::Tanh => {
            map::tanh(x);
            x.iter_mut().for_each(|y| *y = T::ONE - *y * *y);
        }
        Unary::Sigmoid => {
            map::sigmoid(x);
            x.iter_mut().for_each(|y| *y *= T::ONE - *y);
        }
        Unary::LogSigmoid => {
            x.iter_mut().for_each(|x| *x = -*x);
            map::sigmoid(x);
        }
        Unary::Silu => map::silu_derivative(x),
        Unary::Gelu => map::gelu_derivative(x),
        Unary::GeluErf => map::gelu_erf_derivative(x),
        Unary::Relu => x.iter_mut().for_each(|x| *x = if *x > T::ZERO { T::ONE } else { T::ZERO }),
        Unary::Square => x.iter_mut().for_each(|x| *x = *x + *x),
        Unary::Reciprocal => x.iter_mut().for_each(|x| *x = -(T::ONE / (*x * *x))),
        Unary::Scale(c) => x.fill(T::of(c)),
        Unary::Offset(_) => x.fill(T::ONE),
        Unary::AtLeast(c) => {
            let c = T::of(c);
            x.iter_mut().for_each(|x| *x = if *x < c { T::ZERO } else { T::ONE });
        }
        Unary::Softcap(c) => {
            let down = T::of(1.0 / c);
            x.iter_mut().for_each(|x| *x *= down);
            derivative(Unary::Tanh, x);
        }
    }
}

/// The shape that both broadcast to, or why there is none.
pub(crate) fn broadcast(inputs: &[&Type]) -> Result<Shape, String> {
    let widest = |a: &Shape, b: &Shape| {
        let a_is_bigger = (a.rank(), a.width() != Some(1)) >= (b.rank(), b.width() != Some(1));
        if a_is_bigger { a.clone() } else { b.clone() }
    };
    let out = inputs.iter().skip(1).fold(inputs[0].shape.clone(), |a, t| widest(&a, &t.shape));
    for t in inputs {
        let s = &t.shape;
        let suffix = s.rank() <= out.rank() && s.dims() == &out.dims()[out.rank() - s.rank()..];
        let stretched = s.rank() > 0
            && s.rank() == out.rank()
            && s.width() == Some(1)
            && s.dims()[..s.rank() - 1] == out.dims()[..s.rank() - 1];
        let one = s.elements().and_then(|d| d.known()) == Some(1);
        if !(suffix || stretched || one) {
            return Err(format!("shapes {} and {s} do not go together; one must end the other, or end in 1", out));
        }
        if t.dtype != inputs[0].dtype {
            return Err(format!("element types {} and {} differ", inputs[0].dtype, t.dtype));
        }
    }
    Ok(out)
}

impl Op for Pointwise {
    fn name(&self) -> &'static str {
        match self.instructions.as_slice() {
            [Instruction::Unary(f, _)] => match f {
                Unary::Neg => "neg",
                Unary::Exp => "exp",
                Unary::Ln => "ln",
                Unary::Tanh => "tanh",
                Unary::Sigmoid => "sigmoid",
                Unary::LogSigmoid => "log_sigmoid",
                Unary::Silu => "silu",
                Unary::Gelu => "gelu",
                Unary::GeluErf => "gelu_erf",
                Unary::Relu => "relu",
                Unary::Square => "square",
                Unary::Reciprocal => "reciprocal",
                Unary::Scale(_) => "scale",
                Unary::Offset(_) => "offset",
                Unary::AtLeast(_) => "at_least",
                Unary::Softcap(_) => "softcap",
            },
            [Instruction::Binary(f, ..)] => match f {
                Binary::Add => "add",
                Binary::Sub => "sub",
                Binary::Mul => "mul",
                Binary::Derivative(_) => "derivative",
            },
            _ => "fused",
        }
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs.len() != self.inputs {
            return Err(format!("{} inputs, {} needed", inputs.len(), self.inputs));
        }
        let ty = Type { shape: broadcast(inputs)?, dtype: inputs[0].dtype };
        Ok(vec![ty; self.outputs.len()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => self.eval::<T>(io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; self.inputs]) };
        match self.instructions.as_slice() {
            [Instruction::Unary(Unary::Neg, _)] => Ok(vec![Some(super::unary(g, Unary::Neg, dy)?)]),
            [Instruction::Unary(Unary::Scale(c), _)] => Ok(vec![Some(super::unary(g, Unary::Scale(*c), dy)?)]),
            [Instruction::Unary(Unary::Offset(_), _)] => Ok(vec![Some(dy)]),
            [Instruction::Unary(f, _)] => {
                Ok(vec![Some(g.push1(Pointwise::binary(Binary::Derivative(*f)), &[node.inputs[0], dy])?)])
            }
            [Instruction::Binary(f, ..)] => {
                let mut grads = [None, None];
                for (side, grad) in grads.iter_mut().enumerate() {
                    if !node.wanted[side] {
                        continue;
                    }
                    let other = node.inputs[1 - side];
                    let full = match f {
                        Binary::Add => dy,
                        Binary::Sub if side == 0 => dy,
                        Binary::Sub => super::unary(g, Unary::Neg, dy)?,
                        Binary::Mul => super::mul(g, dy, other)?,
                        Binary::Derivative(_) => {
                            return Err(g.no_gradient("derivative", "second derivatives are not built"));
                        }
                    };
                    *grad = Some(unbroadcast(g, full, node.inputs[side])?);
                }
                Ok(grads.to_vec())
            }
            _ => Err(g.no_gradient("fused", "fusion comes after differentiation")),
        }
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming((self.instructions.len() * sizes.outputs[0].1.elements()) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn in_place(&self, _: usize) -> &[usize] {
        const ALL: [usize; MAX_REGISTERS] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        &ALL[..self.inputs]
    }

    fn as_pointwise(&self) -> Option<&Pointwise> {
        Some(self)
    }
}

/// Sums a gradient over the axes along which `input` was broadcast.
fn unbroadcast(g: &mut Graph, full: Value, input: Value) -> Result<Value, GraphError> {
    if g.shape(full) == g.shape(input) {
        return Ok(full);
    }
    let shape = g.shape(input).clone();
    let stretched = shape.rank() == g.shape(full).rank() && shape.width() == Some(1);
    if stretched {
        return g.push1(SumLast, &[full]);
    }
    g.push1(SumRows::new(shape), &[full])
}
