//! Qwen 2 and 2.5 (Yang et al., 2024): a Llama whose query, key and value projections have biases.

use super::{Architecture, Description, Form, GgufForm, llama};
use crate::tensors::PairOrder;

fn form() -> Form {
    Form { qkv_bias: true, ..Form::LLAMA }
}

pub(super) const DESCRIPTION: Description = Description {
    name: "qwen2",
    class: "Qwen2ForCausalLM",
    from_hf: |hf| llama::from_hf(hf, Architecture::Qwen2, form()),
    gguf: Some(GgufForm {
        pair_order: PairOrder::Halves,
        epsilon: "attention.layer_norm_rms_epsilon",
        form: |_, _| form(),
    }),
    ..llama::DESCRIPTION
};
