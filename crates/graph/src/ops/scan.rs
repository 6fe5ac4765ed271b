//! A loop over time: `(carry, xs[t]) → (carry, ys[t])`, its body planned once.
//!
//! Recurrent cells, spiking networks and iterative solvers are scans; a fused kernel is an
//! optimization of one, with the scan as its oracle. The backward pass is a reverse scan: carries
//! are kept every `every` steps, and made again in between, so memory grows with T / every + every.

use std::sync::{Arc, Mutex};

use memwall_kernels::Real;

use crate::differentiate::pull_back;
use crate::graph::{Graph, Source, Value};
use crate::io::{Io, Slot};
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::plan::{ALIGN, Plan, PlanOptions};
use crate::run::Runner;
use crate::shape::{Dim, Shape, Sizes, Type};
use crate::{GraphError, real};

/// The body of a loop: a graph whose inputs are constants of the loop, carries and slices of xs.
#[derive(Clone, Debug)]
pub struct Body {
    /// The graph of one step.
    pub graph: Graph,
    /// Inputs that are the same in every step, e.g. weights.
    pub constants: Vec<Value>,
    /// Inputs that hold the carries.
    pub carry: Vec<Value>,
    /// Inputs that hold step t of each of xs.
    pub xs: Vec<Value>,
    /// The next carries, of the same types as `carry`.
    pub next: Vec<Value>,
    /// What the step gives out.
    pub ys: Vec<Value>,
}

impl Body {
    fn check(&self) -> Result<(), String> {
        let ty = |v: &Value| self.graph.ty(*v);
        if self.carry.len() != self.next.len() {
            return Err(format!("{} carries in, {} out", self.carry.len(), self.next.len()));
        }
        for (a, b) in self.carry.iter().zip(&self.next) {
            if ty(a) != ty(b) {
                return Err(format!("a carry of {} comes out as {}", ty(a), ty(b)));
            }
        }
        for v in self.constants.iter().chain(&self.carry).chain(&self.xs) {
            if !matches!(self.graph.info(*v).source, Source::Input) {
                return Err(format!("{} is no input of the body", self.graph.info(*v).name));
            }
        }
        if !self.graph.run_dims().is_empty() {
            return Err("the body of a scan has fixed sizes".into());
        }
        Ok(())
    }

    fn bytes(&self, values: &[Value]) -> Vec<usize> {
        values.iter().map(|&v| self.graph.ty(v).bytes(&[])).collect()
    }

    fn plan(&self, threads: usize) -> Plan {
        let mut graph = self.graph.clone();
        for (i, &v) in self.next.iter().chain(&self.ys).enumerate() {
            graph.output(&i.to_string(), v);
        }
        Plan::new(&graph, PlanOptions { threads, lent_inputs: true, ..Default::default() })
    }
}

/// A planned body, made at the first run.
#[derive(Default)]
struct Machine(Mutex<Option<Runner>>);

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

fn padded(bytes: &[usize]) -> usize {
    bytes.iter().map(|b| b.next_multiple_of(ALIGN)).sum()
}

/// Splits `memory` into one padded piece for each of `bytes`.
fn pieces(mut memory: *mut u8, bytes: &[usize]) -> Vec<*mut u8> {
    bytes
        .iter()
        .map(|b| {
            let piece = memory;
            memory = memory.wrapping_add(b.next_multiple_of(ALIGN));
            piece
        })
        .collect()
}

fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: callers pass tensors of at least `bytes` bytes that the executor has bound for this run.
    unsafe { std::ptr::copy(from, to, bytes) }
}

/// The loop. Inputs: constants, first carries, xs (each `[T, ..]`). Outputs: last carries, ys
/// (`[T, ..]`), and the kept carries (`[ceil(T / every), ..]`).
#[derive(Debug)]
pub struct Scan {
    body: Arc<Body>,
    every: usize,
    steps: Dim,
    machine: Machine,
}

impl Scan {
    /// A loop of `steps` steps that keeps every `every`-th carry (0: the square root of the most steps).
    pub fn new(body: Arc<Body>, steps: impl Into<Dim>, every: usize) -> Scan {
        Scan { body, every, steps: steps.into(), machine: Machine::default() }
    }

    fn stacked(&self, v: Value, n: impl Into<Dim>) -> Type {
        stacked(&self.body.graph, v, n)
    }
}

fn stacked(g: &Graph, v: Value, n: impl Into<Dim>) -> Type {
    let ty = g.ty(v);
    let mut dims = vec![n.into()];
    dims.extend_from_slice(ty.shape.dims());
    Type { shape: Shape::new(&dims), dtype: ty.dtype }
}

fn interval(every: usize, steps: Dim) -> Result<usize, String> {
    match (every, steps.known()) {
        (0, Some(t)) => Ok((t as f64).sqrt().ceil().max(1.0) as usize),
        (0, None) => Err("a scan of a run-time number of steps says how many carries it keeps".into()),
        (k, _) => Ok(k),
    }
}

impl Op for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let b = &self.body;
        b.check()?;
        let want: Vec<Type> = (b.constants.iter().chain(&b.carry).map(|&v| b.graph.ty(v).clone()))
            .chain(b.xs.iter().map(|&v| self.stacked(v, self.steps)))
            .collect();
        if inputs.len() != want.len() {
            return Err(format!("{} inputs, {} needed", inputs.len(), want.len()));
        }
        for (i, (got, want)) in inputs.iter().zip(&want).enumerate() {
            if *got != want {
                return Err(format!("input {i} is {got}, the body needs {want}"));
            }
        }
        let every = interval(self.every, self.steps)?;
        let kept = match self.steps.known() {
            Some(t) => Dim::fixed(t.div_ceil(every)),
            // As many as could be needed; a run fills the first.
            None => self.steps,
        };
        Ok((b.carry.iter().map(|&v| b.graph.ty(v).clone()))
            .chain(b.ys.iter().map(|&v| self.stacked(v, self.steps)))
            .chain(b.carry.iter().map(|&v| self.stacked(v, kept)))
            .collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let b = &*self.body;
        let every = interval(self.every, self.steps)?;
        let (nc, ns, ny) = (b.constants.len(), b.carry.len(), b.ys.len());
        let steps = steps_of(io.outputs, io.inputs, ns, ny, nc);
        let mut machine = self.machine.0.lock().expect("no panic inside");
        let runner = machine.get_or_insert_with(|| Runner::new(b.graph.clone(), b.plan(io.pool().threads())));
        let scratch = io.scratch().as_mut_ptr();
        let carry_bytes = b.bytes(&b.carry);
        let carry = pieces(scratch, &carry_bytes);
        let arena = scratch.wrapping_add(padded(&carry_bytes));
        for (i, &bytes) in carry_bytes.iter().enumerate() {
            copy(io.inputs[nc + i].ptr, carry[i], bytes);
        }
        let (x_bytes, y_bytes) = (b.bytes(&b.xs), b.bytes(&b.ys));
        for t in 0..steps {
            if t % every == 0 {
                for (i, &bytes) in carry_bytes.iter().enumerate() {
                    copy(carry[i], io.outputs[ns + ny + i].ptr.wrapping_add(t / every * bytes), bytes);
                }
            }
            step(b, runner, arena, io, &carry, &x_bytes, t)?;
            for (i, &bytes) in carry_bytes.iter().enumerate() {
                copy(runner.slots[b.next[i].index()].ptr, carry[i], bytes);
            }
            for (i, &bytes) in y_bytes.iter().enumerate() {
                copy(runner.slots[b.ys[i].index()].ptr, io.outputs[ns + i].ptr.wrapping_add(t * bytes), bytes);
            }
        }
        for (i, &bytes) in carry_bytes.iter().enumerate() {
            copy(carry[i], io.outputs[i].ptr, bytes);
        }
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let b = &*self.body;
        let (nc, ns, ny) = (b.constants.len(), b.carry.len(), b.ys.len());
        let elem = g.elem();
        let smooth = |v: &Value| b.graph.ty(*v).dtype == elem;
        // One step's gradient: seeds for next carries and ys, pulled back to constants, carries and xs.
        let mut graph = b.graph.clone();
        let mut seeds = Vec::new();
        for (i, &v) in b.next.iter().chain(&b.ys).enumerate() {
            let ty = graph.ty(v).clone();
            let seed = graph.input(&format!("gradient of result {i}"), ty.shape, ty.dtype)?;
            seeds.push((v, seed));
        }
        let wrt: Vec<Value> = b.constants.iter().chain(&b.carry).chain(&b.xs).copied().filter(|v| smooth(v)).collect();
        let grads = pull_back(&mut graph, &seeds, &wrt)?;
        let mut results = Vec::new();
        for (&v, grad) in wrt.iter().zip(grads) {
            let grad = match grad {
                Some(grad) => grad,
                None => graph.push1(super::fill::Fill::new(graph.ty(v).clone(), 0.0), &[])?,
            };
            results.push((v, grad));
        }
        let seeds = seeds.into_iter().map(|(_, seed)| seed).collect();
        let reverse = ReverseScan {
            forward: self.body.clone(),
            graph,
            seeds,
            results,
            every: interval(self.every, self.steps).map_err(|what| g.refused("scan", what))?,
            machine: Machine::default(),
            forward_machine: Machine::default(),
        };
        let mut inputs = node.inputs.to_vec();
        inputs.extend_from_slice(&node.outputs[ns + ny..]);
        for (i, grad) in node.grads[..ns + ny].iter().enumerate() {
            inputs.push(match *grad {
                Some(v) => v,
                None => g.push1(super::fill::Fill::new(g.ty(node.outputs[i]).clone(), 0.0), &[])?,
            });
        }
        let made = g.push(reverse, &inputs)?;
        let mut made = made.into_iter();
        let all = b.constants.iter().chain(&b.carry).chain(&b.xs);
        debug_assert_eq!(nc + ns + b.xs.len(), node.inputs.len());
        Ok(all.map(|v| if smooth(v) { made.next() } else { None }).collect())
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let steps = sizes.outputs.get(self.body.carry.len()).map_or(1, |(_, s)| s.axis(0));
        let mut one = body_cost(&self.body.graph);
        one.operations *= steps as f64;
        one.bytes_read *= steps as f64;
        one.bytes_written *= steps as f64;
        one
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, _: &NodeSizes<'_>, threads: usize) -> usize {
        padded(&self.body.bytes(&self.body.carry)) + self.body.plan(threads).arena_bytes
    }
}

fn body_cost(g: &Graph) -> Cost {
    let sized = |values: &[Value]| -> Vec<(Type, Sizes)> {
        values.iter().map(|&v| (g.ty(v).clone(), g.shape(v).sizes(&[]))).collect()
    };
    g.nodes().iter().fold(Cost::default(), |sum, n| {
        sum + n.op.cost(&NodeSizes { inputs: &sized(&n.inputs), outputs: &sized(&n.outputs) })
    })
}

fn steps_of(outputs: &[Slot], inputs: &[Slot], ns: usize, ny: usize, nc: usize) -> usize {
    if ny > 0 { outputs[ns].sizes.axis(0) } else { inputs.get(nc + ns).map_or(0, |s| s.sizes.axis(0)) }
}

/// Binds the body to step `t` and runs it.
fn step(
    b: &Body,
    runner: &mut Runner,
    arena: *mut u8,
    io: &Io<'_>,
    carry: &[*mut u8],
    x_bytes: &[usize],
    t: usize,
) -> Result<(), String> {
    let (nc, ns) = (b.constants.len(), b.carry.len());
    runner.bind(arena, |v| {
        if let Some(i) = b.constants.iter().position(|&c| c == v) {
            io.inputs[i].ptr
        } else if let Some(i) = b.carry.iter().position(|&c| c == v) {
            carry[i]
        } else if let Some(i) = b.xs.iter().position(|&c| c == v) {
            io.inputs[nc + ns + i].ptr.wrapping_add(t * x_bytes[i])
        } else {
            std::ptr::null_mut()
        }
    });
    runner.run(arena, io.pool()).map_err(|e| format!("step {t}: {e}"))
}

/// The backward loop. Inputs: those of the scan, its kept carries, gradients of its last carries
/// and ys. Outputs: gradients of constants, first carries and xs that have the graph's element type.
#[derive(Debug)]
struct ReverseScan {
    forward: Arc<Body>,
    graph: Graph,
    seeds: Vec<Value>,
    /// Inputs of the body and where their gradients come out of one step.
    results: Vec<(Value, Value)>,
    every: usize,
    machine: Machine,
    forward_machine: Machine,
}

impl ReverseScan {
    fn plan(&self, threads: usize) -> Plan {
        let mut graph = self.graph.clone();
        for (i, (_, v)) in self.results.iter().enumerate() {
            graph.output(&i.to_string(), *v);
        }
        let graph = crate::prune::prune(&graph);
        Plan::new(&graph, PlanOptions { threads, lent_inputs: true, ..Default::default() })
    }

    fn pruned(&self) -> Graph {
        let mut graph = self.graph.clone();
        for (i, (_, v)) in self.results.iter().enumerate() {
            graph.output(&i.to_string(), *v);
        }
        crate::prune::prune(&graph)
    }
}

impl Op for ReverseScan {
    fn name(&self) -> &'static str {
        "reverse_scan"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let b = &self.forward;
        let all: Vec<Value> = b.constants.iter().chain(&b.carry).chain(&b.xs).copied().collect();
        Ok(self
            .results
            .iter()
            .map(|(v, _)| inputs[all.iter().position(|a| a == v).expect("an input of the body")].clone())
            .collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let b = &*self.forward;
        let (nc, ns, nx, ny) = (b.constants.len(), b.carry.len(), b.xs.len(), b.ys.len());
        let threads = io.pool().threads();
        let mut machine = self.machine.0.lock().expect("no panic inside");
        let mut forward = self.forward_machine.0.lock().expect("no panic inside");
        let runner = machine.get_or_insert_with(|| Runner::new(self.pruned(), self.plan(threads)));
        let forward = forward.get_or_insert_with(|| Runner::new(b.graph.clone(), b.plan(threads)));

        let carry_bytes = b.bytes(&b.carry);
        let (x_bytes, y_bytes) = (b.bytes(&b.xs), b.bytes(&b.ys));
        let one = padded(&carry_bytes);
        let scratch = io.scratch().as_mut_ptr();
        let carries: Vec<Vec<*mut u8>> =
            (0..self.every).map(|i| pieces(scratch.wrapping_add(i * one), &carry_bytes)).collect();
        let d_carry = pieces(scratch.wrapping_add(self.every * one), &carry_bytes);
        let arena = scratch.wrapping_add((self.every + 1) * one);

        let grads = nc + ns + nx + ns;
        let steps = if nx > 0 { io.inputs[nc + ns].sizes.axis(0) } else { io.inputs[grads + ns].sizes.axis(0) };
        for (i, &bytes) in carry_bytes.iter().enumerate() {
            copy(io.inputs[grads + i].ptr, d_carry[i], bytes);
        }
        for (i, (v, _)) in self.results.iter().enumerate() {
            if b.constants.contains(v) {
                real!(io.out_dtype(i), T => zero::<T>(&io.outputs[i]));
            }
        }
        let mut end = steps;
        while end > 0 {
            let start = (end - 1) / self.every * self.every;
            for (i, &bytes) in carry_bytes.iter().enumerate() {
                let kept = io.inputs[nc + ns + nx + i].ptr.wrapping_add(start / self.every * bytes);
                copy(kept, carries[0][i], bytes);
            }
            for t in start..end - 1 {
                step(b, forward, arena, io, &carries[t - start], &x_bytes, t)?;
                for (i, &bytes) in carry_bytes.iter().enumerate() {
                    copy(forward.slots[b.next[i].index()].ptr, carries[t + 1 - start][i], bytes);
                }
            }
            for t in (start..end).rev() {
                runner.bind(arena, |v| {
                    if let Some(i) = self.seeds.iter().position(|&s| s == v) {
                        return if i < ns {
                            d_carry[i]
                        } else {
                            io.inputs[grads + i].ptr.wrapping_add(t * y_bytes[i - ns])
                        };
                    }
                    if let Some(i) = b.constants.iter().position(|&c| c == v) {
                        io.inputs[i].ptr
                    } else if let Some(i) = b.carry.iter().position(|&c| c == v) {
                        carries[t - start][i]
                    } else if let Some(i) = b.xs.iter().position(|&c| c == v) {
                        io.inputs[nc + ns + i].ptr.wrapping_add(t * x_bytes[i])
                    } else {
                        std::ptr::null_mut()
                    }
                });
                runner.run(arena, io.pool()).map_err(|e| format!("backward of step {t}: {e}"))?;
                for (i, (v, grad)) in self.results.iter().enumerate() {
                    let slot = runner.slots[grad.index()];
                    if b.constants.contains(v) {
                        real!(io.out_dtype(i), T => add_to::<T>(&io.outputs[i], &slot));
                    } else if let Some(k) = b.xs.iter().position(|x| x == v) {
                        copy(slot.ptr, io.outputs[i].ptr.wrapping_add(t * x_bytes[k]), x_bytes[k]);
                    }
                }
                // Carries last: their gradients are read by the step that has just run.
                for (v, grad) in &self.results {
                    if let Some(k) = b.carry.iter().position(|c| c == v) {
                        copy(runner.slots[grad.index()].ptr, d_carry[k], carry_bytes[k]);
                    }
                }
            }
            end = start;
        }
        for (i, (v, _)) in self.results.iter().enumerate() {
            if let Some(k) = b.carry.iter().position(|c| c == v) {
                copy(d_carry[k], io.outputs[i].ptr, carry_bytes[k]);
            }
        }
        debug_assert_eq!(io.inputs(), grads + ns + ny);
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a scan are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let b = &self.forward;
        let at = b.constants.len() + b.carry.len();
        let steps = sizes.inputs.get(at).map_or(1, |(_, s)| s.axis(0)) as f64;
        let (one, again) = (body_cost(&self.graph), body_cost(&b.graph));
        let sum = one + again;
        Cost {
            operations: sum.operations * steps,
            bytes_read: sum.bytes_read * steps,
            bytes_written: sum.bytes_written * steps,
        }
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, _: &NodeSizes<'_>, threads: usize) -> usize {
        let carries = (self.every + 1) * padded(&self.forward.bytes(&self.forward.carry));
        carries + self.plan(threads).arena_bytes.max(self.forward.plan(threads).arena_bytes)
    }
}

fn zero<T: Real>(to: &Slot) {
    // SAFETY: an output of the node that runs, bound by the executor.
    unsafe { std::slice::from_raw_parts_mut(to.ptr.cast::<T>(), to.sizes.elements()) }.fill(T::ZERO);
}

fn add_to<T: Real>(to: &Slot, from: &Slot) {
    // SAFETY: an output of the node that runs, and a tensor in its scratch memory: distinct, bound by the executor.
    let (to, from) = unsafe {
        (
            std::slice::from_raw_parts_mut(to.ptr.cast::<T>(), to.sizes.elements()),
            std::slice::from_raw_parts(from.ptr.cast::<T>(), from.sizes.elements()),
        )
    };
    to.iter_mut().zip(from).for_each(|(t, f)| *t += *f);
}
