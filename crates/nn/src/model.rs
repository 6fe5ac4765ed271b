//! A decoder language model as a graph: embedding, blocks, norm, head.

use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::select_rows::SelectRows;
use memwall_graph::{Graph, GraphError, Value, ops};

use crate::channels::Channel;
use crate::config::{ChannelConfig, ConfigError, MixerConfig, ModelConfig, NormKind};
use crate::layers::{embedding, layer_norm, layer_norm_without_bias, linear, rms_norm, tied_head};
use crate::mixers::Mixer;
use crate::mixers::attention::AttentionConfig;
use crate::sequences::Sequences;
use crate::sources::cross_decoder;
use crate::weights::WeightTypes;

/// Name of the embedding table.
pub const EMBEDDING: &str = "model.embed_tokens.weight";

impl MixerConfig {
    /// The mixer, whatever its kind.
    pub fn mixer(&self) -> &dyn Mixer {
        match self {
            MixerConfig::Attention(m) => m,
            MixerConfig::Bmojo(m) => m,
            MixerConfig::Gla(m) => m,
            MixerConfig::DeltaNet(m) => m,
            MixerConfig::GatedKalmanet(m) => m,
            MixerConfig::LinearAttention(m) => m,
            MixerConfig::Retention(m) => m,
            MixerConfig::Mamba2(m) => m,
            MixerConfig::Hgrn2(m) => m,
            MixerConfig::Mlstm(m) => m,
            MixerConfig::ShortConv(m) => m,
            MixerConfig::BaseConv(m) => m,
            MixerConfig::SelectiveAttention(m) => m,
            MixerConfig::GatedAssociative(m) => m,
            MixerConfig::GatedMemoryUnit(m) => m,
            MixerConfig::Mamba(m) => m,
            MixerConfig::Rwkv4(m) => m,
            MixerConfig::Rwkv5(m) => m,
            MixerConfig::Rwkv6(m) => m,
            MixerConfig::Rwkv7(m) => m,
            MixerConfig::RwkvChannelMix(m) => m,
        }
    }

    /// Its softmax attention, if it is one or makes one.
    pub fn attention(&self) -> Option<&AttentionConfig> {
        match self {
            MixerConfig::Attention(a) => Some(a),
            MixerConfig::SelectiveAttention(s) => Some(&s.attention),
            _ => None,
        }
    }

    /// Whether all that it keeps stands at the position of its token, so that tokens can be taken back one by one.
    pub fn rewinds(&self) -> bool {
        match self {
            MixerConfig::BaseConv(conv) => conv.implicit_long_conv.is_some(),
            _ => self.attention().is_some_and(|a| a.window.is_none()),
        }
    }

    /// Checks the mixer's own sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        match self {
            MixerConfig::Attention(m) => m.check(key),
            MixerConfig::Bmojo(m) => m.check(key),
            MixerConfig::Gla(m) => m.check(key),
            MixerConfig::DeltaNet(m) => m.check(key),
            MixerConfig::GatedKalmanet(m) => m.check(key),
            MixerConfig::LinearAttention(m) => m.check(key),
            MixerConfig::Retention(m) => m.check(key),
            MixerConfig::Mamba2(m) => m.check(key),
            MixerConfig::Hgrn2(m) => m.check(key),
            MixerConfig::Mlstm(m) => m.check(key),
            MixerConfig::ShortConv(m) => m.check(key),
            MixerConfig::BaseConv(m) => m.check(key),
            MixerConfig::SelectiveAttention(m) => m.check(key),
            MixerConfig::GatedAssociative(m) => m.check(key),
            MixerConfig::GatedMemoryUnit(m) => m.check(key),
            MixerConfig::Mamba(m) => m.check(key),
            MixerConfig::Rwkv4(m) => m.check(key),
            MixerConfig::Rwkv5(m) => m.check(key),
            MixerConfig::Rwkv6(m) => m.check(key),
            MixerConfig::Rwkv7(m) => m.check(key),
            MixerConfig::RwkvChannelMix(m) => m.check(key),
        }
    }

    /// The name that checkpoints give this kind of layer.
    pub fn name(&self) -> &'static str {
        match self {
            MixerConfig::Attention(_) | MixerConfig::SelectiveAttention(_) => "self_attn",
            MixerConfig::Gla(_)
            | MixerConfig::DeltaNet(_)
            | MixerConfig::LinearAttention(_)
            | MixerConfig::Retention(_)
            | MixerConfig::Hgrn2(_) => "attn",
            MixerConfig::Bmojo(_) => "bmojo",
            MixerConfig::GatedKalmanet(_) => "gka",
            MixerConfig::Mamba2(_) => "mixer",
            MixerConfig::Mlstm(_) => "mlstm",
            MixerConfig::ShortConv(_) => "conv",
            MixerConfig::BaseConv(_) => "base_conv",
            MixerConfig::GatedAssociative(_) => "associative",
            MixerConfig::GatedMemoryUnit(_) => "gmu",
            MixerConfig::Mamba(_) => "mixer",
            MixerConfig::Rwkv4(_) | MixerConfig::Rwkv5(_) | MixerConfig::Rwkv6(_) | MixerConfig::Rwkv7(_) => "time_mix",
            MixerConfig::RwkvChannelMix(_) => "channel_mix",
        }
    }
}

impl ModelConfig {
    /// Adds the model up to its last norm: hidden states [N, D] of all rows. Each block is a segment.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn hidden(&self, g: &mut Graph, types: &WeightTypes, seqs: &Sequences) -> Result<Value, GraphError> {
        let x = self.embed(g, types, seqs)?;
        self.hidden_of(g, types, seqs, x)
    }

    /// Adds the blocks and the last norm over embedded rows [N, D]: hidden states [N, D]. Each block is a segment.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn hidden_of(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        seqs: &Sequences,
        mut x: Value,
    ) -> Result<Value, GraphError> {
        for i in 0..self.layers.len() {
            x = self.block(g, types, seqs, i, x)?;
        }
        self.last_norm(g, x)
    }

    /// Adds the model up to its last norm, of kept sequences whose rows `chosen` `[M]` alone are wanted: hidden states [M, D].
    ///
    /// Layers at the end that only read what earlier ones keep are computed for those rows and no others, and so is all of
    /// the layer before them but its keys and values (the prefill of YOCO, arXiv 2405.05254). The bits are those of all rows.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn hidden_chosen(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        seqs: &Sequences,
        chosen: Value,
    ) -> Result<Value, GraphError> {
        let mut x = self.embed(g, types, seqs)?;
        let readers = cross_decoder(&self.layers);
        let keeping = if readers < self.layers.len() { readers.saturating_sub(1) } else { readers };
        for i in 0..keeping {
            x = self.block(g, types, seqs, i, x)?;
        }
        if keeping == self.layers.len() {
            let x = self.last_norm(g, x)?;
            return g.push1(SelectRows, &[x, chosen]);
        }
        let narrowed;
        (x, narrowed) = self.last_keeping_block(g, types, seqs, keeping, x, chosen)?;
        for i in keeping + 1..self.layers.len() {
            x = self.block(g, types, &narrowed, i, x)?;
        }
        self.last_norm(g, x)
    }

    /// Adds block `i`, after which only rows `chosen` go on: hidden states [M, D], and the sequences of those rows.
    fn last_keeping_block(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        seqs: &Sequences,
        i: usize,
        x: Value,
        chosen: Value,
    ) -> Result<(Value, Sequences), GraphError> {
        let MixerConfig::Attention(attention) = &self.layers[i].mixer else {
            let x = self.block(g, types, seqs, i, x)?;
            return Ok((g.push1(SelectRows, &[x, chosen])?, seqs.narrowed(g, chosen)?));
        };
        seqs.enter(i);
        let types = &self.block_types(types);
        g.segment(|g| {
            g.scope(format!("layers.{i}"), |g| {
                let (name, part) = (format!("model.layers.{i}"), self.layers[i].mixer.name());
                let h = self.norm(g, &format!("{name}.input_layernorm"), x)?;
                let mixer = format!("{name}.{part}");
                let visible = g.scope(part, |g| attention.keep(g, types, &mixer, h, seqs))?;
                let (x, h) = (g.push1(SelectRows, &[x, chosen])?, g.push1(SelectRows, &[h, chosen])?);
                let narrowed = seqs.narrowed(g, chosen)?;
                narrowed.enter(i);
                let h = g.scope(part, |g| {
                    let q = attention.queries(g, types, &mixer, h)?;
                    attention.read(g, types, &mixer, h, q, visible, &narrowed)
                })?;
                let x = ops::add(g, x, h)?;
                Ok((self.channel(g, types, i, x)?, narrowed))
            })
        })
    }

    /// Adds the embedding of all rows: the hidden states [N, D] that the first block reads.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn embed(&self, g: &mut Graph, types: &WeightTypes, seqs: &Sequences) -> Result<Value, GraphError> {
        let mut x = embedding(g, types, EMBEDDING, seqs.ids, self.vocab_size, self.d_model)?;
        if self.embedding_norm {
            x = self.norm(g, "model.embed_norm", x)?;
        }
        if !self.learned_positions {
            return Ok(x);
        }
        let name = "model.embed_positions.weight";
        let positions = embedding(g, types, name, seqs.positions, self.max_context, self.d_model)?;
        ops::add(g, x, positions)
    }

    /// Adds a norm of the model's kind.
    fn norm(&self, g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
        match self.norm {
            NormKind::Rms => rms_norm(g, name, x, self.norm_eps),
            NormKind::Layer => layer_norm(g, name, x, self.norm_eps),
            NormKind::LayerWithoutBias => layer_norm_without_bias(g, name, x, self.norm_eps),
        }
    }

    /// Adds block `i`, a segment: hidden states [N, D] in, [N, D] out.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    ///
    /// # Panics
    /// If the model has no such block.
    pub fn block(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        seqs: &Sequences,
        i: usize,
        x: Value,
    ) -> Result<Value, GraphError> {
        let (layer, name) = (&self.layers[i], format!("model.layers.{i}"));
        seqs.enter(i);
        let types = &self.block_types(types);
        g.segment(|g| {
            g.scope(format!("layers.{i}"), |g| {
                let h = self.norm(g, &format!("{name}.input_layernorm"), x)?;
                let part = layer.mixer.name();
                let h = g.scope(part, |g| layer.mixer.mixer().forward(g, types, &format!("{name}.{part}"), h, seqs))?;
                let x = ops::add(g, x, h)?;
                self.channel(g, types, i, x)
            })
        })
    }

    /// The weights of one block, and how its linear layers round.
    fn block_types(&self, types: &WeightTypes) -> WeightTypes {
        match &self.quantization {
            Some(quantization) => types.rounding(quantization, self.norm_eps),
            None => types.clone(),
        }
    }

    /// Adds what block `i` does for each token by itself.
    fn channel(&self, g: &mut Graph, types: &WeightTypes, i: usize, x: Value) -> Result<Value, GraphError> {
        let (layer, name) = (&self.layers[i], format!("model.layers.{i}"));
        if layer.channel == ChannelConfig::None {
            return Ok(x);
        }
        let h = self.norm(g, &format!("{name}.post_attention_layernorm"), x)?;
        let h = g.scope("mlp", |g| layer.channel.forward(g, types, &format!("{name}.mlp"), h))?;
        ops::add(g, x, h)
    }

    /// Adds the norm after the last block.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn last_norm(&self, g: &mut Graph, x: Value) -> Result<Value, GraphError> {
        self.norm(g, "model.norm", x)
    }

    /// Adds the head: logits [M, V] of `hidden` [N, D], of the rows that `chosen` `[M]` names, or of all.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn logits(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        hidden: Value,
        chosen: Option<Value>,
    ) -> Result<Value, GraphError> {
        g.scope("lm_head", |g| {
            let x = match chosen {
                Some(rows) => g.push1(SelectRows, &[hidden, rows])?,
                None => hidden,
            };
            let y = if self.tie_embeddings {
                tied_head(g, types, EMBEDDING, x, self.vocab_size)?
            } else {
                linear(g, types, "lm_head", x, self.vocab_size, false)?
            };
            match self.logit_softcap {
                Some(c) => ops::unary(g, Unary::Softcap(c), y),
                None => Ok(y),
            }
        })
    }

    /// Bytes of state that a sequence of `tokens` tokens needs between steps, over all layers.
    pub fn state_bytes(&self, tokens: usize, seqs: &Sequences) -> usize {
        let layers = self.layers.iter().enumerate();
        layers
            .map(|(i, l)| {
                l.mixer.mixer().state_bytes(self.d_model, &format!("model.layers.{i}.{}", l.mixer.name()), tokens, seqs)
            })
            .sum()
    }
}
