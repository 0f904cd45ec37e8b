//! The CPU as a backend.
//!
//! Holds: kernels, the threads and the memory they work on.
//! Never: a model's name, a file, the environment; `unsafe` is written here and nowhere else but in one function of
//! `formats`.
//! Start reading at [`Cpu`], then at `gemm.rs` for how products are summed, at `level.rs` for what a processor can do.
//!
//! An operation checks its shapes, takes what it writes out of the arena, and calls one kernel, a free function over
//! slices that splits its outputs over the pool. Operations of one [`Cpu`] run one at a time.
#![allow(unsafe_code, reason = "kernels are where unsafe code lives")]

mod activation;
mod adamw;
mod attention;
mod bias;
pub mod ceiling;
mod choices;
mod cross_entropy;
mod divergence;
mod embedding;
mod gemm;
mod kv_cache;
mod layer_norm;
mod level;
mod matrix;
mod memory;
mod norm;
mod pool;
mod quant_gemm;
mod reduce;
mod rope;
mod simd;
mod split;
mod table;
#[cfg(test)]
mod test_data;
#[cfg(test)]
mod tests;

pub use choices::choices;
pub use level::{CpuError, Level, available, detect, physical_threads};
pub use pool::Pool;

use backend::{
    AdamW, Backend, BackendError, Buf, Description, Divergence, Element, EncodedRows, Heads, KvCache, KvType, Matrix,
    Precision, Rows, Sequences, Teacher,
};
use cross_entropy::{Gradients, Sample, Wanted};
use divergence::TeacherRows;
use gemm::{Left, Number, Onto, Right, gemm, panel_words};
use kv_cache::KvStore;
use matrix::Weights;
use memory::{Arena, Scratch, Slabs};
use std::sync::{Mutex, MutexGuard};
use table::Table;

/// Floats that one thread fills or copies at a time.
const CHUNK: usize = 1 << 16;

/// The backend that computes on this machine's processors.
pub struct Cpu {
    pool: Pool,
    level: Level,
    scratch: Scratch,
    slabs: Slabs,
    state: Mutex<State>,
}

/// What handles name.
#[derive(Default)]
struct State {
    buffers: Arena,
    matrices: Table<Weights>,
    caches: Table<KvStore>,
}

impl Cpu {
    /// A backend of `threads` threads (0 counts as 1) at `level`, by default the best that [`detect`] finds.
    ///
    /// # Errors
    /// [`CpuError::Threads`] where the system refuses a thread.
    pub fn new(threads: usize, level: Option<Level>) -> Result<Self, CpuError> {
        let level = level.unwrap_or_else(detect);
        let pool = Pool::try_new(threads)?;
        Ok(Self { pool, level, scratch: Scratch::default(), slabs: Slabs::default(), state: Mutex::default() })
    }

    /// The level at which it computes.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The threads that compute.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Waits for the operation of another thread, if there is one.
    ///
    /// # Panics
    /// Where that operation panicked: what it wrote is lost.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("an operation on this backend has panicked; its buffers are lost")
    }

    /// Changes one buffer of floats, by what others hold.
    fn change(&self, x: Buf, work: impl FnOnce(&mut [f32], &Arena)) {
        let b = &mut self.state().buffers;
        let mut floats = b.take(x);
        work(&mut floats, b);
        b.put(x, floats);
    }

    /// `out = onto + x · wᵀ`.
    fn product(&self, state: &State, out: &mut [f32], onto: Onto<'_>, x: Buf, w: Matrix, rows: Rows) {
        let w = state.matrices.get(w.index());
        w.multiply(&self.pool, self.level, &self.scratch, out, onto, state.buffers.floats(x), rows);
    }

    /// The head's losses, and its gradients by `x` and by its weights.
    fn head_backward(
        &self,
        outputs: [Buf; 3],
        x: Buf,
        head: Matrix,
        scale: f32,
        rows: usize,
        wanted: impl FnOnce(&Arena) -> Wanted<'_>,
    ) {
        let mut state = self.state();
        let [mut losses, mut d_x, mut g_head] = outputs.map(|output| state.buffers.take(output));
        let b = &state.buffers;
        let sample = Sample { x: b.floats(x), wanted: wanted(b), rows };
        let head = state.matrices.get(head.index());
        let gradients = Some(Gradients { d_x: &mut d_x, g_head: &mut g_head, scale });
        cross_entropy::head_loss(&self.pool, self.level, &self.scratch, &mut losses, gradients, head, sample);
        for (output, floats) in outputs.into_iter().zip([losses, d_x, g_head]) {
            state.buffers.put(output, floats);
        }
    }
}

impl Backend for Cpu {
    fn describe(&self) -> Description {
        Description { name: "cpu".into(), level: self.level.name().into(), threads: self.pool.threads() }
    }

    fn alloc(&self, element: Element, len: usize) -> Result<Buf, BackendError> {
        self.state().buffers.alloc(element, len)
    }

    fn free(&self, buf: Buf) {
        self.state().buffers.free(buf);
    }

    fn len(&self, buf: Buf) -> usize {
        self.state().buffers.len(buf)
    }

    fn allocated_bytes(&self) -> usize {
        let state = self.state();
        let matrices: usize = state.matrices.iter().map(Weights::bytes).sum();
        let caches: usize = state.caches.iter().map(KvStore::bytes).sum();
        state.buffers.bytes() + matrices + caches + self.scratch.bytes()
    }

    fn write(&self, dst: Buf, at: usize, src: &[f32]) {
        self.state().buffers.floats_mut(dst)[at..][..src.len()].copy_from_slice(src);
    }

    fn read(&self, src: Buf, at: usize, dst: &mut [f32]) {
        dst.copy_from_slice(&self.state().buffers.floats(src)[at..][..dst.len()]);
    }

    fn write_ids(&self, dst: Buf, at: usize, src: &[u32]) {
        self.state().buffers.ids_mut(dst)[at..][..src.len()].copy_from_slice(src);
    }

    fn fill(&self, dst: Buf, value: f32) {
        let mut state = self.state();
        self.pool.for_each_chunk(state.buffers.floats_mut(dst), CHUNK, |_, chunk| chunk.fill(value));
    }

    fn copy(&self, dst: Buf, dst_at: usize, src: Buf, src_at: usize, len: usize) {
        let mut state = self.state();
        let mut out = state.buffers.take(dst);
        let src = &state.buffers.floats(src)[src_at..][..len];
        self.pool.for_each_chunk(&mut out[dst_at..][..len], CHUNK, |index, chunk| {
            chunk.copy_from_slice(&src[index * CHUNK..][..chunk.len()]);
        });
        state.buffers.put(dst, out);
    }

    fn sync(&self) {}

    fn load_matrix(
        &self,
        parts: &[EncodedRows<'_>],
        cols: usize,
        precision: Precision,
    ) -> Result<Matrix, BackendError> {
        let weights = Weights::load(&self.pool, &self.scratch, &self.slabs, parts, cols, precision)?;
        Ok(Matrix::from_index(self.state().matrices.add(weights)))
    }

    fn trainable_matrix(
        &self,
        master: Buf,
        rows: usize,
        cols: usize,
        precision: Precision,
    ) -> Result<Matrix, BackendError> {
        let len = self.len(master);
        assert!(len >= rows * cols, "master of {len} for {rows} × {cols}");
        let number = match precision {
            Precision::F32 => Number::F32,
            Precision::Bf16 => Number::Bf16,
            Precision::Int8 => panic!("a trainable matrix has no blocks to be multiplied in int8"),
        };
        let weights = Weights::trainable(&self.slabs, master, rows, cols, number)?;
        let matrix = Matrix::from_index(self.state().matrices.add(weights));
        self.refresh(matrix);
        Ok(matrix)
    }

    fn refresh(&self, matrix: Matrix) {
        let state = &mut *self.state();
        let weights = state.matrices.get_mut(matrix.index());
        let master = state.buffers.floats(weights.training().master);
        weights.refresh(&self.pool, self.level, master);
    }

    fn free_matrix(&self, matrix: Matrix) {
        self.state().matrices.remove(matrix.index());
    }

    fn matrix_shape(&self, matrix: Matrix) -> (usize, usize) {
        let state = self.state();
        let weights = state.matrices.get(matrix.index());
        (weights.rows, weights.cols)
    }

    fn matrix_bytes(&self, matrix: Matrix) -> usize {
        self.state().matrices.get(matrix.index()).forward_bytes()
    }

    fn embed(&self, out: Buf, ids: Buf, table: Matrix, rows: usize) {
        let mut state = self.state();
        let mut floats = state.buffers.take(out);
        let table = state.matrices.get(table.index());
        let ids = &state.buffers.ids(ids)[..rows];
        let master = table.training.as_ref().map(|training| state.buffers.floats(training.master));
        table.embed(&self.pool, &mut floats, ids, master);
        state.buffers.put(out, floats);
    }

    fn add_rows(&self, x: Buf, ids: Buf, table: Buf, width: usize, rows: usize) {
        self.change(x, |x, b| embedding::add_rows(&self.pool, x, &b.ids(ids)[..rows], b.floats(table), width));
    }

    fn embed_backward(&self, g_table: Buf, d_out: Buf, ids: Buf, width: usize, rows: usize) {
        let mut state = self.state();
        let mut g = state.buffers.take(g_table);
        let (d_out, ids) = (state.buffers.floats(d_out), state.buffers.ids(ids));
        embedding::embed_backward(&self.pool, self.level, &mut g, d_out, ids, width, rows);
        state.buffers.put(g_table, g);
    }

    fn rmsnorm(&self, out: Buf, rstd: Buf, x: Buf, weight: Buf, epsilon: f32, rows: usize) {
        let b = &mut self.state().buffers;
        let (mut out_floats, mut rstd_floats) = (b.take(out), b.take(rstd));
        let (x, weight) = (b.floats(x), b.floats(weight));
        norm::rmsnorm(&self.pool, self.level, &mut out_floats, &mut rstd_floats, x, weight, epsilon, rows);
        b.put(out, out_floats);
        b.put(rstd, rstd_floats);
    }

    fn layer_norm(&self, out: Buf, x: Buf, weight: Buf, bias: Buf, epsilon: f32, rows: usize) {
        self.change(out, |out, b| {
            let (x, weight, bias) = (b.floats(x), b.floats(weight), b.floats(bias));
            layer_norm::layer_norm(&self.pool, self.level, out, x, weight, bias, epsilon, rows);
        });
    }

    fn rmsnorm_heads(&self, qkv: Buf, query_weight: Buf, key_weight: Buf, heads: Heads, epsilon: f32, rows: usize) {
        self.change(qkv, |qkv, b| {
            let weights = [b.floats(query_weight), b.floats(key_weight)];
            norm::rmsnorm_heads(&self.pool, self.level, qkv, weights, heads, epsilon, rows);
        });
    }

    fn add_bias(&self, x: Buf, bias: Buf, rows: usize) {
        self.change(x, |x, b| bias::add_bias(&self.pool, x, b.floats(bias), rows));
    }

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
    ) {
        let b = &mut self.state().buffers;
        let (mut d, mut g) = (b.take(d_x), b.take(g_weight));
        let residual = (d_residual != d_x).then(|| b.floats(d_residual));
        let (d_out, x, rstd, weight) = (b.floats(d_out), b.floats(x), b.floats(rstd), b.floats(weight));
        norm::rmsnorm_backward_add(&self.pool, self.level, &mut d, &mut g, residual, d_out, x, rstd, weight, rows);
        b.put(d_x, d);
        b.put(g_weight, g);
    }

    fn linear(&self, out: Buf, x: Buf, w: Matrix, rows: Rows) {
        let mut state = self.state();
        let mut floats = state.buffers.take(out);
        self.product(&state, &mut floats, Onto::Nothing, x, w, rows);
        state.buffers.put(out, floats);
    }

    fn linear_add(&self, out: Buf, residual: Buf, x: Buf, w: Matrix, rows: Rows) {
        let mut state = self.state();
        let mut floats = state.buffers.take(out);
        let onto = match residual == out {
            true => Onto::ItselfAsResidual,
            false => Onto::Residual(state.buffers.floats(residual)),
        };
        self.product(&state, &mut floats, onto, x, w, rows);
        state.buffers.put(out, floats);
    }

    fn linear_backward(&self, d_x: Buf, g_w: Buf, d_out: Buf, x: Buf, w: Matrix, rows: usize) {
        let mut state = self.state();
        let (mut d, mut g) = (state.buffers.take(d_x), state.buffers.take(g_w));
        let (pool, level, scratch) = (&self.pool, self.level, &self.scratch);
        let w = state.matrices.get(w.index());
        let (d_out, x) = (&state.buffers.floats(d_out)[..rows * w.rows], &state.buffers.floats(x)[..rows * w.cols]);
        let left = Left::Rows { x: d_out, ld: w.rows };
        let backward = w.training().backward.right();
        gemm(pool, level, scratch, &mut d, Onto::Nothing, left, backward, Rows::prompt(rows));
        let number = backward.number;
        let mut lease = scratch.take(panel_words(number, w.cols, rows));
        let right = Right::from_columns(pool, level, number, lease.words(), x, w.cols, rows);
        let left = Left::Columns { x: d_out, ld: w.rows };
        gemm(pool, level, scratch, &mut g, Onto::Itself, left, right, Rows::prompt(w.rows));
        state.buffers.put(d_x, d);
        state.buffers.put(g_w, g);
    }

    fn rope(&self, qkv: Buf, table: Buf, positions: Buf, heads: Heads, rows: usize) {
        self.change(qkv, |qkv, b| {
            rope::rope(&self.pool, self.level, qkv, b.floats(table), b.ids(positions), heads, rows);
        });
    }

    fn rope_backward(&self, d_qkv: Buf, table: Buf, positions: Buf, heads: Heads, rows: usize) {
        self.change(d_qkv, |d, b| {
            rope::rope_backward(&self.pool, self.level, d, b.floats(table), b.ids(positions), heads, rows);
        });
    }

    fn attention(
        &self,
        out: Buf,
        logsumexp: Buf,
        qkv: Buf,
        sequences: Sequences,
        heads: Heads,
        first_key: Option<Buf>,
        precision: Precision,
    ) {
        let b = &mut self.state().buffers;
        let (mut o, mut l) = (b.take(out), b.take(logsumexp));
        let first_key = first_key.map(|buf| b.ids(buf));
        attention::attention(
            &self.pool,
            self.level,
            &self.scratch,
            &mut o,
            &mut l,
            b.floats(qkv),
            sequences,
            heads,
            first_key,
            precision,
        );
        b.put(out, o);
        b.put(logsumexp, l);
    }

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
    ) {
        let b = &mut self.state().buffers;
        let mut d = b.take(d_qkv);
        let first_key = first_key.map(|buf| b.ids(buf));
        let (d_out, out, lse, qkv) = (b.floats(d_out), b.floats(out), b.floats(logsumexp), b.floats(qkv));
        attention::attention_backward(
            &self.pool,
            self.level,
            &self.scratch,
            &mut d,
            d_out,
            out,
            lse,
            qkv,
            sequences,
            heads,
            first_key,
            precision,
        );
        b.put(d_qkv, d);
    }

    fn new_kv_cache(
        &self,
        layers: usize,
        capacity: usize,
        heads: Heads,
        kv_type: KvType,
    ) -> Result<KvCache, BackendError> {
        let cache = KvStore::new(layers, capacity, heads, kv_type)?;
        Ok(KvCache::from_index(self.state().caches.add(cache)))
    }

    fn free_kv_cache(&self, cache: KvCache) {
        self.state().caches.remove(cache.index());
    }

    fn kv_store(&self, cache: KvCache, layer: usize, at: usize, qkv: Buf, rows: usize) {
        let state = &mut *self.state();
        let cache = state.caches.get_mut(cache.index());
        cache.store(&self.pool, self.level, layer, at, state.buffers.floats(qkv), rows);
    }

    fn attention_cached(
        &self,
        out: Buf,
        qkv: Buf,
        cache: KvCache,
        layer: usize,
        at: usize,
        rows: Rows,
        precision: Precision,
    ) {
        let mut state = self.state();
        let mut floats = state.buffers.take(out);
        let (cache, qkv) = (state.caches.get(cache.index()), state.buffers.floats(qkv));
        attention::attention_cached(
            &self.pool,
            self.level,
            &self.scratch,
            &mut floats,
            qkv,
            cache,
            layer,
            at,
            rows,
            precision,
        );
        state.buffers.put(out, floats);
    }

    fn swiglu(&self, out: Buf, gate_up: Buf, width: usize, rows: usize) {
        self.change(out, |out, b| {
            activation::swiglu(&self.pool, self.level, out, b.floats(gate_up), width, rows);
        });
    }

    fn swiglu_backward(&self, d_gate_up: Buf, d_out: Buf, gate_up: Buf, width: usize, rows: usize) {
        self.change(d_gate_up, |d, b| {
            let (d_out, gate_up) = (b.floats(d_out), b.floats(gate_up));
            activation::swiglu_backward(&self.pool, self.level, d, d_out, gate_up, width, rows);
        });
    }

    fn gelu(&self, x: Buf, len: usize) {
        self.change(x, |x, _| activation::gelu(&self.pool, self.level, &mut x[..len]));
    }

    fn relu(&self, x: Buf, len: usize) {
        self.change(x, |x, _| activation::relu(&self.pool, self.level, &mut x[..len]));
    }

    fn head_loss(&self, losses: Buf, x: Buf, head: Matrix, targets: Buf, rows: usize) {
        let mut state = self.state();
        let mut out = state.buffers.take(losses);
        let sample = Sample { x: state.buffers.floats(x), wanted: Wanted::Targets(state.buffers.ids(targets)), rows };
        let head = state.matrices.get(head.index());
        cross_entropy::head_loss(&self.pool, self.level, &self.scratch, &mut out, None, head, sample);
        state.buffers.put(losses, out);
    }

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
    ) {
        self.head_backward([losses, d_x, g_head], x, head, scale, rows, |b| Wanted::Targets(b.ids(targets)));
    }

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
    ) {
        self.head_backward([divergences, d_x, g_head], x, head, scale, rows, |b| {
            let (ids, probabilities) = (b.ids(teacher.ids), b.floats(teacher.probabilities));
            Wanted::Teacher(TeacherRows { ids, probabilities, tokens: teacher.tokens, divergence })
        });
    }

    fn sum_of_squares(&self, x: Buf) -> f64 {
        reduce::sum_of_squares(&self.pool, self.level, &self.scratch, self.state().buffers.floats(x))
    }

    fn adamw(&self, weights: Buf, gradient: Buf, m: Buf, v: Buf, step: &AdamW) {
        let b = &mut self.state().buffers;
        let (mut w, mut m_floats, mut v_floats) = (b.take(weights), b.take(m), b.take(v));
        let gradient = b.floats(gradient);
        adamw::adamw(&self.pool, self.level, &mut w, gradient, &mut m_floats, &mut v_floats, step);
        b.put(weights, w);
        b.put(m, m_floats);
        b.put(v, v_floats);
    }
}
