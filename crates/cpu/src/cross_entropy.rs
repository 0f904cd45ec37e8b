//! The head and its loss in one: the cross-entropy, `losses[r] = ln Σⱼ exp(zⱼ) − z_target` with `z = x[r] · headᵀ` and
//! `∂loss/∂zⱼ = softmax(z)ⱼ − [j = target]`, or a divergence from a teacher ([`crate::divergence`]).
//!
//! Logits exist for a chunk of rows at a time, in scratch. A row's numbers do not know the chunk: its logits are sums of
//! their own, its `Σ exp` is added in pieces of [`PIECE`] logits, in f64 between them; and the head's gradient goes on
//! over the rows in ascending order, chunk after chunk.

use crate::divergence::{self, TeacherRows};
use crate::gemm::{Left, Onto, Right, gemm, panel_words};
use crate::matrix::Weights;
use crate::memory::Scratch;
use crate::pool::Disjoint;
use crate::simd::{LANES, Simd, at_every_level, blocks};
use crate::{Level, Pool};
use backend::{NO_TARGET, Rows};
use std::ops::Range;

/// Logits whose exponentials are summed in f32 lanes; such sums are added in f64.
const PIECE: usize = 1024;
/// Scratch for the logits of a chunk. More rows at a time read and write the head's gradient less often.
pub(crate) const CHUNK_BYTES: usize = 64 << 20;
/// Rows of a chunk at the most; more gain nothing.
pub(crate) const CHUNK_ROWS: usize = 512;

/// What is computed from: `rows` rows of `x`, and what each is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Sample<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) wanted: Wanted<'a>,
    pub(crate) rows: usize,
}

/// What a row of logits is compared with.
#[derive(Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// One target for a row.
    Targets(&'a [u32]),
    /// A teacher's probabilities.
    Teacher(TeacherRows<'a>),
}

impl Wanted<'_> {
    /// Panics where the first `rows` rows name a token that the head does not have.
    fn check(&self, rows: usize, vocab: usize) {
        let ids = match self {
            Self::Targets(targets) => &targets[..rows],
            Self::Teacher(teacher) => &teacher.ids[..rows * teacher.tokens],
        };
        let known = |&id: &u32| id == NO_TARGET || (id as usize) < vocab;
        assert!(ids.iter().all(known), "a target is no row of the head, of which there are {vocab}");
    }

    /// The loss of a row of logits, which become `scale · ∂loss/∂logits` where `scale` is given.
    fn compare(&self, level: Level, row: usize, logits: &mut [f32], scale: Option<f32>) -> f32 {
        match self {
            Self::Targets(targets) => softmax_row(level, logits, targets[row], scale),
            Self::Teacher(teacher) => divergence::row(level, logits, teacher, row, scale),
        }
    }
}

/// Where gradients go.
pub(crate) struct Gradients<'a> {
    pub(crate) d_x: &'a mut [f32],
    pub(crate) g_head: &'a mut [f32],
    /// Factor on the sum of the losses.
    pub(crate) scale: f32,
}

/// Rows of a chunk: a multiple of 32 unless the vocabulary is huge, since tiles sum the head's gradient in steps of 32.
fn chunk_rows(vocab: usize) -> usize {
    match (CHUNK_BYTES / 4 / vocab.max(1)).clamp(2, CHUNK_ROWS) {
        few @ ..32 => few,
        rows => rows / 32 * 32,
    }
}

/// The losses of `rows` rows, and the gradients where asked for.
pub(crate) fn head_loss(
    pool: &Pool,
    level: Level,
    scratch: &Scratch,
    losses: &mut [f32],
    mut gradients: Option<Gradients<'_>>,
    head: &Weights,
    sample: Sample<'_>,
) {
    let (vocab, width, rows) = (head.rows, head.cols, sample.rows);
    sample.wanted.check(rows, vocab);
    let step = chunk_rows(vocab).min(rows.max(1));
    let mut lease = scratch.take(step * vocab);
    for first in (0..rows).step_by(step) {
        let chunk = first..rows.min(first + step);
        let logits = &mut lease.floats()[..chunk.len() * vocab];
        let x = &sample.x[chunk.start * width..chunk.end * width];
        head.multiply(pool, level, scratch, logits, Onto::Nothing, x, Rows::prompt(chunk.len()));
        let scale = gradients.as_ref().map(|gradients| gradients.scale);
        compare_rows(pool, level, &mut losses[chunk.clone()], logits, sample.wanted, chunk.start, scale);
        if let Some(gradients) = &mut gradients {
            backward(pool, level, scratch, gradients, head, logits, x, chunk);
        }
    }
}

/// `d_x = d_logits · head` for the rows of a chunk, `g_head += d_logitsᵀ · x`.
fn backward(
    pool: &Pool,
    level: Level,
    scratch: &Scratch,
    gradients: &mut Gradients<'_>,
    head: &Weights,
    d_logits: &[f32],
    x: &[f32],
    chunk: Range<usize>,
) {
    let (vocab, width, rows) = (head.rows, head.cols, chunk.len());
    let d_x = &mut gradients.d_x[chunk.start * width..chunk.end * width];
    let left = Left::Rows { x: d_logits, ld: vocab };
    let backward = head.training().backward.right();
    gemm(pool, level, scratch, d_x, Onto::Nothing, left, backward, Rows::prompt(rows));
    let mut lease = scratch.take(panel_words(backward.number, width, rows));
    let right = Right::from_columns(pool, level, backward.number, lease.words(), x, width, rows);
    let left = Left::Columns { x: d_logits, ld: vocab };
    gemm(pool, level, scratch, gradients.g_head, Onto::Itself, left, right, Rows::prompt(vocab));
}

/// Losses of whole rows of logits, the first of which is row `first`; they become `scale · ∂loss/∂logits` where `scale`
/// is given.
fn compare_rows(
    pool: &Pool,
    level: Level,
    losses: &mut [f32],
    logits: &mut [f32],
    wanted: Wanted<'_>,
    first: usize,
    scale: Option<f32>,
) {
    let vocab = logits.len() / losses.len();
    let losses = Disjoint::new(losses);
    pool.for_each_chunk(logits, vocab, |row, logits| {
        // SAFETY: each row is given once.
        let loss = unsafe { losses.piece(row, 1) };
        loss[0] = wanted.compare(level, first + row, logits, scale);
    });
}

at_every_level! {
    fn softmax_row(logits: &mut [f32], target: u32, scale: Option<f32>) -> f32 = softmax_row_of;
}

/// Sixteen logits, `−∞` in the lanes beyond the last.
#[inline(always)]
fn get<S: Simd>(s: S, logits: &[f32]) -> S::V {
    let Ok(whole) = logits.try_into() else {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        lanes[..logits.len()].copy_from_slice(logits);
        return s.load(&lanes);
    };
    s.load(whole)
}

#[inline(always)]
fn softmax_row_of<S: Simd>(s: S, logits: &mut [f32], target: u32, scale: Option<f32>) -> f32 {
    if target == NO_TARGET {
        if scale.is_some() {
            logits.fill(0.0);
        }
        return 0.0;
    }
    let target = target as usize;
    let own = logits[target];
    let (most, total) = exponentials(s, logits, scale.is_some());
    if let Some(scale) = scale {
        multiply(s, logits, (f64::from(scale) / total) as f32);
        logits[target] -= scale;
    }
    (total.ln() + f64::from(most) - f64::from(own)) as f32
}

/// The largest logit `m` and `Σⱼ exp(zⱼ − m)`; with `keep`, each logit becomes its exponential.
#[inline(always)]
pub(crate) fn exponentials<S: Simd>(s: S, logits: &mut [f32], keep: bool) -> (f32, f64) {
    let mut most = s.splat(f32::NEG_INFINITY);
    for at in blocks(logits.len()) {
        most = s.max(most, get(s, &logits[at]));
    }
    let most = s.largest(most);
    let shift = s.splat(most);
    let mut total = 0.0f64;
    for piece in logits.chunks_mut(PIECE) {
        let mut sum = s.splat(0.0);
        for at in blocks(piece.len()) {
            let e = s.exp(s.sub(get(s, &piece[at.clone()]), shift));
            sum = s.add(sum, e);
            if keep {
                s.put(&mut piece[at], e);
            }
        }
        total += f64::from(s.sum(sum));
    }
    (most, total)
}

/// Each value by `factor`.
#[inline(always)]
pub(crate) fn multiply<S: Simd>(s: S, values: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    for at in blocks(values.len()) {
        let value = s.get(&values[at.clone()]);
        s.put(&mut values[at], s.mul(value, factor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, factor: f32) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 % 2003) as f32 / 1000.0 - 1.0) * factor).collect()
    }

    #[test]
    fn a_row_is_that_of_f64_and_equal_at_every_level() {
        for vocab in [1, 5, 16, 100, 2500] {
            let logits = numbers(vocab, 8.0);
            let target = vocab / 2;
            let most = logits.iter().fold(f64::MIN, |a, &b| a.max(f64::from(b)));
            let total: f64 = logits.iter().map(|&z| (f64::from(z) - most).exp()).sum();
            let want = total.ln() + most - f64::from(logits[target]);
            let run = |level| {
                let mut logits = logits.clone();
                let loss = softmax_row(level, &mut logits, target as u32, Some(0.5));
                (loss, logits)
            };
            let (loss, d) = run(Level::Scalar);
            assert!((f64::from(loss) - want).abs() < 1e-6 * want.max(1.0), "{loss} {want}");
            for (j, (&d, &z)) in d.iter().zip(&logits).enumerate() {
                let p = (f64::from(z) - most).exp() / total - if j == target { 1.0 } else { 0.0 };
                assert!((f64::from(d) - 0.5 * p).abs() < 1e-7, "{d} {p}");
            }
            for level in crate::available() {
                assert_eq!(run(level), (loss, d.clone()), "{level}");
            }
        }
    }

    #[test]
    fn a_row_without_a_target_is_left_out() {
        for level in crate::available() {
            let mut logits = numbers(40, 1.0);
            assert_eq!(softmax_row(level, &mut logits, NO_TARGET, Some(1.0)), 0.0);
            assert_eq!(logits, [0.0; 40]);
        }
    }

    #[test]
    fn a_chunk_is_bounded() {
        assert_eq!(chunk_rows(32_000), 512);
        assert!(chunk_rows(200_000) * 200_000 * 4 <= CHUNK_BYTES);
        assert_eq!(chunk_rows(usize::MAX), 2);
    }
}
