//! What any backend must pass: every operation against a small reference in f64, every backward against finite
//! differences of that reference, and the rules of [`Backend`] (row-exactness, accumulation, splits, tails left alone).
//!
//! A backend's tests run each of [`all`]; a check panics where the backend fails it. [`fingerprints`] are for
//! comparing two backends bit by bit: the same machine with another number of threads, one level with another.
//! Inputs are pseudo-random and the same everywhere.

mod attention;
mod cached;
mod divergence;
mod fingerprint;
mod layers;
mod loss;
mod matrix;
mod memory;
mod optimizer;
mod reference;
mod rows;

pub use fingerprint::fingerprints;

use crate::{Backend, Buf, Element, KvCache, Matrix, Precision};
use std::cell::RefCell;

/// A check: panics where the backend fails it.
pub type Check = fn(&dyn Backend);

/// Every check, by name.
pub fn all() -> Vec<(&'static str, Check)> {
    let groups: [&[(&'static str, Check)]; 9] = [
        memory::CHECKS,
        rows::CHECKS,
        layers::CHECKS,
        matrix::CHECKS,
        attention::CHECKS,
        cached::CHECKS,
        loss::CHECKS,
        divergence::CHECKS,
        optimizer::CHECKS,
    ];
    groups.concat()
}

/// What the floats beyond the end of a buffer's used part hold before and after every operation.
const SENTINEL: f32 = -77.25;
/// How many there are.
const TAIL: usize = 5;

/// A backend and all that a check asked it for; given back at the end of the check.
struct Lab<'a> {
    b: &'a dyn Backend,
    bufs: RefCell<Vec<Buf>>,
    matrices: RefCell<Vec<Matrix>>,
    caches: RefCell<Vec<KvCache>>,
}

impl<'a> Lab<'a> {
    fn new(b: &'a dyn Backend) -> Self {
        Self { b, bufs: RefCell::default(), matrices: RefCell::default(), caches: RefCell::default() }
    }

    fn alloc(&self, element: Element, len: usize) -> Buf {
        let buf = self.b.alloc(element, len).expect("a small buffer");
        self.bufs.borrow_mut().push(buf);
        buf
    }

    /// A buffer of exactly these floats.
    fn floats(&self, values: &[f32]) -> Buf {
        let buf = self.alloc(Element::F32, values.len());
        self.b.write(buf, 0, values);
        buf
    }

    /// A buffer of these floats, with a tail that no operation may touch.
    fn with_tail(&self, values: &[f32]) -> Buf {
        self.floats(&[values, &[SENTINEL; TAIL]].concat())
    }

    /// An output of `len` floats, which hold something before it is written, with a tail.
    fn output(&self, len: usize) -> Buf {
        self.with_tail(&vec![7.5; len])
    }

    fn ids(&self, values: &[u32]) -> Buf {
        let buf = self.alloc(Element::U32, values.len());
        self.b.write_ids(buf, 0, values);
        buf
    }

    /// The first `len` floats.
    fn read(&self, buf: Buf, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        self.b.read(buf, 0, &mut values);
        values
    }

    /// The first `len` floats of a buffer with a tail, which must be whole.
    fn read_before_tail(&self, buf: Buf, len: usize) -> Vec<f32> {
        let mut values = self.read(buf, len + TAIL);
        let tail = values.split_off(len);
        assert_eq!(tail, [SENTINEL; TAIL], "the operation wrote beyond its {len} floats");
        values
    }

    fn keep(&self, matrix: Matrix) -> Matrix {
        self.matrices.borrow_mut().push(matrix);
        matrix
    }

    fn keep_cache(&self, cache: KvCache) -> KvCache {
        self.caches.borrow_mut().push(cache);
        cache
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        self.caches.take().into_iter().for_each(|cache| self.b.free_kv_cache(cache));
        self.matrices.take().into_iter().for_each(|matrix| self.b.free_matrix(matrix));
        self.bufs.take().into_iter().for_each(|buf| self.b.free(buf));
    }
}

/// `len` floats in −1…1 (splitmix64).
fn random(seed: u64, len: usize) -> Vec<f32> {
    words(seed, len).map(|word| (word >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// `len` ids below `below`.
fn random_ids(seed: u64, len: usize, below: u32) -> Vec<u32> {
    words(seed, len).map(|word| (word >> 33) as u32 % below).collect()
}

fn words(seed: u64, len: usize) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0xD134_2543_DE82_EF95);
    (0..len).map(move |_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// The nearest bf16, ties to even, as f32.
fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Asserts that no element is farther from what is wanted than `tolerance` times the largest that is wanted.
fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1e-30f64, |scale, want| scale.max(want.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs() / scale;
        assert!(error <= tolerance, "{what}: element {i} is {got}, not {want} (off by {error:.1e} of {scale:.1e})");
    }
}

/// Asserts equal bits.
fn assert_same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got.to_bits() == want.to_bits(), "{what}: element {i} is {got:e} here and {want:e} there");
    }
}

/// Asserts that a gradient summed over `ranges` of rows in turn is the one summed over all rows: in every bit where the
/// ranges are whole groups of the rows that a backend may add at a time ([`Precision::Bf16`]: 32), else nearly.
fn assert_same_sum(what: &str, precision: Precision, ranges: &[std::ops::Range<usize>], got: &[f32], want: &[f32]) {
    let what = format!("{what} {precision:?} {ranges:?}");
    match precision == Precision::F32 || ranges.iter().all(|range| range.start.is_multiple_of(32)) {
        true => assert_same(&what, got, want),
        false => assert_close(&what, got, &wide(want), 1e-6),
    }
}

/// Asserts that `run(rows)`, which computes `width` floats for each row of a range, gives each row the same bits
/// whether it is computed alone, in a few ranges, or with all `rows` rows.
fn assert_row_exact(what: &str, rows: usize, width: usize, run: impl Fn(std::ops::Range<usize>) -> Vec<f32>) {
    let whole = run(0..rows);
    assert_eq!(whole.len(), rows * width, "{what}: length");
    let check = |range: std::ops::Range<usize>| {
        let some = run(range.clone());
        assert_same(
            &format!("{what}, rows {range:?} of {rows}"),
            &some,
            &whole[range.start * width..range.end * width],
        );
    };
    for row in [0, 1, rows / 2, rows - 1] {
        check(row..row + 1);
    }
    let cuts = [0, rows / 5, rows / 2 + 1, rows];
    cuts.windows(2).for_each(|cut| check(cut[0]..cut[1]));
}
