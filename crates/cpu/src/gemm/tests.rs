use super::*;
use crate::memory::Slabs;
use backend::Family;
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
    let round = |x: f32| if number == Number::Bf16 { half::bf16::from_f32(x).to_f32() } else { x };
    a.iter().zip(b).fold(start, |sum, (&a, &b)| round(a).mul_add(round(b), sum))
}

/// The sum of tiles as `amx.rs` states it, where no subnormal number takes part.
fn reference_of_tiles(a: &[f32], b: &[f32], start: f32) -> f32 {
    a.chunks(32).zip(b.chunks(32)).fold(start, |sum, (a, b)| {
        let mut chains = [0.0; 2];
        for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
            chains[i % 2] = half::bf16::from_f32(a).to_f32().mul_add(half::bf16::from_f32(b).to_f32(), chains[i % 2]);
        }
        sum + (chains[1] + chains[0])
    })
}

/// Whether products of these are computed by tiles.
fn by_tiles(level: Level, number: Number, family: Family) -> bool {
    LeftForm::of(level, number, family) == LeftForm::Tiles
}

/// Says what was not tried where the tiles of these tests are those in plain Rust.
fn report_missing_tiles() {
    #[cfg(target_arch = "x86_64")]
    if crate::level::has_tiles() {
        return;
    }
    match crate::available().contains(&Level::Amx) {
        true => println!("skipped: no AMX here; the tile kernel ran on the software tiles only"),
        false => println!("skipped: no AVX512-BF16 here; the tile kernel did not run"),
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| x[row * cols + col])).collect()
}

/// Every way to call `gemm` at one shape, against [`reference`], bit by bit.
fn check(threads: usize, level: Level, number: Number, family: Family, (m, n, k): (usize, usize, usize)) {
    let (pool, scratch) = (Pool::new(threads), Scratch::default());
    let (a, b, c) = (numbers(1, m * k), numbers(2, n * k), numbers(3, m * n));
    let (a_columns, b_columns) = (transpose(&a, m, k), transpose(&b, n, k));
    let name = format!("{level} {number:?} {family:?} {m}×{n}×{k}, {threads} threads");
    let tiles = by_tiles(level, number, family);
    let sum = |i: usize, start: f32| {
        let (row, col) = (i / n, i % n);
        let (a, b) = (&a[row * k..][..k], &b[col * k..][..k]);
        if tiles { reference_of_tiles(a, b, start) } else { reference(number, a, b, start) }
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
            gemm(&pool, level, &scratch, &mut out, onto, left, panels.right(), Rows { count: m, family });
            #[cfg(target_arch = "x86_64")]
            if tiles && crate::level::has_tiles() {
                // Whether the processor keeps to the manual is for one test to say; here it must be near.
                let near =
                    |(got, want): (&f32, &f32)| (got - want).abs() <= k as f32 * f32::EPSILON * (4.0 * k as f32 + 4.0);
                assert!(out.iter().zip(want).all(near), "{name}, {onto:?}");
                continue;
            }
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
    report_missing_tiles();
    for (level, number, family) in kinds() {
        let tiles = by_tiles(level, number, family);
        let rows = if tiles { vec![1, 15, 16, 17, 31, 32, 33, 64, 70] } else { (1..=17).collect() };
        for rows in rows {
            check(2, level, number, family, (rows, 70, 33));
        }
        for n in [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 130, 200] {
            check(1, level, number, family, (5, n, 19));
            if tiles {
                check(1, level, number, family, (32, n, 70));
            }
        }
        for k in [0, 1, 2, 31, 32, 33, 64, 65, 2 * K_BLOCK - 1, 2 * K_BLOCK + 3] {
            check(3, level, number, family, (13, 66, k));
        }
        // Many rows, for which AVX2 cuts panels into strips.
        for rows in FEW_ROWS + 1..=FEW_ROWS + MR {
            check(2, level, number, family, (rows, 70, 33));
        }
        for n in [1, 15, 16, 17, 33, 64, 79, 130] {
            check(1, level, number, family, (20, n, 19));
        }
        for k in [0, 1, STRIP_DEPTH - 1, STRIP_DEPTH, STRIP_DEPTH + 1, 2 * STRIP_DEPTH + 3] {
            check(3, level, number, family, (19, 66, k));
        }
    }
}

/// Levels, numbers, and families: both where they differ.
fn kinds() -> Vec<(Level, Number, Family)> {
    let levels = crate::available().into_iter();
    let numbers = levels.flat_map(|level| [(level, Number::F32), (level, Number::Bf16)]);
    let families =
        |level| if level == Level::Amx { &[Family::Prompt, Family::Generated][..] } else { &[Family::Prompt] };
    numbers.flat_map(|(level, number)| families(level).iter().map(move |&family| (level, number, family))).collect()
}

#[test]
fn rows_do_not_depend_on_their_number_nor_on_threads() {
    let (m, n, k) = (400, 192, 150);
    let (x, w) = (numbers(5, m * k), numbers(6, n * k));
    report_missing_tiles();
    for (level, number, family) in kinds() {
        let run = |threads: usize, rows: usize| {
            let pool = Pool::new(threads);
            let mut panels = Panels::zeroed(&Slabs::default(), number, n, k).unwrap();
            panels.pack_rows(&pool, level, &w);
            let mut out = vec![0.0; rows * n];
            let left = Left::Rows { x: &x, ld: k };
            let count = Rows { count: rows, family };
            gemm(&pool, level, &Scratch::default(), &mut out, Onto::Nothing, left, panels.right(), count);
            out
        };
        let want = run(1, m);
        for (threads, rows) in [(2, m), (3, m), (1, 1), (2, 16), (2, 17), (2, 33), (3, 100)] {
            assert_eq!(
                bits(&run(threads, rows)),
                bits(&want[..rows * n]),
                "{level} {number:?} {family:?} {threads} {rows}"
            );
        }
    }
}

/// Generated rows know nothing of tiles: at the level `amx` they have the bits of `avx512`, prompts have others.
#[test]
fn families_part_where_there_are_tiles() {
    report_missing_tiles();
    let (m, n, k) = (16, 70, 200);
    let (x, w) = (numbers(5, m * k), numbers(6, n * k));
    let run = |level, number, count| {
        let mut panels = Panels::zeroed(&Slabs::default(), number, n, k).unwrap();
        panels.pack_rows(&Pool::new(1), level, &w);
        let mut out = vec![0.0; m * n];
        let left = Left::Rows { x: &x, ld: k };
        gemm(&Pool::new(2), level, &Scratch::default(), &mut out, Onto::Nothing, left, panels.right(), count);
        bits(&out)
    };
    for level in crate::available().into_iter().filter(|&level| level == Level::Amx) {
        for number in [Number::F32, Number::Bf16] {
            let plain = run(Level::Avx512, number, Rows::prompt(m));
            assert_eq!(run(level, number, Rows::generated(m)), plain, "{number:?}");
            assert_eq!(run(level, number, Rows::prompt(m)) == plain, number == Number::F32, "{number:?}");
        }
    }
}

#[test]
fn a_gradient_may_be_summed_in_pieces() {
    report_missing_tiles();
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
                gemm(&pool, level, &Scratch::default(), &mut out, Onto::Itself, left, right, Rows::prompt(m));
            }
            bits(&out)
        };
        assert_eq!(sum(&[0, 32, 64, k]), sum(&[0, k]), "{level}, in steps of tiles");
        if by_tiles(level, Number::Bf16, Family::Prompt) {
            continue;
        }
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
                    Number::Bf16 => half::bf16::from_f32(x).to_f32(),
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
            gemm(&pool, level, &Scratch::default(), &mut out, Onto::Itself, left, right, Rows::prompt(1));
            prop_assert!(out[0].to_bits() == want.to_bits() || (out[0].is_nan() && want.is_nan()), "{} {want}", out[0]);
        }
    }
}
