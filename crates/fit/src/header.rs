//! A model as its file describes it, and the formats that its weights may be held in.

use std::collections::HashMap;

use memwall_formats::gguf::Metadata;
use memwall_formats::{Container, Dtype, Mix, MixModel, MixTensor, TensorInfo};
use memwall_nn::{ChannelConfig, Checkpoint, ModelConfig, WeightTypes};

use crate::WeightFormat;

/// A model as its file describes it: metadata, configuration, table of tensors. No weight is read.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The file.
    pub container: &'a Container,
    /// The model in it.
    pub checkpoint: &'a Checkpoint,
}

impl Header<'_> {
    /// The format of each tensor of the file under a mix, in the order of the file.
    fn assign(self, mix: Mix) -> Vec<Dtype> {
        // What a tensor is for is in memwall's name of the weight, whatever the file calls it.
        let ours: HashMap<&str, &str> =
            self.checkpoint.tensors.iter().map(|(weight, t)| (t.name.as_str(), weight.as_str())).collect();
        let name = |t: &TensorInfo| ours.get(t.name.as_str()).copied().unwrap_or(&t.name).to_string();
        let named: Vec<(String, &TensorInfo)> = self.container.tensors().iter().map(|t| (name(t), t)).collect();
        let tensors = named.iter().map(|(name, t)| (name.as_str(), &t.shape[..], t.dtype));
        assign(mix, &self.checkpoint.config, self.container.metadata(), tensors)
    }

    /// The format of each weight matrix, by memwall's names.
    pub fn types(self, weights: WeightFormat) -> WeightTypes {
        let WeightFormat::Mix(mix) = weights else { return self.checkpoint.types() };
        let file = self.container.tensors();
        let chosen: HashMap<&str, Dtype> = file.iter().map(|t| t.name.as_str()).zip(self.assign(mix)).collect();
        let matrices = self.checkpoint.tensors.iter().filter(|(_, t)| t.shape.len() > 1);
        matrices.map(|(name, t)| (name.clone(), chosen.get(t.name.as_str()).copied().unwrap_or(t.dtype))).collect()
    }

    /// Bytes of all tensors of the file under a format.
    pub fn file_bytes(self, weights: WeightFormat) -> u64 {
        let tensors = self.container.tensors();
        match weights {
            WeightFormat::AsStored => tensors.iter().map(|t| t.bytes).sum(),
            WeightFormat::Mix(mix) => tensors
                .iter()
                .zip(self.assign(mix))
                .map(|(t, dtype)| {
                    let width = t.shape.last().copied().unwrap_or(1).max(1);
                    let row = dtype.row_bytes(width).unwrap_or(usize::MAX) as u64;
                    row.saturating_mul((t.elements() / width) as u64)
                })
                .fold(0, u64::saturating_add),
        }
    }
}

/// The format of each of a model's tensors (name, shape, format as stored) under a mix, in their order.
///
/// `metadata` has GGUF's keys, where there are any.
pub fn assign<'a>(
    mix: Mix,
    config: &ModelConfig,
    metadata: &Metadata,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], Dtype)>,
) -> Vec<Dtype> {
    let attention = config.layers.iter().find_map(|layer| layer.mixer.attention().map(|a| (a.heads, a.kv_heads)));
    let (heads, kv_heads) = attention.unwrap_or((1, 1));
    let architecture = metadata.find::<&str>("general.architecture").ok().flatten().unwrap_or_default();
    let experts = config.layers.iter().find_map(|layer| match &layer.channel {
        ChannelConfig::Moe(moe) => Some(moe.experts),
        _ => None,
    });
    let experts = experts.unwrap_or(0);
    let about = MixModel { architecture, layers: config.layers.len(), heads, kv_heads, experts };
    let named: Vec<(String, &[usize], Dtype)> =
        tensors.map(|(name, shape, stored)| (gguf_name(name), shape, stored)).collect();
    let tensors: Vec<MixTensor<'_>> =
        named.iter().map(|(name, shape, stored)| MixTensor { name, shape, stored: *stored }).collect();
    mix.assign(&about, &tensors)
}

/// A weight of memwall's own models under the name that mixes know.
fn gguf_name(name: &str) -> String {
    let name = name.replace("model.layers.", "blk.");
    for (ours, gguf) in [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("mlp.down_proj.", "ffn_down."),
        ("mlp.gate.", "ffn_gate_inp."),
        ("mlp.experts.gate_proj.", "ffn_gate_exps."),
        ("mlp.experts.up_proj.", "ffn_up_exps."),
        ("mlp.experts.down_proj.", "ffn_down_exps."),
        ("conv.conv.", "shortconv.conv."),
        (".conv1d.", ".ssm_conv1d."),
        (".q_conv1d.", ".ssm_conv1d."),
        (".k_conv1d.", ".ssm_conv1d."),
        (".v_conv1d.", ".ssm_conv1d."),
        // B'MOJO's predictor is a short convolution over outputs.
        (".predictor.", ".ssm_conv1d."),
        (".v_proj.", ".attn_v."),
        (".k_proj.", ".attn_k."),
        (".o_proj.", ".attn_output."),
    ] {
        if name.contains(ours) {
            return match gguf.strip_prefix('.') {
                // The mixer's own part of the name is no part of GGUF's.
                Some(plain) => match name.find(ours).and_then(|at| name[..at].rfind('.')) {
                    Some(dot) => format!("{}.{plain}{}", &name[..dot], name.rsplit('.').next().unwrap_or_default()),
                    None => name,
                },
                None => name.replace(ours, gguf),
            };
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use memwall_formats::gguf::Metadata;
    use memwall_formats::{Dtype, Mix};
    use memwall_graph::{Graph, Source};
    use memwall_nn::{
        BmojoConfig, ChannelConfig, EideticConfig, LayerConfig, Mamba2Config, MixerConfig, ModelConfig, Sequences,
        WeightTypes,
    };

    use super::{assign, gguf_name};

    #[test]
    fn own_names_get_the_roles_that_mixes_know() {
        for (ours, gguf) in [
            ("model.layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight"),
            ("model.layers.3.attn.o_proj.weight", "blk.3.attn_output.weight"),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            ("blk.3.attn_v.weight", "blk.3.attn_v.weight"),
            ("model.layers.3.mlp.gate.weight", "blk.3.ffn_gate_inp.weight"),
            ("model.layers.3.mlp.experts.down_proj.weight", "blk.3.ffn_down_exps.weight"),
            ("model.layers.0.input_layernorm.weight", "blk.0.input_layernorm.weight"),
            ("model.layers.2.mixer.conv1d.weight", "blk.2.ssm_conv1d.weight"),
            ("blk.2.ssm_conv1d.weight", "blk.2.ssm_conv1d.weight"),
        ] {
            assert_eq!(gguf_name(ours), gguf);
        }
    }

    #[test]
    fn taps_of_convolutions_and_of_bmojos_predictor_stay_as_they_are() {
        let memory = MixerConfig::Mamba2(Mamba2Config::new(4, 32, 32));
        let bmojo = BmojoConfig { eidetic: Some(EideticConfig::new(8)), ..BmojoConfig::new(2, 2, 32, 16, memory) };
        let layer = LayerConfig { mixer: MixerConfig::Bmojo(bmojo), channel: ChannelConfig::None };
        let config = ModelConfig::new(96, 64, 128, vec![layer]);
        let mut g = Graph::new(Dtype::F32);
        let seqs = Sequences::whole(&mut g, 1, 1).expect("inputs");
        config.hidden(&mut g, &WeightTypes::new(), &seqs).expect("a model");
        let weights = g.values().filter(|(_, info)| matches!(info.source, Source::Weight));
        let weights: Vec<(String, Vec<usize>)> =
            weights.map(|(_, i)| (i.name.to_string(), i.ty.shape.sizes(&[]).axes().to_vec())).collect();
        let named = || weights.iter().map(|(name, shape)| (name.as_str(), &shape[..], Dtype::F32));
        for mix in [Mix::Q4_0, Mix::Q8_0, Mix::F16] {
            let chosen = assign(mix, &config, &Metadata::new(std::path::Path::new("model.gguf")), named());
            let of = |end: &str| {
                let at = weights.iter().position(|(name, _)| name.ends_with(end));
                chosen[at.unwrap_or_else(|| panic!("no weight {end}: {weights:?}"))]
            };
            for kept in ["bmojo_attn.predictor.weight", "bmojo.mamba.conv1d.weight"] {
                assert_eq!(of(kept), Dtype::F32, "{kept} under {mix:?}");
            }
            for quantized in ["bmojo_attn.q_proj.weight", "bmojo_attn.o_proj.weight", "bmojo.mamba.in_proj.weight"] {
                assert_ne!(of(quantized), Dtype::F32, "{quantized} under {mix:?}");
            }
        }
    }
}
