//! How a cache keeps keys and values.

/// What the numbers of a [`KvCache`](crate::KvCache) are kept as. Queries, scores and sums are f32 beside all of them
/// (docs/numerics.md says what a backend rounds on the way).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// As they were computed, 4 bytes each.
    F32,
    /// Rounded to bf16 (nearest, ties to even), 2 bytes each.
    Bf16,
    /// Rounded to IEEE half (nearest, ties to even), 2 bytes each; beyond 65504 they become infinite.
    F16,
    /// Integers of 8 bits, with an f16 scale for every 32 along a head: 34 bytes for 32 of them.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl KvType {
    /// Every type, from the widest to the narrowest.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::F16, Self::Q8_0];

    /// Numbers that share a scale in [`KvType::Q8_0`]. A head of another width ends in a block filled up with zeros.
    pub const BLOCK: usize = 32;

    /// The type's name: `f32`, `bf16`, `f16` or `q8_0`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Bytes of `width` numbers of one head at one position; backends may pad them.
    pub const fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => 4 * width,
            Self::Bf16 | Self::F16 => 2 * width,
            Self::Q8_0 => width.div_ceil(Self::BLOCK) * (Self::BLOCK + 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_q8_0_are_whole_blocks() {
        assert_eq!(KvType::ALL.map(|kv_type| kv_type.row_bytes(64)), [256, 128, 128, 68]);
        assert_eq!(KvType::Q8_0.row_bytes(80), 3 * 34);
    }
}
