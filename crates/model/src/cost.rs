//! What a model costs: parameters, operations and bytes, counted from its config alone.

use crate::Config;
use crate::activations::Plan;
use crate::tensors::{self, Role};
use backend::{Buf, Element, KvType, Precision, Sequences};

/// Numbers of parameters by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Token embedding, and where there are any, vectors of positions and the projection into the residual stream.
    pub embedding: u64,
    /// All blocks, their norms included.
    pub blocks: u64,
    /// Final norm.
    pub final_norm: u64,
    /// Output projection, 0 where it is the embedding; and the projection before it, where there is one.
    pub head: u64,
}

impl Counts {
    /// Parameters in all.
    pub const fn total(&self) -> u64 {
        self.embedding + self.blocks + self.final_norm + self.head
    }
}

/// Counts the parameters of a model.
pub fn parameters(config: &Config) -> Counts {
    let mut counts = Counts { embedding: 0, blocks: 0, final_norm: 0, head: 0 };
    for tensor in tensors::all(config) {
        *match tensor.role {
            Role::Embedding | Role::Positions | Role::ProjectIn => &mut counts.embedding,
            Role::FinalNorm | Role::FinalNormBias => &mut counts.final_norm,
            Role::Head | Role::ProjectOut => &mut counts.head,
            _ => &mut counts.blocks,
        } += tensor.len() as u64;
    }
    counts
}

/// Weights of the largest tensor of a Hugging Face folder: what is copied at a time when a model is written.
pub fn largest_tensor(config: &Config) -> u64 {
    tensors::all(config).iter().map(|tensor| tensor.len() as u64).max().unwrap_or(0)
}

/// Floating-point operations per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// A forward pass with logits.
    pub forward: f64,
    /// Forward and backward pass: three times as much.
    pub training: f64,
}

/// Operations per token in sequences of `tokens`, a product and a sum counting as two.
///
/// Training is `6·N + 6·layers·query_width·tokens`, where `N` counts what a token is multiplied with: every weight but
/// the input embedding, and the output projection even if it is the embedding. The second term is attention, which
/// sees `tokens/2` keys on average: two products of `query_width` each, forward, twice that backward. Recomputation
/// is not counted.
pub fn flops_per_token(config: &Config, tokens: usize) -> Flops {
    let counts = parameters(config);
    let token_width = config.token_width();
    let projections = if token_width == config.width { 0 } else { 2 * config.width as u64 * token_width as u64 };
    let multiplied = counts.blocks + counts.final_norm + projections + (config.vocab * token_width) as u64;
    let attention = config.layers as f64 * config.heads.query_width() as f64 * tokens as f64;
    let forward = 2.0 * multiplied as f64 + 2.0 * attention;
    Flops { forward, training: 3.0 * forward }
}

/// Bytes of a training run by category, for one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingBytes {
    /// f32 master weights.
    pub masters: u64,
    /// Matrices as they are multiplied, a copy for the forward and one for the backward product; backends may need
    /// less or a little more.
    pub packed: u64,
    /// f32 gradients.
    pub gradients: u64,
    /// Both moments of AdamW, f32.
    pub moments: u64,
    /// Activations and their gradients, exactly as they are planned.
    pub activations: u64,
}

impl TrainingBytes {
    /// All categories.
    pub const fn total(&self) -> u64 {
        self.masters + self.packed + self.gradients + self.moments + self.activations
    }
}

/// Bytes for training on micro-batches of `sequences`.
pub fn training_bytes(config: &Config, sequences: Sequences, precision: Precision) -> TrainingBytes {
    let total = parameters(config).total();
    TrainingBytes {
        masters: 4 * total,
        packed: 2 * element_bytes(precision) * matrix_weights(config),
        gradients: 4 * total,
        moments: 8 * total,
        activations: planned_bytes(config, Plan::training(sequences)),
    }
}

/// Bytes of inference by category.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InferenceBytes {
    /// Weights at `bits_per_weight`, norms in f32.
    pub weights: u64,
    /// Keys and values of every position.
    pub kv_cache: u64,
    /// Activations, exactly as they are planned.
    pub activations: u64,
}

/// Bytes for a session of `positions` with passes of up to `rows` rows and `logits_rows` rows of logits.
pub fn inference_bytes(
    config: &Config,
    bits_per_weight: f64,
    kv_type: KvType,
    rows: usize,
    logits_rows: usize,
    positions: usize,
) -> InferenceBytes {
    let matrices = matrix_weights(config);
    let norms = parameters(config).total() - matrices;
    InferenceBytes {
        weights: (matrices as f64 * bits_per_weight / 8.0) as u64 + 4 * norms,
        kv_cache: positions as u64 * cached_bytes_per_position(config, kv_type),
        activations: planned_bytes(config, Plan { rows, positions, logits_rows, training: false }),
    }
}

/// Bytes of keys and values of one position, all layers.
pub const fn cached_bytes_per_position(config: &Config, kv_type: KvType) -> u64 {
    (2 * config.layers * config.heads.kv_heads * kv_type.row_bytes(config.heads.head_dim)) as u64
}

/// Bytes of an element of a trainable matrix.
const fn element_bytes(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 | Precision::Int8 => 2,
    }
}

fn matrix_weights(config: &Config) -> u64 {
    tensors::all(config).iter().filter(|tensor| !tensor.role.is_vector()).map(|tensor| tensor.len() as u64).sum()
}

/// Bytes of the very buffers that [`crate::Activations`] would allocate.
fn planned_bytes(config: &Config, plan: Plan) -> u64 {
    let mut bytes = 0;
    let counted = plan.lay_out(config, &mut |element, len| {
        let element_bytes = match element {
            Element::F32 | Element::U32 => 4,
        };
        bytes += element_bytes * len as u64;
        Ok(Buf::from_index(0))
    });
    debug_assert!(counted.is_ok(), "counting needs no memory");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::small;
    use backend::Heads;

    fn amd_135m() -> Config {
        Config {
            vocab: 32_000,
            width: 768,
            layers: 12,
            heads: Heads { heads: 12, kv_heads: 12, head_dim: 64 },
            ffn_width: 2048,
            context: 2048,
            ..small(4, false)
        }
    }

    #[test]
    fn amd_135m_has_134_105_856_parameters() {
        let counts = parameters(&amd_135m());
        assert_eq!(counts.total(), 134_105_856);
        assert_eq!(counts.blocks, 84_953_088);
        assert_eq!((counts.embedding, counts.final_norm, counts.head), (24_576_000, 768, 24_576_000));
    }

    #[test]
    fn a_token_of_amd_135m_costs_0_714_gigaflop() {
        let flops = flops_per_token(&amd_135m(), 1024).training;
        assert!((flops / 1e9 - 0.714).abs() < 0.001, "{flops}");
        let tied = Config { tied: true, ..amd_135m() };
        assert_eq!(flops_per_token(&tied, 1024).training, flops);
    }

    #[test]
    fn a_cache_in_q8_0_takes_34_bytes_where_f32_takes_128() {
        let of = |kv_type| inference_bytes(&amd_135m(), 16.0, kv_type, 512, 16, 2048).kv_cache;
        assert_eq!(of(KvType::F32), 2 * 12 * 768 * 2048 * 4);
        assert_eq!(of(KvType::Q8_0) * 128, of(KvType::F32) * 34);
    }

    #[test]
    fn training_bytes_of_amd_135m_are_those_of_its_shape() {
        let bytes = training_bytes(&amd_135m(), Sequences { batch: 4, tokens: 1024 }, Precision::Bf16);
        assert_eq!(bytes.masters, 536_423_424);
        assert_eq!(bytes.moments, 2 * bytes.masters);
        // Per row and block: x, mid (768 each, and one more x at the end), qkv, attended, log-sum-exp, gate and up.
        let per_row = 12 * (2 * 768 + 2304 + 768 + 12 + 4096) + 768;
        assert!(bytes.activations > 4096 * 4 * per_row);
        assert!(bytes.activations < 4096 * 4 * (per_row + 20_000));
    }
}
