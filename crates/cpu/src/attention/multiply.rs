//! The one product inside attention: `C += A · B` on tiles that live in registers.

use crate::simd::{LANES, Simd};

/// An element of keys and values as they are kept: f32, or bf16 as its bits.
pub(crate) trait Element: Copy + bytemuck::Pod {
    /// Sixteen elements, widened exactly.
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load(x)
    }
}

impl Element for u16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load_bf16(x)
    }
}

/// The left operand: element (row, k) is `data[row · row_stride + k · depth_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) depth_stride: usize,
}

/// The right operand: row k is `data[k · stride..]`, read sixteen columns at a time.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a, E> {
    pub(crate) data: &'a [E],
    pub(crate) stride: usize,
}

/// The size of a product: `rows × depth` times `depth × (vectors · 16)`.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) vectors: usize,
}

/// `C = A·B` if `FRESH`, else `C += A·B`; row r of C is `c[r · c_stride..]`.
///
/// Each element of C is one chain of fused additions with k ascending, whatever the tiles, so the bits depend neither
/// on the level nor on how a caller cuts rows, columns or k into several calls.
#[inline(always)]
pub(crate) fn multiply<const FRESH: bool, S: Simd, E: Element>(
    s: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_>,
    b: Right<'_, E>,
    size: Size,
) {
    let Size { rows, depth, vectors } = size;
    if rows == 0 || vectors == 0 || (depth == 0 && !FRESH) {
        return;
    }
    assert!((rows - 1) * c_stride + vectors * LANES <= c.len());
    if depth > 0 {
        assert!((rows - 1) * a.row_stride + (depth - 1) * a.depth_stride < a.data.len());
        assert!((depth - 1) * b.stride + vectors * LANES <= b.data.len());
    }
    let tile = Tile { c: c.as_mut_ptr(), c_stride, a, b, depth };
    let mut row = 0;
    // SAFETY (each call below): the tile's rows end at or before `rows` and its columns at or before `vectors · 16`,
    // and the assertions above say that all three operands reach that far.
    while row + 4 <= rows {
        let mut v = 0;
        if S::ACCUMULATORS >= 16 {
            while v + 4 <= vectors {
                // SAFETY: see above.
                unsafe { tile.compute::<FRESH, 4, 4, S>(s, row, v) };
                v += 4;
            }
        }
        while v < vectors {
            // SAFETY: see above.
            unsafe { tile.compute::<FRESH, 4, 1, S>(s, row, v) };
            v += 1;
        }
        row += 4;
    }
    while row < rows {
        let mut v = 0;
        while v + 4 <= vectors {
            // SAFETY: see above.
            unsafe { tile.compute::<FRESH, 1, 4, S>(s, row, v) };
            v += 4;
        }
        while v < vectors {
            // SAFETY: see above.
            unsafe { tile.compute::<FRESH, 1, 1, S>(s, row, v) };
            v += 1;
        }
        row += 1;
    }
}

/// The operands of the tiles of one product.
struct Tile<'a, E> {
    c: *mut f32,
    c_stride: usize,
    a: Left<'a>,
    b: Right<'a, E>,
    depth: usize,
}

impl<E: Element> Tile<'_, E> {
    /// Computes `R` rows from `row` on, `C` vectors from vector `v` on.
    ///
    /// # Safety
    /// All three operands must have these rows and columns, `a` and `b` to the depth of the product.
    #[inline(always)]
    unsafe fn compute<const FRESH: bool, const R: usize, const C: usize, S: Simd>(&self, s: S, row: usize, v: usize) {
        let mut sums = [[s.splat(0.0); C]; R];
        let c = |r: usize, j: usize| {
            // SAFETY: within C, as the caller promises; sixteen floats from here on are its columns.
            unsafe { &mut *self.c.add((row + r) * self.c_stride + (v + j) * LANES).cast::<[f32; LANES]>() }
        };
        if !FRESH {
            for r in 0..R {
                for j in 0..C {
                    sums[r][j] = s.load(c(r, j));
                }
            }
        }
        let mut b = self.b.data.as_ptr().wrapping_add(v * LANES);
        let mut a = self.a.data.as_ptr().wrapping_add(row * self.a.row_stride);
        for _ in 0..self.depth {
            let mut right = [s.splat(0.0); C];
            for j in 0..C {
                // SAFETY: row k of B, as the caller promises.
                right[j] = E::load(s, unsafe { &*b.add(j * LANES).cast::<[E; LANES]>() });
            }
            for r in 0..R {
                // SAFETY: element (row + r, k) of A, as the caller promises.
                let left = s.splat(unsafe { *a.add(r * self.a.row_stride) });
                for j in 0..C {
                    sums[r][j] = s.fma(left, right[j], sums[r][j]);
                }
            }
            b = b.wrapping_add(self.b.stride);
            a = a.wrapping_add(self.a.depth_stride);
        }
        for r in 0..R {
            for j in 0..C {
                s.store(c(r, j), sums[r][j]);
            }
        }
    }
}
