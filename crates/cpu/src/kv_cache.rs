//! Keys and values of the positions seen so far, laid out for [`attention_cached`](crate::attention::attention_cached).
//!
//! For each layer and key head: keys as panels (see [`pack`](crate::attention::pack)), so that one query's scores are
//! a stream of whole vectors; values as rows padded to whole vectors. Both in f32, or in bf16 (nearest, ties to even).

use crate::attention::keys_and_values;
use crate::attention::pack::{BLOCK, padded, to_panels, to_rows};
use crate::lines::{Line, zeroed};
use crate::pool::Disjoint;
use crate::split::over_items;
use crate::{Level, Pool};
use backend::{BackendError, Heads, Precision};
use half::bf16;

/// The cache of a model: all layers.
pub(crate) struct KvStore {
    keys: Vec<Line>,
    values: Vec<Line>,
    layers: usize,
    capacity: usize,
    heads: Heads,
    precision: Precision,
}

/// Blocks `0..` of one key head of one layer.
pub(crate) enum Layer<'a> {
    F32 { panels: &'a [f32], values: &'a [f32] },
    Bf16 { panels: &'a [u16], values: &'a [u16] },
}

impl KvStore {
    /// Room for `capacity` positions, rounded up to whole blocks.
    pub(crate) fn new(
        layers: usize,
        capacity: usize,
        heads: Heads,
        precision: Precision,
    ) -> Result<Self, BackendError> {
        let element = match precision {
            Precision::F32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<bf16>(),
        };
        let bytes = |head_dim: usize| {
            let each = layers.checked_mul(heads.kv_heads)?.checked_mul(head_dim)?.checked_mul(element)?;
            each.checked_mul(capacity.checked_next_multiple_of(BLOCK)?)
        };
        let room = |head_dim| {
            let bytes = bytes(head_dim);
            let memory = bytes.and_then(|bytes| zeroed(bytes).ok());
            let bytes = bytes.unwrap_or(usize::MAX);
            memory.ok_or(BackendError::OutOfMemory { what: "the cache of keys and values", bytes })
        };
        let (keys, values) = (room(heads.head_dim)?, room(padded(heads.head_dim))?);
        Ok(Self { keys, values, layers, capacity: capacity.next_multiple_of(BLOCK), heads, precision })
    }

    pub(crate) fn heads(&self) -> Heads {
        self.heads
    }

    /// Positions that it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<Line>()
    }

    /// The first `blocks` blocks of key head `kv_head` of `layer`.
    pub(crate) fn layer(&self, layer: usize, kv_head: usize, blocks: usize) -> Layer<'_> {
        assert!(layer < self.layers && kv_head < self.heads.kv_heads, "layer {layer} of {}", self.layers);
        let index = layer * self.heads.kv_heads + kv_head;
        match self.precision {
            Precision::F32 => Layer::F32 {
                panels: part(bytemuck::cast_slice(&self.keys), index, self.heads.head_dim, self.capacity, blocks),
                values: part(
                    bytemuck::cast_slice(&self.values),
                    index,
                    padded(self.heads.head_dim),
                    self.capacity,
                    blocks,
                ),
            },
            Precision::Bf16 => Layer::Bf16 {
                panels: part(bytemuck::cast_slice(&self.keys), index, self.heads.head_dim, self.capacity, blocks),
                values: part(
                    bytemuck::cast_slice(&self.values),
                    index,
                    padded(self.heads.head_dim),
                    self.capacity,
                    blocks,
                ),
            },
        }
    }

    /// Stores keys and values of `rows` rows of `qkv` at positions `at..at + rows`, over what was there.
    pub(crate) fn store(&mut self, pool: &Pool, _level: Level, layer: usize, at: usize, qkv: &[f32], rows: usize) {
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        assert!(at + rows <= self.capacity, "positions {at}..{} of {}", at + rows, self.capacity);
        match self.precision {
            Precision::F32 => self.keep(pool, layer, at, qkv, rows, |x: f32| x),
            Precision::Bf16 => self.keep(pool, layer, at, qkv, rows, |x| bf16::from_f32(x).to_bits()),
        }
    }

    fn keep<E: bytemuck::Pod + Send>(
        &mut self,
        pool: &Pool,
        layer: usize,
        at: usize,
        qkv: &[f32],
        rows: usize,
        keep: impl Fn(f32) -> E + Sync,
    ) {
        let (heads, capacity) = (self.heads, self.capacity);
        let panels = Disjoint::new(bytemuck::cast_slice_mut::<_, E>(&mut self.keys));
        let values = Disjoint::new(bytemuck::cast_slice_mut::<_, E>(&mut self.values));
        over_items(pool, heads.kv_heads, rows * heads.kv_width(), &|kv_heads| {
            for kv_head in kv_heads {
                let [keys, source] = keys_and_values(qkv, heads, kv_head);
                let first = (layer * heads.kv_heads + kv_head) * capacity;
                let block = at / BLOCK * BLOCK;
                let of = |width: usize, from: usize| (first + from) * width..(first + capacity) * width;
                // SAFETY: key heads differ from thread to thread, and their parts do not overlap.
                let panels = unsafe { panels.range(of(heads.head_dim, block)) };
                to_panels(panels, keys, 0, at, rows, &keep);
                // SAFETY: as above.
                let values = unsafe { values.range(of(padded(heads.head_dim), at)) };
                to_rows(values, source, 0, rows, &keep);
            }
        });
    }
}

/// The first `blocks` blocks of head `index`, `width` elements a position.
fn part<E>(all: &[E], index: usize, width: usize, capacity: usize, blocks: usize) -> &[E] {
    &all[index * capacity * width..][..blocks * BLOCK * width]
}
