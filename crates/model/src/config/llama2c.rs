//! `Config` from the header of a llama2.c file.

use crate::config::{Config, Rope, RopeScaling};
use crate::{Architecture, ConfigError, Form, tensors};
use backend::Heads;
use formats::llama2c::Shape;
use tensors::Role;

impl Config {
    /// The shape in the header; what the header leaves out is what llama2.c's `run.c` has: ε = 10⁻⁵, θ = 10⁴, token 1
    /// begins a text, and (as in its training data) 1 and 2 end one.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`].
    pub fn from_llama2c(shape: Shape) -> Result<Self, ConfigError> {
        let Shape { dim, hidden_dim, layers, heads, kv_heads, vocab, tied, seq_len } = shape;
        let head_dim = dim.checked_div(heads).unwrap_or(0);
        let config = Self {
            vocab,
            width: dim,
            layers,
            heads: Heads { heads, kv_heads, head_dim },
            ffn_width: hidden_dim,
            context: seq_len,
            norm_epsilon: 1e-5,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
            tied,
            bos: Some(1).filter(|_| vocab > 1),
            eos: [1, 2].into_iter().filter(|&id| (id as usize) < vocab).collect(),
            architecture: Architecture::Llama,
            form: Form::LLAMA,
            initializer_range: 0.02,
        };
        config.validate()?;
        Ok(config)
    }
}

impl tensors::Tensor {
    /// Its name among the tensors of a llama2.c file; elsewhere a name that no such file has.
    pub fn llama2c_name(&self) -> String {
        let in_block = match self.role {
            Role::Embedding => return "token_embedding_table".into(),
            Role::FinalNorm => return "rms_final_weight".into(),
            Role::Head => return "wcls".into(),
            Role::AttentionNorm => "rms_att_weight",
            Role::Query => "wq",
            Role::Key => "wk",
            Role::Value => "wv",
            Role::AttentionOut => "wo",
            Role::FfnNorm => "rms_ffn_weight",
            Role::Gate => "w1",
            Role::Down => "w2",
            Role::Up => "w3",
            _ => return self.gguf_name(),
        };
        format!("layers.{}.{in_block}", self.layer)
    }
}
