//! The proof that tiles must give before they are used.

use super::super::{K_BLOCK, Left, Number, Onto, Panels, gemm};
use crate::memory::{Scratch, Slabs};
use crate::{Level, Pool};
use backend::Rows;

/// Numbers of a few bits, so that bf16 holds them, of both signs.
fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 + seed * 104_729) % 251) as f32 / 64.0 - 1.95)
        .map(|x| half::bf16::from_f32(x).to_f32())
        .collect()
}

/// Whether products by tiles, at sizes with a tail of every kind, are those of f64 within what rounding may do: each of at
/// most k + 3 roundings of a sum is off by at most 2⁻²⁴ of Σ|a·b| + |start|, up to terms of second order (the 1 %).
///
/// Called before [`Level::Amx`] is given to anyone, where the processor and the system have tiles.
pub(crate) fn tiles_are_right() -> bool {
    // Whole blocks and rests of rows, outputs and k; sums that go on over blocks of k; less than a step of k.
    [(35, 102, 77), (3, 33, 2 * K_BLOCK + 35), (32, 64, 64), (1, 1, 1)].into_iter().all(agrees)
}

fn agrees((m, n, k): (usize, usize, usize)) -> bool {
    let (pool, scratch, level) = (Pool::new(1), Scratch::default(), Level::Amx);
    let (a, b, start) = (numbers(1, m * k), numbers(2, n * k), numbers(3, m * n));
    let Some(mut panels) = Panels::zeroed(&Slabs::default(), Number::Bf16, n, k) else { return false };
    panels.pack_rows(&pool, level, &b);
    let columns: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
    let (by_rows, by_columns) = (Left::Rows { x: &a, ld: k }, Left::Columns { x: &columns, ld: m });
    [(by_rows, Onto::Nothing), (by_rows, Onto::ItselfAsResidual), (by_columns, Onto::Itself)].into_iter().all(
        |(left, onto)| {
            let mut out = start.clone();
            gemm(&pool, level, &scratch, &mut out, onto, left, panels.right(), Rows::prompt(m));
            out.iter().enumerate().all(|(i, &got)| {
                let from = if matches!(onto, Onto::Nothing) { 0.0 } else { f64::from(start[i]) };
                let terms = a[i / n * k..][..k].iter().zip(&b[i % n * k..]).map(|(&a, &b)| f64::from(a) * f64::from(b));
                let (sum, size) = terms.fold((from, from.abs()), |(sum, size), term| (sum + term, size + term.abs()));
                (f64::from(got) - sum).abs() <= 1.01 * (k + 3) as f64 * f64::from(f32::EPSILON / 2.0) * size
            })
        },
    )
}
