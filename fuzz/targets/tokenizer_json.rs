//! Any bytes are a tokenizer.json or are refused; a tokenizer encodes and decodes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = tokenizer::Tokenizer::from_json_bytes(bytes) {
        tokenizer.decode(&tokenizer.encode(" Ein Wört,\n\tand 12 more…"));
    }
});
