//! Shapes that operations share. They are plain numbers: what a backend does with them is its own affair.

/// Which family of kernels a row belongs to (docs/numerics.md).
///
/// Within one family the bits of an output row never depend on how many rows are computed with it. A backend may
/// use one family for both; it may not let the number of rows choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Rows of a prompt, of a training batch, of text that is scored.
    Prompt,
    /// Rows that were generated or proposed, and are decoded or verified: 1…17 at a time.
    Generated,
}

/// How many rows an operation computes, and of which family they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Number of rows, at least 1.
    pub count: usize,
    /// The family that fixes their bits.
    pub family: Family,
}

impl Rows {
    /// `count` rows of a prompt or a training batch.
    pub const fn prompt(count: usize) -> Self {
        Self { count, family: Family::Prompt }
    }

    /// `count` generated or proposed rows.
    pub const fn generated(count: usize) -> Self {
        Self { count, family: Family::Generated }
    }
}

/// The heads of an attention layer.
///
/// A row of a `qkv` buffer is `heads·head_dim` floats of queries, then `kv_heads·head_dim` of keys, then as many of
/// values; a row of an attention output is `heads·head_dim` floats. Query head `h` reads key head
/// `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
}

impl Heads {
    /// Floats of one row of queries.
    pub const fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Floats of one row of keys (and of values).
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Floats of one row of a `qkv` buffer.
    pub const fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }

    /// Query heads that share one key head.
    pub const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// A batch of equally long sequences: row `b·tokens + t` is token `t` of sequence `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Sequences in the batch.
    pub batch: usize,
    /// Tokens in each.
    pub tokens: usize,
}

impl Sequences {
    /// Rows in all.
    pub const fn rows(&self) -> usize {
        self.batch * self.tokens
    }
}
