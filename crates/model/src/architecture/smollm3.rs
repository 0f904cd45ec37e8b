//! SmolLM 3 (Bakouch et al., 2025): a Llama in which every fourth layer, as a rule, does not rotate queries and keys (NoPE,
//! Kazemnejad et al., 2023).

use super::{Architecture, Description, Form, GgufForm, llama, unsupported};
use crate::ConfigError;
use crate::tensors::PairOrder;
use formats::hf_config::HfConfig;
use serde_json::Value;

/// Every so many layers one does not rotate, where a file does not say; GGUF files never do.
const INTERVAL: usize = 4;

pub(super) const DESCRIPTION: Description = Description {
    name: "smollm3",
    class: "SmolLM3ForCausalLM",
    from_hf: |hf| {
        let (attention, ffn) = (hf.attention_bias == Some(true), hf.mlp_bias == Some(true));
        let form = Form { qkv_bias: attention, attention_out_bias: attention, ffn_bias: ffn, ..Form::LLAMA };
        llama::from_hf(hf, Architecture::SmolLm3, Form { rotated: rotated(hf)?, ..form })
    },
    gguf: Some(GgufForm {
        pair_order: PairOrder::Neighbours,
        epsilon: "attention.layer_norm_rms_epsilon",
        form: |_, layers| Form { rotated: every(INTERVAL, layers), ..Form::LLAMA },
    }),
    ..llama::DESCRIPTION
};

/// Layers `interval − 1`, `2·interval − 1` … do not rotate.
fn every(interval: usize, layers: usize) -> Vec<bool> {
    (1..=layers.min(1 << 10)).map(|layer| !layer.is_multiple_of(interval)).collect()
}

/// Which layers rotate: 1 or 0 for each in `no_rope_layers` (1 rotates, whatever the name says).
fn rotated(hf: &HfConfig) -> Result<Vec<bool>, ConfigError> {
    let listed = match hf.other.get("no_rope_layers") {
        None | Some(Value::Null) => {
            let interval = match hf.other.get("no_rope_layer_interval") {
                None | Some(Value::Null) => INTERVAL,
                Some(stated) => match stated.as_u64().and_then(|interval| usize::try_from(interval).ok()) {
                    Some(interval) if interval > 0 => interval,
                    _ => return unsupported("no_rope_layer_interval", stated, "a whole number of at least 1 is"),
                },
            };
            return Ok(every(interval, hf.num_hidden_layers));
        }
        Some(listed) => listed,
    };
    let flag =
        |value: &Value| value.as_bool().or_else(|| value.as_u64().filter(|&flag| flag < 2).map(|flag| flag == 1));
    let flags: Option<Vec<bool>> = listed.as_array().and_then(|list| list.iter().map(flag).collect());
    match flags.filter(|flags| flags.len() == hf.num_hidden_layers) {
        Some(flags) => Ok(flags),
        None => unsupported("no_rope_layers", listed, "a list of 1 and 0, one for each layer, is"),
    }
}
