//! The one product inside attention: `C += A · B` on tiles that live in registers.

#[cfg(target_arch = "x86_64")]
use crate::simd::Dots;
use crate::simd::{LANES, Simd};
use half::f16;

/// An element of a right operand as it is kept: f32, f16, bf16 as its bits, a pair of bf16.
pub(crate) trait Element<S: Simd>: Copy + bytemuck::Pod {
    /// Sixteen elements, widened exactly unless they are pairs.
    fn load(s: S, x: &[Self; LANES]) -> S::V;

    /// The sums continued by `left · right`; lanes of `left` are elements of the left operand.
    #[inline(always)]
    fn add(s: S, left: S::V, right: S::V, sum: S::V) -> S::V {
        s.fma(left, right, sum)
    }
}

impl<S: Simd> Element<S> for f32 {
    #[inline(always)]
    fn load(s: S, x: &[Self; LANES]) -> S::V {
        s.load(x)
    }
}

impl<S: Simd> Element<S> for u16 {
    #[inline(always)]
    fn load(s: S, x: &[Self; LANES]) -> S::V {
        s.load_bf16(x)
    }
}

impl<S: Simd> Element<S> for f16 {
    #[inline(always)]
    fn load(s: S, x: &[Self; LANES]) -> S::V {
        s.load_f16(x)
    }
}

/// Two bf16 of ascending k, the earlier one in the upper half.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(crate) struct Pair(u32);

#[cfg(target_arch = "x86_64")]
impl<S: Dots> Element<S> for Pair {
    #[inline(always)]
    fn load(s: S, x: &[Self; LANES]) -> S::V {
        s.load(bytemuck::cast_ref(x))
    }

    #[inline(always)]
    fn add(s: S, left: S::V, right: S::V, sum: S::V) -> S::V {
        s.dot(left, right, sum)
    }
}

/// The left operand: element (row, k), a float or the bits of a pair, is `data[row · row_stride + k · depth_stride]`.
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
pub(crate) fn multiply<const FRESH: bool, S: Simd, E: Element<S>>(
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
    while row < rows {
        // SAFETY: `tile.next` ends at or before `rows`, and the assertions above say that all three operands reach so
        // far and `vectors` vectors wide.
        row += unsafe { tile.next::<FRESH, S>(s, row, rows, vectors) };
    }
}

/// Rows below which a block comes from memory rather than from the first-level cache: it is then read in whole rows,
/// from its beginning to its end, even where registers are too few to use each vector for several rows of A.
/// AVX2 reads a cache of keys for 4 rows at 14 GB/s so, and at 8 GB/s in tiles of 2 × 2 (Zen 4); at 512 rows the tiles
/// are 10 % faster.
const FEW_ROWS: usize = 16;

/// The operands of the tiles of one product.
struct Tile<'a, E> {
    c: *mut f32,
    c_stride: usize,
    a: Left<'a>,
    b: Right<'a, E>,
    depth: usize,
}

impl<E> Tile<'_, E> {
    /// Computes the rows that come next, as many as the registers hold, and returns their number.
    ///
    /// # Safety
    /// As [`Tile::compute`], for the rows below `rows` and all `vectors` vectors.
    #[inline(always)]
    unsafe fn next<const FRESH: bool, S: Simd>(&self, s: S, row: usize, rows: usize, vectors: usize) -> usize
    where
        E: Element<S>,
    {
        // SAFETY (of each call): at most `rows - row` rows; the rest is the caller's promise.
        if S::ACCUMULATORS >= 16 {
            match rows - row {
                // SAFETY: see above.
                1 => unsafe { self.rows::<FRESH, 1, 4, S>(s, row, vectors) },
                // SAFETY: see above.
                2 => unsafe { self.rows::<FRESH, 2, 4, S>(s, row, vectors) },
                // SAFETY: see above.
                3 => unsafe { self.rows::<FRESH, 3, 4, S>(s, row, vectors) },
                // SAFETY: see above.
                _ => unsafe { self.rows::<FRESH, 4, 4, S>(s, row, vectors) },
            }
            (rows - row).min(4)
        } else if rows < FEW_ROWS {
            // SAFETY: see above.
            unsafe { self.rows::<FRESH, 1, 4, S>(s, row, vectors) };
            1
        } else {
            // Twelve registers of sums; more rows share a vector of B than with two vectors of it.
            match rows - row {
                // SAFETY: see above.
                1 => unsafe { self.rows::<FRESH, 1, 4, S>(s, row, vectors) },
                // SAFETY: see above.
                2 => unsafe { self.rows::<FRESH, 2, 2, S>(s, row, vectors) },
                // SAFETY: see above.
                3 => unsafe { self.rows::<FRESH, 3, 1, S>(s, row, vectors) },
                // SAFETY: see above.
                4 => unsafe { self.rows::<FRESH, 4, 1, S>(s, row, vectors) },
                // SAFETY: see above.
                5 => unsafe { self.rows::<FRESH, 5, 1, S>(s, row, vectors) },
                // SAFETY: see above.
                _ => unsafe { self.rows::<FRESH, 6, 1, S>(s, row, vectors) },
            }
            (rows - row).min(6)
        }
    }

    /// Computes `R` rows from `row` on, all `vectors` vectors, `C` at a time.
    ///
    /// # Safety
    /// As [`Tile::compute`].
    #[inline(always)]
    unsafe fn rows<const FRESH: bool, const R: usize, const C: usize, S: Simd>(&self, s: S, row: usize, vectors: usize)
    where
        E: Element<S>,
    {
        let mut v = 0;
        while v + C <= vectors {
            // SAFETY: these columns end at or before the last vector; the rest is the caller's promise.
            unsafe { self.compute::<FRESH, R, C, S>(s, row, v) };
            v += C;
        }
        while v < vectors {
            // SAFETY: as above.
            unsafe { self.compute::<FRESH, R, 1, S>(s, row, v) };
            v += 1;
        }
    }

    /// Computes `R` rows from `row` on, `C` vectors from vector `v` on.
    ///
    /// # Safety
    /// All three operands must have these rows and columns, `a` and `b` to the depth of the product.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "counted loops over registers unroll; iterators do not always")]
    unsafe fn compute<const FRESH: bool, const R: usize, const C: usize, S: Simd>(&self, s: S, row: usize, v: usize)
    where
        E: Element<S>,
    {
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
                    sums[r][j] = E::add(s, left, right[j], sums[r][j]);
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
