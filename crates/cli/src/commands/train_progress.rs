//! What a training shows while it goes on: a bar on a terminal, lines elsewhere, JSON where asked for.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use memwall_store::{ProcessMemory, format_size};
use memwall_train::language::Progress;

/// Steps between lines where nobody watches.
const LINE_EVERY: u64 = 20;

/// Where progress is shown.
pub enum Show {
    /// Every line as JSON, on standard output.
    Json,
    /// A bar on a terminal.
    Bar(ProgressBar),
    /// Some lines on standard error.
    Lines,
}

impl Show {
    /// The way that suits: JSON if asked for, a bar if standard error is a terminal.
    pub fn new(json: bool, steps: u64) -> Show {
        if json {
            return Show::Json;
        }
        if !std::io::stderr().is_terminal() {
            return Show::Lines;
        }
        let bar = ProgressBar::new(steps);
        // The template is a constant: a style that does not parse leaves the plain bar.
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len}, {eta} left, {msg}") {
            bar.set_style(style);
        }
        Show::Bar(bar)
    }

    /// The plan, before training begins.
    pub fn plan(&self, plan: &str) {
        match self {
            Show::Json => {}
            Show::Bar(bar) => bar.println(plan),
            Show::Lines => eprintln!("{plan}"),
        }
    }

    /// A step.
    pub fn line(&self, p: &Progress) {
        match self {
            Show::Json => {
                // A reader that has gone away does not end a training: its files say the same.
                let _ = writeln!(std::io::stdout(), "{}", serde_json::json!(p));
            }
            Show::Bar(bar) => {
                if bar.position() == 0 && p.step > 1 {
                    bar.set_position(p.step - 1);
                    bar.reset_eta();
                }
                bar.set_position(p.step);
                bar.set_message(figures(p));
                for event in events(p) {
                    bar.println(event);
                }
            }
            Show::Lines => {
                if p.step.is_multiple_of(LINE_EVERY) || p.step == p.steps {
                    eprintln!("step {}/{}: {}", p.step, p.steps, figures(p));
                }
                for event in events(p) {
                    eprintln!("{event}");
                }
            }
        }
    }

    /// The last step is done.
    pub fn end(&self) {
        if let Show::Bar(bar) = self {
            bar.finish();
        }
    }
}

fn figures(p: &Progress) -> String {
    let memory = ProcessMemory::read().map_or(String::new(), |m| format!(", {}", format_size(m.rss)));
    format!(
        "loss {:.4}, gradient {:.3}, rate {:.2e}, {:.0} tokens/s{memory}",
        p.loss, p.gradient_norm, p.rate, p.tokens_per_second
    )
}

/// What is not measured at every step.
fn events(p: &Progress) -> Vec<String> {
    let validation =
        p.validation_bits_per_byte.map(|b| format!("step {}: {b:.4} bits a byte on validation text", p.step));
    let sample = p.sample.as_ref().map(|text| format!("step {}: sample: {text}", p.step));
    validation.into_iter().chain(sample).collect()
}
