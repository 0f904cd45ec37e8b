//! The types with a super-block of 256 values: decoding. The order of multiplications is ggml's, so the bits are.

use super::blocks::{BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, IQ4_STEPS, k_scale_and_minimum};
use super::simple::nibbles;

/// The two bits of the 32 values from `32·part` on, in the packing that Q2_K, Q3_K and the high bits of Q6_K share.
fn two_bits(packed: &[u8; 64], part: usize) -> [u8; 32] {
    packed.as_chunks::<32>().0[part / 4].map(|byte| byte >> (2 * (part % 4)) & 3)
}

/// The four bits of the 32 values from `32·part` on, in the packing that Q4_K and Q5_K share.
fn four_bits(packed: &[u8; 128], part: usize) -> [u8; 32] {
    packed.as_chunks::<32>().0[part / 2].map(|byte| byte >> (4 * (part % 2)) & 15)
}

impl BlockQ2K {
    /// `q` of the 32 values of groups `2·pair` and `2·pair + 1`, 0…3.
    pub fn codes(&self, pair: usize) -> [u8; 32] {
        two_bits(&self.q, pair)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 256]) {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        for (pair, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let codes = self.codes(pair);
            for (i, out) in out.iter_mut().enumerate() {
                let group = self.scales[2 * pair + i / 16];
                let (scale, minimum) = (scale * f32::from(group & 15), minimum * f32::from(group >> 4));
                *out = scale * f32::from(codes[i]) - minimum;
            }
        }
    }
}

impl BlockQ3K {
    /// `q` of the 32 values of groups `2·pair` and `2·pair + 1`, 0…7.
    pub fn codes(&self, pair: usize) -> [u8; 32] {
        let low = two_bits(&self.q, pair);
        std::array::from_fn(|i| low[i] | (self.high[i] >> pair & 1) << 2)
    }

    /// Scale of group `g < 16`, −32…31.
    pub fn group_scale(&self, g: usize) -> i8 {
        let low = self.scales[g % 8] >> (g / 8 * 4) & 15;
        let high = self.scales[8 + g % 4] >> (g / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 256]) {
        let scale = self.scale.to_f32();
        for (pair, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let codes = self.codes(pair);
            for (i, out) in out.iter_mut().enumerate() {
                *out = scale * f32::from(self.group_scale(2 * pair + i / 16)) * f32::from(codes[i] as i8 - 4);
            }
        }
    }
}

impl BlockQ4K {
    /// `q` of the 32 values of group `g < 8`, 0…15.
    pub fn codes(&self, g: usize) -> [u8; 32] {
        four_bits(&self.q, g)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 256]) {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (s, m) = k_scale_and_minimum(g, &self.scales);
            let (scale, minimum) = (scale * f32::from(s), minimum * f32::from(m));
            *out = self.codes(g).map(|q| scale * f32::from(q) - minimum);
        }
    }
}

impl BlockQ5K {
    /// `q` of the 32 values of group `g < 8`, 0…31.
    pub fn codes(&self, g: usize) -> [u8; 32] {
        let low = four_bits(&self.q, g);
        std::array::from_fn(|i| low[i] | (self.high[i] >> g & 1) << 4)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 256]) {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (s, m) = k_scale_and_minimum(g, &self.scales);
            let (scale, minimum) = (scale * f32::from(s), minimum * f32::from(m));
            *out = self.codes(g).map(|q| scale * f32::from(q) - minimum);
        }
    }
}

impl BlockQ6K {
    /// `q` of the 32 values of groups `2·pair` and `2·pair + 1`, 0…63.
    pub fn codes(&self, pair: usize) -> [u8; 32] {
        let (half, quarter) = (pair / 4, pair % 4);
        let low = &self.low[64 * half + 32 * (quarter % 2)..][..32];
        let high = two_bits(&self.high, pair);
        std::array::from_fn(|i| low[i] >> (quarter / 2 * 4) & 15 | high[i] << 4)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 256]) {
        let scale = self.scale.to_f32();
        for (pair, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let codes = self.codes(pair);
            for (i, out) in out.iter_mut().enumerate() {
                *out = scale * f32::from(self.scales[2 * pair + i / 16]) * f32::from(codes[i] as i8 - 32);
            }
        }
    }
}

impl BlockIq4Xs {
    /// Scale of group `g < 8`, −32…31.
    pub fn group_scale(&self, g: usize) -> i8 {
        let (low, high) =
            (self.scales_low[g / 2] >> (g % 2 * 4) & 15, u16::from_le_bytes(self.scales_high) >> (2 * g) & 3);
        (low | (high as u8) << 4) as i8 - 32
    }

    /// Numbers of the steps of the 32 values of group `g`.
    pub fn codes(&self, g: usize) -> [u8; 32] {
        nibbles(&self.q.as_chunks::<16>().0[g])
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 256]) {
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let scale = self.scale.to_f32() * f32::from(self.group_scale(g));
            *out = self.codes(g).map(|q| scale * f32::from(IQ4_STEPS[usize::from(q)]));
        }
    }
}
