//! Models whose linear layers round: which operators and weights they have, and what is refused.

use memwall_formats::Dtype;
use memwall_graph::{Graph, Source};
use memwall_nn::{ModelConfig, QuantizationConfig, Sequences, WeightTypes};

fn config(mixer: &str, channel: &str, quantization: &str) -> ModelConfig {
    serde_json::from_str(&format!(
        r#"{{"vocab_size": 32, "d_model": 64, "max_context": 16, "quantization": {{{quantization}}},
            "layers": [{{"mixer": {{{mixer}}}, "channel": {{{channel}}}}}]}}"#
    ))
    .expect("a model")
}

const ATTENTION: &str = r#""kind": "attention", "heads": 2, "kv_heads": 1, "head_dim": 32"#;
const GLU: &str = r#""kind": "glu", "hidden": 64, "activation": "relu2""#;

/// The graph of a model whose matrices are stored in `dtype`.
fn graph(config: &ModelConfig, dtype: Dtype) -> Graph {
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, 4, 1).expect("inputs");
    let mut types = WeightTypes::new();
    for part in ["self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj"] {
        types.set(format!("model.layers.0.{part}.weight"), dtype);
    }
    let hidden = config.hidden(&mut g, &types, &seqs).expect("a model");
    config.logits(&mut g, &types, hidden, None).expect("logits");
    g
}

fn count(g: &Graph, name: &str) -> usize {
    g.nodes().iter().filter(|n| n.op.name() == name).count()
}

#[test]
fn what_several_layers_read_is_rounded_once_and_the_head_not_at_all() {
    let g = graph(&config(ATTENTION, GLU, r#""weights": "ternary", "activations": "int8""#), Dtype::F32);
    // Seven weights; x of q, k and v; of o; of gate and up; of down.
    assert_eq!(count(&g, "fake_quantize"), 7 + 4);
    assert_eq!(count(&g, "linear"), 7 + 1);
}

#[test]
fn integers_meet_stored_blocks_as_they_are() {
    let g = graph(&config(ATTENTION, GLU, r#""activations": "int8""#), Dtype::Q8_0);
    assert_eq!((count(&g, "fake_quantize"), count(&g, "int8_linear"), count(&g, "linear")), (4, 4, 4));
    // Other formats of activations, and weights that are rounded here, go through the usual product.
    let g = graph(&config(ATTENTION, GLU, r#""activations": "mxfp8_e4m3""#), Dtype::Q8_0);
    assert_eq!((count(&g, "int8_linear"), count(&g, "linear")), (0, 8));
}

#[test]
fn backward_operands_are_those_of_a_product_of_their_own() {
    let quantization = r#""activations": "int8", "backward": { "dx_dy": "mxint8_ceil", "dw_x": "int8" }"#;
    let g = graph(&config(ATTENTION, GLU, quantization), Dtype::F32);
    assert_eq!((count(&g, "low_bit_linear"), count(&g, "linear")), (7, 1));
}

#[test]
fn norms_and_corrections_have_weights_of_their_own() {
    let quantization =
        r#""weights": "ternary", "norm_eps": 1e-5, "sub_norms": true, "correction": { "rank": 2, "by_channel": true }"#;
    let config = config(ATTENTION, GLU, quantization);
    let g = graph(&config, Dtype::F32);
    let shape = |name: &str| {
        let v = g.find(&format!("model.layers.0.{name}")).unwrap_or_else(|| panic!("{name}"));
        assert!(matches!(g.info(v).source, Source::Weight));
        g.shape(v).dims().iter().filter_map(|d| d.known()).collect::<Vec<_>>()
    };
    assert_eq!(shape("self_attn.q_proj.rms_norm.weight"), [64]);
    assert_eq!(shape("self_attn.attn_sub_norm.weight"), [64]);
    assert_eq!(shape("mlp.ffn_sub_norm.weight"), [64]);
    assert_eq!(shape("self_attn.k_proj.hgf_A.weight"), [2, 64]);
    assert_eq!(shape("self_attn.k_proj.hgf_B.weight"), [32, 2]);
    assert_eq!(shape("self_attn.k_proj.hgf_gate"), [32]);
    let again: ModelConfig = serde_json::from_str(&serde_json::to_string(&config).expect("JSON")).expect("the same");
    assert_eq!(again, config);
    let left = config.quantization.as_ref().and_then(QuantizationConfig::of_rounded_weights).expect("what is left");
    assert!(left.weights.is_none() && left.sub_norms && left.correction.is_some() && left.norm_eps == Some(1e-5));
}

#[test]
fn what_is_not_rounded_or_has_no_such_norms_is_refused() {
    let error = |mixer: &str, channel: &str, quantization: &str| {
        config(mixer, channel, quantization).check().expect_err("refused").to_string()
    };
    let moe = r#""kind": "moe", "experts": 4, "active": 2, "hidden": 32"#;
    assert!(error(ATTENTION, moe, r#""weights": "ternary""#).contains("layers.0.channel: is a mixture of experts"));
    let gla = r#""kind": "gla", "heads": 2, "key_width": 16, "value_width": 16"#;
    assert!(error(gla, GLU, r#""weights": "ternary", "sub_norms": true"#).contains("layers.0.mixer"));
    assert!(config(gla, GLU, r#""weights": "ternary""#).check().is_ok());
    assert!(error(ATTENTION, GLU, r#""activations": "nvfp4""#).contains("quantization.activations"));
    let both = r#""weights": "int4", "straight_through": "reached", "backward": { "dx_w": "int4" }"#;
    assert!(error(ATTENTION, GLU, both).contains("quantization.straight_through"));
}
