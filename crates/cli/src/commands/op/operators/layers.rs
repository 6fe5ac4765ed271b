//! Whole layers by their configuration: token mixers in every form, and channel layers.

use anyhow::{Context, bail};
use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_graph::ops::reshape;
use memwall_graph::{Dim, Shape, Value};
use memwall_nn::{
    Channel, ChannelConfig, DeltaForm, Form as MixerForm, GlaForm, Kept, MixerConfig, RidgeForm, Sequences, WeightTypes,
};

use super::sequences::{cu_seqlens, longest, slots};
use crate::commands::op::Precision;
use crate::commands::op::builder::{Builder, LAYER, fixed};
use crate::commands::op::operator::{Form, How, Made, Operator, integer, made, real};

pub const MIXER: Operator = Operator {
    name: "mixer",
    about: "a token mixer by its configuration, e.g. --config '{\"kind\": \"gla\", \"heads\": 2, \"key_width\": 8, \"value_width\": 16}'; \
            kinds: attention (with gate, window, rope, norms of q and k), bmojo, gla, delta_net, gated_kalmanet, linear_attention, retention, mamba, \
            mamba2, hgrn2, mlstm, rwkv4 to rwkv7, rwkv_channel_mix, base_conv, selective_attention, gated_associative, short_conv; keys as in a recipe",
    inputs: &[
        real("x", "B T D", "inputs"),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
    ],
    weights: Some(
        "by their checkpoint names within the layer, e.g. q_proj.weight [H·K, D]; a missing one is named with its shape",
    ),
    outputs: &[real("y", "B T D", "outputs")],
    attributes: &["config"],
    forms: &[Form::Parallel, Form::Chunked, Form::Recurrent],
    how: How::Graph(mixer),
};

pub const CHANNEL: Operator = Operator {
    name: "channel",
    about: "a channel layer by its configuration, e.g. --config '{\"kind\": \"glu\", \"hidden\": 64}'; kinds: glu, mlp; \
            activations silu, gelu, gelu_erf, relu",
    inputs: &[real("x", "B T D", "inputs")],
    weights: Some("gate_proj, up_proj, down_proj: .weight, and .bias if the configuration says so"),
    outputs: &[real("y", "B T D", "outputs")],
    attributes: &["config"],
    forms: &[],
    how: How::Graph(channel),
};

fn config<T: serde::de::DeserializeOwned>(b: &Builder<'_>) -> anyhow::Result<T> {
    let text = b.attributes.required("config", b.attributes.text("config"))?;
    serde_json::from_str(text).context("--config")
}

fn mixer(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let mut config: MixerConfig = config(b)?;
    config.check("--config")?;
    let forms = config.mixer().forms();
    let usual = [(MixerForm::Parallel, Form::Parallel), (MixerForm::Chunked, Form::Chunked)];
    let usual = usual.into_iter().find(|(has, _)| forms.contains(has)).map_or(Form::Recurrent, |(_, form)| form);
    let form = b.form.unwrap_or(usual);
    let declared = match form {
        Form::Parallel => MixerForm::Parallel,
        Form::Chunked => MixerForm::Chunked,
        Form::Recurrent => MixerForm::Recurrent,
    };
    if !forms.contains(&declared) {
        let has: Vec<String> = forms.iter().map(|f| format!("{f:?}").to_lowercase()).collect();
        bail!("--form {}: this mixer does not have it; there are {}", form.name(), has.join(", "));
    }
    let memory = Some(if form == Form::Chunked { GlaForm::Chunked } else { GlaForm::Parallel });
    match &mut config {
        MixerConfig::Gla(c) => c.form = memory,
        MixerConfig::LinearAttention(c) => c.form = memory,
        MixerConfig::Retention(c) => c.form = memory,
        MixerConfig::Mamba2(c) => c.form = memory,
        MixerConfig::Hgrn2(c) => c.form = memory,
        MixerConfig::Mlstm(c) => c.form = memory,
        MixerConfig::DeltaNet(delta) => delta.form = Some(DeltaForm::Chunked),
        MixerConfig::Rwkv7(c) => c.form = Some(DeltaForm::Chunked),
        MixerConfig::GatedKalmanet(c) => c.form = Some(RidgeForm::Chunked),
        MixerConfig::Rwkv6(c) => c.form = memory,
        MixerConfig::Attention(_)
        | MixerConfig::Bmojo(_)
        | MixerConfig::ShortConv(_)
        | MixerConfig::BaseConv(_)
        | MixerConfig::SelectiveAttention(_)
        | MixerConfig::GatedAssociative(_)
        | MixerConfig::GatedMemoryUnit(_)
        | MixerConfig::Mamba(_)
        | MixerConfig::Rwkv4(_)
        | MixerConfig::Rwkv5(_)
        | MixerConfig::RwkvChannelMix(_) => {}
    }
    let (rows, tokens, width) = (b.size('B'), b.size('T'), b.size('D'));
    let (_, offsets) = cu_seqlens(b)?;
    let places = slots(&offsets);
    // A mixer that has no other form has it over whole sequences too, with the same bits and with gradients.
    let steps = form == Form::Recurrent && forms.len() > 1;
    let (x, seqs) = if steps { kept(b, &offsets, &places)? } else { whole(b, &offsets)? };
    b.feed_value(seqs.positions, &places.iter().map(|p| p[1]).collect::<Vec<_>>());
    let y = config.mixer().forward(&mut b.g, &WeightTypes::new(), LAYER, x, &seqs)?;
    Ok(vec![Made { name: "y", value: y, shape: Some(vec![rows, tokens, width]) }])
}

/// Whole sequences, all positions at once.
fn whole(b: &mut Builder<'_>, offsets: &[i32]) -> anyhow::Result<(Value, Sequences)> {
    let n = b.size('B') * b.size('T');
    let x = b.reshaped("x", &[n, b.size('D')])?;
    Ok((x, Sequences::whole(&mut b.g, n, offsets.len() - 1)?))
}

/// Rows that continue sequences from nothing: the layer as a step of inference runs it.
fn kept(b: &mut Builder<'_>, offsets: &[i32], places: &[[i32; 2]]) -> anyhow::Result<(Value, Sequences)> {
    if b.precision == Precision::F64 {
        bail!("--dtype f64: kept states are for f32; the parallel form has f64");
    }
    let n = b.size('B') * b.size('T');
    let rows = b.g.run_dim("rows", n)?;
    let data = b.elements(b.needed("x")?)?;
    let x = b.feed("x", Shape::from([Dim::from(rows), Dim::fixed(b.size('D'))]), b.g.elem(), data)?;
    let kv = KvFormat::both(Dtype::F32);
    let seqs = Sequences::slots(&mut b.g, rows, n, offsets.len() - 1, longest(offsets).max(1), kv, 0)?;
    if let Kept::Slots { rows, slots, .. } = &seqs.kept {
        b.feed_value(rows.rows, places.as_flattened());
        b.feed_value(*slots, &places.iter().map(|p| p[0]).collect::<Vec<_>>());
    }
    Ok((x, seqs))
}

fn channel(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let config: ChannelConfig = config(b)?;
    config.check("--config")?;
    let shape = [b.size('B'), b.size('T'), b.size('D')];
    let x = b.reshaped("x", &[shape[0] * shape[1], shape[2]])?;
    let y = config.forward(&mut b.g, &WeightTypes::new(), LAYER, x)?;
    Ok(vec![made("y", reshape(&mut b.g, y, fixed(&shape)?)?)])
}
