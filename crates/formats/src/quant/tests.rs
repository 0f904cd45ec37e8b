use super::*;
use insta::assert_snapshot;
use proptest::prelude::*;

/// Largest error of a value in a block, as a share of what the type spreads its steps over.
fn step(encoding: Encoding, block: &[f32]) -> f32 {
    let largest = block.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    let least = block.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    match encoding {
        Encoding::Q8_0 => largest / 127.0,
        Encoding::Q4_0 => largest / 8.0,
        Encoding::Q5_0 => largest / 16.0,
        Encoding::Q4_1 => (greatest - least) / 15.0,
        Encoding::Q5_1 => (greatest - least) / 31.0,
        _ => 0.0,
    }
}

proptest! {
    #[test]
    fn encoding_errs_by_less_than_its_step(values in prop::collection::vec(-100f32..100.0, 64)) {
        for encoding in [Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4_1, Encoding::Q5_0, Encoding::Q5_1] {
            let decoded = decode_all(encoding, &encode(encoding, &values).unwrap()).unwrap();
            for (block, decoded) in values.chunks(32).zip(decoded.chunks(32)) {
                let largest = block.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
                // Half a step; a whole one for the value opposite the extreme of q4_0 and q5_0, whose steps reach one
                // less far on that side; and the rounding of scale and minimum to halves (11 bits), which grows with q.
                let bound = step(encoding, block) * 1.01 + largest / 1024.0;
                for (value, decoded) in block.iter().zip(decoded) {
                    prop_assert!((value - decoded).abs() <= bound, "{encoding}: {value} became {decoded}");
                }
            }
        }
    }

    #[test]
    fn floats_come_back(bits in prop::collection::vec(any::<u32>(), 1..50)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let back = decode_all(Encoding::F32, &encode(Encoding::F32, &values).unwrap()).unwrap();
        prop_assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn any_floats_encode_and_any_blocks_decode(
        bits in prop::collection::vec(any::<u32>(), 256),
        bytes in prop::collection::vec(any::<u8>(), 210),
    ) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for encoding in Encoding::ALL {
            encode(encoding, &values).unwrap();
            decode_all(encoding, &bytes[..block_bytes(encoding)]).unwrap();
        }
    }
}

/// Values about 0 as weights are: sums of twelve uniform numbers, scaled differently every 512.
fn normal(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut one = |i: usize| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * [0.02, 1.0, 7.0][i / 512 % 3];
    (0..len).map(&mut one).collect()
}

/// Root mean square of the error of a type over that of the values.
fn relative_error(encoding: Encoding, values: &[f32]) -> f32 {
    let decoded = decode_all(encoding, &encode(encoding, values).unwrap()).unwrap();
    let squares = |of: &mut dyn Iterator<Item = f32>| of.map(|v| v * v).sum::<f32>();
    (squares(&mut values.iter().zip(&decoded).map(|(v, d)| v - d)) / squares(&mut values.iter().copied())).sqrt()
}

#[test]
fn more_bits_err_less() {
    let values = normal(6 * 512);
    // What bits can do at all: a step of the type over the spread of 16 or 32 normal values, over √12.
    let bounds = [
        (Encoding::Q2K, 0.31),
        (Encoding::Q3K, 0.16),
        (Encoding::Iq4Xs, 0.08),
        (Encoding::Iq4Nl, 0.08),
        (Encoding::Q4K, 0.075),
        (Encoding::Q5K, 0.038),
        (Encoding::Q6K, 0.019),
    ];
    for (encoding, bound) in bounds {
        let error = relative_error(encoding, &values);
        assert!(error < bound, "{encoding}: {error}");
    }
    // The fit is worth something: nearly the same bits, filled by rule and by search.
    assert!(relative_error(Encoding::Q4K, &values) < 0.9 * relative_error(Encoding::Q4_0, &values));
    assert!(relative_error(Encoding::Iq4Nl, &values) < 0.9 * relative_error(Encoding::Q4_0, &values));
}

#[test]
fn what_a_super_block_can_say_comes_back() {
    for encoding in [Encoding::Q2K, Encoding::Q3K, Encoding::Q4K, Encoding::Q5K, Encoding::Q6K, Encoding::Iq4Xs] {
        for value in [0.0, 0.5, -2.0] {
            let back = decode_all(encoding, &encode(encoding, &[value; 256]).unwrap()).unwrap();
            assert!(
                back.iter().all(|b| (b - value).abs() <= 0.002 * value.abs()),
                "{encoding}: {value} became {}",
                back[0]
            );
        }
    }
}

#[test]
fn sizes_are_those_of_the_format() {
    assert_eq!(row_bytes(Encoding::Q4_0, 64), Some(36));
    assert_eq!(row_bytes(Encoding::Q4K, 512), Some(288));
    assert_eq!(row_bytes(Encoding::Q8_0, 33), None);
    assert_eq!(tensor_bytes(Encoding::F16, &[3, 5]), Some(30));
    assert_eq!(tensor_bytes(Encoding::F32, &[]), Some(4));
    assert_eq!(tensor_bytes(Encoding::F32, &[0, 5]), Some(0));
    assert_eq!(tensor_bytes(Encoding::F32, &[usize::MAX, 2]), None);
    assert_eq!(tensor_bytes(Encoding::F32, &[usize::MAX / 2]), None);
}

#[test]
fn what_does_not_fit_is_refused() {
    assert_snapshot!(encode(Encoding::Q8_0, &[0.0; 33]).unwrap_err(), @"33 values are not a whole number of q8_0 blocks of 32; choose another type for this tensor");
    assert_snapshot!(encode(Encoding::Q6K, &[0.0; 288]).unwrap_err(), @"288 values are not a whole number of q6_k blocks of 256; choose another type for this tensor");
    assert_snapshot!(decode(Encoding::Q4_0, &[0; 18], &mut [0.0; 64]).unwrap_err(), @"18 bytes of q4_0 do not hold 64 values; the tensor's shape or its file is damaged");
    assert_snapshot!(decode_all(Encoding::Q4_0, &[0; 19]).unwrap_err(), @"19 bytes of q4_0 do not hold 32 values; the tensor's shape or its file is damaged");
}

#[test]
fn names_are_parsed_in_any_case() {
    for encoding in Encoding::ALL {
        assert_eq!(Encoding::parse(&encoding.to_string().to_uppercase()), Some(encoding));
    }
    assert_eq!(Encoding::parse("q9"), None);
}
