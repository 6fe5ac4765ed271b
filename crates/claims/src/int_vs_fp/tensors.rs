//! Tensors of real models: every matrix, and what it reads on a text, in the eight formats, as they are and rotated.

use memwall_formats::format;
use memwall_infer::Model;
use memwall_kernels::Pool;
use memwall_kernels::hadamard::Hadamard;
use memwall_quantize::{Calibration, CalibrationText, Collect};
use memwall_store::Budget;
use memwall_tokenizer::Tokenizer;

use super::stored::{Kind, MX_BLOCK};
use crate::{Error, Run};

/// Integers and floats that compete.
const PAIRS: [(Kind, Kind); 4] = [
    (Kind::MxInt(8), Kind::MxFp8),
    (Kind::MxInt(6), Kind::MxFp6),
    (Kind::MxInt(4), Kind::MxFp4),
    (Kind::NvInt4, Kind::NvFp4),
];
pub(super) const EIGHT: usize = 0;
pub(super) const FOUR: usize = 2;
pub(super) const NV_FOUR: usize = 3;

/// dB of one tensor: of each pair, as it is and rotated.
struct Tensor {
    activations: bool,
    db: [[[f64; 2]; 2]; PAIRS.len()],
}

/// All tensors of some models.
pub(super) struct Tensors {
    all: Vec<Tensor>,
}

/// What is read of a model.
pub(super) struct Sample<'a> {
    pub(super) model: &'a Model,
    pub(super) text: &'a str,
    /// Windows, their tokens, and the token at which they begin.
    pub(super) windows: usize,
    pub(super) context: usize,
    pub(super) from: usize,
}

impl Tensors {
    pub(super) fn new() -> Tensors {
        Tensors { all: Vec::new() }
    }

    /// Adds the matrices of a model whose rows have whole blocks, and what they read.
    pub(super) fn add(&mut self, run: &Run, sample: &Sample<'_>, seed: u64) -> Result<(), Error> {
        let Sample { model, context, .. } = *sample;
        let container = model.container();
        for (name, shape) in model.checkpoint().weights() {
            let (Some(tensor), &[_, width]) = (model.checkpoint().tensors.get(&name), &shape[..]) else { continue };
            if !width.is_multiple_of(MX_BLOCK) {
                continue;
            }
            let mut values = vec![0.0; tensor.elements()];
            format(tensor.dtype).decode(width, container.bytes(tensor), &mut values).map_err(Error::experiment)?;
            self.tensor(values, width, false, seed)?;
        }
        let tokenizer = Tokenizer::from_container(container).map_err(Error::experiment)?;
        let tokens = tokenizer.encode(sample.text, false, false).map_err(Error::experiment)?;
        let first = sample.from % (tokens.len().saturating_sub(sample.windows * context) + 1);
        let tokens = &tokens[first..(first + sample.windows * context).min(tokens.len())];
        let text = CalibrationText { tokens, context, bos: None };
        let budget: &Budget = run.budget();
        let mut calibration =
            Calibration::new(model, text, Collect::Squares, run.threads(), budget).map_err(Error::experiment)?;
        loop {
            let mut read: Vec<(String, Vec<f32>)> = Vec::new();
            let visit = |weights: &[String], x: &[f32]| match read.iter_mut().find(|(first, _)| *first == weights[0]) {
                Some((_, all)) => all.extend_from_slice(x),
                None => read.push((weights[0].clone(), x.to_vec())),
            };
            if !calibration.visit_block(visit).map_err(Error::experiment)? {
                return Ok(());
            }
            let rows = sample.windows * context;
            for (_, x) in read {
                let width = x.len() / rows;
                if width.is_multiple_of(MX_BLOCK) {
                    self.tensor(x, width, true, seed)?;
                }
            }
        }
    }

    fn tensor(&mut self, mut x: Vec<f32>, width: usize, activations: bool, seed: u64) -> Result<(), Error> {
        let rotation = Hadamard::new(width, MX_BLOCK, seed).map_err(Error::experiment)?;
        let mut db = [[[f64::NAN; 2]; 2]; PAIRS.len()];
        for turned in 0..2 {
            for (db, (int, fp)) in db.iter_mut().zip(PAIRS) {
                db[turned] = [int.qsnr(width, &x)?, fp.qsnr(width, &x)?];
            }
            rotation.rotate(&Pool::new(1), &mut x);
        }
        self.all.push(Tensor { activations, db });
        Ok(())
    }

    /// The share of tensors in which the integers of a pair are ahead.
    pub(super) fn share_of_integers(&self, pair: usize, rotated: bool) -> f64 {
        let ahead = |t: &&Tensor| t.db[pair][usize::from(rotated)][0] > t.db[pair][usize::from(rotated)][1];
        self.all.iter().filter(ahead).count() as f64 / self.all.len() as f64
    }

    /// Mean dB of all pairs, of weights and of activations, as they are and rotated.
    pub(super) fn note(&self, model: &str) -> String {
        let names = ["MXINT8/MXFP8", "MXINT6/MXFP6", "MXINT4/MXFP4", "NVINT4/NVFP4"];
        let parts = [false, true].map(|activations| {
            let of: Vec<&Tensor> = self.all.iter().filter(|t| t.activations == activations).collect();
            let mean = |pair: usize, turned: usize, side: usize| {
                of.iter().map(|t| t.db[pair][turned][side]).sum::<f64>() / of.len() as f64
            };
            let pairs = names.iter().enumerate().map(|(i, name)| {
                let [a, b, c, d] = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(turned, side)| mean(i, turned, side));
                format!("{name} {a:.2}/{b:.2} -> {c:.2}/{d:.2}")
            });
            let what = if activations { "inputs of layers" } else { "matrices" };
            format!("{} {what}: {}", of.len(), pairs.collect::<Vec<_>>().join(", "))
        });
        format!("{model}, mean dB as it is -> rotated; {}", parts.join("; "))
    }

    /// The tensors of both.
    pub(super) fn joined(mut self, other: Tensors) -> Tensors {
        self.all.extend(other.all);
        self
    }
}
