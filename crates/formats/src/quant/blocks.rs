//! The layouts. Every field is bytes, so a block has alignment 1 and any part of a file can be viewed as blocks.

use half::f16;

/// Values in a super-block.
pub const SUPER_BLOCK: usize = 256;

/// An IEEE half as a file holds it: little-endian, at any address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct F16(pub [u8; 2]);

impl F16 {
    /// The nearest half, ties to even.
    pub fn from_f32(value: f32) -> Self {
        Self(f16::from_f32(value).to_le_bytes())
    }

    /// Its value, exactly.
    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }
}

macro_rules! block {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, { $($(#[$field_doc:meta])* $field:ident : $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)+
        }
        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() == 1);
    };
}

block!(
    /// `x[i] = scale · q[i]`.
    BlockQ8_0, 34, {
        /// The scale.
        scale: F16,
        /// One signed byte per value.
        q: [i8; 32],
    }
);
block!(
    /// `x[i] = scale · (q[i] − 8)`; the low four bits of byte `i` are value `i`, the high ones value `i + 16`.
    BlockQ4_0, 18, {
        /// The scale.
        scale: F16,
        /// Two values a byte.
        q: [u8; 16],
    }
);
block!(
    /// `x[i] = scale · q[i] + minimum`, packed as in [`BlockQ4_0`].
    BlockQ4_1, 20, {
        /// The scale.
        scale: F16,
        /// The least value.
        minimum: F16,
        /// Two values a byte.
        q: [u8; 16],
    }
);
block!(
    /// `x[i] = scale · (q[i] − 16)`; four bits as in [`BlockQ4_0`], the fifth in bit `i` of `high`.
    BlockQ5_0, 22, {
        /// The scale.
        scale: F16,
        /// The fifth bits, a little-endian number.
        high: [u8; 4],
        /// The other four bits, two values a byte.
        q: [u8; 16],
    }
);
block!(
    /// `x[i] = scale · q[i] + minimum`, packed as in [`BlockQ5_0`].
    BlockQ5_1, 24, {
        /// The scale.
        scale: F16,
        /// The least value.
        minimum: F16,
        /// The fifth bits, a little-endian number.
        high: [u8; 4],
        /// The other four bits, two values a byte.
        q: [u8; 16],
    }
);
block!(
    /// Sixteen groups of 16: `x = scale · s[g] · q − minimum · m[g]`, `s` and `m` of four bits.
    BlockQ2K, 84, {
        /// Of group `g`: `s` low, `m` high.
        scales: [u8; 16],
        /// Two bits a value. Value `128h + 32j + i` is bits `2j` of byte `32h + i`.
        q: [u8; 64],
        /// The super-block's scale.
        scale: F16,
        /// The scale of the minima.
        minimum: F16,
    }
);
block!(
    /// Sixteen groups of 16: `x = scale · (s[g] − 32) · (q − 4)`, `s` of six bits.
    BlockQ3K, 110, {
        /// The third bit: of value `128h + 32j + i`, bit `4h + j` of byte `i`.
        high: [u8; 32],
        /// The low two bits, packed as in [`BlockQ2K`].
        q: [u8; 64],
        /// Low four bits of `s[g]` in byte `g mod 8` (low half for `g < 8`), high two in bits `2(g / 4)` of byte
        /// `8 + g mod 4`.
        scales: [u8; 12],
        /// The super-block's scale.
        scale: F16,
    }
);
block!(
    /// Eight groups of 32: `x = scale · s[g] · q − minimum · m[g]`, `s` and `m` of six bits
    /// ([`k_scale_and_minimum`]).
    BlockQ4K, 144, {
        /// The super-block's scale.
        scale: F16,
        /// The scale of the minima.
        minimum: F16,
        /// `s` and `m`.
        scales: [u8; 12],
        /// Four bits a value: byte `32h + i` holds value `64h + i` low and `64h + 32 + i` high.
        q: [u8; 128],
    }
);
block!(
    /// As [`BlockQ4K`] with a fifth bit.
    BlockQ5K, 176, {
        /// The super-block's scale.
        scale: F16,
        /// The scale of the minima.
        minimum: F16,
        /// `s` and `m`.
        scales: [u8; 12],
        /// The fifth bit of value `32g + i` is bit `g` of byte `i`.
        high: [u8; 32],
        /// The other four bits, as in [`BlockQ4K`].
        q: [u8; 128],
    }
);
block!(
    /// Sixteen groups of 16: `x = scale · s[g] · (q − 32)`.
    BlockQ6K, 210, {
        /// Four low bits: of value `128h + 32j + i`, half `j / 2` of byte `64h + 32(j mod 2) + i`.
        low: [u8; 128],
        /// Two high bits: of value `128h + 32j + i`, bits `2j` of byte `32h + i`.
        high: [u8; 64],
        /// `s`, signed.
        scales: [i8; 16],
        /// The super-block's scale.
        scale: F16,
    }
);
block!(
    /// `x[i] = scale · step[q[i]]` ([`IQ4_STEPS`]), packed as in [`BlockQ4_0`].
    BlockIq4Nl, 18, {
        /// The scale.
        scale: F16,
        /// Two values a byte.
        q: [u8; 16],
    }
);
block!(
    /// Eight groups of 32: `x = scale · (s[g] − 32) · step[q]`, each group packed as in [`BlockQ4_0`].
    BlockIq4Xs, 136, {
        /// The super-block's scale.
        scale: F16,
        /// High two bits of `s[g]` in bits `2g` of this little-endian number.
        scales_high: [u8; 2],
        /// Low four bits of `s[g]`, two a byte.
        scales_low: [u8; 4],
        /// Sixteen bytes a group.
        q: [u8; 128],
    }
);

/// The unequal steps of the IQ4 types, part of the format.
pub const IQ4_STEPS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Scale and minimum of group `g < 8` of a [`BlockQ4K`] or [`BlockQ5K`], six bits each: the first four groups take the
/// low bits of bytes `g` and `g + 4`; the others take half of byte `g + 4` and, on top, the two bits that those left.
pub const fn k_scale_and_minimum(g: usize, packed: &[u8; 12]) -> (u8, u8) {
    if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4)
    }
}
