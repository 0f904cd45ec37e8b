//! Any bytes are a llama2.c model or tokenizer, or are refused.
#![no_main]

use formats::llama2c::{TokBin, check};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = check("fuzz.bin".as_ref(), bytes);
    let _ = TokBin::parse("fuzz.bin".as_ref(), bytes);
});
