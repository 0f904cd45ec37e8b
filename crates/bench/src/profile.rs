//! Where the time of a step goes: a backend that passes every operation on, times it, and counts its work.

mod report;
mod work;

pub use report::{Profile, ProfileLine};

use backend::{
    AdamW, Backend, BackendError, Buf, Description, Divergence, Element, EncodedRows, Family, Heads, KvCache, KvType,
    Matrix, Precision, Rows, Sequences, Teacher,
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use work::Work;

/// A backend that passes on to another, and remembers what that took.
///
/// Work is counted as the operation's equation has it: a product and a sum are two operations, recomputation is not
/// counted, every operand is read once and every result written once.
pub struct Profiled<'a> {
    inner: &'a dyn Backend,
    /// How matrices are multiplied: a handle does not say.
    precision: Precision,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    entries: Vec<Entry>,
    /// The caches that were made here: their heads, and how they keep keys and values.
    caches: Vec<(KvCache, Heads, KvType)>,
}

/// All calls of one operation with matrices of one shape.
#[derive(Clone, Debug)]
struct Entry {
    operation: &'static str,
    /// Output and input features, where there is a matrix.
    shape: Option<(usize, usize)>,
    calls: u64,
    seconds: f64,
    work: Work,
}

impl<'a> Profiled<'a> {
    /// `inner`, watched; its matrices are multiplied in `precision`.
    pub fn new(inner: &'a dyn Backend, precision: Precision) -> Self {
        Self { inner, precision, record: Mutex::default() }
    }

    /// Forgets what was timed so far: it was to warm up.
    pub fn clear(&self) {
        self.record().entries.clear();
    }

    fn entries(&self) -> Vec<Entry> {
        self.record().entries.clone()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `call`, timed until it is done, under the name of an operation.
    fn timed<T>(
        &self,
        operation: &'static str,
        shape: Option<(usize, usize)>,
        work: Work,
        call: impl FnOnce() -> T,
    ) -> T {
        let start = Instant::now();
        let result = call();
        self.inner.sync();
        let seconds = start.elapsed().as_secs_f64();
        let entries = &mut self.record().entries;
        let index = entries.iter().position(|entry| (entry.operation, entry.shape) == (operation, shape));
        let index = index.unwrap_or_else(|| {
            entries.push(Entry { operation, shape, calls: 0, seconds: 0.0, work: Work::default() });
            entries.len() - 1
        });
        let entry = &mut entries[index];
        entry.calls += 1;
        entry.seconds += seconds;
        entry.work += work;
        result
    }

    /// Times an operation with a matrix; `work` is made of its output and input features.
    fn with_matrix<T>(
        &self,
        operation: &'static str,
        matrix: Matrix,
        work: impl FnOnce(usize, usize) -> Work,
        call: impl FnOnce() -> T,
    ) -> T {
        let (outputs, inputs) = self.inner.matrix_shape(matrix);
        self.timed(operation, Some((outputs, inputs)), work(outputs, inputs), call)
    }

    /// Heads of a cache that was made here, and how it keeps keys and values.
    fn cache(&self, cache: KvCache) -> (Heads, KvType) {
        let record = self.record();
        let known = record.caches.iter().find(|(known, ..)| *known == cache);
        known.map(|&(_, heads, kv_type)| (heads, kv_type)).expect("the cache was made by this backend")
    }
}

impl Backend for Profiled<'_> {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn alloc(&self, element: Element, len: usize) -> Result<Buf, BackendError> {
        self.inner.alloc(element, len)
    }

    fn free(&self, buf: Buf) {
        self.inner.free(buf);
    }

    fn len(&self, buf: Buf) -> usize {
        self.inner.len(buf)
    }

    fn allocated_bytes(&self) -> usize {
        self.inner.allocated_bytes()
    }

    fn write(&self, dst: Buf, at: usize, src: &[f32]) {
        self.timed("write", None, work::moved(2 * src.len()), || self.inner.write(dst, at, src));
    }

    fn read(&self, src: Buf, at: usize, dst: &mut [f32]) {
        self.timed("read", None, work::moved(2 * dst.len()), || self.inner.read(src, at, dst));
    }

    fn write_ids(&self, dst: Buf, at: usize, src: &[u32]) {
        self.timed("write_ids", None, work::moved(2 * src.len()), || self.inner.write_ids(dst, at, src));
    }

    fn fill(&self, dst: Buf, value: f32) {
        self.timed("fill", None, work::moved(self.inner.len(dst)), || self.inner.fill(dst, value));
    }

    fn copy(&self, dst: Buf, dst_at: usize, src: Buf, src_at: usize, len: usize) {
        self.timed("copy", None, work::moved(2 * len), || self.inner.copy(dst, dst_at, src, src_at, len));
    }

    fn sync(&self) {
        self.inner.sync();
    }

    fn load_matrix(
        &self,
        parts: &[EncodedRows<'_>],
        cols: usize,
        precision: Precision,
    ) -> Result<Matrix, BackendError> {
        self.inner.load_matrix(parts, cols, precision)
    }

    fn trainable_matrix(
        &self,
        master: Buf,
        rows: usize,
        cols: usize,
        precision: Precision,
    ) -> Result<Matrix, BackendError> {
        self.inner.trainable_matrix(master, rows, cols, precision)
    }

    fn refresh(&self, matrix: Matrix) {
        let packed = 2 * self.inner.matrix_bytes(matrix);
        let work = |rows, cols| work::moved(rows * cols).and_bytes(packed);
        self.with_matrix("refresh", matrix, work, || self.inner.refresh(matrix));
    }

    fn free_matrix(&self, matrix: Matrix) {
        self.inner.free_matrix(matrix);
    }

    fn matrix_shape(&self, matrix: Matrix) -> (usize, usize) {
        self.inner.matrix_shape(matrix)
    }

    fn matrix_bytes(&self, matrix: Matrix) -> usize {
        self.inner.matrix_bytes(matrix)
    }

    fn embed(&self, out: Buf, ids: Buf, table: Matrix, rows: usize) {
        let (_, width) = self.inner.matrix_shape(table);
        self.timed("embed", None, work::moved(2 * rows * width), || self.inner.embed(out, ids, table, rows));
    }

    fn add_rows(&self, x: Buf, ids: Buf, table: Buf, width: usize, rows: usize) {
        self.timed("add_rows", None, work::moved(3 * rows * width), || self.inner.add_rows(x, ids, table, width, rows));
    }

    fn embed_backward(&self, g_table: Buf, d_out: Buf, ids: Buf, width: usize, rows: usize) {
        self.timed("embed_backward", None, work::moved(3 * rows * width), || {
            self.inner.embed_backward(g_table, d_out, ids, width, rows);
        });
    }

    fn rmsnorm(&self, out: Buf, rstd: Buf, x: Buf, weight: Buf, epsilon: f32, rows: usize) {
        let work = work::moved(2 * rows * self.inner.len(weight));
        self.timed("rmsnorm", None, work, || self.inner.rmsnorm(out, rstd, x, weight, epsilon, rows));
    }

    fn layer_norm(&self, out: Buf, x: Buf, weight: Buf, bias: Buf, epsilon: f32, rows: usize) {
        let work = work::moved(2 * rows * self.inner.len(weight));
        self.timed("layer_norm", None, work, || self.inner.layer_norm(out, x, weight, bias, epsilon, rows));
    }

    fn rmsnorm_heads(&self, qkv: Buf, query_weight: Buf, key_weight: Buf, heads: Heads, epsilon: f32, rows: usize) {
        let work = work::moved(2 * rows * (heads.query_width() + heads.kv_width()));
        self.timed("rmsnorm_heads", None, work, || {
            self.inner.rmsnorm_heads(qkv, query_weight, key_weight, heads, epsilon, rows);
        });
    }

    fn add_bias(&self, x: Buf, bias: Buf, rows: usize) {
        let work = work::moved(2 * rows * self.inner.len(bias));
        self.timed("add_bias", None, work, || self.inner.add_bias(x, bias, rows));
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
        self.timed("rmsnorm_backward_add", None, work::moved(4 * rows * self.inner.len(weight)), || {
            self.inner.rmsnorm_backward_add(d_x, g_weight, d_residual, d_out, x, rstd, weight, rows);
        });
    }

    fn linear(&self, out: Buf, x: Buf, w: Matrix, rows: Rows) {
        let bytes = self.inner.matrix_bytes(w);
        let work = |n, k| work::product(self.precision, rows.count, n, k).and_bytes(bytes);
        self.with_matrix("linear", w, work, || self.inner.linear(out, x, w, rows));
    }

    fn linear_add(&self, out: Buf, residual: Buf, x: Buf, w: Matrix, rows: Rows) {
        let bytes = self.inner.matrix_bytes(w);
        let work = |n, k| work::product(self.precision, rows.count, n, k).and_bytes(bytes + 4 * rows.count * n);
        self.with_matrix("linear_add", w, work, || self.inner.linear_add(out, residual, x, w, rows));
    }

    fn linear_backward(&self, d_x: Buf, g_w: Buf, d_out: Buf, x: Buf, w: Matrix, rows: usize) {
        let bytes = self.inner.matrix_bytes(w);
        let work = |n, k| work::product_backward(self.precision, rows, n, k).and_bytes(bytes);
        self.with_matrix("linear_backward", w, work, || self.inner.linear_backward(d_x, g_w, d_out, x, w, rows));
    }

    fn rope(&self, qkv: Buf, table: Buf, positions: Buf, heads: Heads, rows: usize) {
        let work = work::moved(2 * rows * (heads.query_width() + heads.kv_width()));
        self.timed("rope", None, work, || self.inner.rope(qkv, table, positions, heads, rows));
    }

    fn rope_backward(&self, d_qkv: Buf, table: Buf, positions: Buf, heads: Heads, rows: usize) {
        let work = work::moved(2 * rows * (heads.query_width() + heads.kv_width()));
        self.timed("rope_backward", None, work, || self.inner.rope_backward(d_qkv, table, positions, heads, rows));
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
        self.timed("attention", None, work::attention(precision, sequences, heads), || {
            self.inner.attention(out, logsumexp, qkv, sequences, heads, first_key, precision);
        });
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
        self.timed("attention_backward", None, work::attention_backward(precision, sequences, heads), || {
            self.inner.attention_backward(d_qkv, d_out, out, logsumexp, qkv, sequences, heads, first_key, precision);
        });
    }

    fn new_kv_cache(
        &self,
        layers: usize,
        capacity: usize,
        heads: Heads,
        kv_type: KvType,
    ) -> Result<KvCache, BackendError> {
        let cache = self.inner.new_kv_cache(layers, capacity, heads, kv_type)?;
        self.record().caches.push((cache, heads, kv_type));
        Ok(cache)
    }

    fn free_kv_cache(&self, cache: KvCache) {
        self.record().caches.retain(|(known, ..)| *known != cache);
        self.inner.free_kv_cache(cache);
    }

    fn kv_store(&self, cache: KvCache, layer: usize, at: usize, qkv: Buf, rows: usize) {
        let (heads, kv_type) = self.cache(cache);
        let work = work::kv_store(heads, kv_type, rows);
        self.timed("kv_store", None, work, || self.inner.kv_store(cache, layer, at, qkv, rows));
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
        let (heads, kv_type) = self.cache(cache);
        let computed = if rows.family == Family::Prompt { precision } else { Precision::F32 };
        let work = work::attention_cached(computed, heads, kv_type, at, rows.count);
        self.timed("attention_cached", None, work, || {
            self.inner.attention_cached(out, qkv, cache, layer, at, rows, precision);
        });
    }

    fn swiglu(&self, out: Buf, gate_up: Buf, width: usize, rows: usize) {
        self.timed("swiglu", None, work::moved(3 * rows * width), || self.inner.swiglu(out, gate_up, width, rows));
    }

    fn swiglu_backward(&self, d_gate_up: Buf, d_out: Buf, gate_up: Buf, width: usize, rows: usize) {
        self.timed("swiglu_backward", None, work::moved(5 * rows * width), || {
            self.inner.swiglu_backward(d_gate_up, d_out, gate_up, width, rows);
        });
    }

    fn gelu(&self, x: Buf, len: usize) {
        self.timed("gelu", None, work::moved(2 * len), || self.inner.gelu(x, len));
    }

    fn relu(&self, x: Buf, len: usize) {
        self.timed("relu", None, work::moved(2 * len), || self.inner.relu(x, len));
    }

    fn head_loss(&self, losses: Buf, x: Buf, head: Matrix, targets: Buf, rows: usize) {
        let bytes = self.inner.matrix_bytes(head);
        let work = |n, k| work::head_loss(self.precision, rows, n, k).and_bytes(bytes);
        self.with_matrix("head_loss", head, work, || self.inner.head_loss(losses, x, head, targets, rows));
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
        let bytes = self.inner.matrix_bytes(head);
        let work = |n, k| work::head_loss_backward(self.precision, rows, n, k).and_bytes(2 * bytes);
        self.with_matrix("head_loss_backward", head, work, || {
            self.inner.head_loss_backward(losses, d_x, g_head, x, head, targets, scale, rows);
        });
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
        let bytes = self.inner.matrix_bytes(head);
        let work = |n, k| work::head_loss_backward(self.precision, rows, n, k).and_bytes(2 * bytes);
        self.with_matrix("head_divergence_backward", head, work, || {
            self.inner.head_divergence_backward(divergences, d_x, g_head, x, head, teacher, divergence, scale, rows);
        });
    }

    fn sum_of_squares(&self, x: Buf) -> f64 {
        self.timed("sum_of_squares", None, work::moved(self.inner.len(x)), || self.inner.sum_of_squares(x))
    }

    fn adamw(&self, weights: Buf, gradient: Buf, m: Buf, v: Buf, step: &AdamW) {
        let work = work::moved(7 * self.inner.len(weights));
        self.timed("adamw", None, work, || self.inner.adamw(weights, gradient, m, v, step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::conformance::fingerprints;

    /// What is computed through the wrapper is what the backend computes.
    #[test]
    fn the_wrapper_changes_nothing() {
        let cpu = cpu::Cpu::new(2, None).unwrap();
        assert_eq!(fingerprints(&Profiled::new(&cpu, Precision::F32)), fingerprints(&cpu));
    }

    #[test]
    fn calls_and_work_are_counted_by_shape() {
        let cpu = cpu::Cpu::new(1, None).unwrap();
        let b = Profiled::new(&cpu, Precision::F32);
        let alloc = |len| b.alloc(Element::F32, len).unwrap();
        let (x, out, w) = (alloc(3 * 8), alloc(3 * 8), alloc(8 * 8));
        let small = b.trainable_matrix(w, 4, 8, Precision::F32).unwrap();
        let large = b.trainable_matrix(w, 8, 8, Precision::F32).unwrap();
        for matrix in [small, large, large] {
            b.linear(out, x, matrix, Rows::prompt(3));
        }
        let counted: Vec<_> =
            b.entries().iter().map(|entry| (entry.operation, entry.shape, entry.calls, entry.work.flops)).collect();
        let (small, large) = (2.0 * 3.0 * 4.0 * 8.0, 2.0 * 3.0 * 8.0 * 8.0);
        assert_eq!(counted, [("linear", Some((4, 8)), 1, small), ("linear", Some((8, 8)), 2, 2.0 * large)]);
        b.clear();
        assert!(b.entries().is_empty());
    }
}
