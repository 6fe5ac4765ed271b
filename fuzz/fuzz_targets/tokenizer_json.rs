//! Any bytes read as `tokenizer.json` give a tokenizer, or an error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use memwall_tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_json(Path::new("tokenizer.json"), bytes)
        && let Ok(ids) = tokenizer.encode("a bé <s>", true, true)
    {
        let _ = tokenizer.decode(&ids, true);
    }
});
