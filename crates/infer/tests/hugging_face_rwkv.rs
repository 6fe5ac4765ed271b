//! RWKV-6 and RWKV-7 in flash-linear-attention's naming: what such a folder may have, and what is refused by its own names.

use memwall_infer::Model;
use memwall_testdata::model_folder::{ModelFolder, Stored};

fn opened(folder: &ModelFolder) -> Result<Model, String> {
    let place = tempfile::tempdir().expect("a folder");
    folder.write(place.path(), Stored::F32, 1);
    Model::open(place.path()).map_err(|error| error.to_string())
}

/// The fixture with one line of its configuration written otherwise.
fn configured(name: &str, key: &str, value: &str) -> ModelFolder {
    let mut folder = ModelFolder::read(name);
    let mut config: serde_json::Value = serde_json::from_str(&folder.config).expect("JSON");
    config[key] = serde_json::from_str(value).expect("JSON");
    folder.config = config.to_string();
    folder
}

#[test]
fn values_of_keys_that_are_no_model_are_refused_by_key() {
    for (name, key, value, said) in [
        ("rwkv6", "num_heads", "3", ["`expand_k`", "num_heads 3 does not divide"]),
        ("rwkv6", "expand_v", "0.1", ["`expand_v`", "does not divide a width of 3"]),
        ("rwkv6", "proj_low_rank_dim", "0", ["mix_rank", "at least 1"]),
        ("rwkv6", "hidden_act", "\"relu\"", ["`hidden_act`", "sqrelu"]),
        ("rwkv6_hybrid", "attn", r#"{"layers": [3], "num_heads": 4}"#, ["`attn.layers`", "num_hidden_layers is 3"]),
        ("rwkv7", "head_dim", "12", ["`head_dim`", "does not divide hidden_size 32"]),
        ("rwkv7", "head_dim", "0", ["`head_dim`", "does not divide hidden_size 32"]),
        ("rwkv7", "head_dim", "\"wide\"", ["`head_dim`", "integer"]),
        ("rwkv7", "value_dim", "[32, 64]", ["`value_dim`", "the same for all"]),
        ("rwkv7", "value_dim", "[32]", ["`value_dim`", "each of 2 layers"]),
        ("rwkv7", "value_dim", "48", ["`value_dim`", "no multiple of hidden_size 32"]),
        ("rwkv7", "hidden_act", "\"gelu\"", ["`hidden_act`", "sqrelu"]),
        ("rwkv7", "v_low_rank_dim", "0", ["value_rank", "at least 1"]),
        ("rwkv7", "num_hidden_layers", "4000000", ["`num_hidden_layers`", "tensors"]),
        ("rwkv7_hybrid", "attn", r#"{"layers": [0], "num_heads": 4}"#, ["`attn.layers`", "layer 0"]),
    ] {
        let error = opened(&configured(name, key, value)).expect_err(key);
        assert!(said.iter().all(|part| error.contains(part)), "{name}, {key} {value}: {error}");
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_are_refused_by_the_files_names() {
    for (name, tensor, shape) in [
        ("rwkv6", "model.layers.1.attn.x_proj.2.weight", [24, 32]),
        ("rwkv6", "model.layers.0.attn.x_proj.0.linear.weight", [32, 25]),
        ("rwkv6", "model.layers.0.attn.x_bias", [4, 32]),
        ("rwkv6", "model.layers.1.attn.w_proj.linear.lora.0.weight", [7, 32]),
        ("rwkv6", "model.layers.0.attn.bonus", [8, 2]),
        ("rwkv6", "model.layers.1.ffn.receptance.linear.weight", [16, 32]),
        ("rwkv6_hybrid", "model.layers.1.attn.k_proj.weight", [32, 32]),
        ("rwkv7", "model.layers.1.attn.v_lora.lora.0.weight", [4, 32]),
        ("rwkv7", "model.layers.0.attn.w_lora.lora.2.weight", [32, 6]),
        ("rwkv7", "model.layers.0.attn.w_lora.lora.2.bias", [16, 2]),
        ("rwkv7", "model.layers.1.attn.x_g", [6, 32]),
        ("rwkv7", "model.layers.1.attn.r_k", [8, 4]),
        ("rwkv7", "model.layers.0.ffn.key.weight", [64, 32]),
        ("rwkv7_hybrid", "model.layers.2.attn.o_proj.weight", [32, 64]),
        ("rwkv7_hybrid", "model.layers.1.attn_norm.weight", [1, 32]),
    ] {
        let mut folder = ModelFolder::read(name);
        let at = folder.shapes.iter().position(|(own, _)| own == tensor).expect("a tensor of the fixture");
        folder.shapes[at].1 = shape.to_vec();
        let error = opened(&folder).expect_err(tensor);
        assert!(error.contains(tensor) && error.contains("shape"), "{tensor} {shape:?}: {error}");
        folder.shapes.remove(at);
        let error = opened(&folder).expect_err(tensor);
        assert!(error.contains(tensor) && error.contains("missing"), "without {tensor}: {error}");
    }
    // The six of the first releases.
    let mut folder = ModelFolder::read("rwkv7_hybrid");
    folder.shapes.retain(|(name, _)| name != "model.layers.1.attn.x_x");
    let error = opened(&folder).expect_err("shares");
    assert!(error.contains("model.layers.1.attn.x_r") && error.contains("missing"), "{error}");
}

#[test]
fn sizes_that_are_not_said_are_those_of_the_reference() {
    // The number of heads is not asked where their width is given: published files have another one there.
    let model = opened(&configured("rwkv7", "num_heads", "32")).expect("a model");
    assert_eq!(model.checkpoint().config, opened(&ModelFolder::read("rwkv7")).expect("a model").checkpoint().config);
    let mut older = configured("rwkv7", "head_dim", "null");
    assert!(opened(&older).is_ok(), "by the number of heads");
    older.config = older.config.replace("\"num_heads\":4", "\"num_heads\":0");
    let error = opened(&older).expect_err("no heads");
    assert!(error.contains("`num_heads`"), "{error}");
    let error = opened(&configured("rwkv7", "gate_low_rank_dim", "null")).expect_err("another rank");
    assert!(error.contains("g_lora.lora.0.weight") && error.contains("[32, 32]"), "{error}");
}
