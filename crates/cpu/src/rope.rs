//! Rotary position embedding (Su et al., 2021) in the Hugging Face layout: element `i` and `i + head_dim/2` of a head
//! form a pair `(a, b)`, which becomes `(a·cos − b·sin, b·cos + a·sin)`; the backward turns by the negative angle.

use crate::pool::Disjoint;
use crate::simd::{Simd, at_every_level, blocks};
use crate::split::over_items;
use crate::{Level, Pool};
use backend::Heads;

/// Rotates queries and keys of `rows` rows of `qkv` in place. A position's row of `table` is `head_dim/2` cosines, then
/// as many sines.
pub(crate) fn rope(
    pool: &Pool,
    level: Level,
    qkv: &mut [f32],
    table: &[f32],
    positions: &[u32],
    heads: Heads,
    rows: usize,
) {
    turn(pool, level, qkv, table, positions, heads, rows, 1.0);
}

/// The transpose of [`rope`], in place on the gradient.
pub(crate) fn rope_backward(
    pool: &Pool,
    level: Level,
    d_qkv: &mut [f32],
    table: &[f32],
    positions: &[u32],
    heads: Heads,
    rows: usize,
) {
    turn(pool, level, d_qkv, table, positions, heads, rows, -1.0);
}

fn turn(
    pool: &Pool,
    level: Level,
    qkv: &mut [f32],
    table: &[f32],
    positions: &[u32],
    heads: Heads,
    rows: usize,
    direction: f32,
) {
    let width = heads.qkv_width();
    let qkv = Disjoint::new(&mut qkv[..rows * width]);
    over_items(pool, rows, rows * width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let qkv = unsafe { qkv.range(range.start * width..range.end * width) };
        turn_rows(level, qkv, table, &positions[range], heads, direction);
    });
}

at_every_level! {
    fn turn_rows(qkv: &mut [f32], table: &[f32], positions: &[u32], heads: Heads, direction: f32) = turn_lanes;
}

#[inline(always)]
fn turn_lanes(s: impl Simd, qkv: &mut [f32], table: &[f32], positions: &[u32], heads: Heads, direction: f32) {
    let half = heads.head_dim / 2;
    let turned = heads.query_width() + heads.kv_width();
    let direction = s.splat(direction);
    for (row, &position) in qkv.chunks_exact_mut(heads.qkv_width()).zip(positions) {
        let (cos, sin) = table[position as usize * heads.head_dim..][..heads.head_dim].split_at(half);
        for head in row[..turned].chunks_exact_mut(heads.head_dim) {
            let (first, second) = head.split_at_mut(half);
            for at in blocks(half) {
                let (a, b) = (s.get(&first[at.clone()]), s.get(&second[at.clone()]));
                let (cos, sin) = (s.get(&cos[at.clone()]), s.mul(s.get(&sin[at.clone()]), direction));
                let minus_b_sin = s.sub(s.splat(0.0), s.mul(b, sin));
                s.put(&mut first[at.clone()], s.fma(a, cos, minus_b_sin));
                s.put(&mut second[at], s.fma(b, cos, s.mul(a, sin)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{bits, floats, pools};

    fn run(pool: &Pool, level: Level, heads: Heads, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let start = floats(1, rows * heads.qkv_width());
        let table = floats(2, 50 * heads.head_dim);
        let positions: Vec<u32> = (0..rows as u32).map(|r| r * 7 % 50).collect();
        let (mut forward, mut backward) = (start.clone(), start);
        rope(pool, level, &mut forward, &table, &positions, heads, rows);
        rope_backward(pool, level, &mut backward, &table, &positions, heads, rows);
        (forward, backward)
    }

    #[test]
    fn levels_and_threads_return_the_same_bits() {
        for head_dim in [2, 8, 48, 64, 80] {
            let heads = Heads { heads: 3, kv_heads: 1, head_dim };
            for rows in [1, 5, 60] {
                let want = run(&Pool::new(1), Level::Scalar, heads, rows);
                for pool in pools() {
                    for level in crate::available() {
                        let got = run(&pool, level, heads, rows);
                        assert_eq!(bits(&got.0), bits(&want.0), "{level:?} {heads:?} {rows}");
                        assert_eq!(bits(&got.1), bits(&want.1), "{level:?} {heads:?} {rows}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_quarter_turn_swaps_the_pair_and_values_stay() {
        let heads = Heads { heads: 1, kv_heads: 1, head_dim: 2 };
        let mut qkv = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        rope(&Pool::new(1), Level::Scalar, &mut qkv, &[9.0, 9.0, 0.0, 1.0], &[1], heads, 1);
        assert_eq!(qkv, [-2.0, 1.0, -4.0, 3.0, 5.0, 6.0]);
    }
}
