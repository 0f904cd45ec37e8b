//! Keys, values and queries in the forms that the products read.
//!
//! A *panel* is [`BLOCK`] keys as `head_dim` rows of [`BLOCK`] columns, so that the lanes of a score are keys. Values
//! (and whatever else has `head_dim` in its lanes) are rows of [`padded`] floats, zero beyond `head_dim`.

use crate::simd::LANES;

/// Keys of a block. Blocks stand at fixed absolute positions: this is what makes attention row-exact.
pub(crate) const BLOCK: usize = 64;

/// `head_dim` rounded up to whole vectors.
pub(crate) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Rows of one head inside a wider buffer: row r is `data[r · stride..][..head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct HeadRows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) head_dim: usize,
}

impl<'a> HeadRows<'a> {
    /// The head that starts at float `offset` of each row of `data`.
    pub(crate) fn new(data: &'a [f32], offset: usize, stride: usize, head_dim: usize) -> Self {
        Self { data: data.get(offset..).unwrap_or(&[]), stride, head_dim }
    }

    #[inline(always)]
    pub(crate) fn row(&self, r: usize) -> &'a [f32] {
        &self.data[r * self.stride..][..self.head_dim]
    }
}

/// Writes rows `rows` into column `rows.start % BLOCK` and following of panels, the first of which holds row
/// `rows.start / BLOCK · BLOCK`; `keep` turns a float into what the panel keeps. Other columns stay.
#[inline(always)]
pub(crate) fn to_panels<E: Copy>(
    panels: &mut [E],
    source: HeadRows<'_>,
    source_row: usize,
    at: usize,
    rows: usize,
    keep: impl Fn(f32) -> E,
) {
    let head_dim = source.head_dim;
    let panel_len = head_dim * BLOCK;
    // Sixteen keys at a time: the lines of more rows, which lie a power of two apart in wide buffers, evict each other.
    let mut done = 0;
    while done < rows {
        let key = at % BLOCK + done;
        let keys = (LANES - key % LANES).min(rows - done);
        let panel = &mut panels[key / BLOCK * panel_len..][..panel_len];
        let column = key % BLOCK;
        for d in (0..head_dim).step_by(LANES) {
            let width = LANES.min(head_dim - d);
            let mut square = [[0.0; LANES]; LANES];
            for (k, line) in square[..keys].iter_mut().enumerate() {
                let from = &source.row(source_row + done + k)[d..d + width];
                match from.try_into() {
                    Ok(whole) => *line = whole,
                    Err(_) => line[..width].copy_from_slice(from),
                }
            }
            for i in 0..width {
                let out = &mut panel[(d + i) * BLOCK + column..][..keys];
                match <&mut [E; LANES]>::try_from(&mut *out) {
                    Ok(whole) => *whole = std::array::from_fn(|k| keep(square[k][i])),
                    Err(_) => out.iter_mut().enumerate().for_each(|(k, out)| *out = keep(square[k][i])),
                }
            }
        }
        done += keys;
    }
}

/// Copies rows `source_row..` into rows of [`padded`] elements; what lies beyond `head_dim` stays.
#[inline(always)]
pub(crate) fn to_rows<E: Copy>(
    out: &mut [E],
    source: HeadRows<'_>,
    source_row: usize,
    rows: usize,
    keep: impl Fn(f32) -> E,
) {
    let head_dim = source.head_dim;
    for (r, out) in out.chunks_exact_mut(padded(head_dim)).take(rows).enumerate() {
        for (out, &x) in out.iter_mut().zip(source.row(source_row + r)) {
            *out = keep(x);
        }
    }
}
