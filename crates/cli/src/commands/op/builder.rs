//! An operator's inputs, checked against its documentation and put into a graph.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context, bail};
use memwall_formats::{Dtype, format};
use memwall_graph::{Dim, Executor, Graph, Memory, Shape, Value};
use memwall_kernels::gemm::Compute;

use super::Precision;
use super::attributes::Attributes;
use super::operator::{Argument, Form, Kind, Operator};
use super::run::Request;
use super::shapes::{Letters, documented};
use super::tensors::{Elements, Tensor, Tensors};

/// Weights of a layer stand under this name in the graph.
pub const LAYER: &str = "layer";

/// The graph being built, and what it will be fed.
pub struct Builder<'a> {
    /// The graph.
    pub g: Graph,
    /// The options.
    pub attributes: &'a Attributes,
    /// The form asked for, or the operator's first.
    pub form: Option<Form>,
    /// Precision of elements and products.
    pub precision: Precision,
    /// Threads.
    pub threads: usize,
    operator: &'a Operator,
    tensors: &'a Tensors,
    letters: Letters,
    feeds: Vec<(Value, Vec<u8>)>,
    trained: Vec<(String, Value)>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Builder<'a> {
    /// Checks the documented inputs: all that must be there are, each of its kind and shape.
    ///
    /// # Errors
    /// Names the file, the tensor, and what would be right.
    pub fn new(operator: &'a Operator, request: &Request<'a>) -> anyhow::Result<Builder<'a>> {
        let Request { tensors, attributes, precision, threads, .. } = *request;
        let mut g = Graph::new(precision.dtype());
        g.set_compute(if precision == Precision::Bf16 { Compute::Bf16 } else { Compute::F32 });
        let form = request.form.or(operator.forms.first().copied());
        let (letters, used) = (Letters::default(), RefCell::default());
        let (feeds, trained) = (Vec::new(), Vec::new());
        let mut b =
            Builder { g, attributes, form, precision, threads, operator, tensors, letters, feeds, trained, used };
        for argument in operator.inputs {
            match tensors.by_name.get(argument.name) {
                Some(tensor) => b.check(argument, tensor)?,
                None if argument.optional => {}
                None => bail!(
                    "{}: input {} is missing: {} {}, {}",
                    tensors.file.display(),
                    argument.name,
                    argument.kind.name(),
                    documented(argument.shape),
                    argument.about
                ),
            }
        }
        Ok(b)
    }

    fn check(&mut self, argument: &Argument, tensor: &Tensor) -> anyhow::Result<()> {
        let fits = match argument.kind {
            Kind::Real => matches!(tensor.elements, Elements::F32(_) | Elements::F64(_)),
            Kind::Integer => matches!(tensor.elements, Elements::I32(_)),
            Kind::Bytes => matches!(tensor.elements, Elements::U8(_)),
            Kind::Mask => matches!(tensor.elements, Elements::I32(_) | Elements::U8(_)),
        };
        if !fits {
            let (name, found, want) = (argument.name, tensor.type_name(), argument.kind.name());
            bail!("{}: input {name} is {found}; {want} elements are needed", self.tensors.file.display());
        }
        self.letters
            .fit(argument.shape, &tensor.shape)
            .map_err(|what| anyhow::anyhow!("{}: input {} {what}", self.tensors.file.display(), argument.name))?;
        self.used.borrow_mut().insert(argument.name.into());
        Ok(())
    }

    /// The size of a letter of the documented shapes; 0 if no input has it.
    pub fn size(&self, letter: char) -> usize {
        self.letters.get(letter).unwrap_or(0)
    }

    /// A documented input, if it was given.
    pub fn given(&self, name: &str) -> Option<&'a Tensor> {
        self.tensors.by_name.get(name).filter(|_| self.used.borrow().contains(name))
    }

    /// A documented input that must be there.
    ///
    /// # Errors
    /// If it is not, although the documentation calls it optional.
    pub fn needed(&self, name: &str) -> anyhow::Result<&'a Tensor> {
        self.given(name).with_context(|| format!("{}: input {name} is missing", self.tensors.file.display()))
    }

    /// The integers of an input, if it was given.
    pub fn integers(&self, name: &str) -> Option<&'a [i32]> {
        match &self.given(name)?.elements {
            Elements::I32(x) => Some(x),
            _ => None,
        }
    }

    /// Refuses elements of a real input that are not as `wanted` says.
    ///
    /// # Errors
    /// Names the input and its first such element.
    pub fn check_elements(&self, name: &str, wanted: &str, fits: impl Fn(f64) -> bool) -> anyhow::Result<()> {
        let elements = self.given(name).and_then(Tensor::reals).unwrap_or_default();
        match elements.iter().position(|&x| !fits(x)) {
            Some(i) => bail!("{name}: element {i} is {}: it must be {wanted}", elements[i]),
            None => Ok(()),
        }
    }

    /// A real input in the precision asked for; gradients are made of it.
    ///
    /// # Errors
    /// If it is missing, or the graph refuses it.
    pub fn real(&mut self, name: &str) -> anyhow::Result<Value> {
        let shape = self.needed(name)?.shape.clone();
        self.reshaped(name, &shape)
    }

    /// A real input, if it was given.
    ///
    /// # Errors
    /// As [`Builder::real`].
    pub fn maybe_real(&mut self, name: &str) -> anyhow::Result<Option<Value>> {
        self.given(name).map(|_| self.real(name)).transpose()
    }

    /// A real input under another shape of as many elements; its gradient has the input's own.
    ///
    /// # Errors
    /// As [`Builder::real`].
    pub fn reshaped(&mut self, name: &str, shape: &[usize]) -> anyhow::Result<Value> {
        let value = self.constant(name, shape)?;
        self.trained.push((name.into(), value));
        Ok(value)
    }

    /// A real input of which no gradient is made.
    ///
    /// # Errors
    /// As [`Builder::real`].
    pub fn constant(&mut self, name: &str, shape: &[usize]) -> anyhow::Result<Value> {
        let data = self.elements(self.needed(name)?)?;
        self.feed(name, fixed(shape)?, self.g.elem(), data)
    }

    /// An input of the graph that gets these bytes.
    ///
    /// # Errors
    /// If the graph refuses it.
    pub fn feed(&mut self, name: &str, shape: Shape, dtype: Dtype, data: Vec<u8>) -> anyhow::Result<Value> {
        let value = self.g.input(name, shape, dtype)?;
        self.feeds.push((value, data));
        Ok(value)
    }

    /// Gives an input that the graph has already its integers.
    pub fn feed_value(&mut self, value: Value, integers: &[i32]) {
        self.feeds.push((value, bytemuck::cast_slice(integers).to_vec()));
    }

    /// An input of integers.
    ///
    /// # Errors
    /// If the graph refuses it.
    pub fn feed_integers(&mut self, name: &str, shape: &[usize], integers: &[i32]) -> anyhow::Result<Value> {
        self.feed(name, fixed(shape)?, Dtype::I32, bytemuck::cast_slice(integers).to_vec())
    }

    /// A real input stored in `dtype` first; no gradient is made of it unless that changes nothing.
    ///
    /// # Errors
    /// As [`Builder::real`]; if the format does not hold it.
    pub fn stored(&mut self, name: &str, shape: &[usize], dtype: Option<Dtype>) -> anyhow::Result<Value> {
        let Some(dtype) = dtype.filter(|&d| d != self.g.elem()) else { return self.reshaped(name, shape) };
        let values = self.needed(name)?.reals().with_context(|| format!("input {name} is not real"))?;
        let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
        let bytes =
            encode(dtype, shape.last().copied().unwrap_or(1), &values).with_context(|| format!("input {name}"))?;
        self.feed(name, fixed(shape)?, dtype, bytes)
    }

    /// A tensor's elements as the graph stores them.
    pub fn elements(&self, tensor: &Tensor) -> anyhow::Result<Vec<u8>> {
        let x = tensor.reals().with_context(|| format!("{} is not real", tensor.type_name()))?;
        Ok(match self.precision {
            Precision::F64 => bytemuck::cast_slice(&x).to_vec(),
            Precision::F32 => bytemuck::cast_slice(&x.iter().map(|&x| x as f32).collect::<Vec<_>>()).to_vec(),
            Precision::Bf16 => {
                let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
                let mut rounded = vec![0.0_f32; x.len()];
                let bf16 = format(Dtype::BF16);
                let cols = x.len().max(1);
                bf16.decode(cols, &encode(Dtype::BF16, cols, &x)?, &mut rounded)?;
                bytemuck::cast_slice(&rounded).to_vec()
            }
        })
    }

    /// What gradients can be made of: name and value.
    pub fn trained(&self) -> &[(String, Value)] {
        &self.trained
    }

    /// The shape of an input or weight in the file.
    pub fn file_shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.by_name.get(name).map(|t| t.shape.as_slice())
    }

    /// Fills the weights of a layer from the tensors of their names.
    ///
    /// # Errors
    /// Names the weight that is missing or has another shape.
    pub fn bind_weights(&mut self) -> anyhow::Result<Memory> {
        let mut memory = Memory::new();
        let file = self.tensors.file.display();
        let weights: Vec<Value> = memwall_graph::weights(&self.g);
        for w in weights {
            let info = self.g.info(w).clone();
            let name = info.name.strip_prefix(LAYER).and_then(|n| n.strip_prefix('.')).unwrap_or(&info.name);
            let want: Vec<usize> = info.ty.shape.sizes(&[]).axes().to_vec();
            let Some(tensor) = self.tensors.by_name.get(name) else {
                bail!("{file}: weight {name} is missing: real {want:?}");
            };
            if tensor.shape != want {
                bail!("{file}: weight {name} has shape {:?}; {want:?} is needed", tensor.shape);
            }
            let bytes = self.elements(tensor).with_context(|| format!("{file}: weight {name}"))?;
            memory.set(&info.name, info.ty.dtype, &bytes)?;
            self.used.borrow_mut().insert(name.into());
            self.trained.push((name.into(), w));
        }
        Ok(memory)
    }

    /// A gradient that the file gives for output `name`.
    ///
    /// # Errors
    /// If it has another shape, or is not real.
    pub fn seed(&self, name: &str, shape: &[usize]) -> anyhow::Result<Option<Vec<u8>>> {
        let name = format!("d{name}");
        let Some(tensor) = self.tensors.by_name.get(&name) else { return Ok(None) };
        let file = self.tensors.file.display();
        if tensor.shape != shape {
            bail!("{file}: {name} has shape {:?}; {shape:?} is needed", tensor.shape);
        }
        Ok(Some(self.elements(tensor).with_context(|| format!("{file}: {name}"))?))
    }

    /// Refuses tensors that are neither inputs, weights nor gradients of outputs.
    ///
    /// # Errors
    /// Names the tensor, and the name that is most like it.
    pub fn refuse_strangers(&self) -> anyhow::Result<()> {
        let mut known: Vec<String> = self.operator.inputs.iter().map(|a| a.name.to_string()).collect();
        known.extend(self.operator.outputs.iter().filter(|o| o.kind == Kind::Real).map(|o| format!("d{}", o.name)));
        known.extend(self.trained.iter().map(|(name, _)| name.clone()).filter(|n| !n.is_empty()));
        for name in self.tensors.by_name.keys() {
            if !known.contains(name) {
                let near = super::nearest(name, known.iter().map(String::as_str));
                bail!(
                    "{}: {} has no input {name}; did you mean {near}?",
                    self.tensors.file.display(),
                    self.operator.name
                );
            }
        }
        Ok(())
    }

    /// Writes the inputs into their places.
    pub fn write(&self, executor: &mut Executor) {
        for (value, data) in &self.feeds {
            if executor.reads(*value) {
                executor.input::<u8>(*value).copy_from_slice(data);
            }
        }
    }
}

/// Values in a format, in rows of `cols`.
///
/// # Errors
/// If the format does not hold them.
pub fn encode(dtype: Dtype, cols: usize, values: &[f32]) -> anyhow::Result<Vec<u8>> {
    let whole = || format!("rows of {cols} values are no whole number of {dtype} blocks of {}", dtype.block_len());
    let row = dtype.row_bytes(cols).with_context(whole)?;
    let mut bytes = vec![0; values.len() / cols.max(1) * row];
    format(dtype).encode(cols, values, &mut bytes)?;
    Ok(bytes)
}

/// A shape of fixed sizes.
///
/// # Errors
/// If it has more axes than a graph's tensor.
pub fn fixed(shape: &[usize]) -> anyhow::Result<Shape> {
    if shape.len() > memwall_graph::MAX_RANK {
        bail!("{} axes; at most {} are supported", shape.len(), memwall_graph::MAX_RANK);
    }
    Ok(Shape::new(&shape.iter().map(|&n| Dim::fixed(n)).collect::<Vec<_>>()))
}
