//! What is not computed, or not understood, is refused by its name: architectures, settings, tensors.

use crate::batch::scalar;
use crate::golden::golden;
use formats::gguf::{self, Gguf, Value};
use formats::hf_config::HfConfig;
use formats::{Encoding, StoredTensor, file};
use model::{Config, Source, export};
use serde_json::{Value as Json, json};

/// What is said of a golden model's config with one key changed.
fn refused(name: &str, key: &str, value: Json) -> String {
    let text = file::read_to_string(&golden(name).join("config.json")).unwrap();
    let mut config: Json = serde_json::from_str(&text).unwrap();
    config[key] = value;
    match HfConfig::parse("config.json".as_ref(), config.to_string().as_bytes()) {
        Ok(hf) => Config::from_hf(&hf).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn settings_that_change_the_result_are_refused_by_name() {
    let yarn = |key: &str, value: Json| {
        let mut yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
        yarn[key] = value;
        yarn
    };
    for (name, key, value, named) in [
        ("gpt2", "model_type", json!("bloom"), "model_type is `bloom`, which is not supported (`llama`, "),
        ("gpt2", "architectures", json!(["GPT2Model"]), "architectures is `GPT2Model`"),
        ("gpt2", "architectures", json!(["OPTForCausalLM"]), "architectures is `OPTForCausalLM`"),
        ("gpt2", "activation_function", json!("gelu"), "hidden_act is `gelu`"),
        ("gpt2", "scale_attn_weights", json!(false), "scale_attn_weights is `false`"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx is `true`"),
        ("gpt2", "add_cross_attention", json!("yes"), "add_cross_attention is \"yes\", but it must be true or false"),
        ("gpt2", "n_head", json!(3), "hidden_size is 20, but it must be a multiple of num_attention_heads = 3"),
        ("opt", "activation_function", json!("gelu"), "hidden_act is `gelu`"),
        ("opt", "layer_norm_elementwise_affine", json!(false), "layer_norm_elementwise_affine is `false`"),
        ("opt", "word_embed_proj_dim", json!(0), "word_embed_proj_dim is 0"),
        ("opt", "word_embed_proj_dim", json!("x"), "word_embed_proj_dim is \"x\""),
        ("opt", "ffn_dim", json!(null), "ffn_dim is missing"),
        ("qwen3", "use_sliding_window", json!(true), "use_sliding_window is `true`"),
        ("qwen3", "hidden_act", json!("relu"), "hidden_act is `relu`"),
        ("smollm3", "no_rope_layers", json!([1, 0]), "no_rope_layers is `[1,0]`"),
        ("smollm3", "no_rope_layers", json!([1, 0, 2, 1]), "no_rope_layers is `[1,0,2,1]`"),
        ("smollm3", "no_rope_layers", json!("all"), "no_rope_layers is `\"all\"`"),
        ("qwen3", "partial_rotary_factor", json!(0.5), "`partial_rotary_factor` is 0.5, not 1"),
        ("llama_yarn", "rope_parameters", yarn("partial_rotary_factor", json!(0.5)), "rotary_factor` is 0.5, not 1"),
        ("llama_yarn", "rope_parameters", json!({"rope_type": "longrope"}), "rope_scaling.rope_type is `longrope`"),
        ("llama_yarn", "rope_parameters", yarn("beta_fast", json!(0.5)), "rope_scaling.beta_fast is 0.5"),
        ("llama_yarn", "rope_parameters", yarn("factor", json!(0.5)), "rope_parameters.factor` is 0.5"),
        ("llama_yarn", "rope_parameters", yarn("truncate", json!(3)), "rope_parameters.truncate` is 3"),
    ] {
        let said = refused(name, key, value);
        assert!(said.contains(named), "{name} {key}: {said}");
    }
}

/// What is said of a GGUF file of GPT-2's golden model after a change of its keys and tensors.
fn refused_gguf(change: impl Fn(&mut Vec<(String, Value)>, &mut Vec<StoredTensor<'_>>)) -> String {
    let (b, folder) = (scalar(), tempfile::tempdir().unwrap());
    let (sound, changed) = (folder.path().join("sound.gguf"), folder.path().join("changed.gguf"));
    export::to_gguf(&b, &golden("gpt2"), Encoding::F32, &sound, &[]).unwrap();
    let gguf = Gguf::open(&sound).unwrap();
    let mut entries: Vec<(String, Value)> = gguf.entries().map(|(key, value)| (key.into(), value.clone())).collect();
    let mut tensors: Vec<StoredTensor<'_>> = gguf.tensors().collect();
    change(&mut entries, &mut tensors);
    gguf::write(&changed, &entries, &tensors).unwrap();
    Source::open(&changed).unwrap_err().to_string()
}

#[test]
fn gguf_files_with_more_or_less_than_the_model_are_refused_by_name() {
    let said = refused_gguf(|_, tensors| {
        let name = "blk.1.attn_rot_embd.weight".into();
        tensors.push(StoredTensor { name, encoding: Encoding::F32, shape: vec![4], bytes: &[0; 16] });
    });
    assert!(said.contains("tensor `blk.1.attn_rot_embd.weight` is no part of a `gpt2` model of this config"), "{said}");

    let said = refused_gguf(|_, tensors| tensors.retain(|tensor| tensor.name != "blk.0.ffn_up.bias"));
    assert!(said.contains("blk.0.ffn_up.bias"), "{said}");

    let said = refused_gguf(|entries, _| entries[0].1 = Value::String("falcon".into()));
    assert!(said.contains("general.architecture is `falcon`, which is not supported"), "{said}");
    assert!(said.contains("`llama`, `qwen2`, `qwen3`, `smollm3` and `gpt2` are"), "{said}");

    let said = refused_gguf(|entries, _| entries.retain(|(key, _)| key != "gpt2.attention.layer_norm_epsilon"));
    assert!(said.contains("gpt2.attention.layer_norm_epsilon"), "{said}");
}
