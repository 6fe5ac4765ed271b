//! Any bytes read as `tokenizer.json` give a tokenizer, or an error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use memwall_tokenizer::Tokenizer;

fuzz_target!(
    init: {
        // The tokenizer catches panics of the library it uses; the fuzzer's hook would abort before it can. Panics that
        // nothing catches still end the run.
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    },
    |bytes: &[u8]| {
        if let Ok(tokenizer) = Tokenizer::from_json(Path::new("tokenizer.json"), bytes)
            && let Ok(ids) = tokenizer.encode("a bé <s>", true, true)
        {
            let _ = tokenizer.decode(&ids, true);
        }
    }
);
