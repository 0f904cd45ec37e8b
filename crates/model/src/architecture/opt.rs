//! OPT (Zhang et al., 2022): a GPT-2 with ReLU and separate projections; its table of positions begins with two rows that are
//! never used. OPT-350m puts norms after the additions, has no norm at the end, and projects narrower token vectors in and
//! out.

use super::{Activation, Architecture, Description, Form, activation, flag, llama, unsupported};
use crate::config::{Config, ConfigError, Rope};
use crate::tensors::Role;
use backend::Heads;
use formats::hf_config::HfConfig;

pub(super) const DESCRIPTION: Description = Description {
    name: "opt",
    class: "OPTForCausalLM",
    from_hf,
    folder_name,
    transposed: &[],
    gguf: None,
    block_forward: crate::gpt2::block_forward,
};

fn from_hf(hf: &HfConfig) -> Result<Config, ConfigError> {
    let activation = activation(hf, &[("relu", Activation::Relu)], "only `relu` is")?;
    if !flag(hf, "layer_norm_elementwise_affine", true)? {
        return unsupported("layer_norm_elementwise_affine", "false", "norms have weights and biases");
    }
    let Some(ffn_width) = hf.intermediate_size else {
        return Err(ConfigError::Missing { field: "ffn_dim" });
    };
    let (bias, norms_before) = (flag(hf, "enable_bias", true)?, flag(hf, "do_layer_norm_before", true)?);
    let form = Form {
        activation,
        qkv_bias: bias,
        attention_out_bias: bias,
        ffn_bias: bias,
        norms_after: !norms_before,
        final_norm: norms_before && !flag(hf, "_remove_final_layer_norm", false)?,
        token_width: token_width(hf)?.filter(|&width| width != hf.hidden_size),
        ..Form::LLAMA
    };
    let heads = hf.num_attention_heads;
    Ok(Config {
        vocab: hf.vocab_size,
        width: hf.hidden_size,
        layers: hf.num_hidden_layers,
        heads: Heads { heads, kv_heads: heads, head_dim: llama::even_share(hf)? },
        ffn_width,
        context: hf.max_position_embeddings.unwrap_or(2048),
        norm_epsilon: 1e-5, // PyTorch's own; the config has no key for it
        rope: Rope::NONE,
        tied: hf.tie_word_embeddings.unwrap_or(true),
        bos: hf.bos_token_id,
        eos: hf.eos_token_id.clone(),
        architecture: Architecture::Opt,
        form,
        initializer_range: hf.initializer_range.unwrap_or(0.02),
    })
}

fn token_width(hf: &HfConfig) -> Result<Option<usize>, ConfigError> {
    let field = "word_embed_proj_dim";
    let Some(value) = hf.other.get(field).filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_u64().and_then(|width| usize::try_from(width).ok()) {
        Some(width) => Ok(Some(width)),
        None => Err(ConfigError::OutOfRange { field, value: value.to_string(), rule: "a whole number".into() }),
    }
}

fn folder_name(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Embedding => "model.decoder.embed_tokens.weight",
        Role::Positions => "model.decoder.embed_positions.weight",
        Role::ProjectIn => "model.decoder.project_in.weight",
        Role::AttentionNorm => "model.decoder.layers.{}.self_attn_layer_norm.weight",
        Role::AttentionNormBias => "model.decoder.layers.{}.self_attn_layer_norm.bias",
        Role::Query => "model.decoder.layers.{}.self_attn.q_proj.weight",
        Role::Key => "model.decoder.layers.{}.self_attn.k_proj.weight",
        Role::Value => "model.decoder.layers.{}.self_attn.v_proj.weight",
        Role::QueryBias => "model.decoder.layers.{}.self_attn.q_proj.bias",
        Role::KeyBias => "model.decoder.layers.{}.self_attn.k_proj.bias",
        Role::ValueBias => "model.decoder.layers.{}.self_attn.v_proj.bias",
        Role::AttentionOut => "model.decoder.layers.{}.self_attn.out_proj.weight",
        Role::AttentionOutBias => "model.decoder.layers.{}.self_attn.out_proj.bias",
        Role::FfnNorm => "model.decoder.layers.{}.final_layer_norm.weight",
        Role::FfnNormBias => "model.decoder.layers.{}.final_layer_norm.bias",
        Role::Up => "model.decoder.layers.{}.fc1.weight",
        Role::UpBias => "model.decoder.layers.{}.fc1.bias",
        Role::Down => "model.decoder.layers.{}.fc2.weight",
        Role::DownBias => "model.decoder.layers.{}.fc2.bias",
        Role::FinalNorm => "model.decoder.final_layer_norm.weight",
        Role::FinalNormBias => "model.decoder.final_layer_norm.bias",
        Role::ProjectOut => "model.decoder.project_out.weight",
        Role::Head => "lm_head.weight",
        _ => return None,
    })
}
