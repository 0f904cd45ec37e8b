use super::*;
use insta::assert_snapshot;
use std::path::Path;

/// AMD-Llama-135m as its authors published it (the keys that matter, one that does not).
const AMD_135M: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
  "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 2048,
  "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 12, "num_hidden_layers": 12,
  "num_key_value_heads": 12, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": true,
  "vocab_size": 32000}"#;

/// Llama 3.2 in the spelling of transformers 5.
const NEW_SPELLING: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "bos_token_id": 128000, "dtype": "bfloat16",
  "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
  "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "llama", "num_attention_heads": 32,
  "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "tie_word_embeddings": true,
  "rope_parameters": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"},
  "vocab_size": 128256}"#;

fn parse(text: &str) -> Result<HfConfig, ConfigError> {
    HfConfig::parse(Path::new("config.json"), text.as_bytes())
}

#[test]
fn the_old_spelling_is_read() {
    let config = parse(AMD_135M).unwrap();
    assert_eq!((config.hidden_size, config.intermediate_size, config.vocab_size), (768, Some(2048), 32000));
    assert_eq!((config.rope_theta, config.rope_scaling), (Some(10000.0), None));
    assert_eq!((config.bos_token_id, config.eos_token_id), (Some(1), vec![2]));
    assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
    assert_eq!(config.rms_norm_eps, Some(1e-5));
    assert_eq!(config.other["use_cache"], true);
}

#[test]
fn the_new_spelling_is_read() {
    let config = parse(NEW_SPELLING).unwrap();
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context: 8192,
    };
    assert_eq!((config.rope_theta, config.rope_scaling), (Some(500_000.0), Some(scaling)));
    assert_eq!(config.eos_token_id, [128001, 128008, 128009]);
    assert_eq!((config.head_dim, config.num_key_value_heads), (Some(64), Some(8)));
}

#[test]
fn a_config_survives_writing() {
    for text in [AMD_135M, NEW_SPELLING] {
        let config = parse(text).unwrap();
        assert_eq!(parse(&config.to_json()).unwrap(), config);
    }
    let written = parse(AMD_135M).unwrap().to_json();
    assert!(written.contains("\"rms_norm_eps\": 1e-5") || written.contains("\"rms_norm_eps\": 0.00001"), "{written}");
    assert!(written.contains("\"rope_theta\": 10000.0"), "{written}");
}

#[test]
fn odd_but_harmless_values_are_read() {
    let old_llama3 = AMD_135M.replace("\"rope_scaling\": null", r#""rope_scaling": {"type": "linear", "factor": 2}"#);
    assert_eq!(parse(&old_llama3).unwrap().rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let config =
        AMD_135M.replace("\"hidden_size\": 768", "\"hidden_size\": 768.0").replace("bfloat16", "torch.float16");
    let config = parse(&config.replace("\"bos_token_id\": 1", "\"bos_token_id\": -1")).unwrap();
    assert_eq!((config.hidden_size, config.bos_token_id), (768, None));
    assert_eq!(config.dtype.as_deref(), Some("float16"));
    let yarn = NEW_SPELLING.replace("llama3", "yarn");
    assert_eq!(
        parse(&yarn).unwrap().rope_scaling,
        Some(RopeScaling::Yarn {
            factor: Some(32.0),
            original_context: Some(8192),
            attention_factor: None,
            mscales: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        })
    );
}

#[test]
fn wrong_values_are_refused_by_name() {
    let refuse = |from: &str, to: &str| {
        let text = AMD_135M.replace(from, to);
        assert_ne!(text, AMD_135M);
        parse(&text).unwrap_err().to_string()
    };
    assert_snapshot!(refuse("\"hidden_size\": 768", "\"hidden_size\": \"768\""), @r#"config.json: `hidden_size` is "768", not a whole number from 1 to 2147483647; correct the file or fetch it again"#);
    assert_snapshot!(refuse("\"hidden_size\": 768,", ""), @"config.json: `hidden_size` is missing; check that it is the config of a language model");
    assert_snapshot!(refuse("\"num_hidden_layers\": 12", "\"num_hidden_layers\": -12"), @"config.json: `num_hidden_layers` is -12, not a whole number from 1 to 2147483647; correct the file or fetch it again");
    assert_snapshot!(refuse("\"vocab_size\": 32000", "\"vocab_size\": 4294967296"), @"config.json: `vocab_size` is 4294967296, not a whole number from 1 to 2147483647; correct the file or fetch it again");
    assert_snapshot!(refuse("\"eos_token_id\": 2", "\"eos_token_id\": [2, \"</s>\"]"), @r#"config.json: `eos_token_id` is [2,"</s>"], not a token id or a list of token ids; correct the file or fetch it again"#);
    assert_snapshot!(refuse("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e-60"), @"config.json: `rms_norm_eps` is 1.0000000000000001e-60, not a number above 0 and below 1; correct the file or fetch it again");
    assert_snapshot!(refuse("\"rope_theta\": 10000.0", "\"rope_theta\": 1e300"), @"config.json: `rope_theta` is 1e+300, not a number above 0; correct the file or fetch it again");
    assert_snapshot!(refuse("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": \"no\""), @r#"config.json: `tie_word_embeddings` is "no", not true or false; correct the file or fetch it again"#);
    assert_snapshot!(refuse("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}"), @"config.json: `rope_scaling.factor` is 0.5, not a number of at least 1; correct the file or fetch it again");
    assert_snapshot!(refuse("\"rope_scaling\": null", "\"rope_parameters\": {\"rope_theta\": 1}"), @"config.json: `rope_theta` is 10000 but `rope_parameters.rope_theta` is 1; correct one of them");
    assert_snapshot!(refuse("\"rope_scaling\": null", "\"rope_parameters\": {\"full_attention\": {}}"), @r#"config.json: `rope_parameters` is {"full_attention":{}}, not one set of parameters for all layers, the only form that is supported; correct the file or fetch it again"#);
}

#[test]
fn what_is_no_config_is_refused() {
    let refuse = |text: &str| parse(text).unwrap_err().to_string();
    assert_snapshot!(refuse("[1, 2]"), @"config.json: holds [1,2], not an object of settings; check that it is the config of a model");
    assert_snapshot!(refuse("{\"a\": 1"), @"config.json: not valid JSON (EOF while parsing an object at line 1 column 7); fetch the file again");
    assert_snapshot!(refuse(&"[".repeat(100_000)), @"config.json: not valid JSON (recursion limit exceeded at line 1 column 128); fetch the file again");
}

#[test]
fn a_generation_config_is_read_and_written() {
    let parse = |text: &str| GenerationConfig::parse(Path::new("generation_config.json"), text.as_bytes());
    let text = r#"{"_from_model_config": true, "bos_token_id": 1, "do_sample": true, "eos_token_id": [2, 3],
        "temperature": 0.6, "top_k": 0, "top_p": 0.9, "transformers_version": "4.40.0"}"#;
    let config = parse(text).unwrap();
    assert_eq!((config.temperature, config.top_p, config.top_k), (Some(0.6), Some(0.9), None));
    assert_eq!(parse(&config.to_json()).unwrap(), config);
    assert!(config.to_json().contains("\"temperature\": 0.6"));
    assert_snapshot!(parse(r#"{"top_p": 1.5}"#).unwrap_err(), @"generation_config.json: `top_p` is 1.5, not a number from 0 to 1; correct the file or fetch it again");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(GenerationConfig::read(dir.path()).unwrap(), GenerationConfig::default());
}
