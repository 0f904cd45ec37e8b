//! GPT-2 (Radford et al., 2019): layer norms, learned positions, biases everywhere, GELU; queries, keys and values in one
//! matrix. transformers keeps its matrices as `inputs × outputs` (the class `Conv1D`).

use super::{Activation, Architecture, Description, Form, GgufForm, activation, llama, refuse_flag, unsupported};
use crate::config::{Config, ConfigError, Rope};
use crate::tensors::{PairOrder, Role};
use backend::Heads;
use formats::hf_config::HfConfig;

pub(super) const DESCRIPTION: Description = Description {
    name: "gpt2",
    class: "GPT2LMHeadModel",
    from_hf,
    folder_name,
    transposed: &[Role::Qkv, Role::AttentionOut, Role::Up, Role::Down],
    gguf: Some(GgufForm {
        pair_order: PairOrder::Halves,
        epsilon: "attention.layer_norm_epsilon",
        form: |_, _| Form::gpt2(),
    }),
    block_forward: crate::gpt2::block_forward,
};

fn from_hf(hf: &HfConfig) -> Result<Config, ConfigError> {
    let known = [("gelu_new", Activation::Gelu), ("gelu_pytorch_tanh", Activation::Gelu), ("relu", Activation::Relu)];
    let activation = activation(hf, &known, "`gelu_new` and `relu` are")?;
    refuse_flag(hf, "scale_attn_by_inverse_layer_idx", "scores are scaled by the width of a head alone")?;
    refuse_flag(hf, "add_cross_attention", "there is no encoder to attend to")?;
    if !super::flag(hf, "scale_attn_weights", true)? {
        return unsupported("scale_attn_weights", "false", "scores are scaled by the width of a head");
    }
    let heads = hf.num_attention_heads;
    Ok(Config {
        vocab: hf.vocab_size,
        width: hf.hidden_size,
        layers: hf.num_hidden_layers,
        heads: Heads { heads, kv_heads: heads, head_dim: llama::even_share(hf)? },
        ffn_width: hf.intermediate_size.unwrap_or(hf.hidden_size.saturating_mul(4)),
        context: hf.max_position_embeddings.unwrap_or(1024),
        norm_epsilon: hf.rms_norm_eps.unwrap_or(1e-5),
        rope: Rope::NONE,
        tied: hf.tie_word_embeddings.unwrap_or(true),
        bos: hf.bos_token_id,
        eos: hf.eos_token_id.clone(),
        architecture: Architecture::Gpt2,
        form: Form { activation, ..Form::gpt2() },
        initializer_range: hf.initializer_range.unwrap_or(0.02),
    })
}

fn folder_name(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Embedding => "transformer.wte.weight",
        Role::Positions => "transformer.wpe.weight",
        Role::AttentionNorm => "transformer.h.{}.ln_1.weight",
        Role::AttentionNormBias => "transformer.h.{}.ln_1.bias",
        Role::Qkv => "transformer.h.{}.attn.c_attn.weight",
        Role::QkvBias => "transformer.h.{}.attn.c_attn.bias",
        Role::AttentionOut => "transformer.h.{}.attn.c_proj.weight",
        Role::AttentionOutBias => "transformer.h.{}.attn.c_proj.bias",
        Role::FfnNorm => "transformer.h.{}.ln_2.weight",
        Role::FfnNormBias => "transformer.h.{}.ln_2.bias",
        Role::Up => "transformer.h.{}.mlp.c_fc.weight",
        Role::UpBias => "transformer.h.{}.mlp.c_fc.bias",
        Role::Down => "transformer.h.{}.mlp.c_proj.weight",
        Role::DownBias => "transformer.h.{}.mlp.c_proj.bias",
        Role::FinalNorm => "transformer.ln_f.weight",
        Role::FinalNormBias => "transformer.ln_f.bias",
        Role::Head => "lm_head.weight",
        _ => return None,
    })
}
