//! Any text read as a chat template writes a conversation, or gives an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memwall_tokenizer::{ChatTemplate, Message};

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::new(source, Some("<s>".into()), None) {
        let _ = template.render(&[Message::new("user", "hi"), Message::new("assistant", "yes")], true);
    }
});
