use super::*;
use crate::memory::Slabs;
use proptest::prelude::*;

/// Numbers that round to bf16 with ties and carries among them, from a small generator of its own.
pub(crate) fn numbers(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len).map(|_| (next() as i32 >> 8) as f32 / 4_194_304.0).collect()
}

/// The sum as the module's documentation states it.
fn reference(number: Number, a: &[f32], b: &[f32], start: f32) -> f32 {
    let round = |x: f32| if number == Number::Bf16 { pack::round(x).to_f32() } else { x };
    a.iter().zip(b).fold(start, |sum, (&a, &b)| round(a).mul_add(round(b), sum))
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| x[row * cols + col])).collect()
}

/// Every way to call `gemm` at one shape, against [`reference`], bit by bit.
fn check(threads: usize, level: Level, number: Number, (m, n, k): (usize, usize, usize)) {
    let (pool, scratch) = (Pool::new(threads), Scratch::default());
    let (a, b, c) = (numbers(1, m * k), numbers(2, n * k), numbers(3, m * n));
    let (a_columns, b_columns) = (transpose(&a, m, k), transpose(&b, n, k));
    let name = format!("{level} {number:?} {m}×{n}×{k}, {threads} threads");
    let sum = |i: usize, start: f32| {
        let (row, col) = (i / n, i % n);
        reference(number, &a[row * k..][..k], &b[col * k..][..k], start)
    };
    let plain: Vec<f32> = (0..m * n).map(|i| sum(i, 0.0)).collect();
    let added: Vec<f32> = (0..m * n).map(|i| sum(i, c[i])).collect();
    let beside: Vec<f32> = (0..m * n).map(|i| c[i] + plain[i]).collect();

    let mut by_rows = Panels::zeroed(&Slabs::default(), number, n, k).unwrap();
    by_rows.pack_rows(&pool, level, &b);
    let mut by_columns = Panels::zeroed(&Slabs::default(), number, n, k).unwrap();
    by_columns.pack_columns(&pool, level, &b_columns);
    for (panels, left) in
        [(&by_rows, Left::Rows { x: &a, ld: k }), (&by_columns, Left::Columns { x: &a_columns, ld: m })]
    {
        for (onto, want) in [
            (Onto::Nothing, &plain),
            (Onto::Itself, &added),
            (Onto::Residual(&c), &beside),
            (Onto::ItselfAsResidual, &beside),
        ] {
            let mut out = c.clone();
            gemm(&pool, level, &scratch, &mut out, onto, left, panels.right(), m);
            assert_eq!(bits(&out), bits(want), "{name}, {onto:?}");
        }
    }
}

impl std::fmt::Debug for Onto<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Onto::Nothing => "plain",
            Onto::Itself => "added to",
            Onto::Residual(_) => "residual",
            Onto::ItselfAsResidual => "residual in place",
        })
    }
}

#[test]
fn every_level_returns_the_bits_of_the_documented_sum() {
    for level in crate::available() {
        for number in [Number::F32, Number::Bf16] {
            for rows in 1..=17 {
                check(2, level, number, (rows, 70, 33));
            }
            for n in [1, 15, 16, 17, 63, 64, 65, 127, 130, 200] {
                check(1, level, number, (5, n, 19));
            }
            for k in [1, 2, 31, 32, 33, 64, 65, 2 * K_BLOCK - 1, 2 * K_BLOCK + 3] {
                check(3, level, number, (13, 66, k));
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_number_nor_on_threads() {
    let (m, n, k) = (400, 192, 150);
    let (x, w) = (numbers(5, m * k), numbers(6, n * k));
    for level in crate::available() {
        for number in [Number::F32, Number::Bf16] {
            let run = |threads: usize, rows: usize| {
                let pool = Pool::new(threads);
                let mut panels = Panels::zeroed(&Slabs::default(), number, n, k).unwrap();
                panels.pack_rows(&pool, level, &w);
                let mut out = vec![0.0; rows * n];
                let left = Left::Rows { x: &x, ld: k };
                gemm(&pool, level, &Scratch::default(), &mut out, Onto::Nothing, left, panels.right(), rows);
                out
            };
            let want = run(1, m);
            for (threads, rows) in [(2, m), (3, m), (1, 1), (2, 16), (2, 17), (3, 100)] {
                assert_eq!(bits(&run(threads, rows)), bits(&want[..rows * n]), "{level} {number:?} {threads} {rows}");
            }
        }
    }
}

#[test]
fn a_gradient_may_be_summed_in_pieces() {
    let (m, n, k) = (20, 70, 97);
    let (a, b) = (numbers(7, k * m), numbers(8, k * n));
    for level in crate::available() {
        let pool = Pool::new(2);
        let sum = |cuts: &[usize]| {
            let mut out = vec![0.0; m * n];
            for pair in cuts.windows(2) {
                let (a, b, k) = (&a[pair[0] * m..pair[1] * m], &b[pair[0] * n..pair[1] * n], pair[1] - pair[0]);
                let mut words = vec![0; panel_words(Number::Bf16, n, k)];
                let right = Right::from_columns(&pool, level, Number::Bf16, &mut words, b, n, k);
                let left = Left::Columns { x: a, ld: m };
                gemm(&pool, level, &Scratch::default(), &mut out, Onto::Itself, left, right, m);
            }
            bits(&out)
        };
        assert_eq!(sum(&[0, 40, k]), sum(&[0, k]), "{level}");
        assert_eq!(sum(&[0, 41, 60, k]), sum(&[0, k]), "{level}, odd");
    }
}

#[test]
fn panels_give_their_rows_back() {
    let (n, k) = (130, 77);
    let w = numbers(9, n * k);
    for number in [Number::F32, Number::Bf16] {
        for level in crate::available() {
            let mut panels = Panels::zeroed(&Slabs::default(), number, n, k).unwrap();
            panels.pack_rows(&Pool::new(2), level, &w);
            let mut row = vec![0.0; k];
            for i in 0..n {
                panels.row(i, &mut row);
                let want = w[i * k..][..k].iter().map(|&x| match number {
                    Number::F32 => x,
                    Number::Bf16 => pack::round(x).to_f32(),
                });
                assert_eq!(row, want.collect::<Vec<_>>(), "{level} {number:?} row {i}");
            }
        }
    }
}

/// What `vdpbf16ps` does, as the module's documentation has it: fused, upper halves first, subnormal numbers are 0.
fn dots_reference(sum: f32, a: [f32; 2], b: [f32; 2]) -> f32 {
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    (0..2).fold(flush(sum), |sum, i| flush(flush(a[i]).mul_add(flush(b[i]), sum)))
}

proptest! {
    /// Any bit patterns but NaN, so subnormal numbers and infinities too.
    #[test]
    fn vdpbf16ps_is_as_documented(a in any::<[u16; 2]>(), b in any::<[u16; 2]>(), c in any::<u32>()) {
        let widen = |x: u16| f32::from_bits(u32::from(x) << 16);
        let (a, b, c) = (a.map(widen), b.map(widen), f32::from_bits(c));
        let want = dots_reference(c, a, b);
        for level in crate::available().into_iter().filter(|level| level.name() == "avx512bf16") {
            let (pool, mut out, mut words) = (Pool::new(1), [c], vec![0; panel_words(Number::Bf16, 1, 2)]);
            let right = Right::from_columns(&pool, level, Number::Bf16, &mut words, &b, 1, 2);
            let left = Left::Rows { x: &a, ld: 2 };
            gemm(&pool, level, &Scratch::default(), &mut out, Onto::Itself, left, right, 1);
            prop_assert!(out[0].to_bits() == want.to_bits() || (out[0].is_nan() && want.is_nan()), "{} {want}", out[0]);
        }
    }
}
