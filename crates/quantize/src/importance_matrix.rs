//! The importance matrix: mean squares of the inputs of each weight, by the weight's name in the file.
//!
//! Files are llama.cpp's in GGUF: `general.type` is `imatrix`, and each weight NAME has two tensors in F32, `NAME.in_sum2`,
//! the sum of squares of each input, and `NAME.counts`, over how many rows; further keys say which texts it is of.

use std::collections::BTreeMap;
use std::path::Path;

use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Container, Dtype, format};

use crate::QuantizeError;
use crate::statistics::InputStatistics;

const TYPE_KEY: &str = "general.type";
const TYPE: &str = "imatrix";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Mean squares of inputs, by the weight's name in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// Rows that were summed.
    count: f32,
    sums: Vec<f32>,
}

impl ImportanceMatrix {
    /// Takes up what calibration found of the weight that the file calls `name`.
    pub fn insert(&mut self, name: &str, statistics: &InputStatistics) {
        let count = statistics.tokens() as f32;
        let sums = statistics.mean_squares().iter().map(|mean| mean * count).collect();
        self.entries.insert(name.to_string(), Entry { count, sums });
    }

    /// The mean square of each input of the weight that the file calls `name`.
    pub fn mean_squares(&self, name: &str) -> Option<Vec<f32>> {
        let Entry { count, sums } = self.entries.get(name)?;
        Some(sums.iter().map(|sum| sum / count).collect())
    }

    /// Names of the weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is no importance matrix, has several matrices under one name (experts), or holds values that are no mean squares.
    pub fn read(file: &Path) -> Result<ImportanceMatrix, QuantizeError> {
        let wrong = |problem: String| QuantizeError::Importance { file: file.to_path_buf(), problem };
        let container = Container::open(file)?;
        let kind = container.metadata().find::<&str>(TYPE_KEY)?;
        if kind != Some(TYPE) {
            let found = kind.map_or("missing".to_string(), |kind| format!("{kind:?}"));
            return Err(wrong(format!("{TYPE_KEY} is {found}; a file of llama.cpp's imatrix in GGUF says {TYPE:?}")));
        }
        let values = |name: &str| -> Result<Vec<f32>, QuantizeError> {
            let tensor = container.tensor(name)?;
            let mut values = vec![0.0; tensor.elements()];
            format(tensor.dtype).decode(values.len(), container.bytes(tensor), &mut values)?;
            Ok(values)
        };
        let mut entries = BTreeMap::new();
        for name in container.tensors().iter().filter_map(|t| t.name.strip_suffix(SUMS)) {
            let (sums, counts) = (values(&format!("{name}{SUMS}"))?, values(&format!("{name}{COUNTS}"))?);
            let [count] = counts[..] else {
                return Err(wrong(format!("{name} has {} matrices; experts are not supported", counts.len())));
            };
            if !(count > 0.0 && count.is_finite()) {
                return Err(wrong(format!("{name}{COUNTS} is {count}; at least one row must have been summed")));
            }
            if let Some(at) = sums.iter().position(|sum| !(sum.is_finite() && *sum >= 0.0)) {
                return Err(wrong(format!("{name}{SUMS} has {} at {at}, which is no sum of squares", sums[at])));
            }
            entries.insert(name.to_string(), Entry { count, sums });
        }
        if entries.is_empty() {
            return Err(wrong(format!("has no tensor NAME{SUMS}")));
        }
        Ok(ImportanceMatrix { entries })
    }

    /// Writes a file; `text` names what it was made of, in windows of `context` tokens.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, file: &Path, text: &str, context: usize) -> Result<(), QuantizeError> {
        let mut m = Metadata::new(file);
        let windows = self.entries.values().map(|e| e.count as usize / context.max(1)).max().unwrap_or(0);
        m.insert(TYPE_KEY, TYPE);
        m.insert("imatrix.datasets", vec![text.to_string()]);
        m.insert("imatrix.chunk_count", windows as u32);
        m.insert("imatrix.chunk_size", context as u32);
        let plan = |name: String, n: usize| TensorPlan { name, dtype: Dtype::F32, shape: vec![n] };
        let plans = self.entries.iter().flat_map(|(name, entry)| {
            [plan(format!("{name}{SUMS}"), entry.sums.len()), plan(format!("{name}{COUNTS}"), 1)]
        });
        let mut writer = Writer::create(file, &m, plans.collect())?;
        for Entry { count, sums } in self.entries.values() {
            for values in [&sums[..], &[*count]] {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                writer.write(&bytes)?;
            }
        }
        Ok(writer.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> ImportanceMatrix {
        let entry = |count: f32, sums: &[f32]| Entry { count, sums: sums.to_vec() };
        let entries = [("blk.0.attn_q.weight", entry(4.0, &[4.0, 0.0, 2.0])), ("output.weight", entry(8.0, &[16.0]))];
        ImportanceMatrix { entries: entries.into_iter().map(|(name, e)| (name.to_string(), e)).collect() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        matrix().write(&file, "text.txt", 4).unwrap();
        let read = ImportanceMatrix::read(&file).unwrap();
        assert_eq!(read, matrix());
        assert_eq!(read.mean_squares("blk.0.attn_q.weight"), Some(vec![1.0, 0.0, 0.5]));
        assert_eq!(read.mean_squares("blk.1.attn_q.weight"), None);
        let container = Container::open(&file).unwrap();
        assert_eq!(container.metadata().require::<&str>("general.type").unwrap(), "imatrix");
        assert_eq!(container.metadata().require::<u64>("imatrix.chunk_count").unwrap(), 2);
    }

    #[test]
    fn a_file_that_is_none_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        let write = |kind: Option<&str>, tensors: &[(&str, &[f32])]| {
            let mut m = Metadata::new(&file);
            kind.map(|kind| m.insert(TYPE_KEY, kind));
            let plan = |(name, x): &(&str, &[f32])| TensorPlan {
                name: name.to_string(),
                dtype: Dtype::F32,
                shape: vec![x.len()],
            };
            let mut writer = Writer::create(&file, &m, tensors.iter().map(plan).collect()).unwrap();
            tensors.iter().for_each(|(_, x)| {
                writer.write(&x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
            });
            writer.finish().unwrap();
            ImportanceMatrix::read(&file).unwrap_err().to_string()
        };
        let good: (&str, &[f32]) = ("w.counts", &[2.0]);
        for (kind, tensors, said) in [
            (None, vec![("w.in_sum2", &[1.0][..]), good], "general.type is missing"),
            (Some("model"), vec![("w.in_sum2", &[1.0][..]), good], "\"model\""),
            (Some("imatrix"), vec![("other", &[1.0][..])], "NAME.in_sum2"),
            (Some("imatrix"), vec![("w.in_sum2", &[1.0][..])], "w.counts"),
            (Some("imatrix"), vec![("w.in_sum2", &[1.0][..]), ("w.counts", &[0.0][..])], "w.counts is 0"),
            (Some("imatrix"), vec![("w.in_sum2", &[1.0, 2.0][..]), ("w.counts", &[1.0, 1.0][..])], "2 matrices"),
            (Some("imatrix"), vec![("w.in_sum2", &[1.0, f32::NAN][..]), good], "NaN at 1"),
            (Some("imatrix"), vec![("w.in_sum2", &[-1.0][..]), good], "-1 at 0"),
        ] {
            let why = write(kind, &tensors);
            assert!(why.contains(said) && why.contains("m.gguf"), "{why:?} should say {said:?}");
        }
    }
}
