//! The tile in plain Rust: the reference of the others, and the whole of the scalar level.
//!
//! On x86-64 the loops are compiled a second time for processors with a fused multiply-add: without it each step is a call
//! of the C library.

use super::Tile;
use super::activations::MR;
use super::form::{BlockScales, LANES, Scales};
use super::pack::{codes, scales};

/// # Safety
/// As [`Tile::compute`].
pub(super) unsafe fn tile(tile: &Tile<'_>, out: (*mut f32, usize)) {
    let mut sums = [[0.0f32; LANES]; MR];
    add_products(&mut sums, tile);
    for (i, sums) in sums[..tile.height].iter().enumerate() {
        for (j, &sum) in sums[..tile.width].iter().enumerate() {
            // SAFETY: as the caller promises.
            unsafe {
                let residual = tile.residual.map(|(start, ld)| *start.wrapping_add(i * ld + j));
                *out.0.wrapping_add(i * out.1 + j) = residual.map_or(sum, |residual| residual + sum);
            }
        }
    }
}

fn add_products(sums: &mut [[f32; LANES]; MR], tile: &Tile<'_>) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        #[target_feature(enable = "fma")]
        fn fused(sums: &mut [[f32; LANES]; MR], tile: &Tile<'_>) {
            loops(sums, tile);
        }
        // SAFETY: the instruction was just seen.
        return unsafe { fused(sums, tile) };
    }
    loops(sums, tile);
}

#[inline(always)]
fn loops(sums: &mut [[f32; LANES]; MR], tile: &Tile<'_>) {
    let offset = i32::from(tile.form.offset());
    for (block, left) in tile.left.chunks_exact(tile.height).enumerate() {
        for output in 0..tile.width {
            let codes = codes(tile.form, tile.panel, block, output);
            let BlockScales { scale, minimum } = scales(tile.form, tile.panel, block, output);
            for (sums, x) in sums.iter_mut().zip(left) {
                let dot = |range: std::ops::Range<usize>| -> i32 {
                    range.map(|k| (i32::from(codes[k]) - offset) * i32::from(x.q[k])).sum()
                };
                let sum = &mut sums[output];
                if tile.form.scales.in_halves() {
                    *sum = (dot(0..16) as f32).mul_add(scale[0] * x.scale, *sum);
                    *sum = (dot(16..32) as f32).mul_add(scale[1] * x.scale, *sum);
                } else {
                    *sum = (dot(0..32) as f32).mul_add(scale[0] * x.scale, *sum);
                }
                match minimum {
                    Some(minimum) if tile.form.scales == Scales::HalvesMinimum => {
                        *sum = minimum[0].mul_add(x.half_sum(0), *sum);
                        *sum = minimum[1].mul_add(x.half_sum(1), *sum);
                    }
                    Some(minimum) => *sum = minimum[0].mul_add(x.sum, *sum),
                    None => {}
                }
            }
        }
    }
}
