//! What is known of the inputs of each weight: nothing, a file's importance matrix, or what a run over a text finds.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail};
use memwall_infer::Model;
use memwall_nn::EMBEDDING;
use memwall_quantize::{Calibration, CalibrationText, ImportanceMatrix, InputStatistics, Inputs};

use super::sources::Source;
use crate::commands::tokenize::read_text;
use crate::load;

/// A text as tokens, in windows.
pub(super) struct Text {
    pub(super) tokens: Vec<u32>,
    pub(super) context: usize,
    pub(super) bos: Option<u32>,
}

impl Text {
    /// Reads a file with the model's tokenizer; at most `limit` tokens of it.
    pub(super) fn read(model: &Model, file: &Path, context: usize, limit: usize) -> anyhow::Result<Text> {
        let tokenizer = load::tokenizer(model)?;
        let mut tokens = tokenizer.encode(&read_text(file)?, true, false)?;
        tokens.truncate(limit);
        Ok(Text { tokens, context, bos: tokenizer.bos().filter(|_| tokenizer.add_bos()) })
    }

    pub(super) fn calibration(&self) -> CalibrationText<'_> {
        CalibrationText { tokens: &self.tokens, context: self.context, bos: self.bos }
    }
}

/// What is known of inputs.
pub(super) enum Known<'a> {
    Nothing,
    Matrix(ImportanceMatrix),
    Text(Walk<'a>),
}

/// A calibration on its way through the model.
pub(super) struct Walk<'a> {
    run: Calibration<'a>,
    /// The stage whose statistics are in `block`.
    stage: Option<usize>,
    block: Vec<InputStatistics>,
    /// What is saved at the end, and the names that the output gives weights.
    saved: Option<(ImportanceMatrix, HashMap<String, String>)>,
}

/// When a weight's inputs are known: after how many blocks; `None` for what no linear layer reads.
pub(super) fn stage(model: &Model, weight: Option<&str>) -> Option<usize> {
    let config = &model.checkpoint().config;
    let weight = weight?;
    if let Some(rest) = weight.strip_prefix("model.layers.") {
        return rest.split('.').next()?.parse().ok();
    }
    let head = if config.tie_embeddings { EMBEDDING } else { "lm_head.weight" };
    (weight == head).then_some(config.layers.len())
}

impl<'a> Walk<'a> {
    /// Begins a run; with `saves`, every weight's mean squares are kept for the end.
    pub(super) fn new(run: Calibration<'a>, saves: bool, sources: &[Source<'_>]) -> Walk<'a> {
        let names = sources.iter().filter_map(|s| Some((s.weight.clone()?, s.name.clone()))).collect();
        Walk { run, stage: None, block: Vec::new(), saved: saves.then(|| (ImportanceMatrix::default(), names)) }
    }

    fn advance(&mut self) -> anyhow::Result<bool> {
        // The last block's statistics make room for the next one's.
        self.block.clear();
        let Some(block) = self.run.next_block()? else { return Ok(false) };
        self.block = block;
        self.stage = Some(self.stage.map_or(0, |stage| stage + 1));
        if let Some((matrix, names)) = &mut self.saved {
            for (s, weight) in self.block.iter().flat_map(|s| s.weights().iter().map(move |weight| (s, weight))) {
                matrix.insert(names.get(weight).unwrap_or(weight), s);
            }
        }
        Ok(true)
    }
}

impl Known<'_> {
    /// Calls `f` with what is known of a tensor's inputs. Tensors come in the order of their stages.
    pub(super) fn with<R>(
        &mut self,
        tensor: &Source<'_>,
        stage: Option<usize>,
        f: impl FnOnce(Option<Inputs<'_>>) -> anyhow::Result<R>,
    ) -> anyhow::Result<R> {
        match self {
            Known::Nothing => f(None),
            Known::Matrix(matrix) => {
                let Some(mean_squares) = matrix.mean_squares(&tensor.name) else { return f(None) };
                let (has, width) = (mean_squares.len(), tensor.shape.last().copied().unwrap_or(1));
                if has != width {
                    bail!("the importance matrix has {has} inputs, the tensor {width}: it is of another model");
                }
                f(Some(Inputs { mean_squares: &mean_squares, moments: None }))
            }
            Known::Text(walk) => {
                let (Some(stage), Some(weight)) = (stage, &tensor.weight) else { return f(None) };
                while walk.stage.is_none_or(|at| at < stage) && walk.advance()? {}
                let Some(found) = walk.block.iter().find(|s| s.weights().contains(weight)) else { return f(None) };
                f(Some(Inputs { mean_squares: &found.mean_squares(), moments: found.moments() }))
            }
        }
    }

    /// Writes the importance matrix, running through what is left of the model.
    pub(super) fn save(&mut self, file: &Path, text: &Path, context: usize) -> anyhow::Result<()> {
        let Known::Text(walk) = self else { bail!("--save-imatrix: there is no --calibrate text to make it of") };
        while walk.advance()? {}
        let (matrix, _) = walk.saved.take().context("--save-imatrix was asked for")?;
        Ok(matrix.write(file, &text.display().to_string(), context)?)
    }
}
