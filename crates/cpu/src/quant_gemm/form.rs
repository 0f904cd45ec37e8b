//! How blocks of weights lie in a panel: sixteen outputs side by side, k in blocks of 32.
//!
//! The codes of a block are unsigned numbers of 2 to 6 or of 8 bits, in lines of 64 bytes. Byte `4·lane + t` of a line
//! belongs to output `lane`, so that a line is the operand of sixteen dot products of four bytes. *Word* `w < 8` of a
//! block is k = 4·w … 4·w + 3.
//!
//! | bits | lines of a block |
//! |---|---|
//! | 8 | line `w`: word `w` |
//! | 4 | line `w < 4`: word `w` in the low four bits, word `w + 4` in the high ones |
//! | 5 | as 4; line 4: the fifth bit of word `w` in bit `w` |
//! | 6 | as 4; line `4 + w / 4`: the two upper bits of word `w` in bits `2·(w mod 4)` |
//! | 2 | line `w / 4`: word `w` in bits `2·(w mod 4)` |
//! | 3 | as 2; line 2: the third bit of word `w` in bit `w` |
//!
//! Blocks come in units of whole lines: first the scales of all blocks of the unit, then their codes.
//!
//! | scales | blocks of a unit | scales of a unit, sixteen numbers at each place |
//! |---|---|---|
//! | [`Scales::Offset`] | 2 | f16 scale of block `i` at `32·i` |
//! | [`Scales::Minimum`] | 1 | f16 scale at 0, f16 minimum at 32 |
//! | [`Scales::Super`] | 8 | f16 scale at 0, f16 scale of minima at 32; of block `i` u8 scale at `64 + 32·i`, u8 minimum 16 later |
//! | [`Scales::Halves`] | 8 | f16 scale at 0; of block `i` i8 scales of its first and last 16 values at `64 + 32·i` and 16 later |
//! | [`Scales::HalvesMinimum`] | 8 | f16 scale at 0, f16 scale of minima at 32; of block `i`, for its first and last 16 values at `64 + 32·i` and 16 later, a byte: scale in the low four bits, minimum in the high ones |
//! | [`Scales::Steps`] | 2 | as [`Scales::Offset`] |
//! | [`Scales::SuperSteps`] | 8 | f16 scale at 0; of block `i` i8 scale at `64 + 32·i`, and nothing 16 later |
//!
//! That is the file's own size but for the padding: 8.5 bits a weight for Q8_0, 4.5 for Q4_0, 5 for Q4_1, 4.63 for Q4_K
//! (4.5 in the file), 6.63 for Q6_K (6.56),
//! 2.63 for Q2_K, 3.63 for Q3_K (3.44), 4.63 for IQ4_XS (4.25).

use backend::Encoding;

/// Outputs of a panel: lanes of 32 bits in a register of AVX-512. A panel is then one stream of memory, and its sums
/// take one register a row.
pub(crate) const LANES: usize = 16;
/// Values of a block.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a line.
pub(super) const LINE: usize = 64;

/// How the codes of a block become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scales {
    /// `scale · (code − 2^(bits − 1))`.
    Offset,
    /// `scale · code + minimum`.
    Minimum,
    /// `scale · s · code − minimum · m`, `scale` and `minimum` of eight blocks.
    Super,
    /// `scale · s · (code − 2^(bits − 1))`, `scale` of eight blocks, `s` of half a block.
    Halves,
    /// `scale · s · code − minimum · m`, `scale` and `minimum` of eight blocks, `s` and `m` of half a block.
    HalvesMinimum,
    /// `scale · step[code]` ([`formats::quant::IQ4_STEPS`]).
    Steps,
    /// `scale · s · step[code]`, `scale` of eight blocks.
    SuperSteps,
}

impl Scales {
    /// All, in the order of their numbers: what a constant parameter of a kernel stands for.
    pub(super) const ALL: [Self; 7] =
        [Self::Offset, Self::Minimum, Self::Super, Self::Halves, Self::HalvesMinimum, Self::Steps, Self::SuperSteps];

    /// Whether the first and the last sixteen values of a block have scales of their own.
    pub(super) const fn in_halves(self) -> bool {
        matches!(self, Self::Halves | Self::HalvesMinimum)
    }

    /// Whether codes are numbers of unequal steps.
    pub(super) const fn in_steps(self) -> bool {
        matches!(self, Self::Steps | Self::SuperSteps)
    }
}

/// How blocks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Bits of a code: 2 to 6, or 8.
    pub(super) bits: usize,
    pub(super) scales: Scales,
}

impl Form {
    /// The form of a file's encoding; `None` for floats.
    pub(super) const fn of(encoding: Encoding) -> Option<Self> {
        let (bits, scales) = match encoding {
            Encoding::Q8_0 => (8, Scales::Offset),
            Encoding::Q4_0 => (4, Scales::Offset),
            Encoding::Q4_1 => (4, Scales::Minimum),
            Encoding::Q5_0 => (5, Scales::Offset),
            Encoding::Q5_1 => (5, Scales::Minimum),
            Encoding::Q4K => (4, Scales::Super),
            Encoding::Q5K => (5, Scales::Super),
            Encoding::Q6K => (6, Scales::Halves),
            Encoding::Q2K => (2, Scales::HalvesMinimum),
            Encoding::Q3K => (3, Scales::Halves),
            Encoding::Iq4Nl => (4, Scales::Steps),
            Encoding::Iq4Xs => (4, Scales::SuperSteps),
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => return None,
        };
        Some(Self { bits, scales })
    }

    /// Blocks of a unit.
    pub(super) const fn unit_blocks(self) -> usize {
        match self.scales {
            Scales::Offset | Scales::Steps => 2,
            Scales::Minimum => 1,
            Scales::Super | Scales::Halves | Scales::HalvesMinimum | Scales::SuperSteps => 8,
        }
    }

    /// Bytes of the scales of a unit.
    pub(super) const fn scale_bytes(self) -> usize {
        match self.scales {
            Scales::Offset | Scales::Minimum | Scales::Steps => LINE,
            Scales::Super | Scales::Halves | Scales::HalvesMinimum | Scales::SuperSteps => 5 * LINE,
        }
    }

    /// Bytes of the codes of a block.
    pub(super) const fn code_bytes(self) -> usize {
        self.bits * LINE
    }

    /// Bytes of a unit.
    pub(super) const fn unit_bytes(self) -> usize {
        self.scale_bytes() + self.unit_blocks() * self.code_bytes()
    }

    /// Bytes of a panel of `blocks` blocks; the last unit may be short of blocks, but not of bytes.
    pub(super) const fn panel_bytes(self, blocks: usize) -> usize {
        blocks.div_ceil(self.unit_blocks()) * self.unit_bytes()
    }

    /// Where the scales of the unit of block `block` begin, and the place of the block in its unit.
    pub(super) const fn unit(self, block: usize) -> (usize, usize) {
        (block / self.unit_blocks() * self.unit_bytes(), block % self.unit_blocks())
    }

    /// What is subtracted from a code; from a step, of which 128 more is kept.
    pub(super) const fn offset(self) -> u8 {
        match self.scales {
            Scales::Offset | Scales::Halves => 1 << (self.bits - 1),
            Scales::Minimum | Scales::Super | Scales::HalvesMinimum => 0,
            Scales::Steps | Scales::SuperSteps => 128,
        }
    }
}

/// What turns the codes of one block of one output into weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BlockScales {
    /// Of the first and the last sixteen values.
    pub(super) scale: [f32; 2],
    /// Added to every value of the first and of the last sixteen.
    pub(super) minimum: Option<[f32; 2]>,
}
