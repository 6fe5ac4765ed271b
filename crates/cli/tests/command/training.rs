//! A folder with a recipe and a text, and trainings in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use memwall_formats::Container;
use serde_json::Value;

use crate::{memwall, text};

/// A recipe and its text in a folder that goes when the test ends.
pub struct Training {
    folder: tempfile::TempDir,
}

/// A small hybrid; `width` sets how large its checkpoint is. Keys of `[train]` follow.
pub fn recipe(width: usize, steps: u64, train: &str) -> String {
    format!(
        "name = \"small\"\n\
         [model]\nvocab_size = 280\nd_model = {width}\nmax_context = 128\n\
         [[model.layers]]\n\
         mixer = {{ kind = \"gla\", heads = 2, key_width = 16, value_width = 16 }}\n\
         channel = {{ kind = \"glu\", hidden = {width} }}\n\
         [[model.layers]]\n\
         mixer = {{ kind = \"attention\", heads = 2, kv_heads = 1, head_dim = 16, rope = {{}} }}\n\
         channel = {{ kind = \"glu\", hidden = {width} }}\n\
         [data]\nfiles = [\"text.txt\"]\n\
         [train]\nsteps = {steps}\nbatch = 2\nwindow = 32\nlearning_rate = 3e-3\n{train}\n"
    )
}

/// A line of `metrics.jsonl` without the one figure that is not the same in each run.
fn without_time(line: &str) -> Value {
    let mut value: Value = serde_json::from_str(line).expect("a whole line of JSON");
    value.as_object_mut().expect("an object").remove("tokens_per_second").expect("a speed");
    value
}

impl Training {
    pub fn new(recipe: &str) -> Training {
        let folder = tempfile::tempdir().expect("a folder");
        let words = ["the", "cat", "sees", "a", "dog", "that", "follows", "my", "friend", "home"];
        let mut state = 7_u32;
        let mut text = String::new();
        for _ in 0..6000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.push_str(words[(state >> 16) as usize % words.len()]);
            text.push(if state >> 28 == 0 { '\n' } else { ' ' });
        }
        fs::write(folder.path().join("text.txt"), text).expect("written");
        fs::write(folder.path().join("recipe.toml"), recipe).expect("written");
        Training { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The arguments of a training into `out`.
    pub fn args<'a>(&'a self, out: &'a Path, more: &[&'a str]) -> Vec<String> {
        let (recipe, data) = (self.path().join("recipe.toml"), self.path());
        let mut args = vec!["train", text(&recipe), "--data", text(data), "--out", text(out), "--threads", "1"];
        args.extend(more);
        args.into_iter().map(String::from).collect()
    }

    /// Trains into `out` to the end; the lines that it prints.
    pub fn run(&self, out: &Path, more: &[&str]) -> Vec<Value> {
        let args = self.args(out, more);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--json"]).collect();
        let output = memwall(&args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// What must be refused; the message.
    pub fn refused(&self, out: &Path, more: &[&str], parts: &[&str]) {
        let args = self.args(out, more);
        crate::refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    }

    /// Starts a training that somebody will kill.
    pub fn spawn(&self, out: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_memwall"))
            .args(self.args(out, &["--resume"]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts")
    }
}

/// All that a training leaves, but for times: checkpoint, model, lines.
#[derive(PartialEq)]
pub struct Left {
    checkpoint: Vec<(String, Vec<u8>)>,
    model: Vec<u8>,
    pub lines: Vec<Value>,
}

impl Left {
    pub fn of(out: &Path) -> Left {
        let container = Container::open(out.join("checkpoint.safetensors")).expect("a checkpoint");
        let checkpoint = container.tensors().iter().map(|t| (t.name.clone(), container.bytes(t).to_vec())).collect();
        let lines = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
        Left {
            checkpoint,
            model: fs::read(out.join("model.gguf")).expect("a model"),
            lines: lines.lines().map(without_time).collect(),
        }
    }

    #[track_caller]
    pub fn assert_equals(&self, other: &Left) {
        assert_eq!(self.lines, other.lines, "the lines of a step each");
        assert!(self.checkpoint == other.checkpoint, "weights and moments, bit for bit");
        assert!(self.model == other.model, "the exported model, byte for byte");
    }
}

/// The files of a folder, hidden ones too.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}
