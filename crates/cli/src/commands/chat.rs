//! A conversation: each turn continues the cache of the turns before it.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use memwall_infer::sample::Sampler;
use memwall_infer::{Engine, Finish, Limits, generate};
use memwall_store::ProcessMemory;
use memwall_tokenizer::{Message, Tokenizer};

use super::run::{Args, timing};

/// What the model has seen: the tokens in the cache, and the conversation that they are.
struct Conversation {
    messages: Vec<Message>,
    tokens: Vec<u32>,
}

/// Reads turns from standard input until it ends.
pub fn run(
    args: &Args,
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    mut sampler: Sampler,
    stop: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let mut talk = Conversation { messages: Vec::new(), tokens: Vec::new() };
    let template = tokenizer.chat_template().is_some();
    if !template {
        eprintln!("This model has no chat template: it continues what you write. Ctrl-D ends.");
    }
    let context = engine.options().context;
    loop {
        eprint!("> ");
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            eprintln!();
            return Ok(ExitCode::SUCCESS);
        }
        stop.store(false, Ordering::Relaxed);
        let said = line.trim_end_matches(['\r', '\n']);
        if said.is_empty() {
            continue;
        }
        let whole = talk.after(tokenizer, said)?;
        let kept = continued(engine, &talk.tokens, &whole)?;
        if whole.len() > context {
            eprintln!(
                "The conversation has {} tokens, more than the context of {context}; it begins anew.",
                whole.len()
            );
            talk = Conversation { messages: Vec::new(), tokens: Vec::new() };
            engine.clear(0)?;
            continue;
        }
        let (history, prompt) = whole.split_at(kept);
        let mut out = std::io::stdout().lock();
        let mut text = |piece: &str| {
            out.write_all(piece.as_bytes())?;
            out.flush()
        };
        let limits = Limits { tokens: args.n.unwrap_or(context), stop };
        let made = generate(engine, Some(tokenizer), history, prompt, &mut sampler, limits, &mut text)?;
        writeln!(out)?;
        if std::io::stderr().is_terminal() {
            eprintln!("{}", timing(prompt.len(), &made, ProcessMemory::read().map_or(0, |m| m.hwm)));
        }
        let whole_length = engine.length(0);
        talk.tokens = whole;
        talk.tokens.extend_from_slice(&made.tokens);
        // The last token was said but not yet read.
        talk.tokens.truncate(whole_length);
        talk.messages.push(Message::new("assistant", made.text));
        if made.finish == Finish::Context {
            eprintln!("The context of {context} tokens is full; the conversation begins anew.");
            talk = Conversation { messages: Vec::new(), tokens: Vec::new() };
            engine.clear(0)?;
        }
    }
}

impl Conversation {
    /// The tokens of the conversation once the user has said that.
    fn after(&mut self, tokenizer: &Tokenizer, said: &str) -> anyhow::Result<Vec<u32>> {
        self.messages.push(Message::new("user", said));
        match tokenizer.chat_template() {
            Some(template) => {
                let text = template.render(&self.messages, true)?;
                Ok(tokenizer.encode(&text, false, true)?)
            }
            None => {
                let mut tokens = self.tokens.clone();
                tokens.extend(tokenizer.encode(said, self.tokens.is_empty(), true)?);
                Ok(tokens)
            }
        }
    }
}

/// How many of the tokens in the cache the new conversation begins with, at least one being left to read; the cache is
/// taken back to them.
fn continued(engine: &mut Engine, cached: &[u32], whole: &[u32]) -> anyhow::Result<usize> {
    let same = cached.iter().zip(whole).take_while(|(a, b)| a == b).count().min(whole.len().saturating_sub(1));
    if engine.rewind(0, same) {
        return Ok(same);
    }
    engine.clear(0)?;
    Ok(0)
}
