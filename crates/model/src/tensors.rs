//! The tensors of a model: which there are, their shapes, and their names in Hugging Face and GGUF files.

use crate::{Architecture, Config};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Rows of token vectors.
    Embedding,
    /// Learned vectors of positions, which are added to the tokens'.
    Positions,
    /// Projection of narrower token vectors into the residual stream.
    ProjectIn,
    /// Norm before attention (in some OPTs after it).
    AttentionNorm,
    /// Added by that norm, where it is a layer norm.
    AttentionNormBias,
    /// Query, key and value projections in one matrix.
    Qkv,
    /// Added to what [`Role::Qkv`] gives.
    QkvBias,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Added to queries.
    QueryBias,
    /// Added to keys.
    KeyBias,
    /// Added to values.
    ValueBias,
    /// RMSNorm of each query head.
    QueryNorm,
    /// RMSNorm of each key head.
    KeyNorm,
    /// Projection of the attended values back into the residual stream.
    AttentionOut,
    /// Added to its output.
    AttentionOutBias,
    /// Norm before the feed-forward layer (in some OPTs after it).
    FfnNorm,
    /// Added by that norm, where it is a layer norm.
    FfnNormBias,
    /// Gate projection, whose SiLU multiplies `Up`'s output.
    Gate,
    /// Added to its output.
    GateBias,
    /// Up projection.
    Up,
    /// Added to its output.
    UpBias,
    /// Projection of the feed-forward layer back into the residual stream.
    Down,
    /// Added to its output.
    DownBias,
    /// Norm after the last block.
    FinalNorm,
    /// Added by that norm, where it is a layer norm.
    FinalNormBias,
    /// Projection of the final hidden states to the width of token vectors.
    ProjectOut,
    /// Output projection to the vocabulary; absent where it is the embedding itself.
    Head,
}

impl Role {
    /// What is added to the output of a projection, or by a layer norm.
    pub const fn bias(self) -> Option<Self> {
        Some(match self {
            Self::AttentionNorm => Self::AttentionNormBias,
            Self::Qkv => Self::QkvBias,
            Self::Query => Self::QueryBias,
            Self::Key => Self::KeyBias,
            Self::Value => Self::ValueBias,
            Self::AttentionOut => Self::AttentionOutBias,
            Self::FfnNorm => Self::FfnNormBias,
            Self::Gate => Self::GateBias,
            Self::Up => Self::UpBias,
            Self::Down => Self::DownBias,
            Self::FinalNorm => Self::FinalNormBias,
            _ => return None,
        })
    }

    /// Whether it is a vector, not a matrix: weights of a norm, or a bias.
    pub const fn is_vector(self) -> bool {
        matches!(
            self,
            Self::AttentionNorm
                | Self::AttentionNormBias
                | Self::QkvBias
                | Self::QueryBias
                | Self::KeyBias
                | Self::ValueBias
                | Self::QueryNorm
                | Self::KeyNorm
                | Self::AttentionOutBias
                | Self::FfnNorm
                | Self::FfnNormBias
                | Self::GateBias
                | Self::UpBias
                | Self::DownBias
                | Self::FinalNorm
                | Self::FinalNormBias
        )
    }

    /// Whether it belongs to a block.
    pub const fn in_block(self) -> bool {
        !matches!(
            self,
            Self::Embedding
                | Self::Positions
                | Self::ProjectIn
                | Self::FinalNorm
                | Self::FinalNormBias
                | Self::ProjectOut
                | Self::Head
        )
    }

    /// Whether its output features are rotated in pairs.
    pub(crate) const fn is_rotated(self) -> bool {
        matches!(self, Self::Query | Self::Key | Self::QueryBias | Self::KeyBias)
    }

    /// Its name in a GGUF file, the layer left out.
    const fn gguf_name(self) -> &'static str {
        match self {
            Self::Embedding => "token_embd.weight",
            Self::Positions => "position_embd.weight",
            Self::FinalNorm => "output_norm.weight",
            Self::FinalNormBias => "output_norm.bias",
            Self::Head => "output.weight",
            Self::AttentionNorm => "attn_norm.weight",
            Self::AttentionNormBias => "attn_norm.bias",
            Self::Qkv => "attn_qkv.weight",
            Self::QkvBias => "attn_qkv.bias",
            Self::Query => "attn_q.weight",
            Self::QueryBias => "attn_q.bias",
            Self::QueryNorm => "attn_q_norm.weight",
            Self::Key => "attn_k.weight",
            Self::KeyBias => "attn_k.bias",
            Self::KeyNorm => "attn_k_norm.weight",
            Self::Value => "attn_v.weight",
            Self::ValueBias => "attn_v.bias",
            Self::AttentionOut => "attn_output.weight",
            Self::AttentionOutBias => "attn_output.bias",
            Self::FfnNorm => "ffn_norm.weight",
            Self::FfnNormBias => "ffn_norm.bias",
            Self::Gate => "ffn_gate.weight",
            Self::GateBias => "ffn_gate.bias",
            Self::Up => "ffn_up.weight",
            Self::UpBias => "ffn_up.bias",
            Self::Down => "ffn_down.weight",
            Self::DownBias => "ffn_down.bias",
            // No architecture of a GGUF file has them; a name that no file has is a tensor that is missing.
            Self::ProjectIn => "project_in.weight",
            Self::ProjectOut => "project_out.weight",
        }
    }
}

/// One tensor, as files name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// Whose it is: its name depends on that.
    pub architecture: Architecture,
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
        let (width, heads, ffn_width) = (config.width, config.heads, config.ffn_width);
        let (rows, cols) = match role {
            Role::Embedding | Role::Head => (config.vocab, config.token_width()),
            Role::Positions => (config.context + config.architecture.position_offset(), width),
            Role::ProjectIn => (width, config.token_width()),
            Role::ProjectOut => (config.token_width(), width),
            Role::AttentionNorm | Role::FfnNorm | Role::FinalNorm => (1, width),
            Role::AttentionNormBias | Role::FfnNormBias | Role::FinalNormBias => (1, width),
            Role::Qkv => (heads.qkv_width(), width),
            Role::QkvBias => (1, heads.qkv_width()),
            Role::Query => (heads.query_width(), width),
            Role::Key | Role::Value => (heads.kv_width(), width),
            Role::QueryBias => (1, heads.query_width()),
            Role::KeyBias | Role::ValueBias => (1, heads.kv_width()),
            Role::QueryNorm | Role::KeyNorm => (1, heads.head_dim),
            Role::AttentionOut => (width, heads.query_width()),
            Role::Gate | Role::Up => (ffn_width, width),
            Role::GateBias | Role::UpBias => (1, ffn_width),
            Role::Down => (width, ffn_width),
            Role::AttentionOutBias | Role::DownBias => (1, width),
        };
        Self { architecture: config.architecture, role, layer, rows, cols }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no elements: never, in a valid config.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape, outermost first; a Hugging Face folder holds some matrices the other way round.
    pub fn shape(&self) -> Vec<usize> {
        if self.role.is_vector() { vec![self.cols] } else { vec![self.rows, self.cols] }
    }

    /// Its name in a Hugging Face folder; that in a GGUF file, where the architecture has no such tensor.
    pub fn name(&self) -> String {
        let name = (self.architecture.description().folder_name)(self.role).unwrap_or(self.role.gguf_name());
        name.replace("{}", &self.layer.to_string())
    }

    /// Its name in a GGUF file.
    pub fn gguf_name(&self) -> String {
        let name = self.role.gguf_name();
        if self.role.in_block() { format!("blk.{}.{name}", self.layer) } else { name.into() }
    }
}

/// Roles of the matrices that are multiplied as one, in their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stacks {
    /// Query, key and value projections.
    pub(crate) qkv: &'static [Role],
    /// Gate and up projections, or the up projection alone.
    pub(crate) gate_up: &'static [Role],
}

impl Config {
    /// What is stacked, as files hold it apart.
    pub(crate) const fn stacks(&self) -> Stacks {
        Stacks {
            qkv: match self.architecture {
                Architecture::Gpt2 => &[Role::Qkv],
                _ => &[Role::Query, Role::Key, Role::Value],
            },
            gate_up: if self.form.activation.is_gated() { &[Role::Gate, Role::Up] } else { &[Role::Up] },
        }
    }

    /// What is added where `role` multiplies or normalizes, if this model has that.
    pub(crate) fn bias_of(&self, role: Role) -> Option<Role> {
        let has = match role {
            Role::AttentionNorm | Role::FfnNorm | Role::FinalNorm => self.architecture.has_layer_norm(),
            Role::Qkv | Role::Query | Role::Key | Role::Value => self.form.qkv_bias,
            Role::AttentionOut => self.form.attention_out_bias,
            Role::Gate | Role::Up | Role::Down => self.form.ffn_bias,
            _ => false,
        };
        role.bias().filter(|_| has)
    }

    /// The roles of one block, in the order of the forward pass.
    fn block_roles(&self) -> Vec<Role> {
        let stacks = self.stacks();
        let norms: &[Role] = if self.form.head_norms { &[Role::QueryNorm, Role::KeyNorm] } else { &[] };
        let parts: [&[Role]; 7] = [
            &[Role::AttentionNorm],
            stacks.qkv,
            norms,
            &[Role::AttentionOut],
            &[Role::FfnNorm],
            stacks.gate_up,
            &[Role::Down],
        ];
        parts.concat().into_iter().flat_map(|role| std::iter::once(role).chain(self.bias_of(role))).collect()
    }
}

/// All tensors of a model in the order of the forward pass.
pub fn all(config: &Config) -> Vec<Tensor> {
    let projects = config.token_width() != config.width;
    let mut outside = vec![Role::Embedding];
    outside.extend(Some(Role::ProjectIn).filter(|_| projects));
    outside.extend(Some(Role::Positions).filter(|_| config.architecture.learns_positions()));
    let mut tensors: Vec<Tensor> = outside.iter().map(|&role| Tensor::new(config, role, 0)).collect();
    let in_block = config.block_roles();
    for layer in 0..config.layers {
        tensors.extend(in_block.iter().map(|&role| Tensor::new(config, role, layer)));
    }
    let mut after = Vec::new();
    if config.form.final_norm {
        after.push(Role::FinalNorm);
        after.extend(config.bias_of(Role::FinalNorm));
    }
    after.extend(Some(Role::ProjectOut).filter(|_| projects));
    after.extend(Some(Role::Head).filter(|_| !config.tied));
    tensors.extend(after.iter().map(|&role| Tensor::new(config, role, 0)));
    tensors
}

/// Rows of a rotated projection in the other order of pairs.
///
/// Hugging Face lays the pairs of a head out as halves (element `i` turns with `i + head_dim/2`), llama.cpp and
/// llama2.c as neighbours (`2i` with `2i + 1`). A row is an output feature, so whole rows move and an encoded row
/// stays as it is. `bytes` are those of `tensor`, whose output features are heads of `head_dim`.
pub(crate) fn reorder_pairs(bytes: &[u8], head_dim: usize, tensor: &Tensor, order: PairOrder) -> Vec<u8> {
    let features = if tensor.role.is_vector() { tensor.cols } else { tensor.rows };
    let (half, row_bytes) = (head_dim / 2, bytes.len() / features);
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head_dim * row_bytes) {
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

/// The rows of a matrix of floats whose columns lie on end in `bytes`.
pub(crate) fn transpose(bytes: &[u8], tensor: &Tensor) -> Vec<u8> {
    let (rows, cols) = (tensor.rows, tensor.cols);
    let size = bytes.len() / tensor.len();
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        for col in 0..cols {
            out.extend_from_slice(&bytes[(col * rows + row) * size..][..size]);
        }
    }
    out
}

/// How the pairs of a rotated head are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairOrder {
    /// `i` and `i + head_dim/2`: Hugging Face, and everything inside this program.
    Halves,
    /// `2i` and `2i + 1`: llama2.c files, and GGUF files of some architectures.
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
        let tensor = Tensor { rows: 12, cols: 1, ..Tensor::new(&small(2, true), Role::Query, 0) };
        let halves = reorder_pairs(&neighbours, 6, &tensor, PairOrder::Halves);
        assert_eq!(halves, [0, 2, 4, 1, 3, 5, 10, 12, 14, 11, 13, 15]);
        assert_eq!(reorder_pairs(&halves, 6, &tensor, PairOrder::Neighbours), neighbours);
    }

    #[test]
    fn columns_become_rows() {
        let tensor = Tensor { rows: 2, cols: 3, ..Tensor::new(&small(2, true), Role::Up, 0) };
        let columns: Vec<u8> = [11u16, 21, 12, 22, 13, 23].iter().flat_map(|x| x.to_le_bytes()).collect();
        let rows: Vec<u8> = [11u16, 12, 13, 21, 22, 23].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(transpose(&columns, &tensor), rows);
    }
}
