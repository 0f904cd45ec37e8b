//! Rows of a table of floats that are added to rows, and the backward of an embedding table: rows of gradients added to the
//! rows of their ids.
//!
//! Backward, each thread owns a range of columns and visits all rows in ascending order, so an id that occurs often is summed in
//! the same order whatever the number of threads.

use crate::pool::Disjoint;
use crate::simd::{LANES, Simd, at_every_level, blocks};
use crate::split::{over_grains, over_items};
use crate::{Level, Pool};

/// `x[r] += table[ids[r]]`, rows of `width` floats.
pub(crate) fn add_rows(pool: &Pool, x: &mut [f32], ids: &[u32], table: &[f32], width: usize) {
    let x = Disjoint::new(&mut x[..ids.len() * width]);
    over_items(pool, ids.len(), ids.len() * width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let x = unsafe { x.range(range.start * width..range.end * width) };
        for (x, &id) in x.chunks_exact_mut(width).zip(&ids[range]) {
            // One addition an element, which every level rounds alike: the compiler may vectorise it as it likes.
            x.iter_mut().zip(&table[id as usize * width..][..width]).for_each(|(x, row)| *x += row);
        }
    });
}

/// `g_table[ids[r]] += d_out[r]`, rows of `width` floats, ascending.
pub(crate) fn embed_backward(
    pool: &Pool,
    level: Level,
    g_table: &mut [f32],
    d_out: &[f32],
    ids: &[u32],
    width: usize,
    rows: usize,
) {
    assert!(d_out.len() >= rows * width && g_table.len().is_multiple_of(width), "rows of {width} floats");
    let table = Disjoint::new(g_table);
    over_grains(pool, width, LANES, rows * width, &|columns| {
        for (&id, d_out) in ids[..rows].iter().zip(d_out.chunks_exact(width)) {
            let start = id as usize * width;
            // SAFETY: ranges of columns do not overlap.
            let g = unsafe { table.range(start + columns.start..start + columns.end) };
            add(level, g, &d_out[columns.clone()]);
        }
    });
}

at_every_level! {
    fn add(g: &mut [f32], d: &[f32]) = add_lanes;
}

#[inline(always)]
fn add_lanes(s: impl Simd, g: &mut [f32], d: &[f32]) {
    for at in blocks(g.len()) {
        let sum = s.add(s.get(&g[at.clone()]), s.get(&d[at.clone()]));
        s.put(&mut g[at], sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{bits, floats, pools};

    #[test]
    fn rows_are_added_in_ascending_order_at_every_level() {
        let (vocab, rows) = (5, 300);
        let ids: Vec<u32> = (0..rows as u32).map(|r| r * r % vocab).collect();
        for width in [1, 16, 33, 64] {
            let d_out = floats(1, rows * width);
            let start = floats(2, vocab as usize * width);
            let mut want = start.clone();
            for (r, &id) in ids.iter().enumerate() {
                for c in 0..width {
                    want[id as usize * width + c] += d_out[r * width + c];
                }
            }
            for pool in pools() {
                for level in crate::available() {
                    let mut g = start.clone();
                    embed_backward(&pool, level, &mut g, &d_out, &ids, width, rows);
                    assert_eq!(bits(&g), bits(&want), "{level:?} {width}");
                }
            }
        }
    }
}
