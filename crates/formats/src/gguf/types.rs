//! The numbers by which GGUF names types of values and of elements.

use crate::Encoding;

/// An array among the types of values.
pub(super) const ARRAY: u32 = 9;
/// A string among the types of values.
pub(super) const STRING: u32 = 8;
/// A truth value among the types of values.
pub(super) const BOOL: u32 = 7;

/// The element types that we read, by number.
const ENCODINGS: [(u32, Encoding); 15] = [
    (0, Encoding::F32),
    (1, Encoding::F16),
    (2, Encoding::Q4_0),
    (3, Encoding::Q4_1),
    (6, Encoding::Q5_0),
    (7, Encoding::Q5_1),
    (8, Encoding::Q8_0),
    (10, Encoding::Q2K),
    (11, Encoding::Q3K),
    (12, Encoding::Q4K),
    (13, Encoding::Q5K),
    (14, Encoding::Q6K),
    (20, Encoding::Iq4Nl),
    (23, Encoding::Iq4Xs),
    (30, Encoding::Bf16),
];

/// The others, for messages.
const UNSUPPORTED: [(u32, &str); 18] = [
    (4, "Q4_2 (withdrawn)"),
    (5, "Q4_3 (withdrawn)"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
];

/// The encoding of an element type, or the type's name.
pub(super) fn encoding(number: u32) -> Result<Encoding, String> {
    if let Some((_, encoding)) = ENCODINGS.iter().find(|(known, _)| *known == number) {
        return Ok(*encoding);
    }
    let name = UNSUPPORTED.iter().find(|(known, _)| *known == number);
    Err(name.map_or_else(|| format!("number {number}"), |(_, name)| (*name).into()))
}

/// The element type of an encoding.
pub(super) fn number(encoding: Encoding) -> u32 {
    // Every encoding is in the table (a test goes through all of them).
    ENCODINGS.iter().find(|(_, known)| *known == encoding).map_or(u32::MAX, |(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_has_a_number() {
        for encoding in Encoding::ALL {
            assert_eq!(super::encoding(number(encoding)), Ok(encoding));
        }
    }
}
