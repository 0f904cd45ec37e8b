//! Rows of a file into panels, and back.

use super::form::{BLOCK, BlockScales, Form, LANES, LINE, Scales};
use backend::Encoding;
use bytemuck::AnyBitPattern;
use formats::quant::{
    BlockIq4Nl, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K,
    BlockQ6K, BlockQ8_0, F16, IQ4_STEPS, k_scale_and_minimum,
};

/// Writes one output of a panel.
struct Writer<'a> {
    form: Form,
    panel: &'a mut [u8],
    lane: usize,
}

/// Packs an encoded row as output `lane` of a panel of zeroes.
pub(super) fn pack_row(encoding: Encoding, row: &[u8], panel: &mut [u8], lane: usize) {
    let Some(form) = Form::of(encoding) else { unreachable!("{encoding:?} has no blocks") };
    let mut w = Writer { form, panel, lane };
    match encoding {
        Encoding::Q8_0 => w.each(row, |w, b, block: &BlockQ8_0| {
            // Signed numbers as unsigned ones: 128 more, which is to flip the upper bit.
            w.offset_block(b, block.scale, block.q.map(|q| q as u8 ^ 0x80));
        }),
        Encoding::Q4_0 => w.each(row, |w, b, block: &BlockQ4_0| w.offset_block(b, block.scale, block.codes())),
        Encoding::Q5_0 => w.each(row, |w, b, block: &BlockQ5_0| w.offset_block(b, block.scale, block.codes())),
        Encoding::Q4_1 => {
            w.each(row, |w, b, block: &BlockQ4_1| w.minimum_block(b, block.scale, block.minimum, block.codes()))
        }
        Encoding::Q5_1 => {
            w.each(row, |w, b, block: &BlockQ5_1| w.minimum_block(b, block.scale, block.minimum, block.codes()))
        }
        Encoding::Q4K => w.each(row, |w, u, block: &BlockQ4K| {
            w.super_block(u, block.scale, block.minimum, &block.scales, |g| block.codes(g));
        }),
        Encoding::Q5K => w.each(row, |w, u, block: &BlockQ5K| {
            w.super_block(u, block.scale, block.minimum, &block.scales, |g| block.codes(g));
        }),
        Encoding::Q6K => w.each(row, |w, u, block: &BlockQ6K| {
            w.half(8 * u, 0, block.scale);
            for i in 0..8 {
                let scales = [block.scales[2 * i] as u8, block.scales[2 * i + 1] as u8];
                w.small(8 * u + i, scales);
                w.codes(8 * u + i, block.codes(i));
            }
        }),
        Encoding::Q2K => w.each(row, |w, u, block: &BlockQ2K| {
            w.half(8 * u, 0, block.scale);
            w.half(8 * u, 32, block.minimum);
            for i in 0..8 {
                w.small(8 * u + i, [block.scales[2 * i], block.scales[2 * i + 1]]);
                w.codes(8 * u + i, block.codes(i));
            }
        }),
        Encoding::Q3K => w.each(row, |w, u, block: &BlockQ3K| {
            w.half(8 * u, 0, block.scale);
            for i in 0..8 {
                w.small(8 * u + i, [2 * i, 2 * i + 1].map(|g| block.group_scale(g) as u8));
                w.codes(8 * u + i, block.codes(i));
            }
        }),
        Encoding::Iq4Nl => w.each(row, |w, b, block: &BlockIq4Nl| w.offset_block(b, block.scale, block.codes())),
        Encoding::Iq4Xs => w.each(row, |w, u, block: &BlockIq4Xs| {
            w.half(8 * u, 0, block.scale);
            for g in 0..8 {
                w.small(8 * u + g, [block.group_scale(g) as u8, 0]);
                w.codes(8 * u + g, block.codes(g));
            }
        }),
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => unreachable!("{encoding:?} has no form"),
    }
}

impl Writer<'_> {
    fn each<B: AnyBitPattern>(&mut self, row: &[u8], write: impl Fn(&mut Self, usize, &B)) {
        // A file's blocks are bytes of alignment 1, and a row has whole ones, as was asserted when loading began.
        for (index, block) in bytemuck::cast_slice::<u8, B>(row).iter().enumerate() {
            write(self, index, block);
        }
    }

    fn offset_block(&mut self, block: usize, scale: F16, codes: [u8; BLOCK]) {
        self.half(block, 32 * (block % 2), scale);
        self.codes(block, codes);
    }

    fn minimum_block(&mut self, block: usize, scale: F16, minimum: F16, codes: [u8; BLOCK]) {
        self.half(block, 0, scale);
        self.half(block, 32, minimum);
        self.codes(block, codes);
    }

    fn super_block(
        &mut self,
        unit: usize,
        scale: F16,
        minimum: F16,
        packed: &[u8; 12],
        codes: impl Fn(usize) -> [u8; BLOCK],
    ) {
        self.half(8 * unit, 0, scale);
        self.half(8 * unit, 32, minimum);
        for g in 0..8 {
            let (s, m) = k_scale_and_minimum(g, packed);
            self.small(8 * unit + g, [s, m]);
            self.codes(8 * unit + g, codes(g));
        }
    }

    /// A half-precision number among the sixteen at `at` in the unit of `block`.
    fn half(&mut self, block: usize, at: usize, value: F16) {
        let at = self.form.unit(block).0 + at + 2 * self.lane;
        self.panel[at..at + 2].copy_from_slice(&value.0);
    }

    /// The two bytes of `block` beside its unit's scale.
    fn small(&mut self, block: usize, values: [u8; 2]) {
        let (unit, i) = self.form.unit(block);
        let at = unit + LINE + 32 * i + self.lane;
        (self.panel[at], self.panel[at + LANES]) = (values[0], values[1]);
    }

    fn codes(&mut self, block: usize, codes: [u8; BLOCK]) {
        let (unit, i) = self.form.unit(block);
        let at = unit + self.form.scale_bytes() + i * self.form.code_bytes() + 4 * self.lane;
        let words = words_of(self.form.bits, &codes);
        for (line, word) in words.iter().take(self.form.code_bytes() / LINE).enumerate() {
            self.panel[at + line * LINE..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// One output's four bytes in each line of a block's codes. Four codes at a time, since loading is bound by this; no bit
/// crosses into a neighbour.
fn words_of(bits: usize, codes: &[u8; BLOCK]) -> [u32; 8] {
    let fours: [u32; 8] = std::array::from_fn(|word| u32::from_le_bytes(std::array::from_fn(|t| codes[4 * word + t])));
    if bits == 8 {
        return fours;
    }
    let mut words = [0; 8];
    for (word, four) in fours.into_iter().enumerate() {
        match bits {
            2 | 3 => {
                words[word / 4] |= (four & 0x0303_0303) << (word % 4 * 2);
                words[2] |= (four >> 2 & 0x0101_0101) << word;
            }
            _ => {
                words[word % 4] |= (four & 0x0f0f_0f0f) << (word / 4 * 4);
                match bits {
                    5 => words[4] |= (four >> 4 & 0x0101_0101) << word,
                    6 => words[4 + word / 4] |= (four >> 4 & 0x0303_0303) << (word % 4 * 2),
                    _ => {}
                }
            }
        }
    }
    words
}

/// The codes of one output of a block, k ascending; where they are numbers of steps, the steps with 128 added.
pub(super) fn codes(form: Form, panel: &[u8], block: usize, lane: usize) -> [u8; BLOCK] {
    let (unit, i) = form.unit(block);
    let lines = &panel[unit + form.scale_bytes() + i * form.code_bytes() + 4 * lane..];
    std::array::from_fn(|k| {
        let (word, t) = (k / 4, k % 4);
        let get = |line: usize, shift: usize, mask: u8| lines[line * LINE + t] >> shift & mask;
        let code = match form.bits {
            8 => get(word, 0, 255),
            2 => get(word / 4, word % 4 * 2, 3),
            3 => get(word / 4, word % 4 * 2, 3) | get(2, word, 1) << 2,
            bits => {
                let upper = match bits {
                    5 => get(4, word, 1),
                    6 => get(4 + word / 4, word % 4 * 2, 3),
                    _ => 0,
                };
                get(word % 4, word / 4 * 4, 15) | upper << 4
            }
        };
        if form.scales.in_steps() { IQ4_STEPS[usize::from(code)] as u8 ^ 0x80 } else { code }
    })
}

/// What turns the codes of one output of a block into weights.
pub(super) fn scales(form: Form, panel: &[u8], block: usize, lane: usize) -> BlockScales {
    let (unit, i) = form.unit(block);
    let half = |at: usize| F16([panel[unit + at + 2 * lane], panel[unit + at + 2 * lane + 1]]).to_f32();
    let small = |at: usize| panel[unit + LINE + 32 * i + at + lane];
    match form.scales {
        Scales::Offset | Scales::Steps => BlockScales { scale: [half(32 * i); 2], minimum: None },
        Scales::Minimum => BlockScales { scale: [half(0); 2], minimum: Some([half(32); 2]) },
        Scales::Super => {
            // Products of 11 and 6 bits are exact in f32.
            let minimum = -(half(32) * f32::from(small(LANES)));
            BlockScales { scale: [half(0) * f32::from(small(0)); 2], minimum: Some([minimum; 2]) }
        }
        Scales::Halves => {
            BlockScales { scale: [0, LANES].map(|at| half(0) * f32::from(small(at) as i8)), minimum: None }
        }
        Scales::HalvesMinimum => BlockScales {
            scale: [0, LANES].map(|at| half(0) * f32::from(small(at) & 15)),
            minimum: Some([0, LANES].map(|at| -(half(32) * f32::from(small(at) >> 4)))),
        },
        Scales::SuperSteps => BlockScales { scale: [half(0) * f32::from(small(0) as i8); 2], minimum: None },
    }
}

/// Output `lane` of a panel, decoded: the very bits of [`formats::quant::decode`].
pub(super) fn unpack_row(form: Form, panel: &[u8], lane: usize, out: &mut [f32]) {
    for (block, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let BlockScales { scale, minimum } = scales(form, panel, block, lane);
        let codes = codes(form, panel, block, lane);
        for (k, out) in out.iter_mut().enumerate() {
            let value = scale[k / 16] * f32::from(i16::from(codes[k]) - i16::from(form.offset()));
            *out = minimum.map_or(value, |minimum| value + minimum[k / 16]);
        }
    }
}
