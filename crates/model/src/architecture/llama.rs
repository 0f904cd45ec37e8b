//! Llama (Touvron et al., 2023) and what has its shape.

use super::{Activation, Architecture, Description, Form, GgufForm, activation, refuse_flag};
use crate::config::{Config, ConfigError, Rope};
use crate::tensors::{PairOrder, Role};
use backend::Heads;
use formats::hf_config::HfConfig;

pub(super) const DESCRIPTION: Description = Description {
    name: "llama",
    class: "LlamaForCausalLM",
    from_hf: |hf| {
        let (attention, ffn) = (hf.attention_bias == Some(true), hf.mlp_bias == Some(true));
        let form = Form { qkv_bias: attention, attention_out_bias: attention, ffn_bias: ffn, ..Form::LLAMA };
        from_hf(hf, Architecture::Llama, form)
    },
    folder_name,
    transposed: &[],
    gguf: Some(GgufForm {
        pair_order: PairOrder::Neighbours,
        epsilon: "attention.layer_norm_rms_epsilon",
        form: |gguf, _| Form {
            qkv_bias: gguf.contains("blk.0.attn_q.bias"),
            attention_out_bias: gguf.contains("blk.0.attn_output.bias"),
            ffn_bias: gguf.contains("blk.0.ffn_up.bias"),
            ..Form::LLAMA
        },
    }),
    block_forward: crate::llama::block_forward,
};

/// Defaults of transformers' `LlamaConfig`, for keys that a file leaves out.
mod absent {
    pub(super) const CONTEXT: usize = 2048;
    pub(super) const NORM_EPSILON: f32 = 1e-6;
    pub(super) const ROPE_THETA: f32 = 10_000.0;
    pub(super) const INITIALIZER_RANGE: f32 = 0.02;
}

/// The shape of a model that is a Llama but for its `form`.
pub(super) fn from_hf(hf: &HfConfig, architecture: Architecture, form: Form) -> Result<Config, ConfigError> {
    refuse_flag(hf, "use_sliding_window", "every token sees all before it")?;
    let silu = [("silu", Activation::SwiGlu), ("swish", Activation::SwiGlu)];
    activation(hf, &silu, "only `silu` is")?;
    let Some(ffn_width) = hf.intermediate_size else {
        return Err(ConfigError::Missing { field: "intermediate_size" });
    };
    let heads = hf.num_attention_heads;
    let head_dim = match hf.head_dim {
        Some(head_dim) => head_dim,
        None => even_share(hf)?,
    };
    Ok(Config {
        vocab: hf.vocab_size,
        width: hf.hidden_size,
        layers: hf.num_hidden_layers,
        heads: Heads { heads, kv_heads: hf.num_key_value_heads.unwrap_or(heads), head_dim },
        ffn_width,
        context: hf.max_position_embeddings.unwrap_or(absent::CONTEXT),
        norm_epsilon: hf.rms_norm_eps.unwrap_or(absent::NORM_EPSILON),
        rope: Rope { theta: hf.rope_theta.unwrap_or(absent::ROPE_THETA), scaling: crate::config::hf_scaling(hf)? },
        tied: hf.tie_word_embeddings.unwrap_or(false),
        bos: hf.bos_token_id,
        eos: hf.eos_token_id.clone(),
        architecture,
        form,
        initializer_range: hf.initializer_range.unwrap_or(absent::INITIALIZER_RANGE),
    })
}

/// `hidden_size / num_attention_heads`, which must be a whole number.
pub(super) fn even_share(hf: &HfConfig) -> Result<usize, ConfigError> {
    let heads = hf.num_attention_heads;
    if heads > 0 && hf.hidden_size.is_multiple_of(heads) {
        return Ok(hf.hidden_size / heads);
    }
    let rule = format!("a multiple of num_attention_heads = {heads} where head_dim is not given");
    Err(ConfigError::OutOfRange { field: "hidden_size", value: hf.hidden_size.to_string(), rule })
}

pub(super) fn folder_name(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Embedding => "model.embed_tokens.weight",
        Role::AttentionNorm => "model.layers.{}.input_layernorm.weight",
        Role::Query => "model.layers.{}.self_attn.q_proj.weight",
        Role::Key => "model.layers.{}.self_attn.k_proj.weight",
        Role::Value => "model.layers.{}.self_attn.v_proj.weight",
        Role::QueryBias => "model.layers.{}.self_attn.q_proj.bias",
        Role::KeyBias => "model.layers.{}.self_attn.k_proj.bias",
        Role::ValueBias => "model.layers.{}.self_attn.v_proj.bias",
        Role::QueryNorm => "model.layers.{}.self_attn.q_norm.weight",
        Role::KeyNorm => "model.layers.{}.self_attn.k_norm.weight",
        Role::AttentionOut => "model.layers.{}.self_attn.o_proj.weight",
        Role::AttentionOutBias => "model.layers.{}.self_attn.o_proj.bias",
        Role::FfnNorm => "model.layers.{}.post_attention_layernorm.weight",
        Role::Gate => "model.layers.{}.mlp.gate_proj.weight",
        Role::GateBias => "model.layers.{}.mlp.gate_proj.bias",
        Role::Up => "model.layers.{}.mlp.up_proj.weight",
        Role::UpBias => "model.layers.{}.mlp.up_proj.bias",
        Role::Down => "model.layers.{}.mlp.down_proj.weight",
        Role::DownBias => "model.layers.{}.mlp.down_proj.bias",
        Role::FinalNorm => "model.norm.weight",
        Role::Head => "lm_head.weight",
        Role::Positions
        | Role::ProjectIn
        | Role::ProjectOut
        | Role::Qkv
        | Role::QkvBias
        | Role::AttentionNormBias
        | Role::FfnNormBias
        | Role::FinalNormBias => return None,
    })
}
