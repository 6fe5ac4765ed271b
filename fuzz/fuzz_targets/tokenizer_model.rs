//! Any bytes read as `tokenizer.model` give a tokenizer that encodes what it can and decodes its own ids, or an error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use memwall_tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_sentencepiece_bytes(Path::new("tokenizer.model"), bytes)
        && let Ok(ids) = tokenizer.encode("a bé <s> ab", true, true)
    {
        tokenizer.decode(&ids, true).expect("the ids are its own");
    }
});
