//! The graph: operators with shapes, formats and names. Building one allocates no tensor memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_kernels::gemm::Compute;

use crate::GraphError;
use crate::op::{Alias, Op};
use crate::shape::{Dim, RunDim, Shape, Type};

/// A tensor of a graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Value(pub(crate) u32);

impl Value {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A parameter of the model: lives in a tier, read-only unless it is trained.
    Weight,
    /// Kept from run to run: caches, recurrent states, optimizer moments.
    State,
    /// Written by the caller before each run.
    Input,
    /// A small tensor known when the graph is built.
    Constant(Arc<[u8]>),
    /// Output `output` of node `node`.
    Node {
        /// Index of the node.
        node: usize,
        /// Which of its outputs.
        output: usize,
    },
    /// A pass has dropped the node that made it.
    Nowhere,
}

/// A value's name, type and source.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// Unique for weights, states and inputs; for others, the operator's.
    pub name: Arc<str>,
    /// Shape and element type.
    pub ty: Type,
    /// Where it comes from.
    pub source: Source,
}

/// Which part of a step a node belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Phase {
    /// Built by the model.
    Forward,
    /// A forward node done again for the backward pass.
    Recompute,
    /// Built by differentiation, or after it.
    Backward,
}

/// A group of forward nodes (a layer) that the planner keeps or recomputes as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Segment(pub u32);

/// An operator with its inputs and outputs.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operator.
    pub op: Arc<dyn Op>,
    /// What it reads.
    pub inputs: Vec<Value>,
    /// What it makes.
    pub outputs: Vec<Value>,
    /// The layer that it is in, e.g. `layers.3.attn`.
    pub scope: Arc<str>,
    /// The segment that it is in.
    pub segment: Option<Segment>,
    /// Which part of a step it belongs to.
    pub phase: Phase,
}

/// A run-time dimension's name and planned maximum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDimInfo {
    /// Its name, e.g. `rows`.
    pub name: String,
    /// The largest size that a run may ask for.
    pub max: usize,
}

/// Operators in the order in which they run, and the values between them.
#[derive(Clone)]
pub struct Graph {
    elem: Dtype,
    compute: Compute,
    values: Vec<ValueInfo>,
    nodes: Vec<Node>,
    run_dims: Vec<RunDimInfo>,
    outputs: Vec<(Arc<str>, Value)>,
    names: HashMap<Arc<str>, Value>,
    /// The newest version of each written weight or state.
    versions: HashMap<Value, Value>,
    scope: Vec<String>,
    segment: Option<Segment>,
    segments: u32,
    phase: Phase,
}

impl Graph {
    /// An empty graph whose activations have elements of type `elem`: F32, or F64 to check gradients.
    pub fn new(elem: Dtype) -> Graph {
        assert!(matches!(elem, Dtype::F32 | Dtype::F64), "activations are F32 or F64, not {elem}");
        Graph {
            elem,
            compute: Compute::F32,
            values: Vec::new(),
            nodes: Vec::new(),
            run_dims: Vec::new(),
            outputs: Vec::new(),
            names: HashMap::new(),
            versions: HashMap::new(),
            scope: Vec::new(),
            segment: None,
            segments: 0,
            phase: Phase::Forward,
        }
    }

    /// The element type of activations.
    pub fn elem(&self) -> Dtype {
        self.elem
    }

    /// The precision of the operands of matrix products added from now on: bf16 for mixed-precision training.
    pub fn set_compute(&mut self, compute: Compute) {
        self.compute = compute;
    }

    /// The precision of the operands of matrix products.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// A run-time dimension of at most `max`; the same name gives the same dimension.
    ///
    /// # Errors
    /// If the name stands for another maximum already.
    pub fn run_dim(&mut self, name: &str, max: usize) -> Result<RunDim, GraphError> {
        if let Some(i) = self.run_dims.iter().position(|d| d.name == name) {
            let was = self.run_dims[i].max;
            if was != max {
                return Err(named(name, format!("planned for at most {max}, but for {was} before")));
            }
            return Ok(RunDim(i as u16));
        }
        self.run_dims.push(RunDimInfo { name: name.into(), max });
        Ok(RunDim(self.run_dims.len() as u16 - 1))
    }

    /// The run-time dimensions, in the order of their first use.
    pub fn run_dims(&self) -> &[RunDimInfo] {
        &self.run_dims
    }

    /// The largest sizes of the run-time dimensions.
    pub fn max_sizes(&self) -> Vec<usize> {
        self.run_dims.iter().map(|d| d.max).collect()
    }

    /// A parameter; the same name gives the same value (tied weights).
    ///
    /// # Errors
    /// If the name stands for another type already, or rows are no whole number of blocks.
    pub fn weight(&mut self, name: &str, shape: impl Into<Shape>, dtype: Dtype) -> Result<Value, GraphError> {
        self.named(name, Type::new(shape, dtype), Source::Weight)
    }

    /// A tensor kept from run to run, zero at first.
    ///
    /// # Errors
    /// As [`Graph::weight`].
    pub fn state(&mut self, name: &str, shape: impl Into<Shape>, dtype: Dtype) -> Result<Value, GraphError> {
        self.named(name, Type::new(shape, dtype), Source::State)
    }

    /// A tensor that the caller writes before each run; the same name gives the same value.
    ///
    /// # Errors
    /// As [`Graph::weight`].
    pub fn input(&mut self, name: &str, shape: impl Into<Shape>, dtype: Dtype) -> Result<Value, GraphError> {
        self.named(name, Type::new(shape, dtype), Source::Input)
    }

    /// A small tensor of the graph's element type.
    ///
    /// # Errors
    /// If `data` does not fill the shape.
    pub fn constant(&mut self, name: &str, shape: impl Into<Shape>, data: &[f64]) -> Result<Value, GraphError> {
        let ty = Type::new(shape, self.elem);
        if ty.shape.elements().and_then(Dim::known) != Some(data.len()) {
            return Err(named(name, format!("{} values do not fill {}", data.len(), ty.shape)));
        }
        let bytes: Vec<u8> = match self.elem {
            Dtype::F64 => data.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            _ => data.iter().flat_map(|x| (*x as f32).to_ne_bytes()).collect(),
        };
        Ok(self.add_value(name.into(), ty, Source::Constant(bytes.into())))
    }

    fn named(&mut self, name: &str, ty: Type, source: Source) -> Result<Value, GraphError> {
        if let Some(width) = ty.shape.width()
            && ty.dtype.row_bytes(width).is_none()
        {
            let block = ty.dtype.block_len();
            return Err(named(
                name,
                format!("rows of {width} values are no whole number of {} blocks of {block}", ty.dtype),
            ));
        }
        if let Some(&value) = self.names.get(name) {
            let was = &self.values[value.index()];
            let same_source = std::mem::discriminant(&was.source) == std::mem::discriminant(&source);
            if was.ty != ty || !same_source {
                return Err(named(name, format!("is {} here, but {} before", ty, was.ty)));
            }
            return Ok(value);
        }
        let name: Arc<str> = name.into();
        let value = self.add_value(name.clone(), ty, source);
        self.names.insert(name, value);
        Ok(value)
    }

    fn add_value(&mut self, name: Arc<str>, ty: Type, source: Source) -> Value {
        self.values.push(ValueInfo { name, ty, source });
        Value(self.values.len() as u32 - 1)
    }

    /// The weight, state or input of that name.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.names.get(name).copied()
    }

    /// Adds an operator; returns its outputs.
    ///
    /// # Errors
    /// If the operator refuses the types of its inputs, or one of them is an old version of a state.
    pub fn push(&mut self, op: impl Op, inputs: &[Value]) -> Result<Vec<Value>, GraphError> {
        self.push_node(Arc::new(op), inputs)
    }

    /// Adds an operator with one output.
    ///
    /// # Errors
    /// As [`Graph::push`].
    ///
    /// # Panics
    /// If the operator has another number of outputs.
    pub fn push1(&mut self, op: impl Op, inputs: &[Value]) -> Result<Value, GraphError> {
        let outputs = self.push(op, inputs)?;
        assert_eq!(outputs.len(), 1, "an operator with one output");
        Ok(outputs[0])
    }

    pub(crate) fn push_node(&mut self, op: Arc<dyn Op>, inputs: &[Value]) -> Result<Vec<Value>, GraphError> {
        let name = op.name();
        let types: Vec<&Type> = inputs.iter().map(|v| &self.values[v.index()].ty).collect();
        let outputs = op.infer(&types).map_err(|what| self.refused(name, what))?;
        for &input in inputs {
            let root = self.root(input);
            if self.versions.get(&root).is_some_and(|&newest| self.version(input) != newest) {
                let state = self.values[root.index()].name.to_string();
                return Err(GraphError::Stale { op: name, scope: self.scope_name(), state });
            }
        }
        let node = self.nodes.len();
        let values: Vec<Value> = outputs
            .into_iter()
            .enumerate()
            .map(|(output, ty)| self.add_value(name.into(), ty, Source::Node { node, output }))
            .collect();
        self.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            outputs: values.clone(),
            scope: self.scope_name().into(),
            segment: self.segment,
            phase: self.phase,
        });
        for (output, &value) in values.iter().enumerate() {
            if let Some(Alias::Write { input }) = self.nodes[node].op.alias(output) {
                let root = self.root(inputs[input]);
                if matches!(self.values[root.index()].source, Source::Node { .. } | Source::Constant(_)) {
                    let what = format!(
                        "writes {} in place, which is no weight, state or input",
                        self.values[root.index()].name
                    );
                    return Err(self.refused(name, what));
                }
                self.versions.insert(root, value);
            }
        }
        Ok(values)
    }

    /// The weight, state, input or first value whose memory `value` shares.
    pub fn root(&self, mut value: Value) -> Value {
        while let Source::Node { node, output } = self.values[value.index()].source {
            match self.nodes[node].op.alias(output) {
                Some(Alias::View { input, .. } | Alias::Write { input }) => value = self.nodes[node].inputs[input],
                None => break,
            }
        }
        value
    }

    /// The write (or first value) that `value` is a view of.
    fn version(&self, mut value: Value) -> Value {
        while let Source::Node { node, output } = self.values[value.index()].source {
            match self.nodes[node].op.alias(output) {
                Some(Alias::View { input, .. }) => value = self.nodes[node].inputs[input],
                Some(Alias::Write { .. }) | None => break,
            }
        }
        value
    }

    /// The newest version of a weight or state.
    pub fn newest(&self, root: Value) -> Value {
        self.versions.get(&root).copied().unwrap_or(root)
    }

    /// Keeps `value` until the end of a run, to be read by that name.
    pub fn output(&mut self, name: &str, value: Value) {
        self.outputs.push((name.into(), value));
    }

    /// The outputs by name.
    pub fn outputs(&self) -> &[(Arc<str>, Value)] {
        &self.outputs
    }

    /// Builds a layer: names in errors and plans start with `name` inside.
    ///
    /// # Errors
    /// What `build` returns.
    pub fn scope<R>(
        &mut self,
        name: impl fmt::Display,
        build: impl FnOnce(&mut Graph) -> Result<R, GraphError>,
    ) -> Result<R, GraphError> {
        self.scope.push(name.to_string());
        let result = build(self);
        self.scope.pop();
        result
    }

    /// Builds a segment: what the planner keeps or recomputes as one.
    ///
    /// # Errors
    /// What `build` returns.
    pub fn segment<R>(&mut self, build: impl FnOnce(&mut Graph) -> Result<R, GraphError>) -> Result<R, GraphError> {
        let outer = self.segment.replace(Segment(self.segments));
        self.segments += 1;
        let result = build(self);
        self.segment = outer;
        result
    }

    /// How many segments have been built.
    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// The name of the layer being built.
    pub fn scope_name(&self) -> String {
        if self.scope.is_empty() { "the graph".into() } else { self.scope.join(".") }
    }

    /// A refusal of operator `op` in the layer being built.
    pub fn refused(&self, op: &'static str, what: impl Into<String>) -> GraphError {
        GraphError::Operator { op, scope: self.scope_name(), what: what.into() }
    }

    /// A missing gradient of operator `op` in the layer being built.
    pub fn no_gradient(&self, op: &'static str, why: impl Into<String>) -> GraphError {
        GraphError::NoGradient { op, scope: self.scope_name(), why: why.into() }
    }

    /// The nodes, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = (Value, &ValueInfo)> {
        self.values.iter().enumerate().map(|(i, info)| (Value(i as u32), info))
    }

    /// A value's name, type and source.
    pub fn info(&self, value: Value) -> &ValueInfo {
        &self.values[value.index()]
    }

    /// A value's type.
    pub fn ty(&self, value: Value) -> &Type {
        &self.values[value.index()].ty
    }

    /// A value's shape.
    pub fn shape(&self, value: Value) -> &Shape {
        &self.values[value.index()].ty.shape
    }

    pub(crate) fn value_count(&self) -> usize {
        self.values.len()
    }

    /// Builds in the place of `like`: in its layer and segment, as part of `phase`.
    pub(crate) fn as_part_of<R>(&mut self, like: &Node, phase: Phase, build: impl FnOnce(&mut Graph) -> R) -> R {
        let scope = std::mem::replace(&mut self.scope, vec![like.scope.to_string()]);
        let segment = std::mem::replace(&mut self.segment, like.segment);
        let was = std::mem::replace(&mut self.phase, phase);
        let result = build(self);
        (self.scope, self.segment, self.phase) = (scope, segment, was);
        result
    }

    /// All that comes now belongs to the backward pass.
    pub(crate) fn enter_backward(&mut self) {
        self.phase = Phase::Backward;
    }

    /// A graph with the same values and names and no nodes: what passes rebuild into.
    pub(crate) fn with_nodes(&self, nodes: Vec<Node>) -> Graph {
        let mut g = self.clone();
        g.nodes = nodes;
        for info in &mut g.values {
            if matches!(info.source, Source::Node { .. }) {
                info.source = Source::Nowhere;
            }
        }
        for (i, node) in g.nodes.iter().enumerate() {
            for (output, v) in node.outputs.iter().enumerate() {
                g.values[v.index()].source = Source::Node { node: i, output };
            }
        }
        g
    }

    pub(crate) fn copy_value(&mut self, of: Value) -> Value {
        let info = self.values[of.index()].clone();
        self.values.push(info);
        Value(self.values.len() as u32 - 1)
    }
}

fn named(name: &str, what: String) -> GraphError {
    GraphError::Name { name: name.into(), what }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            write!(f, "{i:4} {:30} {}(", &*node.scope, node.op.name())?;
            for (k, v) in node.inputs.iter().enumerate() {
                write!(f, "{}{}: {}", if k > 0 { ", " } else { "" }, v.0, self.ty(*v))?;
            }
            write!(f, ") ->")?;
            for v in &node.outputs {
                write!(f, " {}: {}", v.0, self.ty(*v))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
