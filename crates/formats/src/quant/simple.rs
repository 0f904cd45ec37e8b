//! The types with one scale for 32 values: decoding and encoding.

use super::blocks::{BlockIq4Nl, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, F16, IQ4_STEPS};

/// The four-bit values of a packed block: low halves first.
pub(super) fn nibbles(q: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { q[i] & 15 } else { q[i - 16] >> 4 })
}

/// The opposite of [`nibbles`]; only the low four bits count.
pub(super) fn pack_nibbles(values: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| values[i] & 15 | values[i + 16] << 4)
}

/// The fifth bits of 32 values as one number.
fn pack_fifth_bits(values: &[u8; 32]) -> [u8; 4] {
    let bits = values.iter().enumerate().fold(0u32, |bits, (i, &value)| bits | u32::from(value >> 4 & 1) << i);
    bits.to_le_bytes()
}

/// The five-bit values of a packed block.
fn five_bits(q: &[u8; 16], high: [u8; 4]) -> [u8; 32] {
    let (low, high) = (nibbles(q), u32::from_le_bytes(high));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) as u8) << 4)
}

/// `1 / scale`, and 0 for a block of zeros.
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The value that is farthest from 0, with its sign; the first of several.
fn extreme(values: &[f32; 32]) -> f32 {
    values.iter().fold(0.0f32, |extreme, &v| if v.abs() > extreme.abs() { v } else { extreme })
}

/// Rounds to `0..=limit` after a shift, as the reference does it: add, then cut off the fraction.
fn shifted(value: f32, shift: f32, limit: u8) -> u8 {
    ((value + shift) as u8).min(limit) // `as` saturates: below 0 and NaN become 0
}

/// Scale and minimum that spread `values` over `0..=steps`.
fn spread(values: &[f32; 32], steps: u8) -> (f32, f32) {
    let minimum = values.iter().copied().fold(f32::INFINITY, f32::min);
    let maximum = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    ((maximum - minimum) / f32::from(steps), minimum)
}

impl BlockQ8_0 {
    /// The values.
    pub fn decode(&self, out: &mut [f32; 32]) {
        let scale = self.scale.to_f32();
        *out = self.q.map(|q| f32::from(q) * scale);
    }

    /// The scale maps the largest magnitude to 127; halves round away from 0.
    pub fn encode(values: &[f32; 32]) -> Self {
        let scale = extreme(values).abs() / 127.0;
        let inverse = inverse(scale);
        Self { scale: F16::from_f32(scale), q: values.map(|v| (v * inverse).round() as i8) }
    }
}

impl BlockQ4_0 {
    /// `q` of the 32 values, 0…15.
    pub fn codes(&self) -> [u8; 32] {
        nibbles(&self.q)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 32]) {
        let scale = self.scale.to_f32();
        *out = self.codes().map(|q| scale * f32::from(i16::from(q) - 8));
    }

    /// The scale maps the value farthest from 0 to −8, whatever its sign.
    pub fn encode(values: &[f32; 32]) -> Self {
        let scale = extreme(values) / -8.0;
        let inverse = inverse(scale);
        let q = values.map(|v| shifted(v * inverse, 8.5, 15));
        Self { scale: F16::from_f32(scale), q: pack_nibbles(&q) }
    }
}

impl BlockQ4_1 {
    /// `q` of the 32 values, 0…15.
    pub fn codes(&self) -> [u8; 32] {
        nibbles(&self.q)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 32]) {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        *out = self.codes().map(|q| scale * f32::from(q) + minimum);
    }

    /// The least value becomes 0, the greatest 15.
    pub fn encode(values: &[f32; 32]) -> Self {
        let (scale, minimum) = spread(values, 15);
        let inverse = inverse(scale);
        let q = values.map(|v| shifted((v - minimum) * inverse, 0.5, 15));
        Self { scale: F16::from_f32(scale), minimum: F16::from_f32(minimum), q: pack_nibbles(&q) }
    }
}

impl BlockQ5_0 {
    /// `q` of the 32 values, 0…31.
    pub fn codes(&self) -> [u8; 32] {
        five_bits(&self.q, self.high)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 32]) {
        let scale = self.scale.to_f32();
        *out = self.codes().map(|q| scale * f32::from(i16::from(q) - 16));
    }

    /// The scale maps the value farthest from 0 to −16, whatever its sign.
    pub fn encode(values: &[f32; 32]) -> Self {
        let scale = extreme(values) / -16.0;
        let inverse = inverse(scale);
        let q = values.map(|v| shifted(v * inverse, 16.5, 31));
        Self { scale: F16::from_f32(scale), high: pack_fifth_bits(&q), q: pack_nibbles(&q) }
    }
}

impl BlockQ5_1 {
    /// `q` of the 32 values, 0…31.
    pub fn codes(&self) -> [u8; 32] {
        five_bits(&self.q, self.high)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 32]) {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        *out = self.codes().map(|q| scale * f32::from(q) + minimum);
    }

    /// The least value becomes 0, the greatest 31.
    pub fn encode(values: &[f32; 32]) -> Self {
        let (scale, minimum) = spread(values, 31);
        let inverse = inverse(scale);
        let q = values.map(|v| shifted((v - minimum) * inverse, 0.5, 31));
        let (scale, minimum) = (F16::from_f32(scale), F16::from_f32(minimum));
        Self { scale, minimum, high: pack_fifth_bits(&q), q: pack_nibbles(&q) }
    }
}

impl BlockIq4Nl {
    /// Numbers of the steps of the 32 values.
    pub fn codes(&self) -> [u8; 32] {
        nibbles(&self.q)
    }

    /// The values.
    pub fn decode(&self, out: &mut [f32; 32]) {
        let scale = self.scale.to_f32();
        *out = self.codes().map(|q| scale * f32::from(IQ4_STEPS[usize::from(q)]));
    }
}
