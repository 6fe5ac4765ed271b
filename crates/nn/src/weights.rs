//! In which format each weight matrix is stored, by name.

use std::collections::HashMap;
use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::ops::linear::Linear;
use memwall_graph::{Graph, GraphError, Value};

use crate::quantization::{QuantizationConfig, Rounding};

/// Formats of weight matrices; those not named have the graph's element type.
#[derive(Clone, Debug, Default)]
pub struct WeightTypes {
    types: Arc<HashMap<String, Dtype>>,
    /// How linear layers round, in a block of a model that does.
    rounding: Option<Rounding>,
}

impl WeightTypes {
    /// All in the graph's element type.
    pub fn new() -> WeightTypes {
        WeightTypes::default()
    }

    /// Sets the format of one weight.
    pub fn set(&mut self, name: impl Into<String>, dtype: Dtype) {
        Arc::make_mut(&mut self.types).insert(name.into(), dtype);
    }

    /// The format of the weight `name`, in a graph of elements `elem`.
    pub fn of(&self, name: &str, elem: Dtype) -> Dtype {
        match self.types.get(name) {
            Some(&dtype) if elem == Dtype::F32 => dtype,
            _ => elem,
        }
    }

    /// The same for a block whose linear layers round; norms of a model whose ε is `eps`.
    pub(crate) fn rounding(&self, config: &QuantizationConfig, eps: f64) -> WeightTypes {
        WeightTypes { types: self.types.clone(), rounding: Some(Rounding::new(config.clone(), eps)) }
    }

    /// The norm `name` of what the last product of a layer reads, in a model that has one there.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub(crate) fn sub_norm(&self, g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
        match &self.rounding {
            Some(rounding) => rounding.sub_norm(g, name, x),
            None => Ok(x),
        }
    }

    /// x Wᵀ of the linear layer `name`.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub(crate) fn product(&self, g: &mut Graph, name: &str, x: Value, w: Value) -> Result<Value, GraphError> {
        match &self.rounding {
            Some(rounding) => rounding.product(g, name, x, w),
            None => g.push1(Linear { compute: g.compute() }, &[x, w]),
        }
    }
}

impl FromIterator<(String, Dtype)> for WeightTypes {
    fn from_iter<I: IntoIterator<Item = (String, Dtype)>>(types: I) -> WeightTypes {
        WeightTypes { types: Arc::new(types.into_iter().collect()), rounding: None }
    }
}
