//! In which format each weight matrix is stored, by name.

use std::collections::HashMap;

use memwall_formats::Dtype;

/// Formats of weight matrices; those not named have the graph's element type.
#[derive(Clone, Debug, Default)]
pub struct WeightTypes {
    types: HashMap<String, Dtype>,
}

impl WeightTypes {
    /// All in the graph's element type.
    pub fn new() -> WeightTypes {
        WeightTypes::default()
    }

    /// Sets the format of one weight.
    pub fn set(&mut self, name: impl Into<String>, dtype: Dtype) {
        self.types.insert(name.into(), dtype);
    }

    /// The format of the weight `name`, in a graph of elements `elem`.
    pub fn of(&self, name: &str, elem: Dtype) -> Dtype {
        match self.types.get(name) {
            Some(&dtype) if elem == Dtype::F32 => dtype,
            _ => elem,
        }
    }
}

impl FromIterator<(String, Dtype)> for WeightTypes {
    fn from_iter<I: IntoIterator<Item = (String, Dtype)>>(types: I) -> WeightTypes {
        WeightTypes { types: types.into_iter().collect() }
    }
}
