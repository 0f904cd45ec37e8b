use super::super::tests::numbers;
use super::software::Unit;
use super::*;
use crate::gemm::pack::pair;

/// A word of two bf16 numbers, the first in the lower half.
fn word(lower: f32, upper: f32) -> u32 {
    pair(upper, lower)
}

/// The bytes that `ldtilecfg` would read for tiles 0, 1 and 2 of these shapes (rows, bytes of a row).
fn configuration(shapes: [(u8, u8); 3]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (tile, (rows, row_bytes)) in shapes.into_iter().enumerate() {
        bytes[16 + 2 * tile] = row_bytes;
        bytes[48 + tile] = rows;
    }
    bytes
}

#[test]
fn the_configuration_is_eight_whole_tiles() {
    let bytes = CONFIGURATION.0;
    assert_eq!(bytes[..16], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[16..32], [64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0]);
    assert_eq!(
        (&bytes[32..48], &bytes[48..]),
        (&[0; 16][..], &[16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0][..])
    );
    assert_eq!(&raw const CONFIGURATION as usize % 64, 0);
}

/// A product of 2 × 3 sums, two words long, by hand.
#[test]
fn software_tiles_multiply_as_the_manual_says() {
    let mut unit = Unit::released();
    unit.configure(&configuration([(2, 12), (2, 8), (2, 12)]));
    // A is 2 × 4, B 4 × 3 in pairs of rows, C 2 × 3; rows lie farther apart than they are long.
    let a = [word(1.0, 2.0), word(3.0, 4.0), 99, word(5.0, 6.0), word(7.0, 8.0), 99];
    let b = [word(1.0, 0.0), word(0.0, 1.0), word(1.0, 1.0), 99, word(2.0, 0.0), word(0.0, 2.0), word(1.0, -1.0), 99];
    let mut c = [10.0f32, 20.0, 30.0, 99.0, 40.0, 50.0, 60.0, 99.0].map(f32::to_bits);
    // SAFETY: rows of a are 12, of b and c 16 bytes apart, and there are two of each.
    unsafe {
        unit.load(0, c.as_ptr(), 16);
        unit.load(1, a.as_ptr(), 12);
        unit.load(2, b.as_ptr(), 16);
        unit.add_products(0, 1, 2);
        unit.store(0, c.as_mut_ptr(), 16);
    }
    // Row 0: 1·1+3·2, 2·1+4·2, 1+2+3−4. Row 1: 5·1+7·2, 6·1+8·2, 5+6+7−8.
    assert_eq!(c.map(f32::from_bits), [17.0, 30.0, 32.0, 99.0, 59.0, 72.0, 70.0, 99.0]);
}

#[test]
fn software_tiles_sum_lower_and_upper_halves_apart_and_flush() {
    let sum = |pairs: &[(f32, f32, f32, f32)], start: f32| {
        let words = pairs.len() as u8;
        let mut unit = Unit::released();
        unit.configure(&configuration([(1, 4), (1, 4 * words), (words, 4)]));
        let a: Vec<u32> = pairs.iter().map(|p| word(p.0, p.1)).collect();
        let b: Vec<u32> = pairs.iter().map(|p| word(p.2, p.3)).collect();
        let mut c = [start.to_bits()];
        // SAFETY: a row of `words` words, as many rows of one word, one sum.
        unsafe {
            unit.load(0, c.as_ptr(), 64);
            unit.load(1, a.as_ptr(), 64);
            unit.load(2, b.as_ptr(), 4);
            unit.add_products(0, 1, 2);
            unit.store(0, c.as_mut_ptr(), 64);
        }
        f32::from_bits(c[0])
    };
    let large = 2f32.powi(30);
    // One chain over all would lose the ones beside ±2³⁰; chains of their own keep them.
    assert_eq!(sum(&[(large, 1.0, 1.0, 1.0), (-large, 1.0, 1.0, 1.0)], 0.0), 2.0);
    // The start comes last: it is added to the sum of both chains, rounded once.
    assert_eq!(sum(&[(1.0, 1.0, 1.0, -1.0)], large), large);
    // Subnormal operands, products and starts count as 0; the sign stays.
    let least = f32::MIN_POSITIVE;
    assert_eq!(sum(&[(least / 2.0, 0.0, 1.0, 0.0)], 0.0), 0.0);
    assert_eq!(sum(&[(least, 0.0, 0.5, 0.0)], 0.0), 0.0);
    assert_eq!(sum(&[(0.0, 0.0, 0.0, 0.0)], least / 2.0), 0.0);
    assert_eq!(sum(&[(least, 0.0, 1.0, 0.0)], 0.0), least);
}

#[test]
#[should_panic(expected = "the tiles are configured")]
fn software_tiles_must_be_configured() {
    Unit::released().zero(0);
}

#[test]
#[should_panic(expected = "shapes of a product")]
fn software_tiles_refuse_shapes_that_do_not_fit() {
    let mut unit = Unit::released();
    unit.configure(&configuration([(2, 12), (2, 8), (3, 12)]));
    unit.add_products(0, 1, 2);
}

/// A block by the software unit of this thread, whatever the processor has.
fn by_software(left: &[u32], right: &[u32], sums: &mut [f32], go_on: bool) {
    software::configure(&CONFIGURATION.0);
    let steps = right.len() / (STEP * NR);
    // SAFETY: `left` and `right` are as many steps long, and `sums` is a block.
    unsafe {
        software::multiply(&Block {
            left: left.as_ptr(),
            right: right.as_ptr(),
            steps,
            sums: (sums.as_mut_ptr(), COLUMNS),
            go_on,
        });
    }
    software::release();
}

fn operands(steps: usize) -> (Vec<u32>, Vec<u32>, Vec<f32>) {
    let pairs = |seed, len: usize| numbers(seed, 2 * len).chunks_exact(2).map(|x| word(x[0], x[1])).collect();
    (pairs(1, steps * STEP_WORDS), pairs(2, steps * STEP * NR), numbers(3, ROWS * COLUMNS))
}

#[test]
fn a_block_is_the_product_of_its_operands() {
    let (left, right, start) = operands(3);
    let halves = |word: u32| [f64::from(f32::from_bits(word << 16)), f64::from(f32::from_bits(word & 0xffff_0000))];
    for go_on in [false, true] {
        let mut sums = start.clone();
        by_software(&left, &right, &mut sums, go_on);
        for (i, &sum) in sums.iter().enumerate() {
            let (row, column) = (i / COLUMNS, i % COLUMNS);
            let from = if go_on { f64::from(start[i]) } else { 0.0 };
            let want = (0..3 * STEP).fold(from, |sum, word| {
                let [a, b] =
                    [left[word / STEP * STEP_WORDS + row * STEP + word % STEP], right[word * NR + column]].map(halves);
                sum + a[0] * b[0] + a[1] * b[1]
            });
            assert!((f64::from(sum) - want).abs() < 1e-4, "{row} {column}: {sum} {want}");
        }
    }
}

/// The one test that asks whether the processor sums as the manual says: in two chains a step, or, as another of Intel's
/// descriptions has it, in one chain over all k.
#[test]
fn the_processor_sums_as_the_software_tiles_do() {
    if emulated() {
        println!("skipped: no AMX here; the tile kernel ran on the software tiles only");
        return;
    }
    let (left, right, start) = operands(3);
    for go_on in [false, true] {
        let (mut sums, mut want) = (start.clone(), start.clone());
        by_software(&left, &right, &mut want, go_on);
        // SAFETY: tiles are there; operands and sums are those of a block of three steps.
        unsafe {
            let _tiles = Configured::new();
            let sums = (sums.as_mut_ptr(), COLUMNS);
            multiply(&Block { left: left.as_ptr(), right: right.as_ptr(), steps: 3, sums, go_on });
        }
        let same = sums.iter().zip(&want).all(|(sum, want)| sum.to_bits() == want.to_bits());
        assert!(same, "this processor's tiles sum in another order than `amx.rs` and `docs/numerics.md` say");
    }
}

#[test]
fn rows_and_columns_are_packed_as_tiles() {
    use crate::gemm::pack::LeftForm;
    use crate::gemm::{Left, pack};
    let (m, k) = (70, 77);
    let x = numbers(4, m * k);
    let columns: Vec<f32> = (0..k * m).map(|i| x[i % m * k + i / m]).collect();
    if !crate::available().contains(&crate::Level::Amx) {
        println!("skipped: no AVX512-BF16 here; the packers of tiles did not run");
        return;
    }
    // Rows 3 … 69, words 16 … 38: a whole block and rests in every direction.
    let (rows, words) = (3..m, STEP..k.div_ceil(2));
    let (form, steps) = (LeftForm::Tiles, words.len().div_ceil(STEP));
    for left in [Left::Rows { x: &x, ld: k }, Left::Columns { x: &columns, ld: m }] {
        let mut packed = vec![7; form.rows(rows.len()) * form.words(words.len())];
        pack::left(crate::Level::Amx, form, &mut packed, left, rows.clone(), words.clone(), k);
        for (i, &got) in packed.iter().enumerate() {
            let (block, step, row, at) =
                (i / STEP_WORDS / steps, i / STEP_WORDS % steps, i % STEP_WORDS / STEP, i % STEP);
            let (row, k0) = (rows.start + block * ROWS + row, 2 * (words.start + step * STEP + at));
            let get = |k0: usize| if row < m && k0 < k { half::bf16::from_f32(x[row * k + k0]).to_f32() } else { 0.0 };
            assert_eq!(got, pair(get(k0), get(k0 + 1)), "row {row}, k {k0}");
        }
    }
}
