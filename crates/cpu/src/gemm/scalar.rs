//! The tile in plain Rust: the reference of the others, and the whole of the scalar level.
//!
//! On x86-64 the loops are compiled a second time for processors with a fused multiply-add, which a plain build may not
//! use: without it each step is a call of the C library, with the same bits and a hundredth of the speed.

use super::Number;
use super::pack::unpair;
use super::{MR, NR, Tile};

/// # Safety
/// [`Tile`]'s pointers and `out` reach `height` rows of `width` floats, which no other thread writes.
pub(super) unsafe fn tile(tile: &Tile<'_>, out: (*mut f32, usize), number: Number) {
    let mut sums = [[0.0f32; NR]; MR];
    // SAFETY: as the caller promises.
    let row = |(start, ld): (*const f32, usize), i: usize| unsafe {
        std::slice::from_raw_parts(start.wrapping_add(i * ld), tile.width)
    };
    if let Some(start) = tile.start {
        (0..tile.height).for_each(|i| sums[i][..tile.width].copy_from_slice(row(start, i)));
    }
    let sums = &mut sums[..tile.height];
    add_products(sums, tile, number);
    for (i, sums) in sums.iter().enumerate() {
        for (j, &sum) in sums[..tile.width].iter().enumerate() {
            let residual = tile.residual.map(|residual| row(residual, i)[j]);
            // SAFETY: as the caller promises.
            unsafe { *out.0.wrapping_add(i * out.1 + j) = residual.map_or(sum, |residual| residual + sum) };
        }
    }
}

fn add_products(sums: &mut [[f32; NR]], tile: &Tile<'_>, number: Number) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        #[target_feature(enable = "fma")]
        fn fused(sums: &mut [[f32; NR]], tile: &Tile<'_>, number: Number) {
            loops(sums, tile, number);
        }
        // SAFETY: the instruction was just seen.
        return unsafe { fused(sums, tile, number) };
    }
    loops(sums, tile, number);
}

#[inline(always)]
fn loops(sums: &mut [[f32; NR]], tile: &Tile<'_>, number: Number) {
    match number {
        Number::F32 => singles(sums, tile),
        Number::Bf16 => widened(sums, tile),
    }
}

#[inline(always)]
fn singles(sums: &mut [[f32; NR]], tile: &Tile<'_>) {
    for (left, right) in tile.left.chunks_exact(tile.height).zip(tile.right.chunks_exact(NR)) {
        for (sums, &a) in sums.iter_mut().zip(left) {
            for (sum, &b) in sums.iter_mut().zip(right) {
                *sum = f32::from_bits(a).mul_add(f32::from_bits(b), *sum);
            }
        }
    }
}

#[inline(always)]
fn widened(sums: &mut [[f32; NR]], tile: &Tile<'_>) {
    for (left, right) in tile.left.chunks_exact(2 * tile.height).zip(tile.right.chunks_exact(NR)) {
        let (earlier, later) = left.split_at(tile.height);
        for (sums, (&a0, &a1)) in sums.iter_mut().zip(earlier.iter().zip(later)) {
            for (sum, &b) in sums.iter_mut().zip(right) {
                let [b0, b1] = unpair(b);
                *sum = f32::from_bits(a1).mul_add(b1, f32::from_bits(a0).mul_add(b0, *sum));
            }
        }
    }
}
