//! Adding a bias. One addition an element, which every level rounds alike, so the compiler may vectorise it as it likes.

use crate::Pool;
use crate::pool::Disjoint;
use crate::split::over_items;

/// `x[r] += bias`: `x` is `rows × bias.len()`.
pub(crate) fn add_bias(pool: &Pool, x: &mut [f32], bias: &[f32], rows: usize) {
    let width = bias.len();
    let x = Disjoint::new(&mut x[..rows * width]);
    over_items(pool, rows, rows * width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let x = unsafe { x.range(range.start * width..range.end * width) };
        for row in x.chunks_exact_mut(width) {
            row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
    });
}
