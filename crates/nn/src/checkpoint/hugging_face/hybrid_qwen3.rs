//! Qwen3 with some of its layers replaced by Gated KalmaNet or B'MOJO-F (`hybrid_qwen3`).
//!
//! `hybrid_override_pattern` names the mixer of each layer, joined by `-`: `*` attention, `SWA` with a sliding window, `GKA`, and
//! `BMF` with Gated KalmaNet as its fading memory (`bmojo_config.ssm_mixer`). The heads of a replaced layer are those of the
//! attention that it was. Other mixers of the family (`GDN`, `M2`) are refused by name, also within `BMF`.
//!
//! Source: awslabs/hybrid-model-factory, `hybrid_zoo/models/hybrid_qwen3`, `hybrid_zoo/layers/gated_kalmanet` and
//! `hybrid_zoo/layers/bmojo_f`.

use serde_json::Value;

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::llama::{self, Family};
use super::without_group;
use crate::config::{MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;
use crate::mixers::bmojo::BmojoConfig;
use crate::mixers::gated_kalmanet::GatedKalmanetConfig;

/// What names the mixers.
const PATTERN: &str = "hybrid_override_pattern";

/// Names are memwall's own but for that of a layer of B'MOJO-F.
pub(super) const NAMING: Naming = Naming::of_folder(&[], &[("bmojo.", "bmojo_f.")]);

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    let mut model = llama::config(config, Family::Qwen3, tensors)?;
    let pattern: &str = config.require(PATTERN)?;
    let kinds: Vec<&str> = pattern.split('-').collect();
    if kinds.len() != model.layers.len() {
        let problem = format!("has {} entries; num_hidden_layers is {}", kinds.len(), model.layers.len());
        return Err(config.wrong(PATTERN, problem));
    }
    let window: Option<usize> = config.find("sliding_window")?;
    for (layer, kind) in model.layers.iter_mut().zip(kinds) {
        let MixerConfig::Attention(attention) = &layer.mixer else { continue };
        layer.mixer = match (kind, window) {
            ("*", _) => MixerConfig::Attention(AttentionConfig { window: None, ..attention.clone() }),
            ("SWA", Some(_)) => MixerConfig::Attention(AttentionConfig { window, ..attention.clone() }),
            ("SWA", None) => return Err(config.wrong("sliding_window", "is needed by the SWA layers of the pattern")),
            ("GKA", _) => MixerConfig::GatedKalmanet(kalmanet(config, attention)?),
            ("BMF", _) => MixerConfig::Bmojo(bmojo(config, attention)?),
            (other, _) => {
                let problem = format!("has {other:?}; *, SWA, GKA and BMF are supported");
                return Err(config.wrong(PATTERN, problem));
            }
        };
    }
    Ok(model)
}

/// A layer with the heads of the attention that it replaces.
fn kalmanet(config: &ConfigJson, attention: &AttentionConfig) -> Result<GatedKalmanetConfig, CheckpointError> {
    let key = |name: &str| format!("gka_config.{name}");
    config.only(&key("solver_type"), &Value::from("chebyshev"), "other solvers")?;
    config.only(&key("kv_proj_rank"), &Value::Null, "low-rank expansions of keys and values")?;
    config.only(&key("kv_learnable_residual"), &Value::Bool(false), "learned expansions of keys and values")?;
    let yes = |name: &str| Ok::<_, CheckpointError>(config.find(&key(name))?.unwrap_or(true));
    let usual = GatedKalmanetConfig::new(attention.heads, attention.head_dim);
    // H forgets only where U does.
    let use_forgetting_gate = yes("use_forgetting_gate")?;
    let of_keys = yes("use_forgetting_gate_kk")?;
    // What a server is told to change, over what the model was trained with.
    let trained = config.find(&key("num_iter"))?.unwrap_or(usual.num_iter);
    let num_iter = config.find("gka_overrides.num_iter")?.unwrap_or(trained);
    Ok(GatedKalmanetConfig {
        kv_heads: Some(attention.kv_heads),
        num_iter,
        ridge_strength: config.find(&key("ridge_strength"))?.unwrap_or(usual.ridge_strength),
        bp_lambda: yes("bp_lambda")?,
        use_alpha_connection: yes("use_alpha_connection")?,
        use_beta_gate: yes("use_beta_gate")?,
        use_forgetting_gate,
        use_forgetting_gate_kk: use_forgetting_gate && of_keys,
        gla_rescale: yes("gla_rescale")?,
        use_gate: yes("use_gate")?,
        use_v_conv: yes("use_v_conv")?,
        conv_size: config.find(&key("conv_size"))?.unwrap_or(usual.conv_size),
        chunk_size: config.find(&key("chunk_size"))?.unwrap_or(usual.chunk_size),
        norm_eps: config.find(&key("norm_eps"))?.unwrap_or(usual.norm_eps),
        ..usual
    })
}

/// B'MOJO-F with the heads, the norms and the positions of the attention that it replaces.
fn bmojo(config: &ConfigJson, attention: &AttentionConfig) -> Result<BmojoConfig, CheckpointError> {
    const SSM: &str = "bmojo_config.ssm_mixer";
    let ssm = config.find(SSM)?.unwrap_or("mamba2");
    if !["gka", "gated_kalmanet"].contains(&ssm.to_lowercase().as_str()) {
        return Err(config.wrong(SSM, format!("is {ssm:?}; gka is supported")));
    }
    if attention.qkv_bias || attention.o_bias {
        return Err(config.wrong("attention_bias", "is true, but B'MOJO-F has no biases"));
    }
    let memory = MixerConfig::GatedKalmanet(kalmanet(config, attention)?);
    let window = config.find("bmojo_config.window_size")?.unwrap_or(2048);
    Ok(BmojoConfig {
        tie_attn_weights: config.find("bmojo_config.tie_attn_weights")?.unwrap_or(true),
        qk_norm: attention.qk_norm,
        qk_norm_eps: attention.qk_norm_eps,
        rope: attention.rope.clone(),
        ..BmojoConfig::new(attention.heads, attention.kv_heads, attention.head_dim, window, memory)
    })
}

/// Convolutions as memwall has them. Gates that are switched off may have weights that nothing reads.
pub(super) fn adapt(adapt: &mut Adapt, config: &ModelConfig) {
    for (i, layer) in config.layers.iter().enumerate() {
        let own = format!("model.layers.{i}.{}.", layer.mixer.name());
        let (gka, own) = match &layer.mixer {
            MixerConfig::GatedKalmanet(gka) => (gka, own),
            MixerConfig::Bmojo(bmojo) => match &*bmojo.ssm {
                MixerConfig::GatedKalmanet(gka) => (gka, format!("{own}gka.")),
                _ => continue,
            },
            _ => continue,
        };
        for part in ["q", "k", "v"] {
            without_group(&mut adapt.tensors, &format!("{own}{part}_conv1d.weight"));
        }
        let gated = gka.use_forgetting_gate || gka.use_forgetting_gate_kk;
        let unread = [("a_proj.weight", !gated), ("A_log", !gated), ("dt_bias", !gated)];
        // With nothing to solve α weighs nothing.
        let unread = unread
            .into_iter()
            .chain([("alpha_proj.weight", gka.num_iter == 0), ("alpha_proj.bias", gka.num_iter == 0)]);
        for (part, _) in unread.filter(|(_, unread)| *unread) {
            adapt.tensors.remove(&format!("{own}{part}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(more: &str) -> Result<ModelConfig, String> {
        let json = format!(
            r#"{{"model_type": "hybrid_qwen3", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
            "max_position_embeddings": 64, "rope_theta": 10000, "hidden_act": "silu" {more}}}"#
        );
        let json = ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
        config(&json, 100).map_err(|e| e.to_string())
    }

    #[test]
    fn the_pattern_says_which_layers_are_replaced_and_the_override_how_often_they_iterate() {
        let model = read(
            r#", "hybrid_override_pattern": "GKA-*-SWA", "sliding_window": 9,
            "gka_config": {"num_iter": 20, "ridge_strength": 0.1, "use_v_conv": false, "use_forgetting_gate": false},
            "gka_overrides": {"num_iter": 10}"#,
        )
        .expect("a model");
        let MixerConfig::GatedKalmanet(gka) = &model.layers[0].mixer else { panic!("{:?}", model.layers[0]) };
        let want = GatedKalmanetConfig {
            kv_heads: Some(2),
            num_iter: 10,
            ridge_strength: 0.1,
            use_v_conv: false,
            use_forgetting_gate: false,
            use_forgetting_gate_kk: false,
            ..GatedKalmanetConfig::new(4, 16)
        };
        assert_eq!(*gka, want);
        let window = |i: usize| match &model.layers[i].mixer {
            MixerConfig::Attention(a) => a.window,
            other => panic!("{other:?}"),
        };
        assert_eq!((window(1), window(2)), (None, Some(9)));
    }

    #[test]
    fn a_layer_of_bmojo_takes_norms_and_positions_of_the_attention_that_it_replaces() {
        let model = read(
            r#", "hybrid_override_pattern": "*-BMF-BMF", "gka_config": {"num_iter": 20},
            "bmojo_config": {"window_size": 16, "tie_attn_weights": false, "ssm_mixer": "gka"}"#,
        )
        .expect("a model");
        let MixerConfig::Attention(attention) = &model.layers[0].mixer else { panic!("{:?}", model.layers[0]) };
        let gka = GatedKalmanetConfig { kv_heads: Some(2), num_iter: 20, ..GatedKalmanetConfig::new(4, 16) };
        let want = BmojoConfig {
            tie_attn_weights: false,
            qk_norm: true,
            qk_norm_eps: attention.qk_norm_eps,
            rope: attention.rope.clone(),
            ..BmojoConfig::new(4, 2, 16, 16, MixerConfig::GatedKalmanet(gka))
        };
        assert!(want.rope.is_some() && attention.qk_norm);
        assert_eq!(model.layers[1].mixer, MixerConfig::Bmojo(want));
        assert_eq!(NAMING.ours("model.layers.1.bmojo_f.gka.q_proj.weight"), "model.layers.1.bmojo.gka.q_proj.weight");
        let error = NAMING.theirs("model.layers.1.bmojo.bmojo_attn.q_proj_.weight");
        assert_eq!(error, "model.layers.1.bmojo_f.bmojo_attn.q_proj_.weight");
    }

    #[test]
    fn other_mixers_and_solvers_are_refused_by_name() {
        let refused = |more: &str, what: &str| {
            let error = read(more).expect_err(what);
            assert!(error.contains(what), "{error}");
        };
        refused(r#", "hybrid_override_pattern": "GKA-M2-*""#, "hybrid_override_pattern");
        for (ssm, found) in [("", "mamba2"), (r#", "bmojo_config": {"ssm_mixer": "gdn"}"#, "gdn")] {
            let more = format!(r#", "hybrid_override_pattern": "*-BMF-*"{ssm}"#);
            refused(&more, "bmojo_config.ssm_mixer");
            refused(&more, found);
        }
        refused(r#", "hybrid_override_pattern": "GKA-*""#, "has 2 entries; num_hidden_layers is 3");
        refused(r#", "hybrid_override_pattern": "GKA-SWA-*""#, "sliding_window");
        refused("", "hybrid_override_pattern");
        let gka = |more: &str| format!(r#", "hybrid_override_pattern": "GKA-*-*", "gka_config": {{{more}}}"#);
        refused(&gka(r#""solver_type": "cg""#), "solver_type");
        refused(&gka(r#""kv_proj_rank": 8"#), "kv_proj_rank");
        refused(&gka(r#""num_iter": -1"#), "num_iter");
    }
}
