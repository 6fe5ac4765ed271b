//! How weights change: a list of edits for each, in order.

use std::collections::BTreeMap;

use memwall_kernels::Pool;
use memwall_kernels::hadamard::Hadamard;
use memwall_nn::ModelConfig;

/// A change of one weight [rows, columns]; a vector is one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Row i times factor i.
    Rows(Vec<f32>),
    /// Column j times factor j.
    Columns(Vec<f32>),
    /// Every row `w` becomes `w R`; rows are cut into pieces as wide as the rotation.
    RotateColumns(Hadamard),
    /// Every column `w` becomes `w R`, read downwards; columns are cut into pieces as long as the rotation is wide.
    RotateRows(Hadamard),
    /// All 1.
    Ones,
}

/// A model of the same function.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// Its configuration.
    pub config: ModelConfig,
    edits: BTreeMap<String, Vec<Edit>>,
    /// Weights that it has and the original has not, each with the one that it begins as.
    added: BTreeMap<String, String>,
}

impl Rewrite {
    /// Nothing changed yet.
    pub fn of(config: &ModelConfig) -> Rewrite {
        Rewrite { config: config.clone(), edits: BTreeMap::new(), added: BTreeMap::new() }
    }

    /// One more edit of `weight`, after those that it has.
    pub fn edit(&mut self, weight: &str, edit: Edit) {
        self.edits.entry(weight.to_string()).or_default().push(edit);
    }

    /// A new weight that begins as `from` was before any edit.
    pub fn add(&mut self, weight: &str, from: &str) {
        self.added.insert(weight.to_string(), from.to_string());
    }

    /// New weights and those that they begin as.
    pub fn added(&self) -> impl Iterator<Item = (&str, &str)> {
        self.added.iter().map(|(weight, from)| (weight.as_str(), from.as_str()))
    }

    /// Whether `weight` changes.
    pub fn changes(&self, weight: &str) -> bool {
        self.edits.contains_key(weight)
    }

    /// Makes the edits of `weight`, in f64, and rounds once.
    pub fn apply(&self, weight: &str, shape: &[usize], values: &mut [f32], pool: &Pool) {
        let Some(edits) = self.edits.get(weight) else { return };
        let columns = if shape.len() > 1 { shape[shape.len() - 1] } else { 1 };
        let mut exact: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        for edit in edits {
            match edit {
                Edit::Rows(factors) => {
                    for (row, factor) in exact.chunks_mut(columns).zip(factors) {
                        row.iter_mut().for_each(|x| *x *= f64::from(*factor));
                    }
                }
                Edit::Columns(factors) => {
                    for row in exact.chunks_mut(columns) {
                        row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= f64::from(*factor));
                    }
                }
                Edit::RotateColumns(rotation) => rotation.rotate(pool, &mut exact),
                Edit::RotateRows(rotation) => {
                    let rows = exact.len() / columns;
                    let mut turned = vec![0.0; exact.len()];
                    memwall_kernels::transpose::transpose(pool, 1, rows, columns, &exact, &mut turned);
                    rotation.rotate(pool, &mut turned);
                    memwall_kernels::transpose::transpose(pool, 1, columns, rows, &turned, &mut exact);
                }
                Edit::Ones => exact.fill(1.0),
            }
        }
        values.iter_mut().zip(&exact).for_each(|(x, exact)| *x = *exact as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memwall_nn::ModelConfig;

    #[test]
    fn edits_follow_one_another() {
        let config: ModelConfig = ModelConfig { tie_embeddings: true, ..ModelConfig::new(1, 2, 1, Vec::new()) };
        let mut rewrite = Rewrite::of(&config);
        rewrite.edit("w", Edit::Rows(vec![2.0, 3.0]));
        rewrite.edit("w", Edit::Columns(vec![1.0, 10.0]));
        let pool = Pool::new(1);
        let mut w = [1.0, 2.0, 3.0, 4.0];
        rewrite.apply("w", &[2, 2], &mut w, &pool);
        assert_eq!(w, [2.0, 40.0, 9.0, 120.0]);
        let rotation = Hadamard::new(2, 2, 3).unwrap();
        rewrite.edit("r", Edit::RotateRows(rotation.clone()));
        rewrite.edit("c", Edit::RotateColumns(rotation));
        let (mut rows, mut columns) = ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]);
        rewrite.apply("r", &[2, 2], &mut rows, &pool);
        rewrite.apply("c", &[2, 2], &mut columns, &pool);
        assert_eq!([rows[0], rows[2], rows[1], rows[3]], columns, "rows of a matrix are columns of its transpose");
        let mut bias = [1.0, 5.0];
        rewrite.apply("r", &[2], &mut bias, &pool);
        assert!((bias[0].powi(2) + bias[1].powi(2) - 26.0).abs() < 1e-4 && bias[0].abs() != 1.0);
        assert!(rewrite.changes("w") && !rewrite.changes("x"));
    }
}
