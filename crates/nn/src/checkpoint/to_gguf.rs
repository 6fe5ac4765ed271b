//! A model as GGUF: as `llama`, `qwen2`, `qwen3`, `lfm2` or `lfm2moe` where it is one of them, so that other engines read
//! it, else as memwall's own.
//!
//! GGUF's `llama` has the two channels of a rotary pair side by side, where Hugging Face has them half a head apart: rows
//! of q and k change places. Frequencies scaled as in Llama 3 become the tensor `rope_freqs.weight`.

use memwall_formats::gguf::Metadata;

use super::gguf::LFM2_NORMALIZE_EPS;
use super::memwall::{ARCHITECTURE, CONFIG_KEY};
use super::naming::{GGUF, GGUF_LFM2, Naming, OWN};
use crate::channels::moe::{MoeConfig, Scores};
use crate::config::{Activation, ChannelConfig, MixerConfig, ModelConfig, NormKind};
use crate::mixers::attention::AttentionConfig;
use crate::rope::{RopeConfig, RopeScaling, yarn_magnitude};

/// How a model is written.
#[derive(Debug)]
pub struct GgufForm<'a> {
    config: &'a ModelConfig,
    shared: Option<Shared<'a>>,
}

/// A model of an architecture that other engines know.
#[derive(Debug)]
struct Shared<'a> {
    architecture: &'static str,
    attention: &'a AttentionConfig,
    rope: &'a RopeConfig,
    hidden: usize,
    /// What LFM2 has besides.
    lfm2: Option<Lfm2<'a>>,
}

/// What is not the same in all layers of an LFM2.
#[derive(Debug)]
struct Lfm2<'a> {
    taps: usize,
    /// KV heads of each layer, 0 of convolutions.
    kv_heads: Vec<u32>,
    /// The experts of all but the first layers, and how many those are.
    experts: Option<(&'a MoeConfig, usize)>,
}

impl<'a> GgufForm<'a> {
    /// The form that a model has.
    pub fn of(config: &'a ModelConfig) -> GgufForm<'a> {
        GgufForm { config, shared: shared(config) }
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        self.shared.as_ref().map_or(ARCHITECTURE, |s| s.architecture)
    }

    fn naming(&self) -> &'static Naming {
        match &self.shared {
            Some(Shared { lfm2: Some(_), .. }) => &GGUF_LFM2,
            Some(_) => &GGUF,
            None => &OWN,
        }
    }

    /// The name of the weight `name`.
    pub fn name(&self, name: &str) -> String {
        self.naming().theirs(name)
    }

    /// Where row `row` of the weight `name` comes from.
    pub fn source_row(&self, name: &str, row: usize) -> usize {
        let Some(shared) = self.shared.as_ref().filter(|s| s.regroups(name)) else { return row };
        let width = shared.attention.head_dim;
        let (head, channel) = (row / width, row % width);
        head * width + channel / 2 + channel % 2 * (width / 2)
    }

    /// Whether rows of the weight `name` change places.
    pub fn regroups(&self, name: &str) -> bool {
        self.shared.as_ref().is_some_and(|s| s.regroups(name))
    }

    /// The factors that divide the frequencies, where GGUF has a tensor for them and the model a formula.
    pub fn frequency_factors(&self) -> Option<(&'static str, Vec<f32>)> {
        let Shared { rope, attention, .. } = self.shared.as_ref()?;
        let RopeScaling::Llama3 { .. } = rope.scaling else { return None };
        let plain = RopeConfig { scaling: RopeScaling::None, ..(*rope).clone() };
        let plain = plain.inverse_frequencies(attention.head_dim);
        let scaled = rope.inverse_frequencies(attention.head_dim);
        Some(("rope_freqs.weight", plain.iter().zip(&scaled).map(|(p, s)| (p / s) as f32).collect()))
    }

    /// Puts the keys that describe the model; the tokenizer's are not among them.
    pub fn put_keys(&self, m: &mut Metadata) {
        m.insert("general.architecture", self.architecture());
        let config = self.config;
        let Some(shared) = &self.shared else {
            let json = serde_json::to_string(config).expect("a configuration is JSON");
            m.insert(CONFIG_KEY, json);
            return;
        };
        let key = |name: &str| format!("{}.{name}", shared.architecture);
        for (name, n) in [
            ("vocab_size", config.vocab_size),
            ("context_length", config.max_context),
            ("embedding_length", config.d_model),
            ("block_count", config.layers.len()),
            ("feed_forward_length", shared.hidden),
            ("attention.head_count", shared.attention.heads),
            ("attention.head_count_kv", shared.attention.kv_heads),
            ("attention.key_length", shared.attention.head_dim),
            ("attention.value_length", shared.attention.head_dim),
            ("rope.dimension_count", shared.attention.head_dim),
        ] {
            m.insert(key(name), n as u32);
        }
        if let Some(Lfm2 { taps, kv_heads, experts }) = &shared.lfm2 {
            m.insert(key("attention.head_count_kv"), kv_heads.clone());
            m.insert(key("shortconv.l_cache"), *taps as u32);
            if let Some((moe, dense_layers)) = experts {
                for (name, n) in [
                    ("leading_dense_block_count", *dense_layers),
                    ("expert_count", moe.experts),
                    ("expert_used_count", moe.active),
                    ("expert_feed_forward_length", moe.hidden),
                    // Sigmoid.
                    ("expert_gating_func", 2),
                ] {
                    m.insert(key(name), n as u32);
                }
            }
        }
        if let Some(window) = shared.attention.window {
            m.insert(key("attention.sliding_window"), window as u32);
        }
        m.insert(key("attention.layer_norm_rms_epsilon"), config.norm_eps as f32);
        m.insert(key("rope.freq_base"), shared.rope.theta as f32);
        match shared.rope.scaling {
            RopeScaling::None | RopeScaling::Llama3 { .. } => {}
            RopeScaling::Linear { factor } => {
                m.insert(key("rope.scaling.type"), "linear");
                m.insert(key("rope.scaling.factor"), factor as f32);
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                m.insert(key("rope.scaling.type"), "yarn");
                m.insert(key("rope.scaling.factor"), factor as f32);
                m.insert(key("rope.scaling.original_context_length"), original as u32);
                m.insert(key("rope.scaling.yarn_beta_fast"), beta_fast as f32);
                m.insert(key("rope.scaling.yarn_beta_slow"), beta_slow as f32);
                let own = shared.rope.magnitude() / yarn_magnitude(factor);
                m.insert(key("rope.scaling.attn_factor"), own as f32);
            }
        }
    }
}

impl Shared<'_> {
    fn regroups(&self, name: &str) -> bool {
        let part = name.rsplit_once("self_attn.").map_or("", |(_, part)| part);
        let rotated = part.starts_with("q_proj.") || part.starts_with("k_proj.");
        self.architecture == "llama" && !self.rope.interleaved && rotated
    }
}

/// The architecture that a model is of, if it has nothing that the architecture has not.
fn shared(config: &ModelConfig) -> Option<Shared<'_>> {
    if config.quantization.is_some() {
        // Other engines do not round what layers read as memwall does.
        return None;
    }
    alike(config).or_else(|| lfm2(config))
}

/// LFM2: gated convolutions of as many taps, the same attention, an MLP in the first layers and experts in the others.
fn lfm2(config: &ModelConfig) -> Option<Shared<'_>> {
    let attention = config.layers.iter().find_map(|layer| match &layer.mixer {
        MixerConfig::Attention(a) => Some(a),
        _ => None,
    })?;
    let taps = config.layers.iter().find_map(|layer| match &layer.mixer {
        MixerConfig::ShortConv(conv) if conv.gated => Some(conv.taps),
        _ => None,
    })?;
    let rope = attention.rope.as_ref()?;
    let plain = AttentionConfig {
        rope: Some(RopeConfig { theta: rope.theta, ..RopeConfig::default() }),
        qk_norm: true,
        qk_norm_eps: config.norm_eps,
        ..AttentionConfig::new(attention.heads, attention.kv_heads, attention.head_dim)
    };
    let kv_heads = |mixer: &MixerConfig| match mixer {
        MixerConfig::Attention(a) if *a == plain => u32::try_from(a.kv_heads).ok(),
        MixerConfig::ShortConv(conv) if conv.gated && conv.taps == taps => Some(0),
        _ => None,
    };
    let kv_heads = config.layers.iter().map(|layer| kv_heads(&layer.mixer)).collect::<Option<Vec<u32>>>()?;
    let is_dense =
        |c: &&ChannelConfig| matches!(c, ChannelConfig::Glu { activation: Activation::Silu, bias: false, .. });
    let channels: Vec<&ChannelConfig> = config.layers.iter().map(|layer| &layer.channel).collect();
    let dense_layers = channels.iter().take_while(|c| is_dense(c)).count();
    let (dense, sparse) = channels.split_at(dense_layers);
    let same = |all: &[&ChannelConfig]| all.windows(2).all(|two| two[0] == two[1]);
    if !same(dense) || !same(sparse) || config.learned_positions || config.logit_softcap.is_some() {
        return None;
    }
    let experts = match sparse.first() {
        None => None,
        Some(ChannelConfig::Moe(moe)) => {
            let own = MoeConfig {
                scores: Scores::Sigmoid,
                selection_bias: true,
                normalize_eps: LFM2_NORMALIZE_EPS,
                ..MoeConfig::new(moe.experts, moe.active, moe.hidden)
            };
            (*moe == own).then_some(Some((moe, dense_layers)))?
        }
        Some(_) => return None,
    };
    let hidden = match (dense.first(), experts) {
        (Some(ChannelConfig::Glu { hidden, .. }), _) => *hidden,
        // No layer has it, but the key must be there.
        (_, Some((moe, _))) => moe.hidden,
        _ => return None,
    };
    let architecture = if experts.is_some() { "lfm2moe" } else { "lfm2" };
    Some(Shared { architecture, attention, rope, hidden, lfm2: Some(Lfm2 { taps, kv_heads, experts }) })
}

/// The architecture of a model whose layers are all the same.
fn alike(config: &ModelConfig) -> Option<Shared<'_>> {
    let first = config.layers.first()?;
    let (MixerConfig::Attention(a), ChannelConfig::Glu { hidden, activation: Activation::Silu, bias }) =
        (&first.mixer, &first.channel)
    else {
        return None;
    };
    let rope = a.rope.as_ref()?;
    let plain = config.layers.iter().all(|layer| layer == first)
        && !config.learned_positions
        && config.norm == NormKind::Rms
        && !config.embedding_norm
        && config.logit_softcap.is_none()
        && a.gate.is_none()
        && a.differential.is_none()
        && a.kv_source.is_none()
        && a.softcap.is_none()
        && a.scale.is_none()
        && rope.rotary_dim.is_none()
        && a.head_dim.is_multiple_of(2);
    let architecture = match (a.qk_norm, a.qkv_bias, a.o_bias, *bias) {
        (false, true, false, false) if !rope.interleaved => "qwen2",
        (true, false, false, false) if !rope.interleaved && a.qk_norm_eps == config.norm_eps => "qwen3",
        (false, ..) => "llama",
        _ => return None,
    };
    plain.then_some(Shared { architecture, attention: a, rope, hidden: *hidden, lfm2: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LayerConfig;
    use crate::mixers::short_conv::ShortConvConfig;

    fn model(attention: AttentionConfig) -> ModelConfig {
        let channel = ChannelConfig::Glu { hidden: 32, activation: Activation::Silu, bias: false };
        ModelConfig {
            norm_eps: 1e-6,
            ..ModelConfig::new(9, 16, 64, vec![LayerConfig { mixer: MixerConfig::Attention(attention), channel }])
        }
    }

    #[test]
    fn rows_of_a_head_alternate_between_its_halves() {
        let rope = Some(RopeConfig::default());
        let config = model(AttentionConfig { rope, ..AttentionConfig::new(2, 1, 8) });
        let form = GgufForm::of(&config);
        assert_eq!(form.architecture(), "llama");
        let rows: Vec<usize> = (0..16).map(|r| form.source_row("model.layers.0.self_attn.q_proj.weight", r)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
        assert!(!form.regroups("model.layers.0.self_attn.v_proj.weight"));
        assert!(form.regroups("model.layers.0.self_attn.k_proj.bias"));
    }

    #[test]
    fn what_no_shared_architecture_has_is_written_as_memwalls_own() {
        let rope = Some(RopeConfig::default());
        let plain = AttentionConfig { rope, ..AttentionConfig::new(2, 1, 8) };
        for (attention, architecture) in [
            (AttentionConfig { qkv_bias: true, ..plain.clone() }, "qwen2"),
            (AttentionConfig { qkv_bias: true, o_bias: true, ..plain.clone() }, "llama"),
            (AttentionConfig { qk_norm: true, ..plain.clone() }, "qwen3"),
            (AttentionConfig { qk_norm: true, qk_norm_eps: 1e-5, ..plain.clone() }, ARCHITECTURE),
            (AttentionConfig { softcap: Some(1.0), ..plain.clone() }, ARCHITECTURE),
            (AttentionConfig { rope: None, ..plain.clone() }, ARCHITECTURE),
        ] {
            assert_eq!(GgufForm::of(&model(attention)).architecture(), architecture);
        }
        let norms = AttentionConfig { qk_norm: true, ..plain.clone() };
        let hybrid = |attention: AttentionConfig, gated| {
            let mut hybrid = model(attention);
            let conv = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated });
            hybrid.layers.insert(0, LayerConfig { mixer: conv, ..hybrid.layers[0].clone() });
            hybrid
        };
        assert_eq!(GgufForm::of(&hybrid(norms.clone(), true)).architecture(), "lfm2");
        assert_eq!(GgufForm::of(&hybrid(norms.clone(), false)).architecture(), ARCHITECTURE);
        assert_eq!(GgufForm::of(&hybrid(plain.clone(), true)).architecture(), ARCHITECTURE);
        let mut experts = hybrid(norms, true);
        let moe = MoeConfig {
            scores: Scores::Sigmoid,
            selection_bias: true,
            normalize_eps: LFM2_NORMALIZE_EPS,
            ..MoeConfig::new(4, 2, 8)
        };
        experts.layers[1].channel = ChannelConfig::Moe(moe.clone());
        assert_eq!(GgufForm::of(&experts).architecture(), "lfm2moe");
        experts.layers[1].channel = ChannelConfig::Moe(MoeConfig { scaling: 2.0, ..moe });
        assert_eq!(GgufForm::of(&experts).architecture(), ARCHITECTURE);

        let mut unlike = model(plain.clone());
        let windowed = AttentionConfig { window: Some(4), ..plain };
        unlike.layers.push(LayerConfig { mixer: MixerConfig::Attention(windowed), ..unlike.layers[0].clone() });
        assert_eq!(GgufForm::of(&unlike).architecture(), ARCHITECTURE);
    }
}
