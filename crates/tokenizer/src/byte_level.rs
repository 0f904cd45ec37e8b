//! GPT-2's stand-ins: one printable character for each byte, so that pieces of bytes can be written as text.

use std::sync::LazyLock;

/// The stand-in for each byte: printable Latin-1 bytes stand for themselves, the others for U+0100 and up, in order.
static STAND_INS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    for (byte, slot) in (0u8..=255).zip(&mut table) {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        *slot = if printable {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or('\0')
        };
    }
    table
});

/// The byte of each stand-in by code point (all are below U+0144), `None` for other characters.
static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut table = [None; 0x144];
    for (byte, stand_in) in (0u8..=255).zip(STAND_INS.iter()) {
        table[*stand_in as usize] = Some(byte);
    }
    table
});

/// The character that stands for `byte`.
pub(crate) fn stand_in(byte: u8) -> char {
    STAND_INS[usize::from(byte)]
}

/// Bytes written as stand-ins.
pub(crate) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| stand_in(byte)).collect()
}

/// The bytes that a piece spells; a piece with any character that is no stand-in spells its own UTF-8, as in the reference.
pub(crate) fn bytes_of(piece: &str) -> Vec<u8> {
    let spelled: Option<Vec<u8>> = piece.chars().map(|c| BYTES.get(c as usize).copied().flatten()).collect();
    spelled.unwrap_or_else(|| piece.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_gpt2s_and_invertible() {
        assert_eq!(spell(b" \n\xff\x7f\xad"), "ĠĊÿġŃ");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes_of(&spell(&all)), all);
        assert_eq!(bytes_of("日"), "日".as_bytes());
    }
}
