//! What an operation must do at least: its floating-point operations, and the bytes that it must read and write.

use backend::{Heads, KvType, Precision, Sequences};
use std::ops::AddAssign;

/// Work of one call, or of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    /// Operations of matrix products; those of element-wise work are not what limits it.
    pub(super) flops: f64,
    /// What is multiplied, and so how many of them a second there could be.
    pub(super) precision: Precision,
    /// Bytes read and written, each operand once.
    pub(super) bytes: f64,
}

impl Default for Work {
    fn default() -> Self {
        Self { flops: 0.0, precision: Precision::F32, bytes: 0.0 }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.precision = other.precision;
    }
}

impl Work {
    /// More bytes.
    pub(super) fn and_bytes(self, bytes: usize) -> Self {
        Self { bytes: self.bytes + bytes as f64, ..self }
    }
}

/// Reading or writing `floats` floats.
pub(super) fn moved(floats: usize) -> Work {
    Work { bytes: 4.0 * floats as f64, ..Work::default() }
}

/// `rows × k` by `k × n`; the matrix's bytes come on top.
pub(super) fn product(precision: Precision, rows: usize, n: usize, k: usize) -> Work {
    Work { flops: 2.0 * rows as f64 * n as f64 * k as f64, precision, ..moved(rows * (n + k)) }
}

/// Gradients by input and by weight: two products; the weight's gradient is read and written.
pub(super) fn product_backward(precision: Precision, rows: usize, n: usize, k: usize) -> Work {
    let forward = product(precision, rows, n, k);
    Work { flops: 2.0 * forward.flops, precision, ..moved(rows * (n + 2 * k) + 2 * n * k) }
}

/// A product whose outputs are not kept.
pub(super) fn head_loss(precision: Precision, rows: usize, n: usize, k: usize) -> Work {
    Work { bytes: 4.0 * (rows * k) as f64, ..product(precision, rows, n, k) }
}

/// [`head_loss`], and both gradients.
pub(super) fn head_loss_backward(precision: Precision, rows: usize, n: usize, k: usize) -> Work {
    let forward = product(precision, rows, n, k);
    Work { flops: 3.0 * forward.flops, precision, ..moved(2 * rows * k + 2 * n * k) }
}

/// Two products over the scores that are seen.
pub(super) fn attention(precision: Precision, sequences: Sequences, heads: Heads) -> Work {
    let rows = sequences.rows();
    let seen = rows as f64 * (sequences.tokens + 1) as f64 / 2.0;
    let floats = rows * (heads.qkv_width() + heads.query_width() + heads.heads);
    Work { flops: 4.0 * seen * heads.query_width() as f64, precision, ..moved(floats) }
}

/// Four products (the scores themselves are a recomputation).
pub(super) fn attention_backward(precision: Precision, sequences: Sequences, heads: Heads) -> Work {
    let floats = sequences.rows() * (2 * heads.qkv_width() + 2 * heads.query_width() + heads.heads);
    Work { flops: 2.0 * attention(precision, sequences, heads).flops, precision, ..moved(floats) }
}

/// Rows at positions `at..at + rows`, each over the cache up to itself.
pub(super) fn attention_cached(precision: Precision, heads: Heads, kv_type: KvType, at: usize, rows: usize) -> Work {
    let seen = rows as f64 * (at as f64 + (rows + 1) as f64 / 2.0);
    let outside = moved(2 * rows * heads.query_width()).and_bytes((at + rows) * position_bytes(heads, kv_type));
    Work { flops: 4.0 * seen * heads.query_width() as f64, precision, ..outside }
}

/// Keys and values of `rows` rows into the cache.
pub(super) fn kv_store(heads: Heads, kv_type: KvType, rows: usize) -> Work {
    moved(2 * heads.kv_width() * rows).and_bytes(rows * position_bytes(heads, kv_type))
}

/// Bytes of keys and values of one position in one layer.
const fn position_bytes(heads: Heads, kv_type: KvType) -> usize {
    2 * heads.kv_heads * kv_type.row_bytes(heads.head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 8 };

    /// A sequence in one pass over the cache costs what attention within it costs.
    #[test]
    fn both_attentions_agree() {
        let within = attention(Precision::F32, Sequences { batch: 1, tokens: 5 }, HEADS);
        let cached = attention_cached(Precision::F32, HEADS, KvType::F32, 0, 5);
        assert_eq!(within.flops, cached.flops);
        // 1 + 2 + … + 5 scores a head, 8 long, two products.
        assert_eq!(within.flops, (15 * 4 * 8 * 2 * 2) as f64);
    }

    /// All operations of a block add up to what the model's cost says.
    #[test]
    fn a_training_step_costs_what_the_model_says() {
        let (rows, n, k) = (6, 5, 7);
        let forward = product(Precision::F32, rows, n, k).flops;
        assert_eq!(forward + product_backward(Precision::F32, rows, n, k).flops, 3.0 * forward);
        assert_eq!(head_loss_backward(Precision::F32, rows, n, k).flops, 3.0 * forward);
    }
}
