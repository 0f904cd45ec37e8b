//! How the operands of attention's products are kept.
//!
//! An operand is made of words of 32 bits. In f32 a word is a number ([`Singles`]). Where operands are rounded to bf16, a
//! word is a pair of them, the earlier k in the upper half, for `vdpbf16ps` ([`Pairs`]; see [`crate::gemm`]), or, without
//! that instruction, an f32 that holds a bf16 ([`Rounded`]). The last two make the same chains of fused additions, so
//! that they return the same bits, but where a subnormal number takes part.

use super::multiply::Element;
use super::pack::{HeadRows, padded, to_panels};
use crate::simd::{LANES, Simd};
use std::marker::PhantomData;

/// A way of keeping operands. Floats become words in place or on the way into a buffer; words lie in buffers of floats.
pub(crate) trait Form: Copy {
    type S: Simd;
    /// A word of a right operand.
    type Right: Element<Self::S>;
    /// Numbers of ascending k in a word.
    const PER_WORD: usize;

    fn simd(self) -> Self::S;

    /// Makes a row of a left operand, k running along it, of floats: its words stand at its beginning then.
    fn left_row(self, row: &mut [f32]);

    /// Stores vectors `2·chunk` and the next of a row of a left operand, as [`Form::left_row`] would have them. Words of
    /// later chunks are overwritten by none of the earlier.
    fn store_left(self, row: &mut [f32], chunk: usize, low: <Self::S as Simd>::V, high: <Self::S as Simd>::V);

    /// `sums += left[k] · right[k]` of a single k. Needed where words are pairs, of which a row may see half.
    fn add_single(self, sums: &mut [f32], left: &[f32], right: &[Self::Right], k: usize);
}

/// A form that f32 operands are packed into.
pub(crate) trait Pack: Form {
    /// A row of a right operand, whose lanes are the columns of rows `earlier` and, if words are pairs, `later` (which
    /// may be empty, for zeroes). Both may be no whole number of vectors; then `out` is the whole number above.
    fn right_row(self, out: &mut [Self::Right], earlier: &[f32], later: &[f32]);

    /// A panel of up to [`BLOCK`](super::pack::BLOCK) rows of `source` from `first` on: k runs along them. Columns beyond
    /// them hold anything.
    fn panel(self, panel: &mut [Self::Right], source: HeadRows<'_>, first: usize, rows: usize);

    /// Packs rows of `width` floats, a whole number of vectors, as a right operand over which k runs. Their number must
    /// be a multiple of what a word holds.
    #[inline(always)]
    fn rows_to_right(self, out: &mut [Self::Right], rows: &[f32], width: usize) {
        for (out, rows) in out.chunks_exact_mut(width).zip(rows.chunks_exact(Self::PER_WORD * width)) {
            let (earlier, later) = rows.split_at(width);
            self.right_row(out, earlier, later);
        }
    }

    /// `rows` rows of `source` from `first` on as a right operand over which k runs, padded with zeroes to whole vectors.
    #[inline(always)]
    fn right_rows(self, out: &mut [Self::Right], source: HeadRows<'_>, first: usize, rows: usize) {
        let width = padded(source.head_dim);
        for (i, out) in out.chunks_exact_mut(width).take(rows.div_ceil(Self::PER_WORD)).enumerate() {
            let at = i * Self::PER_WORD;
            let later = if at + 1 < rows { source.row(first + at + 1) } else { &[] };
            self.right_row(out, source.row(first + at), later);
        }
    }
}

/// Words are f32, right operands perhaps kept as narrower floats `E` and widened as they are read.
pub(crate) struct Singles<S, E>(S, PhantomData<E>);

impl<S, E> Singles<S, E> {
    #[inline(always)]
    pub(crate) fn new(s: S) -> Self {
        Self(s, PhantomData)
    }
}

impl<S: Copy, E> Clone for Singles<S, E> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Copy, E> Copy for Singles<S, E> {}

impl<S: Simd, E: Element<S>> Form for Singles<S, E> {
    type S = S;
    type Right = E;
    const PER_WORD: usize = 1;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    #[inline(always)]
    fn left_row(self, _: &mut [f32]) {}
    #[inline(always)]
    fn store_left(self, row: &mut [f32], chunk: usize, low: S::V, high: S::V) {
        self.0.put(&mut row[chunk * 2 * LANES..][..LANES], low);
        self.0.put(&mut row[chunk * 2 * LANES + LANES..][..LANES], high);
    }
    #[inline(always)]
    fn add_single(self, _: &mut [f32], _: &[f32], _: &[E], _: usize) {}
}

impl<S: Simd> Pack for Singles<S, f32> {
    #[inline(always)]
    fn right_row(self, out: &mut [f32], earlier: &[f32], _: &[f32]) {
        out[..earlier.len()].copy_from_slice(earlier);
        out[earlier.len()..].fill(0.0);
    }
    #[inline(always)]
    fn panel(self, panel: &mut [f32], source: HeadRows<'_>, first: usize, rows: usize) {
        to_panels(panel, source, first, 0, rows, |x| x);
    }
}

/// Words are f32 rounded to bf16.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<S>(pub(crate) S);

impl<S: Simd> Form for Rounded<S> {
    type S = S;
    type Right = f32;
    const PER_WORD: usize = 1;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    #[inline(always)]
    fn left_row(self, row: &mut [f32]) {
        row.iter_mut().for_each(|x| *x = round(*x));
    }
    #[inline(always)]
    fn store_left(self, row: &mut [f32], chunk: usize, low: S::V, high: S::V) {
        Singles::<S, f32>::new(self.0).store_left(row, chunk, low, high);
        self.left_row(&mut row[chunk * 2 * LANES..][..2 * LANES]);
    }
    #[inline(always)]
    fn add_single(self, _: &mut [f32], _: &[f32], _: &[f32], _: usize) {}
}

impl<S: Simd> Pack for Rounded<S> {
    #[inline(always)]
    fn right_row(self, out: &mut [f32], earlier: &[f32], _: &[f32]) {
        out.iter_mut().zip(earlier).for_each(|(out, &x)| *out = round(x));
        out[earlier.len()..].fill(0.0);
    }
    #[inline(always)]
    fn panel(self, panel: &mut [f32], source: HeadRows<'_>, first: usize, rows: usize) {
        to_panels(panel, source, first, 0, rows, round);
    }
}

/// The nearest bf16, ties to even, as f32; without a branch, so that the compiler does sixteen at a time.
#[inline(always)]
fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    // A NaN could round to infinity: it stays one by its highest bit.
    f32::from_bits((if x.is_nan() { bits | 0x40_0000 } else { nearest }) & 0xFFFF_0000)
}

/// Words are pairs of bf16.
#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::Pairs;

#[cfg(target_arch = "x86_64")]
mod pairs {
    use super::{Form, LANES, Pack};
    use crate::attention::multiply::Pair;
    use crate::attention::pack::{BLOCK, HeadRows};
    use crate::simd::Dots;
    use bytemuck::cast_slice_mut;

    #[derive(Clone, Copy)]
    pub(crate) struct Pairs<S>(pub(crate) S);

    /// Number `k` of each pair that holds it, widened.
    #[inline(always)]
    fn half<S: Dots>(s: S, pairs: S::V, k: usize) -> S::V {
        if k.is_multiple_of(2) { s.earlier(pairs) } else { s.later(pairs) }
    }

    /// The vector at `at`, zeroes beyond the end.
    #[inline(always)]
    fn part<S: Dots>(s: S, row: &[f32], at: usize) -> S::V {
        s.get(&row[row.len().min(at)..row.len().min(at + LANES)])
    }

    impl<S: Dots> Form for Pairs<S> {
        type S = S;
        type Right = Pair;
        const PER_WORD: usize = 2;

        #[inline(always)]
        fn simd(self) -> S {
            self.0
        }

        #[inline(always)]
        fn left_row(self, row: &mut [f32]) {
            let s = self.0;
            let whole = row.len() / (2 * LANES);
            for chunk in 0..whole {
                // The words of two vectors lie before those of the next.
                let at = chunk * 2 * LANES;
                let words = s.pair_neighbours(s.get(&row[at..][..LANES]), s.get(&row[at + LANES..][..LANES]));
                s.put(&mut row[at / 2..][..LANES], words);
            }
            let at = whole * 2 * LANES;
            if at < row.len() {
                let middle = row.len().min(at + LANES);
                let words = s.pair_neighbours(s.get(&row[at..middle]), s.get(&row[middle..]));
                let end = row.len().div_ceil(2);
                s.put(&mut row[at / 2..end], words);
            }
        }

        #[inline(always)]
        fn store_left(self, row: &mut [f32], chunk: usize, low: S::V, high: S::V) {
            self.0.put(&mut row[chunk * LANES..][..LANES], self.0.pair_neighbours(low, high));
        }

        #[inline(always)]
        fn add_single(self, sums: &mut [f32], left: &[f32], right: &[Pair], k: usize) {
            let s = self.0;
            let left = half(s, s.splat(left[k / 2]), k);
            let right = &right[k / 2 * sums.len()..][..sums.len()];
            for (sums, right) in sums.as_chunks_mut().0.iter_mut().zip(right.as_chunks().0) {
                let right = half(s, s.load(bytemuck::cast_ref::<[Pair; LANES], _>(right)), k);
                s.store(sums, s.fma(left, right, s.load(sums)));
            }
        }
    }

    impl<S: Dots> Pack for Pairs<S> {
        #[inline(always)]
        fn right_row(self, out: &mut [Pair], earlier: &[f32], later: &[f32]) {
            let s = self.0;
            let out: &mut [f32] = cast_slice_mut(out);
            for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
                s.store(out, s.pair(part(s, earlier, i * LANES), part(s, later, i * LANES)));
            }
        }

        /// Squares of sixteen rows by sixteen words, transposed.
        #[inline(always)]
        fn panel(self, panel: &mut [Pair], source: HeadRows<'_>, first: usize, rows: usize) {
            let s = self.0;
            let panel: &mut [f32] = cast_slice_mut(panel);
            let head_dim = source.head_dim;
            for column in (0..rows).step_by(LANES) {
                for d in (0..head_dim).step_by(2 * LANES) {
                    let middle = head_dim.min(d + LANES);
                    let end = head_dim.min(d + 2 * LANES);
                    let mut square = [s.splat(0.0); LANES];
                    for (i, words) in square[..LANES.min(rows - column)].iter_mut().enumerate() {
                        let row = source.row(first + column + i);
                        *words = s.pair_neighbours(s.get(&row[d..middle]), s.get(&row[middle..end]));
                    }
                    let square = s.transposed(square);
                    for (word, &lanes) in square[..(end - d) / 2].iter().enumerate() {
                        s.put(&mut panel[(d / 2 + word) * BLOCK + column..][..LANES], lanes);
                    }
                }
            }
        }
    }
}

/// Compiles a function over a [`Pack`] for every level and precision, and chooses by both at the call.
macro_rules! in_every_form {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:path;) => {
        $(#[$meta])*
        fn $name(level: $crate::Level, precision: backend::Precision, $($arg: $type),*) {
            #[inline(always)]
            fn in_singles<S: $crate::simd::Simd>(s: S, $($arg: $type),*) {
                $body($crate::attention::form::Singles::<S, f32>::new(s), $($arg),*)
            }
            #[inline(always)]
            fn in_rounded(s: impl $crate::simd::Simd, $($arg: $type),*) {
                $body($crate::attention::form::Rounded(s), $($arg),*)
            }
            $crate::simd::at_every_level! { fn singles($($arg: $type),*) = in_singles; }
            $crate::simd::at_every_level! { fn rounded($($arg: $type),*) = in_rounded; }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn pairs($($arg: $type),*) {
                // SAFETY: this function runs only where the processor has these features.
                let s = unsafe { $crate::simd::Avx512::<true>::new() };
                $body($crate::attention::form::Pairs(s), $($arg),*)
            }
            match (precision, level) {
                (backend::Precision::F32, _) => singles(level, $($arg),*),
                // SAFETY: a `Level` is made only by detection, which saw the features.
                #[cfg(target_arch = "x86_64")]
                (_, $crate::Level::Avx512Bf16) => unsafe { pairs($($arg),*) },
                _ => rounded(level, $($arg),*),
            }
        }
    };
}
pub(crate) use in_every_form;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        let special = [0.0, -0.0, f32::INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-42];
        let patterns = (0..1_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(4_294_967)));
        for x in patterns.chain(special) {
            assert_eq!(round(x).to_bits(), half::bf16::from_f32(x).to_f32().to_bits(), "{:08x}", x.to_bits());
        }
    }
}
