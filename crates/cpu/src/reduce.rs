//! `Σ x²` of a gradient, for its norm: f64, in an order of additions that depends on the length alone.
//!
//! Chunks of 4096 floats are each reduced in f32, in four accumulators of sixteen lanes (products fused, lanes folded
//! by halves); the partial sums are added in f64, ascending.

use crate::memory::Scratch;
use crate::pool::Disjoint;
use crate::simd::{LANES, Simd, at_every_level, blocks};
use crate::split::over_items;
use crate::{Level, Pool};

/// Floats of a chunk: 64 additions into each lane of an accumulator, so f32 loses at most a few units.
const CHUNK: usize = 4096;

/// `Σ x²`.
pub(crate) fn sum_of_squares(pool: &Pool, level: Level, scratch: &Scratch, x: &[f32]) -> f64 {
    let chunks = x.len().div_ceil(CHUNK);
    let mut lease = scratch.take(chunks);
    let partial = lease.floats();
    let pieces = Disjoint::new(partial);
    over_items(pool, chunks, x.len(), &|range| {
        // SAFETY: ranges of chunks do not overlap.
        let partial = unsafe { pieces.range(range.clone()) };
        let x = &x[range.start * CHUNK..x.len().min(range.end * CHUNK)];
        chunk_sums(level, partial, x);
    });
    partial.iter().map(|&sum| f64::from(sum)).sum()
}

at_every_level! {
    fn chunk_sums(partial: &mut [f32], x: &[f32]) = chunk_sums_of;
}

#[inline(always)]
fn chunk_sums_of(s: impl Simd, partial: &mut [f32], x: &[f32]) {
    for (sum, chunk) in partial.iter_mut().zip(x.chunks(CHUNK)) {
        *sum = dot(s, chunk, chunk);
    }
}

/// `a · b` in four accumulators of sixteen lanes: element `i` goes to accumulator `i / 16 % 4`.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    const STRIDE: usize = 4 * LANES;
    let b = &b[..a.len()];
    let mut sums = [s.splat(0.0); 4];
    let whole = a.len() / STRIDE * STRIDE;
    for (a, b) in a.chunks_exact(STRIDE).zip(b.chunks_exact(STRIDE)) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let at = i * LANES..(i + 1) * LANES;
            *sum = s.fma(s.get(&a[at.clone()]), s.get(&b[at]), *sum);
        }
    }
    let (a, b) = (&a[whole..], &b[whole..]);
    for (at, sum) in blocks(a.len()).zip(&mut sums) {
        *sum = s.fma(s.get(&a[at.clone()]), s.get(&b[at]), *sum);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{floats, pools};

    #[test]
    fn levels_and_threads_return_the_same_bits_near_the_exact_sum() {
        for len in [0, 1, 15, 16, 17, 63, 64, 65, 100, 4095, 4096, 4097, 50_001] {
            let x = floats(len as u64, len);
            let exact: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            let want = sum_of_squares(&Pool::new(1), Level::Scalar, &Scratch::default(), &x);
            assert!((want - exact).abs() <= 1e-6 * exact, "{len}: {want} {exact}");
            for pool in pools() {
                for level in crate::available() {
                    assert_eq!(
                        sum_of_squares(&pool, level, &Scratch::default(), &x).to_bits(),
                        want.to_bits(),
                        "{level:?} {len}"
                    );
                }
            }
        }
    }
}
