//! Training that starts from the weights of a model file.

mod small;

use std::path::{Path, PathBuf};

use memwall_formats::{Container, Dtype};
use memwall_train::Recipe;
use memwall_train::language::{LanguageOptions, Progress, Summary, train};

use small::{example, options, text};

/// A folder with a text and a model trained on it.
struct Trained {
    folder: tempfile::TempDir,
    recipe: Recipe,
    summary: Summary,
}

impl Trained {
    fn new(export: Dtype) -> Trained {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("text.txt"), text(3000)).expect("written");
        let mut recipe = example();
        recipe.data.files = vec!["text.txt".into()];
        recipe.model.as_mut().expect("a model").vocab_size = 280;
        recipe.train.steps = 40;
        recipe.sample = None;
        let out = folder.path().join("first");
        let options = LanguageOptions { export: Some(export), ..options(folder.path(), &out, 1, false) };
        let summary = train(&recipe, &options, |_| {}, |_| {}).unwrap_or_else(|e| panic!("{e}"));
        Trained { folder, recipe, summary }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A recipe that trains a file further, a little.
    fn further(&self, from: &str) -> Recipe {
        let mut recipe = Recipe { from: Some(from.into()), model: None, ..self.recipe.clone() };
        recipe.train.steps = 2;
        recipe.train.warm_up = 0;
        recipe.train.learning_rate = 1e-6;
        recipe
    }

    fn train(&self, recipe: &Recipe, out: &str) -> Result<(Summary, Vec<Progress>), String> {
        let mut lines = Vec::new();
        let options = options(self.folder.path(), &self.path(out), 1, false);
        let summary = train(recipe, &options, |_| {}, |line| lines.push(line.clone())).map_err(|e| e.to_string())?;
        Ok((summary, lines))
    }
}

fn weight(file: &Path, name: &str) -> Vec<f32> {
    let container = Container::open(file).expect("a model");
    let tensor = container.tensor(name).expect("a weight");
    container.bytes(tensor).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn a_file_of_any_kind_is_trained_further_from_where_it_stood() {
    let first = Trained::new(Dtype::F32);
    for (i, from) in ["first/model.gguf", "first/checkpoint.safetensors"].into_iter().enumerate() {
        let out = format!("further {i}");
        let (summary, lines) = first.train(&first.further(from), &out).unwrap_or_else(|e| panic!("{from}: {e}"));
        let (before, after) = (first.summary.test_bits_per_byte, summary.test_bits_per_byte);
        assert!((before - after).abs() < 1e-3, "{from}: {before} bits a byte before, {after} after");
        assert!(lines[0].loss < 1.5, "{from}: {}", lines[0].loss);
        let name = "model.layers.0.mlp.up_proj.weight";
        let (old, new) =
            (weight(&first.path("first/model.gguf"), name), weight(&first.path(&format!("{out}/model.gguf")), name));
        let moved = old.iter().zip(&new).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved > 0.0 && moved < 1e-4, "{from}: moved by {moved}");
    }
    let q8 = Trained::new(Dtype::Q8_0);
    let (summary, _) = q8.train(&q8.further("first/model.gguf"), "further").unwrap_or_else(|e| panic!("{e}"));
    assert!((summary.test_bits_per_byte - q8.summary.test_bits_per_byte).abs() < 0.02);
}

#[test]
fn a_llama2c_checkpoint_is_trained_further_with_the_tokenizer_beside_it() {
    let Some(model) = memwall_testdata::data("models-llama2c/aidreams260K.bin") else { return };
    let first = Trained::new(Dtype::F32);
    let tokenizer = model.parent().expect("a folder").read_dir().expect("listed").filter_map(|e| Some(e.ok()?.path()));
    for file in tokenizer.filter(|p| p.is_file()).chain([model.clone()]) {
        std::fs::copy(&file, first.path(file.file_name().and_then(|n| n.to_str()).expect("a name"))).expect("copied");
    }
    let recipe = first.further("aidreams260K.bin");
    let (_, lines) = first.train(&recipe, "further").unwrap_or_else(|e| panic!("{e}"));
    assert!(lines[1].loss.is_finite() && lines[0].loss < 8.0, "{lines:?}");
    let exported = Container::open(first.path("further/model.gguf")).expect("a model");
    assert_eq!(exported.metadata().require::<&str>("general.architecture").expect("a string"), "llama");
}

#[test]
fn what_does_not_fit_the_file_is_named() {
    let first = Trained::new(Dtype::F32);
    let refused = |recipe: &Recipe, parts: &[&str]| {
        let error = first.train(recipe, "refused").expect_err("refused");
        parts.iter().for_each(|part| assert!(error.contains(part), "{part} in: {error}"));
    };
    let good = first.further("first/model.gguf");
    let model = |change: &dyn Fn(&mut memwall_nn::ModelConfig)| {
        let mut model = first.recipe.model.clone().expect("a model");
        change(&mut model);
        Recipe { model: Some(model), ..good.clone() }
    };
    first.train(&model(&|m| m.max_context = 128), "refused").unwrap_or_else(|e| panic!("a shorter context fits: {e}"));
    refused(&model(&|m| m.d_model = 128), &["model.d_model is 128", "64 in", "model.gguf"]);
    refused(&model(&|m| m.vocab_size = 300), &["model.vocab_size is 300", "280 in"]);
    refused(&model(&|m| m.layers.push(m.layers[0].clone())), &["model.layers is of 2 entries", "of 1"]);
    let gla = |m: &mut memwall_nn::ModelConfig| {
        if let memwall_nn::MixerConfig::Gla(gla) = &mut m.layers[0].mixer {
            gla.heads = 4;
        }
    };
    refused(&model(&gla), &["model.layers.0.mixer.heads is 4", "2 in"]);
    refused(&first.further("absent.gguf"), &["absent.gguf"]);
    refused(&first.further("text.txt"), &["text.txt"]);
    let mut other = good.clone();
    std::fs::create_dir_all(first.path("other")).expect("a folder");
    other.data.tokenizer = Some("other/tokenizer.json".into());
    let settings = memwall_tokenizer::train::BpeSettings { vocab_size: 270, ..Default::default() };
    memwall_tokenizer::train::byte_level_bpe(&[first.path("text.txt")], &settings, first.path("other/tokenizer.json"))
        .expect("a tokenizer");
    refused(&other, &["vocab_size is 280", "other/tokenizer.json has 270 tokens"]);
}
