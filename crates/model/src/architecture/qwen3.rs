//! Qwen 3 (Yang et al., 2025): a Llama whose queries and keys are normalized head by head before they are rotated.

use super::{Architecture, Description, Form, GgufForm, llama};
use crate::tensors::PairOrder;

fn form() -> Form {
    Form { head_norms: true, ..Form::LLAMA }
}

pub(super) const DESCRIPTION: Description = Description {
    name: "qwen3",
    class: "Qwen3ForCausalLM",
    from_hf: |hf| {
        let bias = hf.attention_bias == Some(true);
        llama::from_hf(hf, Architecture::Qwen3, Form { qkv_bias: bias, attention_out_bias: bias, ..form() })
    },
    gguf: Some(GgufForm {
        pair_order: PairOrder::Halves,
        epsilon: "attention.layer_norm_rms_epsilon",
        form: |_, _| form(),
    }),
    ..llama::DESCRIPTION
};
