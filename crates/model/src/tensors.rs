//! The tensors of a Llama model: which there are, their shapes, and their names in Hugging Face and GGUF files.

use crate::Config;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Rows of token vectors.
    Embedding,
    /// RMSNorm before attention.
    AttentionNorm,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Added to queries, where the architecture has biases.
    QueryBias,
    /// Added to keys.
    KeyBias,
    /// Added to values.
    ValueBias,
    /// Projection of the attended values back into the residual stream.
    AttentionOut,
    /// RMSNorm before the feed-forward layer.
    FfnNorm,
    /// Gate projection, whose SiLU multiplies `Up`'s output.
    Gate,
    /// Up projection.
    Up,
    /// Projection of the feed-forward layer back into the residual stream.
    Down,
    /// RMSNorm after the last block.
    FinalNorm,
    /// Output projection to the vocabulary; absent where it is the embedding itself.
    Head,
}

impl Role {
    /// The roles of one block, in the order of the forward pass.
    pub const BLOCK: [Self; 9] = [
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOut,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// What is added to queries, keys and values where the architecture has biases.
    pub const QKV_BIAS: [Self; 3] = [Self::QueryBias, Self::KeyBias, Self::ValueBias];

    /// Whether it is a vector, not a matrix: weights of an RMSNorm, or a bias.
    pub const fn is_vector(self) -> bool {
        matches!(self, Self::AttentionNorm | Self::FfnNorm | Self::FinalNorm) || self.is_bias()
    }

    const fn is_bias(self) -> bool {
        matches!(self, Self::QueryBias | Self::KeyBias | Self::ValueBias)
    }
}

/// One tensor, as files name it (query, key and value are apart there).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// What it is for.
    pub role: Role,
    /// Its block; 0 for a tensor outside the blocks.
    pub layer: usize,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features; numbers of a vector.
    pub cols: usize,
}

impl Tensor {
    /// The tensor of this role in a model of this shape.
    pub fn new(config: &Config, role: Role, layer: usize) -> Self {
        let (width, heads) = (config.width, config.heads);
        let (rows, cols) = match role {
            Role::Embedding | Role::Head => (config.vocab, width),
            Role::AttentionNorm | Role::FfnNorm | Role::FinalNorm => (1, width),
            Role::Query => (heads.query_width(), width),
            Role::Key | Role::Value => (heads.kv_width(), width),
            Role::QueryBias => (1, heads.query_width()),
            Role::KeyBias | Role::ValueBias => (1, heads.kv_width()),
            Role::AttentionOut => (width, heads.query_width()),
            Role::Gate | Role::Up => (config.ffn_width, width),
            Role::Down => (width, config.ffn_width),
        };
        Self { role, layer, rows, cols }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no elements: never, in a valid config.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape that a file states, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        if self.role.is_vector() { vec![self.cols] } else { vec![self.rows, self.cols] }
    }

    /// Its name in a Hugging Face folder.
    pub fn name(&self) -> String {
        let in_block = match self.role {
            Role::Embedding => return "model.embed_tokens.weight".into(),
            Role::FinalNorm => return "model.norm.weight".into(),
            Role::Head => return "lm_head.weight".into(),
            Role::AttentionNorm => "input_layernorm",
            Role::Query | Role::QueryBias => "self_attn.q_proj",
            Role::Key | Role::KeyBias => "self_attn.k_proj",
            Role::Value | Role::ValueBias => "self_attn.v_proj",
            Role::AttentionOut => "self_attn.o_proj",
            Role::FfnNorm => "post_attention_layernorm",
            Role::Gate => "mlp.gate_proj",
            Role::Up => "mlp.up_proj",
            Role::Down => "mlp.down_proj",
        };
        format!("model.layers.{}.{in_block}.{}", self.layer, self.ending())
    }

    /// Its name in a GGUF file.
    pub fn gguf_name(&self) -> String {
        let in_block = match self.role {
            Role::Embedding => return "token_embd.weight".into(),
            Role::FinalNorm => return "output_norm.weight".into(),
            Role::Head => return "output.weight".into(),
            Role::AttentionNorm => "attn_norm",
            Role::Query | Role::QueryBias => "attn_q",
            Role::Key | Role::KeyBias => "attn_k",
            Role::Value | Role::ValueBias => "attn_v",
            Role::AttentionOut => "attn_output",
            Role::FfnNorm => "ffn_norm",
            Role::Gate => "ffn_gate",
            Role::Up => "ffn_up",
            Role::Down => "ffn_down",
        };
        format!("blk.{}.{in_block}.{}", self.layer, self.ending())
    }

    const fn ending(&self) -> &'static str {
        if self.role.is_bias() { "bias" } else { "weight" }
    }
}

/// All tensors of a model in the order of the forward pass.
pub fn all(config: &Config) -> Vec<Tensor> {
    let mut tensors = vec![Tensor::new(config, Role::Embedding, 0)];
    for layer in 0..config.layers {
        let biases = Role::QKV_BIAS.into_iter().filter(|_| config.architecture.has_qkv_bias());
        tensors.extend(Role::BLOCK.into_iter().chain(biases).map(|role| Tensor::new(config, role, layer)));
    }
    tensors.push(Tensor::new(config, Role::FinalNorm, 0));
    if !config.tied {
        tensors.push(Tensor::new(config, Role::Head, 0));
    }
    tensors
}

/// Rows of a rotated projection in the other order of pairs.
///
/// Hugging Face lays the pairs of a head out as halves (element `i` turns with `i + head_dim/2`), llama.cpp and
/// llama2.c as neighbours (`2i` with `2i + 1`). A row is an output feature, so whole rows move and an encoded row
/// stays as it is. `rows` holds `heads · head_dim` rows of `row_bytes` each.
pub(crate) fn reorder_pairs(rows: &[u8], head_dim: usize, row_bytes: usize, order: PairOrder) -> Vec<u8> {
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * row_bytes) {
        for to in 0..head_dim {
            let from = match order {
                PairOrder::Halves => 2 * (to % half) + to / half,
                PairOrder::Neighbours => (to % 2) * half + to / 2,
            };
            out.extend_from_slice(&head[from * row_bytes..][..row_bytes]);
        }
    }
    out
}

/// How the pairs of a rotated head are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairOrder {
    /// `i` and `i + head_dim/2`: Hugging Face, and everything inside this program.
    Halves,
    /// `2i` and `2i + 1`: llama2.c files, and GGUF files of `llama`.
    Neighbours,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::small;

    #[test]
    fn names_follow_the_two_conventions() {
        let key = Tensor::new(&small(2, true), Role::Key, 1);
        assert_eq!((key.rows, key.cols), (8, 16));
        assert_eq!(key.name(), "model.layers.1.self_attn.k_proj.weight");
        assert_eq!(key.gguf_name(), "blk.1.attn_k.weight");
        assert_eq!(all(&small(2, true)).len(), 2 + 9 * 2);
        assert_eq!(all(&small(2, false)).len(), 3 + 9 * 2);
    }

    #[test]
    fn pairs_move_and_return() {
        let neighbours: Vec<u8> = vec![0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15];
        let halves = reorder_pairs(&neighbours, 6, 1, PairOrder::Halves);
        assert_eq!(halves, [0, 2, 4, 1, 3, 5, 10, 12, 14, 11, 13, 15]);
        assert_eq!(reorder_pairs(&halves, 6, 1, PairOrder::Neighbours), neighbours);
    }
}
