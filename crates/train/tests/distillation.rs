//! Training from a teacher's likeliest tokens.

mod small;

use std::path::{Path, PathBuf};

use memwall_train::language::{LanguageOptions, Progress, Summary, train};
use memwall_train::{DistillationRecipe, Recipe};

use small::{example, options, text};

/// A folder with a text, a teacher trained on it, and the teacher's recipe.
struct Taught {
    folder: tempfile::TempDir,
    recipe: Recipe,
    summary: Summary,
}

impl Taught {
    fn new() -> Taught {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("text.txt"), text(3000)).expect("written");
        let mut recipe = example();
        recipe.data.files = vec!["text.txt".into()];
        let model = recipe.model.as_mut().expect("a model");
        model.vocab_size = 280;
        model.layers = vec![model.layers[0].clone(); 2];
        recipe.train.steps = 40;
        recipe.sample = None;
        let (summary, _) = run(folder.path(), &recipe, "teacher").unwrap_or_else(|e| panic!("{e}"));
        Taught { folder, recipe, summary }
    }

    /// A student of one layer that learns from the teacher alone.
    fn student(&self) -> Recipe {
        let mut recipe = self.recipe.clone();
        recipe.model.as_mut().expect("a model").layers.truncate(1);
        recipe.distillation =
            Some(DistillationRecipe { teacher: "teacher/model.gguf".into(), top_k: 16, temperature: 2.0, weight: 1.0 });
        recipe
    }

    fn run(&self, recipe: &Recipe, out: &str) -> Result<(Summary, Vec<Progress>), String> {
        run(self.folder.path(), recipe, out)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn run(folder: &Path, recipe: &Recipe, out: &str) -> Result<(Summary, Vec<Progress>), String> {
    let mut lines = Vec::new();
    let options = options(folder, &folder.join(out), 1, false);
    let summary = train(recipe, &options, |_| {}, |line| lines.push(line.clone())).map_err(|e| e.to_string())?;
    Ok((summary, lines))
}

#[test]
fn a_student_learns_from_the_teacher_alone() {
    let taught = Taught::new();
    let recipe = taught.student();
    let (summary, lines) = taught.run(&recipe, "student").unwrap_or_else(|e| panic!("{e}"));
    assert!(summary.parameters < taught.summary.parameters);
    let (first, last) = (lines[0].loss, lines[lines.len() - 1].loss);
    assert!(last < first / 4.0, "the divergence from the teacher went from {first} to {last}");
    let (ours, theirs) = (summary.test_bits_per_byte, taught.summary.test_bits_per_byte);
    assert!(ours < theirs + 0.6, "{ours} bits a byte; the teacher {theirs}");
    // The tokenizer is the teacher's own, so that none was trained.
    assert!(!taught.path("student/tokenizer.json").exists());
}

#[test]
fn it_is_deterministic_and_resumes_to_the_same_bits() {
    let taught = Taught::new();
    let mut recipe = taught.student();
    recipe.train.steps = 8;
    recipe.train.warm_up = 2;
    recipe.train.checkpoint_every = 3;
    if let Some(d) = recipe.distillation.as_mut() {
        d.weight = 0.5;
    }
    let weights = |out: &str| std::fs::read(taught.path(out).join("model.gguf")).expect("a model");
    taught.run(&recipe, "whole").unwrap_or_else(|e| panic!("{e}"));
    let out = taught.path("cut");
    let stop = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let options = options(taught.folder.path(), &out, 1, false);
        train(&recipe, &options, |_| {}, |line| assert!(line.step < 5, "stopped here")).is_ok()
    }));
    assert!(stop.is_err(), "stopped in the middle");
    let options = LanguageOptions { resume: true, ..options(taught.folder.path(), &out, 2, true) };
    train(&recipe, &options, |_| {}, |_| {}).unwrap_or_else(|e| panic!("{e}"));
    assert!(weights("whole") == weights("cut"));
}

#[test]
fn teachers_that_do_not_fit_are_refused() {
    let taught = Taught::new();
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = taught.student();
        change(&mut recipe);
        taught.run(&recipe, "refused").expect_err("refused")
    };
    let of = |recipe: &mut Recipe, teacher: &str| {
        recipe.distillation.as_mut().expect("a teacher").teacher = teacher.into();
    };
    let error = refused(&|r| of(r, "nobody.gguf"));
    assert!(error.contains("distillation.teacher") && error.contains("nobody.gguf"), "{error}");
    let error = refused(&|r| of(r, "text.txt"));
    assert!(error.contains("distillation.teacher") && error.contains("text.txt"), "{error}");
    let error = refused(&|r| {
        let model = r.model.as_mut().expect("a model");
        model.max_context *= 4;
        r.train.window = model.max_context;
        r.train.batch = 1;
    });
    assert!(error.contains("distillation.teacher") && error.contains("train.window"), "{error}");
    let error = refused(&|r| r.model.as_mut().expect("a model").vocab_size = 300);
    assert!(error.contains("it has 280 tokens, the model 300"), "{error}");

    let parsed = |keys: &str| {
        let text = toml::to_string(&taught.student()).expect("a recipe").replace("top_k = 16", keys);
        Recipe::parse(Path::new("r.toml"), &text).expect_err("refused").to_string()
    };
    assert!(parsed("top_k = 0").contains("distillation.top_k"));
    assert!(parsed("top_k = 281").contains("distillation.top_k"));
    assert!(parsed("topk = 16").contains("did you mean `top_k`"));
}
