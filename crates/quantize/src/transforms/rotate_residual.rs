//! `rotate-residual`: the residual stream is rotated, h becomes h R.
//!
//! The root mean square of a row does not change, so an RMS norm commutes with R once its weight has moved into the layers that
//! read it: W becomes `W diag(g) R`, the norm's weight 1. What is added to the stream is rotated by the layer that writes
//! it, and rows of the embedding likewise. A head that is the embedding (tied) becomes a weight of its own, for the
//! last norm's weight moves into it: that costs its bytes.
//!
//! Source: SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024), section 3; QuaRot (arXiv 2404.00456).

use memwall_kernels::hadamard::Hadamard;
use memwall_nn::EMBEDDING;

use super::stream::Part;
use super::{Edit, Rewrite, Subject, Transform};
use crate::QuantizeError;

/// Rotation of the residual stream.
#[derive(Clone, Copy, Debug)]
pub struct RotateResidual {
    /// Of the signs.
    pub seed: u64,
}

const HEAD: &str = "lm_head.weight";
const POSITIONS: &str = "model.embed_positions.weight";

impl Transform for RotateResidual {
    fn name(&self) -> &'static str {
        "rotate-residual"
    }

    fn reads_text(&self) -> bool {
        false
    }

    fn rewrite(&self, subject: &Subject<'_>) -> Result<Rewrite, QuantizeError> {
        subject.does_not_round(self)?;
        let config = &subject.model.checkpoint().config;
        let rotation = Hadamard::new(config.d_model, Hadamard::largest_block(config.d_model), self.seed)?;
        let mut rewrite = Rewrite::of(config);
        rewrite.edit(EMBEDDING, Edit::RotateColumns(rotation.clone()));
        if config.learned_positions {
            rewrite.edit(POSITIONS, Edit::RotateColumns(rotation.clone()));
        }
        for i in 0..config.layers.len() {
            let part = Part::block(config, i)?;
            let refuse = |why| QuantizeError::Transform { transform: self.name(), block: i, why };
            let (norms, writers) = part.stream().map_err(refuse)?;
            let readers = part.norms();
            for norm in norms {
                let of = readers.iter().find(|n| n.norm[0] == norm && n.alone);
                let of = of.ok_or_else(|| refuse(format!("{norm} is read by more than linear layers of its own")))?;
                self.fold(subject, &mut rewrite, &norm, &of.readers, &rotation)?;
            }
            for writer in writers {
                rewrite.edit(&writer, Edit::RotateRows(rotation.clone()));
            }
        }
        if config.tie_embeddings {
            rewrite.config.tie_embeddings = false;
            rewrite.add(HEAD, EMBEDDING);
        }
        self.fold(subject, &mut rewrite, "model.norm.weight", &[HEAD.to_string()], &rotation)?;
        Ok(rewrite)
    }
}

impl RotateResidual {
    /// Moves a norm's weight into its readers and rotates what they read.
    fn fold(
        &self,
        subject: &Subject<'_>,
        rewrite: &mut Rewrite,
        norm: &str,
        readers: &[String],
        rotation: &Hadamard,
    ) -> Result<(), QuantizeError> {
        let weight = subject.values(norm)?;
        for reader in readers {
            rewrite.edit(reader, Edit::Columns(weight.clone()));
            rewrite.edit(reader, Edit::RotateColumns(rotation.clone()));
        }
        rewrite.edit(norm, Edit::Ones);
        Ok(())
    }
}
