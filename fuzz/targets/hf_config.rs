//! Any bytes are a config or are refused; what is read survives writing.
#![no_main]

use formats::hf_config::{GenerationConfig, HfConfig};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file = "fuzz.json".as_ref();
    if let Ok(config) = HfConfig::parse(file, bytes) {
        HfConfig::parse(file, config.to_json().as_bytes()).expect("our own text");
    }
    if let Ok(config) = GenerationConfig::parse(file, bytes) {
        assert_eq!(GenerationConfig::parse(file, config.to_json().as_bytes()).expect("our own text"), config);
    }
});
