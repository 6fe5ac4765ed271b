//! Names of weights: memwall's, which are Hugging Face's for Llama, and those of other conventions.

/// A convention, as pairs of prefixes: memwall's and the convention's.
#[derive(Debug)]
pub(crate) struct Naming {
    /// Weights outside the layers.
    top: Pairs,
    /// What stands before the number of a layer; memwall has [`LAYERS`].
    layers: &'static str,
    /// Weights of a layer. Of several names for one weight, the first is the one to write.
    layer: Pairs,
    /// Where two of memwall's layers are one of the convention's: weights of the second of them.
    second: Option<Pairs>,
}

const LAYERS: &str = "model.layers.";

/// Prefixes: memwall's and the convention's.
type Pairs = &'static [(&'static str, &'static str)];
/// Replaces the prefix of a name by the first pair that has it.
type Replace<'a> = &'a dyn Fn(&str, Pairs) -> Option<String>;

/// memwall's own.
pub(crate) const OWN: Naming = Naming { top: &[], layers: LAYERS, layer: &[], second: None };

/// GGUF's for Llama-like families; layers of other kinds have the same names in all of them.
pub(crate) const GGUF: Naming = Naming {
    top: &[("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output.")],
    layers: "blk.",
    layer: &[
        ("input_layernorm.", "attn_norm."),
        ("post_attention_layernorm.", "ffn_norm."),
        ("self_attn.q_proj.", "attn_q."),
        ("self_attn.k_proj.", "attn_k."),
        ("self_attn.v_proj.", "attn_v."),
        ("self_attn.o_proj.", "attn_output."),
        ("self_attn.q_norm.", "attn_q_norm."),
        ("self_attn.k_norm.", "attn_k_norm."),
        ("mlp.gate_proj.", "ffn_gate."),
        ("mlp.up_proj.", "ffn_up."),
        ("mlp.down_proj.", "ffn_down."),
        ("mlp.gate.", "ffn_gate_inp."),
        ("mlp.expert_bias", "exp_probs_b.bias"),
        ("mlp.experts.gate_proj.", "ffn_gate_exps."),
        ("mlp.experts.up_proj.", "ffn_up_exps."),
        ("mlp.experts.down_proj.", "ffn_down_exps."),
        ("mlp.shared_expert.gate_proj.", "ffn_gate_shexp."),
        ("mlp.shared_expert.up_proj.", "ffn_up_shexp."),
        ("mlp.shared_expert.down_proj.", "ffn_down_shexp."),
        ("mlp.shared_expert_gate.", "ffn_gate_inp_shexp."),
        ("conv.in_proj.", "shortconv.in_proj."),
        ("conv.conv.", "shortconv.conv."),
        ("conv.out_proj.", "shortconv.out_proj."),
    ],
    second: None,
};

/// GGUF's for LFM2, whose last norm is called after the embedding.
pub(crate) const GGUF_LFM2: Naming = Naming {
    top: &[("model.embed_tokens.", "token_embd."), ("model.norm.", "token_embd_norm."), ("lm_head.", "output.")],
    layers: "blk.",
    layer: GGUF.layer,
    second: None,
};

/// GGUF's for Qwen3-Next; of tensors that are cut, the name of the first part.
pub(crate) const GGUF_QWEN3_NEXT: Naming = Naming {
    top: GGUF.top,
    layers: "blk.",
    layer: &[
        ("input_layernorm.", "attn_norm."),
        ("post_attention_layernorm.", "post_attention_norm."),
        ("attn.q_proj.", "attn_qkv."),
        ("attn.g_proj.", "attn_gate."),
        ("attn.b_proj.", "ssm_ba."),
        ("attn.q_conv1d.", "ssm_conv1d."),
        ("attn.dt_bias", "ssm_dt.bias"),
        ("attn.A_log", "ssm_a"),
        ("attn.o_norm.", "ssm_norm."),
        ("attn.o_proj.", "ssm_out."),
        ("self_attn.q_proj.", "attn_q."),
        ("self_attn.k_proj.", "attn_k."),
        ("self_attn.v_proj.", "attn_v."),
        ("self_attn.o_proj.", "attn_output."),
        ("self_attn.q_norm.", "attn_q_norm."),
        ("self_attn.k_norm.", "attn_k_norm."),
        ("mlp.gate_proj.", "ffn_gate."),
        ("mlp.up_proj.", "ffn_up."),
        ("mlp.down_proj.", "ffn_down."),
        ("mlp.gate.", "ffn_gate_inp."),
        ("mlp.experts.gate_proj.", "ffn_gate_exps."),
        ("mlp.experts.up_proj.", "ffn_up_exps."),
        ("mlp.experts.down_proj.", "ffn_down_exps."),
        ("mlp.shared_expert.gate_proj.", "ffn_gate_shexp."),
        ("mlp.shared_expert.up_proj.", "ffn_up_shexp."),
        ("mlp.shared_expert.down_proj.", "ffn_down_shexp."),
        ("mlp.shared_expert_gate.", "ffn_gate_inp_shexp."),
    ],
    second: None,
};

impl Naming {
    /// memwall's name of the convention's `name`; a name that the convention does not know is kept.
    pub(crate) fn ours(&self, name: &str) -> String {
        self.replaced(
            name,
            (self.layers, LAYERS),
            |&(ours, theirs)| (theirs, ours),
            |layer, part, replace| {
                let Some(second) = self.second else { return (layer, replace(part, self.layer)) };
                match replace(part, second) {
                    Some(part) => (2 * layer + 1, Some(part)),
                    None => (2 * layer, replace(part, self.layer)),
                }
            },
        )
    }

    /// The convention's name of memwall's `name`.
    pub(crate) fn theirs(&self, name: &str) -> String {
        self.replaced(
            name,
            (LAYERS, self.layers),
            |&(ours, theirs)| (ours, theirs),
            |layer, part, replace| match self.second {
                Some(second) if layer % 2 == 1 => (layer / 2, replace(part, second)),
                Some(_) => (layer / 2, replace(part, self.layer)),
                None => (layer, replace(part, self.layer)),
            },
        )
    }

    fn replaced(
        &self,
        name: &str,
        (from_layers, to_layers): (&str, &str),
        turn: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
        part_of: impl Fn(usize, &str, Replace<'_>) -> (usize, Option<String>),
    ) -> String {
        let replace = |name: &str, pairs: Pairs| {
            pairs.iter().map(&turn).find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        };
        if let Some(name) = replace(name, self.top) {
            return name;
        }
        let parts = name.strip_prefix(from_layers).and_then(|rest| rest.split_once('.'));
        if let Some((layer, part)) = parts
            && let Ok(layer) = layer.parse::<u32>()
        {
            let (layer, replaced) = part_of(layer as usize, part, &replace);
            return format!("{to_layers}{layer}.{}", replaced.as_deref().unwrap_or(part));
        }
        name.to_string()
    }

    /// A convention of Hugging Face's files, whose layers are numbered as memwall's.
    pub(crate) const fn of_folder(top: Pairs, layer: Pairs) -> Naming {
        Naming::of_layers(top, LAYERS, layer)
    }

    /// A convention whose layers are numbered after `layers`.
    pub(crate) const fn of_layers(top: Pairs, layers: &'static str, layer: Pairs) -> Naming {
        Naming { top, layers, layer, second: None }
    }

    /// A convention whose layers, numbered after `layers`, are two of memwall's each: a time mix and a channel mix.
    pub(crate) const fn of_pairs(top: Pairs, layers: &'static str, first: Pairs, second: Pairs) -> Naming {
        Naming { top, layers, layer: first, second: Some(second) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (ours, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"),
            ("model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("model.layers.3.mlp.gate.weight", "blk.3.ffn_gate_inp.weight"),
            ("model.layers.3.mlp.expert_bias", "blk.3.exp_probs_b.bias"),
            ("model.layers.3.mlp.experts.down_proj.weight", "blk.3.ffn_down_exps.weight"),
            ("model.layers.3.mlp.shared_expert_gate.weight", "blk.3.ffn_gate_inp_shexp.weight"),
            ("model.layers.3.conv.conv.weight", "blk.3.shortconv.conv.weight"),
        ] {
            assert_eq!(GGUF.theirs(ours), gguf);
            assert_eq!(GGUF.ours(gguf), ours);
            assert_eq!(OWN.ours(ours), ours);
        }
    }
}
