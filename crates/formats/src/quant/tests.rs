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
        bits in prop::collection::vec(any::<u32>(), 32),
        bytes in prop::collection::vec(any::<u8>(), 210),
    ) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for encoding in Encoding::ALL {
            if block_len(encoding) <= 32 && encoding != Encoding::Iq4Nl {
                encode(encoding, &values).unwrap();
            }
            decode_all(encoding, &bytes[..block_bytes(encoding)]).unwrap();
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
    assert_snapshot!(encode(Encoding::Q6K, &[0.0; 256]).unwrap_err(), @"q6_k can be read but not written; write f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1");
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
