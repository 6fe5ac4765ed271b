//! `rotate-heads`: the channels of each value head are rotated, and rotated back by the output projection.
//!
//! Attention adds values with weights, so `Σ p (v R) = (Σ p v) R`: rows of `v_proj` times R within each head, columns of
//! `o_proj` likewise. A gate that multiplies single channels does not commute with it, one a head does; nor does the norm of
//! differential attention. Values that other layers read, and other mixers, stay as they are.
//!
//! Source: QuaRot (Ashkboos et al. 2024, arXiv 2404.00456), section 4.1, stage 1.

use memwall_kernels::hadamard::Hadamard;
use memwall_nn::{AttentionConfig, GateOperation, Granularity, MixerConfig};

use super::{Edit, Rewrite, Subject, Transform};
use crate::QuantizeError;

/// Rotation of value heads.
#[derive(Clone, Copy, Debug)]
pub struct RotateHeads {
    /// Of the signs.
    pub seed: u64,
}

impl Transform for RotateHeads {
    fn name(&self) -> &'static str {
        "rotate-heads"
    }

    fn reads_text(&self) -> bool {
        false
    }

    fn rewrite(&self, subject: &Subject<'_>) -> Result<Rewrite, QuantizeError> {
        subject.does_not_round(self)?;
        let config = &subject.model.checkpoint().config;
        let mut rewrite = Rewrite::of(config);
        for (i, layer) in config.layers.iter().enumerate() {
            let MixerConfig::Attention(a) = &layer.mixer else { continue };
            if !commutes(a) || config.is_read(i) {
                continue;
            }
            let block = Hadamard::largest_block(a.head_dim);
            let rotation = Hadamard::new(a.head_dim, block, self.seed.wrapping_add(i as u64))?;
            let name = format!("model.layers.{i}.self_attn");
            rewrite.edit(&format!("{name}.v_proj.weight"), Edit::RotateRows(rotation.clone()));
            if a.qkv_bias {
                rewrite.edit(&format!("{name}.v_proj.bias"), Edit::RotateRows(rotation.clone()));
            }
            rewrite.edit(&format!("{name}.o_proj.weight"), Edit::RotateColumns(rotation));
        }
        Ok(rewrite)
    }
}

fn commutes(a: &AttentionConfig) -> bool {
    // Values of its own, and no norm of pairs of heads behind them.
    let own = a.kv_source.is_none() && a.differential.is_none();
    own && a
        .gate
        .is_none_or(|gate| gate.operation == GateOperation::Multiply && gate.granularity == Granularity::Headwise)
}
