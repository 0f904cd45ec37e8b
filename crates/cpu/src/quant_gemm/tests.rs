use super::*;
use crate::test_data::{bits, floats, pools};
use bytemuck::Zeroable;
use formats::quant;
use half::f16;

/// Encodings in blocks; block lengths, block bytes, and where a block's half-precision numbers are.
const ENCODINGS: [(Encoding, usize, usize, &[usize]); 12] = [
    (Encoding::Q8_0, 32, 34, &[0]),
    (Encoding::Q4_0, 32, 18, &[0]),
    (Encoding::Q4_1, 32, 20, &[0, 2]),
    (Encoding::Q5_0, 32, 22, &[0]),
    (Encoding::Q5_1, 32, 24, &[0, 2]),
    (Encoding::Q4K, 256, 144, &[0, 2]),
    (Encoding::Q5K, 256, 176, &[0, 2]),
    (Encoding::Q6K, 256, 210, &[208]),
    (Encoding::Q2K, 256, 84, &[80, 82]),
    (Encoding::Q3K, 256, 110, &[108]),
    (Encoding::Iq4Nl, 32, 18, &[0]),
    (Encoding::Iq4Xs, 256, 136, &[0]),
];

/// Blocks of any bytes, so all codes occur, with scales of either sign of about 1/64.
fn blocks(seed: u64, (_, _, block_bytes, halves): (Encoding, usize, usize, &[usize]), count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        floats(seed, count * block_bytes).iter().map(|x| ((x + 1.0) * 128.0).clamp(0.0, 255.0) as u8).collect();
    let scales = floats(seed + 1, count * halves.len());
    for (i, block) in bytes.chunks_exact_mut(block_bytes).enumerate() {
        for (j, &at) in halves.iter().enumerate() {
            let scale = f16::from_f32(scales[i * halves.len() + j] / 64.0);
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// The codes without their offset, the scales of both halves and the minimum of block `block` of a row of the file.
fn block_of(encoding: Encoding, row: &[u8], block: usize) -> ([i32; 32], [f32; 2], Option<[f32; 2]>) {
    fn at<B: bytemuck::AnyBitPattern>(row: &[u8], index: usize) -> &B {
        &bytemuck::cast_slice(row)[index]
    }
    let minus = |codes: [u8; 32], offset: i32| codes.map(|code| i32::from(code) - offset);
    let steps = |codes: [u8; 32]| codes.map(|code| i32::from(quant::IQ4_STEPS[usize::from(code)]));
    let sub = |scale: f32, minimum: f32, packed: &[u8; 12]| {
        let (s, m) = quant::k_scale_and_minimum(block % 8, packed);
        ([scale * f32::from(s); 2], Some([-(minimum * f32::from(m)); 2]))
    };
    match encoding {
        Encoding::Q8_0 => {
            let b: &quant::BlockQ8_0 = at(row, block);
            (b.q.map(i32::from), [b.scale.to_f32(); 2], None)
        }
        Encoding::Q4_0 => {
            let b: &quant::BlockQ4_0 = at(row, block);
            (minus(b.codes(), 8), [b.scale.to_f32(); 2], None)
        }
        Encoding::Q4_1 => {
            let b: &quant::BlockQ4_1 = at(row, block);
            (minus(b.codes(), 0), [b.scale.to_f32(); 2], Some([b.minimum.to_f32(); 2]))
        }
        Encoding::Q5_0 => {
            let b: &quant::BlockQ5_0 = at(row, block);
            (minus(b.codes(), 16), [b.scale.to_f32(); 2], None)
        }
        Encoding::Q5_1 => {
            let b: &quant::BlockQ5_1 = at(row, block);
            (minus(b.codes(), 0), [b.scale.to_f32(); 2], Some([b.minimum.to_f32(); 2]))
        }
        Encoding::Q4K => {
            let b: &quant::BlockQ4K = at(row, block / 8);
            let (scale, minimum) = sub(b.scale.to_f32(), b.minimum.to_f32(), &b.scales);
            (minus(b.codes(block % 8), 0), scale, minimum)
        }
        Encoding::Q5K => {
            let b: &quant::BlockQ5K = at(row, block / 8);
            let (scale, minimum) = sub(b.scale.to_f32(), b.minimum.to_f32(), &b.scales);
            (minus(b.codes(block % 8), 0), scale, minimum)
        }
        Encoding::Q6K => {
            let b: &quant::BlockQ6K = at(row, block / 8);
            let scale = |half: usize| b.scale.to_f32() * f32::from(b.scales[block % 8 * 2 + half]);
            (minus(b.codes(block % 8), 32), [scale(0), scale(1)], None)
        }
        Encoding::Q2K => {
            let b: &quant::BlockQ2K = at(row, block / 8);
            let groups = [0, 1].map(|half| b.scales[block % 8 * 2 + half]);
            let scale = groups.map(|group| b.scale.to_f32() * f32::from(group & 15));
            let minimum = groups.map(|group| -(b.minimum.to_f32() * f32::from(group >> 4)));
            (minus(b.codes(block % 8), 0), scale, Some(minimum))
        }
        Encoding::Q3K => {
            let b: &quant::BlockQ3K = at(row, block / 8);
            let scale = |half: usize| b.scale.to_f32() * f32::from(b.group_scale(block % 8 * 2 + half));
            (minus(b.codes(block % 8), 4), [scale(0), scale(1)], None)
        }
        Encoding::Iq4Nl => {
            let b: &quant::BlockIq4Nl = at(row, block);
            (steps(b.codes()), [b.scale.to_f32(); 2], None)
        }
        Encoding::Iq4Xs => {
            let b: &quant::BlockIq4Xs = at(row, block / 8);
            let scale = b.scale.to_f32() * f32::from(b.group_scale(block % 8));
            (steps(b.codes(block % 8)), [scale; 2], None)
        }
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => unreachable!(),
    }
}

/// The sum as the module's documentation states it, from the file's blocks.
fn reference(encoding: Encoding, row: &[u8], x: &[f32]) -> f32 {
    let count = x.len() / BLOCK;
    let mut rounded = vec![Rounded::zeroed(); count];
    activations::round(&Pool::new(1), Level::Scalar, &mut rounded, x, 1, count);
    let mut sum = 0.0f32;
    for (block, x) in rounded.iter().enumerate() {
        let (codes, scale, minimum) = block_of(encoding, row, block);
        let dot = |range: Range<usize>| range.map(|k| codes[k] * i32::from(x.q[k])).sum::<i32>() as f32;
        if matches!(encoding, Encoding::Q2K | Encoding::Q3K | Encoding::Q6K) {
            sum = dot(0..16).mul_add(scale[0] * x.scale, sum);
            sum = dot(16..32).mul_add(scale[1] * x.scale, sum);
        } else {
            sum = dot(0..32).mul_add(scale[0] * x.scale, sum);
        }
        match minimum {
            Some(minimum) if encoding == Encoding::Q2K => {
                let half = |range: Range<usize>| x.scale * range.map(|k| i32::from(x.q[k])).sum::<i32>() as f32;
                sum = minimum[0].mul_add(half(0..16), sum);
                sum = minimum[1].mul_add(half(16..32), sum);
            }
            Some(minimum) => sum = minimum[0].mul_add(x.sum, sum),
            None => {}
        }
    }
    sum
}

/// A matrix of several parts, its file and its values.
struct Case {
    k: usize,
    parts: Vec<(Encoding, usize, Vec<u8>)>,
    packed: Blocks,
}

impl Case {
    fn new(parts: &[(usize, usize)], k: usize) -> Self {
        let parts: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(seed, &(encoding, rows))| {
                let kind = ENCODINGS[encoding];
                (kind.0, rows, blocks(seed as u64 * 7 + 1, kind, rows * k / kind.1))
            })
            .collect();
        let encoded: Vec<_> =
            parts.iter().map(|&(encoding, rows, ref bytes)| EncodedRows { encoding, rows, bytes }).collect();
        let packed = Blocks::pack(&Pool::new(2), &Slabs::default(), &encoded, k).unwrap();
        Self { k, packed, parts }
    }

    /// The file's bytes of each row, with their encoding.
    fn rows(&self) -> impl Iterator<Item = (Encoding, &[u8])> {
        self.parts
            .iter()
            .flat_map(|(encoding, rows, bytes)| bytes.chunks_exact(bytes.len() / rows).map(|row| (*encoding, row)))
    }

    fn want(&self, x: &[f32]) -> Vec<f32> {
        x.chunks_exact(self.k)
            .flat_map(|x| self.rows().map(move |(encoding, row)| reference(encoding, row, x)))
            .collect()
    }

    fn multiply(&self, pool: &Pool, level: Level, onto: Onto<'_>, x: &[f32], out: &mut [f32]) {
        quant_gemm(pool, level, &Scratch::default(), out, onto, x, &self.packed, x.len() / self.k);
    }
}

#[test]
fn every_level_returns_the_bits_of_the_documented_sum() {
    for (index, &(encoding, block, ..)) in ENCODINGS.iter().enumerate() {
        for (outputs, count) in [(1, 1), (15, 2), (16, 3), (17, 1), (32, 2), (77, 5)] {
            let case = Case::new(&[(index, outputs)], block * count);
            let x = floats(3, 17 * case.k);
            let (want, added) = (case.want(&x), floats(4, 17 * outputs));
            let sums: Vec<f32> = want.iter().zip(&added).map(|(want, added)| added + want).collect();
            for level in crate::available() {
                let pool = Pool::new(2);
                for rows in 1..=17 {
                    let name = format!("{encoding:?} {level} {rows} × {} → {outputs}", case.k);
                    let mut out = vec![9.0; rows * outputs];
                    case.multiply(&pool, level, Onto::Nothing, &x[..rows * case.k], &mut out);
                    assert_eq!(bits(&out), bits(&want[..out.len()]), "{name}");
                    case.multiply(&pool, level, Onto::Residual(&added), &x[..rows * case.k], &mut out);
                    assert_eq!(bits(&out), bits(&sums[..out.len()]), "{name} on a residual");
                    out.copy_from_slice(&added[..rows * outputs]);
                    case.multiply(&pool, level, Onto::ItselfAsResidual, &x[..rows * case.k], &mut out);
                    assert_eq!(bits(&out), bits(&sums[..out.len()]), "{name} on itself");
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_number_nor_on_threads() {
    // Query, key and value projections of a Q4_K_M file, and every other encoding beside.
    let case = Case::new(
        &[
            (5, 48),
            (5, 20),
            (7, 20),
            (0, 3),
            (1, 70),
            (2, 16),
            (3, 9),
            (4, 33),
            (6, 5),
            (8, 7),
            (9, 18),
            (10, 16),
            (11, 31),
        ],
        512,
    );
    let x = floats(5, 100 * case.k);
    let want = case.want(&x);
    for level in crate::available() {
        for pool in pools() {
            for rows in [1, 5, 16, 17, 100] {
                let mut out = vec![9.0; rows * case.packed.n];
                case.multiply(&pool, level, Onto::Nothing, &x[..rows * case.k], &mut out);
                assert_eq!(bits(&out), bits(&want[..out.len()]), "{level} {} threads, {rows} rows", pool.threads());
            }
        }
    }
}

#[test]
fn rows_are_cut_into_tasks_where_they_are_many() {
    let case = Case::new(&[(1, 64)], 256);
    let (threads, rows) = (2, 3000);
    let (row_blocks, panel_blocks) = grid(threads, rows, &case.packed);
    assert!(row_blocks > 1 && panel_blocks > 1, "{row_blocks} × {panel_blocks}");
    let x = floats(6, rows * case.k);
    let level = crate::detect();
    let run = |rows: Range<usize>, threads: usize| {
        let mut out = vec![9.0; rows.len() * 64];
        case.multiply(&Pool::new(threads), level, Onto::Nothing, &x[rows.start * case.k..rows.end * case.k], &mut out);
        bits(&out)
    };
    let whole = run(0..rows, threads);
    for first in (0..rows).step_by(250) {
        assert_eq!(run(first..first + 250, 1), whole[first * 64..(first + 250) * 64], "row {first}");
    }
}

#[test]
fn panels_give_their_rows_back() {
    for (index, &(encoding, block, ..)) in ENCODINGS.iter().enumerate() {
        let case = Case::new(&[(index, 21), ((index + 1) % 5, 5)], 256 * 3);
        let mut out = vec![0.0; case.k];
        for (i, (encoding, row)) in case.rows().enumerate() {
            case.packed.row(i, &mut out);
            let want = quant::decode_all(crate::matrix::stored(encoding), row).unwrap();
            assert_eq!(bits(&out), bits(&want), "{encoding:?} row {i}");
        }
        let alone = Case::new(&[(index, 16)], block);
        alone.packed.row(15, &mut out[..block]);
        let want = quant::decode_all(crate::matrix::stored(encoding), alone.rows().nth(15).unwrap().1).unwrap();
        assert_eq!(bits(&out[..block]), bits(&want), "{encoding:?}, one block");
    }
}

#[test]
fn packed_blocks_are_about_as_large_as_the_file() {
    for (index, &(encoding, ..)) in ENCODINGS.iter().enumerate() {
        let case = Case::new(&[(index, 64)], 1024);
        let (packed, file) = (case.packed.bytes() as f64, case.parts[0].2.len() as f64);
        // Scales of Q3_K and IQ4_XS, of six bits in the file, take a byte; those of IQ4_XS a place for two.
        let most = match encoding {
            Encoding::Q3K => 1.06,
            Encoding::Iq4Xs => 1.09,
            _ => 1.03,
        };
        assert!((1.0..most).contains(&(packed / file)), "{encoding:?}: {packed} for {file}");
    }
}

/// A weight is exact, an activation off by half its block's scale at most: |error| ≤ Σ |w| · scale / 2, and some rounding.
#[test]
fn errors_are_those_of_rounding_the_activations() {
    for (index, &(encoding, ..)) in ENCODINGS.iter().enumerate() {
        let case = Case::new(&[(index, 33)], 768);
        let x = floats(8, case.k);
        let mut out = vec![0.0; 33];
        case.multiply(&Pool::new(1), crate::detect(), Onto::Nothing, &x, &mut out);
        for ((encoding, row), &got) in case.rows().zip(&out) {
            let w = quant::decode_all(crate::matrix::stored(encoding), row).unwrap();
            let exact: f64 = w.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            let bound: f64 = w
                .chunks_exact(BLOCK)
                .zip(x.chunks_exact(BLOCK))
                .map(|(w, x)| {
                    let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
                    w.iter().map(|w| f64::from(w.abs())).sum::<f64>() * f64::from(most) / 254.0
                })
                .sum();
            assert!((f64::from(got) - exact).abs() <= 1.001 * bound, "{encoding:?}: {got} for {exact} ± {bound}");
        }
        assert!(out.iter().any(|&x| x != 0.0), "{encoding:?}");
    }
}

#[test]
fn a_row_that_is_not_finite_spoils_itself_alone() {
    for (index, &(encoding, ..)) in ENCODINGS.iter().enumerate() {
        let case = Case::new(&[(index, 20)], 512);
        let mut x = floats(9, 3 * case.k);
        let want = case.want(&x);
        for bad in [f32::NAN, f32::INFINITY] {
            x[case.k + 40] = bad;
            for level in crate::available() {
                let mut out = vec![0.0; 3 * 20];
                case.multiply(&Pool::new(2), level, Onto::Nothing, &x, &mut out);
                assert!(out[20..40].iter().all(|x| x.is_nan()), "{encoding:?} {level} {bad}");
                assert_eq!((bits(&out[..20]), bits(&out[40..])), (bits(&want[..20]), bits(&want[40..])));
            }
        }
    }
}

#[test]
fn scratch_is_taken_once() {
    let case = Case::new(&[(0, 40)], 256);
    let (x, scratch, pool) = (floats(10, 40 * case.k), Scratch::default(), Pool::new(1));
    let mut out = vec![0.0; 40 * 40];
    let mut bytes = Vec::new();
    for _ in 0..3 {
        quant_gemm(&pool, crate::detect(), &scratch, &mut out, Onto::Nothing, &x, &case.packed, 40);
        bytes.push(scratch.bytes());
    }
    assert!(bytes[0] > 0 && bytes.iter().all(|&now| now == bytes[0]), "{bytes:?}");
}

#[test]
#[should_panic(expected = "rows of 40 are not whole blocks")]
fn rows_of_broken_blocks_are_refused() {
    let _ = Blocks::pack(&Pool::new(1), &Slabs::default(), &[], 40);
}
