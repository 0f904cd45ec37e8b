//! Attention of generated rows over the caches of all layers of a model, as a decoded token reads them.

use super::{Buffers, Case, Found, in_gigabytes};
use crate::BenchError;
use crate::bench::Bench;
use backend::{Backend, Heads, KvType, Precision, Rows};

/// Positions in the cache.
const POSITIONS: usize = 1024;

/// A model's caches: AMD-135M's, and SmolLM2-135M's, whose query heads share keys.
const MODELS: [(usize, Heads); 2] =
    [(12, Heads { heads: 12, kv_heads: 12, head_dim: 64 }), (30, Heads { heads: 9, kv_heads: 3, head_dim: 64 })];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (layers, heads) in MODELS {
        for kv_type in KvType::ALL {
            let shape = |rows| format!("{rows} over {layers} × {POSITIONS}, {}/{} heads", heads.heads, heads.kv_heads);
            let case = |name, shape, measure| Case { name, shape, dtype: kv_type.name(), unit: "GB/s", measure };
            for rows in [1, 4] {
                let measure = move |bench: &Bench<'_>| attention(bench, layers, heads, kv_type, rows);
                cases.push(case("attention cached", shape(rows), Box::new(measure)));
            }
            let measure = move |bench: &Bench<'_>| store(bench, layers, heads, kv_type);
            cases.push(case("kv store", shape(POSITIONS), Box::new(measure)));
        }
    }
    cases
}

/// Bytes of the caches of all layers.
fn cached_bytes(layers: usize, heads: Heads, kv_type: KvType) -> f64 {
    (2 * layers * POSITIONS * heads.kv_heads * kv_type.row_bytes(heads.head_dim)) as f64
}

fn attention(
    bench: &Bench<'_>,
    layers: usize,
    heads: Heads,
    kv_type: KvType,
    rows: usize,
) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (qkv, out) = (buffers.noise(POSITIONS * heads.qkv_width())?, buffers.noise(rows * heads.query_width())?);
    let cache = b.new_kv_cache(layers, POSITIONS, heads, kv_type)?;
    (0..layers).for_each(|layer| b.kv_store(cache, layer, 0, qkv, POSITIONS));
    let found = in_gigabytes(bench, cached_bytes(layers, heads, kv_type), None, || {
        for layer in 0..layers {
            b.attention_cached(out, qkv, cache, layer, POSITIONS - rows, Rows::generated(rows), Precision::F32);
        }
    });
    b.free_kv_cache(cache);
    found
}

/// Reads f32, writes the cache's type.
fn store(bench: &Bench<'_>, layers: usize, heads: Heads, kv_type: KvType) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let qkv = buffers.noise(POSITIONS * heads.qkv_width())?;
    let cache = b.new_kv_cache(layers, POSITIONS, heads, kv_type)?;
    let bytes = cached_bytes(layers, heads, kv_type) + cached_bytes(layers, heads, KvType::F32);
    let found = in_gigabytes(bench, bytes, None, || {
        (0..layers).for_each(|layer| b.kv_store(cache, layer, 0, qkv, POSITIONS));
    });
    b.free_kv_cache(cache);
    found
}
