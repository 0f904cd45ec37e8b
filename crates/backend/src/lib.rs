//! The boundary between the model and the machine: one trait of operations over buffers that the machine owns.
//!
//! Holds: [`Backend`], its handles and shapes, and the conformance suite that every backend must pass.
//! Never: code that computes, a model's name, a file.
//! Start reading at [`Backend`].
//!
//! # Rules for every operation
//! - Buffers are named by `Copy` handles; only the backend that made a handle understands it. Nothing above may assume
//!   that a buffer is a slice, that a matrix has a certain layout, or that an operation is done when its call returns.
//!   Only `read*`, [`Backend::sum_of_squares`] and [`Backend::sync`] wait.
//! - A buffer may be longer than `rows × width`: operations use its beginning and leave the rest alone.
//! - Outputs differ from inputs, unless the operation says otherwise. Shapes are asserted: they come from a checked
//!   config, never straight from a user.
//! - Row-exact: the bits of a row depend on the row and its [`Family`] alone, not on the number of rows, not on the
//!   number of threads.
//! - Gradients of weights are *added* to what the gradient buffer holds, row by row in ascending order. So one
//!   micro-batch of eight rows and two of four leave the same bits. In bf16 a backend may add 32 rows at a time, counted
//!   from the first of a call: then that holds of micro-batches of a multiple of 32 rows.

pub mod conformance;
mod kv_type;
mod shape;
mod teacher;

pub use kv_type::KvType;
pub use shape::{Family, Heads, Rows, Sequences};
pub use teacher::{Divergence, LEAST_PROBABILITY, MAX_TEACHER_TOKENS, Teacher};

/// A buffer of floats or of token ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buf(u32);

/// A weight matrix in the form that the backend multiplies with: `rows` = output features, `cols` = input features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix(u32);

/// Keys and values of the positions seen so far, for every layer of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvCache(u32);

macro_rules! handle {
    ($name:ident) => {
        impl $name {
            /// For backends: the handle of slot `index` of the backend's own table.
            pub const fn from_index(index: u32) -> Self {
                Self(index)
            }

            /// For backends: the slot that this handle names.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
handle!(Buf);
handle!(Matrix);
handle!(KvCache);

/// What the elements of a [`Buf`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats: activations, gradients, optimizer state, master weights.
    F32,
    /// Token ids, positions, row numbers.
    U32,
}

/// How weights are stored for, and multiplied by, the operations on a [`Matrix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 × f32 → f32, the oracle.
    F32,
    /// Both operands rounded to bf16 (nearest, ties to even), products summed in f32.
    Bf16,
    /// For [`Backend::load_matrix`] alone. Weights stay in the file's blocks of 8 bits or fewer, activations are rounded
    /// to 8 bits in blocks of 32; the products within a block are exact in integers, then scaled and summed in f32. A
    /// matrix with a part in a float encoding is multiplied as [`Precision::Bf16`].
    Int8,
}

/// How rows of weights are encoded in the bytes given to [`Backend::load_matrix`] (GGUF's block types by their names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Little-endian IEEE single.
    F32,
    /// Little-endian IEEE half.
    F16,
    /// Upper half of an IEEE single.
    Bf16,
    /// Blocks of 32: f16 scale, 32 × i8.
    Q8_0,
    /// Blocks of 32: f16 scale, 32 × 4 bits, offset −8.
    Q4_0,
    /// Blocks of 32: f16 scale, f16 minimum, 32 × 4 bits.
    Q4_1,
    /// Blocks of 32: f16 scale, 32 × 5 bits, offset −16.
    Q5_0,
    /// Blocks of 32: f16 scale, f16 minimum, 32 × 5 bits.
    Q5_1,
    /// Super-blocks of 256, 4 bits.
    Q4K,
    /// Super-blocks of 256, 5 bits.
    Q5K,
    /// Super-blocks of 256, 6 bits.
    Q6K,
    /// Super-blocks of 256, 2 bits.
    Q2K,
    /// Super-blocks of 256, 3 bits.
    Q3K,
    /// Blocks of 32: f16 scale, 32 × 4 bits, numbers of unequal steps.
    Iq4Nl,
    /// Super-blocks of 256 of the same steps.
    Iq4Xs,
}

/// Consecutive rows of a matrix as a file holds them. Several of them stack into one matrix (query, key and value
/// projections become one), each in its own encoding.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRows<'a> {
    /// The encoding of `bytes`.
    pub encoding: Encoding,
    /// Number of rows in `bytes`.
    pub rows: usize,
    /// Exactly `rows` encoded rows.
    pub bytes: &'a [u8],
}

/// What a backend says of itself; written into checkpoints and results, since it also chooses the bits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// `cpu`.
    pub name: String,
    /// The dispatch level, for the CPU `scalar`, `avx2`, `avx512`, `avx512bf16` or `amx`.
    pub level: String,
    /// Threads that compute.
    pub threads: usize,
}

/// What can go wrong in a backend that is not a mistake of the caller.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The machine has no room for a buffer.
    #[error(
        "{what}: {bytes} bytes of memory could not be had; use a smaller micro-batch, a shorter context or a smaller model"
    )]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// How much was asked for.
        bytes: usize,
    },
}

/// Numbers of one AdamW step (Loshchilov and Hutter, 2019): decay is decoupled, moments are bias-corrected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; the weight shrinks by `learning_rate · weight_decay`.
    pub weight_decay: f32,
    /// 1 for the first update.
    pub step: u64,
    /// Factor on the gradient: the clipping factor.
    pub gradient_scale: f32,
}

/// Everything the model asks of a machine.
pub trait Backend: Send + Sync {
    /// Who computes, and at which level.
    fn describe(&self) -> Description;

    // ---- memory ----

    /// A zeroed buffer of `len` elements.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn alloc(&self, element: Element, len: usize) -> Result<Buf, BackendError>;

    /// Gives a buffer back. The handle must not be used again.
    fn free(&self, buf: Buf);

    /// Number of elements of a buffer.
    fn len(&self, buf: Buf) -> usize;

    /// Bytes that buffers, matrices and caches hold now, scratch included.
    fn allocated_bytes(&self) -> usize;

    /// `dst[at..][..src.len()] = src`.
    fn write(&self, dst: Buf, at: usize, src: &[f32]);

    /// `dst = src[at..][..dst.len()]`; waits for what is queued.
    fn read(&self, src: Buf, at: usize, dst: &mut [f32]);

    /// [`Backend::write`] for a buffer of ids.
    fn write_ids(&self, dst: Buf, at: usize, src: &[u32]);

    /// `dst[..] = value`.
    fn fill(&self, dst: Buf, value: f32);

    /// `dst[dst_at..][..len] = src[src_at..][..len]`, two different buffers of floats.
    fn copy(&self, dst: Buf, dst_at: usize, src: Buf, src_at: usize, len: usize);

    /// Waits until everything queued is done.
    fn sync(&self);

    // ---- weights ----

    /// A matrix for inference from the rows of a file: the parts stacked, each `cols` wide.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn load_matrix(&self, parts: &[EncodedRows<'_>], cols: usize, precision: Precision)
    -> Result<Matrix, BackendError>;

    /// A matrix for training, multiplied in `precision`, which is not [`Precision::Int8`]; its values are those of
    /// `master` (`rows × cols` floats) at the last [`Backend::refresh`]; making it refreshes it.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn trainable_matrix(
        &self,
        master: Buf,
        rows: usize,
        cols: usize,
        precision: Precision,
    ) -> Result<Matrix, BackendError>;

    /// Takes the master's present values into the form that is multiplied.
    fn refresh(&self, matrix: Matrix);

    /// Gives a matrix back (its master, if it has one, stays).
    fn free_matrix(&self, matrix: Matrix);

    /// `(rows, cols)` = (output features, input features).
    fn matrix_shape(&self, matrix: Matrix) -> (usize, usize);

    /// Bytes that one product `x · wᵀ` reads of the matrix, in the form that is multiplied.
    fn matrix_bytes(&self, matrix: Matrix) -> usize;

    // ---- the model's operations; x, out … are `rows × width`, row-major ----

    /// `out[r] = table[ids[r]]`. A trainable table gives its master's floats, unrounded.
    fn embed(&self, out: Buf, ids: Buf, table: Matrix, rows: usize);

    /// `x[r] += table[ids[r]]`, rows of `width` floats: learned positions.
    fn add_rows(&self, x: Buf, ids: Buf, table: Buf, width: usize, rows: usize);

    /// `g_table[ids[r]] += d_out[r]`, rows of `width` floats, ascending.
    fn embed_backward(&self, g_table: Buf, d_out: Buf, ids: Buf, width: usize, rows: usize);

    /// `out[r] = x[r] · rstd[r] ⊙ weight`, `rstd[r] = 1 / √(mean(x[r]²) + epsilon)`; the width is `len(weight)`.
    fn rmsnorm(&self, out: Buf, rstd: Buf, x: Buf, weight: Buf, epsilon: f32, rows: usize);

    /// `out[r] = (x[r] − mean) / √(variance + epsilon) ⊙ weight + bias` with the mean and the variance of `x[r]` (Ba, Kiros
    /// and Hinton, 2016); the width is `len(weight)`.
    fn layer_norm(&self, out: Buf, x: Buf, weight: Buf, bias: Buf, epsilon: f32, rows: usize);

    /// [`Backend::rmsnorm`] of every query head of `qkv` by `query_weight` and of every key head by `key_weight`, both of
    /// `head_dim` floats, in place.
    fn rmsnorm_heads(&self, qkv: Buf, query_weight: Buf, key_weight: Buf, heads: Heads, epsilon: f32, rows: usize);

    /// `d_x = d_residual + ∂rmsnorm/∂x · d_out` and `g_weight += Σ_r d_out[r] ⊙ x[r] · rstd[r]`.
    /// `d_x` may be `d_residual` itself.
    fn rmsnorm_backward_add(
        &self,
        d_x: Buf,
        g_weight: Buf,
        d_residual: Buf,
        d_out: Buf,
        x: Buf,
        rstd: Buf,
        weight: Buf,
        rows: usize,
    );

    /// `out = x · wᵀ`.
    fn linear(&self, out: Buf, x: Buf, w: Matrix, rows: Rows);

    /// `x[r] += bias`; the width is `len(bias)`.
    fn add_bias(&self, x: Buf, bias: Buf, rows: usize);

    /// `out = residual + x · wᵀ`. `out` may be `residual` itself.
    fn linear_add(&self, out: Buf, residual: Buf, x: Buf, w: Matrix, rows: Rows);

    /// `d_x = d_out · w` and `g_w += d_outᵀ · x`, for a trainable matrix.
    fn linear_backward(&self, d_x: Buf, g_w: Buf, d_out: Buf, x: Buf, w: Matrix, rows: usize);

    /// Rotates queries and keys of `qkv` in place. Element `i` and `i + head_dim/2` of a head form a pair, turned by
    /// the angle whose cosine and sine are `table[position · head_dim + i]` and `table[position · head_dim +
    /// head_dim/2 + i]`; `positions` is one u32 a row.
    fn rope(&self, qkv: Buf, table: Buf, positions: Buf, heads: Heads, rows: usize);

    /// The transpose of [`Backend::rope`], on the gradient: turns back by the same angle, in place.
    fn rope_backward(&self, d_qkv: Buf, table: Buf, positions: Buf, heads: Heads, rows: usize);

    /// Causal attention within each sequence: `out[t] = Σ_{first[t] ≤ s ≤ t} softmax_s(q[t]·k[s] / √head_dim) v[s]`.
    /// `logsumexp` is `rows × heads` floats, kept for the backward. `first_key` holds, for each row, the first token
    /// of its own sequence that it may see (the start of its document); `None` is 0 everywhere.
    ///
    /// `precision` other than f32: both operands of the products (`q·k` with `q / √head_dim` as one operand, the
    /// exponentials times `v`) are rounded to bf16; their sums, the softmax and everything else are f32.
    fn attention(
        &self,
        out: Buf,
        logsumexp: Buf,
        qkv: Buf,
        sequences: Sequences,
        heads: Heads,
        first_key: Option<Buf>,
        precision: Precision,
    );

    /// `d_qkv = ∂attention/∂qkv · d_out`, by products in `precision`, which must be that of the forward.
    fn attention_backward(
        &self,
        d_qkv: Buf,
        d_out: Buf,
        out: Buf,
        logsumexp: Buf,
        qkv: Buf,
        sequences: Sequences,
        heads: Heads,
        first_key: Option<Buf>,
        precision: Precision,
    );

    /// Room for `capacity` positions of `layers` layers; keys and values are kept as `kv_type`.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn new_kv_cache(
        &self,
        layers: usize,
        capacity: usize,
        heads: Heads,
        kv_type: KvType,
    ) -> Result<KvCache, BackendError>;

    /// Gives a cache back.
    fn free_kv_cache(&self, cache: KvCache);

    /// Stores the keys and values of `qkv`'s rows at positions `at..at + rows` of `layer`, over what was there.
    fn kv_store(&self, cache: KvCache, layer: usize, at: usize, qkv: Buf, rows: usize);

    /// Attention of the queries of `qkv`, whose rows stand at positions `at..at + rows.count`, over the positions
    /// `0..=own` of the cache (their own keys must have been stored). Rows of a prompt are computed in `precision`, as by
    /// [`Backend::attention`]; generated rows in f32.
    fn attention_cached(
        &self,
        out: Buf,
        qkv: Buf,
        cache: KvCache,
        layer: usize,
        at: usize,
        rows: Rows,
        precision: Precision,
    );

    /// `out = silu(gate) ⊙ up`, a row of `gate_up` being `width` floats of gate, then `width` of up.
    fn swiglu(&self, out: Buf, gate_up: Buf, width: usize, rows: usize);

    /// `d_gate_up = ∂swiglu/∂gate_up · d_out`.
    fn swiglu_backward(&self, d_gate_up: Buf, d_out: Buf, gate_up: Buf, width: usize, rows: usize);

    /// `x ← ½x·(1 + tanh(√(2/π)·(x + 0.044715x³)))`, the first `len` floats, in place (Hendrycks and Gimpel, 2016; the
    /// approximation that transformers calls `gelu_new`).
    fn gelu(&self, x: Buf, len: usize);

    /// `x ← max(x, 0)`, the first `len` floats, in place; what is not a number stays so.
    fn relu(&self, x: Buf, len: usize);

    /// `losses[r] = −log softmax(x[r] · headᵀ)[targets[r]]` in nats, without ever holding `rows × vocabulary` floats;
    /// 0 where the target is [`NO_TARGET`].
    fn head_loss(&self, losses: Buf, x: Buf, head: Matrix, targets: Buf, rows: usize);

    /// [`Backend::head_loss`] and in the same pass the gradients of `scale · Σ_r losses[r]`: `d_x` set, `g_head` added
    /// to.
    fn head_loss_backward(
        &self,
        losses: Buf,
        d_x: Buf,
        g_head: Buf,
        x: Buf,
        head: Matrix,
        targets: Buf,
        scale: f32,
        rows: usize,
    );

    /// The head and a divergence from a teacher: `divergences[r] = D(softmax(x[r] · headᵀ), teacher's row r)` in nats (total
    /// variation has no unit), and the gradients of `scale · Σ_r divergences[r]`: `d_x` set, `g_head` added to. Neither
    /// holds `rows × vocabulary` floats. A row in which the teacher says nothing has divergence and gradient 0.
    fn head_divergence_backward(
        &self,
        divergences: Buf,
        d_x: Buf,
        g_head: Buf,
        x: Buf,
        head: Matrix,
        teacher: Teacher,
        divergence: Divergence,
        scale: f32,
        rows: usize,
    );

    // ---- the optimizer ----

    /// `Σ x²`, in an order of additions that depends on the length alone; waits.
    fn sum_of_squares(&self, x: Buf) -> f64;

    /// One AdamW update of `weights`, in one pass: with `g = gradient_scale · gradient`,
    /// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`,
    /// `w ← w·(1 − lr·decay) − lr · m̂ / (√v̂ + ε)`.
    fn adamw(&self, weights: Buf, gradient: Buf, m: Buf, v: Buf, step: &AdamW);
}

/// The target of a row that takes no part in the loss.
pub const NO_TARGET: u32 = u32::MAX;
